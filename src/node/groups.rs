//! Follows the map: peers' addresses, the cluster id, and the groups that belong on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::env::time;
use crate::raft::{ChangeError, Group, GroupSpec, Host, Role};
use crate::shard::ShardMachine;
use crate::types::map::{Shard, ShardMap};
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

use super::housekeeping;
use super::router::Router;
use super::tasks::Tasks;

/// How long the first replica of a new shard may take to found its group before the others do.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(3);

/// A shard that runs here.
#[derive(Clone)]
pub(super) struct LocalShard {
    pub(super) machine: Arc<ShardMachine>,
}

/// The shards that run on this node.
pub(super) struct Groups {
    node: NodeId,
    host: Host,
    router: Arc<Router>,
    tasks: Tasks,
    running: Mutex<BTreeMap<GroupId, LocalShard>>,
}

impl Groups {
    pub(super) fn new(node: NodeId, host: Host, router: Arc<Router>, tasks: Tasks) -> Self {
        Self { node, host, router, tasks, running: Mutex::default() }
    }

    /// The shards that run here, by id.
    pub(super) fn running(&self) -> BTreeMap<GroupId, LocalShard> {
        self.running.lock().clone()
    }

    /// Follows the map until the node stops. Returns why the node cannot go on, if it cannot.
    pub(super) async fn follow(&self) -> Result<(), String> {
        let mut map = self.router.watch_map();
        loop {
            let current = map.borrow_and_update().clone();
            self.adopt(&current).await?;
            if map.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn adopt(&self, map: &ShardMap) -> Result<(), String> {
        let Some(cluster_id) = map.cluster_id else { return Ok(()) };
        self.host.set_cluster_id(cluster_id).map_err(|error| error.to_string())?;
        for node in map.nodes.values().filter(|node| node.id != self.node) {
            self.host.set_address(node.id, &node.peer_address);
        }
        self.remove_forgotten(map).await?;
        for shard in map.shards.values() {
            if let Some(replica) = shard.replica_on(self.node) {
                self.run(shard, replica.id).await?;
            }
        }
        Ok(())
    }

    async fn run(&self, shard: &Shard, replica: ReplicaId) -> Result<(), String> {
        if self.running.lock().contains_key(&shard.id) {
            return Ok(());
        }
        let machine = Arc::new(ShardMachine::new());
        let spec = GroupSpec { group: shard.id, replica, epoch: shard.epoch };
        let group = self.host.start_group(spec, machine.clone()).await;
        let group = group.map_err(|error| format!("cannot start shard {}: {error}", shard.id.0))?;
        tracing::info!(shard = shard.id.0, replica = replica.0, "shard started");
        self.found(shard, replica, &group).await?;
        self.router.add_group(shard.id, group.clone());
        self.tasks.spawn(housekeeping::run(shard.id, group.clone(), machine.clone()));
        self.running.lock().insert(shard.id, LocalShard { machine });
        Ok(())
    }

    /// Groups that have something here and are shards no longer.
    fn forgotten(&self, map: &ShardMap) -> BTreeSet<GroupId> {
        let kept = self.host.local_replicas().into_iter().map(|(group, _)| group);
        kept.chain(self.running.lock().keys().copied()).filter(|group| map.has_forgotten(*group)).collect()
    }

    async fn remove_forgotten(&self, map: &ShardMap) -> Result<(), String> {
        let forgotten = self.forgotten(map);
        if !forgotten.is_empty() {
            // After a crash the map must not ask for what is gone.
            self.host.flush().await.map_err(|error| format!("cannot flush the state engine: {error}"))?;
        }
        for id in forgotten {
            self.remove(id).await?;
        }
        Ok(())
    }

    /// Gives back what a dropped shard holds here.
    async fn remove(&self, id: GroupId) -> Result<(), String> {
        self.router.remove_group(id);
        self.running.lock().remove(&id);
        self.host.remove_group(id).await.map_err(|error| format!("cannot remove shard {}: {error}", id.0))?;
        tracing::info!(shard = id.0, "shard removed");
        Ok(())
    }

    /// Starts a new shard's group with all founding replicas as voters: the first of them does it at
    /// once and leads, the others when nobody has for a while. All write the same first entry.
    async fn found(&self, shard: &Shard, replica: ReplicaId, group: &Group) -> Result<(), String> {
        let founding = shard.replicas.iter().filter(|replica| replica.founding && replica.voter);
        let founding: BTreeMap<_, _> = founding.map(|replica| (replica.id, replica.node)).collect();
        if !founding.contains_key(&replica) || shard.epoch != Epoch(1) {
            return Ok(());
        }
        if founding.keys().next() == Some(&replica) {
            return initialize(group, founding).await;
        }
        let group = group.clone();
        self.tasks.spawn(async move {
            let mut status = group.watch();
            let begun = status.wait_for(|status| !status.voters.is_empty() || status.role == Role::Stopped);
            if time::timeout(FOUNDING_PATIENCE, begun).await.is_err()
                && let Err(reason) = initialize(&group, founding).await
            {
                tracing::warn!(reason, "a shard cannot be founded here");
            }
        });
        Ok(())
    }
}

async fn initialize(group: &Group, founding: BTreeMap<ReplicaId, NodeId>) -> Result<(), String> {
    match group.initialize(founding).await {
        Ok(()) | Err(ChangeError::AlreadyInitialized) => Ok(()),
        Err(error) => Err(format!("cannot found shard {}: {error}", group.id().0)),
    }
}
