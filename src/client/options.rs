//! Optional parts of requests, as builders. All fields default to the common case.

use std::time::Duration;

use bytes::Bytes;

use super::routes::KeyRange;
use crate::proto::v1;
use crate::types::key::{UNBOUNDED, prefix_end};

/// Options of a put.
///
/// ```
/// use std::time::Duration;
/// use quorate::client::PutOptions;
///
/// let options = PutOptions::new().ttl(Duration::from_secs(30)).previous();
/// ```
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) lease: u64,
    pub(crate) previous: bool,
}

impl PutOptions {
    /// No time to live, no lease, no previous record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the key expire; rounded up to milliseconds.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// Attaches the key to a lease, with which it goes. Not together with a time to live.
    #[must_use]
    pub fn lease(self, lease: u64) -> Self {
        Self { lease, ..self }
    }

    /// Asks for the record that is replaced.
    #[must_use]
    pub fn previous(self) -> Self {
        Self { previous: true, ..self }
    }

    pub(crate) fn ttl_ms(&self) -> u64 {
        // At least 1: a time to live of zero on the wire means for ever.
        let ms = self.ttl.map(|ttl| ttl.as_nanos().div_ceil(1_000_000).max(1));
        ms.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// How new a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// It shows every write that was acknowledged before it. The leader serves it.
    #[default]
    Linearizable,
    /// The same, served by the nearest replica, which asks the leader only how far it has come.
    Follower,
    /// It shows every write that was acknowledged so long before it, and maybe later ones: served by the
    /// nearest replica that can prove as much, without asking anybody. Rounded down to milliseconds.
    Stale(Duration),
}

impl Consistency {
    /// Level and bound as requests carry them. A bound below a millisecond asks for what no replica can
    /// prove, so it becomes one.
    pub(crate) fn wire(self) -> (i32, u64) {
        match self {
            Self::Linearizable => (v1::ReadLevel::Linearizable.into(), 0),
            Self::Follower => (v1::ReadLevel::Follower.into(), 0),
            Self::Stale(max) => {
                (v1::ReadLevel::Stale.into(), u64::try_from(max.as_millis()).unwrap_or(u64::MAX).max(1))
            }
        }
    }
}

/// Options of a get and of a count.
///
/// ```
/// use std::time::Duration;
/// use quorate::client::{Consistency, ReadOptions};
///
/// let options = ReadOptions::new().consistency(Consistency::Stale(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    pub(crate) revision: u64,
    pub(crate) consistency: Option<Consistency>,
}

impl ReadOptions {
    /// The present, as new as the client's settings say.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a revision of the past; 0 is the present. A count has the present only.
    #[must_use]
    pub fn revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// How new it must be.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Self {
        Self { consistency: Some(consistency), ..self }
    }
}

/// A range of keys: what a scan, a count or a delete covers.
///
/// ```
/// use quorate::client::Keys;
///
/// let users = Keys::prefix("user/");
/// let some = Keys::all().from("b").to("d");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    pub(crate) start: Bytes,
    // Exclusive; `None` means no upper bound.
    pub(crate) end: Option<Bytes>,
}

impl Keys {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    /// Only keys from `start` on, inclusive.
    #[must_use]
    pub fn from(self, start: impl Into<Bytes>) -> Self {
        Self { start: self.start.max(start.into()), ..self }
    }

    /// Only keys before `end`.
    #[must_use]
    pub fn to(self, end: impl Into<Bytes>) -> Self {
        let end = end.into();
        Self { end: Some(self.end.map_or(end.clone(), |old| old.min(end))), ..self }
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    pub(crate) fn touched(&self) -> KeyRange {
        KeyRange::range(self.start.clone(), self.end.clone())
    }

    /// First key and `range_end` as delete and range operations want them: a range without a lower
    /// bound begins at the smallest key there is, the single zero byte.
    pub(crate) fn operation_bounds(&self) -> (Bytes, Bytes) {
        let start = if self.start.is_empty() { Bytes::from_static(&[0]) } else { self.start.clone() };
        (start, self.end.clone().unwrap_or(Bytes::from_static(UNBOUNDED)))
    }
}

/// Options of a scan.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    pub(crate) reverse: bool,
    pub(crate) limit: Option<u64>,
    pub(crate) page_records: Option<u32>,
    pub(crate) keys_only: bool,
    pub(crate) revision: u64,
    pub(crate) consistency: Option<Consistency>,
    pub(crate) resume: Option<super::ScanPosition>,
}

impl ScanOptions {
    /// Forward, to the end, keys and values, at the present revision.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the end of the range to its start.
    #[must_use]
    pub fn reverse(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// At most so many records in all.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Records a page; at most 10,000.
    #[must_use]
    pub fn page_records(self, page_records: u32) -> Self {
        Self { page_records: Some(page_records), ..self }
    }

    /// Leaves values out.
    #[must_use]
    pub fn keys_only(self) -> Self {
        Self { keys_only: true, ..self }
    }

    /// At a revision of the past; 0 is the present.
    #[must_use]
    pub fn revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// How new the first page must be. Later pages show the same revision.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Self {
        Self { consistency: Some(consistency), ..self }
    }

    /// Goes on where a scan with the same range and options stopped.
    #[must_use]
    pub fn resume(self, position: super::ScanPosition) -> Self {
        Self { resume: Some(position), ..self }
    }
}

/// Options of a watch.
///
/// ```
/// use quorate::client::WatchOptions;
///
/// let options = WatchOptions::new().revision(42).previous();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchOptions {
    pub(crate) revision: u64,
    pub(crate) previous: bool,
}

impl WatchOptions {
    /// From the present on, without what was replaced.
    pub fn new() -> Self {
        Self::default()
    }

    /// From a revision on, of the past or the future; 0 is the first that is still to come.
    #[must_use]
    pub fn revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// Asks for the records that changes take the place of.
    #[must_use]
    pub fn previous(self) -> Self {
        Self { previous: true, ..self }
    }
}

/// One write of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchOperation {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lasts; without it for ever.
        ttl: Option<Duration>,
    },
    /// Deletes a key; fine when it does not exist.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl BatchOperation {
    /// A put.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: None }
    }

    /// A put of a key that expires.
    pub fn put_for(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: Some(ttl) }
    }

    /// A delete.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that is written.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }

    pub(crate) fn wire(&self) -> v1::Operation {
        let kind = match self.clone() {
            Self::Put { key, value, ttl } => {
                let ttl_ms = PutOptions { ttl, ..PutOptions::default() }.ttl_ms();
                v1::operation::Kind::Put(v1::Put { key, value, ttl_ms, ..v1::Put::default() })
            }
            Self::Delete { key } => {
                v1::operation::Kind::Delete(v1::DeleteRange { key, range_end: Bytes::new(), previous: false })
            }
        };
        v1::Operation { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::{Keys, PutOptions};

    #[test]
    fn a_time_to_live_never_becomes_for_ever() {
        assert_eq!(PutOptions::new().ttl_ms(), 0);
        assert_eq!(PutOptions::new().ttl(Duration::ZERO).ttl_ms(), 1);
        assert_eq!(PutOptions::new().ttl(Duration::from_micros(1_001)).ttl_ms(), 2);
    }

    #[test]
    fn bounds_narrow_and_never_widen() {
        let keys = Keys::prefix("b").from("a").to("z");
        assert_eq!(keys, Keys::prefix("b"));
        assert!(Keys::prefix("b").from("c").is_empty());
        assert_eq!(Keys::prefix("b").from("b5").to("b7"), Keys::all().from("b5").to("b7"));
    }

    #[test]
    fn an_open_range_is_spelled_as_the_api_wants_it() {
        assert_eq!(Keys::all().operation_bounds(), (Bytes::from_static(&[0]), Bytes::from_static(&[0])));
        assert_eq!(Keys::prefix("a").operation_bounds(), (Bytes::from_static(b"a"), Bytes::from_static(b"b")));
    }
}
