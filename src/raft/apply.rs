//! What a group's state machine is to Raft.

use bytes::Bytes;

use crate::storage::engine::{EngineError, View, WriteSet};

/// Position of an entry in its group's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct LogPosition {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// 1, 2, 3 … (0 is the first membership).
    pub index: u64,
}

/// A deterministic state machine over one store of the engine.
///
/// Keys that begin with byte 0x00 belong to this room (applied position, membership); all others to
/// the state machine.
pub trait Apply: Send + Sync + 'static {
    /// Applies one command: a function of `state` and `command` alone, with no clock and no chance.
    /// A command that makes no sense is answered, not failed. Effects, applied position and
    /// membership of a run of entries become visible in one engine batch.
    ///
    /// # Errors
    /// Only when the engine fails; the replica then stops.
    fn apply(&self, state: &mut WriteSet<'_>, at: LogPosition, command: &Bytes) -> Result<Bytes, EngineError>;

    /// Called after the batch that ends at `at` is visible, in order, also once at start and after a
    /// snapshot was installed. `view` shows the state at `at`; before anything was ever applied that
    /// is an empty store at the default position.
    fn applied(&self, view: &dyn View, at: LogPosition);
}
