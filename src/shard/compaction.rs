//! Compaction: forgets what only revisions before `compacted` could show, in bounded steps.
//!
//! The events say what there is to forget: each change at or before the revision superseded what
//! its key was before. Reads of older revisions are refused from the first step on, so none sees a
//! half-compacted past. Events of the revision itself stay, for watches that start there.

use super::error::{ShardError, compacted_before, future, invalid};
use super::table::event::{self, Event, Kind, Position};
use super::table::meta::{self, Field};
use super::table::{history, latest};
use crate::proto::internal::v1::Compact;
use crate::storage::engine::{Direction, EngineError, View, WriteSet};

/// Events that one entry may look at. Part of the replicated format: never change it alone.
const COMPACTION_STEP_MAX: u32 = 10_000;

/// What there is of a shard's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// The present revision.
    pub present: u64,
    /// The oldest revision that can be read; 0 if nothing was compacted.
    pub compacted: u64,
    /// Whether something before that is still stored.
    pub is_unfinished: bool,
}

impl History {
    /// As `view` shows it.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn of(view: &dyn View) -> Result<Self, EngineError> {
        let compacted = meta::compacted(view)?;
        let is_unfinished = compacted > 0 && meta::cursor(view)? < end_of(compacted);
        Ok(Self { present: meta::revision(view)?, compacted, is_unfinished })
    }
}

/// Where the cursor stands when all before `revision` is forgotten.
fn end_of(revision: u64) -> Position {
    Position { revision, sub: u32::MAX }
}

/// Makes one step towards `compact.revision` and tells whether more are needed.
///
/// # Errors
/// Refused when the revision is not reached yet, or an older one than was compacted before.
pub(crate) fn compact(state: &mut WriteSet<'_>, compact: &Compact) -> Result<bool, ShardError> {
    if compact.revision == 0 || compact.step_max == 0 {
        return Err(invalid("a compaction needs a revision and a step of at least one event: set both").into());
    }
    let present = meta::revision(state)?;
    if compact.revision > present {
        return Err(future(compact.revision, present).into());
    }
    let before = meta::compacted(state)?;
    if compact.revision < before || (compact.anew && compact.revision == before) {
        return Err(compacted_before(before).into());
    }
    let mut cursor = meta::cursor(state)?;
    if compact.revision > before {
        meta::set(state, Field::Compacted, compact.revision);
        // The events of the revision compacted last were kept; now they go.
        cursor = cursor.min(Position { revision: before, sub: 0 });
    }
    let events = take(state, cursor, compact)?;
    let done = events.len() < step(compact);
    let mut next = end_of(compact.revision);
    for event in &events {
        forget_before(state, event)?;
        if event.at.revision < compact.revision {
            state.delete(event::key(event.at));
        }
        if !done {
            next = Position { revision: event.at.revision, sub: event.at.sub.saturating_add(1) };
        }
    }
    meta::set_cursor(state, next);
    Ok(!done)
}

fn step(compact: &Compact) -> usize {
    usize::try_from(compact.step_max.min(COMPACTION_STEP_MAX)).unwrap_or(usize::MAX)
}

fn take(state: &WriteSet<'_>, cursor: Position, compact: &Compact) -> Result<Vec<Event>, EngineError> {
    let pairs = event::within(cursor, compact.revision).scan(state, Direction::Forward).take(step(compact));
    pairs.map(|pair| pair.and_then(|(key, value)| event::decode(&key, &value))).collect()
}

/// Forgets what the key of `event` was before it and, if it was deleted, its tombstone.
///
/// That is one record at most: what was there before that one was forgotten with the event before. It is
/// not looked for where there is none, because the engine would walk past all that was forgotten.
fn forget_before(state: &mut WriteSet<'_>, event: &Event) -> Result<(), EngineError> {
    let revision = event.at.revision;
    // Without a last record it was deleted, and all of it is forgotten.
    let Some(last) = latest::get(state, &event.key)? else { return Ok(()) };
    let is_last = last.mod_revision == revision;
    let record = if is_last { Some(last) } else { history::get(state, &event.key, revision)? };
    // The first version of a new life follows a tombstone, which went with its own event.
    if record.is_none_or(|record| record.version != 1)
        && let Some(superseded) = history::before(state, &event.key, revision)?
    {
        state.delete(superseded);
    }
    if event.kind == Kind::Delete {
        state.delete(if is_last { latest::key(&event.key) } else { history::key(&event.key, revision) });
    }
    Ok(())
}
