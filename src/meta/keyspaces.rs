//! Keyspaces: made with all their shards, and taken apart again.
//!
//! Dropping takes two steps. First the keyspace serves nothing any more but keeps its shards; the
//! leader of this group then fences each of them, and only a fenced shard is forgotten: a node whose
//! map is old can no longer acknowledge anything there.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::machine::{not_founded, raise_version, refuse};
use super::plan::Spread;
use super::tables;
use crate::proto::internal::meta_command::create_keyspace::Placement;
use crate::proto::internal::meta_command::{CreateKeyspace, DropKeyspace, ForgetShards, UpdateKeyspace};
use crate::proto::internal::meta_result;
use crate::proto::v1::sharding::Kind as Sharding;
use crate::proto::v1::{self, CreateKeyspaceRequest, ErrorCode};
use crate::storage::engine::{EngineError, WriteSet};
use crate::types::limits::{
    HISTORY_MS_MIN, KEY_BYTES_MAX, KEYSPACE_NAME_BYTES_MAX, KEYSPACE_SHARDS_MAX, KEYSPACES_MAX,
    REPLICATION_FACTOR_DEFAULT, REPLICATION_FACTOR_MAX, SHARDS_MAX, SPLIT_KEYS_BYTES_MAX,
};
use crate::types::map::{DEFAULT_KEYSPACE, ShardMap};
use crate::types::{GroupId, NodeId};

type Answer = Result<meta_result::Kind, EngineError>;

/// The command that makes a keyspace, with its replicas placed as `map` has the nodes. Whether it may
/// be made is decided when the command is applied.
pub fn place(map: &ShardMap, request: CreateKeyspaceRequest) -> CreateKeyspace {
    let factor = factor(&request, map);
    let shards = spans(&request).map_or(0, |spans| spans.len());
    let mut spread = Spread::of(map);
    let mut placement = || spread.place(factor).into_iter().map(|node| node.0).collect();
    let placements = (0..shards).map(|_| Placement { node_ids: placement() }).collect();
    CreateKeyspace { keyspace: Some(request), placements }
}

/// Replicas that each shard is to have. More than there are nodes only where nothing else was asked for: the
/// planner makes the others when nodes come.
fn wanted(request: &CreateKeyspaceRequest) -> u32 {
    match request.replication_factor {
        0 => REPLICATION_FACTOR_DEFAULT,
        asked => asked,
    }
}

/// Replicas that each shard has from the beginning.
fn factor(request: &CreateKeyspaceRequest, map: &ShardMap) -> usize {
    map.staying().count().min(wanted(request) as usize)
}

pub(super) fn create(writes: &mut WriteSet<'_>, command: CreateKeyspace) -> Answer {
    let Some(mut state) = tables::state(writes)? else { return Ok(not_founded()) };
    let CreateKeyspace { keyspace, placements } = command;
    let request = keyspace.unwrap_or_default();
    let map = tables::map(writes)?;
    let spans = match admit(&map, &request) {
        Ok(spans) => spans,
        Err(refusal) => return Ok(refusal),
    };
    let factor = factor(&request, &map);
    if placements.len() != spans.len() || !placements.iter().all(|placement| is_sound(placement, factor, &map)) {
        return Ok(members_changed());
    }
    let sharding =
        request.sharding.and_then(|sharding| sharding.kind).unwrap_or(Sharding::Single(v1::sharding::Single {}));
    let replication_factor = wanted(&request);
    let keyspace = v1::Keyspace {
        id: state.next_keyspace_id,
        name: request.name,
        sharding: Some(v1::Sharding { kind: Some(sharding) }),
        replication_factor,
        history_revisions: request.history_revisions,
        history_ms: request.history_ms,
        dropping: false,
    };
    state.next_keyspace_id += 1;
    for (span, placement) in spans.into_iter().zip(placements) {
        let replicas = (state.next_replica_id..).zip(placement.node_ids);
        let replicas = replicas.map(|(id, node_id)| v1::Replica { id, node_id, voter: true, founding: true });
        let replicas: Vec<_> = replicas.collect();
        let (id, span) = (state.next_shard_id, Some(v1::Span { kind: Some(span) }));
        state.next_shard_id += 1;
        state.next_replica_id += replicas.len() as u64;
        tables::put_shard(writes, &v1::Shard { id, keyspace_id: keyspace.id, span, epoch: 1, replicas });
    }
    tables::put_keyspace(writes, &keyspace);
    Ok(raise_version(writes, state))
}

/// Whether a placement names so many different members.
fn is_sound(placement: &Placement, factor: usize, map: &ShardMap) -> bool {
    let distinct: BTreeSet<_> = placement.node_ids.iter().map(|id| NodeId(*id)).collect();
    let members = map.staying().filter(|node| distinct.contains(&node.id)).count();
    placement.node_ids.len() == factor && members == factor
}

fn members_changed() -> meta_result::Kind {
    let mut refusal = refuse(ErrorCode::Unavailable, "the members of the cluster have just changed; try again");
    if let meta_result::Kind::Refusal(refusal) = &mut refusal
        && let Some(detail) = &mut refusal.detail
    {
        detail.retryable = true;
    }
    refusal
}

/// The spans of the shards to make, if the request may be carried out.
fn admit(map: &ShardMap, request: &CreateKeyspaceRequest) -> Result<Vec<v1::span::Kind>, meta_result::Kind> {
    let invalid = |message: String| Err(refuse(ErrorCode::InvalidArgument, message));
    let name = &request.name;
    if !is_name(name) {
        return invalid(format!(
            "`{}` is no name for a keyspace: it has 1 to {KEYSPACE_NAME_BYTES_MAX} of a-z, 0-9, `.`, `_` and `-`, and \
             begins with a letter or a digit",
            name.chars().take(KEYSPACE_NAME_BYTES_MAX).collect::<String>().escape_debug()
        ));
    }
    if let Some(taken) = map.keyspaces.values().find(|keyspace| keyspace.name == *name) {
        let why = if taken.dropping { "is still being dropped; wait until it is gone" } else { "exists already" };
        return Err(refuse(ErrorCode::AlreadyExists, format!("keyspace `{name}` {why}")));
    }
    let (factor, nodes) = (request.replication_factor as usize, map.staying().count());
    if factor > nodes {
        return invalid(format!(
            "{factor} replicas need as many nodes, and this cluster has {nodes}: ask for at most {nodes}, or add nodes"
        ));
    }
    if request.replication_factor > REPLICATION_FACTOR_MAX {
        let most = u64::from(REPLICATION_FACTOR_MAX);
        return Err(beyond(
            "replication_factor_max",
            most,
            u64::from(request.replication_factor),
            "ask for fewer replicas",
        ));
    }
    admit_history(request.history_ms)?;
    let spans = spans(request)?;
    for (limit, most, actual, remedy) in [
        ("keyspaces_max", KEYSPACES_MAX, map.keyspaces.len() + 1, "drop one that is not needed"),
        ("keyspace_shards_max", KEYSPACE_SHARDS_MAX, spans.len(), "ask for fewer shards"),
        ("shards_max", SHARDS_MAX, map.shards.len() + spans.len(), "ask for fewer shards, or drop a keyspace"),
    ] {
        if actual > most {
            return Err(beyond(limit, most as u64, actual as u64, remedy));
        }
    }
    Ok(spans)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = |byte: u8| plain(byte) || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= KEYSPACE_NAME_BYTES_MAX && name.bytes().next().is_some_and(plain) && name.bytes().all(allowed)
}

fn spans(request: &CreateKeyspaceRequest) -> Result<Vec<v1::span::Kind>, meta_result::Kind> {
    let kind = request.sharding.as_ref().and_then(|sharding| sharding.kind.as_ref());
    let splits = &request.split_keys;
    if !splits.is_empty() && !matches!(kind, Some(Sharding::Range(_))) {
        return Err(refuse(ErrorCode::InvalidArgument, "split keys belong to a range keyspace only"));
    }
    match kind {
        None | Some(Sharding::Single(_)) => Ok(vec![v1::span::Kind::Keys(v1::span::Keys::default())]),
        Some(Sharding::Hash(hash)) => slots(hash.shards),
        Some(Sharding::Range(_)) => ranges(splits),
    }
}

/// The hash space in equal parts; the last takes what is left over.
fn slots(shards: u32) -> Result<Vec<v1::span::Kind>, meta_result::Kind> {
    match shards as usize {
        0 => return Err(refuse(ErrorCode::InvalidArgument, "a hash keyspace has at least one shard")),
        1..=KEYSPACE_SHARDS_MAX => {}
        more => {
            return Err(beyond("keyspace_shards_max", KEYSPACE_SHARDS_MAX as u64, more as u64, "ask for fewer shards"));
        }
    }
    let width = (u128::from(u64::MAX) + 1) / u128::from(shards);
    let start = |number: u32| u64::try_from(u128::from(number) * width).unwrap_or(u64::MAX);
    let span = |number: u32| {
        let last = if number + 1 == shards { u64::MAX } else { start(number + 1) - 1 };
        v1::span::Kind::Slots(v1::span::Slots { first: start(number), last })
    };
    Ok((0..shards).map(span).collect())
}

fn ranges(splits: &[Bytes]) -> Result<Vec<v1::span::Kind>, meta_result::Kind> {
    let invalid = |message: String| Err(refuse(ErrorCode::InvalidArgument, message));
    let bytes: usize = splits.iter().map(Bytes::len).sum();
    if bytes > SPLIT_KEYS_BYTES_MAX {
        let most = SPLIT_KEYS_BYTES_MAX as u64;
        return Err(beyond("split_keys_bytes_max", most, bytes as u64, "give fewer or shorter split keys"));
    }
    if let Some(long) = splits.iter().map(Bytes::len).find(|bytes| *bytes > KEY_BYTES_MAX) {
        return Err(beyond("key_bytes_max", KEY_BYTES_MAX as u64, long as u64, "give shorter split keys"));
    }
    if splits.iter().any(Bytes::is_empty) {
        return invalid("a split key must not be empty: it is where the second shard begins".to_owned());
    }
    if let Some(pair) = splits.windows(2).find(|pair| pair[0] >= pair[1]) {
        return invalid(format!(
            "split keys must rise, each given once: `{}` follows `{}`",
            pair[1].escape_ascii(),
            pair[0].escape_ascii()
        ));
    }
    let starts = std::iter::once(Bytes::new()).chain(splits.iter().cloned());
    let ends = splits.iter().cloned().chain(std::iter::once(Bytes::new()));
    Ok(starts.zip(ends).map(|(start, end)| v1::span::Kind::Keys(v1::span::Keys { start, end })).collect())
}

/// Changes what is kept of a keyspace's history.
pub(super) fn update(writes: &mut WriteSet<'_>, command: UpdateKeyspace) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let request = command.keyspace.unwrap_or_default();
    let name = &request.name;
    let found = tables::keyspaces(writes)?.into_iter().find(|keyspace| keyspace.name == *name && !keyspace.dropping);
    let Some(mut keyspace) = found else {
        return Ok(refuse(ErrorCode::KeyspaceNotFound, format!("keyspace `{name}` does not exist")));
    };
    if let Some(history_ms) = request.history_ms {
        if let Err(refusal) = admit_history(history_ms) {
            return Ok(refusal);
        }
        keyspace.history_ms = history_ms;
    }
    keyspace.history_revisions = request.history_revisions.unwrap_or(keyspace.history_revisions);
    tables::put_keyspace(writes, &keyspace);
    Ok(raise_version(writes, state))
}

fn admit_history(history_ms: u64) -> Result<(), meta_result::Kind> {
    if history_ms == 0 || history_ms >= HISTORY_MS_MIN {
        return Ok(());
    }
    let message = format!("history cannot be kept for {history_ms} ms: {HISTORY_MS_MIN} ms is the least");
    Err(refuse(ErrorCode::InvalidArgument, message))
}

pub(super) fn drop(writes: &mut WriteSet<'_>, command: &DropKeyspace) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let name = &command.name;
    if name == DEFAULT_KEYSPACE {
        let message = "the keyspace `default` stays: requests that name none mean it; delete its keys instead";
        return Ok(refuse(ErrorCode::InvalidArgument, message));
    }
    let is_meant = |keyspace: &v1::Keyspace| {
        keyspace.name == *name && (command.keyspace_id == 0 || command.keyspace_id == keyspace.id)
    };
    let found = tables::keyspaces(writes)?.into_iter().find(is_meant);
    let Some(mut keyspace) = found else {
        return Ok(refuse(ErrorCode::KeyspaceNotFound, format!("keyspace `{name}` does not exist")));
    };
    if keyspace.dropping {
        return Ok(meta_result::Kind::Version(state.version));
    }
    keyspace.dropping = true;
    tables::put_keyspace(writes, &keyspace);
    Ok(raise_version(writes, state))
}

pub(super) fn forget(writes: &mut WriteSet<'_>, command: &ForgetShards) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let map = tables::map(writes)?;
    let mut gone = Vec::new();
    for id in &command.shard_ids {
        // One that is gone already was forgotten by a leader before.
        let Some(shard) = map.shards.get(&GroupId(*id)) else { continue };
        if !map.keyspaces.get(&shard.keyspace).is_some_and(|keyspace| keyspace.dropping) {
            let message = format!("shard {id} is part of a keyspace that is not being dropped");
            return Ok(refuse(ErrorCode::InvalidArgument, message));
        }
        gone.push(shard.id);
    }
    gone.iter().for_each(|id| tables::remove_shard(writes, id.0));
    let stopped = map.operations.values().filter(|operation| gone.contains(&operation.shard));
    stopped.for_each(|operation| tables::remove_operation(writes, operation.id.0));
    let is_empty = |keyspace| map.shards_of(keyspace).all(|shard| gone.contains(&shard.id));
    let emptied: Vec<_> =
        map.keyspaces.values().filter(|keyspace| keyspace.dropping && is_empty(keyspace.id)).collect();
    emptied.iter().for_each(|keyspace| tables::remove_keyspace(writes, keyspace.id.0));
    if gone.is_empty() && emptied.is_empty() {
        return Ok(meta_result::Kind::Version(state.version));
    }
    Ok(raise_version(writes, state))
}

fn beyond(limit: &str, most: u64, actual: u64, remedy: &str) -> meta_result::Kind {
    let mut refusal =
        refuse(ErrorCode::LimitExceeded, format!("{actual} is more than {limit}, which is {most}: {remedy}"));
    if let meta_result::Kind::Refusal(refusal) = &mut refusal
        && let Some(detail) = &mut refusal.detail
    {
        detail.limit = limit.to_owned();
        detail.limit_value = most;
        detail.actual_value = actual;
    }
    refusal
}

#[cfg(test)]
#[path = "keyspaces_test.rs"]
mod tests;
