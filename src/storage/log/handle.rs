//! The handles: the log as other rooms use it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::group::{Group, Uses};
use super::record::{ENTRIES_PREFIX_BYTES, ENTRY_PREFIX_BYTES};
use super::shared::{Body, Done, Shared, alone};
use super::{EntryId, LogConfig, LogEntry, LogError, LogState, LogStats, MARK_BYTES_MAX, Recovery, recovery};
use crate::env::Env;
use crate::types::GroupId;

/// The node's Raft log. Clones are cheap and share it. When the last handle is gone without
/// [`Log::close`], nothing more is written, as in a crash.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

/// Stops the tasks when the last handle is dropped.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.state.lock().abandoned = true;
        for task in [&self.0.work, &self.0.ready, &self.0.keep] {
            task.notify_waiters();
            task.notify_one();
        }
    }
}

impl Log {
    /// Opens the log in `dir`, or makes one there.
    ///
    /// # Errors
    /// When the files cannot be read or written, when nothing in them can be trusted, when a setting
    /// is out of its bounds, and when a new log finds no space.
    pub async fn open(env: &Env, dir: &Path, config: LogConfig) -> Result<(Self, Recovery), LogError> {
        let (shared, recovery) = recovery::open(env, dir, config).await?;
        let alive = Arc::new(Alive(shared.clone()));
        Ok((Self { shared, _alive: alive }, recovery))
    }

    /// A group's log. It comes to be with its first write.
    pub fn group(&self, id: GroupId) -> GroupLog {
        GroupLog { log: self.clone(), id }
    }

    /// The groups that exist, quarantined ones included.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.state.lock().groups.keys().copied().collect()
    }

    /// Why the group answers nothing, if it is quarantined.
    pub fn quarantined(&self, id: GroupId) -> Option<String> {
        match self.shared.state.lock().check_group(id) {
            Err(LogError::Quarantined { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// Forgets a group, quarantined or not; durable on return. Its next write begins a new life.
    ///
    /// # Errors
    /// When the log has failed or is closed.
    pub async fn remove_group(&self, id: GroupId) -> Result<(), LogError> {
        let waiting = {
            let mut state = self.shared.state.lock();
            state.check()?;
            let unnamed = state.unnamed.is_some();
            // An earlier removal may still be on its way to the disk.
            if !unnamed && !state.groups.contains_key(&id) && state.pending_bytes == 0 {
                return Ok(());
            }
            let (done, waiting) = oneshot::channel();
            let frees = state.groups.get_mut(&id).map(|group| std::mem::take(&mut group.uses)).unwrap_or_default();
            // What is queued of the old life no longer changes anything in memory.
            state.groups.remove(&id);
            state.committed_dirty.remove(&id);
            state.queue(id, Body::Remove, frees, Done::Wait(done));
            if unnamed {
                // Without a trace it would count as one of those whose names were lost.
                state.create(id);
            }
            state.publish_durable(id);
            waiting
        };
        self.written(waiting).await
    }

    /// Writes what is queued, seals the log and stops it. Later operations fail.
    ///
    /// # Errors
    /// When the log has failed.
    pub async fn close(&self) -> Result<(), LogError> {
        let waiting = {
            let mut state = self.shared.state.lock();
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            if state.abandoned {
                return Ok(());
            }
            let (done, waiting) = oneshot::channel();
            state.closing.get_or_insert_default().push(done);
            waiting
        };
        self.shared.ready.notify_one();
        self.shared.room.notify_waiters();
        self.written(waiting).await
    }

    /// Waits until the log has failed; says why. The process must then end.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                return "the raft log is gone".to_owned();
            }
        }
    }

    /// Sequence of the last durable frame. It never falls on one disk.
    pub fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Acquire)
    }

    /// Whether the disk is full: new writes should be refused, so that what is left serves deletes,
    /// votes, truncations and purges. [`GroupLog::append`] itself refuses only at the reserve.
    pub fn is_full(&self) -> bool {
        self.shared.state.lock().disk_full
    }

    /// Bytes of disk that the segments take.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        state.segments.values().chain(&state.spares).map(|segment| segment.bytes).sum()
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        let state = self.shared.state.lock();
        LogStats {
            pending_bytes: state.pending_bytes as u64,
            segments: (state.segments.len() + state.spares.len()) as u64,
            ..state.stats
        }
    }

    async fn written(&self, waiting: oneshot::Receiver<Result<(), LogError>>) -> Result<(), LogError> {
        self.shared.work.notify_one();
        waiting.await.unwrap_or(Err(LogError::Closed))
    }
}

/// One group's log. Clones are cheap. Operations of one group are given one after the other.
#[derive(Clone)]
pub struct GroupLog {
    log: Log,
    id: GroupId,
}

impl GroupLog {
    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether the group answers. [`GroupLog::state`], [`GroupLog::vote`] and
    /// [`GroupLog::committed`] show a quarantined group as empty: ask here first.
    ///
    /// # Errors
    /// [`LogError::Quarantined`], or [`LogError::Failed`].
    pub fn check(&self) -> Result<(), LogError> {
        self.log.shared.state.lock().check_group(self.id)
    }

    /// The ends of the log as it is readable now.
    pub fn state(&self) -> LogState {
        self.log.shared.state.lock().groups.get(&self.id).map(Group::state).unwrap_or_default()
    }

    /// The last entry of each run of entries of one term, in order.
    pub fn runs(&self) -> Vec<EntryId> {
        self.log.shared.state.lock().groups.get(&self.id).map(Group::runs).unwrap_or_default()
    }

    /// Waits until fewer bytes than `pending_bytes_max` wait for the disk. An append is never held
    /// itself; who awaits this before each keeps the queue below that plus one append per group.
    ///
    /// # Errors
    /// When the log has failed or is closed.
    pub async fn admission(&self) -> Result<(), LogError> {
        let shared = &self.log.shared;
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = shared.state.lock();
                state.check()?;
                if state.pending_bytes < shared.config.pending_bytes_max {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// Whether entries of `bytes` find space. Only on a full disk they may not; who asks before an
    /// append, and leaves some for others, never meets [`LogError::Full`].
    pub fn has_room(&self, bytes: usize) -> bool {
        self.log.shared.state.lock().has_space(alone(bytes))
    }

    /// Adds entries that continue the log. They are readable on return; `done` is called once they
    /// are durable, or never will be, and not at all when this returns an error.
    ///
    /// # Errors
    /// Nothing was changed: not consecutive, too large, [`LogError::Full`], quarantined, failed.
    pub fn append(
        &self,
        entries: Vec<LogEntry>,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) -> Result<(), LogError> {
        let shared = &self.log.shared;
        {
            let mut state = shared.state.lock();
            state.check()?;
            state.check_group(self.id)?;
            let next = state.groups.get(&self.id).map_or(0, Group::next);
            self.admissible(next, &entries)?;
            let chunks = chunked(entries, shared.config.frame_bytes());
            let cost = chunks.iter().map(|chunk| alone(chunk_bytes(chunk))).sum();
            if !state.has_space(cost) {
                return Err(LogError::Full);
            }
            state.live(self.id)?;
            let mut done = Some(Done::Call(Box::new(done)));
            let last = chunks.len().saturating_sub(1);
            for (at, entries) in chunks.into_iter().enumerate() {
                // Only the last tells: they are written in order.
                let done = if at == last { done.take() } else { None }.unwrap_or(Done::Nobody);
                let operation = state.next_id + 1;
                if let Some(group) = state.groups.get_mut(&self.id) {
                    group.append(operation, &entries);
                }
                let first = entries.first().map_or(0, |entry| entry.index);
                state.queue(self.id, Body::Entries { first, entries }, Uses::default(), done);
            }
        }
        shared.work.notify_one();
        Ok(())
    }

    fn admissible(&self, mut expected: u64, entries: &[LogEntry]) -> Result<(), LogError> {
        let limit = self.log.shared.config.entry_bytes_max();
        for entry in entries {
            if entry.index != expected {
                return Err(LogError::NotConsecutive { group: self.id, expected, got: entry.index });
            }
            if entry.data.len() > limit {
                return Err(LogError::TooLarge { what: "log entry", bytes: entry.data.len(), limit });
            }
            expected += 1;
        }
        Ok(())
    }

    /// Saves the group's vote: readable at once, durable on return.
    ///
    /// # Errors
    /// Too large, quarantined, failed.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), LogError> {
        check_mark("vote", &vote)?;
        let waiting = {
            let mut state = self.log.shared.state.lock();
            state.live(self.id)?.vote = Some(vote.clone());
            let (done, waiting) = oneshot::channel();
            state.queue(self.id, Body::Vote(vote), Uses::default(), Done::Wait(done));
            waiting
        };
        self.log.written(waiting).await
    }

    /// The group's vote.
    pub fn vote(&self) -> Option<Bytes> {
        self.log.shared.state.lock().groups.get(&self.id)?.vote.clone()
    }

    /// Notes how far the group is committed: readable at once, durable with the next frame that is
    /// written for another reason, or the seal.
    ///
    /// # Errors
    /// Too large, quarantined, failed.
    pub fn save_committed(&self, committed: Bytes) -> Result<(), LogError> {
        check_mark("committed mark", &committed)?;
        let mut state = self.log.shared.state.lock();
        state.live(self.id)?.committed = Some(committed);
        if state.writer_sleeps {
            // The seal is due again. A writer that is awake comes to it by itself.
            self.log.shared.work.notify_one();
        }
        state.committed_dirty.insert(self.id);
        Ok(())
    }

    /// The group's committed mark.
    pub fn committed(&self) -> Option<Bytes> {
        self.log.shared.state.lock().groups.get(&self.id)?.committed.clone()
    }

    /// Drops the entries after `index`, all for `None`; durable on return.
    ///
    /// # Errors
    /// Quarantined, failed.
    pub async fn truncate_after(&self, index: Option<u64>) -> Result<(), LogError> {
        let next = index.map_or(0, |index| index.saturating_add(1));
        let waiting = {
            let mut state = self.log.shared.state.lock();
            let frees = state.live(self.id)?.truncate(next);
            state.publish_durable(self.id);
            let (done, waiting) = oneshot::channel();
            state.queue(self.id, Body::Truncate(next), frees, Done::Wait(done));
            waiting
        };
        self.log.written(waiting).await
    }

    /// Drops the entries up to `upto`, which may lie beyond the last one: the log is then empty and
    /// goes on after it. Durable on return.
    ///
    /// # Errors
    /// Quarantined, failed.
    pub async fn purge(&self, upto: EntryId) -> Result<(), LogError> {
        let waiting = {
            let mut state = self.log.shared.state.lock();
            let group = state.live(self.id)?;
            let frees = group.purge(upto);
            let upto = group.purged.unwrap_or(upto);
            let (done, waiting) = oneshot::channel();
            state.queue(self.id, Body::Purge(upto), frees, Done::Wait(done));
            waiting
        };
        self.log.written(waiting).await
    }

    /// The entries of `range` that the log holds, in order, until they exceed `bytes_max`; at least
    /// one if there is any. What was purged is left out.
    ///
    /// # Errors
    /// Quarantined, failed; [`LogError::Quarantined`] also when what is on disk fails its checksum.
    pub async fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        self.log.shared.read(self.id, range, bytes_max).await
    }

    /// The highest index that is durable in this log. It falls when the log is truncated.
    pub fn durable(&self) -> watch::Receiver<Option<u64>> {
        let mut state = self.log.shared.state.lock();
        let now = state.groups.get(&self.id).and_then(Group::durable);
        let durable: &mut BTreeMap<_, _> = &mut state.durable;
        durable.entry(self.id).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }
}

fn check_mark(what: &'static str, mark: &Bytes) -> Result<(), LogError> {
    if mark.len() > MARK_BYTES_MAX {
        return Err(LogError::TooLarge { what, bytes: mark.len(), limit: MARK_BYTES_MAX });
    }
    Ok(())
}

fn chunk_bytes(entries: &[LogEntry]) -> usize {
    ENTRIES_PREFIX_BYTES + entries.iter().map(|entry| ENTRY_PREFIX_BYTES + entry.data.len()).sum::<usize>()
}

/// Cuts one append into pieces that fit a frame; a larger entry goes alone.
fn chunked(entries: Vec<LogEntry>, limit: usize) -> Vec<Vec<LogEntry>> {
    if chunk_bytes(&entries) <= limit {
        return vec![entries];
    }
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), ENTRIES_PREFIX_BYTES);
    for entry in entries {
        let more = ENTRY_PREFIX_BYTES + entry.data.len();
        if !chunk.is_empty() && bytes + more > limit {
            chunks.push(std::mem::take(&mut chunk));
            bytes = ENTRIES_PREFIX_BYTES;
        }
        bytes += more;
        chunk.push(entry);
    }
    chunks.push(chunk);
    chunks
}
