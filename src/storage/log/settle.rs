//! What a durable frame changes in memory: where entries and marks lie, and what segments hold.
//!
//! Knows the state and one operation at a time; called under the lock by the writer.

use super::LogEntry;
use super::frame::FrameHeader;
use super::group::{MARK_WEIGHT_BYTES, Mark, Place, Uses};
use super::record::{ENTRIES_PREFIX_BYTES, ENTRY_PREFIX_BYTES};
use super::shared::{Body, Operation, State};
use crate::types::GroupId;

impl State {
    /// Notes that `operation` is durable: its record starts at `start` of the body of `header`.
    pub(super) fn settle(&mut self, operation: &Operation, header: &FrameHeader, start: usize, cache_bytes: usize) {
        let (id, life, segment) = (operation.group, operation.life, header.segment);
        match &operation.body {
            Body::Nudge | Body::Create | Body::Truncate(_) | Body::Remove => {}
            Body::Entries { first, entries } => {
                self.stats.entries += entries.len() as u64;
                self.settle_entries(operation, *first, entries, header, start);
                if let Some(group) = self.groups.get_mut(&id).filter(|group| group.life == life) {
                    group.evict(cache_bytes);
                }
            }
            Body::Carry { from, first, entries } => {
                self.stats.entries += entries.len() as u64;
                self.settle_carried(operation, *from, *first, entries, header, start);
            }
            Body::Vote(_) => self.settle_mark(id, life, Mark::Vote, segment),
            Body::Quarantine(_) => {
                self.quarantines_queued = self.quarantines_queued.saturating_sub(1);
                self.settle_mark(id, life, Mark::Quarantine, segment);
            }
            Body::Purge(upto) => {
                self.settle_mark(id, life, Mark::Purged, segment);
                if let Some(group) = self.groups.get_mut(&id).filter(|group| group.life == life) {
                    group.stored_next = group.stored_next.max(upto.index.saturating_add(1));
                }
            }
        }
        self.free(operation);
    }

    /// What a removed or quarantined group held is no longer counted as the group's; what another
    /// operation frees is, unless the group's life has ended and taken it along.
    fn free(&mut self, operation: &Operation) {
        if !matches!(operation.body, Body::Remove | Body::Quarantine(_)) {
            let group = self.groups.get_mut(&operation.group).filter(|group| group.life == operation.life);
            let Some(group) = group else { return };
            group.uses.subtract(&operation.frees);
        }
        self.uses.subtract(&operation.frees);
    }

    /// Notes in which segment a mark is durable.
    pub(super) fn settle_mark(&mut self, id: GroupId, life: u64, mark: Mark, segment: u64) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.life == life) else { return };
        if let Some(old) = group.stored[mark as usize].replace(segment) {
            group.uses.remove(old, MARK_WEIGHT_BYTES);
            self.uses.remove(old, MARK_WEIGHT_BYTES);
        }
        group.uses.add(segment, MARK_WEIGHT_BYTES);
        self.uses.add(segment, MARK_WEIGHT_BYTES);
    }

    fn settle_entries(
        &mut self,
        operation: &Operation,
        first: u64,
        entries: &[LogEntry],
        header: &FrameHeader,
        start: usize,
    ) {
        let group = self.groups.get_mut(&operation.group).filter(|group| group.life == operation.life);
        let Some(group) = group else { return };
        let mut added = Uses::default();
        for (index, place) in places(first, entries, header, start) {
            if let Some((segment, bytes)) = group.place(index, operation.id, place) {
                added.add(segment, bytes);
            }
        }
        group.uses.add_all(&added);
        self.uses.add_all(&added);
    }

    fn settle_carried(
        &mut self,
        operation: &Operation,
        from: u64,
        first: u64,
        entries: &[LogEntry],
        header: &FrameHeader,
        start: usize,
    ) {
        let group = self.groups.get_mut(&operation.group).filter(|group| group.life == operation.life);
        let Some(group) = group else { return };
        let (mut added, mut freed) = (Uses::default(), Uses::default());
        for (index, place) in places(first, entries, header, start) {
            if let Some((segment, bytes)) = group.relocate(index, from, place) {
                added.add(segment, bytes);
                freed.add(from, bytes);
            }
        }
        for uses in [&mut group.uses, &mut self.uses] {
            uses.subtract(&freed);
            uses.add_all(&added);
        }
    }
}

/// The index and place of each entry of a record that starts at `start` of its body.
fn places<'a>(
    first: u64,
    entries: &'a [LogEntry],
    header: &FrameHeader,
    start: usize,
) -> impl Iterator<Item = (u64, Place)> + 'a {
    let (segment, frame) = (header.segment, header.offset);
    let mut next = start + ENTRIES_PREFIX_BYTES;
    (first..).zip(entries).map(move |(index, entry)| {
        let at = next + ENTRY_PREFIX_BYTES;
        next = at + entry.data.len();
        // A frame lies within a segment of at most a gigabyte.
        (index, Place::Stored { segment, frame, at: u32::try_from(at).unwrap_or(u32::MAX) })
    })
}
