//! `07 session sequence → CommandResult`: what a stamped write was answered, so that a retry is
//! answered the same.

use bytes::{BufMut, Bytes};

use super::{Bounds, Table};
use crate::storage::engine::{Direction, EngineError, View};

pub(crate) fn key(session: u64, sequence: u64) -> Bytes {
    let mut key = Table::SessionResult.key(16);
    key.put_u64(session);
    key.put_u64(sequence);
    key.freeze()
}

/// Stored keys of every result of `session`.
pub(crate) fn of_session(view: &dyn View, session: u64) -> Result<Vec<Bytes>, EngineError> {
    let end = session.checked_add(1).map_or_else(|| Table::SessionResult.end(), |next| key(next, 0));
    let bounds = Bounds { start: key(session, 0), end };
    bounds.scan(view, Direction::Forward).map(|pair| pair.map(|(key, _)| key)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::key;

    proptest! {
        #[test]
        fn order_is_that_of_session_then_sequence(a: (u64, u64), b: (u64, u64)) {
            prop_assert_eq!(key(a.0, a.1).cmp(&key(b.0, b.1)), a.cmp(&b));
        }
    }
}
