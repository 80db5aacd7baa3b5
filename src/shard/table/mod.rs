//! What a shard keeps in its store: one file a table, each with its key and value layout.
//!
//! The first byte of a key names its table; numbers are big-endian, so that keys sort as numbers.
//! `docs/format.md` draws the layouts. Byte 0x00 is Raft's.

pub(crate) mod block;
pub(crate) mod event;
pub(crate) mod history;
pub(crate) mod latest;
pub(crate) mod lease;
pub(crate) mod lease_key;
pub(crate) mod meta;
pub(crate) mod session;
pub(crate) mod session_result;

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::storage::engine::{Direction, EngineError, PairResult, View};

/// First byte of a key: its table. For ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Table {
    /// Key → its last record, tombstones included.
    Latest = 0x01,
    /// Key, revision → a record that was superseded.
    History = 0x02,
    /// Revision, position → what changed.
    Event = 0x03,
    /// Lease → its terms.
    Lease = 0x04,
    /// Lease, key → nothing: the keys attached to it.
    LeaseKey = 0x05,
    /// Session → its terms and window.
    Session = 0x06,
    /// Session, sequence → the answer given.
    SessionResult = 0x07,
    /// First key of a block → its live keys.
    Block = 0x08,
    /// Counters.
    Meta = 0x09,
}

impl Table {
    /// A key of this table with room for `capacity` more bytes.
    fn key(self, capacity: usize) -> BytesMut {
        let mut key = BytesMut::with_capacity(1 + capacity);
        key.put_u8(self as u8);
        key
    }

    /// The key behind the last of this table.
    fn end(self) -> Bytes {
        Bytes::copy_from_slice(&[self as u8 + 1])
    }

    /// The key of a row that one number names.
    fn numbered(self, id: u64) -> Bytes {
        let mut key = self.key(8);
        key.put_u64(id);
        key.freeze()
    }

    /// What follows the table's byte in `key`.
    fn strip(self, key: &Bytes) -> Result<Bytes, EngineError> {
        match key.first() {
            Some(&first) if first == self as u8 => Ok(key.slice(1..)),
            _ => Err(self.corrupt("key of another table", key)),
        }
    }

    /// The number after the table's byte, and what follows it.
    fn strip_number(self, key: &Bytes) -> Result<(u64, Bytes), EngineError> {
        let rest = self.strip(key)?;
        match rest.first_chunk::<8>() {
            Some(number) => Ok((u64::from_be_bytes(*number), rest.slice(8..))),
            None => Err(self.corrupt("short key", key)),
        }
    }

    /// Decodes a value of this table.
    fn decode<M: Message + Default>(self, key: &[u8], value: Bytes) -> Result<M, EngineError> {
        M::decode(value).map_err(|error| self.corrupt(&error.to_string(), key))
    }

    /// The row under `key`.
    fn get<M: Message + Default>(self, view: &dyn View, key: &[u8]) -> Result<Option<M>, EngineError> {
        view.get(key)?.map(|value| self.decode(key, value)).transpose()
    }

    fn corrupt(self, what: &str, key: &[u8]) -> EngineError {
        EngineError::Corrupt(format!("table {self:?}, key {}: {what}", key.escape_ascii()))
    }
}

/// Stored keys in `[start, end)`.
pub(crate) struct Bounds {
    start: Bytes,
    end: Bytes,
}

impl Bounds {
    fn whole(table: Table) -> Self {
        Self { start: table.key(0).freeze(), end: table.end() }
    }

    /// The pairs within, in the order of `direction`. Engines never see inverted bounds.
    pub(crate) fn scan<'v>(
        &self,
        view: &'v dyn View,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = PairResult> + 'v> {
        if self.start >= self.end {
            return Box::new(std::iter::empty());
        }
        view.scan((Bound::Included(&self.start), Bound::Excluded(&self.end)), direction)
    }
}

/// An encoded row.
pub(crate) fn encode<M: Message>(row: &M) -> Bytes {
    row.encode_to_vec().into()
}
