//! Watches through etcd's API, at any node and across nodes: each shows all changes of its keys, in order,
//! once, whole revisions at a time, and what it says of its progress is so. Reads of old revisions show
//! them. What was compacted is refused, and nothing else is.
//!
//! Runs in the keyspace `default`, compacted by clients, and as another workload in a keyspace of its own
//! that keeps few revisions and compacts by itself.

mod reader;
mod stream;
mod watcher;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use quorate::client::sharding::{Kind, Single};
use quorate::client::{CreateKeyspaceRequest, Sharding};
use quorate::env::time;

use self::watcher::Watcher;
use super::etcd::Etcd;
use super::{Setup, Task, Workload};
use crate::chance::Chance;
use crate::watched::{Broken, Floor, Ledger, Snapshot, View, Write};

const PREFIX: &str = "watch/";
const WRITERS: usize = 3;
const STREAMS: usize = 4;
const READERS: usize = 1;
/// Time that one call may take.
const CALL: Duration = Duration::from_secs(4);
/// Within this after the healing every node shows the history up to the present.
const CATCH_UP: Duration = Duration::from_secs(25);
/// The keyspace that keeps few revisions.
const SHORT: &str = "watched";
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(300);

struct Watches {
    name: &'static str,
    /// Empty for `default`.
    keyspace: &'static str,
    /// Revisions that the keyspace keeps; 0 keeps all.
    kept: u64,
    /// The keyspace is there.
    is_ready: Cell<bool>,
    writes: RefCell<Vec<Write>>,
    /// Watches that are over.
    views: RefCell<Vec<View>>,
    snapshots: RefCell<Vec<Snapshot>>,
    /// What was refused as compacted: the revision that was asked for.
    refused: RefCell<Vec<u64>>,
    /// The highest revision that was acknowledged.
    newest: Cell<u64>,
    /// The latest revision up to which somebody asked for a compaction, and up to which one took place.
    asked: Cell<u64>,
    compacted: Cell<u64>,
    /// Writers that go on.
    writing: Cell<usize>,
    /// The revision after which nobody writes.
    end: Cell<Option<u64>>,
    bulks: Cell<u64>,
    larges: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Watches::new("watches", "", 0))
}

pub(super) fn make_short(chance: Chance) -> Rc<dyn Workload> {
    Rc::new(Watches::new("watches of a short history", SHORT, chance.between(10, 120)))
}

impl Workload for Watches {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for number in 0..WRITERS {
            tasks.push(Box::pin(self.clone().write_on(number, setup.clone())));
        }
        for number in 0..STREAMS {
            tasks.push(Box::pin(self.clone().follow(number, setup.clone())));
        }
        for number in 0..READERS {
            tasks.push(Box::pin(self.clone().read_on(number, setup.clone())));
        }
        tasks.push(Box::pin(self.clone().prepare(setup.clone())));
        tasks.push(Box::pin(self.clone().end(setup.clone())));
        if self.kept == 0 {
            tasks.push(Box::pin(self.clone().compact_on(setup.clone())));
        }
        tasks
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            if self.is_ready.get()
                && let Err(why) = self.read_back(&setup).await
            {
                return setup.seen.violation("service after the healing", why);
            }
            match self.judge(&setup) {
                Ok(checked) => setup.seen.checked(self.name, checked),
                Err((check, why)) => setup.seen.violation(check, why),
            }
        })
    }
}

impl Watches {
    fn new(name: &'static str, keyspace: &'static str, kept: u64) -> Self {
        Self {
            name,
            keyspace,
            kept,
            is_ready: Cell::default(),
            writes: RefCell::default(),
            views: RefCell::default(),
            snapshots: RefCell::default(),
            refused: RefCell::default(),
            newest: Cell::new(1),
            asked: Cell::default(),
            compacted: Cell::default(),
            writing: Cell::new(WRITERS),
            end: Cell::default(),
            bulks: Cell::default(),
            larges: Cell::default(),
        }
    }

    /// Makes the keyspace, however often that takes.
    async fn prepare(self: Rc<Self>, setup: Setup) {
        if self.keyspace.is_empty() {
            return self.is_ready.set(true);
        }
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        let request = CreateKeyspaceRequest {
            name: self.keyspace.to_owned(),
            sharding: Some(Sharding { kind: Some(Kind::Single(Single {})) }),
            history_revisions: self.kept,
            ..Default::default()
        };
        while !setup.is_over() {
            if client.create_keyspace(request.clone()).await.is_ok() {
                return self.is_ready.set(true);
            }
            // An earlier try whose answer was lost may have made it.
            let map = client.map().await.unwrap_or_default();
            if map.keyspace(self.keyspace).is_some() {
                return self.is_ready.set(true);
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Waits for the keyspace. Returns whether there is one.
    async fn ready(&self, setup: &Setup) -> bool {
        while !self.is_ready.get() && !setup.is_over() {
            time::sleep(PAUSE).await;
        }
        self.is_ready.get()
    }

    fn etcd(&self, setup: &Setup, purpose: &str) -> Etcd {
        Etcd::new(setup, &format!("{} {purpose}", self.name), self.keyspace)
    }

    fn reached(&self, revision: u64) {
        self.newest.set(self.newest.get().max(revision));
    }

    /// After the healing every node shows all there is, and so does a read.
    async fn read_back(&self, setup: &Setup) -> Result<(), String> {
        let end = self.end.get().ok_or("no write is acknowledged after the healing")?;
        self.read_present(setup).await?;
        let mut shown = 0;
        for endpoint in &setup.endpoints {
            let mut etcd = self.etcd(setup, endpoint);
            // Who is not there any more shows nothing.
            if !etcd.stay_at(endpoint).await {
                continue;
            }
            let mut watchers = vec![Watcher::of_all(format!("all at {endpoint}"))];
            let chance = setup.chance(&format!("{} {endpoint}", self.name));
            let deadline = time::now() + CATCH_UP;
            while !Watcher::have_reached(&watchers, end) {
                let is_served = self.stream(&mut etcd, &mut watchers, deadline, &chance, setup).await;
                if !is_served {
                    break;
                }
                if time::now() > deadline {
                    return Err(format!("{endpoint} has not shown revision {end}: {watchers:?}"));
                }
                time::sleep(PAUSE).await;
            }
            shown += u64::from(Watcher::have_reached(&watchers, end));
            self.keep(watchers);
        }
        if shown == 0 { Err("no node shows a watch".to_owned()) } else { Ok(()) }
    }

    /// Watches are over: they will be held against each other.
    fn keep(&self, watchers: Vec<Watcher>) {
        self.views.borrow_mut().extend(watchers.into_iter().filter_map(|watcher| watcher.view));
    }

    fn judge(&self, setup: &Setup) -> Result<u64, Broken> {
        let (writes, views, snapshots) = (self.writes.borrow(), self.views.borrow(), self.snapshots.borrow());
        let ledger = Ledger::new(&writes, &views, &snapshots, Floor { asked: self.asked.get(), kept: self.kept })?;
        let newest = ledger.newest().max(self.newest.get());
        for revision in &*self.refused.borrow() {
            // The oldest that is left can be read.
            if !ledger.may_be_compacted(revision + 1, newest) {
                return Err(("only what is compacted is refused", format!("{revision} of {newest}")));
            }
        }
        let (shown, read) = (ledger.check_views()?, ledger.check_snapshots(&snapshots)?);
        setup.seen.held("a watch misses nothing", shown);
        setup.seen.held("a watch has the record before", ledger.check_chains(newest)?);
        setup.seen.held("what is compacted is refused", self.refused.borrow().len() as u64);
        Ok(shown + read + writes.len() as u64)
    }
}
