//! What part of a keyspace a shard holds.

use std::fmt;

use bytes::Bytes;

use super::hash::slot;

/// A part of a keyspace: of its key order, or of its hash space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Span {
    /// Keys in `[start, end)`; no `end` means no upper bound.
    Keys {
        /// First key.
        start: Bytes,
        /// Key after the last.
        end: Option<Bytes>,
    },
    /// Keys whose slot lies in `[first, last]`.
    Slots {
        /// First slot.
        first: u64,
        /// Last slot.
        last: u64,
    },
}

impl Span {
    /// The whole key order.
    pub fn all() -> Self {
        Self::Keys { start: Bytes::new(), end: None }
    }

    /// Whether `key` belongs to this span.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Keys { start, end } => start.as_ref() <= key && end.as_ref().is_none_or(|end| key < end.as_ref()),
            Self::Slots { first, last } => (*first..=*last).contains(&slot(key)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { start, end: Some(end) } => write!(f, "[{}, {})", start.escape_ascii(), end.escape_ascii()),
            Self::Keys { start, end: None } => write!(f, "[{}, ∞)", start.escape_ascii()),
            Self::Slots { first, last } => write!(f, "slots {first:016x}..={last:016x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Span, slot};

    #[test]
    fn bounds_are_half_open_for_keys_and_closed_for_slots() {
        let keys = Span::Keys { start: Bytes::from_static(b"b"), end: Some(Bytes::from_static(b"d")) };
        assert!(!keys.contains(b"a") && keys.contains(b"b") && keys.contains(b"czz") && !keys.contains(b"d"));
        let at = slot(b"x");
        assert!(Span::Slots { first: at, last: at }.contains(b"x"));
        assert!(!Span::Slots { first: at.wrapping_add(1), last: u64::MAX }.contains(b"x") || at == u64::MAX);
        assert!(Span::all().contains(b""));
    }
}
