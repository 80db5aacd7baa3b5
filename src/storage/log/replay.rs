//! Replaying frames into groups, and judging what is missing between them.
//!
//! Knows sequences and records, no files. A later frame proves the ones before it durable: what is
//! missing before it is corruption, and the groups that it could belong to are quarantined.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::EntryId;
use super::frame::FrameHeader;
use super::group::{Group, MARK_WEIGHT_BYTES, Mark, Place, Slot, Uses};
use super::record::{ENTRY_PREFIX_BYTES, EntryAt, Reader, Record};
use super::segment::FRAMES_AT;
use crate::types::GroupId;

/// A group as its records are replayed. Unlike [`Group`] it may have gaps: what was carried forward
/// comes after what it was written before.
#[derive(Default)]
struct Building {
    purged: Option<EntryId>,
    slots: BTreeMap<u64, Slot>,
    /// Copies of the newest entries, consecutive.
    tail: VecDeque<(u64, Bytes)>,
    tail_bytes: usize,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    quarantined: Option<String>,
    stored: [Option<u64>; 4],
}

/// What replaying has found so far.
pub(super) struct Replay {
    groups: BTreeMap<GroupId, Building>,
    unnamed: Option<String>,
    tail_bytes_max: usize,
    /// Sequence of the last frame.
    pub(super) last: Option<u64>,
    /// Highest sequence that some header says was durable.
    pub(super) testified: u64,
    /// The groups of the last frame.
    pub(super) last_groups: Option<Vec<GroupId>>,
    pub(super) frames: u64,
}

/// The groups, ready for use.
pub(super) struct Replayed {
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) uses: Uses,
    pub(super) unnamed: Option<String>,
}

impl Replay {
    /// Nothing yet. `low` is the oldest segment that must exist: before the first there is nothing.
    pub(super) fn new(tail_bytes_max: usize, low: u64) -> Self {
        Self {
            groups: BTreeMap::new(),
            unnamed: None,
            tail_bytes_max,
            last: (low == 1).then_some(0),
            testified: 0,
            last_groups: Some(Vec::new()),
            frames: 0,
        }
    }

    /// A frame whose body is damaged, or that was torn.
    pub(super) fn broken(&mut self, header: &FrameHeader) {
        self.testified = self.testified.max(header.durable);
    }

    /// The next whole frame. `low` is the oldest segment that must exist.
    ///
    /// # Errors
    /// What makes no sense though its checksum holds: no damage, but another version's work.
    pub(super) fn frame(&mut self, header: &FrameHeader, body: &[u8], low: u64) -> Result<(), String> {
        let place = format!("frame {} in segment {:016x} at {}", header.sequence, header.segment, header.offset);
        let nonsense = || format!("{place} makes no sense: was it written by a newer version?");
        let mut reader = Reader::new(body);
        let before = reader.groups().ok_or_else(nonsense)?;
        if !self.continues(header, before, low) {
            return Ok(());
        }
        let mut touched = BTreeSet::new();
        while !reader.at_end() {
            let record = reader.record().ok_or_else(nonsense)?;
            touched.extend(self.record(record, header, body));
        }
        self.last = Some(header.sequence);
        self.testified = self.testified.max(header.sequence);
        self.last_groups = Some(touched.into_iter().collect());
        self.frames += 1;
        Ok(())
    }

    /// Judges what lies between the last frame and this one; false if this one is out of order.
    fn continues(&mut self, header: &FrameHeader, before: Option<Vec<GroupId>>, low: u64) -> bool {
        let sequence = header.sequence;
        let Some(last) = self.last else {
            let first = header.segment == low && header.offset == FRAMES_AT;
            if !first {
                self.lost_names(&format!("the frames before {sequence} are missing"));
            }
            return true;
        };
        if sequence <= last {
            self.lost_names(&format!("frame {sequence} comes after frame {last}"));
            return false;
        }
        if sequence == last + 1 {
            return true;
        }
        let reason = format!("frames {} to {} were durable and are damaged or missing", last + 1, sequence - 1);
        match before {
            Some(groups) if sequence == last + 2 => {
                groups.into_iter().for_each(|group| self.quarantine(group, &reason));
            }
            _ => self.lost_names(&reason),
        }
        true
    }

    /// Something was lost, and nobody knows of which groups: of all, known or not.
    pub(super) fn lost_names(&mut self, reason: &str) {
        let known: Vec<GroupId> = self.groups.keys().copied().collect();
        known.into_iter().for_each(|group| self.quarantine(group, reason));
        self.unnamed.get_or_insert_with(|| reason.to_owned());
    }

    fn quarantine(&mut self, group: GroupId, reason: &str) {
        let building = self.groups.entry(group).or_default();
        if building.quarantined.is_none() {
            *building = Building { quarantined: Some(reason.to_owned()), ..Building::default() };
        }
    }

    /// Replays one record; names the group it touches.
    fn record(&mut self, record: Record, header: &FrameHeader, body: &[u8]) -> Option<GroupId> {
        let segment = header.segment;
        match record {
            Record::Roster { complete, lost, groups } => {
                self.roster(complete, lost, groups);
                None
            }
            Record::Create { group } => {
                self.groups.insert(group, Building::default());
                Some(group)
            }
            Record::Remove { group } => {
                self.groups.remove(&group);
                Some(group)
            }
            Record::Quarantine { group, reason } => {
                self.quarantine(group, &String::from_utf8_lossy(&reason));
                let building = self.groups.entry(group).or_default();
                building.stored[Mark::Quarantine as usize] = Some(segment);
                Some(group)
            }
            Record::Entries { group, first, entries } => {
                let tail_bytes_max = self.tail_bytes_max;
                self.known(group).entries(first, &entries, header, body, tail_bytes_max);
                Some(group)
            }
            Record::Vote { group, mark } => {
                let known = self.known(group);
                known.vote = Some(mark);
                known.store(Mark::Vote, segment);
                Some(group)
            }
            Record::Committed { group, mark } => {
                let known = self.known(group);
                known.committed = Some(mark);
                known.store(Mark::Committed, segment);
                Some(group)
            }
            Record::Truncate { group, next } => {
                self.known(group).truncate(next);
                Some(group)
            }
            Record::Purge { group, upto } => {
                let known = self.known(group);
                known.purge(upto);
                known.store(Mark::Purged, segment);
                Some(group)
            }
        }
    }

    fn roster(&mut self, complete: bool, lost: bool, groups: Vec<GroupId>) {
        if lost {
            self.unnamed.get_or_insert_with(|| "an earlier start found that groups' names were lost".to_owned());
            // These are known; those of them that cannot be trusted have a record that says so.
            for group in groups {
                self.groups.entry(group).or_default();
            }
        } else if complete && let Some(reason) = self.unnamed.take() {
            for group in groups {
                if !self.groups.contains_key(&group) {
                    self.quarantine(group, &reason);
                }
            }
        }
    }

    /// The group of a record. One whose life began where names were lost cannot be trusted.
    fn known(&mut self, group: GroupId) -> &mut Building {
        if let Some(reason) = self.unnamed.clone()
            && !self.groups.contains_key(&group)
        {
            self.quarantine(group, &reason);
        }
        self.groups.entry(group).or_default()
    }

    /// The groups as they are to be used.
    pub(super) fn finish(mut self, mut life: impl FnMut() -> u64) -> Replayed {
        let mut uses = Uses::default();
        let mut groups = BTreeMap::new();
        for (id, building) in std::mem::take(&mut self.groups) {
            let group = building.finish(life());
            uses.add_all(&group.uses);
            groups.insert(id, group);
        }
        Replayed { groups, uses, unnamed: self.unnamed }
    }
}

impl Building {
    fn store(&mut self, mark: Mark, segment: u64) {
        if self.quarantined.is_none() {
            self.stored[mark as usize] = Some(segment);
        }
    }

    fn entries(&mut self, first: u64, entries: &[EntryAt], header: &FrameHeader, body: &[u8], tail_bytes_max: usize) {
        if self.quarantined.is_some() {
            return;
        }
        for (index, entry) in (first..).zip(entries) {
            let place = Place::Stored {
                segment: header.segment,
                frame: header.offset,
                at: u32::try_from(entry.at).unwrap_or(u32::MAX),
            };
            let slot = Slot { term: entry.term, len: u32::try_from(entry.len).unwrap_or(u32::MAX), place };
            let newest = self.slots.last_key_value().is_none_or(|(last, _)| *last < index);
            match self.slots.insert(index, slot) {
                Some(old) if (old.term, old.len) != (slot.term, slot.len) => {
                    self.distrust(format!("entry {index} was written twice, and differs"));
                    return;
                }
                _ => {}
            }
            if newest {
                let data = body.get(entry.at..).and_then(|data| data.get(..entry.len)).unwrap_or_default();
                self.push_tail(index, data, tail_bytes_max);
            }
        }
    }

    fn push_tail(&mut self, index: u64, data: &[u8], tail_bytes_max: usize) {
        if self.tail.back().is_some_and(|(last, _)| last + 1 != index) {
            self.tail.clear();
            self.tail_bytes = 0;
        }
        self.tail_bytes += data.len();
        self.tail.push_back((index, Bytes::copy_from_slice(data)));
        while self.tail_bytes > tail_bytes_max {
            let Some((_, oldest)) = self.tail.pop_front() else { return };
            self.tail_bytes -= oldest.len();
        }
    }

    fn truncate(&mut self, next: u64) {
        self.slots.split_off(&next);
        while self.tail.back().is_some_and(|(index, _)| *index >= next) {
            let Some((_, data)) = self.tail.pop_back() else { return };
            self.tail_bytes -= data.len();
        }
    }

    fn purge(&mut self, upto: EntryId) {
        if self.quarantined.is_some() || self.purged.is_some_and(|purged| purged.index > upto.index) {
            return;
        }
        self.slots = self.slots.split_off(&upto.index.saturating_add(1));
        self.purged = Some(upto);
    }

    fn distrust(&mut self, reason: String) {
        *self = Self { quarantined: Some(reason), ..Self::default() };
    }

    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index.saturating_add(1))
    }

    /// The first index that should be there and is not.
    fn gap(&self) -> Option<u64> {
        (self.first()..).zip(self.slots.keys()).find(|(expected, found)| expected != *found).map(|(gap, _)| gap)
    }

    fn finish(mut self, life: u64) -> Group {
        if let Some(gap) = self.gap() {
            self.distrust(format!("entry {gap} is missing"));
        }
        let first = self.first();
        let mut group = Group { life, stored: self.stored, ..Group::default() };
        if self.quarantined.is_some() {
            group.quarantined = self.quarantined;
            self.slots.clear();
            self.tail.clear();
        } else {
            group.purged = self.purged;
            group.first = first;
            group.vote = self.vote;
            group.committed = self.committed;
        }
        if self.tail.back().map(|(last, _)| last) != self.slots.last_key_value().map(|(last, _)| last) {
            self.tail.clear();
        }
        for slot in self.slots.values() {
            let Place::Stored { segment, .. } = slot.place else { continue };
            group.uses.add(segment, usize::try_from(slot.len).unwrap_or(usize::MAX) + ENTRY_PREFIX_BYTES);
        }
        for segment in group.stored.iter().flatten() {
            group.uses.add(*segment, MARK_WEIGHT_BYTES);
        }
        group.slots = self.slots.into_values().collect();
        group.stored_next = group.next();
        let cached = self.tail.into_iter().filter(|(index, _)| *index >= first);
        group.cache = cached.map(|(_, data)| data).collect();
        group.cache_bytes = group.cache.iter().map(Bytes::len).sum();
        group
    }
}
