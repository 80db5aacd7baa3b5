//! `shard` and `endpoint`.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Context;
use super::args::{EndpointArgs, EndpointCommand, Format, ShardCommand};
use super::exit::{Exit, Failure};
use super::members;
use super::table::table;
use crate::client::{Client, Result as ClientResult, StatusResponse, shards_response};
use crate::env::time;
use crate::types::GroupId;

/// Rows for people and the same as JSON.
pub(super) struct Listing {
    pub(super) header: &'static [&'static str],
    pub(super) rows: Vec<Vec<String>>,
    pub(super) json: Value,
}

pub(super) async fn show(context: &mut Context<'_>, listing: Listing) -> Result<(), Failure> {
    match context.format() {
        Format::Json => context.print_json(&listing.json).await,
        Format::Table => context.print(table(listing.header, &listing.rows)).await,
        Format::Simple => {
            let lines: String = listing.rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect();
            context.print(lines).await
        }
    }
}

pub(crate) async fn shard(context: &mut Context<'_>, command: ShardCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        ShardCommand::List => {
            let listing = shards(client.shards(true).await?.shards);
            show(context, listing).await
        }
        ShardCommand::MoveLeader { shard, node } => {
            let to = client.find_node(&node).await?;
            let moved = client.move_leader(shard_id(&shard)?, to).await?;
            match context.format() {
                Format::Json => {
                    context.print_json(&json!({ "leader_node_id": moved.leader_node_id, "term": moved.term })).await
                }
                Format::Simple | Format::Table => context.print("OK\n").await,
            }
        }
        ShardCommand::AddReplica { shard, node, instead_of, no_wait } => {
            let id = shard_id(&shard)?;
            members::replicas(context, &client, id, Some(&node), instead_of.as_deref(), no_wait).await
        }
        ShardCommand::RemoveReplica { shard, node, no_wait } => {
            members::replicas(context, &client, shard_id(&shard)?, None, Some(&node), no_wait).await
        }
    }
}

pub(super) fn shard_id(text: &str) -> Result<GroupId, Failure> {
    let id = text.strip_prefix('g').unwrap_or(text).parse().map(GroupId);
    id.map_err(|_| Failure::usage(format!("`{text}` is no shard id"), "`kvctl shard list` shows the ids"))
}

pub(super) fn shards(shards: Vec<shards_response::Entry>) -> Listing {
    Listing {
        header: &["SHARD", "KEYSPACE", "SPAN", "EPOCH", "LEADER", "TERM", "REPLICAS"],
        rows: shards.iter().map(shard_row).collect(),
        json: json!({ "shards": shards.iter().map(shard_json).collect::<Vec<_>>() }),
    }
}

fn span_text(entry: &shards_response::Entry) -> String {
    use crate::client::span::Kind;
    let span = entry.shard.as_ref().and_then(|shard| shard.span.as_ref()).and_then(|span| span.kind.as_ref());
    match span {
        Some(Kind::Keys(keys)) if keys.end.is_empty() => format!("[{}, ∞)", keys.start.escape_ascii()),
        Some(Kind::Keys(keys)) => format!("[{}, {})", keys.start.escape_ascii(), keys.end.escape_ascii()),
        Some(Kind::Slots(slots)) => format!("slots {:016x}..={:016x}", slots.first, slots.last),
        None => "-".to_owned(),
    }
}

pub(super) fn or_dash(id: u64) -> String {
    if id == 0 { "-".to_owned() } else { id.to_string() }
}

fn shard_row(entry: &shards_response::Entry) -> Vec<String> {
    let shard = entry.shard.clone().unwrap_or_default();
    let replicas: Vec<_> = shard
        .replicas
        .iter()
        .map(|replica| format!("{}{}", replica.node_id, if replica.voter { "" } else { "(learner)" }))
        .collect();
    // A term is known to who has a replica, and so is whether there is a leader.
    let unknown = || "?".to_owned();
    let (leader, term) = match (entry.leader_node_id, entry.term) {
        (0, 0) => (unknown(), unknown()),
        (node, 0) => (node.to_string(), unknown()),
        (node, term) => (or_dash(node), term.to_string()),
    };
    vec![
        shard.id.to_string(),
        if entry.keyspace.is_empty() { "-".to_owned() } else { entry.keyspace.clone() },
        span_text(entry),
        shard.epoch.to_string(),
        leader,
        term,
        replicas.join(","),
    ]
}

fn shard_json(entry: &shards_response::Entry) -> Value {
    let shard = entry.shard.clone().unwrap_or_default();
    let replicas: Vec<_> = shard
        .replicas
        .iter()
        .map(|replica| json!({ "id": replica.id, "node_id": replica.node_id, "voter": replica.voter }))
        .collect();
    json!({
        "id": shard.id,
        "keyspace": entry.keyspace,
        "span": span_text(entry),
        "epoch": shard.epoch,
        "leader_node_id": entry.leader_node_id,
        "term": entry.term,
        "replicas": replicas,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One endpoint's answer and how long it took, in milliseconds.
struct Asked {
    endpoint: String,
    answer: ClientResult<StatusResponse>,
    took_ms: u64,
}

async fn ask(client: &Client, args: &EndpointArgs) -> Result<Vec<Asked>, Failure> {
    let mut endpoints = client.endpoints().to_vec();
    if args.cluster {
        endpoints = client.map().await?.nodes.into_values().map(|node| node.client_address).collect();
    }
    let asked = endpoints.into_iter().map(|endpoint| async move {
        let began = time::now();
        let answer = client.status(&endpoint).await;
        let took = time::now().saturating_duration_since(began);
        Asked { endpoint, answer, took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
    });
    Ok(join_all(asked).await)
}

pub(crate) async fn endpoint(context: &mut Context<'_>, command: EndpointCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        EndpointCommand::Status(args) => status(context, ask(&client, &args).await?).await,
        EndpointCommand::Health(args) => health(context, ask(&client, &args).await?).await,
    }
}

async fn health(context: &mut Context<'_>, asked: Vec<Asked>) -> Result<(), Failure> {
    let judged: Vec<_> = asked
        .iter()
        .map(|asked| match &asked.answer {
            Ok(status) if status.ready => (asked, None),
            Ok(status) => (asked, Some(format!("not ready: {}", status.reason))),
            Err(error) => (asked, Some(error.message.clone())),
        })
        .collect();
    let json = judged.iter().map(|(asked, trouble)| {
        json!({
            "endpoint": asked.endpoint,
            "healthy": trouble.is_none(),
            "took_ms": asked.took_ms,
            "reason": trouble.clone().unwrap_or_default(),
        })
    });
    let rows = judged.iter().map(|(asked, trouble)| {
        let health = if trouble.is_none() { "healthy" } else { "unhealthy" };
        let took = format!("{}ms", asked.took_ms);
        vec![asked.endpoint.clone(), health.to_owned(), took, trouble.clone().unwrap_or_else(|| "-".to_owned())]
    });
    let listing = Listing {
        header: &["ENDPOINT", "HEALTH", "TOOK", "REASON"],
        rows: rows.collect(),
        json: json!({ "endpoints": json.collect::<Vec<_>>() }),
    };
    let sick = judged.iter().filter(|(_, trouble)| trouble.is_some()).count();
    let all = judged.len();
    show(context, listing).await?;
    if sick == 0 {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Unhealthy,
        message: format!("{sick} of {all} endpoints are unhealthy"),
        hint: "start the nodes that do not run; the logs of the others say what they wait for".into(),
    })
}

async fn status(context: &mut Context<'_>, asked: Vec<Asked>) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut json = Vec::new();
    let mut silent = Vec::new();
    for asked in &asked {
        match &asked.answer {
            Ok(status) => {
                rows.push(status_row(&asked.endpoint, status));
                json.push(status_json(&asked.endpoint, status));
            }
            Err(error) => {
                json.push(json!({ "endpoint": asked.endpoint, "error": error.message }));
                silent.push((&asked.endpoint, error));
            }
        }
    }
    let listing = Listing {
        header: &["ENDPOINT", "ID", "NAME", "VERSION", "READY", "LEADS", "REPLICAS", "LOG", "ENGINE", "UPTIME"],
        rows,
        json: json!({ "endpoints": json }),
    };
    show(context, listing).await?;
    match silent.first() {
        None => Ok(()),
        Some((first, error)) => {
            let failure = Failure::from((*error).clone());
            let (silent, all) = (silent.len(), asked.len());
            let message = format!("{silent} of {all} endpoints did not answer; {first}: {}", failure.message);
            Err(Failure { exit: Exit::Unavailable, message, ..failure })
        }
    }
}

fn status_row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let leads = status.replicas.iter().filter(|replica| replica.role == "leader").count();
    vec![
        endpoint.to_owned(),
        status.node_id.to_string(),
        status.name.clone(),
        status.version.clone(),
        match (status.ready, status.disk_full) {
            (true, false) => "yes".to_owned(),
            (true, true) => "yes (disk full)".to_owned(),
            (false, _) => format!("no ({})", status.reason),
        },
        leads.to_string(),
        status.replicas.len().to_string(),
        status.log_bytes.to_string(),
        status.engine_bytes.to_string(),
        format!("{}s", status.uptime_ms / 1_000),
    ]
}

fn status_json(endpoint: &str, status: &StatusResponse) -> Value {
    let replicas: Vec<_> = status
        .replicas
        .iter()
        .map(|replica| {
            json!({
                "shard_id": replica.shard_id,
                "replica_id": replica.replica_id,
                "role": replica.role,
                "term": replica.term,
                "last_index": replica.last_index,
                "committed_index": replica.committed_index,
                "applied_index": replica.applied_index,
                "purged_index": replica.purged_index,
                "leader_node_id": replica.leader_node_id,
                "revision": replica.revision,
            })
        })
        .collect();
    json!({
        "endpoint": endpoint,
        "cluster_id": hex(&status.cluster_id),
        "node_id": status.node_id,
        "name": status.name,
        "version": status.version,
        "ready": status.ready,
        "reason": status.reason,
        "log_bytes": status.log_bytes,
        "engine_bytes": status.engine_bytes,
        "uptime_ms": status.uptime_ms,
        "disk_full": status.disk_full,
        "replicas": replicas,
    })
}

#[cfg(test)]
mod tests {
    use super::{shard_row, shards_response::Entry};

    #[test]
    fn what_is_not_known_is_not_shown_as_nothing() {
        let shown = |leader_node_id, term| {
            let row = shard_row(&Entry { leader_node_id, term, ..Entry::default() });
            [row[4].clone(), row[5].clone()]
        };
        assert_eq!(shown(0, 0), ["?", "?"]);
        assert_eq!(shown(3, 0), ["3", "?"], "heard of from others");
        assert_eq!(shown(0, 7), ["-", "7"], "an election");
        assert_eq!(shown(3, 7), ["3", "7"]);
    }
}
