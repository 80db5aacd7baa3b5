//! The keeper: makes segments ready ahead of need, carries forward what idle groups still need from
//! old ones, and drops those that nobody needs.
//!
//! It never waits for its own operations: the writer may be waiting for a segment from it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::group::{Mark, Place, Uses};
use super::record::ENTRY_PREFIX_BYTES;
use super::segment;
use super::shared::{Body, Done, Operation, Shared, State};
use super::{LogError, RESERVE_SEGMENTS};
use crate::env::disk::DirLock;
use crate::env::time;
use crate::env::work::Worker;
use crate::types::GroupId;

/// Entries carried forward in one step, in bytes, at most a sixteenth of a segment.
const CARRY_STEP_BYTES: usize = 256 * 1024;
/// How long a full disk is left alone before the next attempt to make a segment ready.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// Old segments that are left alone, however little lives in them.
const OLD_SEGMENTS_MIN: usize = 2;

impl State {
    /// Whether old segments can be dropped, or should be emptied.
    pub(super) fn keeper_due(&self) -> bool {
        let oldest = self.segments.keys().next().copied().unwrap_or(u64::MAX);
        let waiting = self.keeper_busy || self.closing.is_some();
        oldest < self.low_durable || (!waiting && (self.low_is_news() || self.carry_due()))
    }

    /// Whether no durable frame says yet that the oldest segment is no longer needed.
    fn low_is_news(&self) -> bool {
        self.segments.keys().next().is_some_and(|oldest| *oldest < self.low()) && self.low_durable < self.low()
    }

    /// Old segments are emptied when more than half of their bytes are dead, and only as fast as others
    /// write: what is alive may be small entries in large frames, which no carrying makes denser. On a
    /// full disk, whenever little lives in the oldest.
    fn carry_due(&self) -> bool {
        let Some((from, used)) = self.uses.0.iter().next() else { return false };
        let old = self.segments.len().saturating_sub(1);
        let bytes: u64 = self.segments.values().take(old).map(|segment| segment.bytes).sum();
        let sparse = old > OLD_SEGMENTS_MIN && self.carry_credit > 0 && self.uses.bytes() * 2 < bytes;
        let pressed = self.disk_full && used.bytes * 4 < self.left();
        self.segments.keys().next_back() != Some(from) && (sparse || pressed)
    }
}

impl State {
    /// Counts a frame of `extent` bytes: what others wrote earns credit for carrying, up to one pass
    /// over the log; what the keeper wrote uses it up.
    pub(super) fn earn_carrying(&mut self, operations: &[Operation], extent: u64) {
        if operations.is_empty() {
            return;
        }
        let alone = operations.iter().all(|operation| matches!(operation.body, Body::Carry { .. } | Body::Nudge));
        let carried = operations.iter().filter(|operation| matches!(operation.body, Body::Carry { .. }));
        let carried = if alone { extent } else { carried.map(|operation| operation.bytes() as u64).sum() };
        let whole: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        let earned = self.carry_credit.saturating_add(extent.saturating_sub(carried)).min(whole);
        self.carry_credit = earned.saturating_sub(carried);
    }
}

/// What the next step forward is.
enum Carry {
    Nothing,
    Marks,
    Entries { group: GroupId, life: u64, from: u64, first: u64, count: u64 },
}

/// The keeper's task.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Worker,
    /// Held by every job, so that no later log starts while one runs.
    pub(super) lock: Arc<dyn DirLock>,
}

impl Keeper {
    /// Runs until the log ends.
    pub(super) async fn run(self) {
        loop {
            let woken = self.shared.keep.notified();
            if self.ended() {
                return;
            }
            let stuck = match Box::pin(self.step()).await {
                Ok(stuck) => stuck,
                Err(reason) => {
                    self.shared.fail(reason);
                    return;
                }
            };
            if stuck {
                tokio::select! {
                    biased;
                    () = woken => {}
                    () = time::sleep(FULL_RETRY) => {}
                }
            } else if !self.due() {
                woken.await;
            }
        }
    }

    /// Does what is due; true when it must be tried again later.
    async fn step(&self) -> Result<bool, String> {
        self.drop_segments().await?;
        let prepared = self.prepare().await?;
        let carried = self.carry().await;
        Ok(!prepared || !carried)
    }

    fn ended(&self) -> bool {
        let state = self.shared.state.lock();
        state.abandoned || state.failed.is_some()
    }

    fn due(&self) -> bool {
        let state = self.shared.state.lock();
        state.keeper_due() || state.spares.len() < RESERVE_SEGMENTS
    }

    /// Removes the segments that a durable frame says nobody needs.
    async fn drop_segments(&self) -> Result<(), String> {
        let (dropped, low) = {
            let mut state = self.shared.state.lock();
            let low = state.low_durable;
            let kept = state.segments.split_off(&low);
            (std::mem::replace(&mut state.segments, kept), low)
        };
        if dropped.is_empty() {
            return Ok(());
        }
        self.shared.frames.lock().forget(low);
        let (disk, dir) = (self.shared.disk.clone(), self.shared.dir.clone());
        let lock = self.lock.clone();
        let removed = self.worker.run(move || {
            let _held = lock;
            // Oldest first: what remains is always the end of the log.
            for id in dropped.into_keys() {
                disk.remove(&segment::path(&dir, id))?;
            }
            disk.sync_dir(&dir)
        });
        removed.await.map_err(|error| error.to_string())?.map_err(|error| format!("dropping old segments: {error}"))
    }

    /// Makes one segment ready if one is missing; false when the disk is full.
    async fn prepare(&self) -> Result<bool, String> {
        let id = {
            let state = self.shared.state.lock();
            if state.spares.len() >= RESERVE_SEGMENTS {
                return Ok(true);
            }
            state.next_segment
        };
        let (disk, dir) = (self.shared.disk.clone(), self.shared.dir.clone());
        let (log, bytes) = (self.shared.log, self.shared.config.segment_bytes);
        let lock = self.lock.clone();
        let made = self.worker.run(move || {
            let _held = lock;
            segment::prepare(disk.as_ref(), &dir, log, id, bytes)
        });
        let made = made.await.map_err(|error| error.to_string())?;
        let mut state = self.shared.state.lock();
        match made {
            Ok(spare) => {
                state.next_segment = id + 1;
                state.spares.push_back(spare);
                state.disk_full = false;
                drop(state);
                self.shared.ready.notify_one();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                state.disk_full = true;
                Ok(false)
            }
            Err(error) => Err(format!("preparing segment {id:016x}: {error}")),
        }
    }

    /// One step towards an old segment in which nothing lives, or towards dropping it; false when it
    /// cannot be read now.
    async fn carry(&self) -> bool {
        let (step, low) = {
            let state = self.shared.state.lock();
            if state.keeper_busy || state.closing.is_some() {
                return true;
            }
            (plan(&state, self.step_bytes()), state.low())
        };
        match step {
            Carry::Nothing => self.nudge(),
            Carry::Marks => self.carry_marks(low),
            Carry::Entries { group, life, from, first, count } => {
                return self.carry_entries(group, life, from, first..first + count).await;
            }
        }
        true
    }

    fn step_bytes(&self) -> usize {
        CARRY_STEP_BYTES.min(self.shared.config.frame_bytes() / 8)
    }

    /// Has a frame written whose header says that old segments are no longer needed.
    fn nudge(&self) {
        let mut state = self.shared.state.lock();
        if state.low_is_news() {
            self.queue(&mut state, GroupId::default(), Body::Nudge);
        }
    }

    /// Writes again what the groups' marks in segment `from` say.
    fn carry_marks(&self, from: u64) {
        let mut state = self.shared.state.lock();
        let mut bodies = Vec::new();
        let mut committed = Vec::new();
        for (id, group) in state.groups.iter().filter(|(_, group)| group.uses.0.contains_key(&from)) {
            let here = |mark: Mark| group.stored[mark as usize] == Some(from);
            let vote = group.vote.clone().filter(|_| here(Mark::Vote)).map(Body::Vote);
            let purged = group.purged.filter(|_| here(Mark::Purged)).map(Body::Purge);
            let quarantine = group.quarantined.clone().filter(|_| here(Mark::Quarantine)).map(Body::Quarantine);
            bodies.extend([vote, purged, quarantine].into_iter().flatten().map(|body| (*id, body)));
            if here(Mark::Committed) && group.committed.is_some() {
                committed.push(*id);
            }
        }
        // Committed marks ride along, so something must be written.
        state.committed_dirty.extend(committed);
        for (group, body) in bodies {
            state.queue(group, body, Uses::default(), Done::Nobody);
        }
        self.queue(&mut state, GroupId::default(), Body::Nudge);
    }

    async fn carry_entries(&self, id: GroupId, life: u64, from: u64, range: Range<u64>) -> bool {
        let first = range.start;
        let mut entries = match self.shared.read(id, range, usize::MAX).await {
            Ok(entries) => entries,
            // The group is quarantined by this, and then holds nothing any more.
            Err(LogError::Quarantined { .. }) => return true,
            Err(_) => return false,
        };
        let mut state = self.shared.state.lock();
        let Some(group) = state.groups.get(&id).filter(|group| group.life == life) else { return true };
        // What was purged or truncated meanwhile stays so.
        let still = |index| lies_in(group.slot(index).map(|slot| slot.place), from);
        let same = entries.iter().zip(first..).take_while(|(entry, index)| entry.index == *index && still(*index));
        entries.truncate(same.count());
        if !entries.is_empty() {
            self.queue(&mut state, id, Body::Carry { from, first, entries });
        }
        true
    }

    /// Queues an operation after which the keeper takes its next step.
    fn queue(&self, state: &mut State, group: GroupId, body: Body) {
        let shared = self.shared.clone();
        let done = Done::Call(Box::new(move |_| {
            shared.state.lock().keeper_busy = false;
            shared.keep.notify_one();
        }));
        state.keeper_busy = true;
        state.queue(group, body, Uses::default(), done);
        self.shared.work.notify_one();
    }
}

fn lies_in(place: Option<Place>, from: u64) -> bool {
    matches!(place, Some(Place::Stored { segment, .. }) if segment == from)
}

/// Decides what to carry next out of the oldest segment in which anything lives.
fn plan(state: &State, bytes_max: usize) -> Carry {
    let from = state.low();
    if !state.carry_due() {
        return Carry::Nothing;
    }
    for (id, group) in &state.groups {
        if !group.uses.0.contains_key(&from) {
            continue;
        }
        let start = group.slots.iter().position(|slot| lies_in(Some(slot.place), from));
        let Some(start) = start else { continue };
        let mut bytes = 0_usize;
        let run = group.slots.iter().skip(start).take_while(|slot| {
            let fits = bytes <= bytes_max;
            bytes = bytes.saturating_add(usize::try_from(slot.len).unwrap_or(usize::MAX) + ENTRY_PREFIX_BYTES);
            lies_in(Some(slot.place), from) && fits
        });
        let count = run.count() as u64;
        return Carry::Entries { group: *id, life: group.life, from, first: group.first + start as u64, count };
    }
    Carry::Marks
}
