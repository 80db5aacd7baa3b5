//! `keyspace`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use super::Context;
use super::args::{Format, KeyspaceCommand, KeyspaceCreateArgs};
use super::cluster::{Listing, shards, show};
use super::exit::Failure;
use crate::client::sharding::{Hash, Kind, Range, Single};
use crate::client::{Client, CreateKeyspaceRequest, ErrorCode, Sharding};
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
        let history = keyspace.history_revisions;
        rows.push(vec![
            keyspace.name.clone(),
            keyspace.id.0.to_string(),
            sharding.to_owned(),
            shards.to_string(),
            keyspace.replication_factor.to_string(),
            if history == 0 { "all".to_owned() } else { history.to_string() },
            if keyspace.dropping { "dropping".to_owned() } else { "serving".to_owned() },
        ]);
        list.push(json!({
            "name": keyspace.name,
            "id": keyspace.id.0,
            "sharding": sharding,
            "shards": shards,
            "replication_factor": keyspace.replication_factor,
            "history_revisions": history,
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
