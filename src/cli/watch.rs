//! `watch`: shows changes as they come, or runs a command for each.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;

use super::args::{Format, RangeArgs, WatchArgs};
use super::exit::{Exit, Failure};
use super::keys::{bytes, range};
use super::program::{Ended, see_through, start};
use super::{Context, TIMEOUT_DEFAULT, text};
use crate::client::{Event, EventKind, Keys, Record, Watch, WatchOptions};
use crate::env::program::Program;
use crate::env::time;

/// How long a watch may be interrupted before that is said.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Longest key or value in a variable; the system has limits, and nobody reads more.
const VARIABLE_BYTES_MAX: usize = 64 * 1024;
/// Least widths of the columns of a table, which is shown before they are known.
const WIDTHS: [usize; 3] = [6, 10, 24];

pub(crate) async fn watch(context: &mut Context<'_>, args: WatchArgs) -> Result<(), Failure> {
    check(&args)?;
    let client = context.client_with(TIMEOUT_DEFAULT, true).await?;
    let mut options = WatchOptions::new().revision(args.rev);
    if args.prev {
        options = options.previous();
    }
    let mut watch = match args.key {
        Some(key) if args.prefix => client.watch_range(&Keys::prefix(bytes(key)), options),
        Some(key) => client.watch(bytes(key), options),
        None => client.watch_range(&range(RangeArgs { prefix: None, from: args.from, to: args.to }), options),
    };
    let interrupt = context.interrupt.clone();
    let shows = args.command.is_empty();
    if shows && context.format() == Format::Table {
        let header = ["TYPE", "REVISION", "KEY", "VALUE"].map(str::to_owned);
        context.print(row(&header, args.prev.then_some("PREVIOUS"))).await?;
        context.console.stdout.flush().await?;
    }
    let (mut told, mut last) = (false, None);
    loop {
        let event = tokio::select! {
            biased;
            () = interrupt.cancelled() => {
                // Who runs commands may not have seen how far they are.
                if let Some(revision) = last.filter(|_| !shows) {
                    let again = again(revision);
                    context.warn(&format!("interrupted after a change at revision {revision}: {again}")).await?;
                }
                return Err(Failure::silent(Exit::Interrupted));
            }
            event = next(context, &mut watch, &mut told) => event?,
        };
        last = event.record.as_ref().map(|record| record.mod_revision);
        if shows {
            let line = line(&event, context.format(), args.prev);
            context.print(line).await?;
            context.console.stdout.flush().await?;
        } else {
            run(context, &args.command, &event, args.prev).await?;
        }
    }
}

/// Refuses what could never show a change.
fn check(args: &WatchArgs) -> Result<(), Failure> {
    let hint = "`kvctl help watch` has examples";
    if args.key.as_ref().is_some_and(|key| key.is_empty()) && !args.prefix {
        return Err(Failure::usage("a key has at least one byte", hint));
    }
    if args.prefix && args.key.is_none() {
        return Err(Failure::usage("--prefix goes with a KEY", hint));
    }
    match (&args.from, &args.to) {
        (Some(from), Some(to)) if from >= to => Err(Failure::usage("no key comes after --from and before --to", hint)),
        _ => Ok(()),
    }
}

/// The next change. An interruption that lasts is told of once, and its end as well.
async fn next(context: &mut Context<'_>, watch: &mut Watch, told: &mut bool) -> Result<Event, Failure> {
    loop {
        if let Ok(event) = time::timeout(QUIET_MAX, watch.next()).await {
            *told = false;
            return Ok(event?);
        }
        match watch.trouble() {
            Some(error) if !*told => {
                let line = format!("the watch is interrupted, and goes on by itself when it can: {error}");
                *told = true;
                context.warn(&line).await?;
            }
            None if *told => {
                *told = false;
                context.warn("the watch goes on; nothing was missed").await?;
            }
            Some(_) | None => {}
        }
    }
}

async fn run(context: &mut Context<'_>, words: &[OsString], event: &Event, prev: bool) -> Result<(), Failure> {
    let record = event.record.clone().unwrap_or_default();
    let variables = vec![
        ("KVCTL_WATCH_REVISION".to_owned(), Some(record.mod_revision.to_string().into())),
        ("KVCTL_WATCH_EVENT_TYPE".to_owned(), Some(kind(event).into())),
        ("KVCTL_WATCH_KEY".to_owned(), variable(&record.key)),
        ("KVCTL_WATCH_VALUE".to_owned(), variable(&record.value)),
    ];
    let input = Some(Bytes::from(format!("{}\n", json(event, prev))));
    let interrupt = context.interrupt.clone();
    let mut running = start(context, Program { words: words.to_vec(), variables, input }).await?;
    match see_through(&mut *running, &interrupt).await? {
        Ended { interrupted: true, .. } => {
            let revision = record.mod_revision;
            let again = again(revision);
            context.warn(&format!("interrupted during a change at revision {revision}: {again}")).await?;
            Err(Failure::silent(Exit::Interrupted))
        }
        Ended { status: 0, .. } => Ok(()),
        Ended { status, .. } => {
            let revision = record.mod_revision;
            let message = format!("the command ended with {status} for the change at revision {revision}");
            Err(Failure { exit: Exit::Command(status), message, hint: again(revision) })
        }
    }
}

fn again(revision: u64) -> String {
    format!("--rev {revision} shows that change again, and what came after it")
}

/// What a variable can hold; the whole is on standard input in any case.
fn variable(bytes: &[u8]) -> Option<OsString> {
    (!bytes.contains(&0) && bytes.len() <= VARIABLE_BYTES_MAX).then(|| OsString::from_vec(bytes.to_vec()))
}

fn kind(event: &Event) -> &'static str {
    match event.kind() {
        EventKind::Delete => "DELETE",
        EventKind::Put | EventKind::Unspecified => "PUT",
    }
}

fn line(event: &Event, format: Format, prev: bool) -> Vec<u8> {
    let record = event.record.clone().unwrap_or_default();
    let is_put = event.kind() == EventKind::Put;
    match format {
        Format::Json => format!("{}\n", json(event, prev)).into_bytes(),
        Format::Table => {
            let cells = [
                kind(event).to_owned(),
                record.mod_revision.to_string(),
                text::printable(&record.key),
                text::printable(&record.value),
            ];
            let previous = event.previous.as_ref().map(|record| text::printable(&record.value));
            row(&cells, prev.then_some(previous.as_deref().unwrap_or_default())).into_bytes()
        }
        Format::Simple => {
            let mut line = [kind(event).as_bytes(), b"\t", &record.key].concat();
            if is_put {
                line.extend_from_slice(&[b"\t", record.value.as_ref()].concat());
            }
            if let Some(previous) = event.previous.as_ref().filter(|_| prev) {
                line.extend_from_slice(&[b"\t", previous.value.as_ref()].concat());
            }
            line.push(b'\n');
            line
        }
    }
}

fn row(cells: &[String; 4], previous: Option<&str>) -> String {
    let [kind, revision, key, value] = cells;
    let [kinds, revisions, keys] = WIDTHS;
    let line =
        format!("{kind:kinds$}  {revision:revisions$}  {key:keys$}  {value:keys$}  {}", previous.unwrap_or_default());
    format!("{}\n", line.trim_end())
}

fn json(event: &Event, prev: bool) -> Value {
    let record = event.record.clone().unwrap_or_default();
    let mut object = Map::new();
    object.insert("type".into(), kind(event).to_lowercase().into());
    object.insert("revision".into(), record.mod_revision.into());
    if event.kind() == EventKind::Put {
        object.insert("record".into(), text::record(&record, false));
    } else {
        text::put_bytes(&mut object, "key", &record.key);
    }
    if prev {
        let previous = event.previous.as_ref().map(|record: &Record| text::record(record, false));
        object.insert("previous".into(), previous.into());
    }
    object.into()
}
