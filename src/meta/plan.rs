//! Placement, decided purely: who is in the cluster goes in, where replicas belong comes out.

use std::collections::BTreeMap;

use crate::types::NodeId;
use crate::types::limits::META_VOTERS_MAX;

/// The nodes of a static first cluster: ids follow the sorted names, from 1.
///
/// `peers` maps names to peer addresses.
pub fn founding_members(peers: &BTreeMap<String, String>) -> BTreeMap<NodeId, (&str, &str)> {
    let members = peers.iter().map(|(name, address)| (name.as_str(), address.as_str()));
    (1..).map(NodeId).zip(members).collect()
}

/// Where the replicas of a founding shard go: the lowest ids, `factor` of them.
pub(super) fn founding_replicas(nodes: impl Iterator<Item = NodeId>, factor: u32) -> Vec<NodeId> {
    nodes.take(usize::try_from(factor).unwrap_or(usize::MAX)).collect()
}

/// Voters of the metadata group among the founding nodes; the others are its learners.
pub fn founding_meta_voters(nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    nodes.take(META_VOTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn founding_ids_follow_the_sorted_names() {
        let peers = ["n10", "n2", "n1"].map(|name| (name.to_owned(), format!("{name}:1"))).into();
        let members = founding_members(&peers);
        let names: Vec<_> = members.iter().map(|(id, (name, _))| (id.0, *name)).collect();
        assert_eq!(names, [(1, "n1"), (2, "n10"), (3, "n2")]);
    }

    #[test]
    fn replicas_are_bounded_by_the_nodes() {
        let nodes = || (1..=2).map(NodeId);
        assert_eq!(founding_replicas(nodes(), 1), [NodeId(1)]);
        assert_eq!(founding_replicas(nodes(), 3), [NodeId(1), NodeId(2)]);
    }
}
