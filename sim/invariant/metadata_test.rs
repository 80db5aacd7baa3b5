use std::sync::Arc;

use bytes::Bytes;
use quorate::types::map::{Keyspace, Shard, ShardMap, Sharding};
use quorate::types::{Epoch, GroupId, KeyspaceId, Span};

use super::metadata::Metadata;
use super::observed::{Invariant, NodeSample, Observed, Sample};

fn keys(start: &'static str, end: Option<&'static str>) -> Span {
    Span::Keys { start: Bytes::from_static(start.as_bytes()), end: end.map(|end| Bytes::from_static(end.as_bytes())) }
}

fn map(version: u64, spans: &[(u64, Span, u64)]) -> ShardMap {
    let id = KeyspaceId(1);
    let keyspace = Keyspace {
        id,
        name: "default".to_owned(),
        sharding: Sharding::Range,
        replication_factor: 3,
        dropping: false,
        history_revisions: 0,
        history_ms: 0,
    };
    let shard = |(group, span, epoch): &(u64, Span, u64)| {
        let group = GroupId(*group);
        let shard = Shard { id: group, keyspace: id, span: span.clone(), epoch: Epoch(*epoch), replicas: Vec::new() };
        (group, shard)
    };
    let shards = spans.iter().map(shard).collect();
    ShardMap { version, keyspaces: [(id, keyspace)].into(), shards, ..ShardMap::default() }
}

fn node(node: u64, map: &ShardMap, leads: &[(u64, u64)]) -> NodeSample {
    NodeSample { node, map: Arc::new(map.clone()), leads: leads.to_vec() }
}

fn run(samples: &[&[NodeSample]]) -> Result<u64, String> {
    let mut metadata = Metadata::default();
    let sample = |nodes: &&[NodeSample]| Sample { nodes: nodes.to_vec(), ..Sample::default() };
    samples.iter().map(|nodes| metadata.sample(&sample(nodes))).sum()
}

#[test]
fn spans_tile_the_keyspace() {
    let good = [
        vec![(2, Span::all(), 1)],
        vec![(3, keys("m", None), 1), (2, keys("", Some("m")), 1)],
        vec![(2, Span::Slots { first: 0, last: 9 }, 1), (3, Span::Slots { first: 10, last: u64::MAX }, 1)],
    ];
    for spans in good {
        assert_eq!(run(&[&[node(1, &map(1, &spans), &[])]]), Ok(2), "{spans:?}");
    }
    let bad = [
        vec![],
        vec![(2, keys("a", None), 1)],
        vec![(2, keys("", Some("m")), 1)],
        vec![(2, keys("", Some("m")), 1), (3, keys("n", None), 1)],
        vec![(2, keys("", Some("m")), 1), (3, keys("l", None), 1)],
        vec![(2, Span::all(), 1), (3, Span::all(), 1)],
        vec![(2, Span::Slots { first: 0, last: 9 }, 1), (3, Span::Slots { first: 11, last: u64::MAX }, 1)],
    ];
    for spans in bad {
        assert!(run(&[&[node(1, &map(1, &spans), &[])]]).is_err(), "{spans:?}");
    }
}

#[test]
fn versions_and_epochs_do_not_fall_within_a_start() {
    let at = |version, epoch| map(version, &[(2, Span::all(), epoch)]);
    let of = |map| [node(1, &map, &[])];
    assert!(run(&[&of(at(1, 1)), &of(at(2, 2))]).is_ok());
    assert!(run(&[&of(at(2, 2)), &of(at(1, 1))]).is_err());
    assert!(run(&[&of(at(1, 2)), &of(at(2, 1))]).is_err());
    let mut metadata = Metadata::default();
    let sample = |map| Sample { nodes: of(map).to_vec(), ..Sample::default() };
    metadata.sample(&sample(at(2, 2))).unwrap();
    let opened = Observed { what: "opened".to_owned(), group: 1, replica: 1, ..Observed::default() };
    metadata.observe(&opened).unwrap();
    assert!(metadata.sample(&sample(at(1, 1))).is_ok(), "started again");
}

#[test]
fn one_version_is_one_map() {
    let (one, other) = (map(5, &[(2, Span::all(), 1)]), map(5, &[(3, Span::all(), 1)]));
    assert!(run(&[&[node(1, &one, &[]), node(2, &one, &[])]]).is_ok());
    assert!(run(&[&[node(1, &one, &[]), node(2, &other, &[])]]).is_err());
    assert!(run(&[&[node(1, &one, &[])], &[node(2, &other, &[])]]).is_err());
}

#[test]
fn a_key_has_one_leader_a_term() {
    let halves = map(1, &[(2, keys("", Some("m")), 1), (3, keys("m", None), 1)]);
    let whole = map(2, &[(2, Span::all(), 2)]);
    assert!(run(&[&[node(1, &halves, &[(2, 4)]), node(2, &halves, &[(3, 4)])]]).is_ok());
    assert!(run(&[&[node(1, &halves, &[(2, 4)]), node(2, &halves, &[(2, 5)])]]).is_ok(), "one is deposed");
    assert!(run(&[&[node(1, &halves, &[(2, 4)]), node(2, &halves, &[(2, 4)])]]).is_err());
    assert!(run(&[&[node(1, &whole, &[(2, 4)]), node(2, &halves, &[(3, 5)])]]).is_err(), "two epochs of a key");
}
