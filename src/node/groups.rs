//! Follows the map: peers' addresses, the cluster id, and the groups that belong on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::raft::{Group, GroupError, GroupSpec, Host};
use crate::shard::ShardMachine;
use crate::types::map::{Shard, ShardMap};
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

use super::compaction;
use super::housekeeping;
use super::leases::Leases;
use super::router::Router;
use super::tasks::Tasks;

/// Frames tell replicas apart by their ids, which are never reused: that is stricter than the epoch of
/// the descriptor, and a node whose map is behind does not hold its group up. The epoch in frames is
/// that of the span, which no shard changes yet.
const UNSPLIT: Epoch = Epoch(1);

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
        if map.has_left(self.node) {
            return Err("this node was removed from the cluster: its data directory is of no more use".to_owned());
        }
        self.host.set_members(map.nodes.keys().copied().collect(), map.next_node);
        for node in map.nodes.values().filter(|node| node.id != self.node) {
            // One that is only announced may have none yet.
            if !node.name.is_empty() {
                self.host.set_name(node.id, &node.name);
            }
            self.host.set_address(node.id, &node.peer_address);
        }
        self.remove_dropped(map).await?;
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
        let spec = GroupSpec { group: shard.id, replica, epoch: UNSPLIT };
        let group = self.start(shard, spec, machine.clone()).await;
        let group = group.map_err(|error| format!("cannot start shard {}: {error}", shard.id.0))?;
        tracing::info!(shard = shard.id.0, replica = replica.0, "shard started");
        let leases = Arc::new(Leases::new(shard.id, group.clone(), machine.clone()));
        self.router.add_shard(group, leases.clone());
        self.tasks.spawn(housekeeping::run(leases.clone()));
        self.tasks.spawn(compaction::run(self.router.clone(), leases));
        self.running.lock().insert(shard.id, LocalShard { machine });
        Ok(())
    }

    /// Groups of which a replica has something here that the map has no more.
    fn dropped(&self, map: &ShardMap) -> BTreeSet<GroupId> {
        let kept = self.host.local_replicas().into_iter();
        let running = self.router.groups().into_iter().map(|(id, group)| (id, group.replica()));
        kept.chain(running).filter(|(group, replica)| map.has_dropped(*group, *replica)).map(|(id, _)| id).collect()
    }

    async fn remove_dropped(&self, map: &ShardMap) -> Result<(), String> {
        let dropped = self.dropped(map);
        if !dropped.is_empty() {
            // After a crash the map must not ask for what is gone.
            self.host.flush().await.map_err(|error| format!("cannot flush the state engine: {error}"))?;
        }
        for id in dropped {
            self.remove(id).await?;
        }
        Ok(())
    }

    /// Gives back what a dropped replica holds here.
    async fn remove(&self, id: GroupId) -> Result<(), String> {
        self.router.remove_group(id);
        self.running.lock().remove(&id);
        self.host.remove_group(id).await.map_err(|error| format!("cannot remove shard {}: {error}", id.0))?;
        tracing::info!(shard = id.0, "replica removed");
        Ok(())
    }

    /// Starts a replica. The first ones of a new shard all begin with the same voters; the first of them
    /// stands for election at once, any other when nobody leads.
    async fn start(&self, shard: &Shard, spec: GroupSpec, machine: Arc<ShardMachine>) -> Result<Group, GroupError> {
        let founders = shard.replicas.iter().filter(|replica| replica.founding && replica.voter);
        let founders: BTreeMap<_, _> = founders.map(|replica| (replica.id, replica.node)).collect();
        // Later the voters may be others, and a replica learns them from its leader.
        if shard.epoch != Epoch(1) || !founders.contains_key(&spec.replica) {
            return self.host.start_group(spec, machine).await;
        }
        let (group, begun) = self.host.found_group(spec, &founders, machine).await?;
        if begun
            && shard.replicas.first().is_some_and(|first| first.id == spec.replica)
            && let Err(error) = group.elect().await
        {
            tracing::warn!(shard = shard.id.0, %error, "cannot stand for election");
        }
        Ok(group)
    }
}
