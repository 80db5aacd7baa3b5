//! After the healing: every group has one leader, its replicas have applied the same and hash the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate::shard::digest::digest;
use quorate::types::GroupId;

use crate::world::World;

/// Simulated time that replicas have to agree.
pub(crate) const WITHIN: Duration = Duration::from_secs(40);

/// Whether all agree now: the number of groups, or who differs.
pub(crate) fn check(world: &World) -> Result<u64, String> {
    let retired = world.retired().len();
    let nodes = world.nodes();
    if nodes.len() + retired < world.names().len() {
        return Err(format!("only {:?} run", nodes.iter().map(|(name, _)| name).collect::<Vec<_>>()));
    }
    let mut groups: BTreeMap<GroupId, Vec<(String, quorate::raft::Group)>> = BTreeMap::new();
    for (name, node) in &nodes {
        for (id, group) in node.groups() {
            groups.entry(id).or_default().push((name.clone(), group));
        }
    }
    if groups.len() < 2 {
        return Err("the default keyspace has no shard yet".to_owned());
    }
    for (id, replicas) in &groups {
        let standings: BTreeSet<_> = replicas
            .iter()
            .map(|(_, group)| {
                let status = group.status();
                (status.term, status.leader, status.committed, status.applied)
            })
            .collect();
        let is_settled = standings.len() == 1
            && standings.iter().all(|(_, leader, committed, applied)| leader.is_some() && committed == applied);
        if !is_settled {
            return Err(format!("group {}: {standings:?}", id.0));
        }
        if *id == GroupId::META {
            continue;
        }
        let mut digests = BTreeMap::new();
        for (name, group) in replicas {
            let view = group.view().map_err(|error| error.to_string())?;
            digests.insert(name, digest(&*view).map_err(|error| error.to_string())?);
        }
        if digests.values().collect::<BTreeSet<_>>().len() > 1 {
            return Err(format!("group {}: logical hashes {digests:x?}", id.0));
        }
    }
    Ok(groups.len() as u64)
}
