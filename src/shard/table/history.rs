//! `02 key' revision → StoredRecord`: records that were superseded, under the revision that wrote
//! them, so that a read at an old revision is one seek.
//!
//! `key'` is the key with every 00 written as 00 FF and closed by 00 01: no key is then a prefix of
//! another, and the versions of one key lie together, in order, without those of its neighbours.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Bounds, Table};
use crate::proto::internal::v1::StoredRecord;
use crate::storage::engine::{Direction, EngineError, View};

const ESCAPE: u8 = 0x00;
const ESCAPED: u8 = 0xff;
const CLOSE: u8 = 0x01;

pub(crate) fn key(user_key: &[u8], revision: u64) -> Bytes {
    let mut key = prefix(user_key);
    key.put_u64(revision);
    key.freeze()
}

fn prefix(user_key: &[u8]) -> BytesMut {
    let mut key = Table::History.key(user_key.len() + 2 + 8);
    for &byte in user_key {
        key.put_u8(byte);
        if byte == ESCAPE {
            key.put_u8(ESCAPED);
        }
    }
    key.put_slice(&[ESCAPE, CLOSE]);
    key
}

/// The superseded record of `user_key` written at `revision`, be it a tombstone.
pub(crate) fn get(view: &dyn View, user_key: &[u8], revision: u64) -> Result<Option<StoredRecord>, EngineError> {
    Table::History.get(view, &key(user_key, revision))
}

/// The newest superseded record of `user_key` written at `revision` or before, be it a tombstone.
pub(crate) fn at(view: &dyn View, user_key: &[u8], revision: u64) -> Result<Option<StoredRecord>, EngineError> {
    let Some(after) = revision.checked_add(1) else { return Ok(None) };
    let bounds = Bounds { start: prefix(user_key).freeze(), end: key(user_key, after) };
    let newest = bounds.scan(view, Direction::Reverse).next().transpose()?;
    newest.map(|(key, value)| Table::History.decode(&key, value)).transpose()
}

/// Stored key of the newest record of `user_key` written before `revision`.
pub(crate) fn before(view: &dyn View, user_key: &[u8], revision: u64) -> Result<Option<Bytes>, EngineError> {
    let bounds = Bounds { start: prefix(user_key).freeze(), end: key(user_key, revision) };
    bounds.scan(view, Direction::Reverse).next().transpose().map(|pair| pair.map(|(key, _)| key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::key;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn order_is_that_of_key_then_revision(a in bytes(), b in bytes(), one: u64, two: u64) {
            prop_assert_eq!(key(&a, one).cmp(&key(&b, two)), (&a, one).cmp(&(&b, two)));
        }
    }

    #[test]
    fn the_layout_never_changes() {
        assert_eq!(key(b"a\0", 5).as_ref(), b"\x02a\x00\xff\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05");
    }
}
