//! `09 field → number`: the counters of the shard.

use bytes::{BufMut, Bytes, BytesMut};

use super::Table;
use super::event::Position;
use crate::storage::engine::{EngineError, View, WriteSet};

/// A counter. For ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Field {
    /// Mutating transactions so far; absent means [`FIRST_REVISION`].
    Revision = 1,
    /// The next lease's id; absent means 1.
    NextLease = 2,
    /// The next session's id; absent means 1.
    NextSession = 3,
    /// Sessions that are open; absent means 0.
    Sessions = 4,
    /// The oldest revision that can be read; absent means that nothing was compacted.
    Compacted = 5,
    /// The next event that compaction looks at: revision, then four bytes of `sub`.
    CompactionCursor = 6,
    /// The epoch below which nothing is served; absent means 0.
    Fenced = 7,
}

/// The revision of an empty shard, as etcd's.
pub(crate) const FIRST_REVISION: u64 = 1;

fn key(field: Field) -> Bytes {
    let mut key = Table::Meta.key(1);
    key.put_u8(field as u8);
    key.freeze()
}

fn number(view: &dyn View, field: Field, absent: u64) -> Result<u64, EngineError> {
    let key = key(field);
    let Some(value) = view.get(&key)? else { return Ok(absent) };
    let value = <[u8; 8]>::try_from(value.as_ref()).map_err(|_| Table::Meta.corrupt("value length", &key))?;
    Ok(u64::from_be_bytes(value))
}

pub(crate) fn revision(view: &dyn View) -> Result<u64, EngineError> {
    number(view, Field::Revision, FIRST_REVISION)
}

pub(crate) fn compacted(view: &dyn View) -> Result<u64, EngineError> {
    number(view, Field::Compacted, 0)
}

pub(crate) fn fenced(view: &dyn View) -> Result<u64, EngineError> {
    number(view, Field::Fenced, 0)
}

pub(crate) fn sessions(view: &dyn View) -> Result<u64, EngineError> {
    number(view, Field::Sessions, 0)
}

pub(crate) fn set(state: &mut WriteSet<'_>, field: Field, value: u64) {
    state.put(key(field), Bytes::copy_from_slice(&value.to_be_bytes()));
}

/// The next id of the counter `field`, which is then used up.
pub(crate) fn draw(state: &mut WriteSet<'_>, field: Field) -> Result<u64, EngineError> {
    let id = number(state, field, 1)?;
    set(state, field, id.saturating_add(1));
    Ok(id)
}

pub(crate) fn cursor(view: &dyn View) -> Result<Position, EngineError> {
    let key = key(Field::CompactionCursor);
    let Some(value) = view.get(&key)? else { return Ok(Position { revision: 0, sub: 0 }) };
    match (value.first_chunk::<8>(), value.last_chunk::<4>()) {
        (Some(revision), Some(sub)) if value.len() == 12 => {
            Ok(Position { revision: u64::from_be_bytes(*revision), sub: u32::from_be_bytes(*sub) })
        }
        _ => Err(Table::Meta.corrupt("value length", &key)),
    }
}

pub(crate) fn set_cursor(state: &mut WriteSet<'_>, at: Position) {
    let mut value = BytesMut::with_capacity(12);
    value.put_u64(at.revision);
    value.put_u32(at.sub);
    state.put(key(Field::CompactionCursor), value.freeze());
}
