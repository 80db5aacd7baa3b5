//! Locks and elections of etcd's API: clients contend for a few names, and whoever holds one writes what it
//! guards, on condition that the key of its lock is still the one it was given. Some stop renewing their lease
//! and try to write later, some give up waiting, some unlock what they have lost.

mod contender;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use quorate::env::time;

use self::contender::{Contender, Name};
use super::etcd::{Etcd, unsigned};
use super::outcome::text;
use super::{Setup, Task, Workload};
use crate::chance::Chance;
use crate::fencing::{Before, Broken, Fencing};
use crate::watched::Keys;

const NAME: &str = "locks";
const CLIENTS: usize = 5;
const CALL: Duration = Duration::from_secs(4);
/// After the healing a lock is granted within this: leases that nobody renews end first.
const GRANTED_WITHIN: Duration = Duration::from_secs(30);
/// And it is handed over within this, once it is given back.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(10);

struct Locks {
    names: Vec<Name>,
    fencing: Vec<RefCell<Fencing>>,
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    let names: Vec<_> =
        [("lock/a", false), ("lock/b", false), ("elect/a", true)].map(|(name, elects)| Name { name, elects }).into();
    Rc::new(Locks { fencing: names.iter().map(|_| RefCell::default()).collect(), names, checked: Cell::default() })
}

impl Workload for Locks {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let work = |number| Box::pin(self.clone().work(number, setup.clone())) as Task;
        (0..CLIENTS).map(work).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            if let Err((check, why)) = self.check_all(&setup).await {
                return setup.seen.violation(check, why);
            }
            setup.seen.checked(NAME, self.checked.get());
        })
    }
}

impl Locks {
    async fn work(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("{NAME} {number}"));
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            // Two names have most of the clients.
            let at = if chance.percent(60) { number % 2 } else { usize::try_from(chance.below(3)).unwrap_or(0) };
            let mut contender = Contender::new(&setup, number, round, self.names[at].clone(), &self.fencing[at]);
            if let Err((check, why)) = contender.contend(&chance).await {
                setup.seen.violation(check, format!("{}: {why}", self.names[at].name));
            }
            self.checked.set(self.checked.get() + 1);
            setup.think(&chance).await;
        }
    }

    async fn check_all(&self, setup: &Setup) -> Result<(), Broken> {
        for (name, fencing) in self.names.iter().zip(&self.fencing) {
            self.hand_over(name, fencing, setup).await?;
            let last = last(name, setup).await.map_err(|why| ("service after the healing", why))?;
            let judged = fencing.borrow().judge(last.as_ref());
            let checked = judged.map_err(|(check, why)| (check, format!("{}: {why}", name.name)))?;
            setup.seen.held("a lock has one holder", checked);
        }
        Ok(())
    }

    /// Somebody gets the lock, the next waits for it, and gets it when it is given back or its lease ends.
    async fn hand_over(&self, name: &Name, fencing: &RefCell<Fencing>, setup: &Setup) -> Result<(), Broken> {
        let broken = |why: &str| ("a waiter gets the lock", format!("{}: {why}", name.name));
        let contender = |number, round| Contender::new(setup, number, round, name.clone(), fencing);
        let (mut first, mut next) = (contender(CLIENTS, 0), contender(CLIENTS + 1, 0));
        let granted = first.wait(30, time::now() + GRANTED_WITHIN).await?;
        if !granted {
            return Err(broken("not after the healing"));
        }
        let mut waits = Box::pin(next.wait(30, time::now() + GRANTED_WITHIN));
        if time::timeout(Duration::from_secs(1), &mut waits).await.is_ok_and(|granted| granted.is_ok_and(|is| is)) {
            return Err(("a lock has one holder", format!("{}: the next one did not wait", name.name)));
        }
        let ends = time::now() + HANDED_OVER_WITHIN;
        first.give_back(name.name != "lock/b").await;
        let granted = time::timeout_at(ends, waits).await;
        match granted {
            Ok(Ok(true)) => {}
            Ok(Err(broken)) => return Err(broken),
            Ok(Ok(false)) | Err(_) => return Err(broken("not when it was given back")),
        }
        next.give_back(false).await;
        Ok(())
    }
}

/// The record that is guarded by a name.
async fn last(name: &Name, setup: &Setup) -> Result<Option<Before>, String> {
    let mut etcd = Etcd::new(setup, &format!("{NAME} check {}", name.name), "");
    let answer = etcd.read_back(CALL, &Keys::from(name.guarded().as_str())).await?;
    Ok(answer.kvs.first().map(|kv| Before {
        value: text(&kv.value),
        modified: unsigned(kv.mod_revision),
        version: unsigned(kv.version),
    }))
}
