//! The map: which nodes there are, which keyspaces, and which shard holds which key.
//!
//! Owned by the metadata group, held by every node and every client that routes by itself.
//! Invariants: shards of a keyspace tile its span; a shard's epoch only rises; `version` rises
//! with every change.

use std::collections::BTreeMap;

use super::{ClusterId, Epoch, GroupId, KeyspaceId, NodeId, OperationId, ReplicaId, Span};

/// The keyspace that requests mean when they name none. Every cluster has it.
pub const DEFAULT_KEYSPACE: &str = "default";

/// Where a node is in its life as a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// It may be given replicas.
    #[default]
    Member,
    /// Announced, and never started.
    Awaited,
    /// Its replicas are being made elsewhere; it is forgotten when it has none.
    Leaving,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Identity.
    pub id: NodeId,
    /// Unique among those that do not leave.
    pub name: String,
    /// `host:port` for clients.
    pub client_address: String,
    /// `host:port` for peers.
    pub peer_address: String,
    /// For instance `zone`.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub standing: Standing,
}

/// How a keyspace is cut into shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharding {
    /// One shard, one order, transactions over all keys.
    Single,
    /// A fixed number of shards over the hash space.
    Hash(u32),
    /// Shards over the key order.
    Range,
}

/// A named key space with its policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyspace {
    /// Identity.
    pub id: KeyspaceId,
    /// Unique name.
    pub name: String,
    /// How it is cut.
    pub sharding: Sharding,
    /// Replicas wanted of each shard.
    pub replication_factor: u32,
    /// Newest revisions whose history is kept; 0 sets no number.
    pub history_revisions: u64,
    /// Milliseconds for which history is kept at least; 0 sets no time.
    pub history_ms: u64,
    /// It serves nothing any more: its shards are being taken apart.
    pub dropping: bool,
}

/// One replica of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Identity within the group's whole life.
    pub id: ReplicaId,
    /// Where it lives.
    pub node: NodeId,
    /// Voter or learner.
    pub voter: bool,
    /// Whether it was among those the shard began with.
    pub founding: bool,
}

/// A shard descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Its Raft group.
    pub id: GroupId,
    /// The keyspace it is part of.
    pub keyspace: KeyspaceId,
    /// The part it holds.
    pub span: Span,
    /// Version of this descriptor.
    pub epoch: Epoch,
    /// The one that is to lead first.
    pub replicas: Vec<Replica>,
}

/// A running change of a shard's replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Identity.
    pub id: OperationId,
    /// The shard; at most one operation runs on it.
    pub shard: GroupId,
    /// The replica that is made: a learner until it has caught up, then a voter.
    pub add: Option<ReplicaId>,
    /// The replica that goes, in the step in which the other one becomes a voter.
    pub remove: Option<ReplicaId>,
    /// It is being undone.
    pub cancelled: bool,
    /// Why it was begun, in words.
    pub reason: String,
}

impl Shard {
    /// This shard's replica on `node`.
    pub fn replica_on(&self, node: NodeId) -> Option<Replica> {
        self.replicas.iter().copied().find(|replica| replica.node == node)
    }
}

/// The whole map at one version.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardMap {
    /// `None` before the cluster is founded.
    pub cluster_id: Option<ClusterId>,
    /// 0 before the cluster is founded.
    pub version: u64,
    /// By id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// By id.
    pub keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    /// By id; the metadata group is not among them.
    pub shards: BTreeMap<GroupId, Shard>,
    /// The id that the next shard gets: one below it that is not in the map is gone for good.
    pub next_shard: GroupId,
    /// The same for replicas. Nodes know it, clients do not.
    pub next_replica: ReplicaId,
    /// The same for nodes. Nodes know it, clients do not.
    pub next_node: NodeId,
    /// By id. Nodes know them, clients do not.
    pub operations: BTreeMap<OperationId, Operation>,
}

impl ShardMap {
    /// The keyspace of that name, unless it is being dropped.
    pub fn keyspace(&self, name: &str) -> Option<&Keyspace> {
        self.keyspaces.values().find(|keyspace| keyspace.name == name && !keyspace.dropping)
    }

    /// Whether a group was a shard once and is none any more.
    pub fn has_forgotten(&self, group: GroupId) -> bool {
        group != GroupId::META && group < self.next_shard && !self.shards.contains_key(&group)
    }

    /// Whether a replica of `group` was there once and is none any more.
    pub fn has_dropped(&self, group: GroupId, replica: ReplicaId) -> bool {
        let listed = |shard: &Shard| shard.replicas.iter().any(|listed| listed.id == replica);
        group != GroupId::META
            && (self.has_forgotten(group)
                || (replica < self.next_replica && self.shards.get(&group).is_some_and(|shard| !listed(shard))))
    }

    /// Whether a node was a member once and is none any more.
    pub fn has_left(&self, node: NodeId) -> bool {
        node < self.next_node && !self.nodes.contains_key(&node)
    }

    /// Nodes that may be given replicas, by id.
    pub fn staying(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.standing == Standing::Member)
    }

    /// The operation that runs on a shard.
    pub fn operation_on(&self, shard: GroupId) -> Option<&Operation> {
        self.operations.values().find(|operation| operation.shard == shard)
    }

    /// Replicas that each shard of a keyspace is to have: fewer than it wants where there are fewer nodes.
    pub fn replicas_wanted(&self, keyspace: KeyspaceId) -> usize {
        let factor = self.keyspaces.get(&keyspace).map_or(0, |keyspace| keyspace.replication_factor as usize);
        factor.min(self.staying().count())
    }

    /// Shards of a keyspace, by id.
    pub fn shards_of(&self, keyspace: KeyspaceId) -> impl Iterator<Item = &Shard> {
        self.shards.values().filter(move |shard| shard.keyspace == keyspace)
    }

    /// The shard that holds `key`.
    pub fn shard_of(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<&Shard> {
        self.shards_of(keyspace).find(|shard| shard.span.contains(key))
    }
}
