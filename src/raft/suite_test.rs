//! openraft's own storage conformance suite, on log store and state machine.
//!
//! The suite begins some logs at index 1, as no group ever does: a log of ours begins at 0, and a
//! gap before its first entry counts as damage. So the entries before are filled in and hidden.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, StorageError};
use tokio::sync::watch;

use super::log_store::LogStore;
use super::machine::{Machine, Replica};
use super::test_bed::Disk;
use super::types::{Entry, LogId, TypeConfig, Vote};
use super::{codec, test_bed::Chain};
use crate::env::Env;
use crate::storage::log::Log;
use crate::types::{GroupId, ReplicaId};

#[derive(Clone)]
struct FilledIn {
    store: LogStore,
    /// Entries before this were filled in.
    first: Arc<AtomicU64>,
}

impl FilledIn {
    fn first(&self) -> u64 {
        self.first.load(Ordering::SeqCst)
    }
}

impl RaftLogReader<TypeConfig> for FilledIn {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let first = self.first();
        let entries = self.store.try_get_log_entries(range).await?;
        Ok(entries.into_iter().filter(|entry| entry.log_id.index >= first).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.store.read_vote().await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.store.limited_get_log_entries(start.max(self.first()), end).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures_util::Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = range.start_bound().cloned();
        let start = if start == Bound::Unbounded { Bound::Included(self.first()) } else { start };
        self.store.entries_stream((start, range.end_bound().cloned())).await
    }
}

impl RaftLogStorage<TypeConfig> for FilledIn {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.store.get_log_state().await?;
        Ok(LogState { last_log_id: state.last_log_id.filter(|last| last.index >= self.first()), ..state })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if first > 0 && self.store.get_log_state().await?.last_log_id.is_none() {
            let blank = |index| Entry::new(codec::log_id(0, index), EntryPayload::Blank);
            self.store.blocking_append((0..first).map(blank).collect::<Vec<_>>()).await?;
            self.first.store(first, Ordering::SeqCst);
        }
        self.store.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.first.store(last.map_or(0, |_| self.first()), Ordering::SeqCst);
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.store.purge(upto).await
    }
}

struct Stores;

impl StoreBuilder<TypeConfig, FilledIn, Machine, (Disk, Log)> for Stores {
    async fn build(&self) -> Result<((Disk, Log), FilledIn, Machine), StorageError<TypeConfig>> {
        let (group, replica) = (GroupId(7), ReplicaId(1));
        let disk = Disk::new();
        let log = disk.log().await;
        let catalog = disk.catalog();
        let store = catalog.create(group, replica).unwrap();
        let state = Replica::open(group, replica, catalog, store, Arc::new(Chain::default())).unwrap();
        // The suite applies what was never in the log.
        let (_, durable) = watch::channel(Some(u64::MAX));
        let workers = Env::real().workers;
        let (worker, flusher) = (workers.start("apply"), workers.start("flush"));
        let machine = Machine { replica: Arc::new(state), worker, flusher, durable };
        let store = FilledIn { store: LogStore::new(log.group(group), replica), first: Arc::default() };
        Ok(((disk, log), store, machine))
    }
}

#[tokio::test]
async fn log_store_and_state_machine_pass() {
    Suite::test_all(Stores).await.unwrap();
}
