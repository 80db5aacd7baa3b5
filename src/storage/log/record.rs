//! The records inside a frame's body.
//!
//! Knows their bytes and nothing of what they mean to a group. A body is: the groups of the frame
//! before (so that damage can be pinned on them), then records back to back.

use bytes::Bytes;

use super::frame::{u32_at, u64_at};
use super::{EntryId, LogEntry};
use crate::types::GroupId;

/// Bytes before the first entry of an entries record.
pub(super) const ENTRIES_PREFIX_BYTES: usize = 1 + 8 + 8 + 4;
/// Bytes before the data of an entry.
pub(super) const ENTRY_PREFIX_BYTES: usize = 8 + 4;
/// Bytes of a record that is a mark, without the mark.
pub(super) const MARK_PREFIX_BYTES: usize = 1 + 8 + 4;
/// Bytes of the largest record without a payload: a purge mark.
pub(super) const FIXED_BYTES: usize = 1 + 8 + 8 + 8;
/// Bytes of a roster without its groups.
pub(super) const ROSTER_PREFIX_BYTES: usize = 1 + 1 + 4;

const ENTRIES: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const CREATE: u8 = 6;
const REMOVE: u8 = 7;
const QUARANTINE: u8 = 8;
const ROSTER: u8 = 9;

/// Instead of a count of groups: too many to name.
const ALL_GROUPS: u32 = u32::MAX;

/// Where an entry's data lies in its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryAt {
    pub(super) term: u64,
    pub(super) at: usize,
    pub(super) len: usize,
}

/// A decoded record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// Consecutive entries from `first`: new ones, or old ones carried forward.
    Entries { group: GroupId, first: u64, entries: Vec<EntryAt> },
    /// The group's vote.
    Vote { group: GroupId, mark: Bytes },
    /// The group's committed mark.
    Committed { group: GroupId, mark: Bytes },
    /// Entries from `next` on are gone.
    Truncate { group: GroupId, next: u64 },
    /// Entries up to `upto` are gone.
    Purge { group: GroupId, upto: EntryId },
    /// The group's life begins, empty.
    Create { group: GroupId },
    /// The group's life ends.
    Remove { group: GroupId },
    /// The group cannot be trusted until it is removed.
    Quarantine { group: GroupId, reason: Bytes },
    /// The groups alive: all of them if `complete`. `lost`: others whose names were lost may exist,
    /// and cannot be trusted.
    Roster { complete: bool, lost: bool, groups: Vec<GroupId> },
}

/// Appends the groups of the frame before; `None` when they are too many to name.
pub(super) fn put_groups(out: &mut Vec<u8>, groups: Option<&[GroupId]>) {
    match groups {
        None => out.extend_from_slice(&ALL_GROUPS.to_le_bytes()),
        Some(groups) => {
            put_len(out, groups.len());
            groups.iter().for_each(|group| put_u64(out, group.0));
        }
    }
}

/// Appends an entries record.
pub(super) fn put_entries(out: &mut Vec<u8>, group: GroupId, first: u64, entries: &[LogEntry]) {
    put_head(out, ENTRIES, group);
    put_u64(out, first);
    put_len(out, entries.len());
    for entry in entries {
        put_u64(out, entry.term);
        put_len(out, entry.data.len());
        out.extend_from_slice(&entry.data);
    }
}

/// Appends a vote.
pub(super) fn put_vote(out: &mut Vec<u8>, group: GroupId, mark: &[u8]) {
    put_mark(out, VOTE, group, mark);
}

/// Appends a committed mark.
pub(super) fn put_committed(out: &mut Vec<u8>, group: GroupId, mark: &[u8]) {
    put_mark(out, COMMITTED, group, mark);
}

/// Appends a quarantine.
pub(super) fn put_quarantine(out: &mut Vec<u8>, group: GroupId, reason: &str) {
    put_mark(out, QUARANTINE, group, reason.as_bytes());
}

/// Appends a truncation.
pub(super) fn put_truncate(out: &mut Vec<u8>, group: GroupId, next: u64) {
    put_head(out, TRUNCATE, group);
    put_u64(out, next);
}

/// Appends a purge mark.
pub(super) fn put_purge(out: &mut Vec<u8>, group: GroupId, upto: EntryId) {
    put_head(out, PURGE, group);
    put_u64(out, upto.term);
    put_u64(out, upto.index);
}

/// Appends the begin of a group's life.
pub(super) fn put_create(out: &mut Vec<u8>, group: GroupId) {
    put_head(out, CREATE, group);
}

/// Appends the end of a group's life.
pub(super) fn put_remove(out: &mut Vec<u8>, group: GroupId) {
    put_head(out, REMOVE, group);
}

/// Appends a roster.
pub(super) fn put_roster(out: &mut Vec<u8>, complete: bool, lost: bool, groups: &[GroupId]) {
    out.push(ROSTER);
    out.push(u8::from(complete) | u8::from(lost) << 1);
    put_len(out, groups.len());
    groups.iter().for_each(|group| put_u64(out, group.0));
}

fn put_mark(out: &mut Vec<u8>, kind: u8, group: GroupId, mark: &[u8]) {
    put_head(out, kind, group);
    put_len(out, mark.len());
    out.extend_from_slice(mark);
}

fn put_head(out: &mut Vec<u8>, kind: u8, group: GroupId) {
    out.push(kind);
    put_u64(out, group.0);
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    // Every length was admitted below the size of a segment.
    out.extend_from_slice(&u32::try_from(len).unwrap_or(ALL_GROUPS).to_le_bytes());
}

/// Reads a body from its begin.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the begin of `body`.
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// The groups of the frame before; the inner `None` when they were too many to name. The outer
    /// `None` when the body makes no sense.
    pub(super) fn groups(&mut self) -> Option<Option<Vec<GroupId>>> {
        if u32_at(self.body, self.at)? == ALL_GROUPS {
            self.at += 4;
            return Some(None);
        }
        Some(Some(self.group_list()?))
    }

    /// Whether all was read.
    pub(super) fn at_end(&self) -> bool {
        self.at == self.body.len()
    }

    /// The next record; `None` when the body makes no sense.
    pub(super) fn record(&mut self) -> Option<Record> {
        let kind = *self.take(1)?.first()?;
        if kind == ROSTER {
            let flags = *self.take(1)?.first()?;
            return Some(Record::Roster { complete: flags & 1 != 0, lost: flags & 2 != 0, groups: self.group_list()? });
        }
        let group = GroupId(self.u64()?);
        Some(match kind {
            ENTRIES => {
                let first = self.u64()?;
                Record::Entries { group, first, entries: self.entries()? }
            }
            VOTE => Record::Vote { group, mark: self.mark()? },
            COMMITTED => Record::Committed { group, mark: self.mark()? },
            TRUNCATE => Record::Truncate { group, next: self.u64()? },
            PURGE => Record::Purge { group, upto: EntryId { term: self.u64()?, index: self.u64()? } },
            CREATE => Record::Create { group },
            REMOVE => Record::Remove { group },
            QUARANTINE => Record::Quarantine { group, reason: self.mark()? },
            _ => return None,
        })
    }

    fn entries(&mut self) -> Option<Vec<EntryAt>> {
        let count = self.len()?;
        // A length from the disk is believed only as far as the body reaches.
        let mut entries = Vec::with_capacity(count.min(self.body.len() / ENTRY_PREFIX_BYTES));
        for _ in 0..count {
            let term = self.u64()?;
            let len = self.len()?;
            entries.push(EntryAt { term, at: self.at, len });
            self.take(len)?;
        }
        Some(entries)
    }

    fn group_list(&mut self) -> Option<Vec<GroupId>> {
        let count = self.len()?;
        let ids = self.take(count.checked_mul(8)?)?;
        Some(ids.chunks_exact(8).filter_map(|id| u64_at(id, 0)).map(GroupId).collect())
    }

    fn mark(&mut self) -> Option<Bytes> {
        let len = self.len()?;
        self.take(len).map(Bytes::copy_from_slice)
    }

    fn len(&mut self) -> Option<usize> {
        let len = u32_at(self.body, self.at)?;
        self.at += 4;
        usize::try_from(len).ok()
    }

    fn u64(&mut self) -> Option<u64> {
        let value = u64_at(self.body, self.at)?;
        self.at += 8;
        Some(value)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.body.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        let mut out = Vec::new();
        let group = GroupId(4);
        put_groups(&mut out, Some(&[GroupId(1), GroupId(4)]));
        put_roster(&mut out, true, false, &[group]);
        put_create(&mut out, group);
        let entry = |term, data: &'static [u8]| LogEntry { term, index: 0, data: Bytes::from_static(data) };
        put_entries(&mut out, group, 5, &[entry(1, b"one"), entry(2, b"")]);
        put_vote(&mut out, group, b"vote");
        put_committed(&mut out, group, b"mark");
        put_truncate(&mut out, group, 6);
        put_purge(&mut out, group, EntryId { term: 1, index: 5 });
        put_quarantine(&mut out, group, "why");
        put_remove(&mut out, group);
        out
    }

    fn read(body: &[u8]) -> Option<Vec<Record>> {
        let mut reader = Reader::new(body);
        reader.groups()?;
        let mut records = Vec::new();
        while !reader.at_end() {
            records.push(reader.record()?);
        }
        Some(records)
    }

    #[test]
    fn reads_what_it_wrote() {
        let body = body();
        let records = read(&body).unwrap();
        assert_eq!(records.len(), 9);
        let Record::Entries { first: 5, entries, .. } = &records[2] else { panic!("{records:?}") };
        assert_eq!(&body[entries[0].at..][..entries[0].len], b"one");
        assert_eq!(records[6], Record::Purge { group: GroupId(4), upto: EntryId { term: 1, index: 5 } });
        assert_eq!(records[8], Record::Remove { group: GroupId(4) });
    }

    #[test]
    fn a_cut_body_is_refused_or_shorter_but_never_a_panic() {
        let body = body();
        for cut in 0..body.len() {
            assert!(read(&body[..cut]).is_none_or(|records| records.len() < 9));
        }
        for at in 0..body.len() {
            let mut body = body.clone();
            body[at] ^= 0xff;
            read(&body);
        }
    }
}
