//! Leases through etcd's API: none ends before its time, all that are not renewed end, and with a lease go the
//! keys that were put under it, all at once and no others.

mod caller;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use quorate::env::time;
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::lease_client::LeaseClient;

use self::caller::{Caller, judge_revoked};
use super::etcd::{Etcd, prefix};
use super::outcome::text;
use super::{Setup, Task, Workload};
use crate::chance::Chance;
use crate::leased::{Broken, Owner, Record};

const NAME: &str = "leases";
const OWNERS: usize = 3;
const CALL: Duration = Duration::from_secs(4);
/// Lives, in seconds: those that end soon, and those whose time is written down in between.
const SHORT_S: (u64, u64) = (2, 9);
const LONG_S: (u64, u64) = (14, 31);
/// What has long to live is revoked so long after the healing.
const LONG_LEFT_ALONE: Duration = Duration::from_secs(6);
/// After the healing all that is not renewed ends within this. A new leader counts the whole time again, and
/// proposes an end that was lost once more after 5 s.
const GONE_WITHIN: Duration = Duration::from_secs(35);

#[derive(Default)]
struct Leases {
    owners: [RefCell<Owner>; OWNERS],
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Leases::default())
}

impl Workload for Leases {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let work = |number| Box::pin(self.clone().work(number, setup.clone())) as Task;
        (0..OWNERS).map(work).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            match self.all_end(&setup).await {
                Ok(()) => setup.seen.checked(NAME, self.checked.get()),
                Err((check, why)) => setup.seen.violation(check, why),
            }
        })
    }
}

impl Leases {
    async fn work(self: Rc<Self>, number: usize, setup: Setup) {
        let mut caller = Caller::new(number, &self.owners[number], &setup);
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            self.checked.set(self.checked.get() + 1);
            if let Err((check, why)) = caller.operate(round).await {
                setup.seen.violation(check, why);
            }
            if caller.chance.percent(5) {
                caller.etcd.leave();
            }
            if caller.chance.percent(2) {
                caller.renewing.leave();
            }
            setup.think(&caller.chance).await;
        }
    }

    /// After the healing everything that hangs on a lease goes, and then the leases are gone.
    async fn all_end(&self, setup: &Setup) -> Result<(), Broken> {
        let mut etcd = Etcd::new(setup, "leases check", "");
        let (begun, deadline) = (time::now(), time::now() + GONE_WITHIN);
        let mut is_last = false;
        loop {
            let mut hanging = Vec::new();
            for (number, owner) in self.owners.iter().enumerate() {
                match read(&mut etcd, number).await {
                    Ok(records) => hanging.extend(owner.borrow_mut().read(&records, crate::now_ms())?),
                    Err(_) if time::now() < deadline => hanging.push("what cannot be read".to_owned()),
                    Err(why) => return Err(("service after the healing", why)),
                }
            }
            match (hanging.is_empty(), is_last) {
                (true, true) => break,
                (false, true) => return Err(("a lease that is gone stays gone", format!("{hanging:?}"))),
                (true, false) => is_last = true,
                (false, false) if time::now() > deadline => {
                    return Err(("leases end within bounded time", format!("{hanging:?}")));
                }
                (false, false) => {}
            }
            time::sleep(Duration::from_secs(2)).await;
            // Until then they live or end by themselves, under whoever leads now.
            if time::now() > begun + LONG_LEFT_ALONE {
                self.revoke_long(&mut etcd).await?;
            }
        }
        while let Err(why) = self.none_is_left(&mut etcd).await {
            if time::now() > deadline {
                return Err(("leases end within bounded time", why));
            }
            time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    }

    async fn revoke_long(&self, etcd: &mut Etcd) -> Result<(), Broken> {
        for owner in &self.owners {
            let ids = owner.borrow().ids();
            for id in ids {
                let is_long = owner.borrow().lease(id).is_some_and(|lease| !lease.is_gone() && lease.ttl_s > SHORT_S.1);
                if is_long {
                    let revoked = etcd.revoke(CALL, id).await;
                    judge_revoked(&mut owner.borrow_mut(), id, &revoked)?;
                }
            }
        }
        Ok(())
    }

    /// No lease that was ever known is listed.
    async fn none_is_left(&self, etcd: &mut Etcd) -> Result<(), String> {
        let listed = etcd.call(CALL, pb::LeaseLeasesRequest {}, |channel, request| async move {
            LeaseClient::new(channel).lease_leases(request).await
        });
        let listed = listed.await.map_err(|failed| format!("{failed:?}"))?;
        let known = self.owners.iter().flat_map(|owner| owner.borrow().ids());
        let left: Vec<_> = known.filter(|id| listed.leases.iter().any(|lease| lease.id == *id)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are listed")) }
    }
}

fn own(number: usize) -> String {
    format!("leases/{number}/")
}

/// All keys of an owner.
async fn read(etcd: &mut Etcd, number: usize) -> Result<Vec<Record>, String> {
    let answer = etcd.range(CALL, &prefix(&own(number)), 0).await.map_err(|failed| format!("{failed:?}"))?;
    Ok(answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value), kv.lease)).collect())
}
