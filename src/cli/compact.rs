//! `compact`: forgets history.

use std::time::Duration;

use serde_json::json;

use super::args::{CompactArgs, Format};
use super::exit::Failure;
use super::{Context, cluster};
use crate::client::{Client, Error, ErrorCode, Outcome};
use crate::env::time;
use crate::types::GroupId;

/// Time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) async fn compact(context: &mut Context<'_>, args: CompactArgs) -> Result<(), Failure> {
    let shard = args.shard.as_deref().map(cluster::shard_id).transpose()?;
    let client = context.client().await?;
    let done = client.compact(args.revision, shard, false).await;
    let present = match done {
        Ok(present) => present,
        // To wait for what was begun before is as good.
        Err(error) if args.wait && error.detail.compacted_revision == args.revision => 0,
        Err(error) if shard.is_some() && error.code == ErrorCode::WrongShard => {
            return Err(Failure::usage(error.message, "`kvctl shard list` shows them"));
        }
        Err(error) => return Err(refused(error)),
    };
    let present = if args.wait { wait(context, &client, args.revision, shard).await? } else { present };
    match context.format() {
        Format::Json => context.print_json(&json!({ "compacted": args.revision, "revision": present })).await,
        Format::Simple | Format::Table => context.print("OK\n").await,
    }
}

/// A refusal, with what it means to a compaction.
fn refused(error: Error) -> Failure {
    let hint = if error.code == ErrorCode::Compacted {
        "nothing older than that can be read any more, which is what you wanted"
    } else if error.code == ErrorCode::FutureRevision {
        "the message says at which revision the shard is"
    } else if error.code == ErrorCode::CrossShard {
        "name one with --shard; `kvctl shard list` shows them"
    } else {
        return error.into();
    };
    Failure { hint: hint.to_owned(), ..Failure::from(error) }
}

/// Waits until all of it is forgotten, however long that takes.
async fn wait(
    context: &mut Context<'_>,
    client: &Client,
    revision: u64,
    shard: Option<GroupId>,
) -> Result<u64, Failure> {
    let began = time::now();
    loop {
        // A request ends in time to say that it goes on.
        let asked = client.with_timeout(LINE_INTERVAL).compact(revision, shard, true).await;
        match asked {
            Ok(present) => return Ok(present),
            Err(error) if error.is_unavailable() || error.outcome != Outcome::NotApplied => {
                let seconds = time::now().saturating_duration_since(began).as_secs();
                context
                    .warn(&format!("what came before revision {revision} is being forgotten, for {seconds}s so far"))
                    .await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
