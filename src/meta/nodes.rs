//! Members: they join, leave, and take each other's place.
//!
//! A node that leaves stays on the map until its replicas have been made again elsewhere. Its name is
//! free at once, so that a node with an empty disk can come back under it and a new id.

use super::machine::{not_founded, raise_version, refuse};
use super::tables;
use crate::proto::internal::meta_command::{AddNode, ForgetNode, RemoveNode, UpdateNode};
use crate::proto::internal::{MetaResult, meta_result};
use crate::proto::v1::{self, ErrorCode};
use crate::storage::engine::{EngineError, WriteSet};
use crate::types::NodeId;
use crate::types::limits::{NODE_NAME_BYTES_MAX, NODES_MAX};
use crate::types::map::{Node, ShardMap, Standing};

type Answer = Result<meta_result::Kind, EngineError>;

/// Longest address and label of a node, in bytes.
const TEXT_BYTES_MAX: usize = 300;
/// Labels of a node.
const LABELS_MAX: usize = 16;

pub(super) fn update(writes: &mut WriteSet<'_>, command: UpdateNode) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let mut node = command.node.unwrap_or_default();
    let Some(current) = tables::node(writes, node.id)? else { return Ok(unknown(node.id)) };
    // It tells where it is, not whether it is wanted.
    node.standing = current.standing;
    if current == node {
        return Ok(meta_result::Kind::Version(state.version));
    }
    if current.name != node.name {
        let name = current.name;
        return Ok(refuse(
            ErrorCode::InvalidArgument,
            format!("node {} is called {name}: names are for ever", node.id),
        ));
    }
    tables::put_node(writes, &node);
    Ok(raise_version(writes, state))
}

/// Takes a node in. Asked again with the same token, it answers with the same id.
pub(super) fn add(writes: &mut WriteSet<'_>, command: AddNode) -> Result<MetaResult, EngineError> {
    let Some(mut state) = tables::state(writes)? else { return Ok(not_founded().into()) };
    let AddNode { node, token, replace } = command;
    let mut node = node.unwrap_or_default();
    // One that is only announced may be known by its address alone.
    let is_nameless = token == 0 && node.name.is_empty();
    if let Err(why) = check(&node, is_nameless) {
        return Ok(refuse(ErrorCode::InvalidArgument, why).into());
    }
    let map = tables::map(writes)?;
    if let Some(known) = joined_under(writes, &map, token)? {
        return Ok(MetaResult { kind: Some(meta_result::Kind::Version(state.version)), id: known.0 });
    }
    let replaced = match replaced(&map, &replace) {
        Ok(replaced) => replaced,
        Err(refusal) => return Ok(refusal.into()),
    };
    node.standing = standing(token).into();
    node.id = match taken(writes, &map, &node, token)? {
        Taken::By(other) if replaced != Some(other) => return Ok(name_taken(&node.name, other).into()),
        Taken::ByIt(awaited) => awaited.0,
        Taken::By(_) | Taken::No => {
            if map.nodes.len() >= NODES_MAX {
                let message = format!("the cluster has {NODES_MAX} nodes, which is nodes_max: remove one first");
                return Ok(refuse(ErrorCode::LimitExceeded, message).into());
            }
            state.next_node_id += 1;
            state.next_node_id - 1
        }
    };
    if let Some((address, holder)) = held_address(&map, &node, replaced) {
        return Ok(address_held(address, holder).into());
    }
    tables::put_node(writes, &node);
    tables::put_token(writes, node.id, token);
    if let Some(old) = replaced.and_then(|old| map.nodes.get(&old)) {
        leave(writes, old);
    }
    Ok(MetaResult { kind: Some(raise_version(writes, state)), id: node.id })
}

fn standing(token: u64) -> v1::NodeStanding {
    if token == 0 { v1::NodeStanding::Awaited } else { v1::NodeStanding::Member }
}

fn check(node: &v1::Node, is_nameless: bool) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let name = &node.name;
    if (name.is_empty() && !is_nameless) || name.len() > NODE_NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err(format!("a node's name has 1 to {NODE_NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -"));
    }
    let addresses = [&node.peer_address, &node.client_address];
    let labels = node.labels.iter().flat_map(|(key, value)| [key, value]);
    if node.labels.len() > LABELS_MAX || addresses.into_iter().chain(labels).any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err("a node's addresses or labels are too long, or too many".to_owned());
    }
    if !node.peer_address.contains(':') {
        return Err("a node needs a peer address, host:port, that the others can reach".to_owned());
    }
    Ok(())
}

/// The node that joined with this token before.
fn joined_under(writes: &WriteSet<'_>, map: &ShardMap, token: u64) -> Result<Option<NodeId>, EngineError> {
    if token == 0 {
        return Ok(None);
    }
    for id in map.nodes.keys() {
        if tables::token(writes, *id)? == Some(token) {
            return Ok(Some(*id));
        }
    }
    Ok(None)
}

fn replaced(map: &ShardMap, name: &str) -> Result<Option<NodeId>, meta_result::Kind> {
    if name.is_empty() {
        return Ok(None);
    }
    match map.nodes.values().find(|node| node.name == name && node.standing != Standing::Leaving) {
        Some(node) => Ok(Some(node.id)),
        None => {
            let message = format!("no member is called `{name}`; `kvctl member list` shows them");
            Err(refuse(ErrorCode::NodeNotFound, message))
        }
    }
}

enum Taken {
    No,
    By(NodeId),
    /// It was announced, and this is it.
    ByIt(NodeId),
}

fn taken(writes: &WriteSet<'_>, map: &ShardMap, node: &v1::Node, token: u64) -> Result<Taken, EngineError> {
    let has_name = |holder: &&Node| !node.name.is_empty() && holder.name == node.name;
    let holder = map.nodes.values().find(|holder| has_name(holder) && holder.standing != Standing::Leaving);
    let is_announced = |holder: &&Node| {
        token != 0
            && holder.standing == Standing::Awaited
            && holder.name.is_empty()
            && holder.peer_address == node.peer_address
    };
    let holder = holder.or_else(|| map.nodes.values().find(is_announced));
    let Some(holder) = holder else { return Ok(Taken::No) };
    let awaited = tables::token(writes, holder.id)? == Some(0);
    Ok(if awaited && token != 0 { Taken::ByIt(holder.id) } else { Taken::By(holder.id) })
}

fn name_taken(name: &str, by: NodeId) -> meta_result::Kind {
    let message = format!(
        "the name `{name}` is node {}'s: choose another, or, if that node has lost its disk, take its place with \
         --replace {name}",
        by.0
    );
    refuse(ErrorCode::AlreadyExists, message)
}

/// An address that the node names and another has, and who that is. Of two nodes that say to be in the same
/// place the others reach one, and take it for both. Who leaves, or is replaced, gives its addresses up.
fn held_address<'a>(map: &'a ShardMap, node: &'a v1::Node, replaced: Option<NodeId>) -> Option<(&'a str, &'a Node)> {
    let keeps_its =
        |other: &&Node| other.id.0 != node.id && Some(other.id) != replaced && other.standing != Standing::Leaving;
    let named = [&node.peer_address, &node.client_address].into_iter().filter(|address| !address.is_empty());
    let mut held = named.flat_map(|address| {
        let has = |other: &&Node| other.peer_address == *address || other.client_address == *address;
        map.nodes.values().filter(keeps_its).filter(has).map(|other| (address.as_str(), other))
    });
    held.next()
}

fn address_held(address: &str, holder: &Node) -> meta_result::Kind {
    let Node { id, name, .. } = holder;
    let message = format!(
        "the address {address} is that of member `{name}` (node {}): name one of its own, or, if that node has lost \
         its disk, take its place with --replace {name}",
        id.0
    );
    refuse(ErrorCode::AlreadyExists, message)
}

/// Begins to take a node out.
pub(super) fn remove(writes: &mut WriteSet<'_>, command: &RemoveNode) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let map = tables::map(writes)?;
    let Some(node) = map.nodes.get(&NodeId(command.node_id)) else { return Ok(unknown(command.node_id)) };
    match node.standing {
        Standing::Leaving => return Ok(meta_result::Kind::Version(state.version)),
        // It never had anything.
        Standing::Awaited => tables::remove_node(writes, node.id.0),
        Standing::Member if map.staying().count() == 1 => {
            let message = format!("`{}` is the last node: what it holds has nowhere to go", node.name);
            return Ok(refuse(ErrorCode::InvalidArgument, message));
        }
        Standing::Member => leave(writes, node),
    }
    Ok(raise_version(writes, state))
}

fn leave(writes: &mut WriteSet<'_>, node: &Node) {
    tables::put_node(writes, &(&Node { standing: Standing::Leaving, ..node.clone() }).into());
}

/// Takes a node off the map that holds nothing any more.
pub(super) fn forget(writes: &mut WriteSet<'_>, command: &ForgetNode) -> Answer {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    let map = tables::map(writes)?;
    let id = NodeId(command.node_id);
    let Some(node) = map.nodes.get(&id) else { return Ok(meta_result::Kind::Version(state.version)) };
    let holds = map.shards.values().any(|shard| shard.replica_on(id).is_some());
    if node.standing != Standing::Leaving || holds {
        let message = format!("node {} still holds replicas, or does not leave", id.0);
        return Ok(refuse(ErrorCode::InvalidArgument, message));
    }
    tables::remove_node(writes, id.0);
    Ok(raise_version(writes, state))
}

pub(super) fn unknown(id: u64) -> meta_result::Kind {
    refuse(ErrorCode::NodeNotFound, format!("node {id} is not a member of this cluster"))
}

#[cfg(test)]
#[path = "nodes_test.rs"]
mod tests;
