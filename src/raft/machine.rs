//! openraft's state machine over an [`Apply`] and one store of the engine.
//!
//! Two rules live here. Effects, applied position and membership of a run of entries go into **one**
//! engine batch. An entry is applied only once it is durable in this node's own log: otherwise a
//! power cut could leave a state that is ahead of the log, which openraft calls a corrupt store.
//!
//! Keys of this room, in the replica's own store:
//!
//! ```text
//! 00 01  applied position: term, index, each 8 bytes little-endian
//! 00 02  membership: protobuf StoredMembership
//! ```

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::{Mutex, MutexGuard, RwLock};
use prost::Message;
use tokio::sync::watch;

use super::apply::{Apply, LogPosition};
use super::codec;
use super::flusher::Tail;
use super::observe::Observer;
use super::snapshot::SnapshotData;
use super::types::{Answer, Command, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::env::work::{Worker, WorkerGone};
use crate::proto::internal as wire;
use crate::storage::engine::catalog::Catalog;
use crate::storage::engine::stream::StreamError;
use crate::storage::engine::{Engine, EngineError, StoreId, View, WriteSet};
use crate::types::{GroupId, ReplicaId};

const APPLIED_KEY: &[u8] = &[0, 1];
const MEMBERSHIP_KEY: &[u8] = &[0, 2];

/// Entries applied by one job.
const APPLY_ENTRIES_MAX: usize = 1_024;
/// Commands applied by one job, in bytes; one larger goes alone.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A batch takes no further entry once it holds this many bytes.
const BATCH_BYTES_TARGET: usize = 4 * 1024 * 1024;

/// Why a replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum MachineError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Snapshot(#[from] StreamError),
    #[error(transparent)]
    Worker(#[from] WorkerGone),
    #[error("entry {entry} is to be applied after {applied}")]
    Order { entry: LogId, applied: LogId },
    #[error("the log has stopped before entry {0} was durable")]
    LogStopped(u64),
}

impl From<MachineError> for io::Error {
    fn from(error: MachineError) -> Self {
        Self::other(error)
    }
}

/// A replica's state: its store and the machine that reads and writes it.
pub(super) struct Replica {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    engine: Arc<dyn Engine>,
    catalog: Arc<Catalog>,
    apply: Arc<dyn Apply>,
    /// Written only while a received snapshot takes the store's place.
    store: RwLock<StoreId>,
    applied: watch::Sender<Option<LogPosition>>,
    tail: Mutex<Tail>,
}

impl Replica {
    /// Opens the state in `store` and shows it to the machine.
    pub(super) fn open(
        group: GroupId,
        replica: ReplicaId,
        catalog: Arc<Catalog>,
        store: StoreId,
        apply: Arc<dyn Apply>,
    ) -> Result<Self, EngineError> {
        let engine = catalog.engine().clone();
        let view = engine.view(store)?;
        let applied = read_applied(&*view)?.as_ref().map(codec::position);
        apply.applied(&*view, applied.unwrap_or_default());
        let applied = watch::Sender::new(applied);
        Ok(Self { group, replica, engine, catalog, apply, store: RwLock::new(store), applied, tail: Mutex::default() })
    }

    /// The state as of now.
    pub(super) fn view(&self) -> Result<Box<dyn View>, EngineError> {
        let store = self.store.read();
        self.engine.view(*store)
    }

    /// The last position that is visible.
    pub(super) fn applied(&self) -> Option<LogPosition> {
        *self.applied.borrow()
    }

    /// Returns once `index` is visible.
    pub(super) async fn reached(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives in `self`, so that this cannot end early.
        applied.wait_for(|applied| applied.is_some_and(|at| at.index >= index)).await.ok();
    }

    pub(super) fn observer(&self) -> Observer {
        Observer { group: self.group, replica: self.replica }
    }

    /// Sizes of what was applied last.
    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock()
    }

    /// Applies entries in order, in as few batches as their size allows.
    fn apply(&self, entries: &[Entry]) -> Result<Vec<Answer>, MachineError> {
        let store = *self.store.read();
        let mut answers = Vec::with_capacity(entries.len());
        let mut left = entries;
        while !left.is_empty() {
            left = self.apply_batch(store, left, &mut answers)?;
        }
        Ok(answers)
    }

    /// Applies entries until the batch is full: effects, applied position and membership together.
    /// Returns the entries that are left.
    fn apply_batch<'e>(
        &self,
        store: StoreId,
        entries: &'e [Entry],
        answers: &mut Vec<Answer>,
    ) -> Result<&'e [Entry], MachineError> {
        let view = self.engine.view(store)?;
        let mut before = read_applied(&*view)?;
        let mut state = WriteSet::new(&*view);
        let (mut taken, mut bytes) = (0, 0);
        for entry in entries {
            if state.bytes() >= BATCH_BYTES_TARGET {
                break;
            }
            let id = entry.log_id;
            if let Some(applied) = before.filter(|applied| applied.index >= id.index) {
                return Err(MachineError::Order { entry: id, applied });
            }
            answers.push(self.apply_entry(&mut state, entry)?);
            before = Some(id);
            taken += 1;
            bytes += codec::command_bytes(entry) as u64;
        }
        let Some(last) = before else { return Ok(&[]) };
        state.put(Bytes::from_static(APPLIED_KEY), applied_to_bytes(&last));
        let batch = state.into_batch(store);
        self.engine.commit(batch)?;
        self.observer().applied(entries.get(..taken).unwrap_or_default());
        self.tail.lock().push(last.index, bytes);
        self.show(&*self.engine.view(store)?, codec::position(&last));
        Ok(entries.get(taken..).unwrap_or_default())
    }

    fn apply_entry(&self, state: &mut WriteSet<'_>, entry: &Entry) -> Result<Answer, EngineError> {
        match &entry.payload {
            EntryPayload::Blank => Ok(Answer::default()),
            EntryPayload::Normal(Command(command)) => {
                self.apply.apply(state, codec::position(&entry.log_id), command).map(Answer)
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                let bytes = codec::stored_membership_to_wire(&stored).encode_to_vec();
                state.put(Bytes::from_static(MEMBERSHIP_KEY), bytes.into());
                Ok(Answer::default())
            }
        }
    }

    fn show(&self, view: &dyn View, at: LogPosition) {
        self.apply.applied(view, at);
        self.applied.send_replace(Some(at));
    }

    /// Puts a received snapshot in the place of the state: durable when this returns.
    fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), MachineError> {
        let staged = data.into_staged(&self.engine)?;
        let Some(staging) = staged.store() else { return Ok(()) };
        let view = self.engine.view(staging)?;
        check_snapshot(&*view, meta)?;
        // From here on it may have an owner, so the guard must not drop it: when the switch fails half
        // way, the catalog decides at the next start.
        staged.take();
        {
            let mut store = self.store.write();
            self.catalog.replace(self.group, self.replica, staging)?;
            *store = staging;
        }
        if let Some(last) = &meta.last_log_id {
            self.observer().installed(last);
            self.show(&*view, codec::position(last));
        }
        Ok(())
    }

    /// Meta and data of one view.
    fn snapshot(&self) -> Result<Option<FullSnapshot>, EngineError> {
        let view = self.view()?;
        let meta = read_meta(&*view)?;
        Ok(meta.last_log_id.is_some().then(|| Snapshot { meta, snapshot: SnapshotData::View(view) }))
    }
}

type FullSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

fn applied_to_bytes(id: &LogId) -> Bytes {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&id.leader_id.term.to_le_bytes());
    bytes.extend_from_slice(&id.index.to_le_bytes());
    bytes.into()
}

/// The position up to which a store's state was applied.
pub(super) fn read_applied(view: &dyn View) -> Result<Option<LogId>, EngineError> {
    let Some(mut bytes) = view.get(APPLIED_KEY)? else { return Ok(None) };
    if bytes.len() != 16 {
        return Err(EngineError::Corrupt(format!("the applied position has {} bytes", bytes.len())));
    }
    let (term, index) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(Some(codec::log_id(term, index)))
}

fn read_membership(view: &dyn View) -> Result<StoredMembership, EngineError> {
    let Some(bytes) = view.get(MEMBERSHIP_KEY)? else { return Ok(StoredMembership::default()) };
    let stored = wire::StoredMembership::decode(bytes).map_err(|error| EngineError::Corrupt(error.to_string()))?;
    codec::stored_membership_from_wire(stored).map_err(|error| EngineError::Corrupt(error.to_string()))
}

fn read_meta(view: &dyn View) -> Result<SnapshotMeta, EngineError> {
    Ok(SnapshotMeta { last_log_id: read_applied(view)?, last_membership: read_membership(view)? })
}

/// Whether a store holds the state that its snapshot's meta announces.
pub(super) fn check_snapshot(view: &dyn View, meta: &SnapshotMeta) -> Result<(), EngineError> {
    let holds = read_meta(view)?;
    if holds == *meta {
        return Ok(());
    }
    Err(EngineError::Corrupt(format!("the snapshot announced {meta} and holds {holds}")))
}

/// The state machine of one group, as openraft sees it.
pub(super) struct Machine {
    pub(super) replica: Arc<Replica>,
    pub(super) worker: Worker,
    /// Flushes block for long; they wait for nobody but each other.
    pub(super) flusher: Worker,
    /// Last index that is durable in this node's own log.
    pub(super) durable: watch::Receiver<Option<u64>>,
}

impl Machine {
    async fn apply_run(&mut self, run: Vec<EntryResponder<TypeConfig>>) -> Result<(), MachineError> {
        let (entries, responders): (Vec<Entry>, Vec<Option<ApplyResponder<TypeConfig>>>) = run.into_iter().unzip();
        let Some(last) = entries.last().map(|entry| entry.log_id.index) else { return Ok(()) };
        let durable = self.durable.wait_for(|durable| *durable >= Some(last)).await;
        durable.map_err(|_| MachineError::LogStopped(last))?;
        let replica = self.replica.clone();
        let answers = self.worker.run(move || replica.apply(&entries)).await??;
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let view = self.replica.view().map_err(MachineError::from)?;
        let meta = read_meta(&*view).map_err(MachineError::from)?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut run, mut bytes) = (Vec::new(), 0);
        while let Some(next) = entries.next().await {
            let next = next?;
            bytes += codec::command_bytes(&next.0);
            run.push(next);
            if run.len() >= APPLY_ENTRIES_MAX || bytes >= APPLY_BYTES_MAX {
                self.apply_run(std::mem::take(&mut run)).await?;
                bytes = 0;
            }
        }
        Ok(self.apply_run(run).await?)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { replica: self.replica.clone(), flusher: self.flusher.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let (replica, meta) = (self.replica.clone(), meta.clone());
        let installed = self.worker.run(move || replica.install(&meta, data)).await;
        Ok(installed.map_err(MachineError::from)??)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<FullSnapshot>, io::Error> {
        Ok(self.replica.snapshot().map_err(MachineError::from)?)
    }
}

/// Makes a snapshot: a view, and a flush that makes durable what it shows.
pub(super) struct Builder {
    replica: Arc<Replica>,
    flusher: Worker,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<FullSnapshot, io::Error> {
        let replica = self.replica.clone();
        let job = move || -> Result<FullSnapshot, MachineError> {
            let view = replica.view()?;
            let meta = read_meta(&*view)?;
            replica.engine.flush()?;
            Ok(Snapshot { meta, snapshot: SnapshotData::View(view) })
        };
        let built = self.flusher.run(job).await;
        Ok(built.map_err(MachineError::from)??)
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
