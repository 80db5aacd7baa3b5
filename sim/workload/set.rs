//! Sets of unique adds: nothing acknowledged is missing, nothing unwritten is present.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Keys, Outcome};

use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "sets of unique adds";
const CLIENTS: usize = 2;
const PREFIX: &str = "set/";

/// What the clients know.
#[derive(Default)]
struct Set {
    acknowledged: RefCell<BTreeSet<String>>,
    unknown: RefCell<BTreeSet<String>>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Set::default())
}

impl Workload for Set {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let add = |client| Box::pin(self.clone().add(client, setup.clone())) as Task;
        (0..CLIENTS).map(add).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let Some(client) = setup.client(Duration::from_secs(20)).await else {
                return setup.seen.violation("service after the healing", "no node answers");
            };
            let mut present = BTreeSet::new();
            let mut scan = client.scan(Keys::prefix(PREFIX), Default::default());
            loop {
                match scan.next().await {
                    Ok(Some(record)) => drop(present.insert(String::from_utf8_lossy(&record.key).into_owned())),
                    Ok(None) => break,
                    Err(error) => return setup.seen.violation("service after the healing", error.to_string()),
                }
            }
            let (acknowledged, unknown) = (self.acknowledged.borrow(), self.unknown.borrow());
            let lost: Vec<_> = acknowledged.difference(&present).collect();
            let unwritten: Vec<_> =
                present.iter().filter(|key| !acknowledged.contains(*key) && !unknown.contains(*key)).collect();
            if !lost.is_empty() {
                setup.seen.violation("no acknowledged write is lost", format!("{lost:?}"));
            }
            if !unwritten.is_empty() {
                setup.seen.violation("nothing unwritten is present", format!("{unwritten:?}"));
            }
            setup.seen.checked(NAME, (acknowledged.len() + unknown.len()) as u64);
        })
    }
}

impl Set {
    async fn add(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("set {number}"));
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let key = format!("{PREFIX}{number}/{round:05}");
            let put = client.put(key.clone(), format!("{round}")).await;
            tracing::debug!(key, outcome = ?put.as_ref().map(|_| ()).map_err(|error| error.outcome), "add");
            match put {
                Ok(_) => drop(self.acknowledged.borrow_mut().insert(key)),
                Err(error) if error.outcome == Outcome::NotApplied => {}
                Err(_) => drop(self.unknown.borrow_mut().insert(key)),
            }
            setup.think(&chance).await;
        }
    }
}
