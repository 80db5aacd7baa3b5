//! The records of a range as an operation asks for them: at a revision, filtered, sorted, cut.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::Interval;
use super::blocks;
use super::error::ShardError;
use super::read;
use super::table::meta;
use super::visible::{self, At, Page, Wanted, cost, public};
use crate::proto::internal::v1::StoredRecord;
use crate::proto::v1::Range;
use crate::proto::v1::operation_result::RangeResult;
use crate::proto::v1::range::SortTarget;
use crate::storage::engine::{Direction, EngineError, View};
use crate::types::limits::{PAGE_BYTES_MAX, PAGE_RECORDS_MAX};

/// Whether the revision that `range` names can be read.
///
/// # Errors
/// Refused when it was compacted, or is not reached yet.
pub(super) fn check(view: &dyn View, range: &Range) -> Result<(), ShardError> {
    read::at(view, range.revision, meta::revision(view)?).map(|_| ())
}

/// Executes a range whose revision was checked. Returns its answer and the bytes of its records, of which there
/// are at most what `bytes_spent` leaves.
pub(super) fn execute(view: &dyn View, range: &Range, bytes_spent: usize) -> Result<(RangeResult, usize), EngineError> {
    let interval = Interval::of_operation(&range.key, &range.range_end);
    let at = match range.revision {
        0 => At::Present,
        revision => At::Revision(revision),
    };
    if range.count_only {
        return Ok((RangeResult { count: count(view, &interval, at)?, ..RangeResult::default() }, 0));
    }
    let limit = usize::try_from(range.limit).unwrap_or(usize::MAX);
    let wanted = Wanted {
        records_max: if limit == 0 { PAGE_RECORDS_MAX } else { limit.min(PAGE_RECORDS_MAX) },
        bytes_max: PAGE_BYTES_MAX.saturating_sub(bytes_spent),
        one_at_least: bytes_spent == 0,
        keys_only: range.keys_only,
    };
    if range.range_end.is_empty() {
        let only = visible::record(view, &range.key, at)?.filter(|record| passes(range, record));
        let page = visible::page(only.into_iter().map(|record| Ok((range.key.clone(), record))), &wanted)?;
        // A filter leaves a record out, not its count.
        let count = count(view, &interval, at)?;
        return Ok((RangeResult { records: page.records, count, more: page.more }, page.bytes));
    }
    if range.sort() != SortTarget::Key {
        return sorted(view, range, &interval, at, &wanted);
    }
    let direction = if range.reverse { Direction::Reverse } else { Direction::Forward };
    let walk = visible::records(view, &interval, at, direction);
    let walk = walk.filter(|shown| shown.as_ref().map_or(true, |(_, record)| passes(range, record)));
    let Page { records, more, bytes } = visible::page(walk, &wanted)?;
    let is_all = !more && !is_filtered(range);
    let count = if is_all { records.len() as u64 } else { count(view, &interval, at)? };
    Ok((RangeResult { records, count, more }, bytes))
}

fn count(view: &dyn View, interval: &Interval, at: At) -> Result<u64, EngineError> {
    match at {
        At::Present => blocks::count(view, interval),
        old @ At::Revision(_) => blocks::walk(view, interval, old),
    }
}

fn is_filtered(range: &Range) -> bool {
    let bounds = [range.mod_revision_min, range.mod_revision_max, range.create_revision_min, range.create_revision_max];
    bounds.iter().any(|bound| *bound != 0)
}

fn passes(range: &Range, record: &StoredRecord) -> bool {
    let lies = |revision: u64, min: u64, max: u64| revision >= min && (max == 0 || revision <= max);
    lies(record.mod_revision, range.mod_revision_min, range.mod_revision_max)
        && lies(record.create_revision, range.create_revision_min, range.create_revision_max)
}

/// A record of a walk, in the order that is asked for.
struct Ranked {
    order: SortTarget,
    reverse: bool,
    key: Bytes,
    record: StoredRecord,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, others) = (&self.record, &other.record);
        let order = match self.order {
            SortTarget::Key => self.key.cmp(&other.key),
            SortTarget::Version => own.version.cmp(&others.version),
            SortTarget::CreateRevision => own.create_revision.cmp(&others.create_revision),
            SortTarget::ModRevision => own.mod_revision.cmp(&others.mod_revision),
            SortTarget::Value => own.value.cmp(&others.value),
        };
        let order = if self.reverse { order.reverse() } else { order };
        order.then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// Walks the whole interval and keeps what can come first, so that memory is bounded by the page.
fn sorted(
    view: &dyn View,
    range: &Range,
    interval: &Interval,
    at: At,
    wanted: &Wanted,
) -> Result<(RangeResult, usize), EngineError> {
    let (mut first, mut bytes) = (BTreeSet::<Ranked>::new(), 0);
    let (mut count, mut passed) = (0, 0);
    for shown in visible::records(view, interval, at, Direction::Forward) {
        let (key, record) = shown?;
        count += 1;
        if !passes(range, &record) {
            continue;
        }
        passed += 1;
        bytes += cost(&key, &record);
        first.insert(Ranked { order: range.sort(), reverse: range.reverse, key, record });
        while let Some(last) = first.last() {
            let rest = bytes - cost(&last.key, &last.record);
            if first.len() <= wanted.records_max && rest <= wanted.bytes_max {
                break;
            }
            bytes = rest;
            first.pop_last();
        }
    }
    let (mut records, mut taken) = (Vec::with_capacity(first.len()), 0);
    for Ranked { key, mut record, .. } in first {
        if range.keys_only {
            record.value = Bytes::new();
        }
        let next = taken + cost(&key, &record);
        if next > wanted.bytes_max && !(records.is_empty() && wanted.one_at_least) {
            break;
        }
        taken = next;
        records.push(public(key, record));
    }
    let more = passed > records.len() as u64;
    Ok((RangeResult { records, count, more }, taken))
}
