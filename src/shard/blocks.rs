//! Counts of live keys per block of the key order, kept in the same batch as the keys.
//!
//! Invariants: blocks tile the whole key order, or there is none because no key is alive; a block
//! holds 1 to [`BLOCK_KEYS_MAX`] live keys. Where blocks split and merge depends on the state alone,
//! so every replica has the same blocks.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;

use super::Interval;
use super::table::block::{self, Block};
use super::visible::{self, At};
use crate::storage::engine::{Direction, EngineError, View, WriteSet};
use crate::types::key::successor;

/// Live keys of a block before it is split. Part of the replicated format: never change it alone.
pub(crate) const BLOCK_KEYS_MAX: u64 = 512;
/// A block merges with a neighbour when both together hold no more than this.
const MERGED_KEYS_MAX: u64 = BLOCK_KEYS_MAX / 2;
/// A block looks for a neighbour when it shrinks to this, and at every halving from there.
const MERGE_LOOK_KEYS: u64 = BLOCK_KEYS_MAX / 4;

/// Blocks that [`BlockHints`] remembers.
const HINTS_MAX: usize = 8_192;

/// Where blocks began when last seen: a guess that saves a seek and is proven by a point read, so it
/// never shows in the state.
#[derive(Default)]
pub(crate) struct BlockHints(BTreeSet<Bytes>);

impl BlockHints {
    /// The block that holds `key`.
    fn holding(&mut self, view: &dyn View, key: &[u8]) -> Result<Option<Block>, EngineError> {
        let guess = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back().cloned();
        if let Some(start) = guess {
            match block::get(view, &start)? {
                Some(block) if block.interval.contains(key) => return Ok(Some(block)),
                Some(_) => {}
                None => drop(self.0.remove(&start)),
            }
        }
        let found = holding(view, key)?;
        if let Some(block) = &found {
            if self.0.len() >= HINTS_MAX {
                self.0.clear();
            }
            // A copy: the engine's buffer may be much larger than the key.
            self.0.insert(Bytes::copy_from_slice(&block.interval.start));
        }
        Ok(found)
    }
}

/// Counts `key`, which has just come alive; its record is written already.
pub(crate) fn add(state: &mut WriteSet<'_>, hints: &mut BlockHints, key: &[u8]) -> Result<(), EngineError> {
    let Some(mut block) = hints.holding(state, key)? else {
        store(state, &Block { interval: Interval::all(), keys: 1 });
        return Ok(());
    };
    block.keys += 1;
    if block.keys > BLOCK_KEYS_MAX {
        return split(state, block);
    }
    store(state, &block);
    Ok(())
}

/// No longer counts `key`, which has just been deleted.
pub(crate) fn remove(state: &mut WriteSet<'_>, hints: &mut BlockHints, key: &[u8]) -> Result<(), EngineError> {
    let Some(mut block) = hints.holding(state, key)? else {
        return Err(EngineError::Corrupt(format!("live key {} lies in no block", key.escape_ascii())));
    };
    let Some(keys) = block.keys.checked_sub(1) else {
        return Err(EngineError::Corrupt(format!("live key {} lies in an empty block", key.escape_ascii())));
    };
    block.keys = keys;
    if keys == 0 || (keys <= MERGE_LOOK_KEYS && keys.is_power_of_two()) {
        return merge(state, block);
    }
    store(state, &block);
    Ok(())
}

/// Live keys of `interval` at present: whole blocks are summed, the blocks at its bounds walked.
pub(crate) fn count(view: &dyn View, interval: &Interval) -> Result<u64, EngineError> {
    if interval.is_empty() {
        return Ok(0);
    }
    let Some(first) = holding(view, &interval.start)? else { return Ok(0) };
    let mut keys = count_in(view, interval, &first)?;
    let rest = Interval { start: successor(&interval.start), end: interval.end.clone() };
    for block in block::starting_in(view, &rest) {
        keys += count_in(view, interval, &block?)?;
    }
    Ok(keys)
}

fn count_in(view: &dyn View, interval: &Interval, block: &Block) -> Result<u64, EngineError> {
    if interval.covers(&block.interval) {
        Ok(block.keys)
    } else {
        walk(view, &interval.intersect(&block.interval), At::Present)
    }
}

/// Live keys of `interval` at that time, one by one.
pub(crate) fn walk(view: &dyn View, interval: &Interval, at: At) -> Result<u64, EngineError> {
    visible::records(view, interval, at, Direction::Forward).try_fold(0, |keys, shown| shown.map(|_| keys + 1))
}

fn holding(view: &dyn View, key: &[u8]) -> Result<Option<Block>, EngineError> {
    block::last_before(view, &successor(key))
}

fn store(state: &mut WriteSet<'_>, block: &Block) {
    state.put(block::key(&block.interval.start), block::value(block));
}

/// Cuts `block` in the middle of its live keys.
fn split(state: &mut WriteSet<'_>, block: Block) -> Result<(), EngineError> {
    let left = block.keys / 2;
    let middle = usize::try_from(left).unwrap_or(usize::MAX);
    let boundary =
        visible::records(&*state, &block.interval, At::Present, Direction::Forward).nth(middle).transpose()?;
    let Some((boundary, _)) = boundary else {
        let Block { interval, keys } = block;
        return Err(EngineError::Corrupt(format!("block {interval:?} counts {keys} live keys and has fewer")));
    };
    let Interval { start, end } = block.interval;
    store(state, &Block { interval: Interval { start, end: Some(boundary.clone()) }, keys: left });
    store(state, &Block { interval: Interval { start: boundary, end }, keys: block.keys - left });
    Ok(())
}

/// Joins `block`, which shrank, with the block before or after it if they are small together; an
/// empty one joins in any case.
fn merge(state: &mut WriteSet<'_>, block: Block) -> Result<(), EngineError> {
    let fits = |neighbour: &Block| block.keys == 0 || neighbour.keys + block.keys <= MERGED_KEYS_MAX;
    let before = block::last_before(&*state, &block.interval.start)?;
    let after = match &block.interval.end {
        Some(end) => block::get(&*state, end)?,
        None => None,
    };
    if let Some(before) = before.as_ref().filter(|before| fits(before)) {
        join(state, before, &block);
    } else if let Some(after) = after.as_ref().filter(|after| fits(after)) {
        join(state, &block, after);
    } else if block.keys == 0 {
        state.delete(block::key(&block.interval.start));
    } else {
        store(state, &block);
    }
    Ok(())
}

fn join(state: &mut WriteSet<'_>, left: &Block, right: &Block) {
    let interval = Interval { start: left.interval.start.clone(), end: right.interval.end.clone() };
    store(state, &Block { interval, keys: left.keys + right.keys });
    state.delete(block::key(&right.interval.start));
}
