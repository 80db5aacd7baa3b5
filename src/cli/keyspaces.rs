//! `keyspace`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::args::{Format, KeyspaceCommand, KeyspaceCreateArgs, KeyspaceSetArgs};
use super::cluster::{Listing, shards, show};
use super::exit::Failure;
use crate::client::sharding::{Hash, Kind, Range, Single};
use crate::client::{Client, CreateKeyspaceRequest, ErrorCode, Sharding, UpdateKeyspaceRequest};
use crate::types::map::{Keyspace, ShardMap};

pub(crate) async fn keyspace(context: &mut Context<'_>, command: KeyspaceCommand) -> Result<(), Failure> {
    let client = context.client().await?;
    match command {
        KeyspaceCommand::Create(args) => create(context, &client, args).await,
        KeyspaceCommand::List => {
            let map = client.map().await?;
            show(context, listing(&map, map.keyspaces.values())).await
        }
        KeyspaceCommand::Describe { name } => describe(context, &client, &name).await,
        KeyspaceCommand::Set(args) => set(context, &client, args).await,
        KeyspaceCommand::Drop { name, yes } => drop(context, &client, &name, yes).await,
    }
}

async fn create(context: &mut Context<'_>, client: &Client, args: KeyspaceCreateArgs) -> Result<(), Failure> {
    let bytes = |key: OsString| key.into_vec().into();
    let split_keys: Vec<_> =
        args.range.iter().flatten().cloned().chain(args.split.iter().cloned()).map(bytes).collect();
    let kind = match args.hash {
        Some(shards) => Kind::Hash(Hash { shards }),
        None if args.range.is_some() || !split_keys.is_empty() => Kind::Range(Range {}),
        None => Kind::Single(Single {}),
    };
    let request = CreateKeyspaceRequest {
        name: args.name,
        sharding: Some(Sharding { kind: Some(kind) }),
        split_keys,
        replication_factor: args.replicas,
        history_revisions: args.history,
        history_ms: args.history_age.map_or(0, milliseconds),
    };
    let made = client.create_keyspace(request).await.map_err(|error| {
        let taken = error.code == ErrorCode::AlreadyExists;
        let failure = Failure::from(error);
        let hint = "`kvctl keyspace list` shows which names are taken";
        if taken { Failure { hint: hint.to_owned(), ..failure } } else { failure }
    })?;
    let keyspace = made.keyspace.unwrap_or_default();
    match context.format() {
        Format::Json => {
            let made = json!({
                "id": keyspace.id,
                "name": keyspace.name,
                "shards": made.shards,
                "replication_factor": keyspace.replication_factor,
            });
            context.print_json(&made).await
        }
        Format::Simple | Format::Table => context.print("OK\n").await,
    }
}

async fn set(context: &mut Context<'_>, client: &Client, args: KeyspaceSetArgs) -> Result<(), Failure> {
    let request = UpdateKeyspaceRequest {
        name: args.name,
        history_revisions: args.history,
        history_ms: args.history_age.map(milliseconds),
    };
    let set = client.update_keyspace(request).await.map_err(|error| {
        let unknown = error.code == ErrorCode::KeyspaceNotFound;
        let failure = Failure::from(error);
        let hint = "`kvctl keyspace list` shows them";
        if unknown { Failure { hint: hint.to_owned(), ..failure } } else { failure }
    })?;
    let keyspace = set.keyspace.unwrap_or_default();
    match context.format() {
        Format::Json => {
            let (revisions, ms) = (keyspace.history_revisions, keyspace.history_ms);
            context
                .print_json(&json!({ "name": keyspace.name, "history_revisions": revisions, "history_ms": ms }))
                .await
        }
        Format::Simple | Format::Table => context.print("OK\n").await,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is kept of a keyspace's history, in words.
fn history(keyspace: &Keyspace) -> String {
    let revisions = (keyspace.history_revisions > 0).then(|| keyspace.history_revisions.to_string());
    let age = (keyspace.history_ms > 0).then(|| duration(keyspace.history_ms));
    let kept: Vec<_> = revisions.into_iter().chain(age).collect();
    if kept.is_empty() { "all".to_owned() } else { kept.join("+") }
}

/// As the command line reads it, in the largest unit that fits.
fn duration(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.into_iter().find(|(unit, _)| ms.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

async fn describe(context: &mut Context<'_>, client: &Client, name: &str) -> Result<(), Failure> {
    let map = client.map().await?;
    let Some(keyspace) = map.keyspaces.values().find(|keyspace| keyspace.name == name) else {
        return Err(Failure::usage(format!("there is no keyspace `{name}`"), "`kvctl keyspace list` shows them"));
    };
    let own = listing(&map, std::iter::once(keyspace));
    let of_keyspace =
        shards(client.shards(true).await?.shards.into_iter().filter(|entry| entry.keyspace == name).collect());
    if context.format() == Format::Json {
        let both = json!({ "keyspace": own.json["keyspaces"][0], "shards": of_keyspace.json["shards"] });
        return context.print_json(&both).await;
    }
    show(context, own).await?;
    context.print("\n").await?;
    show(context, of_keyspace).await
}

async fn drop(context: &mut Context<'_>, client: &Client, name: &str, yes: bool) -> Result<(), Failure> {
    let map = client.map().await?;
    let Some(keyspace) = map.keyspace(name) else {
        return Err(Failure::usage(format!("there is no keyspace `{name}`"), "`kvctl keyspace list` shows them"));
    };
    if !yes {
        let keys = client.with_keyspace(name).count(crate::client::Keys::all()).await;
        let what = match keys {
            Ok(0) => "no key in it".to_owned(),
            Ok(1) => "its only key".to_owned(),
            Ok(keys) => format!("all its {keys} keys"),
            Err(_) => "all its keys".to_owned(),
        };
        return Err(Failure::usage(
            format!("this would drop keyspace `{name}` with {what}, for good"),
            "add --yes to do it",
        ));
    }
    client.drop_keyspace(name, keyspace.id).await?;
    match context.format() {
        Format::Json => context.print_json(&json!({ "id": keyspace.id.0, "name": name })).await,
        Format::Simple | Format::Table => context.print("OK\n").await,
    }
}

fn listing<'m>(map: &ShardMap, keyspaces: impl Iterator<Item = &'m Keyspace>) -> Listing {
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for keyspace in keyspaces {
        let shards = map.shards_of(keyspace.id).count();
        let sharding = sharding(keyspace);
        rows.push(vec![
            keyspace.name.clone(),
            keyspace.id.0.to_string(),
            sharding.to_owned(),
            shards.to_string(),
            keyspace.replication_factor.to_string(),
            history(keyspace),
            if keyspace.dropping { "dropping".to_owned() } else { "serving".to_owned() },
        ]);
        list.push(json!({
            "name": keyspace.name,
            "id": keyspace.id.0,
            "sharding": sharding,
            "shards": shards,
            "replication_factor": keyspace.replication_factor,
            "history_revisions": keyspace.history_revisions,
            "history_ms": keyspace.history_ms,
            "dropping": keyspace.dropping,
        }));
    }
    Listing {
        header: &["NAME", "ID", "SHARDING", "SHARDS", "REPLICAS", "HISTORY", "STATE"],
        rows,
        json: json!({ "keyspaces": Value::Array(list) }),
    }
}

fn sharding(keyspace: &Keyspace) -> &'static str {
    use crate::types::map::Sharding;
    match keyspace.sharding {
        Sharding::Single => "single",
        Sharding::Hash(_) => "hash",
        Sharding::Range => "range",
    }
}

#[cfg(test)]
mod tests {
    use super::duration;
    use crate::cli::args;

    #[test]
    fn a_time_is_shown_as_it_can_be_given() {
        for text in ["1500ms", "90s", "5m", "25h", "7d"] {
            let ms = args::duration(text).unwrap().as_millis();
            assert_eq!(duration(ms.try_into().unwrap()), text);
        }
    }
}
