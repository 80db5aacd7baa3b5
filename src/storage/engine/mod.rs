//! The ordered byte store under every replica's state.
//!
//! Knows bytes and stores, no key layout and no Raft. An [`Engine`] holds many stores; one batch may
//! span them, and is atomic and visible at once but durable only after [`Engine::flush`]: the Raft
//! log is the write-ahead log.

pub mod catalog;
mod check;
pub mod fjall_engine;
pub mod memory;
#[cfg(feature = "engine-sled")]
pub mod sled_engine;
mod slots;
pub mod stream;
mod write_set;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model;

pub use catalog::Catalog;
pub use check::{STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX};
pub use fjall_engine::{FjallConfig, FjallEngine};
pub use memory::{MemoryEngine, MemoryStores, StoresImage};
#[cfg(feature = "engine-sled")]
pub use sled_engine::{SledConfig, SledEngine};
pub use write_set::WriteSet;

use std::ops::Bound;

use bytes::Bytes;

/// A store within an engine. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub u64);

impl StoreId {
    /// The store of the [`catalog`]. Every engine has it from the first opening on and never drops it.
    pub const CATALOG: Self = Self(0);
}

/// Why an engine cannot go on. None of these is an answer to a client: the replica stops. All but
/// [`EngineError::ViewExpired`], after which a read begins anew.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Data failed its checksum or cannot be decoded.
    #[error("engine data is corrupt: {0}")]
    Corrupt(String),
    /// The device refused.
    #[error("engine I/O failed: {0}")]
    Io(#[from] std::io::Error),
    /// The store was dropped or never made.
    #[error("store {} does not exist", .0.0)]
    NoStore(StoreId),
    /// An earlier failure left the engine in an unknown state; the process must end.
    #[error("the engine has failed before and accepts nothing more: {0}")]
    Poisoned(String),
    /// An engine without snapshots keeps what writes overwrite for as long as a view needs it, but
    /// no more than this many bytes; the oldest view goes first.
    #[error("this view is too old: what was overwritten since it was taken exceeds {bytes_max} bytes; read again")]
    ViewExpired {
        /// The limit.
        bytes_max: u64,
    },
}

/// Which way to walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}

/// A key range: bounds on either side.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A pair, or why it cannot be read.
pub type PairResult = Result<(Bytes, Bytes), EngineError>;

/// A consistent, unchanging view of one store.
pub trait View: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the data cannot be read or fails its checksum.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The pairs within `range`, in the order of `direction`.
    fn scan<'a>(&'a self, range: KeyRange<'_>, direction: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a>;
}

/// A write to one key of one store. `None` removes.
pub type Write = (StoreId, Bytes, Option<Bytes>);

/// Writes to one or several stores that take effect together.
#[derive(Default, Debug)]
pub struct Batch {
    /// In order: a later write to a key wins.
    pub writes: Vec<Write>,
}

/// An engine: many ordered stores.
pub trait Engine: Send + Sync + 'static {
    /// Makes an empty store.
    ///
    /// # Errors
    /// When the device refuses.
    fn create_store(&self) -> Result<StoreId, EngineError>;

    /// All stores, ascending.
    ///
    /// # Errors
    /// When the engine has failed.
    fn stores(&self) -> Result<Vec<StoreId>, EngineError>;

    /// Drops a store and gives its space back. Views of it stay valid.
    ///
    /// # Errors
    /// When the device refuses. A store that does not exist is no error.
    fn drop_store(&self, store: StoreId) -> Result<(), EngineError>;

    /// Writes a batch: all of it becomes visible, or none.
    ///
    /// # Errors
    /// When the device refuses; then nothing is known and the replica must stop.
    fn commit(&self, batch: Batch) -> Result<(), EngineError>;

    /// A view of one store as of now.
    ///
    /// # Errors
    /// When the store does not exist.
    fn view(&self, store: StoreId) -> Result<Box<dyn View>, EngineError>;

    /// Makes durable every batch, store and drop that was done before this call. May take long and
    /// is never called where writes are waiting.
    ///
    /// # Errors
    /// When the device refuses; then the process must end.
    fn flush(&self) -> Result<(), EngineError>;

    /// Gives back what takes space and nobody needs any more, as far as this takes at most `room` bytes besides
    /// for the time being. For a timer of some ten seconds, on a thread of its own: it may take long, and holds
    /// nobody up.
    ///
    /// # Errors
    /// When the device refuses. What could not be given back stays, and does no harm.
    fn tidy(&self, room: u64) -> Result<(), EngineError>;

    /// Bytes on disk.
    ///
    /// # Errors
    /// When the engine has failed.
    fn disk_bytes(&self) -> Result<u64, EngineError>;
}
