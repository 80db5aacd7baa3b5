//! Keyspaces that come and go under one name: what one holds is there until it is dropped, nothing is
//! acknowledged in it after that, and the next one of its name begins empty.
//!
//! One task makes, reads and drops; others write under the same name all the time, each with a map of
//! its own, which may be old.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use quorate::client::sharding::{Hash, Kind, Range, Single};
use quorate::client::{Client, CreateKeyspaceRequest, ErrorCode, Keys, Outcome, Sharding};
use quorate::env::time;
use quorate::types::KeyspaceId;

use super::outcome::{all_of, text};
use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "keyspaces";
/// The name under which they come and go.
const KEYSPACE: &str = "passing";
const WRITERS: usize = 2;
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(300);

/// Where the keyspace is in its life, as its owner knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// None was ever made, or the making is on its way.
    Changing,
    Serving,
    /// Serves, but no write begins.
    Closing,
    /// Is being dropped: a write may find it or not.
    Dropping,
    /// Dropped for certain, and nobody makes one.
    Gone,
}

struct Keyspaces {
    phase: Cell<Phase>,
    /// Raised by every change of phase.
    step: Cell<u64>,
    /// Writes of this life that were acknowledged.
    acknowledged: RefCell<BTreeSet<String>>,
    /// Writes of any life that may still take effect, under whatever has the name then.
    open: RefCell<BTreeSet<String>>,
    /// Writes on their way.
    begun: Cell<u64>,
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Keyspaces {
        phase: Cell::new(Phase::Changing),
        step: Cell::default(),
        acknowledged: RefCell::default(),
        open: RefCell::default(),
        begun: Cell::default(),
        checked: Cell::default(),
    })
}

impl Workload for Keyspaces {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let write = |number| Box::pin(self.clone().write(number, setup.clone())) as Task;
        let own = Box::pin(self.clone().own(setup.clone())) as Task;
        std::iter::once(own).chain((0..WRITERS).map(write)).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let Some(client) = setup.client(Duration::from_secs(20)).await else {
                return setup.seen.violation("service after the healing", "no node answers");
            };
            if matches!(self.phase.get(), Phase::Serving | Phase::Closing)
                && let Err(why) = self.read_back(&client.with_keyspace(KEYSPACE), &setup).await
            {
                setup.seen.violation("service after the healing", why);
            }
            setup.seen.checked(NAME, self.checked.get());
        })
    }
}

impl Keyspaces {
    fn enter(&self, phase: Phase) {
        tracing::debug!(?phase, "keyspace");
        self.phase.set(phase);
        self.step.set(self.step.get() + 1);
    }

    async fn own(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance(NAME);
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        let mut last = KeyspaceId(0);
        for _ in 0..setup.operations_max {
            let Some(made) = self.create(&client, &chance, &setup, last).await else { return };
            last = made;
            self.acknowledged.borrow_mut().clear();
            self.enter(Phase::Serving);
            time::sleep(chance.millis(500, 6_000)).await;
            if setup.is_over() {
                return;
            }
            self.enter(Phase::Closing);
            while self.begun.get() > 0 {
                time::sleep(PAUSE).await;
            }
            let within = client.with_keyspace(KEYSPACE);
            while let Err(why) = self.read_back(&within, &setup).await {
                tracing::debug!(why, "the keyspace is not read yet");
                if setup.is_over() {
                    return;
                }
                time::sleep(PAUSE).await;
            }
            self.enter(Phase::Dropping);
            if !self.drop_it(&client, &setup, made).await {
                return;
            }
            self.enter(Phase::Gone);
            time::sleep(chance.millis(0, 4_000)).await;
            self.enter(Phase::Changing);
        }
    }

    /// Makes the keyspace anew, however often that takes. `None` when the run is over.
    async fn create(&self, client: &Client, chance: &Chance, setup: &Setup, last: KeyspaceId) -> Option<KeyspaceId> {
        let kind = match chance.below(3) {
            0 => Kind::Single(Single {}),
            1 => Kind::Hash(Hash { shards: u32::try_from(chance.between(1, 4)).unwrap() }),
            _ => Kind::Range(Range {}),
        };
        let split_keys = if matches!(kind, Kind::Range(_)) { vec!["0/00004".into(), "1/".into()] } else { Vec::new() };
        let request = CreateKeyspaceRequest {
            name: KEYSPACE.to_owned(),
            sharding: Some(Sharding { kind: Some(kind) }),
            split_keys,
            ..Default::default()
        };
        loop {
            let made = client.create_keyspace(request.clone()).await;
            tracing::debug!(outcome = ?made.as_ref().map(|made| made.shards).map_err(|error| error.code), "create");
            match made {
                Ok(made) => return made.keyspace.map(|keyspace| KeyspaceId(keyspace.id)),
                // An earlier try whose answer was lost made it, or the last one is not gone yet.
                Err(_) => {
                    let map = client.map().await.unwrap_or_default();
                    if let Some(found) = map.keyspace(KEYSPACE).filter(|found| found.id > last) {
                        return Some(found.id);
                    }
                }
            }
            if setup.is_over() {
                return None;
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Drops it, however often that takes. Returns whether that is certain.
    async fn drop_it(&self, client: &Client, setup: &Setup, id: KeyspaceId) -> bool {
        loop {
            match client.drop_keyspace(KEYSPACE, id).await {
                Ok(_) => return true,
                // An earlier try did it.
                Err(error) if error.code == ErrorCode::KeyspaceNotFound => return true,
                Err(error) => tracing::debug!(%error, "not dropped yet"),
            }
            if setup.is_over() {
                return false;
            }
            time::sleep(PAUSE).await;
        }
    }

    async fn write(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("{NAME} {number}"));
        let Some(client) = setup.client(Duration::from_secs(3)).await else { return };
        let client = client.with_keyspace(KEYSPACE);
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let (phase, step) = (self.phase.get(), self.step.get());
            if matches!(phase, Phase::Serving | Phase::Dropping | Phase::Gone) {
                self.begun.set(self.begun.get() + 1);
                let key = format!("{number}/{round:05}");
                let put = client.put(key.clone(), phase_name(phase)).await;
                tracing::debug!(key, outcome = ?put.as_ref().map(|_| ()).map_err(|error| error.outcome), "put");
                self.judge(&setup, key, phase, step, put.map(|_| ()).map_err(|error| error.outcome));
                self.begun.set(self.begun.get() - 1);
            }
            setup.think(&chance).await;
        }
    }

    fn judge(&self, setup: &Setup, key: String, phase: Phase, step: u64, told: Result<(), Outcome>) {
        self.checked.set(self.checked.get() + 1);
        // The keyspace closes only when no write is on its way: one life, or a change while it lasted.
        match (phase, told) {
            (Phase::Serving, Ok(())) => drop(self.acknowledged.borrow_mut().insert(key)),
            (Phase::Gone, Ok(())) if self.step.get() == step => {
                setup.seen.violation("nothing is acknowledged in a dropped keyspace", key);
            }
            (_, Err(Outcome::NotApplied)) => {}
            _ => drop(self.open.borrow_mut().insert(key)),
        }
    }

    /// Holds what is there against what was acknowledged.
    async fn read_back(&self, client: &Client, setup: &Setup) -> Result<(), String> {
        let (_, records) =
            all_of(client.scan(Keys::all(), Default::default())).await.map_err(|error| error.to_string())?;
        let present: BTreeSet<_> = records.iter().map(|record| text(&record.key)).collect();
        let (acknowledged, open) = (self.acknowledged.borrow(), self.open.borrow());
        let lost: Vec<_> = acknowledged.difference(&present).collect();
        if !lost.is_empty() {
            setup.seen.violation("no acknowledged write is lost", format!("{lost:?}"));
        }
        let strange = present.iter().filter(|key| !acknowledged.contains(*key) && !open.contains(*key));
        let strange: Vec<_> = strange.collect();
        if !strange.is_empty() {
            setup.seen.violation("a new keyspace is empty", format!("{strange:?}"));
        }
        self.checked.set(self.checked.get() + present.len() as u64);
        Ok(())
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Dropping => "dropping",
        Phase::Changing | Phase::Closing | Phase::Gone => "gone",
    }
}
