//! `lease`.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use super::args::{Format, LeaseCommand};
use super::cluster::{Listing, show};
use super::exit::{Exit, Failure};
use super::{Context, text};
use crate::client::LeaseTime;

pub(crate) async fn lease(context: &mut Context<'_>, command: LeaseCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        LeaseCommand::Grant { ttl, id } => {
            let lease = client.grant_lease(ttl, id).await?;
            let object = json!({ "lease": lease.id, "hex": hex(lease.id), "ttl_ms": ms(lease.ttl) });
            say(context, &object, &format!("{}\n", lease.id)).await
        }
        LeaseCommand::Revoke(args) => {
            client.revoke_lease(args.lease).await?;
            say(context, &json!({ "lease": args.lease }), "OK\n").await
        }
        LeaseCommand::KeepAlive { lease: args, once } => {
            let mut alive = client.keep_lease_alive(args.lease);
            let interrupt = context.interrupt.clone();
            loop {
                let ttl = tokio::select! {
                    biased;
                    () = interrupt.cancelled() => return Err(Failure::silent(Exit::Interrupted)),
                    renewed = alive.next() => renewed?,
                };
                let line = format!("{}\t{}\n", args.lease, seconds(ttl));
                say(context, &json!({ "lease": args.lease, "ttl_ms": ms(ttl) }), &line).await?;
                context.console.stdout.flush().await?;
                if once {
                    return Ok(());
                }
            }
        }
        LeaseCommand::TimeToLive { lease: args, keys } => {
            let time = client.lease_time(args.lease, keys).await?;
            let shown = standing(args.lease, &time, keys);
            match context.format() {
                Format::Json => context.print_json(&shown.json).await,
                Format::Simple => {
                    context.print(format!("{}\t{}\n", seconds(time.remaining), seconds(time.ttl))).await?;
                    for key in &time.keys {
                        context.print([key.as_ref(), b"\n"].concat()).await?;
                    }
                    Ok(())
                }
                Format::Table => show(context, shown).await,
            }
        }
        LeaseCommand::List => {
            let leases = client.leases().await?;
            let rows = leases.iter().map(|lease| vec![lease.to_string(), hex(*lease)]).collect();
            let json = json!({ "leases": leases });
            show(context, Listing { header: &["LEASE", "HEX"], rows, json }).await
        }
    }
}

async fn say(context: &mut Context<'_>, object: &Value, line: &str) -> Result<(), Failure> {
    match context.format() {
        Format::Json => context.print_json(object).await,
        Format::Simple | Format::Table => context.print(line).await,
    }
}

fn standing(lease: u64, time: &LeaseTime, with_keys: bool) -> Listing {
    let mut json =
        json!({ "lease": lease, "hex": hex(lease), "ttl_ms": ms(time.ttl), "remaining_ms": ms(time.remaining) });
    if with_keys {
        let keys = time.keys.iter().map(|key| {
            let mut object = Map::new();
            text::put_bytes(&mut object, "key", key);
            Value::from(object)
        });
        json["keys"] = keys.collect();
    }
    let keys: Vec<_> = time.keys.iter().map(|key| text::printable(key)).collect();
    let row = vec![lease.to_string(), hex(lease), seconds(time.ttl), seconds(time.remaining), keys.join(" ")];
    Listing { header: &["LEASE", "HEX", "TTL", "REMAINING", "KEYS"], rows: vec![row], json }
}

/// As etcd's tools show ids of leases.
fn hex(lease: u64) -> String {
    format!("{lease:016x}")
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// For people: `60s`, `2.5s`.
fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}
