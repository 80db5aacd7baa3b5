//! What has changed since a revision, in order.

use super::Interval;
use super::error::{ShardError, compacted, invalid};
use super::table::event::{self, Kind, Position};
use super::table::{history, latest, meta};
use super::visible::{cost, public};
use crate::proto::internal::v1::StoredRecord;
use crate::proto::internal::v1::shard_read::Events;
use crate::proto::internal::v1::shard_read_result::Events as EventsResult;
use crate::proto::v1::{self, Record};
use crate::storage::engine::{Direction, EngineError, View};
use crate::types::limits::{PAGE_BYTES_MAX, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX};

/// Changes that a page may pass over without showing one, so that a page takes bounded time.
const LOOKED_AT_MAX: usize = 10 * PAGE_RECORDS_MAX;

/// Reads a page of changes: whole revisions, or a part of one that is larger than a page.
///
/// # Errors
/// Refused when the first revision was compacted.
pub(super) fn execute(view: &dyn View, read: &Events, present: u64) -> Result<EventsResult, ShardError> {
    if read.from_revision == 0 {
        return Err(invalid("from_revision is at least 1: set it").into());
    }
    let oldest = meta::compacted(view)?;
    if read.from_revision < oldest {
        return Err(compacted(read.from_revision, oldest).into());
    }
    let limit = usize::try_from(read.limit).unwrap_or(usize::MAX);
    let limit = if limit == 0 { PAGE_RECORDS_DEFAULT } else { limit.min(PAGE_RECORDS_MAX) };
    let ranges: Vec<_> = read.ranges.iter().map(|range| Interval::of_operation(&range.key, &range.range_end)).collect();
    let mut page = Page { revision: read.from_revision, ..Page::default() };
    let bounds = event::within(Position { revision: read.from_revision, sub: read.from_sub }, present);
    for (looked_at, pair) in bounds.scan(view, Direction::Forward).enumerate() {
        let (key, value) = pair?;
        let change = event::decode(&key, &value)?;
        if change.at.revision > page.revision {
            page.begin(change.at.revision);
            let is_full = page.events.len() >= limit || page.bytes >= PAGE_BYTES_MAX || looked_at >= LOOKED_AT_MAX;
            if is_full || read.from_sub > 0 {
                return Ok(page.until(change.at));
            }
        }
        if looked_at >= LOOKED_AT_MAX {
            return Ok(page.until(change.at));
        }
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(&change.key)) {
            continue;
        }
        let (shown, bytes) = show(view, &change, read.previous && change.at.revision > oldest)?;
        if !page.has_room(bytes) {
            return Ok(page.until(change.at));
        }
        page.bytes += bytes;
        page.events.push(shown);
    }
    let next_revision = present.saturating_add(1).max(read.from_revision);
    if next_revision == read.from_revision {
        // What there is of it is not here yet.
        return Ok(EventsResult { events: page.events, next_revision, next_sub: read.from_sub });
    }
    let next_revision = if read.from_sub > 0 { read.from_revision.saturating_add(1) } else { next_revision };
    Ok(EventsResult { events: page.events, next_revision, next_sub: 0 })
}

/// What is shown so far. A page ends between two revisions, unless one alone is larger than it.
#[derive(Default)]
struct Page {
    events: Vec<v1::Event>,
    bytes: usize,
    /// The revision of the last of them.
    revision: u64,
    /// Those of revisions before that one.
    whole: usize,
}

impl Page {
    fn begin(&mut self, revision: u64) {
        self.whole = self.events.len();
        self.revision = revision;
    }

    fn has_room(&self, bytes: usize) -> bool {
        let fits = self.bytes + bytes <= PAGE_BYTES_MAX && self.events.len() < PAGE_RECORDS_MAX;
        self.events.is_empty() || fits
    }

    /// The page that ends before a change: before all of its revision, if that leaves anything.
    fn until(mut self, at: Position) -> EventsResult {
        let next_sub = if self.whole == 0 { at.sub } else { 0 };
        if self.whole > 0 {
            self.events.truncate(self.whole);
        }
        EventsResult { events: self.events, next_revision: at.revision, next_sub }
    }
}

/// A change as it is shown, and its bytes.
fn show(view: &dyn View, change: &event::Event, previous: bool) -> Result<(v1::Event, usize), EngineError> {
    let revision = change.at.revision;
    let mut shown = match change.kind {
        Kind::Put => put(view, change)?,
        Kind::Delete => {
            let record = Record { key: change.key.clone(), mod_revision: revision, ..Record::default() };
            v1::Event { kind: v1::event::Kind::Delete.into(), record: Some(record), previous: None }
        }
    };
    let mut bytes = shown.record.as_ref().map_or(0, |record| record.key.len() + record.value.len());
    if previous {
        let previous = history::at(view, &change.key, revision.saturating_sub(1))?;
        let previous = previous.filter(|record| record.version > 0);
        bytes += previous.as_ref().map_or(0, |record| cost(&change.key, record));
        shown.previous = previous.map(|record| public(change.key.clone(), record));
    }
    Ok((shown, bytes))
}

/// A put, with the record as it was right after it.
fn put(view: &dyn View, change: &event::Event) -> Result<v1::Event, EngineError> {
    let at = change.at.revision;
    let is_meant = |record: &StoredRecord| record.mod_revision == at && record.version > 0;
    let record = match latest::get(view, &change.key)?.filter(is_meant) {
        Some(record) => Some(record),
        None => history::at(view, &change.key, at)?.filter(is_meant),
    };
    let record = record.ok_or_else(|| {
        EngineError::Corrupt(format!("key {} has no record of revision {at}", change.key.escape_ascii()))
    })?;
    let record = Some(public(change.key.clone(), record));
    Ok(v1::Event { kind: v1::event::Kind::Put.into(), record, previous: None })
}
