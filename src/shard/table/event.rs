//! `03 revision sub → kind key`: what changed, in order, without the value. Drives compaction, and
//! watches that start in the past.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Bounds, Table};
use crate::storage::engine::EngineError;

/// What happened to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// It was written.
    Put = 1,
    /// It was deleted, or expired.
    Delete = 2,
}

/// Where in the order of changes: `(revision, sub)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position {
    pub(crate) revision: u64,
    /// Within the transaction.
    pub(crate) sub: u32,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) at: Position,
    pub(crate) kind: Kind,
    pub(crate) key: Bytes,
}

pub(crate) fn key(at: Position) -> Bytes {
    let mut key = Table::Event.key(12);
    key.put_u64(at.revision);
    key.put_u32(at.sub);
    key.freeze()
}

pub(crate) fn value(kind: Kind, user_key: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + user_key.len());
    value.put_u8(kind as u8);
    value.put_slice(user_key);
    value.freeze()
}

pub(crate) fn decode(stored: &Bytes, value: &Bytes) -> Result<Event, EngineError> {
    let (revision, rest) = Table::Event.strip_number(stored)?;
    let sub = <[u8; 4]>::try_from(rest.as_ref()).map_err(|_| Table::Event.corrupt("key length", stored))?;
    let kind = match value.first() {
        Some(1) => Kind::Put,
        Some(2) => Kind::Delete,
        _ => return Err(Table::Event.corrupt("unknown kind", stored)),
    };
    Ok(Event { at: Position { revision, sub: u32::from_be_bytes(sub) }, kind, key: value.slice(1..) })
}

/// From `start` to the end of `last`, inclusive.
pub(crate) fn within(start: Position, last: u64) -> Bounds {
    let end = last.checked_add(1).map_or_else(|| Table::Event.end(), |revision| key(Position { revision, sub: 0 }));
    Bounds { start: key(start), end }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Event, Kind, Position, decode, key, value};

    proptest! {
        #[test]
        fn order_is_that_of_positions_and_events_come_back(a: (u64, u32), b: (u64, u32), name: Vec<u8>) {
            let at = |(revision, sub)| Position { revision, sub };
            prop_assert_eq!(key(at(a)).cmp(&key(at(b))), a.cmp(&b));
            let event = Event { at: at(a), kind: Kind::Delete, key: Bytes::from(name) };
            prop_assert_eq!(decode(&key(at(a)), &value(Kind::Delete, &event.key)).unwrap(), event);
        }
    }

    #[test]
    fn garbage_is_named_corrupt() {
        let at = key(Position { revision: 1, sub: 0 });
        assert!(decode(&at, &Bytes::from_static(b"\x07k")).is_err());
        assert!(decode(&at, &Bytes::new()).is_err());
        assert!(decode(&at.slice(..9), &value(Kind::Put, b"k")).is_err());
        assert!(decode(&Bytes::from_static(b"\x01"), &value(Kind::Put, b"k")).is_err());
    }
}
