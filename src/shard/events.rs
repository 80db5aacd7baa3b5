//! What has changed since a revision, in order: pages of whole revisions.

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

/// Reads a page of changes.
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
    let mut page =
        EventsResult { events: Vec::new(), next_revision: present.saturating_add(1).max(read.from_revision) };
    let bounds = event::within(Position { revision: read.from_revision, sub: 0 }, present);
    let mut last = Part::of(read.from_revision);
    let mut bytes = 0;
    // A page ends between two revisions only, and is longer than its bound with a single one only.
    let has_room =
        |page: &EventsResult, bytes, part: &Part| page.events.is_empty() || bytes + part.bytes <= PAGE_BYTES_MAX;
    for (looked_at, pair) in bounds.scan(view, Direction::Forward).enumerate() {
        let (key, value) = pair?;
        let change = event::decode(&key, &value)?;
        if change.at.revision > last.revision {
            let part = std::mem::replace(&mut last, Part::of(change.at.revision));
            if !has_room(&page, bytes, &part) {
                page.next_revision = part.revision;
                return Ok(page);
            }
            bytes += part.bytes;
            page.events.extend(part.events);
            if page.events.len() >= limit || bytes >= PAGE_BYTES_MAX || looked_at >= LOOKED_AT_MAX {
                page.next_revision = last.revision;
                return Ok(page);
            }
        }
        if ranges.is_empty() || ranges.iter().any(|range| range.contains(&change.key)) {
            last.show(view, &change, read.previous && change.at.revision > oldest)?;
        }
    }
    if !has_room(&page, bytes, &last) {
        page.next_revision = last.revision;
        return Ok(page);
    }
    page.events.extend(last.events);
    Ok(page)
}

/// What a page shows of one revision.
struct Part {
    revision: u64,
    events: Vec<v1::Event>,
    bytes: usize,
}

impl Part {
    fn of(revision: u64) -> Self {
        Self { revision, events: Vec::new(), bytes: 0 }
    }

    fn show(&mut self, view: &dyn View, change: &event::Event, previous: bool) -> Result<(), EngineError> {
        let mut shown = match change.kind {
            Kind::Put => put(view, change)?,
            Kind::Delete => {
                let record = Record { key: change.key.clone(), mod_revision: self.revision, ..Record::default() };
                v1::Event { kind: v1::event::Kind::Delete.into(), record: Some(record), previous: None }
            }
        };
        self.bytes += shown.record.as_ref().map_or(0, |record| record.key.len() + record.value.len());
        // One revision may have replaced more than any answer can hold.
        if previous && self.bytes < PAGE_BYTES_MAX {
            let previous = history::at(view, &change.key, self.revision.saturating_sub(1))?;
            let previous = previous.filter(|record| record.version > 0);
            self.bytes += previous.as_ref().map_or(0, |record| cost(&change.key, record));
            shown.previous = previous.map(|record| public(change.key.clone(), record));
        }
        self.events.push(shown);
        Ok(())
    }
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
