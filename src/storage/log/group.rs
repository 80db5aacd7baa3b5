//! One group's log in memory: where each entry lies, its marks, and the cached tail.
//!
//! Knows positions, no files. Changes are made when an operation is given; the segments that an
//! operation frees are counted as free only when it is durable.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::record::ENTRY_PREFIX_BYTES;
use super::{EntryId, LogEntry, LogState};

/// What lives in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Use {
    pub(super) items: u64,
    pub(super) bytes: u64,
}

/// What lives in each segment; a segment in which nothing lives is absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Uses(pub(super) BTreeMap<u64, Use>);

impl Uses {
    pub(super) fn add(&mut self, segment: u64, bytes: usize) {
        let used = self.0.entry(segment).or_default();
        used.items += 1;
        used.bytes += bytes as u64;
    }

    pub(super) fn remove(&mut self, segment: u64, bytes: usize) {
        let mut less = Self::default();
        less.add(segment, bytes);
        self.subtract(&less);
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (segment, more) in &other.0 {
            let used = self.0.entry(*segment).or_default();
            used.items += more.items;
            used.bytes += more.bytes;
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (segment, less) in &other.0 {
            let Some(used) = self.0.get_mut(segment) else { continue };
            used.items = used.items.saturating_sub(less.items);
            used.bytes = used.bytes.saturating_sub(less.bytes);
            if used.items == 0 {
                self.0.remove(segment);
            }
        }
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|used| used.bytes).sum()
    }
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the cache only; the operation that will write it.
    Pending(u64),
    /// On disk: the segment, the frame's offset in it, the data's offset in the frame's body.
    Stored { segment: u64, frame: u64, at: u32 },
}

/// One entry of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) len: u32,
    pub(super) place: Place,
}

/// The small values of a group that are replaced whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Vote,
    Committed,
    Purged,
    Quarantine,
}

/// What a mark counts for in the use of a segment.
pub(super) const MARK_WEIGHT_BYTES: usize = 64;

/// One group's log.
///
/// Invariants: the index holds `first..next` without a gap; the cache holds the entries of its last
/// `cache.len()` slots; every slot that is not stored is cached.
#[derive(Default)]
pub(super) struct Group {
    /// Tells the lives of a group of one id apart: an operation of an earlier life changes nothing.
    pub(super) life: u64,
    pub(super) purged: Option<EntryId>,
    pub(super) first: u64,
    pub(super) slots: VecDeque<Slot>,
    pub(super) cache: VecDeque<Bytes>,
    pub(super) cache_bytes: usize,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) quarantined: Option<String>,
    /// The segment of the newest durable record of each [`Mark`].
    pub(super) stored: [Option<u64>; 4],
    /// What of this group is durable where.
    pub(super) uses: Uses,
    /// Every index below is durable.
    pub(super) stored_next: u64,
}

impl Group {
    pub(super) fn new(life: u64) -> Self {
        Self { life, ..Self::default() }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn state(&self) -> LogState {
        let last = self.slots.back().map(|slot| EntryId { term: slot.term, index: self.next() - 1 });
        LogState { purged: self.purged, last: last.or(self.purged) }
    }

    pub(super) fn runs(&self) -> Vec<EntryId> {
        let mut runs: Vec<EntryId> = Vec::new();
        for (index, slot) in (self.first..).zip(&self.slots) {
            match runs.last_mut() {
                Some(run) if run.term == slot.term => run.index = index,
                _ => runs.push(EntryId { term: slot.term, index }),
            }
        }
        runs
    }

    pub(super) fn durable(&self) -> Option<u64> {
        self.stored_next.checked_sub(1)
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    pub(super) fn cached(&self, index: u64) -> Option<&Bytes> {
        let at = index.checked_sub(self.next() - self.cache.len() as u64)?;
        self.cache.get(usize::try_from(at).ok()?)
    }

    /// Adds entries that continue the log.
    pub(super) fn append(&mut self, operation: u64, entries: &[LogEntry]) {
        for entry in entries {
            // Admitted: no entry exceeds half a segment.
            let len = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
            self.push(Slot { term: entry.term, len, place: Place::Pending(operation) }, entry.data.clone());
        }
    }

    /// Adds one entry and its data.
    pub(super) fn push(&mut self, slot: Slot, data: Bytes) {
        self.slots.push_back(slot);
        self.cache_bytes += data.len();
        self.cache.push_back(data);
    }

    /// Shrinks the cache to `limit`, but keeps what is not on disk.
    pub(super) fn evict(&mut self, limit: usize) {
        while self.cache_bytes > limit {
            let oldest = self.slots.len() - self.cache.len();
            if matches!(self.slots.get(oldest).map(|slot| slot.place), Some(Place::Pending(_)) | None) {
                return;
            }
            let Some(data) = self.cache.pop_front() else { return };
            self.cache_bytes -= data.len();
        }
    }

    /// Drops entries from `next` on; returns what that frees once it is durable.
    pub(super) fn truncate(&mut self, next: u64) -> Uses {
        let mut freed = Uses::default();
        while self.next() > next.max(self.first) {
            let Some(slot) = self.slots.pop_back() else { break };
            if let Some(data) = self.cache.pop_back() {
                self.cache_bytes -= data.len();
            }
            free(&mut freed, &slot);
        }
        self.stored_next = self.stored_next.min(self.next());
        freed
    }

    /// Drops entries up to `upto`; returns what that frees once it is durable.
    pub(super) fn purge(&mut self, upto: EntryId) -> Uses {
        let mut freed = Uses::default();
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return freed;
        }
        while self.first <= upto.index {
            let Some(slot) = self.slots.pop_front() else { break };
            self.first += 1;
            if self.cache.len() > self.slots.len()
                && let Some(data) = self.cache.pop_front()
            {
                self.cache_bytes -= data.len();
            }
            free(&mut freed, &slot);
        }
        self.first = upto.index + 1;
        self.purged = Some(upto);
        freed
    }

    /// Notes that operation `operation` wrote the entry `index`.
    pub(super) fn place(&mut self, index: u64, operation: u64, place: Place) -> Option<(u64, usize)> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(at)?;
        if slot.place != Place::Pending(operation) {
            return None;
        }
        slot.place = place;
        self.stored_next = self.stored_next.max(index + 1);
        stored_bytes(slot)
    }

    /// Notes that the entry `index`, which lay in segment `from`, has been written again.
    pub(super) fn relocate(&mut self, index: u64, from: u64, place: Place) -> Option<(u64, usize)> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(at)?;
        let Place::Stored { segment, .. } = slot.place else { return None };
        if segment != from {
            return None;
        }
        slot.place = place;
        stored_bytes(slot)
    }

    /// Gives the log up: it holds nothing and answers nothing. Returns what that frees.
    pub(super) fn quarantine(&mut self, life: u64, reason: String) -> Uses {
        let freed = std::mem::take(&mut self.uses);
        *self = Self { life, quarantined: Some(reason), ..Self::default() };
        freed
    }
}

fn stored_bytes(slot: &Slot) -> Option<(u64, usize)> {
    let Place::Stored { segment, .. } = slot.place else { return None };
    Some((segment, usize::try_from(slot.len).unwrap_or(usize::MAX).saturating_add(ENTRY_PREFIX_BYTES)))
}

fn free(freed: &mut Uses, slot: &Slot) {
    if let Some((segment, bytes)) = stored_bytes(slot) {
        freed.add(segment, bytes);
    }
}
