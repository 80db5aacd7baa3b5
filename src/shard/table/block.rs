//! `08 first key → live keys, end key`: how many live keys lie in each block of the key order.
//!
//! The value carries the block's end (empty: no upper bound), so that one point read proves which
//! keys a block holds.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Bounds, Table};
use crate::shard::Interval;
use crate::storage::engine::{Direction, EngineError, View};

/// A stretch of the key order and the number of live keys in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) interval: Interval,
    pub(crate) keys: u64,
}

pub(crate) fn key(start: &[u8]) -> Bytes {
    let mut key = Table::Block.key(start.len());
    key.put_slice(start);
    key.freeze()
}

pub(crate) fn value(block: &Block) -> Bytes {
    let end = block.interval.end.as_deref().unwrap_or_default();
    let mut value = BytesMut::with_capacity(8 + end.len());
    value.put_u64(block.keys);
    value.put_slice(end);
    value.freeze()
}

fn decode(stored: &Bytes, value: &Bytes) -> Result<Block, EngineError> {
    let start = Table::Block.strip(stored)?;
    let Some(keys) = value.first_chunk::<8>() else { return Err(Table::Block.corrupt("short value", stored)) };
    let interval = Interval::of_scan(&start, &value.slice(8..));
    Ok(Block { interval, keys: u64::from_be_bytes(*keys) })
}

/// The block that starts at `start`.
pub(crate) fn get(view: &dyn View, start: &[u8]) -> Result<Option<Block>, EngineError> {
    let stored = key(start);
    view.get(&stored)?.map(|value| decode(&stored, &value)).transpose()
}

/// The last block that starts before `end`.
pub(crate) fn last_before(view: &dyn View, end: &[u8]) -> Result<Option<Block>, EngineError> {
    let bounds = Bounds { start: key(&[]), end: key(end) };
    let last = bounds.scan(view, Direction::Reverse).next().transpose()?;
    last.map(|(key, value)| decode(&key, &value)).transpose()
}

/// The blocks that start within `interval`, ascending.
pub(crate) fn starting_in<'v>(
    view: &'v dyn View,
    interval: &Interval,
) -> impl Iterator<Item = Result<Block, EngineError>> + 'v {
    let end = interval.end.as_ref().map_or_else(|| Table::Block.end(), |end| key(end));
    let pairs = Bounds { start: key(&interval.start), end }.scan(view, Direction::Forward);
    pairs.map(|pair| pair.and_then(|(key, value)| decode(&key, &value)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Block, decode, key, value};
    use crate::shard::Interval;

    proptest! {
        #[test]
        fn blocks_keep_order_and_come_back(a: Vec<u8>, b: Vec<u8>, keys: u64) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            let end = (!b.is_empty()).then(|| Bytes::from(b));
            let block = Block { interval: Interval { start: a.into(), end }, keys };
            prop_assert_eq!(decode(&key(&block.interval.start), &value(&block)).unwrap(), block);
        }
    }
}
