use bytes::Bytes;
use proptest::prelude::*;

use super::super::test_bed::Meta;
use super::*;
use crate::proto::internal::meta_command::Kind;
use crate::proto::v1::sharding::{Hash, Range, Single};
use crate::types::{GroupId, Span};

impl Meta {
    fn create(&mut self, request: CreateKeyspaceRequest) -> Result<u64, ErrorCode> {
        let command = place(&self.map(), request);
        self.command(Kind::CreateKeyspace(command))
    }

    fn drop(&mut self, name: &str) -> Result<u64, ErrorCode> {
        self.command(Kind::DropKeyspace(DropKeyspace { name: name.into(), keyspace_id: 0 }))
    }

    fn update(&mut self, request: v1::UpdateKeyspaceRequest) -> Result<u64, ErrorCode> {
        self.command(Kind::UpdateKeyspace(UpdateKeyspace { keyspace: Some(request) }))
    }

    fn forget(&mut self, shard_ids: Vec<u64>) -> Result<u64, ErrorCode> {
        self.command(Kind::ForgetShards(ForgetShards { shard_ids }))
    }
}

fn request(name: &str, kind: Sharding, splits: &[&str]) -> CreateKeyspaceRequest {
    CreateKeyspaceRequest {
        name: name.into(),
        sharding: Some(v1::Sharding { kind: Some(kind) }),
        split_keys: splits.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect(),
        ..Default::default()
    }
}

fn hash(name: &str, shards: u32) -> CreateKeyspaceRequest {
    request(name, Sharding::Hash(Hash { shards }), &[])
}

fn range(name: &str, splits: &[&str]) -> CreateKeyspaceRequest {
    request(name, Sharding::Range(Range {}), splits)
}

#[test]
fn what_is_kept_of_the_history_can_be_changed() {
    let mut meta = Meta::new(3);
    let request = |name: &str| v1::UpdateKeyspaceRequest { name: name.into(), ..Default::default() };
    let kept = |meta: &Meta, name: &str| {
        let map = meta.map();
        let keyspace = map.keyspace(name).unwrap();
        (keyspace.history_revisions, keyspace.history_ms)
    };
    meta.update(v1::UpdateKeyspaceRequest { history_ms: Some(60_000), ..request("default") }).unwrap();
    assert_eq!(kept(&meta, "default"), (0, 60_000));
    meta.update(v1::UpdateKeyspaceRequest { history_revisions: Some(9), ..request("default") }).unwrap();
    assert_eq!(kept(&meta, "default"), (9, 60_000), "the other stays");
    meta.update(v1::UpdateKeyspaceRequest { history_ms: Some(0), ..request("default") }).unwrap();
    assert_eq!(kept(&meta, "default"), (9, 0));
    let too_short = v1::UpdateKeyspaceRequest { history_ms: Some(999), ..request("default") };
    assert_eq!(meta.update(too_short), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.update(request("other")), Err(ErrorCode::KeyspaceNotFound));
    let made = CreateKeyspaceRequest { name: "short".into(), history_ms: 999, ..Default::default() };
    assert_eq!(meta.create(made.clone()), Err(ErrorCode::InvalidArgument));
    meta.create(CreateKeyspaceRequest { history_ms: 1_000, ..made }).unwrap();
    assert_eq!(kept(&meta, "short"), (0, 1_000));
    meta.drop("short").unwrap();
    assert_eq!(meta.update(request("short")), Err(ErrorCode::KeyspaceNotFound), "it is being dropped");
}

#[test]
fn keyspaces_are_made_with_all_their_shards() {
    let mut meta = Meta::new(5);
    assert_eq!(meta.create(hash("events", 16)), Ok(2));
    assert_eq!(meta.create(range("users", &["g", "n"])), Ok(3));
    assert_eq!(meta.create(CreateKeyspaceRequest { name: "plain".into(), ..Default::default() }), Ok(4));
    let map = meta.map();
    let shards = |name: &str| map.shards_of(map.keyspace(name).unwrap().id).cloned().collect::<Vec<_>>();
    assert_eq!(shards("events").len(), 16);
    let spans: Vec<_> = shards("users").into_iter().map(|shard| shard.span.to_string()).collect();
    assert_eq!(spans, ["[, g)", "[g, n)", "[n, ∞)"]);
    assert_eq!(shards("plain")[0].span, Span::all());
    assert_eq!(map.next_shard, GroupId(2 + 1 + 16 + 3 + 1));
    let mut replicas: Vec<_> =
        map.shards.values().flat_map(|shard| &shard.replicas).map(|replica| replica.id).collect();
    let count = replicas.len();
    assert_eq!(count, 21 * 3);
    replicas.sort_unstable();
    replicas.dedup();
    assert_eq!(replicas.len(), count, "ids of replicas are never reused");
    assert!(map.shards.values().all(|shard| shard.replicas.is_sorted_by_key(|replica| replica.id)));
}

#[test]
fn a_dropped_keyspace_goes_with_its_last_shard() {
    let mut meta = Meta::new(3);
    meta.create(hash("events", 3)).unwrap();
    let ids: Vec<u64> = meta.map().shards.keys().map(|id| id.0).skip(1).collect();
    assert_eq!(meta.forget(ids.clone()), Err(ErrorCode::InvalidArgument), "it serves");
    assert_eq!(meta.drop("events"), Ok(3));
    assert_eq!(meta.drop("events"), Ok(3), "again");
    assert!(meta.map().keyspace("events").is_none());
    assert_eq!(meta.create(hash("events", 3)), Err(ErrorCode::AlreadyExists));
    assert_eq!(meta.forget(ids[..2].to_vec()), Ok(4));
    assert_eq!(meta.forget(ids[..2].to_vec()), Ok(4), "by another leader, again");
    assert!(meta.map().has_forgotten(GroupId(ids[0])) && !meta.map().has_forgotten(GroupId(ids[2])));
    assert_eq!(meta.forget(ids[2..].to_vec()), Ok(5));
    assert_eq!(meta.map().keyspaces.len(), 1);
    assert_eq!(meta.drop("events"), Err(ErrorCode::KeyspaceNotFound));
    assert_eq!(meta.create(hash("events", 3)), Ok(6));
    let late = DropKeyspace { name: "events".into(), keyspace_id: 2 };
    assert_eq!(meta.command(Kind::DropKeyspace(late)), Err(ErrorCode::KeyspaceNotFound), "that one is gone");
    assert!(meta.map().shards.keys().skip(1).all(|id| id.0 > ids[2]), "ids of shards are never reused");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut meta = Meta::new(3);
    let long = "x".repeat(KEYSPACE_NAME_BYTES_MAX + 1);
    for name in ["", "A", "-a", "a b", "ä", "a/b", "(metadata)", &long] {
        assert_eq!(meta.create(hash(name, 1)), Err(ErrorCode::InvalidArgument), "{name:?}");
    }
    assert_eq!(meta.create(hash("default", 1)), Err(ErrorCode::AlreadyExists));
    assert_eq!(meta.create(hash("h", 0)), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.create(hash("h", 1_025)), Err(ErrorCode::LimitExceeded));
    assert_eq!(meta.create(range("r", &["b", "a"])), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.create(range("r", &["a", "a"])), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.create(range("r", &["", "a"])), Err(ErrorCode::InvalidArgument));
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    assert_eq!(meta.create(range("r", &[&long])), Err(ErrorCode::LimitExceeded));
    let many: Vec<_> = (0..KEYSPACE_SHARDS_MAX).map(|n| format!("{n:04}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(meta.create(range("r", &many)), Err(ErrorCode::LimitExceeded));
    assert_eq!(meta.create(range("r", &many[1..])), Ok(2));
    assert_eq!(meta.create(request("s", Sharding::Single(Single {}), &["a"])), Err(ErrorCode::InvalidArgument));
    let factor = |replication_factor| CreateKeyspaceRequest { replication_factor, ..hash("f", 1) };
    assert_eq!(meta.create(factor(4)), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.create(factor(2)), Ok(3));
    assert_eq!(Meta::new(12).create(factor(10)), Err(ErrorCode::LimitExceeded));
    assert_eq!(meta.drop("default"), Err(ErrorCode::InvalidArgument));
    assert_eq!(meta.drop("none"), Err(ErrorCode::KeyspaceNotFound));
}

#[test]
fn a_placement_that_the_members_no_longer_fit_is_refused() {
    let mut meta = Meta::new(4);
    let place_with = |change: &dyn Fn(&mut Vec<u64>)| {
        let mut command = place(&meta.map(), hash("h", 2));
        change(&mut command.placements[1].node_ids);
        Kind::CreateKeyspace(command)
    };
    let wrong = [
        place_with(&|nodes| nodes[0] = 9),
        place_with(&|nodes| nodes[0] = nodes[1]),
        place_with(&|nodes| nodes.truncate(nodes.len() - 1)),
        place_with(&|nodes| nodes.push(4)),
    ];
    let right = place_with(&|_| {});
    for command in wrong {
        assert_eq!(meta.command(command), Err(ErrorCode::Unavailable));
    }
    assert_eq!(meta.command(right), Ok(2));
}

#[test]
fn there_is_a_most_of_shards_and_of_keyspaces() {
    let mut meta = Meta::new(1);
    for n in 0..3 {
        meta.create(hash(&format!("h{n}"), 1_024)).unwrap();
    }
    assert_eq!(meta.create(hash("more", 1_024)), Err(ErrorCode::LimitExceeded));
    assert!(meta.create(hash("more", 1_023)).is_ok());
    assert_eq!(meta.create(hash("one", 1)), Err(ErrorCode::LimitExceeded));
}

proptest! {
    #[test]
    fn spans_tile_the_hash_space(shards in 1u32..=1_024) {
        let spans = slots(shards).unwrap();
        let mut next = Some(0u64);
        for span in &spans {
            let v1::span::Kind::Slots(slots) = span else { panic!("no slots") };
            prop_assert_eq!(Some(slots.first), next);
            prop_assert!(slots.first <= slots.last);
            next = slots.last.checked_add(1);
        }
        prop_assert_eq!(next, None);
    }
}

#[test]
fn a_keyspace_of_a_small_cluster_gets_its_replicas_when_nodes_come() {
    let mut meta = Meta::new(1);
    assert_eq!(meta.create(hash("events", 2)), Ok(2));
    let alone = CreateKeyspaceRequest { replication_factor: 1, ..hash("alone", 1) };
    assert_eq!(meta.create(alone), Ok(3));
    let id = |meta: &Meta, name: &str| meta.map().keyspace(name).unwrap().id;
    let (events, single) = (id(&meta, "events"), id(&meta, "alone"));
    assert!(meta.map().shards_of(events).all(|shard| shard.replicas.len() == 1));
    assert_eq!((meta.map().replicas_wanted(events), meta.map().replicas_wanted(single)), (1, 1));
    assert_eq!((meta.join("n2", 7, ""), meta.join("n3", 8, "")), (Ok(2), Ok(3)));
    assert_eq!((meta.map().replicas_wanted(events), meta.map().replicas_wanted(single)), (3, 1));
}
