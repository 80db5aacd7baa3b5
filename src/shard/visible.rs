//! Which records a revision shows: the walk under every read, and pages of it.

use bytes::Bytes;

use super::Interval;
use super::table::{history, latest};
use crate::proto::internal::v1::StoredRecord;
use crate::proto::v1::Record;
use crate::storage::engine::{Direction, EngineError, View};

/// When a read looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// Every change the view has.
    Present,
    /// As after this revision.
    Revision(u64),
}

/// Bytes that a record costs in an answer beyond its key and value: its numbers and framing.
const RECORD_OVERHEAD_BYTES: usize = 48;

/// The record of `key`, if it is alive at that time.
pub(crate) fn record(view: &dyn View, key: &[u8], at: At) -> Result<Option<StoredRecord>, EngineError> {
    match latest::get(view, key)? {
        Some(record) => then(view, key, record, at),
        None => Ok(None),
    }
}

/// What `key`, whose last record is `last`, was at that time.
fn then(view: &dyn View, key: &[u8], last: StoredRecord, at: At) -> Result<Option<StoredRecord>, EngineError> {
    let shown = match at {
        At::Revision(revision) if last.mod_revision > revision => history::at(view, key, revision)?,
        At::Present | At::Revision(_) => Some(last),
    };
    Ok(shown.filter(|record| record.version > 0))
}

/// The live records of `interval` in the order of `direction`.
///
/// The table of last records names every key that was alive at a revision that can still be read:
/// a key deleted since then keeps its tombstone until that revision is compacted.
pub(crate) fn records<'v>(
    view: &'v dyn View,
    interval: &Interval,
    at: At,
    direction: Direction,
) -> impl Iterator<Item = Result<(Bytes, StoredRecord), EngineError>> + 'v {
    latest::within(interval).scan(view, direction).filter_map(move |pair| {
        let shown = pair.and_then(|(stored, value)| {
            let key = latest::user_key(&stored)?;
            let last = latest::decode(&stored, value)?;
            Ok(then(view, &key, last, at)?.map(|record| (key, record)))
        });
        shown.transpose()
    })
}

/// A part of a walk.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// Whether records remain after the last one.
    pub(crate) more: bool,
    /// What the records cost in an answer.
    pub(crate) bytes: usize,
}

/// How much of a walk is wanted.
pub(crate) struct Wanted {
    pub(crate) records_max: usize,
    pub(crate) bytes_max: usize,
    /// Give one record even if it alone is larger than `bytes_max`.
    pub(crate) one_at_least: bool,
    pub(crate) keys_only: bool,
}

/// Takes records from `walk` as long as they fit.
pub(crate) fn page(
    walk: impl Iterator<Item = Result<(Bytes, StoredRecord), EngineError>>,
    wanted: &Wanted,
) -> Result<Page, EngineError> {
    let mut page = Page::default();
    for shown in walk {
        let (key, mut stored) = shown?;
        if wanted.keys_only {
            stored.value = Bytes::new();
        }
        let bytes = page.bytes.saturating_add(cost(&key, &stored));
        let first = page.records.is_empty() && wanted.one_at_least;
        if page.records.len() >= wanted.records_max || (bytes > wanted.bytes_max && !first) {
            page.more = true;
            break;
        }
        page.bytes = bytes;
        page.records.push(public(key, stored));
    }
    Ok(page)
}

/// Bytes of a record in an answer.
pub(crate) fn cost(key: &[u8], record: &StoredRecord) -> usize {
    key.len() + record.value.len() + RECORD_OVERHEAD_BYTES
}

/// A record as clients see it.
pub(crate) fn public(key: Bytes, record: StoredRecord) -> Record {
    let StoredRecord { value, create_revision, mod_revision, version, lease, sub: _ } = record;
    Record { key, value, create_revision, mod_revision, version, lease }
}
