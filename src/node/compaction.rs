//! What the leader of a shard does with old history: it goes on with a compaction that was begun, and begins
//! one when the keyspace keeps no more of it: neither by the number of revisions nor by their age.
//!
//! How old revisions are is known from when this leader saw them first; a new leader begins to count, so that
//! history may stay longer than was asked for and never goes earlier.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::env::time::{self, Instant};
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
/// Into how many steps the age is cut: so many parts of it history may stay longer.
const AGE_STEPS: u32 = 10;
const AGE_STEP_MIN: Duration = Duration::from_millis(10);
/// A pause of nothing to wait for.
const IDLE: Duration = Duration::from_secs(86_400);

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
    let mut ages = Ages::default();
    loop {
        let keep = kept(router, shard);
        let history = History::of(&*shard.group.view()?)?;
        revision.mark_unchanged();
        let wait = ages.see(history.present, keep.age, time::now());
        if let Some(upto) = due(history, keep, ages.older) {
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
            changed = revision.changed(), if keep.revisions > 0 => if changed.is_err() { return Ok(()) },
            () = time::sleep(wait), if keep.age > Duration::ZERO => {}
        }
    }
}

/// What the shard's keyspace keeps; zero sets no bound.
#[derive(Clone, Copy, Default)]
struct Keep {
    revisions: u64,
    age: Duration,
}

fn kept(router: &Router, shard: &Leases) -> Keep {
    let map = router.map();
    let keyspace = map.shards.get(&shard.id).and_then(|shard| map.keyspaces.get(&shard.keyspace));
    keyspace.map_or(Keep::default(), |keyspace| Keep {
        revisions: keyspace.history_revisions,
        age: Duration::from_millis(keyspace.history_ms),
    })
}

/// Up to which revision a step must go now, if one must. `older` is the newest revision that is too old to be
/// kept for its age.
fn due(history: History, keep: Keep, older: u64) -> Option<u64> {
    if history.is_unfinished {
        return Some(history.compacted);
    }
    let by_number = history.present.saturating_sub(keep.revisions);
    let (oldest, slack) = match (keep.revisions > 0, keep.age > Duration::ZERO) {
        (false, false) => return None,
        (true, false) => (by_number, (keep.revisions / 8).max(SLACK_MIN)),
        // Ages come in steps, so that nothing more needs to be gathered.
        (false, true) => (older, 0),
        (true, true) => (by_number.min(older), (keep.revisions / 8).max(SLACK_MIN)),
    };
    (oldest > history.compacted.saturating_add(slack)).then_some(oldest)
}

/// When this leader saw which revision first, in steps of a part of the age that matters.
#[derive(Default)]
struct Ages {
    seen: VecDeque<(Instant, u64)>,
    age: Duration,
    /// The newest revision that is older than that.
    older: u64,
}

impl Ages {
    /// Takes in what is there now; returns when to look again.
    fn see(&mut self, present: u64, age: Duration, now: Instant) -> Duration {
        if age != self.age {
            self.age = age;
            self.older = 0;
        }
        if age.is_zero() {
            self.seen.clear();
            return IDLE;
        }
        let step = age / AGE_STEPS;
        if self.seen.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= step) {
            self.seen.push_back((now, present));
        }
        while let Some((at, revision)) = self.seen.front()
            && now.saturating_duration_since(*at) >= age
        {
            self.older = *revision;
            self.seen.pop_front();
        }
        let last = self.seen.back().map_or(now, |(at, _)| *at);
        (last + step).saturating_duration_since(now).max(AGE_STEP_MIN)
    }
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

    use std::time::Duration;

    use super::{AGE_STEPS, Ages, CommandResult, History, Keep, command_result, due, is_done};
    use crate::env::time;
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
        let revisions = |revisions| Keep { revisions, ..Keep::default() };
        assert_eq!(due(history(50, 7, true), Keep::default(), 0), Some(7));
        assert_eq!(due(history(50_000, 7, false), Keep::default(), 0), None, "all is kept");
        assert_eq!(due(history(1_100, 0, false), revisions(1_000), 0), None, "a few more than are kept");
        assert_eq!(due(history(1_126, 0, false), revisions(1_000), 0), Some(126));
        assert_eq!(due(history(1_126, 126, false), revisions(1_000), 0), None);
        assert_eq!(due(history(5, 0, false), revisions(1_000), 0), None);
    }

    #[test]
    fn with_a_number_and_an_age_what_either_keeps_is_kept() {
        let history = History { present: 5_000, compacted: 0, is_unfinished: false };
        let age = Duration::from_secs(60);
        assert_eq!(due(history, Keep { revisions: 0, age }, 7), Some(7));
        assert_eq!(due(history, Keep { revisions: 0, age }, 0), None);
        assert_eq!(due(history, Keep { revisions: 1_000, age }, 4_900), Some(4_000));
        assert_eq!(due(history, Keep { revisions: 1_000, age }, 3_000), Some(3_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_is_old_when_it_was_seen_so_long_ago() {
        let (mut ages, age) = (Ages::default(), Duration::from_secs(100));
        let mut old = Vec::new();
        for second in 0..300 {
            // One revision a second.
            let wait = ages.see(1_000 + second, age, time::now());
            assert!(wait <= age / AGE_STEPS, "{wait:?}");
            old.push(ages.older);
            time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!((old[99], old[100], old[109], old[110]), (0, 1_000, 1_000, 1_010));
        for (second, older) in (0..).zip(old) {
            assert!(older == 0 || older + 100 <= 1_000 + second, "{older} is too young at {second}");
        }
        assert!(ages.seen.len() <= AGE_STEPS as usize + 1, "{}", ages.seen.len());
        ages.see(2_000, Duration::ZERO, time::now());
        ages.see(2_000, age, time::now());
        assert_eq!(ages.older, 0, "the time begins with the setting");
    }
}
