//! What the handles, the writer and the keeper share: the groups, the queue, the segments.
//!
//! Knows no files beyond handles. One lock, held for moments and never across an await. Operations
//! change the groups in memory when they are queued, and take effect on disk in the same order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::frame::{BLOCK_BYTES, HEADER_BYTES};
use super::group::{Group, Uses};
use super::read::FrameCache;
use super::record::{ENTRIES_PREFIX_BYTES, ENTRY_PREFIX_BYTES, FIXED_BYTES, MARK_PREFIX_BYTES};
use super::segment::Segment;
use super::{EntryId, LogConfig, LogEntry, LogError, LogStats};
use crate::env::disk::Disk;
use crate::env::work::Worker;
use crate::types::GroupId;

/// Called when an operation is durable, or never will be.
pub(super) enum Done {
    Nobody,
    Call(Box<dyn FnOnce(Result<(), LogError>) + Send>),
    Wait(oneshot::Sender<Result<(), LogError>>),
}

impl Done {
    pub(super) fn finish(self, result: Result<(), LogError>) {
        match self {
            Self::Nobody => {}
            Self::Call(done) => done(result),
            // The caller may have stopped waiting.
            Self::Wait(done) => drop(done.send(result)),
        }
    }
}

/// What an operation writes.
pub(super) enum Body {
    /// Makes a frame be written, so that its header is.
    Nudge,
    Create,
    Entries {
        first: u64,
        entries: Vec<LogEntry>,
    },
    /// Entries of segment `from`, written again as they are.
    Carry {
        from: u64,
        first: u64,
        entries: Vec<LogEntry>,
    },
    Vote(Bytes),
    Truncate(u64),
    Purge(EntryId),
    Remove,
    Quarantine(String),
}

/// One operation on its way to the disk.
pub(super) struct Operation {
    pub(super) id: u64,
    pub(super) group: GroupId,
    pub(super) life: u64,
    pub(super) body: Body,
    /// What is free once this is durable.
    pub(super) frees: Uses,
    pub(super) done: Done,
}

impl Operation {
    /// Bytes of its record.
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Nudge => 0,
            Body::Entries { entries, .. } | Body::Carry { entries, .. } => {
                ENTRIES_PREFIX_BYTES + entries.iter().map(|entry| ENTRY_PREFIX_BYTES + entry.data.len()).sum::<usize>()
            }
            Body::Vote(mark) => MARK_PREFIX_BYTES + mark.len(),
            Body::Quarantine(reason) => MARK_PREFIX_BYTES + reason.len(),
            Body::Create | Body::Truncate(_) | Body::Purge(_) | Body::Remove => FIXED_BYTES,
        }
    }

    /// Bytes of disk it takes at most, alone in its frame.
    pub(super) fn cost(&self) -> u64 {
        alone(self.bytes())
    }
}

/// Bytes of a frame with one record of `bytes`.
pub(super) fn alone(bytes: usize) -> u64 {
    (HEADER_BYTES + 4 + 8 + bytes).next_multiple_of(BLOCK_BYTES) as u64
}

/// The state under the lock.
pub(super) struct State {
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// Why groups whose names were lost may exist; see [`super::Recovery::unnamed`].
    pub(super) unnamed: Option<String>,
    pub(super) durable: BTreeMap<GroupId, watch::Sender<Option<u64>>>,
    pub(super) queue: VecDeque<Operation>,
    /// Bytes queued or being written.
    pub(super) pending_bytes: usize,
    /// Disk that the queued operations take at most.
    pub(super) pending_cost: u64,
    pub(super) next_id: u64,
    /// Quarantines that are not durable yet: until then the evidence stays.
    pub(super) quarantines_queued: u64,
    /// Groups whose committed mark is newer than on disk.
    pub(super) committed_dirty: BTreeSet<GroupId>,
    /// What lives where, over all groups.
    pub(super) uses: Uses,
    /// The segments that hold frames; the last is being written.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Where the next frame goes in the last of `segments`.
    pub(super) offset: u64,
    /// Segments ready to follow.
    pub(super) spares: VecDeque<Segment>,
    pub(super) next_segment: u64,
    /// The last attempt to make a segment ready found no space.
    pub(super) disk_full: bool,
    /// Bytes that may be spent on emptying old segments.
    pub(super) carry_credit: u64,
    /// What the last durable frame says is the oldest segment needed.
    pub(super) low_durable: u64,
    /// An operation of the keeper is queued or being written.
    pub(super) keeper_busy: bool,
    pub(super) failed: Option<LogError>,
    /// The log is being closed; whom to tell.
    pub(super) closing: Option<Vec<oneshot::Sender<Result<(), LogError>>>>,
    pub(super) abandoned: bool,
    /// The writer waits for work and for nothing else: all that is written is sealed.
    pub(super) writer_sleeps: bool,
    pub(super) stats: LogStats,
}

/// What the handles, the writer and the keeper share.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) config: LogConfig,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) log: u64,
    /// Sequence of the last durable frame.
    pub(super) position: AtomicU64,
    pub(super) failure: watch::Sender<Option<String>>,
    /// Wakes the writer: there is work.
    pub(super) work: Notify,
    /// Wakes the keeper: a segment was begun or freed.
    pub(super) keep: Notify,
    /// Wakes the writer: a segment is ready.
    pub(super) ready: Notify,
    /// Wakes who waits for admission.
    pub(super) room: Notify,
    pub(super) reader: Worker,
    pub(super) frames: Mutex<FrameCache>,
}

impl State {
    /// Whether anything may still be written.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None if self.closing.is_some() => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// A number that no operation and no life had before.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether the group answers.
    pub(super) fn check_group(&self, id: GroupId) -> Result<(), LogError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let reason = match self.groups.get(&id) {
            Some(group) => &group.quarantined,
            None => &self.unnamed,
        };
        match reason {
            Some(reason) => Err(LogError::Quarantined { group: id, reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The group, created if it is new, for a write.
    pub(super) fn live(&mut self, id: GroupId) -> Result<&mut Group, LogError> {
        self.check()?;
        self.check_group(id)?;
        if !self.groups.contains_key(&id) {
            self.create(id);
        }
        Ok(self.groups.entry(id).or_default())
    }

    /// Begins a life of the group.
    pub(super) fn create(&mut self, id: GroupId) {
        let life = self.fresh_id();
        self.groups.insert(id, Group::new(life));
        self.queue(id, Body::Create, Uses::default(), Done::Nobody);
    }

    /// Queues an operation; returns its number. The caller wakes the writer.
    pub(super) fn queue(&mut self, group: GroupId, body: Body, frees: Uses, done: Done) -> u64 {
        let id = self.fresh_id();
        let life = self.groups.get(&group).map_or(0, |group| group.life);
        self.quarantines_queued += u64::from(matches!(body, Body::Quarantine(_)));
        let operation = Operation { id, group, life, body, frees, done };
        self.pending_bytes += operation.bytes();
        self.pending_cost += operation.cost();
        self.queue.push_back(operation);
        id
    }

    /// Takes the next operations that fit into a frame of `limit` bytes; a larger one goes alone.
    pub(super) fn take(&mut self, limit: usize) -> (Vec<Operation>, usize) {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.queue.front() {
            let more = next.bytes();
            if !taken.is_empty() && bytes + more > limit {
                break;
            }
            bytes += more;
            taken.extend(self.queue.pop_front());
        }
        (taken, bytes)
    }

    /// Bytes left in the segment being written.
    pub(super) fn left(&self) -> u64 {
        self.segments.values().next_back().map_or(0, |segment| segment.bytes.saturating_sub(self.offset))
    }

    /// Whether `cost` more bytes of entries may be queued: on a full disk, only what is left of the
    /// segment being written, and nothing of the last one.
    pub(super) fn has_space(&self, cost: u64) -> bool {
        !self.disk_full || (!self.spares.is_empty() && self.pending_cost + cost <= self.left())
    }

    /// The oldest segment that must stay.
    pub(super) fn low(&self) -> u64 {
        if self.quarantines_queued > 0 {
            return self.low_durable;
        }
        let writing = self.segments.keys().next_back().copied().unwrap_or(u64::MAX);
        self.uses.oldest().map_or(writing, |oldest| oldest.min(writing))
    }

    /// Tells who watches the group how far it is durable.
    pub(super) fn publish_durable(&mut self, id: GroupId) {
        let durable = self.groups.get(&id).and_then(Group::durable);
        if let Some(watch) = self.durable.get(&id) {
            watch.send_if_modified(|known| std::mem::replace(known, durable) != durable);
        }
    }
}

impl Shared {
    /// Ends the log: nothing more is accepted, and everything that waits is told.
    pub(super) fn fail(&self, reason: String) {
        let (queue, closing, error) = {
            let mut state = self.state.lock();
            let error = state.failed.get_or_insert_with(|| LogError::Failed(reason.clone())).clone();
            state.pending_bytes = 0;
            (std::mem::take(&mut state.queue), state.closing.take().unwrap_or_default(), error)
        };
        for operation in queue {
            operation.done.finish(Err(error.clone()));
        }
        for waiting in closing {
            // The caller may have stopped waiting.
            waiting.send(Err(error.clone())).ok();
        }
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(reason);
            first
        });
        for waiting in [&self.room, &self.ready, &self.keep, &self.work] {
            waiting.notify_waiters();
            waiting.notify_one();
        }
    }
}
