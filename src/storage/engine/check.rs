//! What every engine checks before it touches its data, so that all of them refuse the same things.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use super::{Batch, EngineError, KeyRange, Write};
use crate::env::disk::Disk;

/// Longest key of a store, in bytes: what fjall can hold.
pub const STORE_KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value of a store, in bytes: with its key it still fits a snapshot chunk.
pub const STORE_VALUE_BYTES_MAX: usize = 7 * 1024 * 1024;

/// Whether no key can lie in `range`. `BTreeMap::range` panics on such bounds.
pub(super) fn is_empty((start, end): KeyRange<'_>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
    }
}

/// The batch's writes, each key of a store once, with the last write to it.
pub(super) fn distinct(batch: Batch) -> Result<Vec<Write>, EngineError> {
    for (_, key, value) in &batch.writes {
        check_pair(key.len(), value.as_ref().map_or(0, Bytes::len)).map_err(refused)?;
    }
    let ascending = batch.writes.is_sorted_by(|left, right| (left.0, &left.1) < (right.0, &right.1));
    if ascending {
        return Ok(batch.writes);
    }
    let last: BTreeMap<_, _> = batch.writes.into_iter().map(|(store, key, value)| ((store, key), value)).collect();
    Ok(last.into_iter().map(|((store, key), value)| (store, key, value)).collect())
}

/// Why a pair of these lengths cannot be stored.
pub(super) fn check_pair(key: usize, value: usize) -> Result<(), &'static str> {
    if key == 0 {
        Err("the key is empty")
    } else if key > STORE_KEY_BYTES_MAX {
        Err("the key is longer than STORE_KEY_BYTES_MAX")
    } else if value > STORE_VALUE_BYTES_MAX {
        Err("the value is longer than STORE_VALUE_BYTES_MAX")
    } else {
        Ok(())
    }
}

/// Directories of the engines on disk, each below that of the engine: a node keeps to the one it has.
const ENGINE_DIRS: [&str; 2] = ["fjall", "sled"];

/// Refuses a directory that another engine than `own` has filled.
pub(super) fn only_engine(disk: &dyn Disk, dir: &Path, own: &str) -> Result<(), EngineError> {
    let paths = disk.list(dir)?;
    match ENGINE_DIRS.into_iter().find(|name| *name != own && paths.contains(&dir.join(name))) {
        Some(other) => Err(refused(&format!(
            "{} holds the state of the engine {other}: start with --engine {other}, or give the node an empty data \
             directory and bring it back with `kvd --join HOST:PORT --replace NAME`",
            dir.display()
        ))),
        None => Ok(()),
    }
}

/// A call that no engine can carry out, and that changed nothing.
pub(super) fn refused(reason: &str) -> EngineError {
    EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, reason.to_owned()))
}
