//! After the healing: every group has one leader, its replicas have applied the same and hash the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::raft::Group;
use quorate::shard::digest::digest;
use quorate::types::map::{Shard, ShardMap, Standing};
use quorate::types::{GroupId, NodeId};

use crate::world::World;

/// Simulated time that replicas have to agree.
pub(crate) const WITHIN: Duration = Duration::from_secs(40);

/// Simulated time between two comparisons of the replicas' states.
const COMPARE_MS: u64 = 1_500;

type Replicas = BTreeMap<GroupId, Vec<(String, Group)>>;

fn replicas(world: &World) -> Replicas {
    let mut groups = Replicas::new();
    for (name, node) in &world.nodes() {
        for (id, group) in node.groups() {
            groups.entry(id).or_default().push((name.clone(), group));
        }
    }
    groups
}

/// Compares the states of the replicas of a shard that have applied the same entries: they must hash
/// the same at every moment, not only in the end. Returns how many pairs there were.
fn compare(id: GroupId, replicas: &[(String, Group)]) -> Result<u64, String> {
    let mut at: BTreeMap<u64, Vec<&(String, Group)>> = BTreeMap::new();
    for replica in replicas {
        if let Some(applied) = replica.1.status().applied {
            at.entry(applied).or_default().push(replica);
        }
    }
    let mut compared = 0;
    for (applied, alike) in at.into_iter().filter(|(_, alike)| alike.len() > 1) {
        let mut hashes = BTreeMap::new();
        for (name, group) in alike {
            // An engine that fails ends its node, which is looked at elsewhere.
            let Some(hash) = group.view().ok().and_then(|view| digest(&*view).ok()) else { continue };
            hashes.insert(name, hash);
        }
        if hashes.values().collect::<BTreeSet<_>>().len() > 1 {
            return Err(format!("group {} at entry {applied}: logical hashes {hashes:x?}", id.0));
        }
        compared += (hashes.len() as u64).saturating_sub(1);
    }
    Ok(compared)
}

/// Compares replicas every now and then while a run lasts.
#[derive(Default)]
pub(crate) struct Comparison {
    next_ms: u64,
}

impl Comparison {
    /// What [`compare`] finds, if it is time again.
    pub(crate) fn sample(&mut self, world: &World) -> Result<u64, String> {
        let now_ms = crate::now_ms();
        if now_ms < self.next_ms {
            return Ok(0);
        }
        self.next_ms = now_ms + COMPARE_MS;
        all(&replicas(world))
    }
}

fn all(groups: &Replicas) -> Result<u64, String> {
    let shards = groups.iter().filter(|(id, _)| **id != GroupId::META);
    shards.map(|(id, replicas)| compare(*id, replicas)).sum()
}

/// Whether every shard of the map runs where the map says, and nothing else does.
fn placed(world: &World, groups: &Replicas) -> Result<(), String> {
    for (name, node) in world.nodes() {
        let map = node.map();
        if let Some(keyspace) = map.keyspaces.values().find(|keyspace| keyspace.dropping) {
            return Err(format!("on {name} keyspace {} is not gone yet", keyspace.name));
        }
        if let Some(operation) = map.operations.values().next() {
            return Err(format!("on {name} {operation:?} still runs"));
        }
        if let Some(node) = map.nodes.values().find(|node| node.standing == Standing::Leaving) {
            return Err(format!("on {name} {} is not gone yet", node.name));
        }
        let is_whole = |shard: &&Shard| {
            shard.replicas.len() >= map.replicas_wanted(shard.keyspace)
                && shard.replicas.iter().all(|replica| replica.voter)
        };
        if let Some(shard) = map.shards.values().find(|shard| !is_whole(shard)) {
            return Err(format!("on {name} {} has {:?}", shard.id, shard.replicas));
        }
        let runs = |id: &GroupId| groups.get(id).is_some_and(|replicas| replicas.iter().any(|(home, _)| *home == name));
        let wanted = map.shards.values().filter(|shard| shard.replica_on(node.id()).is_some());
        if let Some(missing) = wanted.map(|shard| shard.id).find(|id| !runs(id)) {
            return Err(format!("{missing} does not run on {name}"));
        }
        if let Some(left) = groups.keys().find(|id| runs(id) && runs_what_is_gone(node.id(), &map, **id)) {
            return Err(format!("{left} still runs on {name}"));
        }
    }
    Ok(())
}

fn runs_what_is_gone(node: NodeId, map: &ShardMap, id: GroupId) -> bool {
    map.has_forgotten(id) || map.shards.get(&id).is_some_and(|shard| shard.replica_on(node).is_none())
}

/// Whether a shard's voters are the replicas that the map names.
fn described(id: GroupId, replicas: &[(String, Group)], world: &World) -> Result<(), String> {
    let map = world.newest_map();
    let Some(shard) = map.as_ref().and_then(|map| map.shards.get(&id)) else { return Ok(()) };
    let named: BTreeSet<_> = shard.replicas.iter().map(|replica| replica.id).collect();
    for (name, group) in replicas {
        let status = group.status();
        let voters: BTreeSet<_> = status.voters.into_keys().collect();
        if voters != named || !status.learners.is_empty() {
            return Err(format!("on {name} {id} has the voters {voters:?}, and the map names {named:?}"));
        }
    }
    Ok(())
}

/// Why replicas do not agree.
pub(crate) enum Apart {
    /// They may come to.
    Yet(String),
    /// They never will.
    ForEver(String),
}

/// Whether all agree now: the number of groups, or who differs.
pub(crate) fn check(world: &World) -> Result<u64, Apart> {
    let nodes = world.up();
    if nodes.len() + world.retired().len() < world.names().len() || world.nodes().len() < nodes.len() {
        return Err(Apart::Yet(format!("only {nodes:?} run")));
    }
    let groups = replicas(world);
    if groups.len() < 2 {
        return Err(Apart::Yet("the default keyspace has no shard yet".to_owned()));
    }
    placed(world, &groups).map_err(Apart::Yet)?;
    for (id, replicas) in &groups {
        let standing = |group: &Group| {
            let status = group.status();
            (status.term, status.leader, status.committed, status.applied)
        };
        let standings: BTreeSet<_> = replicas.iter().map(|(_, group)| standing(group)).collect();
        let is_settled = standings.len() == 1
            && standings.iter().all(|(_, leader, committed, applied)| leader.is_some() && committed == applied);
        if !is_settled {
            return Err(Apart::Yet(format!("group {}: {standings:?}", id.0)));
        }
        described(*id, replicas, world).map_err(Apart::Yet)?;
    }
    all(&groups).map_err(Apart::ForEver)?;
    Ok(groups.len() as u64)
}
