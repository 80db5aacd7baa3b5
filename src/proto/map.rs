//! The shard map on the wire and back. What comes from outside is checked, never trusted.

use crate::types::map::{Keyspace, Node, Replica, Shard, ShardMap, Sharding, Standing};
use crate::types::{ClusterId, Epoch, GroupId, KeyspaceId, NodeId, ReplicaId, Span};

use super::v1;

/// A message that is not a map.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed shard map: {0}")]
pub struct MalformedMap(&'static str);

impl From<&Node> for v1::Node {
    fn from(node: &Node) -> Self {
        Self {
            id: node.id.0,
            name: node.name.clone(),
            client_address: node.client_address.clone(),
            peer_address: node.peer_address.clone(),
            labels: node.labels.clone().into_iter().collect(),
            standing: match node.standing {
                Standing::Member => v1::NodeStanding::Member,
                Standing::Awaited => v1::NodeStanding::Awaited,
                Standing::Leaving => v1::NodeStanding::Leaving,
            }
            .into(),
        }
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let standing = match node.standing() {
            v1::NodeStanding::Member => Standing::Member,
            v1::NodeStanding::Awaited => Standing::Awaited,
            v1::NodeStanding::Leaving => Standing::Leaving,
        };
        Self {
            standing,
            id: NodeId(node.id),
            name: node.name,
            client_address: node.client_address,
            peer_address: node.peer_address,
            labels: node.labels.into_iter().collect(),
        }
    }
}

impl From<&Keyspace> for v1::Keyspace {
    fn from(keyspace: &Keyspace) -> Self {
        use v1::sharding::{Hash, Kind, Range, Single};
        let kind = match keyspace.sharding {
            Sharding::Single => Kind::Single(Single {}),
            Sharding::Hash(shards) => Kind::Hash(Hash { shards }),
            Sharding::Range => Kind::Range(Range {}),
        };
        Self {
            id: keyspace.id.0,
            name: keyspace.name.clone(),
            sharding: Some(v1::Sharding { kind: Some(kind) }),
            replication_factor: keyspace.replication_factor,
            history_revisions: keyspace.history_revisions,
            history_ms: keyspace.history_ms,
            dropping: keyspace.dropping,
        }
    }
}

impl TryFrom<v1::Keyspace> for Keyspace {
    type Error = MalformedMap;

    fn try_from(keyspace: v1::Keyspace) -> Result<Self, MalformedMap> {
        use v1::sharding::Kind;
        let sharding = match keyspace.sharding.and_then(|sharding| sharding.kind) {
            Some(Kind::Single(_)) => Sharding::Single,
            Some(Kind::Hash(hash)) => Sharding::Hash(hash.shards),
            Some(Kind::Range(_)) => Sharding::Range,
            None => return Err(MalformedMap("a keyspace without sharding")),
        };
        Ok(Self {
            id: KeyspaceId(keyspace.id),
            name: keyspace.name,
            sharding,
            replication_factor: keyspace.replication_factor,
            history_revisions: keyspace.history_revisions,
            history_ms: keyspace.history_ms,
            dropping: keyspace.dropping,
        })
    }
}

impl From<&Span> for v1::Span {
    fn from(span: &Span) -> Self {
        use v1::span::{Keys, Kind, Slots};
        let kind = match span {
            Span::Keys { start, end } => {
                Kind::Keys(Keys { start: start.clone(), end: end.clone().unwrap_or_default() })
            }
            Span::Slots { first, last } => Kind::Slots(Slots { first: *first, last: *last }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Span> for Span {
    type Error = MalformedMap;

    fn try_from(span: v1::Span) -> Result<Self, MalformedMap> {
        use v1::span::Kind;
        match span.kind {
            Some(Kind::Keys(keys)) => {
                Ok(Self::Keys { start: keys.start, end: (!keys.end.is_empty()).then_some(keys.end) })
            }
            Some(Kind::Slots(slots)) if slots.first <= slots.last => {
                Ok(Self::Slots { first: slots.first, last: slots.last })
            }
            Some(Kind::Slots(_)) => Err(MalformedMap("a span of slots that ends before it starts")),
            None => Err(MalformedMap("a shard without a span")),
        }
    }
}

impl From<&Shard> for v1::Shard {
    fn from(shard: &Shard) -> Self {
        let replica = |replica: &Replica| v1::Replica {
            id: replica.id.0,
            node_id: replica.node.0,
            voter: replica.voter,
            founding: replica.founding,
        };
        Self {
            id: shard.id.0,
            keyspace_id: shard.keyspace.0,
            span: Some((&shard.span).into()),
            epoch: shard.epoch.0,
            replicas: shard.replicas.iter().map(replica).collect(),
        }
    }
}

impl TryFrom<v1::Shard> for Shard {
    type Error = MalformedMap;

    fn try_from(shard: v1::Shard) -> Result<Self, MalformedMap> {
        let replica = |replica: v1::Replica| Replica {
            id: ReplicaId(replica.id),
            node: NodeId(replica.node_id),
            voter: replica.voter,
            founding: replica.founding,
        };
        Ok(Self {
            id: GroupId(shard.id),
            keyspace: KeyspaceId(shard.keyspace_id),
            span: shard.span.ok_or(MalformedMap("a shard without a span"))?.try_into()?,
            epoch: Epoch(shard.epoch),
            replicas: shard.replicas.into_iter().map(replica).collect(),
        })
    }
}

impl From<&ShardMap> for v1::MapResponse {
    fn from(map: &ShardMap) -> Self {
        Self {
            cluster_id: map.cluster_id.map(|id| id.0.to_vec().into()).unwrap_or_default(),
            version: map.version,
            nodes: map.nodes.values().map(Into::into).collect(),
            keyspaces: map.keyspaces.values().map(Into::into).collect(),
            shards: map.shards.values().map(Into::into).collect(),
            leaders: Vec::new(),
            next_shard_id: map.next_shard.0,
        }
    }
}

impl TryFrom<v1::MapResponse> for ShardMap {
    type Error = MalformedMap;

    fn try_from(map: v1::MapResponse) -> Result<Self, MalformedMap> {
        let cluster_id = match map.cluster_id.as_ref() {
            [] => None,
            id => Some(ClusterId::from_bytes(id).ok_or(MalformedMap("a cluster id that is not 16 bytes"))?),
        };
        let nodes = map.nodes.into_iter().map(Node::from).map(|node| (node.id, node)).collect();
        let keyspaces = map.keyspaces.into_iter().map(Keyspace::try_from);
        let shards = map.shards.into_iter().map(Shard::try_from);
        Ok(Self {
            cluster_id,
            version: map.version,
            nodes,
            keyspaces: keyspaces.map(|item| item.map(|item| (item.id, item))).collect::<Result<_, _>>()?,
            shards: shards.map(|item| item.map(|item| (item.id, item))).collect::<Result<_, _>>()?,
            next_shard: GroupId(map.next_shard_id),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    fn map() -> ShardMap {
        let node = Node {
            id: NodeId(1),
            name: "n1".into(),
            client_address: "127.0.0.1:2379".into(),
            peer_address: "127.0.0.1:2380".into(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            standing: Standing::Leaving,
        };
        let keyspace = |id, sharding| Keyspace {
            id: KeyspaceId(id),
            name: format!("k{id}"),
            sharding,
            replication_factor: 3,
            history_revisions: 7,
            history_ms: 8_000,
            dropping: id == 3,
        };
        let shard = |id, span| Shard {
            id: GroupId(id),
            keyspace: KeyspaceId(1),
            span,
            epoch: Epoch(4),
            replicas: vec![Replica { id: ReplicaId(9), node: NodeId(1), voter: true, founding: false }],
        };
        let keys = Span::Keys { start: Bytes::from_static(b"a"), end: Some(Bytes::from_static(b"b")) };
        ShardMap {
            cluster_id: Some(ClusterId([7; 16])),
            version: 12,
            nodes: BTreeMap::from([(NodeId(1), node)]),
            keyspaces: [(1, Sharding::Single), (2, Sharding::Hash(16)), (3, Sharding::Range)]
                .map(|(id, sharding)| (KeyspaceId(id), keyspace(id, sharding)))
                .into(),
            shards: [(2, Span::all()), (3, Span::Slots { first: 5, last: 9 }), (4, keys)]
                .map(|(id, span)| (GroupId(id), shard(id, span)))
                .into(),
            next_shard: GroupId(9),
            ..ShardMap::default()
        }
    }

    #[test]
    fn survives_the_wire() {
        let map = map();
        assert_eq!(ShardMap::try_from(v1::MapResponse::from(&map)), Ok(map));
        assert_eq!(ShardMap::try_from(v1::MapResponse::from(&ShardMap::default())), Ok(ShardMap::default()));
    }

    #[test]
    fn refuses_what_is_no_map() {
        let whole = v1::MapResponse::from(&map());
        let mut no_span = whole.clone();
        no_span.shards[0].span = None;
        let mut short_id = whole.clone();
        short_id.cluster_id = Bytes::from_static(b"short");
        let mut inverted = whole.clone();
        inverted.shards[1].span =
            Some(v1::Span { kind: Some(v1::span::Kind::Slots(v1::span::Slots { first: 9, last: 5 })) });
        let mut no_sharding = whole;
        no_sharding.keyspaces[0].sharding = None;
        for malformed in [no_span, short_id, inverted, no_sharding] {
            assert!(ShardMap::try_from(malformed).is_err());
        }
    }
}
