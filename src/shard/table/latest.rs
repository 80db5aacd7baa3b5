//! `01 key → StoredRecord`: the last record of every key, tombstones until they are compacted.

use bytes::{BufMut, Bytes};

use super::{Bounds, Table};
use crate::proto::internal::v1::StoredRecord;
use crate::shard::Interval;
use crate::storage::engine::{EngineError, View};

pub(crate) fn key(user_key: &[u8]) -> Bytes {
    let mut key = Table::Latest.key(user_key.len());
    key.put_slice(user_key);
    key.freeze()
}

pub(crate) fn user_key(stored: &Bytes) -> Result<Bytes, EngineError> {
    Table::Latest.strip(stored)
}

pub(crate) fn decode(stored: &[u8], value: Bytes) -> Result<StoredRecord, EngineError> {
    Table::Latest.decode(stored, value)
}

pub(crate) fn within(interval: &Interval) -> Bounds {
    Bounds {
        start: key(&interval.start),
        end: interval.end.as_ref().map_or_else(|| Table::Latest.end(), |end| key(end)),
    }
}

/// The last record of `user_key`, be it a tombstone.
pub(crate) fn get(view: &dyn View, user_key: &[u8]) -> Result<Option<StoredRecord>, EngineError> {
    Table::Latest.get(view, &key(user_key))
}

/// The last record of `user_key` unless it is a tombstone.
pub(crate) fn live(view: &dyn View, user_key: &[u8]) -> Result<Option<StoredRecord>, EngineError> {
    Ok(get(view, user_key)?.filter(|record| record.version > 0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{key, user_key, within};
    use crate::shard::Interval;

    proptest! {
        #[test]
        fn keys_keep_their_order_and_come_back(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            prop_assert_eq!(user_key(&key(&a)).unwrap(), Bytes::from(a));
        }

        #[test]
        fn bounds_hold_exactly_the_interval(start: Vec<u8>, end: Option<Vec<u8>>, probe: Vec<u8>) {
            let interval = Interval { start: start.into(), end: end.map(Bytes::from) };
            let bounds = within(&interval);
            let stored = key(&probe);
            prop_assert_eq!(bounds.start <= stored && stored < bounds.end, interval.contains(&probe));
        }
    }
}
