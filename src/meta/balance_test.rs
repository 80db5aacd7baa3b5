use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::test_bed::Meta;
use super::*;
use crate::meta::place;
use crate::proto::internal::meta_command::{FinishOperation, Kind, RemoveNode};
use crate::proto::v1;

fn keyspace(meta: &mut Meta, name: &str, shards: u32, replicas: u32) {
    let kind = v1::sharding::Kind::Hash(v1::sharding::Hash { shards });
    let request = v1::CreateKeyspaceRequest {
        name: name.into(),
        sharding: Some(v1::Sharding { kind: Some(kind) }),
        replication_factor: replicas,
        ..Default::default()
    };
    meta.command(Kind::CreateKeyspace(place(&meta.map(), request))).unwrap();
}

/// What the planner wants while all nodes answer.
fn wanted(map: &ShardMap) -> Vec<StartOperation> {
    next_operations(map, &BTreeSet::new(), &map.nodes.keys().copied().collect())
}

fn remove(meta: &mut Meta, node_id: u64) {
    meta.command(Kind::RemoveNode(RemoveNode { node_id })).unwrap();
}

/// Carries out what the planner wants until it wants nothing. Returns how many operations that took.
fn settle(meta: &mut Meta) -> usize {
    for done in 0..2_000 {
        let Some(next) = wanted(&meta.map()).into_iter().next() else { return done };
        let map = meta.map();
        let voters = |map: &ShardMap| map.shards[&GroupId(next.shard_id)].replicas.len();
        let wanted = map.replicas_wanted(map.shards[&GroupId(next.shard_id)].keyspace);
        let id = meta.start(next.shard_id, next.add_node_id, next.remove_replica_id).unwrap();
        meta.command(Kind::FinishOperation(FinishOperation { operation_id: id, undone: false })).unwrap();
        assert!(voters(&meta.map()) >= wanted.min(voters(&map)), "no step takes more than it gives");
    }
    panic!("the planner never comes to rest");
}

fn loads(map: &ShardMap) -> Vec<usize> {
    let held = |node: &Node| map.shards.values().filter(|shard| shard.replica_on(node.id).is_some()).count();
    map.staying().map(held).collect()
}

fn is_even(map: &ShardMap) -> bool {
    let loads = loads(map);
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1
}

#[test]
fn a_settled_map_wants_nothing() {
    let mut meta = Meta::new(5);
    keyspace(&mut meta, "events", 16, 3);
    assert_eq!(settle(&mut meta), 0);
}

#[test]
fn a_new_node_gets_its_share() {
    let mut meta = Meta::new(3);
    keyspace(&mut meta, "events", 16, 3);
    meta.join("n4", 1, "").unwrap();
    meta.join("n5", 2, "").unwrap();
    let moved = settle(&mut meta);
    assert!(is_even(&meta.map()), "{:?}", loads(&meta.map()));
    assert!(moved <= 17 * 3 * 2 / 5 + 1, "{moved} moves: no more than two nodes' share");
}

#[test]
fn a_cluster_that_grows_from_one_node_is_replicated() {
    let mut meta = Meta::new(1);
    assert_eq!(settle(&mut meta), 0);
    meta.join("n2", 1, "").unwrap();
    meta.join("n3", 2, "").unwrap();
    assert_eq!(settle(&mut meta), 2);
    assert_eq!(loads(&meta.map()), [1, 1, 1]);
}

#[test]
fn a_node_that_leaves_ends_with_nothing() {
    let mut meta = Meta::new(4);
    keyspace(&mut meta, "events", 8, 3);
    remove(&mut meta, 2);
    settle(&mut meta);
    let map = meta.map();
    assert!(map.shards.values().all(|shard| shard.replica_on(NodeId(2)).is_none()));
    assert!(map.shards.values().all(|shard| shard.replicas.len() == 3));
    assert_eq!(ready_to_forget(&map, &BTreeSet::new()), [NodeId(2)]);
    assert_eq!(ready_to_forget(&map, &BTreeSet::from([NodeId(2)])), [], "it still votes on metadata");
    remove(&mut meta, 3);
    settle(&mut meta);
    assert!(meta.map().shards.values().all(|shard| shard.replicas.len() == 2), "as many as there are nodes");
}

#[test]
fn who_takes_a_place_gets_what_the_other_had() {
    let mut meta = Meta::new(3);
    keyspace(&mut meta, "events", 8, 3);
    meta.join("n3", 1, "n3").unwrap();
    assert_eq!(settle(&mut meta), 9);
    assert_eq!(loads(&meta.map()), [9, 9, 9]);
}

#[test]
fn work_at_a_time_is_bounded() {
    let mut meta = Meta::new(3);
    keyspace(&mut meta, "events", 32, 3);
    meta.join("n3", 1, "n3").unwrap();
    let begun = wanted(&meta.map());
    assert_eq!(begun.len(), INCOMING_MAX, "one node receives");
    for next in begun {
        meta.start(next.shard_id, next.add_node_id, next.remove_replica_id).unwrap();
    }
    assert_eq!(wanted(&meta.map()), [], "what runs counts");
}

#[test]
fn nodes_that_do_not_answer_get_nothing_and_shards_to_leave_are_left() {
    let mut meta = Meta::new(3);
    meta.join("n3", 1, "n3").unwrap();
    let (map, none) = (meta.map(), BTreeSet::new());
    let answering = BTreeSet::from([1, 2, 3].map(NodeId));
    assert_eq!(next_operations(&map, &none, &answering), []);
    let all = BTreeSet::from([1, 2, 3, 4].map(NodeId));
    assert_eq!(next_operations(&map, &none, &all).len(), 1);
    assert_eq!(next_operations(&map, &BTreeSet::from([GroupId(2)]), &all), []);
}

#[test]
fn replicas_spread_over_zones_that_come_later() {
    let mut map = ShardMap::default();
    let node = |id: u64, zone: &str| Node {
        id: NodeId(id),
        name: format!("n{id}"),
        client_address: String::new(),
        peer_address: String::new(),
        labels: [(ZONE.to_owned(), zone.to_owned())].into(),
        standing: Standing::Member,
    };
    for (id, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        map.nodes.insert(NodeId(id), node(id, zone));
    }
    let mut meta = Meta::new(3);
    keyspace(&mut meta, "events", 2, 3);
    let made = meta.map();
    map = ShardMap { keyspaces: made.keyspaces, shards: made.shards, ..map };
    let moves = wanted(&map);
    assert_eq!(moves.len(), 2, "{moves:?}");
    assert!(moves.iter().all(|next| next.add_node_id == 4 && next.remove_replica_id > 0));
}

#[test]
fn votes_on_metadata_follow_the_nodes() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let mut meta = Meta::new(3);
    let all = ids(&[1, 2, 3, 4, 5]);
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &all), ids(&[1, 2, 3]));
    meta.join("n4", 1, "").unwrap();
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &all), ids(&[1, 2, 3]), "four bear no more than three");
    meta.join("n5", 2, "").unwrap();
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &ids(&[1, 2, 3])), ids(&[1, 2, 3]), "none has caught up");
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &all), ids(&[1, 2, 3, 4]));
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3, 4]), &all), all);
    remove(&mut meta, 2);
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &ids(&[1])), ids(&[1, 2, 3]), "nobody can take its vote yet");
    assert_eq!(meta_voters(&meta.map(), &ids(&[1, 2, 3]), &all), ids(&[1, 3, 4]));
    assert_eq!(meta_voters(&meta.map(), &all, &all), ids(&[1, 3, 4, 5]), "all others vote already");
}

proptest! {
    #[test]
    fn the_planner_comes_to_rest_even(
        nodes in 1u64..6,
        keyspaces in proptest::collection::vec((1u32..12, 1u32..4), 1..4),
        joins in 0u64..4,
        leaves in proptest::collection::btree_set(1u64..9, 0..3),
    ) {
        let mut meta = Meta::new(nodes);
        for (number, (shards, replicas)) in keyspaces.into_iter().enumerate() {
            keyspace(&mut meta, &format!("k{number}"), shards, replicas.min(u32::try_from(nodes).unwrap()));
        }
        for number in 0..joins {
            meta.join(&format!("j{number}"), number + 1, "").unwrap();
        }
        for leaver in leaves {
            // The last one stays.
            meta.command(Kind::RemoveNode(RemoveNode { node_id: leaver })).ok();
        }
        settle(&mut meta);
        let map = meta.map();
        prop_assert!(is_even(&map), "{:?}", loads(&map));
        for shard in map.shards.values() {
            prop_assert!(shard.replicas.len() >= map.replicas_wanted(shard.keyspace));
            let homes: BTreeSet<_> = shard.replicas.iter().map(|replica| replica.node).collect();
            prop_assert_eq!(homes.len(), shard.replicas.len());
            prop_assert!(homes.iter().all(|home| map.nodes[home].standing == Standing::Member));
        }
    }
}
