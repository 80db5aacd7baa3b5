//! The pairs of one store, each key with the versions that some view may still see.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::super::{Direction, KeyRange};

/// Counts batches.
pub(super) type SeqNo = u64;

/// Invariant: a slot's `older` versions ascend and are older than its own.
#[derive(Clone, Default)]
pub(super) struct Pairs {
    slots: BTreeMap<Bytes, Slot>,
    /// Keys and values of the newest versions.
    bytes: u64,
}

#[derive(Clone)]
struct Slot {
    seqno: SeqNo,
    /// `None` is a tombstone.
    value: Option<Bytes>,
    older: Vec<(SeqNo, Option<Bytes>)>,
}

/// What a write did.
pub(super) struct Set {
    /// The value before.
    pub(super) before: Option<Bytes>,
    /// Whether something stays that [`Pairs::collect`] must drop later.
    pub(super) leaves_garbage: bool,
}

impl Slot {
    fn at(&self, seqno: SeqNo) -> Option<&Bytes> {
        if self.seqno <= seqno {
            return self.value.as_ref();
        }
        self.older.iter().rev().find(|(written, _)| *written <= seqno)?.1.as_ref()
    }
}

impl Pairs {
    /// Writes a version. `newest_view` is the highest sequence number that anybody looks at.
    pub(super) fn set(&mut self, key: Bytes, value: Option<Bytes>, seqno: SeqNo, newest_view: Option<SeqNo>) -> Set {
        let pair_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
        let Some(slot) = self.slots.get_mut(&key) else {
            if value.is_some() {
                self.bytes += pair_bytes(&value);
                self.slots.insert(key, Slot { seqno, value, older: Vec::new() });
            }
            return Set { before: None, leaves_garbage: false };
        };
        self.bytes = self.bytes + pair_bytes(&value) - pair_bytes(&slot.value);
        let before = slot.value.clone();
        if newest_view.is_some_and(|view| view >= slot.seqno) {
            slot.older.push((slot.seqno, slot.value.take()));
        }
        slot.seqno = seqno;
        slot.value = value;
        let has_older = !slot.older.is_empty();
        if slot.value.is_none() && !has_older {
            self.slots.remove(&key);
        }
        Set { before, leaves_garbage: has_older }
    }

    /// The value of `key` as of `seqno`.
    pub(super) fn get(&self, key: &[u8], seqno: SeqNo) -> Option<Bytes> {
        self.slots.get(key)?.at(seqno).cloned()
    }

    /// Up to `limit` pairs of a range that is not empty, as of `seqno`, and the last key that was
    /// looked at if there may be more.
    pub(super) fn page(
        &self,
        range: KeyRange<'_>,
        direction: Direction,
        seqno: SeqNo,
        limit: usize,
    ) -> (Vec<(Bytes, Bytes)>, Option<Bytes>) {
        let mut slots = self.slots.range::<[u8], (Bound<&[u8]>, Bound<&[u8]>)>(range);
        let mut pairs = Vec::with_capacity(limit);
        loop {
            let slot = match direction {
                Direction::Forward => slots.next(),
                Direction::Reverse => slots.next_back(),
            };
            let Some((key, slot)) = slot else { return (pairs, None) };
            if let Some(value) = slot.at(seqno) {
                pairs.push((key.clone(), value.clone()));
                if pairs.len() >= limit {
                    return (pairs, Some(key.clone()));
                }
            }
        }
    }

    /// Drops what views at `oldest` and later cannot see of `key`.
    pub(super) fn collect(&mut self, key: &[u8], oldest: SeqNo) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        // A version is out of sight once its successor is visible to the oldest view.
        if slot.seqno <= oldest {
            slot.older.clear();
            if slot.value.is_none() {
                self.slots.remove(key);
            }
            return;
        }
        let visible = slot.older.iter().rposition(|(seqno, _)| *seqno <= oldest).unwrap_or(0);
        slot.older.drain(..visible);
    }

    /// Keeps the newest versions alone.
    pub(super) fn forget_history(&mut self) {
        self.slots.retain(|_, slot| {
            slot.older = Vec::new();
            slot.value.is_some()
        });
    }

    /// Keys and values, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn versions(&self) -> usize {
        self.slots.values().map(|slot| 1 + slot.older.len()).sum()
    }
}
