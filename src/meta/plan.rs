//! Placement, decided purely: who is in the cluster goes in, where replicas belong comes out.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;
use crate::types::limits::META_VOTERS_MAX;
use crate::types::map::ShardMap;

/// The label by which replicas of a shard keep apart.
pub(super) const ZONE: &str = "zone";

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

/// What each node carries, so that new shards go where there is least.
pub(super) struct Spread {
    loads: BTreeMap<NodeId, Load>,
}

#[derive(Default)]
struct Load {
    zone: Option<String>,
    replicas: usize,
    /// Shards that it is to lead: those whose first replica it has.
    leads: usize,
}

impl Spread {
    /// The loads of a map.
    pub(super) fn of(map: &ShardMap) -> Self {
        let load = |zone: Option<&String>| Load { zone: zone.cloned(), ..Load::default() };
        let mut loads: BTreeMap<_, _> = map.staying().map(|node| (node.id, load(node.labels.get(ZONE)))).collect();
        for shard in map.shards.values() {
            for (at, replica) in shard.replicas.iter().enumerate() {
                if let Some(load) = loads.get_mut(&replica.node) {
                    load.replicas += 1;
                    load.leads += usize::from(at == 0);
                }
            }
        }
        Self { loads }
    }

    /// Nodes for a new shard's replicas, at most `factor`, the one that is to lead first: zones that
    /// the shard has least of, then nodes with the fewest replicas, then the lowest id.
    pub(super) fn place(&mut self, factor: usize) -> Vec<NodeId> {
        let mut chosen = Vec::new();
        let mut zones = BTreeMap::<String, usize>::new();
        let mut free: BTreeSet<_> = self.loads.keys().copied().collect();
        while chosen.len() < factor {
            let crowd = |node: &NodeId| {
                let load = &self.loads[node];
                let in_zone = load.zone.as_ref().and_then(|zone| zones.get(zone)).copied().unwrap_or(0);
                (in_zone, load.replicas, *node)
            };
            let Some(best) = free.iter().copied().min_by_key(crowd) else { break };
            free.remove(&best);
            if let Some(load) = self.loads.get_mut(&best) {
                load.replicas += 1;
                if let Some(zone) = &load.zone {
                    *zones.entry(zone.clone()).or_default() += 1;
                }
            }
            chosen.push(best);
        }
        if let Some(leader) = chosen.iter().copied().min_by_key(|node| (self.loads[node].leads, *node)) {
            chosen.sort_by_key(|node| (*node != leader, *node));
            if let Some(load) = self.loads.get_mut(&leader) {
                load.leads += 1;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::map::{Node, Standing};

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
        assert_eq!(Spread::of(&map(&["", ""])).place(3), [NodeId(1), NodeId(2)]);
        assert_eq!(Spread::of(&map(&[])).place(3), []);
    }

    /// A map of nodes in these zones; an empty name is no label.
    fn map(zones: &[&str]) -> ShardMap {
        let node = |(id, zone): (u64, &&str)| {
            let labels = (!zone.is_empty()).then(|| (ZONE.to_owned(), (*zone).to_owned()));
            let (client_address, peer_address) = (String::new(), String::new());
            let node = Node {
                id: NodeId(id),
                name: format!("n{id}"),
                client_address,
                peer_address,
                labels: labels.into_iter().collect(),
                standing: Standing::Member,
            };
            (node.id, node)
        };
        ShardMap { nodes: (1..).zip(zones).map(node).collect(), ..ShardMap::default() }
    }

    #[test]
    fn replicas_keep_to_different_zones_as_far_as_there_are_any() {
        let mut spread = Spread::of(&map(&["a", "a", "a", "b", "c"]));
        for _ in 0..10 {
            let placed = spread.place(3);
            assert!(placed.contains(&NodeId(4)) && placed.contains(&NodeId(5)), "{placed:?}");
        }
        let mut two = Spread::of(&map(&["a", "a", "b"]));
        assert_eq!(two.place(3).len(), 3, "a zone takes a second replica before a shard goes without");
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_even(nodes in 1usize..8, shards in 1usize..40, factor in 1usize..5) {
            let mut spread = Spread::of(&map(&vec![""; nodes]));
            let placed: Vec<_> = (0..shards).map(|_| spread.place(factor)).collect();
            let even = |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1;
            let ids = || (1..=nodes as u64).map(NodeId);
            for nodes_of_shard in &placed {
                let distinct: BTreeSet<_> = nodes_of_shard.iter().collect();
                prop_assert_eq!(distinct.len(), factor.min(nodes));
            }
            let held = |node| placed.iter().filter(|placed| placed.contains(&node)).count();
            prop_assert!(even(ids().map(held).collect()));
            let led = |node| placed.iter().filter(|placed| placed[0] == node).count();
            let leads: Vec<_> = ids().map(led).collect();
            prop_assert!(leads.iter().max().unwrap() - leads.iter().min().unwrap() <= 2, "{:?}", leads);
        }
    }
}
