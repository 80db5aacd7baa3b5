//! Calls into sled: one tree, read with its checksums proved, and what sled's failures mean.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::super::{Direction, EngineError, KeyRange, StoreId};
use super::record::{self, EngineState, STATE_KEY};

/// Pairs that a scan takes from a tree at once,
pub(super) const PAGE_PAIRS: usize = 64;
/// and the bytes after which it takes no more.
const PAGE_BYTES: usize = 1 << 20;

/// One of sled's trees.
pub(super) struct Tree {
    /// Of the store, or [`record::INDEX`].
    pub(super) id: StoreId,
    pub(super) inner: sled::Tree,
}

/// Pairs of a tree as they are now, and whether there are no more of them in the range.
pub(super) struct Page {
    pub(super) pairs: VecDeque<(Bytes, Bytes)>,
    pub(super) complete: bool,
}

/// What all of a tree adds up to.
pub(super) struct Totals {
    /// Sum of the checksums of its pairs.
    pub(super) digest: u64,
    /// The newest state that was written into it, if any.
    pub(super) state: Option<EngineState>,
}

impl Tree {
    /// The checksum and the value under a key of sled's.
    pub(super) fn get(&self, stored_key: &[u8]) -> Result<Option<(u64, Bytes)>, EngineError> {
        let Some(found) = guarded(|| self.inner.get(stored_key))? else { return Ok(None) };
        let (checksum, value) = record::decode(self.id, stored_key, &found)?;
        Ok(Some((checksum, Bytes::copy_from_slice(value))))
    }

    /// The first pairs of a range that is not empty.
    pub(super) fn page(&self, range: KeyRange<'_>, direction: Direction) -> Result<Page, EngineError> {
        guarded(|| {
            let mut found = self.inner.range(record::pair_range(range));
            let (mut pairs, mut bytes) = (VecDeque::new(), 0);
            while pairs.len() < PAGE_PAIRS && bytes < PAGE_BYTES {
                let next = match direction {
                    Direction::Forward => found.next(),
                    Direction::Reverse => found.next_back(),
                };
                let Some(pair) = next else { return Ok(Ok(Page { pairs, complete: true })) };
                let (stored_key, found) = pair?;
                match record::decode_pair(self.id, &stored_key, &found) {
                    Ok(pair) => {
                        bytes += pair.0.len() + pair.1.len();
                        pairs.push_back(pair);
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(Page { pairs, complete: false }))
        })?
    }

    /// Reads all of the tree and proves every record.
    pub(super) fn totals(&self, mut each: impl FnMut(&[u8])) -> Result<Totals, EngineError> {
        let mut totals = Totals { digest: 0, state: None };
        guarded(|| {
            for pair in &self.inner {
                let (stored_key, found) = pair?;
                let proved = if *stored_key == STATE_KEY {
                    EngineState::decode(self.id, &found).map(|state| totals.state = Some(state))
                } else {
                    let pair = record::decode(self.id, &stored_key, &found);
                    pair.map(|(checksum, _)| totals.digest = totals.digest.wrapping_add(checksum))
                };
                if let Err(error) = proved {
                    return Ok(Err(error));
                }
                each(record::key_of(&stored_key).unwrap_or_default());
            }
            Ok(Ok(()))
        })??;
        Ok(totals)
    }
}

/// Calls sled, which may panic on damage that it meets.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(translate),
        Err(panic) => {
            let message = panic.downcast::<String>().map_or_else(
                |panic| panic.downcast::<&str>().map_or_else(|_| "unknown".to_owned(), |text| (*text).to_owned()),
                |text| *text,
            );
            Err(EngineError::Corrupt(format!("sled has panicked: {message}")))
        }
    }
}

/// What an error of sled means to us.
#[allow(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is non-exhaustive; the rest is the device's")]
pub(super) fn translate(error: sled::Error) -> EngineError {
    match error {
        // A file that ends early, is missing, or holds what cannot be, is damage and no failure of the device.
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                EngineError::Corrupt(format!("sled: {error}"))
            }
            _ => EngineError::Io(error),
        },
        sled::Error::Corruption { .. } => EngineError::Corrupt(format!("sled: {error}")),
        // We ask for nothing that it does not support: these come of what it read.
        sled::Error::CollectionNotFound(_) | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            EngineError::Corrupt(format!("sled: {error}"))
        }
    }
}
