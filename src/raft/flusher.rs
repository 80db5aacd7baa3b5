//! Makes applied state durable, off the apply path, and shortens the logs behind it.
//!
//! The log is the write-ahead log: it may be cut only behind what the engine has **flushed**. It is
//! cut in small steps and far behind, because openraft panics when an entry that it is about to
//! apply is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use super::group::Core;
use super::registry::Registry;
use crate::env::time;
use crate::env::work::Worker;
use crate::storage::engine::{Engine, EngineError};

/// Pause between two flushes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// A flush happens at least this often, also when nothing was applied: an engine whose threads have
/// failed holds commits for ever, and only a flush tells.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// Entries that stay in the log behind the applied and flushed one: a follower that lags no more
/// than this needs no snapshot.
pub const LOG_ENTRIES_KEPT: u64 = 8_192;
/// Commands that stay in the log, in bytes, when the kept entries hold more.
const LOG_BYTES_KEPT: u64 = 64 * 1024 * 1024;
/// Entries that stay however large they are.
const LOG_ENTRIES_KEPT_MIN: u64 = 64;
/// Entries that one step removes at least, so that steps are worth their write,
const PURGE_STEP_MIN: u64 = 64;
/// and at most.
const PURGE_STEP_MAX: u64 = 65_536;

/// How far a replica has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Progress {
    applied: Option<u64>,
    durable_applied: Option<u64>,
    purged: Option<u64>,
    /// What openraft takes for its latest snapshot: it purges nothing beyond.
    snapshot: Option<u64>,
}

/// What to do next about a replica's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Nothing,
    /// Move openraft's snapshot up; the purge comes a step later.
    Snapshot,
    Purge(u64),
}

/// Decides; see the module's text for the rules.
fn next_step(progress: Progress, kept: u64) -> Step {
    let (Some(applied), Some(durable)) = (progress.applied, progress.durable_applied) else { return Step::Nothing };
    let first = progress.purged.map_or(0, |purged| purged.saturating_add(1));
    let Some(target) = applied.min(durable).checked_sub(kept) else { return Step::Nothing };
    if target < first.saturating_add(PURGE_STEP_MIN) {
        return Step::Nothing;
    }
    let upto = target.min(first.saturating_add(PURGE_STEP_MAX - 1));
    if progress.snapshot < Some(upto) { Step::Snapshot } else { Step::Purge(upto) }
}

/// Sizes of the runs of entries that were applied last.
#[derive(Default)]
pub(super) struct Tail {
    /// Index of a run's last entry, and its commands in bytes.
    runs: VecDeque<(u64, u64)>,
}

impl Tail {
    /// Counts a run that was applied.
    pub(super) fn push(&mut self, last: u64, bytes: u64) {
        self.runs.push_back((last, bytes));
        while self.runs.front().is_some_and(|(oldest, _)| oldest.saturating_add(LOG_ENTRIES_KEPT) < last) {
            self.runs.pop_front();
        }
    }

    /// How many of the last entries to keep: `wanted`, or fewer when they hold too many bytes.
    fn entries_kept(&self, wanted: u64) -> u64 {
        let Some((last, _)) = self.runs.back() else { return wanted };
        let mut bytes = 0;
        for (index, run) in self.runs.iter().rev() {
            bytes += run;
            if bytes > LOG_BYTES_KEPT {
                return (last - index).max(LOG_ENTRIES_KEPT_MIN).min(wanted);
            }
        }
        wanted
    }
}

/// Flushes one engine and purges the logs of the groups on it.
pub(super) struct Flusher {
    pub(super) registry: Arc<Registry>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) worker: Worker,
    /// Entries that stay behind, [`LOG_ENTRIES_KEPT`] but in tests.
    pub(super) entries_kept: u64,
}

impl Flusher {
    /// Flushes every now and then, as long as nothing fails.
    pub(super) async fn run(self) -> String {
        let mut flushed = time::now();
        loop {
            time::sleep(FLUSH_INTERVAL).await;
            let due = time::now().saturating_duration_since(flushed) >= FLUSH_INTERVAL_MAX;
            match self.round(due).await {
                Ok(true) => flushed = time::now(),
                Ok(false) => {}
                Err(why) => return format!("the engine cannot be flushed: {why}"),
            }
        }
    }

    /// Flushes if anything was applied or if it is `due`, publishes how far, and takes a step with
    /// each log. Returns whether it flushed.
    pub(super) async fn round(&self, due: bool) -> Result<bool, String> {
        // Read before the flush: what is applied while it runs may not be part of it.
        let applied: Vec<_> =
            self.registry.all().into_iter().map(|core| (core.state.applied().map(|at| at.index), core)).collect();
        let flush = due || applied.iter().any(|(applied, core)| *applied > *core.durable_applied.borrow());
        if flush {
            let engine = self.engine.clone();
            let flushed: Result<Result<(), EngineError>, _> = self.worker.run(move || engine.flush()).await;
            flushed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        for (applied, core) in applied {
            core.durable_applied.send_if_modified(|durable| {
                let newer = applied > *durable;
                *durable = applied.max(*durable);
                newer
            });
            // A core that is busy is asked again in the next round; the others need not wait for it.
            if time::timeout(FLUSH_INTERVAL, self.step(&core)).await.is_err() {
                tracing::debug!(group = %core.group, "its log is shortened later");
            }
        }
        Ok(flush)
    }

    async fn step(&self, core: &Core) {
        let progress = {
            let metrics = core.raft.metrics();
            let metrics = metrics.borrow_watched();
            Progress {
                applied: metrics.last_applied.map(|id| id.index),
                durable_applied: *core.durable_applied.borrow(),
                purged: metrics.purged.map(|id| id.index),
                snapshot: metrics.snapshot.map(|id| id.index),
            }
        };
        let kept = core.state.tail().entries_kept(self.entries_kept);
        let taken = match next_step(progress, kept) {
            Step::Nothing => Ok(()),
            Step::Snapshot => core.raft.trigger().snapshot().await,
            Step::Purge(upto) => core.raft.trigger().purge_log(upto).await,
        };
        if let Err(fatal) = taken {
            tracing::debug!(group = %core.group, %fatal, "a stopped group's log is left alone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::{Identity, PeerBook, Peers};
    use super::super::test_bed::Disk;
    use super::*;
    use crate::env::disk::RealDisk;
    use crate::env::work::Workers;
    use crate::types::NodeId;

    /// Nothing is applied any more when the engine holds a commit for ever: the flush must not wait
    /// for it.
    #[tokio::test]
    async fn an_engine_that_has_failed_is_noticed_without_a_write() {
        let disk = Disk::new();
        let engine: Arc<dyn Engine> = Arc::new(disk.stores.open());
        let identity = Identity::open(Arc::new(RealDisk), disk.dir.path(), "n1", NodeId(1), 1, None).unwrap();
        let book = PeerBook::open(Arc::new(RealDisk), disk.dir.path()).unwrap();
        let worker = Workers::threads().start("flush");
        let peers = Arc::new(Peers::new(identity, book, worker.clone(), || 0));
        let flusher = Flusher { registry: Arc::new(Registry::new(peers)), engine, worker, entries_kept: 10 };
        disk.stores.set_fault(Some(std::io::ErrorKind::Other));
        let noticed = time::timeout(5 * FLUSH_INTERVAL_MAX, flusher.run()).await;
        assert!(noticed.unwrap().starts_with("the engine cannot be flushed"));
    }

    fn progress(applied: u64, durable_applied: u64, purged: u64, snapshot: u64) -> Progress {
        Progress {
            applied: Some(applied),
            durable_applied: Some(durable_applied),
            purged: Some(purged),
            snapshot: Some(snapshot),
        }
    }

    #[test]
    fn nothing_is_purged_that_the_engine_has_not_flushed() {
        for durable in [0, 100, 9_000, 20_000] {
            let step = next_step(progress(1_000_000, durable, 0, 1_000_000), LOG_ENTRIES_KEPT);
            match step {
                Step::Purge(upto) => assert!(upto + LOG_ENTRIES_KEPT <= durable, "{step:?} of {durable}"),
                Step::Nothing => assert!(durable < LOG_ENTRIES_KEPT + PURGE_STEP_MIN + 1),
                Step::Snapshot => panic!("the snapshot is far ahead"),
            }
        }
        assert_eq!(next_step(Progress { durable_applied: None, ..progress(90_000, 0, 0, 90_000) }, 10), Step::Nothing);
    }

    #[test]
    fn trap_3_purges_stay_far_behind_apply_and_go_in_steps() {
        let step = next_step(progress(1_000_000, 1_000_000, 10, 1_000_000), LOG_ENTRIES_KEPT);
        assert_eq!(step, Step::Purge(10 + PURGE_STEP_MAX));
        let step = next_step(progress(20_000, 90_000, 10, 90_000), LOG_ENTRIES_KEPT);
        assert_eq!(step, Step::Purge(20_000 - LOG_ENTRIES_KEPT), "behind the slower of both");
    }

    #[test]
    fn trap_3_a_purge_never_follows_its_snapshot_at_once() {
        let before = progress(20_000, 20_000, 0, 100);
        assert_eq!(next_step(before, LOG_ENTRIES_KEPT), Step::Snapshot);
        // The snapshot is taken at the applied position: the next purge ends far behind it.
        let after = Progress { snapshot: Some(20_000), ..before };
        assert_eq!(next_step(after, LOG_ENTRIES_KEPT), Step::Purge(20_000 - LOG_ENTRIES_KEPT));
    }

    #[test]
    fn large_commands_keep_fewer_entries() {
        let mut tail = Tail::default();
        assert_eq!(tail.entries_kept(8_192), 8_192);
        for index in 1..=1_000 {
            tail.push(index, 1024 * 1024);
        }
        assert_eq!(tail.entries_kept(8_192), LOG_BYTES_KEPT / (1024 * 1024));
        tail.push(1_001, 1024 * LOG_BYTES_KEPT);
        assert_eq!(tail.entries_kept(8_192), LOG_ENTRIES_KEPT_MIN);
        assert_eq!(tail.entries_kept(10), 10);
        let mut small = Tail::default();
        for index in 1..=100_000 {
            small.push(index, 10);
        }
        assert_eq!(small.entries_kept(8_192), 8_192);
        assert!(small.runs.len() as u64 <= LOG_ENTRIES_KEPT + 1);
    }
}
