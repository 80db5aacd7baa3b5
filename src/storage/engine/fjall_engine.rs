//! The engine on disk: fjall 3, a fjall keyspace for each store.
//!
//! Knows fjall and its quirks, and no key layout. fjall keeps its files itself, with threads of its
//! own; they pass no seam and are not simulated. What the code guards against in fjall 3.1.13:
//!
//! - Its own flushes and compactions raise the visible sequence number past a batch that is still
//!   being written, so that a snapshot taken at that moment sees half of it. Therefore commits go
//!   one at a time, and views are clones of the one snapshot that was taken after the last commit.
//! - The cap over all memtables is not implemented. Ours: the largest memtables are rotated once
//!   all together pass half of the budget; the other half is for memtables that are being written out.
//! - A keyspace that is no longer written to keeps journals from being removed: [`rotate_idle`].
//! - It serves damaged journals, and refuses torn ones: [`journal`] looks first.
//! - It keeps replaced files until its next flush or compaction: [`remove_replaced`].
//! - Its sequence numbers fall back at a restart when the last batches were for dropped stores.
//! - A commit under back-pressure waits for threads that may have failed: only a flush tells.
//! - It panics on some damage while opening: those panics are caught and become an error.
//!
//! [`rotate_idle`]: FjallEngine::rotate_idle
//! [`remove_replaced`]: FjallEngine::remove_replaced

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use parking_lot::{Mutex, RwLock};

use super::check::{distinct, is_empty, only_engine, refused};
use super::{Batch, Direction, Engine, EngineError, KeyRange, PairResult, StoreId, View};
use crate::env::disk::{DirLock, RealDisk};

mod errors;
mod files;
mod journal;
mod open;

pub use open::FjallConfig;

use errors::{at, translate};
use files::{Files, FlushMark, MarkFile};
use journal::check_journals;
use open::{check_stores, create_keyspace, finish_first_opening, open_database, open_stores};

/// The memtables are summed up each time this part of the write buffer was written.
const MEASURE_SHARE: u64 = 16;
/// A store is rewritten without what was removed when one in so many of its pairs says that something was; at
/// least as many more are what was.
const REMOVED_SHARE: u64 = 4;
/// fjall looks which snapshots are gone each time that so many more of them are.
const SNAPSHOTS_PER_LOOK: usize = 10_000;
/// Smaller stores are not worth it,
const TIDY_BYTES_MIN: u64 = 16 << 20;
/// and larger ones would take so long that fjall's own merging, which waits meanwhile, falls behind. There what
/// was removed goes as writes go on.
const TIDY_BYTES_MAX: u64 = 4 << 30;

/// The engine on disk.
///
/// Invariants: `seen.snapshot` was taken when no commit was under way; `next_store` on disk is above
/// every id ever given out.
pub struct FjallEngine {
    config: FjallConfig,
    files: Files<'static>,
    writer: Mutex<Writer>,
    seen: RwLock<Seen>,
    flushed: Mutex<Flushed>,
    left: Mutex<BTreeMap<StoreId, Left>>,
    failed: OnceLock<String>,
    // The last two, in this order: fjall waits for its threads when the database goes.
    database: Database,
    _lock: Box<dyn DirLock>,
}

/// Held by the one who writes.
struct Writer {
    next_store: StoreId,
    /// Written to since the last [`FjallEngine::rotate_idle`].
    busy: BTreeMap<StoreId, bool>,
    /// Since the memtables were last summed up.
    unmeasured_bytes: u64,
}

/// What readers see.
struct Seen {
    stores: BTreeMap<StoreId, Keyspace>,
    snapshot: Snapshot,
    /// Commits since the engine was opened.
    commits: u64,
    /// Sequence number at which the last of them began.
    last_commit: u64,
}

/// What rewriting a store could not take away, for the sake of older views.
#[derive(Clone, Copy, Default)]
struct Left {
    removals: u64,
    /// No view is that old once fjall's watermark is beyond it.
    seqno: u64,
}

/// Held by the one who flushes.
struct Flushed {
    file: MarkFile,
    /// Of [`Seen::commits`], those that are durable.
    commits: u64,
}

impl FjallEngine {
    /// Opens the engine in `dir`, which is made if need be. An engine that had it open before must be
    /// gone, with all its views.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] naming what is damaged; [`std::io::ErrorKind::WouldBlock`] when another
    /// process has it open; as the file system otherwise.
    pub fn open(dir: &Path, config: FjallConfig) -> Result<Self, EngineError> {
        static DISK: RealDisk = RealDisk;
        let files = Files::open(&DISK, dir)?;
        let lock = files.lock()?;
        only_engine(&DISK, dir, "fjall")?;
        let next_store = files.next_store()?;
        if next_store.is_none() {
            files.clear_unfinished()?;
        } else {
            files.check_names()?;
        }
        let (mark_file, mark) = files.flush_mark(next_store.is_none())?;
        let last_seqno = check_journals(files.disk(), &files.journals()?, mark)?;
        let database = open_database(&files.database(), &config)?;
        // fjall forgets the numbers of batches whose stores are gone; ours must ascend in the journal.
        database.supervisor.seqno.fetch_max(mark.seqno.max(last_seqno.unwrap_or(0)) + 1);
        let mut stores = open_stores(&database, &config)?;
        let next_store = match next_store {
            Some(next_store) => next_store,
            None => finish_first_opening(&database, &files, &mut stores, &config)?,
        };
        check_stores(&stores, next_store).map_err(|error| at(dir, error))?;
        let busy = stores.keys().map(|store| (*store, false)).collect();
        let seen = RwLock::new(Seen { stores, snapshot: database.snapshot(), commits: 0, last_commit: mark.seqno });
        let writer = Mutex::new(Writer { next_store, busy, unmeasured_bytes: 0 });
        let flushed = Mutex::new(Flushed { file: mark_file, commits: 0 });
        let left = Mutex::default();
        Ok(Self { config, files, writer, seen, flushed, left, failed: OnceLock::new(), database, _lock: lock })
    }

    /// Starts to write out the memtables of stores that got no write since the last call, so that
    /// they keep no journal alive. Returns how many.
    fn rotate_idle(&self) -> Result<usize, EngineError> {
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let stores = self.seen.read().stores.clone();
        let mut rotated = 0;
        for (id, keyspace) in stores {
            let was_busy = writer.busy.insert(id, false).unwrap_or(true);
            if !was_busy && keyspace.tree.active_memtable().size() > 0 {
                rotated += usize::from(keyspace.rotate_memtable().map_err(|error| self.fail(error))?);
            }
        }
        Ok(rotated)
    }

    /// fjall's journals on disk, the active one included.
    pub fn journal_count(&self) -> usize {
        self.database.journal_count()
    }

    fn check_usable(&self) -> Result<(), EngineError> {
        self.failed.get().map_or(Ok(()), |first| Err(EngineError::Poisoned(first.clone())))
    }

    /// Remembers a failure after which nothing is known of what was written.
    fn fail(&self, error: fjall::Error) -> EngineError {
        self.failed.get_or_init(|| error.to_string());
        translate(error)
    }

    /// Lets readers see what the writer has done. Only while no commit is under way.
    fn publish(&self, change: impl FnOnce(&mut Seen)) {
        let snapshot = self.database.snapshot();
        let mut seen = self.seen.write();
        change(&mut seen);
        seen.snapshot = snapshot;
    }

    /// Has fjall see which snapshots are gone, which it else learns when a memtable is written out, and
    /// returns its watermark: what was replaced up to there, nobody can read any more.
    fn advance_watermark(&self) -> u64 {
        {
            let _no_commit = self.writer.lock();
            // The watermark stays behind the oldest snapshot: that of the readers must be newer than what
            // fjall itself changed last.
            let passed_over = self.database.supervisor.seqno.next();
            self.database.supervisor.snapshot_tracker.publish(passed_over);
            self.publish(|_| {});
        }
        (0..SNAPSHOTS_PER_LOOK).for_each(|_| drop(self.database.snapshot()));
        self.database.supervisor.snapshot_tracker.get_seqno_safe_to_gc()
    }

    /// Rewrites a store of which much was removed.
    fn rewrite(&self, id: StoreId, keyspace: &Keyspace, room: u64) -> Result<(), EngineError> {
        let removals = keyspace.tree.tombstone_count();
        let left = self.left.lock().get(&id).copied().unwrap_or_default();
        let bytes = keyspace.disk_space();
        let is_much = |removals: u64| removals > 0 && removals * REMOVED_SHARE >= keyspace.approximate_len() as u64;
        if !is_much(removals) || bytes > room || !(TIDY_BYTES_MIN..=TIDY_BYTES_MAX).contains(&bytes) {
            return Ok(());
        }
        let watermark = self.advance_watermark();
        if !is_much(removals.saturating_sub(left.removals)) && watermark <= left.seqno {
            return Ok(());
        }
        let seqno = self.database.seqno();
        keyspace.major_compact().map_err(translate)?;
        self.left.lock().insert(id, Left { removals: keyspace.tree.tombstone_count(), seqno });
        let after = keyspace.disk_space();
        tracing::info!(store = id.0, before = bytes, after, "gave back the space of what was removed");
        Ok(())
    }

    /// Removes the files that a flush or a compaction has replaced; fjall leaves that to its next one.
    fn remove_replaced(&self, stores: &BTreeMap<StoreId, Keyspace>) -> Result<(), EngineError> {
        if stores.values().all(|keyspace| keyspace.tree.version_free_list_len() == 0) {
            return Ok(());
        }
        let watermark = self.advance_watermark();
        for keyspace in stores.values() {
            let path = &keyspace.tree.tree_config().path;
            let removed = keyspace.tree.get_version_history_lock().maintenance(path, watermark);
            removed.map_err(|error| translate(error.into()))?;
        }
        Ok(())
    }

    /// Rotates the largest memtables when all together are over their budget.
    fn relieve_memory(&self, writer: &mut Writer, written: u64) -> Result<(), EngineError> {
        writer.unmeasured_bytes += written;
        if writer.unmeasured_bytes < self.config.write_buffer_bytes / MEASURE_SHARE {
            return Ok(());
        }
        writer.unmeasured_bytes = 0;
        let mut sizes: Vec<_> = {
            let seen = self.seen.read();
            seen.stores.values().map(|store| (store.tree.active_memtable().size(), store.clone())).collect()
        };
        sizes.sort_unstable_by_key(|(size, _)| Reverse(*size));
        let mut total: u64 = sizes.iter().map(|(size, _)| size).sum();
        for (size, largest) in sizes {
            if total <= self.config.write_buffer_bytes / 2 {
                break;
            }
            largest.rotate_memtable().map_err(|error| self.fail(error))?;
            total -= size;
        }
        Ok(())
    }
}

impl Engine for FjallEngine {
    fn create_store(&self) -> Result<StoreId, EngineError> {
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let id = writer.next_store;
        let next = StoreId(id.0 + 1);
        self.files.set_next_store(next)?;
        writer.next_store = next;
        let keyspace = create_keyspace(&self.database, id, &self.config)?;
        writer.busy.insert(id, false);
        self.publish(|seen| {
            seen.stores.insert(id, keyspace);
        });
        Ok(id)
    }

    fn stores(&self) -> Result<Vec<StoreId>, EngineError> {
        self.check_usable()?;
        Ok(self.seen.read().stores.keys().copied().collect())
    }

    fn drop_store(&self, store: StoreId) -> Result<(), EngineError> {
        let mut writer = self.writer.lock();
        self.check_usable()?;
        if store == StoreId::CATALOG {
            return Err(refused("the catalog's store cannot be dropped"));
        }
        let Some(keyspace) = self.seen.read().stores.get(&store).cloned() else { return Ok(()) };
        self.database.delete_keyspace(keyspace).map_err(|error| self.fail(error))?;
        writer.busy.remove(&store);
        self.publish(|seen| {
            seen.stores.remove(&store);
        });
        self.left.lock().remove(&store);
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let writes = distinct(batch)?;
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let mut pending = OwnedWriteBatch::with_capacity(self.database.clone(), writes.len());
        let mut written = 0;
        {
            let seen = self.seen.read();
            for (store, key, value) in writes {
                let keyspace = seen.stores.get(&store).ok_or(EngineError::NoStore(store))?;
                written += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
                writer.busy.insert(store, true);
                match value {
                    Some(value) => pending.insert(keyspace, key, value),
                    None => pending.remove(keyspace, key),
                }
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        let seqno = self.database.seqno();
        pending.commit().map_err(|error| self.fail(error))?;
        self.publish(|seen| {
            seen.commits += 1;
            seen.last_commit = seqno;
        });
        self.relieve_memory(&mut writer, written)
    }

    fn view(&self, store: StoreId) -> Result<Box<dyn View>, EngineError> {
        self.check_usable()?;
        let seen = self.seen.read();
        let keyspace = seen.stores.get(&store).cloned().ok_or(EngineError::NoStore(store))?;
        Ok(Box::new(FjallView { keyspace, snapshot: seen.snapshot.clone() }))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut flushed = self.flushed.lock();
        self.check_usable()?;
        let (commits, seqno) = {
            let seen = self.seen.read();
            (seen.commits, seen.last_commit)
        };
        if commits == flushed.commits {
            // Nothing to sync; but a commit may be waiting for ever for threads that have failed.
            return self.database.persist(PersistMode::Buffer).map_err(|error| self.fail(error));
        }
        let journal = self.files.journals()?.last().map_or(0, |(number, _)| *number);
        // fjall would hold up every commit while it syncs. It need only hand over what it buffers:
        // whatever journal was being written then is this one or a newer one. Older ones it has synced.
        self.database.persist(PersistMode::Buffer).map_err(|error| self.fail(error))?;
        self.files.sync_journals(journal).map_err(|error| self.fail(error.into()))?;
        flushed.file.set(FlushMark { journal, seqno }).map_err(|error| self.fail(error.into()))?;
        flushed.commits = commits;
        Ok(())
    }

    fn tidy(&self, room: u64) -> Result<(), EngineError> {
        self.rotate_idle()?;
        let stores = self.seen.read().stores.clone();
        for (id, keyspace) in &stores {
            self.rewrite(*id, keyspace, room)?;
        }
        self.remove_replaced(&stores)
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.check_usable()?;
        self.database.disk_space().map_err(translate)
    }
}

/// The fields go in this order: fjall removes a dropped keyspace's files with its last handle.
struct FjallView {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl View for FjallView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if key.is_empty() {
            return Ok(None);
        }
        let value = self.snapshot.get(&self.keyspace, key).map_err(translate)?;
        Ok(value.map(Bytes::from))
    }

    fn scan<'a>(&'a self, range: KeyRange<'_>, direction: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a> {
        if is_empty(range) {
            return Box::new(std::iter::empty());
        }
        let pairs = self.snapshot.range::<&[u8], _>(&self.keyspace, range);
        let read = |pair: fjall::Guard| {
            let (key, value) = pair.into_inner().map_err(translate)?;
            Ok((key.into(), value.into()))
        };
        match direction {
            Direction::Forward => Box::new(pairs.map(read)),
            Direction::Reverse => Box::new(pairs.rev().map(read)),
        }
    }
}

#[cfg(test)]
mod tests;
