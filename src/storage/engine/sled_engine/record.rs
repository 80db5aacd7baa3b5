//! What a tree of sled holds: pairs under their checksums, and the state of the engine.
//!
//! Knows bytes, and does not call sled. The layout is in `docs/format.md`.

use std::ops::Bound;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::{EngineError, KeyRange, StoreId};

/// The only key without a tag for pairs: the tree's [`EngineState`].
pub(super) const STATE_KEY: [u8; 1] = [0];
/// Before the key of each pair.
const PAIR_TAG: u8 = 1;
/// Above the keys of all pairs.
const PAIRS_END: [u8; 1] = [2];
/// Before each value.
const CHECKSUM_BYTES: usize = 8;

/// Stands for a tree in checksums: its store's id, or this for the index of stores.
pub(super) const INDEX: StoreId = StoreId(u64::MAX);

/// The engine as of one batch. Each batch writes it into one tree that it changes; the highest
/// `seqno` of all trees holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct EngineState {
    /// Counts batches.
    pub(super) seqno: u64,
    /// Sum of the checksums of all pairs of all trees, so that nothing can be lost, come back or
    /// change without a trace.
    pub(super) digest: u64,
}

impl EngineState {
    const BYTES: usize = 16;

    /// As a record of `tree`.
    pub(super) fn encode(self, tree: StoreId) -> Vec<u8> {
        let value = [self.seqno.to_le_bytes(), self.digest.to_le_bytes()].concat();
        encode(tree, &STATE_KEY, &value).0
    }

    /// From a record of `tree`.
    pub(super) fn decode(tree: StoreId, record: &[u8]) -> Result<Self, EngineError> {
        let (_, value) = decode(tree, &STATE_KEY, record)?;
        let (seqno, digest) = match value.split_first_chunk::<8>() {
            Some((seqno, digest)) if value.len() == Self::BYTES => (seqno, digest.try_into().unwrap_or_default()),
            _ => return Err(damaged(tree, &STATE_KEY)),
        };
        Ok(Self { seqno: u64::from_le_bytes(*seqno), digest: u64::from_le_bytes(digest) })
    }
}

/// Where a pair lies within its tree.
pub(super) fn pair_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(PAIR_TAG);
    stored.extend_from_slice(key);
    stored
}

/// The pairs' keys within their tree.
pub(super) fn pair_range((start, end): KeyRange<'_>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = match start {
        Bound::Unbounded => Bound::Included(vec![PAIR_TAG]),
        Bound::Included(_) | Bound::Excluded(_) => start.map(pair_key),
    };
    let end = match end {
        Bound::Unbounded => Bound::Excluded(PAIRS_END.to_vec()),
        Bound::Included(_) | Bound::Excluded(_) => end.map(pair_key),
    };
    (start, end)
}

/// The pair's own key.
pub(super) fn key_of(stored: &[u8]) -> Option<&[u8]> {
    stored.strip_prefix(&[PAIR_TAG])
}

/// The record of a value, and its checksum.
pub(super) fn encode(tree: StoreId, stored_key: &[u8], value: &[u8]) -> (Vec<u8>, u64) {
    let checksum = checksum(tree, stored_key, value);
    let mut record = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    record.extend_from_slice(&checksum.to_le_bytes());
    record.extend_from_slice(value);
    (record, checksum)
}

/// The checksum and the value of a record that was written under this key of this tree.
pub(super) fn decode<'r>(tree: StoreId, stored_key: &[u8], record: &'r [u8]) -> Result<(u64, &'r [u8]), EngineError> {
    let (stored, value) = record.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged(tree, stored_key))?;
    let stored = u64::from_le_bytes(*stored);
    if stored != checksum(tree, stored_key, value) {
        return Err(damaged(tree, stored_key));
    }
    Ok((stored, value))
}

/// A pair with its own key.
pub(super) fn decode_pair(tree: StoreId, stored_key: &[u8], record: &[u8]) -> Result<(Bytes, Bytes), EngineError> {
    let key = key_of(stored_key).ok_or_else(|| damaged(tree, stored_key))?;
    let (_, value) = decode(tree, stored_key, record)?;
    Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
}

/// The hash of tree and key seeds that of the value, so that no two of the three can be mixed up.
fn checksum(tree: StoreId, stored_key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(stored_key, tree.0))
}

fn damaged(tree: StoreId, stored_key: &[u8]) -> EngineError {
    let tree = if tree == INDEX { "the index of stores".to_owned() } else { format!("store {}", tree.0) };
    EngineError::Corrupt(format!("{tree}: sled's key {} fails its checksum", stored_key.escape_ascii()))
}
