//! The one writer: takes what all groups wait for, writes once, syncs once, completes in order.
//!
//! Knows how a frame is put together and where it goes; it decides nothing about groups.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::LogError;
use super::frame::{BLOCK_BYTES, FrameHeader, HEADER_BYTES};
use super::group::Mark;
use super::record::{self, MARK_PREFIX_BYTES, ROSTER_PREFIX_BYTES};
use super::segment::{FRAMES_AT, Segment};
use super::shared::{Body, Operation, Shared, State};
use crate::env::disk::DirLock;
use crate::env::time;
use crate::env::work::Worker;
use crate::types::GroupId;

/// The writer's own state: what follows the last frame.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Worker,
    /// Held by every job, so that no later log starts while one runs.
    pub(super) lock: Arc<dyn DirLock>,
    /// The segment being written.
    pub(super) segment: Segment,
    /// Sequence of the next frame.
    pub(super) sequence: u64,
    /// The groups of the last frame; `None` when they are too many to name, or unknown.
    pub(super) groups: Option<Vec<GroupId>>,
    /// Nothing was written since the last seal.
    pub(super) sealed: bool,
    /// The next frame opens with a roster.
    pub(super) roster_due: bool,
    pub(super) buffer: Vec<u8>,
}

/// What goes into one frame.
struct Batch {
    header: FrameHeader,
    segment: Segment,
    /// The groups of the frame before.
    before: Option<Vec<GroupId>>,
    roster: Option<Roster>,
    committed: Vec<(GroupId, u64, Bytes)>,
    operations: Vec<Operation>,
    /// Where the record of each operation starts in the body.
    starts: Vec<usize>,
}

/// The groups alive; see [`record::Record::Roster`].
struct Roster {
    complete: bool,
    lost: bool,
    groups: Vec<GroupId>,
}

enum Step {
    Stop,
    Wait,
    Write { operations: Vec<Operation>, bytes: usize, seal: bool },
    Close,
}

impl Writer {
    /// Runs until the log is closed, has failed, or its last handle is gone.
    pub(super) async fn run(mut self) {
        let mut idle = false;
        loop {
            match self.step(idle) {
                Step::Stop => return,
                Step::Close => {
                    self.finish_closing();
                    return;
                }
                Step::Wait => idle = self.wait().await,
                Step::Write { operations, bytes, seal } => {
                    idle = false;
                    if let Err(reason) = self.write(operations, bytes, seal).await {
                        self.shared.fail(reason);
                        return;
                    }
                }
            }
        }
    }

    fn step(&self, idle: bool) -> Step {
        let mut state = self.shared.state.lock();
        if state.abandoned || state.failed.is_some() {
            return Step::Stop;
        }
        let closing = state.closing.is_some();
        if !state.queue.is_empty() {
            let (operations, bytes) = state.take(self.shared.config.frame_bytes());
            return Step::Write { operations, bytes, seal: false };
        }
        let unproven = !self.sealed || !state.committed_dirty.is_empty();
        if (closing || idle) && unproven && self.seal_fits(&state) {
            return Step::Write { operations: Vec::new(), bytes: 0, seal: true };
        }
        if closing { Step::Close } else { Step::Wait }
    }

    /// A seal is never worth one of the last segments of a full disk.
    fn seal_fits(&self, state: &State) -> bool {
        !state.disk_full || state.left() >= self.overhead() as u64 + self.shared.config.segment_bytes / 8
    }

    /// Waits for work; true when the log has been idle for long enough to be sealed.
    async fn wait(&self) -> bool {
        let work = self.shared.work.notified();
        let sleeps = {
            let mut state = self.shared.state.lock();
            state.writer_sleeps = self.sealed && state.committed_dirty.is_empty();
            state.writer_sleeps
        };
        if sleeps {
            work.await;
            return false;
        }
        tokio::select! {
            biased;
            () = work => false,
            () = time::sleep(self.shared.config.idle_seal) => true,
        }
    }

    fn finish_closing(&self) {
        let waiting = {
            let mut state = self.shared.state.lock();
            state.abandoned = true;
            state.closing.as_mut().map(std::mem::take).unwrap_or_default()
        };
        self.shared.keep.notify_one();
        for done in waiting {
            // The caller may have stopped waiting.
            done.send(Ok(())).ok();
        }
    }

    /// Bytes of header and of what names the groups of the frame before.
    fn overhead(&self) -> usize {
        HEADER_BYTES + 4 + 8 * self.groups.as_ref().map_or(0, Vec::len)
    }

    async fn write(&mut self, operations: Vec<Operation>, bytes: usize, seal: bool) -> Result<(), String> {
        let committed = self.take_committed();
        let riding = committed.iter().map(|(_, _, mark)| MARK_PREFIX_BYTES + mark.len()).sum::<usize>();
        let needed = self.overhead() + bytes + riding;
        if !self.begin_segment(needed).await {
            let ended = self.shared.state.lock().failed.clone().unwrap_or(LogError::Closed);
            operations.into_iter().for_each(|operation| operation.done.finish(Err(ended.clone())));
            return Ok(());
        }
        let batch = self.batch(operations, committed, seal);
        let buffer = std::mem::take(&mut self.buffer);
        let lock = self.lock.clone();
        let written = self.worker.run(move || {
            let _held = lock;
            write_frame(batch, buffer)
        });
        let (mut batch, buffer, written) = written.await.map_err(|error| error.to_string())?;
        self.buffer = buffer;
        if self.buffer.capacity() > 2 * self.shared.config.frame_bytes() {
            self.buffer = Vec::new();
        }
        if let Err(error) = written {
            let reason = format!("frame {} in segment {}: {error}", batch.header.sequence, batch.header.segment);
            for operation in batch.operations {
                operation.done.finish(Err(LogError::Failed(reason.clone())));
            }
            return Err(reason);
        }
        self.sequence += 1;
        self.roster_due = false;
        self.sealed = seal;
        self.groups = self.touched(&batch);
        self.complete(&mut batch);
        Ok(())
    }

    /// The committed marks that ride on this frame, behind its operations: of groups whose life has
    /// begun by then.
    fn take_committed(&self) -> Vec<(GroupId, u64, Bytes)> {
        let mut state = self.shared.state.lock();
        let limit = self.shared.config.committed_bytes_max();
        let queued = state.queue.front().map_or(u64::MAX, |operation| operation.id);
        let (mut taken, mut later, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        for id in std::mem::take(&mut state.committed_dirty) {
            let Some(group) = state.groups.get(&id) else { continue };
            let Some(mark) = &group.committed else { continue };
            bytes += MARK_PREFIX_BYTES + mark.len();
            if bytes > limit || group.life >= queued || group.life + 1 == queued {
                later.insert(id);
                continue;
            }
            taken.push((id, group.life, mark.clone()));
        }
        state.committed_dirty = later;
        taken
    }

    fn fits(&self, bytes: usize) -> bool {
        let state = self.shared.state.lock();
        let roster = if self.roster_due { ROSTER_PREFIX_BYTES + 8 * state.groups.len() } else { 0 };
        (bytes + roster).next_multiple_of(BLOCK_BYTES) as u64 <= state.left()
    }

    /// Goes on in the next segment that is large enough, once it is ready; false when the log ends
    /// before.
    async fn begin_segment(&mut self, bytes: usize) -> bool {
        while !self.fits(bytes) {
            let ready = self.shared.ready.notified();
            let begun = {
                let mut state = self.shared.state.lock();
                let hopeless = state.closing.is_some() && state.disk_full && state.spares.is_empty();
                if hopeless || state.abandoned || state.failed.is_some() {
                    return false;
                }
                let spare = state.spares.pop_front();
                if let Some(spare) = &spare {
                    self.segment = spare.clone();
                    state.segments.insert(spare.id, spare.clone());
                    state.offset = FRAMES_AT;
                    self.roster_due = true;
                }
                spare.is_some()
            };
            self.shared.keep.notify_one();
            if !begun {
                ready.await;
            }
        }
        true
    }

    fn batch(&self, operations: Vec<Operation>, committed: Vec<(GroupId, u64, Bytes)>, seal: bool) -> Batch {
        let state = self.shared.state.lock();
        let segment = self.segment.clone();
        let roster = self.roster_due.then(|| {
            let all = state.groups.len() <= self.shared.config.roster_groups_max();
            let groups = if all { state.groups.keys().copied().collect() } else { Vec::new() };
            Roster { complete: all, lost: state.unnamed.is_some(), groups }
        });
        let header = FrameHeader {
            log: self.shared.log,
            segment: segment.id,
            offset: state.offset,
            sequence: self.sequence,
            durable: self.sequence - 1,
            low: state.low(),
            length: 0,
            seal: seal && committed.is_empty(),
        };
        Batch { header, segment, before: self.groups.clone(), roster, committed, operations, starts: Vec::new() }
    }

    fn touched(&self, batch: &Batch) -> Option<Vec<GroupId>> {
        let operations = batch.operations.iter().filter(|operation| !matches!(operation.body, Body::Nudge));
        let groups: BTreeSet<GroupId> = operations
            .map(|operation| operation.group)
            .chain(batch.committed.iter().map(|(group, _, _)| *group))
            .collect();
        (groups.len() <= self.shared.config.named_groups_max()).then(|| groups.into_iter().collect())
    }

    fn complete(&self, batch: &mut Batch) {
        let header = &batch.header;
        let finished = {
            let mut state = self.shared.state.lock();
            state.offset += header.extent();
            state.stats.frames += 1;
            state.stats.syncs += 1;
            state.stats.bytes += header.extent();
            state.earn_carrying(&batch.operations, header.extent());
            self.shared.position.store(header.sequence, Ordering::Release);
            for (id, life, _) in &batch.committed {
                state.settle_mark(*id, *life, Mark::Committed, header.segment);
            }
            for (operation, start) in batch.operations.iter().zip(&batch.starts) {
                state.pending_bytes = state.pending_bytes.saturating_sub(operation.bytes());
                state.pending_cost = state.pending_cost.saturating_sub(operation.cost());
                state.settle(operation, header, *start, self.shared.config.tail_cache_bytes);
            }
            for id in batch.operations.iter().map(|operation| operation.group).collect::<BTreeSet<_>>() {
                state.publish_durable(id);
            }
            state.low_durable = state.low_durable.max(header.low);
            if state.keeper_due() {
                self.shared.keep.notify_one();
            }
            std::mem::take(&mut batch.operations)
        };
        for operation in finished {
            operation.done.finish(Ok(()));
        }
        self.shared.room.notify_waiters();
    }
}

/// Puts the frame together, writes it, syncs it.
fn write_frame(mut batch: Batch, mut buffer: Vec<u8>) -> (Batch, Vec<u8>, io::Result<()>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    record::put_groups(&mut buffer, batch.before.as_deref());
    if let Some(roster) = &batch.roster {
        record::put_roster(&mut buffer, roster.complete, roster.lost, &roster.groups);
    }
    for operation in &batch.operations {
        batch.starts.push(buffer.len() - HEADER_BYTES);
        put_operation(&mut buffer, operation);
    }
    for (group, _, mark) in &batch.committed {
        record::put_committed(&mut buffer, *group, mark);
    }
    let length = u32::try_from(buffer.len() - HEADER_BYTES);
    let written = length.map_err(io::Error::other).and_then(|length| {
        batch.header.length = length;
        batch.header.finish(&mut buffer);
        batch.segment.file.write_at(&buffer, batch.header.offset)?;
        batch.segment.file.sync()
    });
    (batch, buffer, written)
}

fn put_operation(buffer: &mut Vec<u8>, operation: &Operation) {
    let group = operation.group;
    match &operation.body {
        Body::Nudge => {}
        Body::Create => record::put_create(buffer, group),
        Body::Entries { first, entries } | Body::Carry { first, entries, .. } => {
            record::put_entries(buffer, group, *first, entries);
        }
        Body::Vote(mark) => record::put_vote(buffer, group, mark),
        Body::Truncate(next) => record::put_truncate(buffer, group, *next),
        Body::Purge(upto) => record::put_purge(buffer, group, *upto),
        Body::Remove => record::put_remove(buffer, group),
        Body::Quarantine(reason) => record::put_quarantine(buffer, group, reason),
    }
}
