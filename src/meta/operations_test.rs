use super::super::test_bed::Meta;
use super::*;
use crate::proto::internal::meta_command::{DropKeyspace, ForgetShards, Kind, RemoveNode};
use crate::types::{Epoch, OperationId};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;

fn finish(meta: &mut Meta, operation_id: u64, undone: bool) {
    meta.command(Kind::FinishOperation(FinishOperation { operation_id, undone })).unwrap();
}

/// (replica, node, votes) of each replica, and the epoch.
fn replicas(meta: &Meta) -> (Vec<(u64, u64, bool)>, Epoch) {
    let shard = meta.map().shards[&GroupId(SHARD)].clone();
    (shard.replicas.iter().map(|replica| (replica.id.0, replica.node.0, replica.voter)).collect(), shard.epoch)
}

#[test]
fn a_replica_moves_by_way_of_a_learner() {
    let mut meta = Meta::new(4);
    let before = replicas(&meta);
    assert_eq!(before, (vec![(5, 1, true), (6, 2, true), (7, 3, true)], Epoch(1)));
    let id = meta.start(SHARD, 4, 5).unwrap();
    assert_eq!(replicas(&meta), (vec![(5, 1, true), (6, 2, true), (7, 3, true), (8, 4, false)], Epoch(2)));
    assert!(!meta.map().has_dropped(GroupId(SHARD), ReplicaId(5)));
    finish(&mut meta, id, false);
    assert_eq!(replicas(&meta), (vec![(8, 4, true), (6, 2, true), (7, 3, true)], Epoch(3)), "in the same place");
    assert!(meta.map().operations.is_empty());
    assert!(meta.map().has_dropped(GroupId(SHARD), ReplicaId(5)));
    assert!(!meta.map().has_dropped(GroupId(SHARD), ReplicaId(9)), "one that this map does not know yet");
    let version = meta.map().version;
    finish(&mut meta, id, false);
    assert_eq!(meta.map().version, version, "said twice, done once");
}

#[test]
fn a_cancelled_operation_leaves_what_was() {
    let mut meta = Meta::new(4);
    let before = replicas(&meta).0;
    let id = meta.start(SHARD, 4, 5).unwrap();
    let cancel = |meta: &mut Meta| meta.command(Kind::CancelOperation(CancelOperation { operation_id: id }));
    let version = cancel(&mut meta).unwrap();
    assert_eq!(cancel(&mut meta), Ok(version));
    assert!(meta.map().operations[&OperationId(id)].cancelled);
    finish(&mut meta, id, true);
    assert_eq!(replicas(&meta), (before, Epoch(3)));
    assert_eq!(cancel(&mut meta), Err(ErrorCode::InvalidArgument), "it does not run");
}

#[test]
fn a_cancellation_that_comes_too_late_changes_nothing() {
    let mut meta = Meta::new(4);
    let id = meta.start(SHARD, 4, 5).unwrap();
    meta.command(Kind::CancelOperation(CancelOperation { operation_id: id })).unwrap();
    finish(&mut meta, id, false);
    assert_eq!(replicas(&meta).0, [(8, 4, true), (6, 2, true), (7, 3, true)], "the votes had moved");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut meta = Meta::new(5);
    meta.join("later", 0, "").unwrap();
    meta.command(Kind::RemoveNode(RemoveNode { node_id: 5 })).unwrap();
    let invalid = [
        (9, 4, 0, "no such shard"),
        (1, 4, 0, "the metadata group is none"),
        (SHARD, 0, 0, "nothing to do"),
        (SHARD, 1, 0, "a replica is there"),
        (SHARD, 5, 0, "the node leaves"),
        (SHARD, 6, 0, "the node has not come"),
        (SHARD, 4, 99, "no such replica"),
        (SHARD, 0, 6, "fewer than the keyspace wants"),
    ];
    for (shard, add, remove, why) in invalid {
        assert_eq!(meta.start(shard, add, remove), Err(ErrorCode::InvalidArgument), "{why}");
    }
    assert_eq!(meta.start(SHARD, 99, 0), Err(ErrorCode::NodeNotFound));
    meta.start(SHARD, 4, 0).unwrap();
    assert_eq!(meta.start(SHARD, 4, 0), Err(ErrorCode::AlreadyExists), "one at a time");
}

#[test]
fn the_last_replica_stays() {
    let mut meta = Meta::new(1);
    let (replica, ..) = replicas(&meta).0[0];
    assert_eq!(meta.start(SHARD, 0, replica), Err(ErrorCode::InvalidArgument));
}

#[test]
fn a_replica_more_than_wanted_can_go() {
    let mut meta = Meta::new(4);
    let id = meta.start(SHARD, 4, 0).unwrap();
    finish(&mut meta, id, false);
    assert_eq!(replicas(&meta).0.len(), 4);
    let id = meta.start(SHARD, 0, 6).unwrap();
    finish(&mut meta, id, false);
    assert_eq!(replicas(&meta).0, [(5, 1, true), (7, 3, true), (8, 4, true)]);
}

#[test]
fn operations_are_bounded_and_end_with_their_shard() {
    let mut meta = Meta::new(4);
    let sharding = v1::sharding::Kind::Hash(v1::sharding::Hash { shards: 20 });
    let request = v1::CreateKeyspaceRequest {
        name: "many".into(),
        sharding: Some(v1::Sharding { kind: Some(sharding) }),
        replication_factor: 1,
        ..Default::default()
    };
    meta.command(Kind::CreateKeyspace(crate::meta::place(&meta.map(), request))).unwrap();
    let free = |meta: &Meta, shard: u64| {
        let map = meta.map();
        (1..=4).find(|node| map.shards[&GroupId(shard)].replica_on(NodeId(*node)).is_none()).unwrap()
    };
    for shard in 3..3 + OPERATIONS_MAX as u64 {
        let to = free(&meta, shard);
        meta.start(shard, to, 0).unwrap();
    }
    let last = 3 + OPERATIONS_MAX as u64;
    let to = free(&meta, last);
    assert_eq!(meta.start(last, to, 0), Err(ErrorCode::LimitExceeded));
    meta.command(Kind::DropKeyspace(DropKeyspace { name: "many".into(), keyspace_id: 0 })).unwrap();
    assert_eq!(meta.start(last, to, 0), Err(ErrorCode::InvalidArgument), "it is being dropped");
    meta.command(Kind::ForgetShards(ForgetShards { shard_ids: (3..23).collect() })).unwrap();
    assert!(meta.map().operations.is_empty());
}

#[test]
fn the_preferred_leader_stands_first() {
    let mut meta = Meta::new(3);
    let prefer = |meta: &mut Meta, node_id| meta.command(Kind::PreferLeader(PreferLeader { shard_id: SHARD, node_id }));
    let version = prefer(&mut meta, 3).unwrap();
    assert_eq!(replicas(&meta), (vec![(6, 3, true), (5, 2, true), (4, 1, true)], Epoch(1)), "no change of replicas");
    assert_eq!(prefer(&mut meta, 3), Ok(version));
    assert_eq!(prefer(&mut meta, 4), Err(ErrorCode::NodeNotFound));
}
