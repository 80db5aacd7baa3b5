//! What a fence has taken out of service stays as it was: nothing that stands behind the fence in the
//! log, and no node whose map is old, changes the shard any more.

use std::collections::{BTreeMap, BTreeSet};

use quorate::raft::Group;
use quorate::shard::digest::digest;
use quorate::shard::fence::{self, RETIRED};
use quorate::types::GroupId;

use crate::invariant::Observed;
use crate::world::World;

/// The state of each retired shard when a replica of it was first seen behind the fence.
#[derive(Default)]
pub(crate) struct Retired {
    digests: BTreeMap<GroupId, u64>,
}

impl Retired {
    /// Looks at the shards that have just applied something. Returns how many replicas were compared.
    pub(crate) fn look(&mut self, world: &World, observed: &[Observed]) -> Result<u64, String> {
        let applied = observed.iter().filter(|event| event.what == "applied" && event.group != GroupId::META.0);
        let applied: BTreeSet<_> = applied.map(|event| GroupId(event.group)).collect();
        if applied.is_empty() {
            return Ok(0);
        }
        let mut compared = 0;
        for (name, node) in world.nodes() {
            for (id, group) in node.groups().into_iter().filter(|(id, _)| applied.contains(id)) {
                let Some(found) = digest_behind_the_fence(&group) else { continue };
                let first = *self.digests.entry(id).or_insert(found);
                if found != first {
                    return Err(format!("{id} on {name}: logical hash {found:x} behind the fence, {first:x} before"));
                }
                compared += 1;
            }
        }
        Ok(compared)
    }
}

/// `None` of a shard that serves. An engine that fails ends its node, which is looked at elsewhere.
fn digest_behind_the_fence(group: &Group) -> Option<u64> {
    let view = group.view().ok()?;
    if fence::check(&*view, RETIRED - 1).is_ok() {
        return None;
    }
    digest(&*view).ok()
}
