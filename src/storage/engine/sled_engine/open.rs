//! Opens sled's database, proves all that it holds, and makes what a new engine consists of.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::{EngineError, StoreId};
use super::files::{Files, Synced};
use super::record::{EngineState, INDEX, STATE_KEY};
use super::tree::{Totals, Tree, guarded};
use super::{Marks, Pending, apply_to_sled};

/// sled's trees are called by this and the store's id.
const TREE_PREFIX: &str = "store-";
/// Of sled's log: eight times sled's own choice, see [`SETTLE_BYTES`](super::SETTLE_BYTES). Part of the format.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// Number of the batch that makes a new engine.
const FIRST_SEQNO: u64 = 1;

/// Memory that the engine may use, for all its stores together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SledConfig {
    /// sled's page cache, in bytes.
    pub cache_bytes: u64,
    /// What open views need of that which was overwritten since, in bytes. Beyond it the oldest view
    /// fails with [`EngineError::ViewExpired`].
    pub history_bytes: u64,
}

impl Default for SledConfig {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { cache_bytes: 64 * MIB, history_bytes: 64 * MIB }
    }
}

/// What was found, or made.
pub(super) struct Opened {
    pub(super) database: sled::Db,
    pub(super) index: Arc<Tree>,
    pub(super) stores: BTreeMap<StoreId, Arc<Tree>>,
    pub(super) digests: BTreeMap<StoreId, u64>,
    pub(super) state: EngineState,
    pub(super) marks: Marks,
    pub(super) synced: Synced,
}

/// Called by this in sled.
pub(super) fn tree_name(store: StoreId) -> String {
    format!("{TREE_PREFIX}{}", store.0)
}

pub(super) fn open(files: &Files<'_>, config: &SledConfig) -> Result<Opened, EngineError> {
    let (slots, numbers) = files.marks()?;
    let path = files.database();
    let database = guarded(|| sled_config(&path, config.cache_bytes).open());
    let database = database.map_err(|error| at(&path, error))?;
    let found = prove(&database).map_err(|error| at(&path, error))?;
    let Found { index, mut stores, digests, state } = found;
    let Some(state) = state else {
        if numbers.is_some() {
            return Err(at(&path, EngineError::Corrupt("all that was flushed is gone".to_owned())));
        }
        let (catalog, state) = initialise(&database, &index)?;
        stores.insert(StoreId::CATALOG, catalog);
        let opened = Opened {
            database,
            index,
            stores,
            digests,
            state,
            marks: Marks { file: slots, next_store: StoreId(StoreId::CATALOG.0 + 1), seqno: 0 },
            synced: Synced::default(),
        };
        return finish_first_opening(files, opened);
    };
    let first = numbers.is_none();
    if first && state.seqno > FIRST_SEQNO {
        return Err(EngineError::Corrupt(format!("{} is missing", files.marks_path().display())));
    }
    let [next_store, flushed] = numbers.unwrap_or([StoreId::CATALOG.0 + 1, 0]);
    if state.seqno < flushed {
        let older = format!("it holds batch {}, but batch {flushed} was flushed", state.seqno);
        return Err(at(&path, EngineError::Corrupt(older)));
    }
    check_stores(&stores, StoreId(next_store)).map_err(|error| at(&path, error))?;
    drop_leftovers(&database, &stores)?;
    let marks = Marks { file: slots, next_store: StoreId(next_store), seqno: flushed };
    let opened = Opened { database, index, stores, digests, state, marks, synced: Synced::default() };
    if first { finish_first_opening(files, opened) } else { Ok(opened) }
}

/// How sled is opened.
pub(super) fn sled_config(path: &Path, cache_bytes: u64) -> sled::Config {
    sled::Config::new().path(path).segment_size(SEGMENT_BYTES).cache_capacity(cache_bytes)
}

/// What a database holds.
struct Found {
    index: Arc<Tree>,
    stores: BTreeMap<StoreId, Arc<Tree>>,
    digests: BTreeMap<StoreId, u64>,
    /// `None` in an empty one.
    state: Option<EngineState>,
}

/// Reads everything. Lost, old or changed pairs give another sum than the newest batch has left.
fn prove(database: &sled::Db) -> Result<Found, EngineError> {
    let index = Tree { id: INDEX, inner: (**database).clone() };
    let mut ids = Vec::new();
    let Totals { mut digest, mut state } = index.totals(|key| {
        ids.extend(<[u8; 8]>::try_from(key).map(|id| StoreId(u64::from_be_bytes(id))));
    })?;
    let names = guarded(|| Ok(database.tree_names()))?;
    let mut stores = BTreeMap::new();
    let mut digests = BTreeMap::new();
    for id in ids {
        let name = tree_name(id);
        if !names.iter().any(|known| **known == *name.as_bytes()) {
            return Err(EngineError::Corrupt(format!("store {} is missing", id.0)));
        }
        let tree = Tree { id, inner: guarded(|| database.open_tree(&name))? };
        let totals = tree.totals(|_| {})?;
        digest = digest.wrapping_add(totals.digest);
        state = state.into_iter().chain(totals.state).max_by_key(|state| state.seqno);
        digests.insert(id, totals.digest);
        stores.insert(id, Arc::new(tree));
    }
    let summed = state.map_or(0, |state| state.digest);
    if digest != summed {
        let what = format!("its pairs sum up to {digest:016x}, its newest batch to {summed:016x}");
        return Err(EngineError::Corrupt(what));
    }
    Ok(Found { index: Arc::new(index), stores, digests, state })
}

fn check_stores(stores: &BTreeMap<StoreId, Arc<Tree>>, next_store: StoreId) -> Result<(), EngineError> {
    if !stores.contains_key(&StoreId::CATALOG) {
        return Err(EngineError::Corrupt("the catalog's store is missing".to_owned()));
    }
    match stores.last_key_value() {
        Some((last, _)) if *last >= next_store => {
            Err(EngineError::Corrupt(format!("store {} is there, but the next id is {}", last.0, next_store.0)))
        }
        _ => Ok(()),
    }
}

/// Trees that the index does not name were being made, or dropped, when the process ended.
fn drop_leftovers(database: &sled::Db, stores: &BTreeMap<StoreId, Arc<Tree>>) -> Result<(), EngineError> {
    for name in guarded(|| Ok(database.tree_names()))? {
        let ours = name.starts_with(TREE_PREFIX.as_bytes());
        if ours && !stores.keys().any(|id| *name == *tree_name(*id).as_bytes()) {
            guarded(|| database.drop_tree(&name))?;
            guarded(|| database.flush())?;
        }
    }
    Ok(())
}

/// The first batch: the store that is always there.
fn initialise(database: &sled::Db, index: &Arc<Tree>) -> Result<(Arc<Tree>, EngineState), EngineError> {
    let inner = guarded(|| database.open_tree(tree_name(StoreId::CATALOG)))?;
    let mut entry = Pending::new(index.clone());
    entry.write(&StoreId::CATALOG.0.to_be_bytes(), Some(&[]))?;
    let state = EngineState { seqno: FIRST_SEQNO, digest: entry.digest };
    entry.batch.insert(&STATE_KEY, state.encode(INDEX));
    apply_to_sled(vec![entry])?;
    Ok((Arc::new(Tree { id: StoreId::CATALOG, inner }), state))
}

/// The marks are written last.
fn finish_first_opening(files: &Files<'_>, mut opened: Opened) -> Result<Opened, EngineError> {
    guarded(|| opened.database.flush())?;
    files.sync(&mut opened.synced)?;
    opened.marks.seqno = opened.state.seqno;
    opened.marks.write()?;
    Ok(opened)
}

/// sled's errors name no file; say at least which database it was.
fn at(path: &Path, error: EngineError) -> EngineError {
    match error {
        EngineError::Corrupt(what) => EngineError::Corrupt(format!("{}: {what}", path.display())),
        // Other processes are kept out by now, so that it is an earlier opening whose threads are not done.
        EngineError::Io(error) if error.to_string().contains("could not acquire lock") => {
            EngineError::Io(io::Error::new(io::ErrorKind::WouldBlock, error))
        }
        other @ (EngineError::Io(_)
        | EngineError::NoStore(_)
        | EngineError::Poisoned(_)
        | EngineError::ViewExpired { .. }) => other,
    }
}
