//! What clients do while the world misbehaves, and what must be true of it afterwards: one file a
//! workload. To add one, write it and name it in [`ALL`].

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate::client::{Client, ClientConfig};
use quorate::env::disk::MemoryDisk;

use crate::chance::Chance;
use crate::report::Seen;
use crate::world;
use crate::world::net::NetworkState;

mod bank;
mod counter;
mod etcd;
mod history;
mod keyspaces;
mod leases;
mod locks;
mod marks;
mod metadata;
mod outcome;
mod pinned;
mod register;
mod set;
mod ttl;
mod watches;

/// A future of the simulation's one thread.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A workload in one run.
pub(crate) trait Workload {
    /// What its clients do, one task each. A task ends soon after [`Setup::is_over`].
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task>;
    /// Reads everything back after the healing and holds it, and what was seen on the way, against
    /// what may be. Runs on a client host; broken promises go to [`Setup::seen`], and the operations
    /// that were checked.
    fn check(self: Rc<Self>, setup: &Setup) -> Task;
}

/// Makes a workload; its choices come from the source.
pub(crate) type Make = fn(Chance) -> Rc<dyn Workload>;

/// All workloads, by name.
pub(crate) const ALL: &[(&str, Make)] = &[
    ("register", register::make),
    ("sets of unique adds", set::make),
    ("counters by session", counter::make),
    ("bank transfers", bank::make),
    ("scans under a pinned revision", pinned::make),
    ("keys with a time to live", ttl::make),
    ("metadata", metadata::make),
    ("keyspaces", keyspaces::make),
    ("watches", watches::make),
    ("watches of a short history", watches::make_short),
    ("leases", leases::make),
    ("locks", locks::make),
];

/// What a workload's tasks need.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) seen: Seen,
    pub(crate) endpoints: Vec<String>,
    /// No node joins or leaves.
    pub(crate) is_static: bool,
    /// Longest entry that a node's log takes.
    pub(crate) entry_bytes_max: u64,
    /// Clients begin no operation after this much simulated time.
    pub(crate) until: Duration,
    /// Operations that one client may begin; lowered to shrink a failure.
    pub(crate) operations_max: u64,
    /// Longest pause of a client between two operations, in milliseconds.
    pub(crate) think_ms: u64,
    pub(crate) seed: u64,
    pub(crate) host: &'static str,
    pub(crate) network: Arc<NetworkState>,
}

impl Setup {
    /// Whether clients should begin nothing more.
    pub(crate) fn is_over(&self) -> bool {
        turmoil::sim_elapsed().unwrap_or_default() >= self.until
    }

    /// A random source for one task, named uniquely.
    pub(crate) fn chance(&self, purpose: &str) -> Chance {
        Chance::new(self.seed, purpose)
    }

    /// A new client of the product, with `timeout` for each operation.
    pub(crate) fn client(&self, timeout: Duration) -> impl Future<Output = Option<Client>> + use<> {
        let env = world::env(self.host, &self.network, MemoryDisk::new());
        let config = ClientConfig::new(self.endpoints.clone()).timeout(timeout);
        async move {
            // It knocks until somebody answers; it does not need to succeed at once.
            for _ in 0..60 {
                match Client::connect(&env, config.clone()).await {
                    Ok(client) => return Some(client),
                    Err(error) => {
                        tracing::debug!(%error, "no node answers yet");
                        quorate::env::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
            None
        }
    }

    /// Pauses between two operations.
    pub(crate) async fn think(&self, chance: &Chance) {
        quorate::env::time::sleep(chance.millis(1, self.think_ms + 2)).await;
    }
}
