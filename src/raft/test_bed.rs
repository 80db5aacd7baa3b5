//! What this room's tests stand on: a log on a temporary disk, an engine in memory, and a state
//! machine that notices an entry which is lost, doubled or out of order.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::apply::{Apply, LogPosition};
use crate::env::Env;
use crate::storage::engine::catalog::Catalog;
use crate::storage::engine::memory::MemoryStores;
use crate::storage::engine::{Engine, EngineError, View, WriteSet};
use crate::storage::log::{Log, LogConfig, SEGMENT_BYTES_MIN};
use crate::types::hash::slot;

/// Stores each command under its index, and a chain of hashes over all of them.
#[derive(Default)]
pub(super) struct Chain {
    /// Positions that were shown.
    pub(super) shown: Mutex<Vec<LogPosition>>,
    /// Commands applied by this process.
    pub(super) applied: AtomicU64,
    pub(super) fail: AtomicBool,
}

const CHAIN_KEY: &[u8] = b"chain";

impl Apply for Chain {
    fn apply(&self, state: &mut WriteSet<'_>, at: LogPosition, command: &Bytes) -> Result<Bytes, EngineError> {
        if self.fail.load(Ordering::SeqCst) {
            return Err(EngineError::Corrupt("as told".into()));
        }
        self.applied.fetch_add(1, Ordering::SeqCst);
        let mut link = state.get(CHAIN_KEY)?.unwrap_or_default().to_vec();
        link.extend_from_slice(command);
        let link = Bytes::copy_from_slice(&slot(&link).to_be_bytes());
        state.put(Bytes::from_static(CHAIN_KEY), link.clone());
        state.put(key(at.index), command.clone());
        Ok(link)
    }

    fn applied(&self, _view: &dyn View, at: LogPosition) {
        self.shown.lock().push(at);
    }
}

fn key(index: u64) -> Bytes {
    [b"e".as_slice(), &index.to_be_bytes()].concat().into()
}

/// The chain's end in a state.
pub(super) fn chain(view: &dyn View) -> Option<Bytes> {
    view.get(CHAIN_KEY).unwrap()
}

/// The command that an index holds in a state.
pub(super) fn command(view: &dyn View, index: u64) -> Option<Bytes> {
    view.get(&key(index)).unwrap()
}

/// A node's disk.
pub(super) struct Disk {
    pub(super) dir: tempfile::TempDir,
    pub(super) stores: MemoryStores,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), stores: MemoryStores::new() }
    }

    pub(super) async fn log(&self) -> Log {
        open_log(&self.dir.path().join("log"), &Env::real()).await
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        let engine: Arc<dyn Engine> = Arc::new(self.stores.open());
        Arc::new(Catalog::open(engine).unwrap())
    }
}

pub(super) async fn open_log(dir: &Path, env: &Env) -> Log {
    let config = LogConfig { segment_bytes: 64 * SEGMENT_BYTES_MIN, ..LogConfig::default() };
    let (log, recovery) = Log::open(env, dir, config).await.unwrap();
    assert_eq!(recovery.quarantined.len(), 0, "{recovery:?}");
    log
}
