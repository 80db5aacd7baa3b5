//! Operations: changes of a shard's replicas, on record from their begin to their end, so that whoever
//! leads this group next goes on with them.
//!
//! The record says what is wanted. What has been done the shard's own group knows: its voters. The
//! descriptor follows them when the operation ends.

use super::machine::{not_founded, raise_version, refuse};
use super::nodes;
use super::tables;
use crate::proto::internal::meta_command::{CancelOperation, FinishOperation, PreferLeader, StartOperation};
use crate::proto::internal::{self, MetaResult, meta_result};
use crate::proto::v1::{self, ErrorCode};
use crate::storage::engine::{EngineError, WriteSet};
use crate::types::limits::OPERATIONS_MAX;
use crate::types::map::{Shard, ShardMap, Standing};
use crate::types::{GroupId, NodeId, ReplicaId};

type Answer = Result<meta_result::Kind, EngineError>;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// Begins an operation: the new replica is on the map as a learner from here on.
pub(super) fn start(writes: &mut WriteSet<'_>, command: StartOperation) -> Result<MetaResult, EngineError> {
    let Some(mut state) = tables::state(writes)? else { return Ok(not_founded().into()) };
    let map = tables::map(writes)?;
    if let Err(refusal) = admit(&map, &command) {
        return Ok(refusal.into());
    }
    let Some(mut shard) = tables::shard(writes, command.shard_id)? else {
        return Ok(no_shard(command.shard_id).into());
    };
    let mut add = 0;
    if command.add_node_id > 0 {
        add = state.next_replica_id;
        state.next_replica_id += 1;
        shard.replicas.push(v1::Replica { id: add, node_id: command.add_node_id, voter: false, founding: false });
        shard.epoch += 1;
        tables::put_shard(writes, &shard);
    }
    // A cluster from before there were operations has no counter for them.
    let id = state.next_operation_id.max(1);
    state.next_operation_id = id + 1;
    let operation = internal::Operation {
        id,
        shard_id: shard.id,
        add_replica_id: add,
        remove_replica_id: command.remove_replica_id,
        cancelled: false,
        reason: command.reason,
    };
    tables::put_operation(writes, &operation);
    Ok(MetaResult { kind: Some(raise_version(writes, state)), id })
}

fn admit(map: &ShardMap, command: &StartOperation) -> Result<(), meta_result::Kind> {
    let invalid = |message: String| Err(refuse(ErrorCode::InvalidArgument, message));
    let shard = map.shards.get(&GroupId(command.shard_id)).ok_or_else(|| no_shard(command.shard_id))?;
    let id = shard.id.0;
    if map.keyspaces.get(&shard.keyspace).is_none_or(|keyspace| keyspace.dropping) {
        return invalid(format!("shard {id} is being dropped with its keyspace"));
    }
    if let Some(running) = map.operation_on(shard.id) {
        let message = format!(
            "operation {} is changing shard {id} ({}): wait until it is done, or cancel it with `kvctl operation \
             cancel {}`",
            running.id.0, running.reason, running.id.0
        );
        return Err(refuse(ErrorCode::AlreadyExists, message));
    }
    if map.operations.len() >= OPERATIONS_MAX {
        let message = format!("{OPERATIONS_MAX} operations run, which is operations_max: wait until one is done");
        return Err(refuse(ErrorCode::LimitExceeded, message));
    }
    if command.add_node_id == 0 && command.remove_replica_id == 0 || command.reason.len() > REASON_BYTES_MAX {
        return invalid("an operation adds a replica, or removes one, or both, for a short reason".to_owned());
    }
    if command.add_node_id > 0 {
        may_add(map, shard, NodeId(command.add_node_id))?;
    }
    if command.remove_replica_id > 0 {
        may_remove(map, shard, ReplicaId(command.remove_replica_id), command.add_node_id > 0)?;
    }
    Ok(())
}

fn may_add(map: &ShardMap, shard: &Shard, to: NodeId) -> Result<(), meta_result::Kind> {
    let invalid = |message: String| Err(refuse(ErrorCode::InvalidArgument, message));
    let Some(node) = map.nodes.get(&to) else { return Err(nodes::unknown(to.0)) };
    match node.standing {
        Standing::Member => {}
        Standing::Awaited => return invalid(format!("node `{}` has not joined yet: start it first", node.name)),
        Standing::Leaving => return invalid(format!("node `{}` is leaving the cluster", node.name)),
    }
    if shard.replica_on(to).is_some() {
        return invalid(format!("node `{}` has a replica of shard {} already", node.name, shard.id.0));
    }
    Ok(())
}

fn may_remove(map: &ShardMap, shard: &Shard, going: ReplicaId, is_replaced: bool) -> Result<(), meta_result::Kind> {
    let invalid = |message: String| Err(refuse(ErrorCode::InvalidArgument, message));
    let Some(replica) = shard.replicas.iter().find(|replica| replica.id == going) else {
        return invalid(format!("shard {} has no replica {}", shard.id.0, going.0));
    };
    if is_replaced {
        return Ok(());
    }
    let left = shard.replicas.len() - 1;
    if left == 0 {
        return invalid(format!("replica {} is the last one of shard {}: its keys would be lost", going.0, shard.id.0));
    }
    let wanted = map.replicas_wanted(shard.keyspace);
    if left < wanted {
        let node = map.nodes.get(&replica.node).map_or("", |node| node.name.as_str());
        return invalid(format!(
            "shard {} is to have {wanted} replicas and would have {left}: add one elsewhere first with `kvctl shard \
             add-replica`, or take `{node}` out of the cluster with `kvctl member remove`",
            shard.id.0
        ));
    }
    Ok(())
}

fn no_shard(id: u64) -> meta_result::Kind {
    refuse(ErrorCode::InvalidArgument, format!("shard {id} does not exist; see `kvctl shard list`"))
}

/// Has an operation undone. One that is done is none any more.
pub(super) fn cancel(writes: &mut WriteSet<'_>, command: &CancelOperation) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let Some(mut operation) = tables::operation(writes, command.operation_id)? else {
        let message = format!("operation {} does not run; see `kvctl operation list`", command.operation_id);
        return Ok(refuse(ErrorCode::InvalidArgument, message));
    };
    if operation.cancelled {
        return Ok(meta_result::Kind::Version(state.version));
    }
    operation.cancelled = true;
    tables::put_operation(writes, &operation);
    Ok(raise_version(writes, state))
}

/// Ends an operation: the descriptor says what the group's voters are.
pub(super) fn finish(writes: &mut WriteSet<'_>, command: &FinishOperation) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let Some(operation) = tables::operation(writes, command.operation_id)? else {
        return Ok(meta_result::Kind::Version(state.version));
    };
    if let Some(mut shard) = tables::shard(writes, operation.shard_id)? {
        if command.undone {
            shard.replicas.retain(|replica| replica.id != operation.add_replica_id);
        } else {
            promote(&mut shard.replicas, &operation);
        }
        shard.epoch += 1;
        tables::put_shard(writes, &shard);
    }
    tables::remove_operation(writes, operation.id);
    Ok(raise_version(writes, state))
}

/// The new replica votes and takes the place of the one that goes, so that each node leads as much as
/// before.
fn promote(replicas: &mut Vec<v1::Replica>, operation: &internal::Operation) {
    let place_of = |replicas: &[v1::Replica], id: u64| replicas.iter().position(|replica| id > 0 && replica.id == id);
    if let Some(new) = place_of(replicas, operation.add_replica_id) {
        replicas[new].voter = true;
        if let Some(old) = place_of(replicas, operation.remove_replica_id) {
            replicas.swap(old, new);
        }
    }
    if let Some(old) = place_of(replicas, operation.remove_replica_id) {
        replicas.remove(old);
    }
}

/// Puts a replica first: it is the one that is to lead.
pub(super) fn prefer(writes: &mut WriteSet<'_>, command: &PreferLeader) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let Some(mut shard) = tables::shard(writes, command.shard_id)? else { return Ok(no_shard(command.shard_id)) };
    let at = shard.replicas.iter().position(|replica| replica.voter && replica.node_id == command.node_id);
    let Some(at) = at else {
        let message = format!("node {} holds no voter of shard {}", command.node_id, shard.id);
        return Ok(refuse(ErrorCode::NodeNotFound, message));
    };
    if at == 0 {
        return Ok(meta_result::Kind::Version(state.version));
    }
    shard.replicas.swap(0, at);
    tables::put_shard(writes, &shard);
    Ok(raise_version(writes, state))
}

#[cfg(test)]
#[path = "operations_test.rs"]
mod tests;
