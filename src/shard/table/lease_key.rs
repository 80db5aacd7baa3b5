//! `05 lease key → (empty)`: the keys attached to a lease.

use bytes::{BufMut, Bytes};

use super::{Bounds, Table};
use crate::storage::engine::{Direction, EngineError, View};

pub(crate) fn key(lease: u64, user_key: &[u8]) -> Bytes {
    let mut key = Table::LeaseKey.key(8 + user_key.len());
    key.put_u64(lease);
    key.put_slice(user_key);
    key.freeze()
}

/// The keys attached to `lease`, in order.
pub(crate) fn attached(view: &dyn View, lease: u64) -> impl Iterator<Item = Result<Bytes, EngineError>> + '_ {
    let end = lease.checked_add(1).map_or_else(|| Table::LeaseKey.end(), |next| key(next, &[]));
    let pairs = Bounds { start: key(lease, &[]), end }.scan(view, Direction::Forward);
    pairs.map(|pair| Ok(Table::LeaseKey.strip_number(&pair?.0)?.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::key;

    proptest! {
        #[test]
        fn order_is_that_of_lease_then_key(a: (u64, Vec<u8>), b: (u64, Vec<u8>)) {
            prop_assert_eq!(key(a.0, &a.1).cmp(&key(b.0, &b.1)), a.cmp(&b));
        }
    }
}
