//! Opens fjall's database and its keyspaces, and makes them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::super::{EngineError, StoreId};
use super::errors::{at, translate};
use super::files::Files;

/// Smallest journal budget that fjall takes.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Smallest memtable that is worth a table of its own.
const MEMTABLE_BYTES_MIN: u64 = 256 * 1024;
/// A store's memtable is rotated at this part of the whole write buffer.
const MEMTABLE_SHARE: u64 = 4;
/// fjall keyspaces are called by this and the store's id.
const KEYSPACE_PREFIX: &str = "store-";

/// Memory and disk that the engine may use, for all its stores together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FjallConfig {
    /// Block cache, in bytes.
    pub cache_bytes: u64,
    /// Memtables, in bytes.
    pub write_buffer_bytes: u64,
    /// Journals, in bytes, at least 64 MiB; beyond it the oldest journal's stores are written out.
    pub journal_bytes: u64,
    /// Threads that write memtables out and compact.
    pub worker_threads: usize,
}

impl Default for FjallConfig {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { cache_bytes: 64 * MIB, write_buffer_bytes: 64 * MIB, journal_bytes: 256 * MIB, worker_threads: 2 }
    }
}

pub(super) fn open_database(path: &Path, config: &FjallConfig) -> Result<Database, EngineError> {
    let open = || {
        Database::builder(path)
            .manual_journal_persist(true)
            .cache_size(config.cache_bytes)
            .max_journaling_size(config.journal_bytes.max(JOURNAL_BYTES_MIN))
            .worker_threads(config.worker_threads.max(1))
            .open()
    };
    // fjall has `expect` and `assert` on what it reads while it opens.
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(at(path, translate(error))),
        Err(panic) => {
            let message = panic.downcast::<String>().map_or_else(
                |panic| panic.downcast::<&str>().map_or_else(|_| "unknown".to_owned(), |text| (*text).to_owned()),
                |text| *text,
            );
            Err(EngineError::Corrupt(format!("{}: fjall cannot open it: {message}", path.display())))
        }
    }
}

pub(super) fn open_stores(
    database: &Database,
    config: &FjallConfig,
) -> Result<BTreeMap<StoreId, Keyspace>, EngineError> {
    let mut stores = BTreeMap::new();
    for name in database.list_keyspace_names() {
        let id = name.strip_prefix(KEYSPACE_PREFIX).and_then(|id| id.parse().ok()).map(StoreId);
        let Some(id) = id else {
            return Err(EngineError::Corrupt(format!("fjall keyspace {:?} is no store", &*name)));
        };
        stores.insert(id, database.keyspace(&name, || options(config)).map_err(translate)?);
    }
    Ok(stores)
}

/// Makes what a new engine consists of, or what a first opening that was cut short left out.
pub(super) fn finish_first_opening(
    database: &Database,
    files: &Files<'_>,
    stores: &mut BTreeMap<StoreId, Keyspace>,
    config: &FjallConfig,
) -> Result<StoreId, EngineError> {
    if let Entry::Vacant(catalog) = stores.entry(StoreId::CATALOG) {
        catalog.insert(create_keyspace(database, StoreId::CATALOG, config)?);
    }
    let next_store = StoreId(StoreId::CATALOG.0 + 1);
    check_stores(stores, next_store)?;
    files.set_next_store(next_store)?;
    Ok(next_store)
}

pub(super) fn check_stores(stores: &BTreeMap<StoreId, Keyspace>, next_store: StoreId) -> Result<(), EngineError> {
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

pub(super) fn create_keyspace(
    database: &Database,
    store: StoreId,
    config: &FjallConfig,
) -> Result<Keyspace, EngineError> {
    database.keyspace(&format!("{KEYSPACE_PREFIX}{}", store.0), || options(config)).map_err(translate)
}

fn options(config: &FjallConfig) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .max_memtable_size((config.write_buffer_bytes / MEMTABLE_SHARE).max(MEMTABLE_BYTES_MIN))
}
