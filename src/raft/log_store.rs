//! openraft's log storage over one group's part of the node's log.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use futures_util::Stream;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::codec;
use super::observe::Observer;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::storage::log::{EntryId, GroupLog, LogEntry, LogError};
use crate::types::ReplicaId;
use crate::types::limits::APPEND_BYTES_MAX;

/// Bytes read from the log at once for entries that are to be applied.
const APPLY_READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One group's log, as openraft sees it. Clones read the same log.
#[derive(Clone)]
pub(super) struct LogStore {
    log: GroupLog,
    observer: Observer,
}

impl LogStore {
    pub(super) fn new(log: GroupLog, replica: ReplicaId) -> Self {
        let observer = Observer { group: log.id(), replica };
        Self { log, observer }
    }

    /// Writes the first entry of a group before its replica runs, and waits until it is durable.
    pub(super) async fn begin(&self, entry: &Entry) -> Result<(), LogError> {
        let data = codec::payload_to_bytes(&entry.payload);
        self.observer.begins();
        self.observer.appended(entry, &data);
        let stored = LogEntry { term: entry.log_id.leader_id.term, index: entry.log_id.index, data };
        let (done, durable) = oneshot::channel();
        // Nobody waits any more when the process is going down.
        self.log.append(vec![stored], move |result| drop(done.send(result)))?;
        durable.await.unwrap_or(Err(LogError::Closed))
    }

    /// Indexes of `range` that the log can hold.
    fn within(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let state = self.log.state();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let first = state.purged.map_or(0, |purged| purged.index.saturating_add(1));
        let after_last = state.last.map_or(0, |last| last.index.saturating_add(1));
        start.max(first)..end.min(after_last)
    }

    /// The first entries of `range`, at least one and about `bytes_max` at most.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let stored = self.log.read(range, bytes_max).await.map_err(failed)?;
        stored
            .into_iter()
            .map(|LogEntry { term, index, data }| codec::entry_from_log(term, index, data).map_err(failed))
            .collect()
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn log_id(id: EntryId) -> LogId {
    codec::log_id(id.term, id.index)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut left = self.within(&range);
        let mut entries = Vec::new();
        loop {
            let read = self.read(left.clone(), APPLY_READ_BYTES_MAX).await?;
            let Some(last) = read.last() else { return Ok(entries) };
            left.start = last.log_id.index.saturating_add(1);
            entries.extend(read);
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.vote().map(|vote| codec::vote_from_bytes(&vote).map_err(failed)).transpose()
    }

    /// Entries for a follower, capped in bytes: openraft counts entries only.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(self.within(&(start..end)), APPEND_BYTES_MAX).await
    }

    /// Entries to apply, read piece by piece: a run may be longer than memory should hold.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let state = (self.clone(), self.within(&range), VecDeque::new());
        futures_util::stream::try_unfold(state, async |(store, mut left, mut ready)| {
            if ready.is_empty() {
                ready.extend(store.read(left.clone(), APPLY_READ_BYTES_MAX).await?);
            }
            let next: Option<Entry> = ready.pop_front();
            Ok(next.map(|entry| {
                left.start = entry.log_id.index.saturating_add(1);
                (entry, (store, left, ready))
            }))
        })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(codec::vote_to_bytes(vote)).await.map_err(failed)?;
        self.observer.voted(vote);
        Ok(())
    }

    /// Not synced by itself: it becomes durable with the next write to the log.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(codec::log_id_to_bytes(&committed)).map_err(failed)?;
            self.observer.committed(&committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.log.committed().map(|id| codec::log_id_from_bytes(&id).map_err(failed)).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let observer = self.observer;
        let stored = |entry: Entry| {
            let data = codec::payload_to_bytes(&entry.payload);
            observer.appended(&entry, &data);
            LogEntry { term: entry.log_id.leader_id.term, index: entry.log_id.index, data }
        };
        let entries = entries.into_iter().map(stored).collect();
        let durable = observer.watch(&self.log);
        let done = move |result: Result<(), LogError>| {
            if result.is_ok() {
                observer.durable(durable.as_ref());
            }
            callback.io_completed(result.map_err(failed));
        };
        self.log.append(entries, done).map_err(failed)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.observer.truncated(last.as_ref());
        self.log.truncate_after(last.map(|id| id.index)).await.map_err(failed)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.purge(EntryId { term: upto.leader_id.term, index: upto.index }).await.map_err(failed)?;
        self.observer.purged(&upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;
    use openraft::storage::RaftLogStorageExt;

    use super::*;
    use crate::raft::test_bed::Disk;
    use crate::raft::types::Command;
    use crate::types::GroupId;

    #[tokio::test]
    async fn trap_6_a_read_for_a_follower_is_bounded_in_bytes() {
        let disk = Disk::new();
        let log = disk.log().await;
        let mut store = LogStore::new(log.group(GroupId(7)), ReplicaId(1));
        let sized = |index, bytes: usize| {
            let command = Command(Bytes::from(vec![0; bytes]));
            Entry::new(codec::log_id(1, index), EntryPayload::Normal(command))
        };
        let (third, double) = (APPEND_BYTES_MAX / 3, 2 * APPEND_BYTES_MAX);
        let entries = [third, third, third, third, double, 10];
        let entries: Vec<_> = (0..).zip(entries).map(|(index, bytes)| sized(index, bytes)).collect();
        store.blocking_append(entries).await.unwrap();
        let mut last_of = async |start| {
            let read = store.limited_get_log_entries(start, 6).await.unwrap();
            assert_eq!(read.first().unwrap().log_id.index, start);
            read.last().unwrap().log_id.index
        };
        let first = last_of(0).await;
        assert!((1..3).contains(&first), "two or three thirds fit, not four: {first}");
        assert_eq!(last_of(4).await, 4, "one that is too large goes alone");
        assert_eq!(last_of(5).await, 5);
        assert_eq!(store.try_get_log_entries(0..6).await.unwrap().len(), 6, "a read that may not stop early does not");
    }
}
