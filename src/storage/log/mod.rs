//! The node's one Raft log, shared by all groups, so that one sync covers what all of them wait for.
//!
//! Knows groups, terms, indexes and opaque bytes; nothing of openraft, keys or clusters. One writer
//! task takes everything that is pending, writes one [`frame`], syncs once and completes it in order;
//! a keeper task prepares segments, carries forward what idle groups still need and drops the rest.
//! The bytes on disk: `docs/format.md`, "Raft log".

#[cfg(test)]
mod corruption_test;
mod error;
mod frame;
mod group;
mod handle;
mod keeper;
mod read;
mod record;
mod recovery;
mod replay;
mod scan;
mod segment;
mod settle;
mod shared;
mod writer;

#[cfg(test)]
mod log_test;
#[cfg(test)]
mod model_test;

pub use error::LogError;
pub use handle::{GroupLog, Log};

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::types::GroupId;

/// Smallest segment. Shares of a segment are set aside for what rides along in a frame, and they must
/// hold something.
pub const SEGMENT_BYTES_MIN: u64 = 128 * 1024;
/// Largest segment. Recovery reads a segment whole.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Longest vote or committed mark.
pub const MARK_BYTES_MAX: usize = 1024;
/// Segments kept ready beyond the one in use: what a full disk leaves to votes, truncations, purges.
pub const RESERVE_SEGMENTS: usize = 2;

/// How the log uses disk and memory.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Size of a segment: [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`], rounded to whole blocks. It
    /// may change between starts.
    pub segment_bytes: u64,
    /// Newest entries kept in memory, per group.
    pub tail_cache_bytes: usize,
    /// Largest frame; one larger entry goes alone. At most half a segment counts.
    pub frame_bytes_max: usize,
    /// Bytes that may wait for the disk before [`GroupLog::admission`] holds callers.
    pub pending_bytes_max: usize,
    /// Time without a write after which a seal proves the last frame durable.
    pub idle_seal: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            tail_cache_bytes: 1024 * 1024,
            frame_bytes_max: 4 * 1024 * 1024,
            pending_bytes_max: 32 * 1024 * 1024,
            idle_seal: Duration::from_millis(200),
        }
    }
}

impl LogConfig {
    /// Largest entry: half a segment.
    fn entry_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX)
    }

    fn frame_bytes(&self) -> usize {
        self.frame_bytes_max.min(self.entry_bytes_max())
    }

    /// Bytes of committed marks that ride on one frame.
    fn committed_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 16).unwrap_or(usize::MAX)
    }

    /// Groups of the frame before that a frame names.
    fn named_groups_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 16 / 8).unwrap_or(usize::MAX)
    }

    /// Groups that a roster names.
    fn roster_groups_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 8 / 8).unwrap_or(usize::MAX)
    }
}

/// An entry of a group's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// 0, 1, 2 …
    pub index: u64,
    /// Opaque here.
    pub data: Bytes,
}

/// Identity of an entry in its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EntryId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Position in the log.
    pub index: u64,
}

/// The ends of a group's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<EntryId>,
    /// The last entry; the purged one when there is none after it.
    pub last: Option<EntryId>,
}

/// What opening the log found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Groups that lost something they were told is durable, or may have, and why. They answer
    /// nothing but [`Log::remove_group`].
    pub quarantined: BTreeMap<GroupId, String>,
    /// Groups whose names were lost may exist: why. Until removed by [`Log::remove_group`], a group
    /// without a trace in the log then counts as quarantined.
    pub unnamed: Option<String>,
    /// Bytes of an unfinished last frame that were cut.
    pub torn_bytes: u64,
    /// Frames read.
    pub frames: u64,
    /// Segments that hold frames, or are made ready for them.
    pub segments: u64,
}

/// Counters since the log was opened, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Frames written.
    pub frames: u64,
    /// Syncs of written frames: one a frame, whatever the number of groups in it.
    pub syncs: u64,
    /// Bytes written in frames, padding included.
    pub bytes: u64,
    /// Entries written, those carried forward included.
    pub entries: u64,
    /// Bytes that wait for the disk now.
    pub pending_bytes: u64,
    /// Segments on disk, ready ones included.
    pub segments: u64,
}
