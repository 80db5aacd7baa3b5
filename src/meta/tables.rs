//! How the metadata lies in the engine.
//!
//! | key | value |
//! |---|---|
//! | `01` | `MetaState` |
//! | `02`, node id (8 bytes, big endian) | `quorate.v1.Node` |
//! | `03`, keyspace id | `quorate.v1.Keyspace` |
//! | `04`, shard id | `quorate.v1.Shard` |
//! | `05`, name | `Setting` |
//! | `06`, operation id | `Operation` |
//! | `07`, node id | `Joined`, for nodes that were not there from the beginning |

use std::ops::Bound;

use bytes::Bytes;
use prost::Message;

use crate::proto::{internal, v1};
use crate::storage::engine::{Direction, EngineError, View, WriteSet};
use crate::types::map::{Keyspace, Node, Operation, Shard, ShardMap};
use crate::types::{ClusterId, GroupId, NodeId, OperationId, ReplicaId};

const STATE: u8 = 1;
const NODES: u8 = 2;
const KEYSPACES: u8 = 3;
const SHARDS: u8 = 4;
const SETTINGS: u8 = 5;
const OPERATIONS: u8 = 6;
const JOINED: u8 = 7;

pub(super) fn state(view: &dyn View) -> Result<Option<internal::MetaState>, EngineError> {
    view.get(&[STATE])?.map(decode).transpose()
}

pub(super) fn node(view: &dyn View, id: u64) -> Result<Option<v1::Node>, EngineError> {
    view.get(&key(NODES, id))?.map(decode).transpose()
}

pub(super) fn put_state(writes: &mut WriteSet<'_>, state: &internal::MetaState) {
    writes.put(Bytes::from_static(&[STATE]), encode(state));
}

pub(super) fn put_node(writes: &mut WriteSet<'_>, node: &v1::Node) {
    writes.put(key(NODES, node.id), encode(node));
}

pub(super) fn remove_node(writes: &mut WriteSet<'_>, id: u64) {
    writes.delete(key(NODES, id));
    writes.delete(key(JOINED, id));
}

/// The token under which a node joined; 0 while it is awaited, `None` for a founding one.
pub(super) fn token(view: &dyn View, node: NodeId) -> Result<Option<u64>, EngineError> {
    let joined = view.get(&key(JOINED, node.0))?.map(decode::<internal::Joined>).transpose()?;
    Ok(joined.map(|joined| joined.token))
}

pub(super) fn put_token(writes: &mut WriteSet<'_>, node: u64, token: u64) {
    writes.put(key(JOINED, node), encode(&internal::Joined { token }));
}

pub(super) fn shard(view: &dyn View, id: u64) -> Result<Option<v1::Shard>, EngineError> {
    view.get(&key(SHARDS, id))?.map(decode).transpose()
}

pub(super) fn operation(view: &dyn View, id: u64) -> Result<Option<internal::Operation>, EngineError> {
    view.get(&key(OPERATIONS, id))?.map(decode).transpose()
}

pub(super) fn put_operation(writes: &mut WriteSet<'_>, operation: &internal::Operation) {
    writes.put(key(OPERATIONS, operation.id), encode(operation));
}

pub(super) fn remove_operation(writes: &mut WriteSet<'_>, id: u64) {
    writes.delete(key(OPERATIONS, id));
}

pub(super) fn put_keyspace(writes: &mut WriteSet<'_>, keyspace: &v1::Keyspace) {
    writes.put(key(KEYSPACES, keyspace.id), encode(keyspace));
}

pub(super) fn put_shard(writes: &mut WriteSet<'_>, shard: &v1::Shard) {
    writes.put(key(SHARDS, shard.id), encode(shard));
}

pub(super) fn keyspaces(view: &dyn View) -> Result<Vec<v1::Keyspace>, EngineError> {
    table(view, KEYSPACES)
}

pub(super) fn remove_keyspace(writes: &mut WriteSet<'_>, id: u64) {
    writes.delete(key(KEYSPACES, id));
}

pub(super) fn remove_shard(writes: &mut WriteSet<'_>, id: u64) {
    writes.delete(key(SHARDS, id));
}

pub(super) fn put_setting(writes: &mut WriteSet<'_>, name: &str, value: String) {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(SETTINGS);
    key.extend_from_slice(name.as_bytes());
    writes.put(key.into(), encode(&internal::Setting { value }));
}

/// The whole map; the default one before the cluster is founded.
pub(super) fn map(view: &dyn View) -> Result<ShardMap, EngineError> {
    let Some(state) = state(view)? else { return Ok(ShardMap::default()) };
    let cluster_id = ClusterId::from_bytes(&state.cluster_id).ok_or_else(|| corrupt("cluster id"))?;
    let mut map = ShardMap {
        cluster_id: Some(cluster_id),
        version: state.version,
        next_shard: GroupId(state.next_shard_id),
        next_replica: ReplicaId(state.next_replica_id),
        next_node: NodeId(state.next_node_id),
        ..ShardMap::default()
    };
    for node in table::<v1::Node>(view, NODES)? {
        let node = Node::from(node);
        map.nodes.insert(node.id, node);
    }
    for keyspace in table::<v1::Keyspace>(view, KEYSPACES)? {
        let keyspace = Keyspace::try_from(keyspace).map_err(corrupt)?;
        map.keyspaces.insert(keyspace.id, keyspace);
    }
    for shard in table::<v1::Shard>(view, SHARDS)? {
        let shard = Shard::try_from(shard).map_err(corrupt)?;
        map.shards.insert(shard.id, shard);
    }
    for operation in table::<internal::Operation>(view, OPERATIONS)? {
        let operation = read_operation(operation);
        map.operations.insert(operation.id, operation);
    }
    Ok(map)
}

fn read_operation(operation: internal::Operation) -> Operation {
    let replica = |id: u64| (id > 0).then_some(ReplicaId(id));
    Operation {
        id: OperationId(operation.id),
        shard: GroupId(operation.shard_id),
        add: replica(operation.add_replica_id),
        remove: replica(operation.remove_replica_id),
        cancelled: operation.cancelled,
        reason: operation.reason,
    }
}

fn table<M: Message + Default>(view: &dyn View, table: u8) -> Result<Vec<M>, EngineError> {
    let (start, end) = ([table], [table + 1]);
    let range = (Bound::Included(start.as_slice()), Bound::Excluded(end.as_slice()));
    view.scan(range, Direction::Forward).map(|pair| decode(pair?.1)).collect()
}

fn key(table: u8, id: u64) -> Bytes {
    let mut key = Vec::with_capacity(9);
    key.push(table);
    key.extend_from_slice(&id.to_be_bytes());
    key.into()
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, EngineError> {
    M::decode(bytes).map_err(corrupt)
}

fn corrupt(what: impl ToString) -> EngineError {
    EngineError::Corrupt(format!("metadata: {}", what.to_string()))
}
