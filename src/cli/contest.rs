//! `lock` and `elect`: hold a name until an interrupt, or the end of a command.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, json};
use tokio::io::AsyncWriteExt;

use super::args::{ElectArgs, Format, LockArgs};
use super::exit::{Exit, Failure};
use super::keys::bytes;
use super::program::{Ended, see_through, start};
use super::{Context, TIMEOUT_DEFAULT, text};
use crate::client::{Client, Contender, Error, ErrorCode};
use crate::env::program::Program;
use crate::env::time;

/// How long an interrupted entry is waited for, so that it can be taken back.
const ENTRY_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn lock(context: &mut Context<'_>, args: LockArgs) -> Result<(), Failure> {
    let client = context.client_with(TIMEOUT_DEFAULT, true).await?;
    named(&args.lock)?;
    let contender = take(context, &client, bytes(args.lock), Bytes::new(), args.ttl).await?;
    if !args.command.is_empty() {
        return run(context, contender, args.command).await;
    }
    let mut object = Map::new();
    text::put_bytes(&mut object, "key", contender.key());
    object.insert("revision".into(), contender.revision().into());
    object.insert("lease".into(), contender.lease().into());
    let told = match context.format() {
        Format::Json => context.print_json(&object.into()).await,
        Format::Simple | Format::Table => {
            let revision = format!("\t{}\n", contender.revision());
            context.print([contender.key().as_ref(), revision.as_bytes()].concat()).await
        }
    };
    hold(context, contender, told).await
}

pub(crate) async fn elect(context: &mut Context<'_>, args: ElectArgs) -> Result<(), Failure> {
    let client = context.client_with(TIMEOUT_DEFAULT, true).await?;
    named(&args.election)?;
    let name = bytes(args.election);
    let Some(value) = args.value.map(bytes) else { return listen(context, &client, name).await };
    let contender = take(context, &client, name, value.clone(), args.ttl).await?;
    let told = show(context, contender.key(), &value, contender.revision()).await;
    hold(context, contender, told).await
}

fn named(name: &OsString) -> Result<(), Failure> {
    if name.is_empty() {
        Err(Failure::usage("a name has at least one byte", "name what is contended for"))
    } else {
        Ok(())
    }
}

async fn listen(context: &mut Context<'_>, client: &Client, name: Bytes) -> Result<(), Failure> {
    let mut leaders = client.leaders(name);
    let interrupt = context.interrupt.clone();
    loop {
        let leader = tokio::select! {
            biased;
            () = interrupt.cancelled() => return Err(Failure::silent(Exit::Interrupted)),
            leader = leaders.next() => leader?,
        };
        show(context, &leader.key, &leader.value, leader.create_revision).await?;
        context.console.stdout.flush().await?;
    }
}

async fn show(context: &mut Context<'_>, key: &[u8], value: &[u8], revision: u64) -> Result<(), Failure> {
    if context.format() == Format::Json {
        let mut object = Map::new();
        text::put_bytes(&mut object, "key", key);
        text::put_bytes(&mut object, "value", value);
        object.insert("revision".into(), json!(revision));
        return context.print_json(&object.into()).await;
    }
    context.print([key, b"\t", value, b"\n"].concat()).await
}

/// Holds the name once it is this contender's turn. An interrupt gives the place up.
async fn take(
    context: &mut Context<'_>,
    client: &Client,
    name: Bytes,
    value: Bytes,
    ttl: Duration,
) -> Result<Contender, Failure> {
    let interrupt = context.interrupt.clone();
    let mut entry = Box::pin(client.contend(name, value, ttl));
    let entered = tokio::select! {
        biased;
        entered = &mut entry => Some(entered?),
        () = interrupt.cancelled() => None,
    };
    let Some(mut contender) = entered else {
        if let Ok(Ok(contender)) = time::timeout(ENTRY_PATIENCE, entry).await {
            leave(context, contender).await?;
        }
        return Err(Failure::silent(Exit::Interrupted));
    };
    let turn = tokio::select! {
        biased;
        turn = contender.turn() => Some(turn),
        () = interrupt.cancelled() => None,
    };
    match turn {
        Some(Ok(())) => Ok(contender),
        Some(Err(error)) => {
            contender.leave().await.ok();
            Err(lost(error, "the place in the line"))
        }
        None => {
            leave(context, contender).await?;
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

/// Holds the name until an interrupt, unless nobody was told that it is held.
async fn hold(context: &mut Context<'_>, mut contender: Contender, told: Result<(), Failure>) -> Result<(), Failure> {
    let interrupt = context.interrupt.clone();
    let told = match told {
        Ok(()) => context.console.stdout.flush().await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = told {
        leave(context, contender).await?;
        return Err(failure);
    }
    let end = tokio::select! {
        biased;
        () = interrupt.cancelled() => None,
        end = contender.lost() => Some(end),
    };
    match end {
        Some(error) => Err(lost(error, "what was held")),
        None => {
            leave(context, contender).await?;
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

/// Holds the lock while a program runs.
async fn run(context: &mut Context<'_>, mut contender: Contender, words: Vec<OsString>) -> Result<(), Failure> {
    let variables = vec![
        // Bytes that no variable can hold stand in no key of a lock whose name came from a command line.
        ("KVCTL_LOCK_KEY".to_owned(), Some(key_variable(contender.key()))),
        ("KVCTL_LOCK_REVISION".to_owned(), Some(contender.revision().to_string().into())),
        ("KVCTL_LOCK_LEASE".to_owned(), Some(contender.lease().to_string().into())),
    ];
    let interrupt = context.interrupt.clone();
    let is_taken = context.session.reads_commands && !context.console.is_interactive;
    let input = is_taken.then(Bytes::new);
    let mut running = match start(context, Program { words, variables, input }).await {
        Ok(running) => running,
        Err(failure) => {
            leave(context, contender).await?;
            return Err(failure);
        }
    };
    let ended = tokio::select! {
        biased;
        ended = see_through(&mut *running, &interrupt) => Ok(ended),
        end = contender.lost() => Err(end),
    };
    match ended {
        Err(end) => {
            running.end();
            // It has ended either way; how says nothing any more.
            running.wait().await.ok();
            Err(lost(end, "the lock, and the command was killed, which held it"))
        }
        Ok(ended) => {
            leave(context, contender).await?;
            match ended? {
                Ended { interrupted: true, .. } => Err(Failure::silent(Exit::Interrupted)),
                Ended { status: 0, .. } => Ok(()),
                Ended { status, .. } => Err(Failure::silent(Exit::Command(status))),
            }
        }
    }
}

fn key_variable(key: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(key.to_vec())
}

/// Gives the name to the next one. Where nobody can be told, time does it.
async fn leave(context: &mut Context<'_>, contender: Contender) -> Result<(), Failure> {
    if let Err(error) = contender.leave().await {
        context.warn(&format!("not released, which happens when its time to live is over: {error}")).await?;
    }
    Ok(())
}

fn lost(error: Error, what: &str) -> Failure {
    if error.code != ErrorCode::LeaseNotFound {
        return error.into();
    }
    Failure {
        exit: Exit::Unavailable,
        message: format!("lost {what}: {error}"),
        hint: "somebody else may hold it now; a longer --ttl outlasts longer interruptions".to_owned(),
    }
}
