//! What the leader of a shard does with old history: it goes on with a compaction that was begun, and begins
//! one when the keyspace is to keep only so many revisions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::env::time;
use crate::proto::internal::{CommandResult, Compact, ShardCommand, command_result, shard_command};
use crate::raft::Role;
use crate::shard::History;
use crate::shard::fence::RETIRED;
use crate::storage::engine::EngineError;
use crate::types::limits::COMPACTION_STEP;

use super::leases::Leases;
use super::router::Router;

/// How long one step may take before it is proposed anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a step that was not confirmed, and before this replica looks again as leader.
const PAUSE: Duration = Duration::from_millis(500);
/// Revisions beyond those to keep that are gathered before they are forgotten together.
const SLACK_MIN: u64 = 100;

/// Compacts whenever this replica leads. Ends with the group.
pub(super) async fn run(router: Arc<Router>, shard: Arc<Leases>) {
    let mut status = shard.group.watch();
    loop {
        match status.wait_for(|status| matches!(status.role, Role::Leader | Role::Stopped)).await {
            Ok(status) if status.role == Role::Leader => {}
            Ok(_) | Err(_) => return,
        }
        if let Err(error) = lead(&router, &shard).await {
            tracing::error!(shard = shard.id.0, %error, "the history cannot be read; it is not compacted");
        }
        time::sleep(PAUSE).await;
    }
}

async fn lead(router: &Router, shard: &Leases) -> Result<(), EngineError> {
    let mut status = shard.group.watch();
    let mut map = router.watch_map();
    let mut revision = shard.machine.revision();
    loop {
        let keep = kept(router, shard);
        let history = History::of(&*shard.group.view()?)?;
        revision.mark_unchanged();
        if let Some(upto) = due(history, keep) {
            if !step(shard, upto).await {
                return Ok(());
            }
            continue;
        }
        tokio::select! {
            biased;
            ended = status.wait_for(|status| status.role != Role::Leader) => {
                drop(ended);
                return Ok(());
            }
            () = shard.machine.compaction_begun() => {}
            changed = map.changed() => if changed.is_err() { return Ok(()) },
            changed = revision.changed(), if keep > 0 => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Revisions that the shard's keyspace keeps; 0 keeps all.
fn kept(router: &Router, shard: &Leases) -> u64 {
    let map = router.map();
    let keyspace = map.shards.get(&shard.id).and_then(|shard| map.keyspaces.get(&shard.keyspace));
    keyspace.map_or(0, |keyspace| keyspace.history_revisions)
}

/// Up to which revision a step must go now, if one must.
fn due(history: History, keep: u64) -> Option<u64> {
    if history.is_unfinished {
        return Some(history.compacted);
    }
    let oldest = history.present.saturating_sub(keep);
    let slack = (keep / 8).max(SLACK_MIN);
    (keep > 0 && oldest > history.compacted.saturating_add(slack)).then_some(oldest)
}

/// Returns whether to go on.
async fn step(shard: &Leases, revision: u64) -> bool {
    let kind = shard_command::Kind::Compact(Compact { revision, step_max: COMPACTION_STEP, anew: false });
    // Whatever the map says of its epoch: this is the business of a shard that serves.
    let command = ShardCommand { kind: Some(kind), session: None, epoch: RETIRED - 1 };
    let proposed = shard.group.propose(command.encode_to_vec().into(), time::now() + STEP_TIMEOUT).await;
    proposed.is_ok_and(|applied| is_done(applied.answer))
}

/// A shard that was fenced refuses every step: then it is not asked again at once.
fn is_done(answer: Bytes) -> bool {
    CommandResult::decode(answer).is_ok_and(|result| matches!(result.kind, Some(command_result::Kind::Done(_))))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{CommandResult, History, command_result, due, is_done};
    use crate::proto::internal::{Done, Refusal};

    #[test]
    fn a_step_that_was_refused_is_not_taken_for_one_that_was_made() {
        let answer = |kind| CommandResult { kind: Some(kind) }.encode_to_vec().into();
        assert!(is_done(answer(command_result::Kind::Done(Done::default()))));
        assert!(!is_done(answer(command_result::Kind::Refusal(Refusal::default()))));
    }

    #[test]
    fn what_was_begun_goes_on_and_what_is_too_long_begins() {
        let history = |present, compacted, is_unfinished| History { present, compacted, is_unfinished };
        assert_eq!(due(history(50, 7, true), 0), Some(7));
        assert_eq!(due(history(50_000, 7, false), 0), None, "all is kept");
        assert_eq!(due(history(1_100, 0, false), 1_000), None, "a few more than are kept");
        assert_eq!(due(history(1_126, 0, false), 1_000), Some(126));
        assert_eq!(due(history(1_126, 126, false), 1_000), None);
        assert_eq!(due(history(5, 0, false), 1_000), None);
    }
}
