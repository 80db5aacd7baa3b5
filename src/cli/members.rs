//! `member`, `operation`, and the parts of `shard` that move replicas.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::Context;
use super::args::{Format, MemberCommand, OperationCommand};
use super::cluster::{Listing, hex, or_dash, show};
use super::exit::{Exit, Failure};
use crate::client::{Client, Node, NodeStanding, ShardOperation};
use crate::env::time;
use crate::types::{GroupId, NodeId, OperationId};

/// Pause between two looks at how far something is.
const LOOK: Duration = Duration::from_millis(300);

pub(crate) async fn member(context: &mut Context<'_>, command: MemberCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        MemberCommand::List => {
            let answer = client.members().await?;
            if answer.members.is_empty() {
                return Err(Failure {
                    exit: Exit::Unavailable,
                    message: "the cluster is not founded yet".to_owned(),
                    hint: "start all nodes that --cluster names; they found it when the last one is there".to_owned(),
                });
            }
            let listing = Listing {
                header: &["ID", "NAME", "STATE", "CLIENT", "PEER", "LABELS"],
                rows: answer.members.iter().map(member_row).collect(),
                json: json!({
                    "cluster_id": hex(&answer.cluster_id),
                    "members": answer.members.iter().map(member_json).collect::<Vec<_>>(),
                }),
            };
            show(context, listing).await
        }
        MemberCommand::Add { name, peer_address } => {
            let member = client.add_member(&name, &peer_address).await?;
            match context.format() {
                Format::Json => context.print_json(&member_json(&member)).await,
                Format::Simple | Format::Table => {
                    let start = format!("kvd --name {name} --peer-addr {peer_address} --join HOST:PORT");
                    context.print(format!("{name} is announced; start it with\n  {start}\n")).await
                }
            }
        }
        MemberCommand::Remove { node, no_wait } => remove(context, &client, &node, no_wait).await,
    }
}

fn member_row(node: &Node) -> Vec<String> {
    let labels: BTreeMap<_, _> = node.labels.iter().collect();
    let labels: Vec<_> = labels.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(",") };
    let addresses = [&node.client_address, &node.peer_address];
    let [client, peer] = addresses.map(|address| if address.is_empty() { "-".to_owned() } else { address.clone() });
    vec![node.id.to_string(), node.name.clone(), standing(node).to_owned(), client, peer, labels]
}

fn member_json(node: &Node) -> serde_json::Value {
    json!({
        "id": node.id,
        "name": node.name,
        "state": standing(node),
        "client_address": node.client_address,
        "peer_address": node.peer_address,
        "labels": node.labels.iter().collect::<BTreeMap<_, _>>(),
    })
}

fn standing(node: &Node) -> &'static str {
    match node.standing() {
        NodeStanding::Member => "member",
        NodeStanding::Awaited => "awaited",
        NodeStanding::Leaving => "leaving",
    }
}

async fn remove(context: &mut Context<'_>, client: &Client, name: &str, no_wait: bool) -> Result<(), Failure> {
    let id = client.find_node(name).await?;
    client.remove_member(id).await?;
    let mut told = None;
    while !no_wait && client.members().await?.members.iter().any(|node| node.id == id.0) {
        let left = replicas_on(client, id).await?;
        if told.replace(left) != Some(left) {
            let line = match left {
                0 => format!("{name}: no replicas left, its vote and its entry go"),
                left => format!("{name}: {left} replicas left to make elsewhere"),
            };
            context.warn(&line).await?;
        }
        time::sleep(LOOK).await;
    }
    done(context, &json!({ "node_id": id.0, "gone": !no_wait })).await
}

async fn replicas_on(client: &Client, node: NodeId) -> Result<usize, Failure> {
    let shards = client.shards(true).await?.shards.into_iter().filter_map(|entry| entry.shard);
    let of_keyspaces = shards.filter(|shard| shard.keyspace_id > 0);
    Ok(of_keyspaces.filter(|shard| shard.replicas.iter().any(|replica| replica.node_id == node.0)).count())
}

async fn done(context: &mut Context<'_>, json: &serde_json::Value) -> Result<(), Failure> {
    match context.format() {
        Format::Json => context.print_json(json).await,
        Format::Simple | Format::Table => context.print("OK\n").await,
    }
}

pub(crate) async fn operation(context: &mut Context<'_>, command: OperationCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        OperationCommand::List => {
            let operations = client.operations().await?;
            let listing = Listing {
                header: &["ID", "SHARD", "KEYSPACE", "ADD", "REMOVE", "WHY", "STATE", "PROGRESS"],
                rows: operations.iter().map(operation_row).collect(),
                json: json!({ "operations": operations.iter().map(operation_json).collect::<Vec<_>>() }),
            };
            show(context, listing).await
        }
        OperationCommand::Cancel { id } => {
            client.cancel_operation(OperationId(id)).await?;
            done(context, &json!({ "operation_id": id })).await
        }
    }
}

fn operation_row(operation: &ShardOperation) -> Vec<String> {
    vec![
        operation.id.to_string(),
        operation.shard_id.to_string(),
        operation.keyspace.clone(),
        or_dash(operation.add_node_id),
        or_dash(operation.remove_node_id),
        operation.reason.clone(),
        state_of(operation),
        progress_of(operation),
    ]
}

fn state_of(operation: &ShardOperation) -> String {
    // Nobody who leads has looked at it yet.
    let state = if operation.state.is_empty() { "begins" } else { &operation.state };
    if operation.cancelled { format!("cancelled; {state}") } else { state.to_owned() }
}

fn progress_of(operation: &ShardOperation) -> String {
    match operation.last_index {
        0 => "-".to_owned(),
        last => format!("{}/{last}", operation.matched_index),
    }
}

fn operation_json(operation: &ShardOperation) -> serde_json::Value {
    json!({
        "id": operation.id,
        "shard_id": operation.shard_id,
        "keyspace": operation.keyspace,
        "add_node_id": operation.add_node_id,
        "remove_node_id": operation.remove_node_id,
        "cancelled": operation.cancelled,
        "reason": operation.reason,
        "state": operation.state,
        "matched_index": operation.matched_index,
        "last_index": operation.last_index,
    })
}

/// Moves a shard's replicas, and waits for it unless told otherwise.
pub(super) async fn replicas(
    context: &mut Context<'_>,
    client: &Client,
    shard: GroupId,
    add: Option<&str>,
    remove: Option<&str>,
    no_wait: bool,
) -> Result<(), Failure> {
    let mut nodes = [None, None];
    for (node, name) in nodes.iter_mut().zip([add, remove]) {
        if let Some(name) = name {
            *node = Some(client.find_node(name).await?);
        }
    }
    let [add, remove] = nodes;
    let id = client.change_replicas(shard, add, remove).await?;
    if !no_wait {
        wait_for(context, client, id).await?;
    }
    done(context, &json!({ "operation_id": id.0, "done": !no_wait })).await
}

/// Says what an operation does until it runs no more.
async fn wait_for(context: &mut Context<'_>, client: &Client, id: OperationId) -> Result<(), Failure> {
    let mut told = String::new();
    while let Some(operation) = client.operations().await?.into_iter().find(|operation| operation.id == id.0) {
        let line = format!("operation {}: {} ({})", id.0, state_of(&operation), progress_of(&operation));
        if told != line {
            context.warn(&line).await?;
            told = line;
        }
        time::sleep(LOOK).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ShardOperation, state_of};

    #[test]
    fn an_operation_always_has_a_state() {
        let operation = ShardOperation::default();
        assert_eq!(state_of(&operation), "begins");
        assert_eq!(state_of(&ShardOperation { cancelled: true, ..operation.clone() }), "cancelled; begins");
        assert_eq!(state_of(&ShardOperation { state: "waits".into(), ..operation }), "waits");
    }
}
