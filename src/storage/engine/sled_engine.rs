//! The engine on disk by choice: sled 0.34, a tree of sled for each store.
//!
//! Knows sled and its quirks, and no key layout. sled keeps its files itself, with threads of its
//! own; they pass no seam and are not simulated. What the code makes good in sled 0.34.7:
//!
//! - Its `flush` makes no fsync on Linux: [`files`] syncs every file and directory afterwards.
//! - Its iteration is no snapshot: [`history`] keeps what batches overwrite while views are open.
//! - It checks a CRC-32 on what it reads from its log, and skips what fails it, with all that follows
//!   in the segment: an older page, or none, is then served without a word. It also writes over
//!   segments that the last flush needs before it has synced what replaced them. Therefore each
//!   batch carries the sum of the checksums of all pairs, and an opening reads and proves them all.
//! - It has `unwrap`, `assert` and `panic` on what it reads: those are caught and become an error.
//! - It stands still for ever when its seven threads all wait to give segments back while the file,
//!   cut shorter before, grows again: the one who makes it grow holds their lock and waits for a
//!   cut that is queued behind them (mended upstream in spacejam/sled#1269, in no release of 0.34).
//!   Therefore few writes are ever under way: segments are large, and [`SETTLE_BYTES`] wait at most.
//! - A batch is atomic in one tree; one for several stores is a transaction of sled's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sled::Transactional as _;

use super::check::{distinct, only_engine, refused};
use super::slots::SlotFile;
use super::{Batch, Engine, EngineError, StoreId, View, Write};
use crate::env::disk::{DirLock, RealDisk};

mod files;
mod history;
mod open;
mod record;
mod tree;
mod view;

pub use open::SledConfig;

use files::{Files, Synced};
use history::{History, SeqNo, Views};
use open::{Opened, tree_name};
use record::{EngineState, STATE_KEY};
use tree::{Tree, guarded};
use view::SledView;

/// Once so many bytes were committed, the next commit waits until sled has written its log. sled
/// stands still when seven segments or parts of one are being written; so much makes one or two.
const SETTLE_BYTES: usize = 1024 * 1024;

/// The engine on sled.
///
/// Invariants: `writer.state` is what the trees hold; the marks' next store is above every id ever
/// given out; `seen` changes only while `writer` is held.
pub struct SledEngine {
    files: Files<'static>,
    writer: Mutex<Writer>,
    flushed: Mutex<Flushed>,
    marks: Mutex<Marks>,
    shared: Arc<Shared>,
    // The last two, in this order: sled writes out what it holds when the database goes.
    database: sled::Db,
    _lock: Box<dyn DirLock>,
}

/// What views reach. Locked in this order.
struct Shared {
    seen: RwLock<Seen>,
    views: Mutex<Views>,
    failed: OnceLock<String>,
}

/// What readers see. They hold it for one key or one page at a time.
struct Seen {
    stores: BTreeMap<StoreId, Arc<Tree>>,
    seqno: SeqNo,
    history: History,
}

/// Held by the one who writes.
struct Writer {
    state: EngineState,
    index: Arc<Tree>,
    /// Of each store, the sum of the checksums of its pairs.
    digests: BTreeMap<StoreId, u64>,
    /// Dropped, but views may still read them.
    doomed: Vec<Arc<Tree>>,
    /// Committed since sled's log was last written.
    unsettled_bytes: usize,
}

/// Held by the one who flushes.
struct Flushed {
    synced: Synced,
    seqno: SeqNo,
}

/// What the marks file says.
struct Marks {
    file: SlotFile,
    next_store: StoreId,
    /// Of the last batch that was flushed.
    seqno: SeqNo,
}

impl Marks {
    fn write(&mut self) -> Result<(), EngineError> {
        Ok(self.file.set([self.next_store.0, self.seqno])?)
    }
}

/// Writes to one tree that are not applied yet.
struct Pending {
    tree: Arc<Tree>,
    batch: sled::Batch,
    bytes: usize,
    /// What they add to the sum of the checksums.
    digest: u64,
}

impl Pending {
    fn new(tree: Arc<Tree>) -> Self {
        Self { tree, batch: sled::Batch::default(), bytes: 0, digest: 0 }
    }

    /// Returns the value before; `None` for a removal of nothing, which is left out.
    fn write(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Option<Option<Bytes>>, EngineError> {
        let key = record::pair_key(key);
        self.bytes += key.len();
        let before = self.tree.get(&key)?;
        self.digest = self.digest.wrapping_sub(before.as_ref().map_or(0, |(checksum, _)| *checksum));
        match value {
            Some(value) => {
                let (record, checksum) = record::encode(self.tree.id, &key, value);
                self.digest = self.digest.wrapping_add(checksum);
                self.bytes += record.len();
                self.batch.insert(key, record);
            }
            None if before.is_none() => return Ok(None),
            None => self.batch.remove(key),
        }
        Ok(Some(before.map(|(_, value)| value)))
    }
}

impl Shared {
    fn check_usable(&self) -> Result<(), EngineError> {
        self.failed.get().map_or(Ok(()), |first| Err(EngineError::Poisoned(first.clone())))
    }

    /// Remembers a failure after which nothing is known of what was written.
    fn fail(&self, error: EngineError) -> EngineError {
        self.failed.get_or_init(|| error.to_string());
        error
    }

    /// Remembers damage that a read has met: sled's own state may be broken as well.
    fn watch<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        result.map_err(|error| if matches!(error, EngineError::Corrupt(_)) { self.fail(error) } else { error })
    }
}

impl SledEngine {
    /// Opens the engine in `dir`, which is made if need be, and proves all that it holds: this takes
    /// time in proportion to the data. An engine that had it open before must be gone, with all its views.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] naming what is damaged; [`std::io::ErrorKind::WouldBlock`] when another
    /// process has it open; as the file system otherwise.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<Self, EngineError> {
        static DISK: RealDisk = RealDisk;
        let files = Files::open(&DISK, dir)?;
        let lock = files.lock()?;
        only_engine(&DISK, dir, "sled")?;
        let opened = open::open(&files, config)?;
        let Opened { database, index, stores, digests, state, marks, synced } = opened;
        let flushed = Flushed { synced, seqno: marks.seqno };
        let history = History::new(config.history_bytes);
        let seen = Seen { stores, seqno: state.seqno, history };
        let shared = Shared { seen: RwLock::new(seen), views: Mutex::default(), failed: OnceLock::new() };
        Ok(Self {
            files,
            writer: Mutex::new(Writer { state, index, digests, doomed: Vec::new(), unsettled_bytes: 0 }),
            flushed: Mutex::new(flushed),
            marks: Mutex::new(marks),
            shared: Arc::new(shared),
            database,
            _lock: lock,
        })
    }

    /// The writes, by tree, and what they overwrite. Only while `writer` is held.
    #[allow(clippy::type_complexity, reason = "taken apart at once")]
    fn prepare(&self, writes: Vec<Write>) -> Result<(Vec<Pending>, Vec<(StoreId, Bytes, Option<Bytes>)>), EngineError> {
        let mut pending: Vec<Pending> = Vec::new();
        let mut overwritten = Vec::with_capacity(writes.len());
        for (store, key, value) in writes {
            if pending.last().is_none_or(|last| last.tree.id != store) {
                let tree = self.shared.seen.read().stores.get(&store).cloned();
                pending.push(Pending::new(tree.ok_or(EngineError::NoStore(store))?));
            }
            let Some(last) = pending.last_mut() else { continue };
            if let Some(before) = self.shared.watch(last.write(&key, value.as_deref()))? {
                overwritten.push((store, key, before));
            }
        }
        Ok((pending, overwritten))
    }

    /// Applies the writes as one batch, and lets readers see it with `change`.
    fn apply(
        &self,
        writer: &mut Writer,
        mut pending: Vec<Pending>,
        overwritten: Vec<(StoreId, Bytes, Option<Bytes>)>,
        change: impl FnOnce(&mut Seen),
    ) -> Result<(), EngineError> {
        let mut state = writer.state;
        state.seqno += 1;
        for part in &pending {
            state.digest = state.digest.wrapping_add(part.digest);
        }
        let Some(first) = pending.first_mut() else { return Ok(()) };
        first.batch.insert(&STATE_KEY, state.encode(first.tree.id));
        writer.unsettled_bytes += pending.iter().map(|part| part.bytes).sum::<usize>();
        let mut seen = self.shared.seen.write();
        seen.history.save(state.seqno, overwritten.into_iter(), &mut self.shared.views.lock());
        apply_to_sled(pending).map_err(|error| self.shared.fail(error))?;
        seen.seqno = state.seqno;
        change(&mut seen);
        drop(seen);
        writer.state = state;
        if writer.unsettled_bytes >= SETTLE_BYTES { self.settle(writer) } else { Ok(()) }
    }

    /// Waits until sled has written its log.
    fn settle(&self, writer: &mut Writer) -> Result<(), EngineError> {
        guarded(|| self.database.flush()).map_err(|error| self.shared.fail(error))?;
        writer.unsettled_bytes = 0;
        Ok(())
    }

    /// Gives back the pages of dropped stores that no view reads any more.
    fn reap(&self, writer: &mut Writer) -> Result<(), EngineError> {
        // Nobody else can get at a tree of which only `doomed` knows.
        let (free, read): (Vec<_>, Vec<_>) =
            std::mem::take(&mut writer.doomed).into_iter().partition(|tree| Arc::strong_count(tree) == 1);
        writer.doomed = read;
        for tree in free {
            guarded(|| self.database.drop_tree(tree_name(tree.id))).map_err(|error| self.shared.fail(error))?;
            self.settle(writer)?;
        }
        Ok(())
    }
}

/// One tree takes a batch; for several sled has transactions, which hold up everything else.
fn apply_to_sled(mut pending: Vec<Pending>) -> Result<(), EngineError> {
    if pending.len() == 1
        && let Some(Pending { tree, batch, .. }) = pending.pop()
    {
        return guarded(|| tree.inner.apply_batch(batch));
    }
    let trees: Vec<_> = pending.iter().map(|part| part.tree.inner.clone()).collect();
    guarded(|| {
        let applied = trees.as_slice().transaction(|views| {
            for (view, part) in views.iter().zip(&pending) {
                view.apply_batch(&part.batch)?;
            }
            Ok(())
        });
        applied.map_err(|error| match error {
            sled::transaction::TransactionError::Storage(error) => error,
            sled::transaction::TransactionError::Abort(()) => sled::Error::ReportableBug("aborted".to_owned()),
        })
    })
}

impl Engine for SledEngine {
    fn create_store(&self) -> Result<StoreId, EngineError> {
        let mut writer = self.writer.lock();
        self.shared.check_usable()?;
        let id = {
            let mut marks = self.marks.lock();
            let id = marks.next_store;
            marks.next_store = StoreId(id.0 + 1);
            marks.write().map_err(|error| self.shared.fail(error))?;
            id
        };
        let inner = guarded(|| self.database.open_tree(tree_name(id))).map_err(|error| self.shared.fail(error))?;
        let tree = Arc::new(Tree { id, inner });
        let mut entry = Pending::new(writer.index.clone());
        self.shared.watch(entry.write(&id.0.to_be_bytes(), Some(&[])))?;
        self.apply(&mut writer, vec![entry], Vec::new(), |seen| {
            seen.stores.insert(id, tree);
        })?;
        Ok(id)
    }

    fn stores(&self) -> Result<Vec<StoreId>, EngineError> {
        self.shared.check_usable()?;
        Ok(self.shared.seen.read().stores.keys().copied().collect())
    }

    fn drop_store(&self, store: StoreId) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        self.shared.check_usable()?;
        if store == StoreId::CATALOG {
            return Err(refused("the catalog's store cannot be dropped"));
        }
        let Some(tree) = self.shared.seen.read().stores.get(&store).cloned() else { return Ok(()) };
        let mut entry = Pending::new(writer.index.clone());
        self.shared.watch(entry.write(&store.0.to_be_bytes(), None))?;
        // With the entry all of the store's pairs go from the sum.
        let held = writer.digests.get(&store).copied().unwrap_or(0);
        entry.digest = entry.digest.wrapping_sub(held);
        self.apply(&mut writer, vec![entry], Vec::new(), |seen| {
            seen.stores.remove(&store);
        })?;
        writer.digests.remove(&store);
        writer.doomed.push(tree);
        self.reap(&mut writer)
    }

    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let writes = distinct(batch)?;
        let mut writer = self.writer.lock();
        self.shared.check_usable()?;
        let (pending, overwritten) = self.prepare(writes)?;
        if overwritten.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = pending.iter().map(|part| (part.tree.id, part.digest)).collect();
        self.apply(&mut writer, pending, overwritten, |_| {})?;
        for (store, digest) in digests {
            let sum = writer.digests.entry(store).or_default();
            *sum = sum.wrapping_add(digest);
        }
        Ok(())
    }

    fn view(&self, store: StoreId) -> Result<Box<dyn View>, EngineError> {
        self.shared.check_usable()?;
        let seen = self.shared.seen.read();
        let tree = seen.stores.get(&store).cloned().ok_or(EngineError::NoStore(store))?;
        self.shared.views.lock().add(seen.seqno);
        Ok(Box::new(SledView::new(self.shared.clone(), tree, seen.seqno)))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut flushed = self.flushed.lock();
        self.shared.check_usable()?;
        self.reap(&mut self.writer.lock())?;
        let seqno = self.shared.seen.read().seqno;
        guarded(|| self.database.flush()).map_err(|error| self.shared.fail(error))?;
        if seqno == flushed.seqno {
            return Ok(());
        }
        self.files.sync(&mut flushed.synced).map_err(|error| self.shared.fail(error.into()))?;
        let mut marks = self.marks.lock();
        marks.seqno = seqno;
        marks.write().map_err(|error| self.shared.fail(error))?;
        flushed.seqno = seqno;
        Ok(())
    }

    fn tidy(&self, _: u64) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.shared.check_usable()?;
        guarded(|| self.database.size_on_disk())
    }
}

#[cfg(test)]
mod tests;
