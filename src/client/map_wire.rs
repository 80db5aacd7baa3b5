//! Reads the shard map from its wire form. Bytes from the network: every field may be missing.

use std::collections::BTreeMap;

use crate::proto::v1::{self, MapResponse, sharding, span};
use crate::types::map::{Keyspace, Node, Replica, Shard, ShardMap, Sharding};
use crate::types::{ClusterId, Epoch, GroupId, KeyspaceId, NodeId, ReplicaId, Span};

/// A map that no sound server sends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server sent a map that makes no sense: {0}")]
pub(crate) struct MapError(String);

/// Reads a map. A node that has not joined a cluster yet sends one of version 0.
pub(crate) fn read_map(wire: &MapResponse) -> Result<ShardMap, MapError> {
    let cluster_id = match wire.cluster_id.len() {
        0 => None,
        _ => {
            Some(ClusterId::from_bytes(&wire.cluster_id).ok_or_else(|| MapError("cluster id is not 16 bytes".into()))?)
        }
    };
    let mut map = ShardMap { cluster_id, version: wire.version, ..ShardMap::default() };
    for node in &wire.nodes {
        map.nodes.insert(NodeId(node.id), read_node(node));
    }
    for keyspace in &wire.keyspaces {
        map.keyspaces.insert(KeyspaceId(keyspace.id), read_keyspace(keyspace)?);
    }
    for shard in &wire.shards {
        let shard = read_shard(shard)?;
        if !map.keyspaces.contains_key(&shard.keyspace) {
            return Err(MapError(format!("shard {} is part of no keyspace", shard.id)));
        }
        map.shards.insert(shard.id, shard);
    }
    Ok(map)
}

fn read_node(wire: &v1::Node) -> Node {
    Node {
        id: NodeId(wire.id),
        name: wire.name.clone(),
        client_address: wire.client_address.clone(),
        peer_address: wire.peer_address.clone(),
        labels: wire.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<BTreeMap<_, _>>(),
    }
}

fn read_keyspace(wire: &v1::Keyspace) -> Result<Keyspace, MapError> {
    let kind = wire.sharding.as_ref().and_then(|sharding| sharding.kind.as_ref());
    let sharding = match kind {
        Some(sharding::Kind::Single(_)) => Sharding::Single,
        Some(sharding::Kind::Hash(hash)) => Sharding::Hash(hash.shards),
        Some(sharding::Kind::Range(_)) => Sharding::Range,
        None => return Err(MapError(format!("keyspace `{}` has no sharding", wire.name))),
    };
    Ok(Keyspace {
        id: KeyspaceId(wire.id),
        name: wire.name.clone(),
        sharding,
        replication_factor: wire.replication_factor,
        history_revisions: wire.history_revisions,
    })
}

fn read_shard(wire: &v1::Shard) -> Result<Shard, MapError> {
    let kind = wire.span.as_ref().and_then(|span| span.kind.as_ref());
    let span = match kind {
        Some(span::Kind::Keys(keys)) => {
            Span::Keys { start: keys.start.clone(), end: (!keys.end.is_empty()).then(|| keys.end.clone()) }
        }
        Some(span::Kind::Slots(slots)) => Span::Slots { first: slots.first, last: slots.last },
        None => return Err(MapError(format!("shard {} has no span", wire.id))),
    };
    let replicas = wire.replicas.iter().map(|replica| Replica {
        id: ReplicaId(replica.id),
        node: NodeId(replica.node_id),
        voter: replica.voter,
        founding: replica.founding,
    });
    Ok(Shard {
        id: GroupId(wire.id),
        keyspace: KeyspaceId(wire.keyspace_id),
        span,
        epoch: Epoch(wire.epoch),
        replicas: replicas.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::read_map;
    use crate::client::fake;
    use crate::proto::v1::MapResponse;

    #[test]
    fn a_sound_map_is_read_and_a_broken_one_refused() {
        let wire = fake::map(&["a:1", "b:2"]);
        let map = read_map(&wire).unwrap();
        assert_eq!((map.nodes.len(), map.shards.len(), map.version), (2, 1, 1));
        assert_eq!(read_map(&MapResponse::default()).unwrap().version, 0, "not founded yet");

        let broken = |change: fn(&mut MapResponse)| {
            let mut wire = wire.clone();
            change(&mut wire);
            read_map(&wire).unwrap_err()
        };
        broken(|wire| wire.cluster_id.truncate(3));
        broken(|wire| wire.keyspaces[0].sharding = None);
        broken(|wire| wire.shards[0].span = None);
        broken(|wire| wire.shards[0].keyspace_id = 99);
    }
}
