//! One number for the whole state of a shard: replicas at the same index have the same.

use std::ops::Bound;

use xxhash_rust::xxh3::Xxh3;

use super::table::Table;
use crate::storage::engine::{Direction, EngineError, View};

/// XXH3-64 over every pair of the shard's tables, in key order; Raft's own pairs are left out.
///
/// # Errors
/// When the engine fails.
pub fn digest(view: &dyn View) -> Result<u64, EngineError> {
    let first = [Table::Latest as u8];
    let mut hash = Xxh3::new();
    for pair in view.scan((Bound::Included(&first), Bound::Unbounded), Direction::Forward) {
        let (key, value) = pair?;
        for bytes in [key, value] {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(&bytes);
        }
    }
    Ok(hash.digest())
}
