//! What should move, decided purely: map in, operations out.
//!
//! In this order: replicas leave nodes that leave; shards get the replicas they are to have; then
//! replicas move until zones, and after them nodes, carry as much as each other. Every move makes the
//! spread strictly better, so that moving ends.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::ZONE;
use crate::proto::internal::meta_command::StartOperation;
use crate::types::limits::{META_VOTERS_MAX, OPERATIONS_MAX};
use crate::types::map::{Node, Shard, ShardMap, Standing};
use crate::types::{GroupId, NodeId, ReplicaId};

/// Operations that are begun by themselves, at a time: the rest of the bound is an operator's.
const BEGUN_MAX: usize = OPERATIONS_MAX / 2;
/// Replicas that are made on one node at a time.
const INCOMING_MAX: usize = 2;

/// The operations to begin now, on other shards than those to `leave`. Only nodes that are `ready`, which
/// answer, are given replicas.
pub fn next_operations(map: &ShardMap, leave: &BTreeSet<GroupId>, ready: &BTreeSet<NodeId>) -> Vec<StartOperation> {
    let mut spread = Placement::of(map, ready);
    spread.busy.extend(leave);
    let mut begun = Vec::new();
    while map.operations.len() + begun.len() < BEGUN_MAX {
        let next = spread.leave().or_else(|| spread.complete()).or_else(|| spread.level());
        let Some(next) = next else { break };
        spread.begin(&next);
        begun.push(next);
    }
    begun
}

/// Nodes that leave and hold nothing: neither a replica nor a vote in the metadata group.
pub fn ready_to_forget(map: &ShardMap, meta_voters: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let leaving = map.nodes.values().filter(|node| node.standing == Standing::Leaving).map(|node| node.id);
    let holds = |id: &NodeId| map.shards.values().any(|shard| shard.replica_on(*id).is_some());
    leaving.filter(|id| !holds(id) && !meta_voters.contains(id)).collect()
}

/// The metadata group's voters after its next change, one at a time: an odd number as far as nodes and
/// the bound allow, none that leaves while another node can take its vote. `ready` are the nodes that have caught up and answer.
pub fn meta_voters(map: &ShardMap, voters: &BTreeSet<NodeId>, ready: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let stays = |id: &NodeId| map.nodes.get(id).is_some_and(|node| node.standing == Standing::Member);
    let mut wanted = voters.clone();
    let heir = map.staying().map(|node| node.id).find(|id| !voters.contains(id) && ready.contains(id));
    let leaver = voters.iter().copied().find(|id| !stays(id));
    let staying = voters.iter().filter(|id| stays(id)).count();
    // An even number of voters bears no more losses than one less.
    let most = map.staying().count().min(META_VOTERS_MAX);
    let most = most - usize::from(most > 0 && most.is_multiple_of(2));
    match (leaver, heir) {
        (Some(leaver), Some(heir)) => {
            wanted.remove(&leaver);
            wanted.insert(heir);
        }
        // Nobody is left to take the vote who has none already.
        (Some(leaver), None) if map.staying().all(|node| voters.contains(&node.id)) && staying > 0 => {
            wanted.remove(&leaver);
        }
        (None, Some(heir)) if voters.len() < most => {
            wanted.insert(heir);
        }
        (Some(_) | None, _) => {}
    }
    wanted
}

/// Where replicas are, or will be when what runs is done.
struct Placement<'m> {
    map: &'m ShardMap,
    nodes: BTreeMap<NodeId, &'m Node>,
    homes: BTreeMap<GroupId, BTreeMap<NodeId, ReplicaId>>,
    /// Shards that an operation is about to change.
    busy: BTreeSet<GroupId>,
    incoming: BTreeMap<NodeId, usize>,
    ready: &'m BTreeSet<NodeId>,
}

impl<'m> Placement<'m> {
    fn of(map: &'m ShardMap, ready: &'m BTreeSet<NodeId>) -> Self {
        let home = |shard: &Shard| shard.replicas.iter().map(|replica| (replica.node, replica.id)).collect();
        let serves = |shard: &&Shard| map.keyspaces.get(&shard.keyspace).is_some_and(|keyspace| !keyspace.dropping);
        let mut placement = Self {
            map,
            nodes: map.staying().map(|node| (node.id, node)).collect(),
            homes: map.shards.values().filter(serves).map(|shard| (shard.id, home(shard))).collect(),
            busy: BTreeSet::new(),
            incoming: BTreeMap::new(),
            ready,
        };
        for operation in map.operations.values() {
            placement.busy.insert(operation.shard);
            let Some(homes) = placement.homes.get_mut(&operation.shard) else { continue };
            let (stays, goes) =
                if operation.cancelled { (None, operation.add) } else { (operation.add, operation.remove) };
            homes.retain(|_, replica| Some(*replica) != goes);
            if let Some((node, _)) = homes.iter().find(|(_, replica)| Some(**replica) == stays) {
                *placement.incoming.entry(*node).or_default() += 1;
            }
        }
        placement
    }

    fn begin(&mut self, next: &StartOperation) {
        let shard = GroupId(next.shard_id);
        self.busy.insert(shard);
        let homes = self.homes.entry(shard).or_default();
        homes.retain(|_, replica| replica.0 != next.remove_replica_id);
        if next.add_node_id > 0 {
            // It has no id yet; nothing asks for it.
            homes.insert(NodeId(next.add_node_id), ReplicaId(0));
            *self.incoming.entry(NodeId(next.add_node_id)).or_default() += 1;
        }
    }

    /// A replica that has to leave with its node.
    fn leave(&self) -> Option<StartOperation> {
        self.idle().find_map(|(shard, homes)| {
            let (from, replica) = homes.iter().find(|(node, _)| !self.nodes.contains_key(node))?;
            let name = self.map.nodes.get(from).map_or("?", |node| node.name.as_str());
            let reason = format!("node {name} is leaving");
            if homes.len() > self.wanted(shard) {
                return Some(operation(shard, None, Some(*replica), reason));
            }
            let to = self.roomiest(homes)?;
            Some(operation(shard, Some(to), Some(*replica), reason))
        })
    }

    /// A shard with fewer replicas than it is to have.
    fn complete(&self) -> Option<StartOperation> {
        self.idle().find_map(|(shard, homes)| {
            let wanted = self.wanted(shard);
            if homes.len() >= wanted {
                return None;
            }
            let to = self.roomiest(homes)?;
            Some(operation(shard, Some(to), None, format!("it is to have {wanted} replicas")))
        })
    }

    /// A move that makes the spread better: first over zones, then over nodes.
    fn level(&self) -> Option<StartOperation> {
        let loads = self.loads();
        let mut best: Option<((usize, usize), GroupId, NodeId, ReplicaId)> = None;
        for (shard, homes) in self.idle() {
            for (from, replica) in homes {
                for to in self.nodes.keys().filter(|to| !homes.contains_key(to) && self.has_room(**to)) {
                    let gain = self.gain(homes, &loads, *from, *to);
                    if gain > best.map_or((0, 0), |(best, ..)| best) {
                        best = Some((gain, shard, *to, *replica));
                    }
                }
            }
        }
        let (_, shard, to, replica) = best?;
        Some(operation(shard, Some(to), Some(replica), "to spread replicas evenly".to_owned()))
    }

    /// How much better the spread is after a move: what zones gain, then what nodes gain. (0, 0) when it
    /// is no better.
    fn gain(
        &self,
        homes: &BTreeMap<NodeId, ReplicaId>,
        loads: &BTreeMap<NodeId, usize>,
        from: NodeId,
        to: NodeId,
    ) -> (usize, usize) {
        let others = || homes.keys().filter(|home| **home != from);
        let crowd = |zone: Option<&String>| others().filter(|home| zone.is_some() && self.zone(**home) == zone).count();
        let (before, after) = (crowd(self.zone(from)), crowd(self.zone(to)));
        let load = |node: NodeId| loads.get(&node).copied().unwrap_or(0);
        match before.cmp(&after) {
            std::cmp::Ordering::Less => (0, 0),
            std::cmp::Ordering::Equal if load(from) < load(to) + 2 => (0, 0),
            std::cmp::Ordering::Equal => (0, load(from) - load(to)),
            // Zones keep failures apart, which is worth an uneven load.
            std::cmp::Ordering::Greater => (before - after, (load(from) + self.homes.len()).saturating_sub(load(to))),
        }
    }

    fn idle(&self) -> impl Iterator<Item = (GroupId, &BTreeMap<NodeId, ReplicaId>)> {
        self.homes.iter().filter(|(shard, _)| !self.busy.contains(shard)).map(|(shard, homes)| (*shard, homes))
    }

    fn wanted(&self, shard: GroupId) -> usize {
        self.map.shards.get(&shard).map_or(0, |shard| self.map.replicas_wanted(shard.keyspace))
    }

    fn zone(&self, node: NodeId) -> Option<&'m String> {
        self.map.nodes.get(&node)?.labels.get(ZONE)
    }

    fn loads(&self) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<_, _> = self.nodes.keys().map(|node| (*node, 0)).collect();
        for node in self.homes.values().flat_map(BTreeMap::keys) {
            if let Some(load) = loads.get_mut(node) {
                *load += 1;
            }
        }
        loads
    }

    fn has_room(&self, node: NodeId) -> bool {
        self.ready.contains(&node) && self.incoming.get(&node).copied().unwrap_or(0) < INCOMING_MAX
    }

    /// The best home for one more replica: a zone with few of the shard, then a node with few of all.
    fn roomiest(&self, homes: &BTreeMap<NodeId, ReplicaId>) -> Option<NodeId> {
        let loads = self.loads();
        let stays = |home: &&NodeId| self.nodes.contains_key(home);
        let crowd = |node: NodeId| {
            let zone = self.zone(node);
            homes.keys().filter(stays).filter(|home| zone.is_some() && self.zone(**home) == zone).count()
        };
        let free = self.nodes.keys().copied().filter(|node| !homes.contains_key(node) && self.has_room(*node));
        free.min_by_key(|node| (crowd(*node), loads.get(node).copied().unwrap_or(0), *node))
    }
}

fn operation(shard: GroupId, add: Option<NodeId>, remove: Option<ReplicaId>, reason: String) -> StartOperation {
    StartOperation {
        shard_id: shard.0,
        add_node_id: add.map_or(0, |node| node.0),
        remove_replica_id: remove.map_or(0, |replica| replica.0),
        reason,
    }
}

#[cfg(test)]
#[path = "balance_test.rs"]
mod tests;
