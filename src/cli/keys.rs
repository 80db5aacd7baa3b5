//! `get`, `put`, `del`, `scan` and `count`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use serde_json::{Map, json};

use super::args::{DelArgs, Format, GetArgs, ListArgs, PutArgs, RangeArgs, ScanArgs};
use super::exit::{Exit, Failure};
use super::table::table;
use super::{Context, text};
use crate::client::{BatchOperation, Client, Consistency, ErrorCode, Keys, PutOptions, Record, ScanOptions};
use crate::types::limits::BATCH_OPERATIONS_MAX;

pub(crate) fn bytes(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

pub(crate) fn range(args: RangeArgs) -> Keys {
    let keys = args.prefix.map_or_else(Keys::all, |prefix| Keys::prefix(bytes(prefix)));
    let keys = match args.from {
        Some(from) => keys.from(bytes(from)),
        None => keys,
    };
    match args.to {
        Some(to) => keys.to(bytes(to)),
        None => keys,
    }
}

pub(crate) async fn get(context: &mut Context<'_>, args: GetArgs) -> Result<(), Failure> {
    let key = bytes(args.key);
    if args.prefix {
        return list(context, Keys::prefix(key), args.list).await;
    }
    if args.list.limit.is_some() || args.list.reverse {
        let hint = "add --prefix to list all keys that begin with KEY";
        return Err(Failure::usage("--limit and --reverse need --prefix", hint));
    }
    let client = context.client().await?;
    let Some(record) = client.get_at(key, args.list.rev).await? else {
        return Err(Failure::silent(Exit::NotFound));
    };
    match context.format() {
        Format::Simple => {
            let shown = if args.list.keys_only { &record.key } else { &record.value };
            context.print([shown.as_ref(), b"\n"].concat()).await
        }
        Format::Json => context.print_json(&text::record(&record, args.list.keys_only)).await,
        Format::Table => context.print(records_table(&[record], args.list.keys_only)).await,
    }
}

pub(crate) async fn scan(context: &mut Context<'_>, args: ScanArgs) -> Result<(), Failure> {
    list(context, range(args.range), args.list).await
}

async fn list(context: &mut Context<'_>, keys: Keys, args: ListArgs) -> Result<(), Failure> {
    let mut options = ScanOptions::new().revision(args.rev);
    if let Some(limit) = args.limit {
        options = options.limit(limit);
    }
    if args.reverse {
        options = options.reverse();
    }
    if args.keys_only {
        options = options.keys_only();
    }
    let client = context.client().await?;
    let mut scan = client.scan(keys, options);
    let mut in_table = Vec::new();
    while let Some(mut page) = scan.next_page().await? {
        match context.format() {
            Format::Table => in_table.append(&mut page),
            Format::Json => {
                let lines: String =
                    page.iter().map(|record| format!("{}\n", text::record(record, args.keys_only))).collect();
                context.print(lines).await?;
            }
            Format::Simple => {
                let mut lines = Vec::new();
                for record in page {
                    lines.extend_from_slice(&record.key);
                    if !args.keys_only {
                        lines.push(b'\t');
                        lines.extend_from_slice(&record.value);
                    }
                    lines.push(b'\n');
                }
                context.print(lines).await?;
            }
        }
    }
    if context.format() == Format::Table {
        context.print(records_table(&in_table, args.keys_only)).await?;
    }
    Ok(())
}

fn records_table(records: &[Record], keys_only: bool) -> String {
    let row = |record: &Record| {
        let mut row = vec![text::printable(&record.key)];
        if !keys_only {
            row.push(text::printable(&record.value));
        }
        row.extend([record.version, record.create_revision, record.mod_revision].map(|number| number.to_string()));
        row
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    if keys_only {
        table(&["KEY", "VERSION", "CREATED", "MODIFIED"], &rows)
    } else {
        table(&["KEY", "VALUE", "VERSION", "CREATED", "MODIFIED"], &rows)
    }
}

pub(crate) async fn put(context: &mut Context<'_>, args: PutArgs) -> Result<(), Failure> {
    let value = if args.value == "-" { context.read(None).await?.into() } else { bytes(args.value) };
    let mut options = PutOptions::new();
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    if let Some(lease) = args.lease {
        options = options.lease(lease);
    }
    if args.prev {
        options = options.previous();
    }
    let client = context.client().await?;
    let written = client.put_with(bytes(args.key), value, &options).await?;
    if context.format() == Format::Json {
        let mut object = Map::new();
        object.insert("revision".into(), written.revision.into());
        if args.prev {
            let previous = written.previous.as_ref().map(|record| text::record(record, false));
            object.insert("previous".into(), previous.into());
        }
        return context.print_json(&object.into()).await;
    }
    context.print("OK\n").await?;
    match written.previous {
        Some(previous) => context.print([previous.value.as_ref(), b"\n"].concat()).await,
        None => Ok(()),
    }
}

pub(crate) async fn del(context: &mut Context<'_>, args: DelArgs) -> Result<(), Failure> {
    let client = context.client().await?;
    let deleted = match args.key {
        Some(key) if args.prefix => delete_range(&client, Keys::prefix(bytes(key))).await?,
        Some(key) => u64::from(client.delete(bytes(key)).await?),
        None => delete_range(&client, range(RangeArgs { prefix: None, from: args.from, to: args.to })).await?,
    };
    match context.format() {
        Format::Json => context.print_json(&json!({ "deleted": deleted })).await?,
        Format::Simple | Format::Table => context.print(format!("{deleted}\n")).await?,
    }
    if deleted == 0 { Err(Failure::silent(Exit::NotFound)) } else { Ok(()) }
}

/// Deletes a range in one step, or, where it lies in several shards, piece by piece. Returns how many keys.
async fn delete_range(client: &Client, mut keys: Keys) -> Result<u64, Failure> {
    match client.delete_range(&keys).await {
        Err(error) if error.code == ErrorCode::CrossShard => {}
        done => return Ok(done?),
    }
    let options = ScanOptions::new().keys_only().limit(BATCH_OPERATIONS_MAX as u64);
    let options = options.consistency(Consistency::Linearizable);
    let mut deleted = 0;
    loop {
        // A new scan for each piece: an old revision may be forgotten while this goes on.
        let mut found = Vec::new();
        let mut scan = client.scan(keys.clone(), options.clone());
        let cut_short = |error, deleted| {
            let failure = Failure::from(error);
            match deleted {
                0 => failure,
                deleted => Failure { message: format!("{} ({deleted} keys were deleted)", failure.message), ..failure },
            }
        };
        while let Some(page) = scan.next_page().await.map_err(|error| cut_short(error, deleted))? {
            found.extend(page.into_iter().map(|record| record.key));
        }
        let Some(last) = found.last() else { return Ok(deleted) };
        keys = keys.from([last.as_ref(), &[0]].concat());
        let operations: Vec<_> = found.iter().cloned().map(BatchOperation::delete).collect();
        let mut failed = None;
        for outcome in client.batch(&operations).await.map_err(|error| cut_short(error, deleted))? {
            match outcome.result {
                Ok(_) => deleted += outcome.operations.len() as u64,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(cut_short(error, deleted));
        }
    }
}

pub(crate) async fn count(context: &mut Context<'_>, args: RangeArgs) -> Result<(), Failure> {
    let client = context.client().await?;
    let count = client.count(range(args)).await?;
    match context.format() {
        Format::Json => context.print_json(&json!({ "count": count })).await,
        Format::Simple | Format::Table => context.print(format!("{count}\n")).await,
    }
}
