//! A half-open interval of user keys.

use bytes::Bytes;

use crate::types::key::{UNBOUNDED, successor};

/// Keys in `[start, end)`; no `end` means no upper bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interval {
    /// First key; empty starts at the first key there is.
    pub start: Bytes,
    /// Key after the last.
    pub end: Option<Bytes>,
}

impl Interval {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// As operations name it: no `range_end` means `key` alone, a single zero byte no upper bound.
    pub fn of_operation(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => Some(successor(key)),
            UNBOUNDED => None,
            _ => Some(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// As scans and counts name it: an empty `end` means no upper bound.
    pub fn of_scan(start: &Bytes, end: &Bytes) -> Self {
        Self { start: start.clone(), end: (!end.is_empty()).then(|| end.clone()) }
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Whether `key` lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether all of `other` lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start
            && match (&self.end, &other.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(other)) => other <= end,
            }
    }

    /// What lies in both.
    pub fn intersect(&self, other: &Self) -> Self {
        let end = match (&self.end, &other.end) {
            (Some(one), Some(two)) => Some(one.min(two).clone()),
            (one, two) => one.as_ref().or(two.as_ref()).cloned(),
        };
        Self { start: (&self.start).max(&other.start).clone(), end }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Interval;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn operations_name_one_key_a_range_or_everything_from_a_key() {
        let one = Interval::of_operation(&bytes("b"), &Bytes::new());
        assert!(one.contains(b"b") && !one.contains(b"b\0") && !one.contains(b"a"));
        let range = Interval::of_operation(&bytes("b"), &bytes("d"));
        assert!(range.contains(b"b") && range.contains(b"c\xff") && !range.contains(b"d"));
        let open = Interval::of_operation(&bytes("b"), &Bytes::from_static(&[0]));
        assert!(open.contains(b"\xff\xff") && !open.contains(b"a"));
        assert!(Interval::of_operation(&bytes("d"), &bytes("b")).is_empty());
    }

    #[test]
    fn covering_and_intersecting_respect_open_ends() {
        let all = Interval::all();
        let some = Interval { start: bytes("b"), end: Some(bytes("d")) };
        assert!(all.covers(&some) && !some.covers(&all) && some.covers(&some));
        assert_eq!(all.intersect(&some), some);
        let late = Interval { start: bytes("c"), end: None };
        assert_eq!(some.intersect(&late), Interval { start: bytes("c"), end: Some(bytes("d")) });
        assert!(some.intersect(&Interval { start: bytes("d"), end: None }).is_empty());
    }
}
