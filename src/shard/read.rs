//! Reads: records, pages of them, counts, transactions that write nothing, and leases.

use super::Interval;
use super::blocks;
use super::error::{ShardError, compacted, future, invalid};
use super::events;
use super::table::{lease, lease_key, meta};
use super::txn;
use super::visible::{self, At, Wanted, public};
use crate::proto::internal::v1::shard_read::{Count, Get, Kind, Lease, Scan};
use crate::proto::internal::v1::shard_read_result::{
    Count as CountResult, Get as GetResult, Kind as ResultKind, Lease as LeaseResult, Leases as LeasesResult,
    Scan as ScanResult,
};
use crate::proto::internal::v1::{ShardRead, ShardReadResult};
use crate::storage::engine::{Direction, EngineError, View};
use crate::types::limits::{PAGE_BYTES_MAX, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX};

/// Executes a read. What is wrong with the request is answered as a refusal.
///
/// # Errors
/// Only when the engine fails.
pub fn execute(view: &dyn View, read: &ShardRead) -> Result<ShardReadResult, EngineError> {
    let present = meta::revision(view)?;
    let kind = match &read.kind {
        Some(Kind::Get(read)) => get(view, read, present).map(ResultKind::Get),
        Some(Kind::Scan(read)) => scan(view, read, present).map(ResultKind::Scan),
        Some(Kind::Count(read)) => count(view, read, present).map(ResultKind::Count),
        Some(Kind::Transaction(read)) => txn::read(view, read).map(ResultKind::Transaction),
        Some(Kind::Lease(read)) => lease(view, read).map(ResultKind::Lease),
        Some(Kind::Leases(_)) => leases(view).map(ResultKind::Leases),
        Some(Kind::Events(read)) => events::execute(view, read, present).map(ResultKind::Events),
        None => Err(invalid("the read has no known kind: set one").into()),
    };
    let kind = match kind {
        Ok(kind) => kind,
        Err(ShardError::Refused(refusal)) => ResultKind::Refusal(*refusal),
        Err(ShardError::Engine(error)) => return Err(error),
    };
    Ok(ShardReadResult { kind: Some(kind), revision: present })
}

fn get(view: &dyn View, read: &Get, present: u64) -> Result<GetResult, ShardError> {
    let record = visible::record(view, &read.key, at(view, read.revision, present)?)?;
    Ok(GetResult { record: record.map(|record| public(read.key.clone(), record)) })
}

fn scan(view: &dyn View, read: &Scan, present: u64) -> Result<ScanResult, ShardError> {
    let at = at(view, read.revision, present)?;
    let direction = if read.reverse { Direction::Reverse } else { Direction::Forward };
    let limit = usize::try_from(read.limit).unwrap_or(usize::MAX);
    let wanted = Wanted {
        records_max: if limit == 0 { PAGE_RECORDS_DEFAULT } else { limit.min(PAGE_RECORDS_MAX) },
        bytes_max: PAGE_BYTES_MAX,
        one_at_least: true,
        keys_only: read.keys_only,
    };
    let interval = Interval::of_scan(&read.start, &read.end);
    let page = visible::page(visible::records(view, &interval, at, direction), &wanted)?;
    let revision = if read.revision == 0 { present } else { read.revision };
    Ok(ScanResult { records: page.records, more: page.more, revision })
}

fn lease(view: &dyn View, read: &Lease) -> Result<LeaseResult, ShardError> {
    let Some(found) = lease::get(view, read.lease)? else { return Ok(LeaseResult::default()) };
    let keys = if read.keys { lease_key::attached(view, read.lease).collect::<Result<_, _>>()? } else { Vec::new() };
    Ok(LeaseResult { ttl_ms: found.ttl_ms, keys })
}

fn leases(view: &dyn View) -> Result<LeasesResult, ShardError> {
    let leases = lease::all(view).map(|stored| stored.map(|(id, _)| id)).collect::<Result<_, _>>()?;
    Ok(LeasesResult { leases })
}

fn count(view: &dyn View, read: &Count, present: u64) -> Result<CountResult, ShardError> {
    let interval = Interval::of_scan(&read.start, &read.end);
    let count = match at(view, read.revision, present)? {
        At::Present => blocks::count(view, &interval)?,
        old @ At::Revision(_) => blocks::walk(view, &interval, old)?,
    };
    Ok(CountResult { count })
}

/// When a read of `revision` looks; 0 and the present one are the same.
pub(super) fn at(view: &dyn View, revision: u64, present: u64) -> Result<At, ShardError> {
    if revision == 0 || revision == present {
        return Ok(At::Present);
    }
    if revision > present {
        return Err(future(revision, present).into());
    }
    let oldest = meta::compacted(view)?;
    if revision < oldest { Err(compacted(revision, oldest).into()) } else { Ok(At::Revision(revision)) }
}
