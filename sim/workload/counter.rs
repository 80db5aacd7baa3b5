//! Counters by session: increments that are sent again until they are answered are applied once.
//!
//! Each increment writes its counter and leaves a mark of its own in one transaction, so the counter's
//! version counts applications and the marks say which. Several are in flight at a time; sessions end
//! and expire in between.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate::client::{Client, Condition, Op, Relation, Session, TransactionResult, Txn, operation_result};
use quorate::env::time;

use super::marks::{Marks, Told};
use super::outcome::{Fate, explain, read_back, text};
use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "counters by session";
/// Each has a counter and a session of its own.
const CLIENTS: usize = 2;
/// Increments that one client has in flight at most.
const LANES: usize = 3;
/// Life of the sessions of every second client: short enough to end while the cluster has no leader.
const SHORT_TTL: Duration = Duration::from_secs(2);

struct Counter {
    key: String,
    marks: RefCell<Marks>,
    /// Highest version that was read, and how many reads there were.
    seen: RefCell<(u64, u64)>,
}

struct Counters(Vec<Rc<Counter>>);

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    let counter = |number| {
        let marks = RefCell::new(Marks::new(format!("counter/{number}/")));
        Rc::new(Counter { key: format!("counter/{number}"), marks, seen: RefCell::default() })
    };
    Rc::new(Counters((0..CLIENTS).map(counter).collect()))
}

impl Workload for Counters {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let count = |(number, counter): (usize, &Rc<Counter>)| {
            let (counter, setup) = (counter.clone(), setup.clone());
            Box::pin(async move { counter.count(number, setup).await }) as Task
        };
        self.0.iter().enumerate().map(count).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let Some(records) = read_back(&setup, "counter/").await else { return };
            for counter in &self.0 {
                if let Err((check, detail)) = counter.compare(&records) {
                    setup.seen.violation(check, detail);
                }
                setup.seen.checked(NAME, counter.marks.borrow().begun() + counter.seen.borrow().1);
            }
        })
    }
}

/// What the lanes of one client share.
struct Shared {
    client: Client,
    ttl: Option<Duration>,
    session: RefCell<Session>,
    setup: Setup,
}

impl Shared {
    fn open(client: &Client, ttl: Option<Duration>) -> Session {
        ttl.map_or_else(|| client.session(), |ttl| client.session_with_ttl(ttl))
    }
}

impl Counter {
    async fn count(self: Rc<Self>, number: usize, setup: Setup) {
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        let ttl = (number % 2 == 1).then_some(SHORT_TTL);
        let session = RefCell::new(Shared::open(&client, ttl));
        let shared = Shared { client, ttl, session, setup };
        join_all((0..LANES).map(|lane| self.lane(&shared, format!("counter {number} {lane}")))).await;
        let session = shared.session.borrow().clone();
        session.close().await;
    }

    async fn lane(&self, shared: &Shared, name: String) {
        let chance = shared.setup.chance(&name);
        for _ in 0..shared.setup.operations_max {
            if shared.setup.is_over() {
                return;
            }
            match chance.below(100) {
                0..70 => self.increment(shared, None, &chance).await,
                70..85 => {
                    if let Some(version) = self.read(shared).await {
                        self.increment(shared, Some(version), &chance).await;
                    }
                }
                85..97 => drop(self.read(shared).await),
                // Others may have writes in flight in it: what they are told must be true all the same.
                97..99 => {
                    let new = Shared::open(&shared.client, shared.ttl);
                    let old = shared.session.replace(new);
                    if chance.percent(50) {
                        old.close().await;
                    }
                }
                _ => time::sleep(chance.millis(1_000, 4_000)).await,
            }
            shared.setup.think(&chance).await;
        }
    }

    /// One increment, only if the version is still `expected`.
    async fn increment(&self, shared: &Shared, expected: Option<u64>, chance: &Chance) {
        let number = self.marks.borrow_mut().begin();
        let mut txn = Txn::new()
            .then(Op::put(self.key.clone(), number.to_string()))
            .then(self.marks.borrow().leave(number, "1"))
            .then(Op::get(self.key.clone()));
        if let Some(version) = expected {
            txn = txn.when(Condition::version(self.key.clone(), Relation::Equal, version));
        }
        let session = shared.session.borrow().clone();
        let fate = if chance.percent(4) {
            // A caller that goes away; what it sent may be applied, once.
            match time::timeout(chance.millis(1, 60), session.txn(txn)).await {
                Ok(result) => Fate::of(&shared.setup, result),
                Err(_) => Fate::Open,
            }
        } else {
            Fate::of(&shared.setup, session.txn(txn).await)
        };
        tracing::debug!(key = self.key, number, ?expected, ?fate, "increment");
        let fate = match fate {
            Fate::Done(result) if result.succeeded => Fate::Done(told(&result)),
            Fate::Done(_) if expected.is_none() => {
                return shared.setup.seen.violation("compares", format!("{}: {number} had none and failed", self.key));
            }
            // The compare failed: had the first copy been applied, its answer would say so.
            Fate::Done(_) | Fate::Not => Fate::Not,
            Fate::Applied => Fate::Applied,
            Fate::Open => Fate::Open,
        };
        self.marks.borrow_mut().end(number, fate);
    }

    /// Reads the counter, which counts all that was acknowledged before and nothing that never began.
    async fn read(&self, shared: &Shared) -> Option<u64> {
        let least = self.marks.borrow().at_least().max(self.seen.borrow().0);
        let version = match shared.client.get(self.key.clone()).await {
            Ok(record) => record.map_or(0, |record| record.version),
            Err(error) => {
                explain(&shared.setup, &error);
                return None;
            }
        };
        let most = self.marks.borrow().at_most();
        if !(least..=most).contains(&version) {
            let detail = format!("{} reads {version}, not within {least}..={most}", self.key);
            shared.setup.seen.violation("counters are linearizable", detail);
        }
        let mut seen = self.seen.borrow_mut();
        *seen = (seen.0.max(version), seen.1 + 1);
        Some(version)
    }

    fn compare(&self, records: &[quorate::client::Record]) -> Result<(), (&'static str, String)> {
        let marks = self.marks.borrow();
        let applied = marks.compare(records)?;
        let counter = records.iter().find(|record| text(&record.key) == self.key);
        let version = counter.map_or(0, |record| record.version);
        if version != applied.len() as u64 {
            let detail = format!("{} was changed {version} times by {} increments", self.key, applied.len());
            return Err(("exactly once", detail));
        }
        for (rank, mark) in (1..).zip(&applied) {
            if let Fate::Done(told) = mark.fate
                && told.version != Some(rank)
            {
                let detail = format!("{}: increment {rank} answered {told:?}", text(&mark.record.key));
                return Err(("answers are those of the one application", detail));
            }
        }
        Ok(())
    }
}

/// What an increment answered: the version it read after its own write.
fn told(result: &TransactionResult) -> Told {
    let version = match result.results.last().and_then(|result| result.kind.as_ref()) {
        Some(operation_result::Kind::Range(range)) => range.records.first().map(|record| record.version),
        _ => None,
    };
    Told { revision: result.revision, version }
}
