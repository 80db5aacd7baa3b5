//! etcd's transactions as ours, and our results as etcd's.

use bytes::Bytes;

use super::error::{self, Known};
use super::face::signed;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::v1;
use crate::types::limits::TXN_DEPTH_MAX;

pub(super) fn record(record: v1::Record) -> KeyValue {
    KeyValue {
        key: record.key,
        value: record.value,
        create_revision: signed(record.create_revision),
        mod_revision: signed(record.mod_revision),
        version: signed(record.version),
        lease: lease_shown(record.lease),
    }
}

/// A lease's id: the same bits, so that a negative one is an id as any other.
pub(super) fn lease(id: i64) -> u64 {
    id.cast_unsigned()
}

/// The id as etcd's clients know it.
pub(super) fn lease_shown(id: u64) -> i64 {
    id.cast_signed()
}

/// A bound or revision below 1 is none.
fn bound(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

pub(super) fn range(range: pb::RangeRequest) -> Result<v1::Range, Known> {
    if range.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    let (Ok(order), Ok(target)) = (
        pb::range_request::SortOrder::try_from(range.sort_order),
        pb::range_request::SortTarget::try_from(range.sort_target),
    ) else {
        return Err(error::BAD_SORT);
    };
    let sort = match target {
        pb::range_request::SortTarget::Key => v1::range::SortTarget::Key,
        pb::range_request::SortTarget::Version => v1::range::SortTarget::Version,
        pb::range_request::SortTarget::Create => v1::range::SortTarget::CreateRevision,
        pb::range_request::SortTarget::Mod => v1::range::SortTarget::ModRevision,
        pb::range_request::SortTarget::Value => v1::range::SortTarget::Value,
    };
    // Nothing was changed at a negative revision or before.
    let shows_nothing = range.max_mod_revision < 0 || range.max_create_revision < 0;
    Ok(v1::Range {
        key: range.key,
        range_end: range.range_end,
        limit: u32::try_from(range.limit.max(0)).unwrap_or(u32::MAX),
        reverse: order == pb::range_request::SortOrder::Descend,
        keys_only: range.keys_only,
        count_only: range.count_only,
        revision: bound(range.revision),
        sort: sort.into(),
        mod_revision_min: if shows_nothing { u64::MAX } else { bound(range.min_mod_revision) },
        mod_revision_max: bound(range.max_mod_revision),
        create_revision_min: bound(range.min_create_revision),
        create_revision_max: bound(range.max_create_revision),
        complete: false,
    })
}

pub(super) fn put(put: pb::PutRequest) -> Result<v1::Put, Known> {
    if put.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(error::VALUE_PROVIDED);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(error::LEASE_PROVIDED);
    }
    Ok(v1::Put {
        key: put.key,
        value: put.value,
        ttl_ms: 0,
        previous: put.prev_kv,
        lease: lease(put.lease),
        keep_value: put.ignore_value,
        keep_lease: put.ignore_lease,
    })
}

pub(super) fn delete(delete: pb::DeleteRangeRequest) -> Result<v1::DeleteRange, Known> {
    if delete.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    Ok(v1::DeleteRange { key: delete.key, range_end: delete.range_end, previous: delete.prev_kv })
}

pub(super) fn transaction(transaction: pb::TxnRequest) -> Result<v1::Transaction, Known> {
    transaction_at(transaction, 1)
}

fn transaction_at(transaction: pb::TxnRequest, depth: usize) -> Result<v1::Transaction, Known> {
    if depth > TXN_DEPTH_MAX {
        return Err(error::TOO_DEEP);
    }
    let operations = |operations: Vec<pb::RequestOp>| {
        operations.into_iter().map(|one| operation(one, depth)).collect::<Result<Vec<_>, _>>()
    };
    Ok(v1::Transaction {
        compares: transaction.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: operations(transaction.success)?,
        failure: operations(transaction.failure)?,
    })
}

fn operation(operation: pb::RequestOp, depth: usize) -> Result<v1::Operation, Known> {
    use pb::request_op::Request;
    use v1::operation::Kind;
    let kind = match operation.request {
        Some(Request::RequestRange(request)) => {
            Kind::Range(range(request).map(|range| v1::Range { complete: true, ..range })?)
        }
        Some(Request::RequestPut(request)) => Kind::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => Kind::Delete(delete(request)?),
        Some(Request::RequestTxn(request)) => Kind::Transaction(transaction_at(request, depth + 1)?),
        // etcd's word for an operation that is none.
        None => return Err(error::KEY_NOT_FOUND),
    };
    Ok(v1::Operation { kind: Some(kind) })
}

fn compare(compare: pb::Compare) -> Result<v1::Compare, Known> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    use v1::compare::{Operand, Relation};
    if compare.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    let (key, range_end) = (compare.key.clone(), compare.range_end.clone());
    let of = |relation: Relation, operand| v1::Compare {
        key: key.clone(),
        relation: relation.into(),
        operand: Some(operand),
        range_end: range_end.clone(),
    };
    // No key has had so many changes.
    let always = |holds: bool| of(if holds { Relation::NotEqual } else { Relation::Equal }, Operand::Version(u64::MAX));
    let Ok(result) = CompareResult::try_from(compare.result) else { return Ok(always(true)) };
    let relation = match result {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    // An operand of another kind than the target counts as 0, or as no bytes.
    let number = match (compare.target_union.as_ref(), compare.target()) {
        (Some(TargetUnion::Version(number)), CompareTarget::Version)
        | (Some(TargetUnion::CreateRevision(number)), CompareTarget::Create)
        | (Some(TargetUnion::ModRevision(number)), CompareTarget::Mod)
        | (Some(TargetUnion::Lease(number)), CompareTarget::Lease) => *number,
        _ => 0,
    };
    let Ok(target) = CompareTarget::try_from(compare.target) else { return Ok(always(result == CompareResult::Equal)) };
    let Ok(number) = u64::try_from(number) else {
        // Every number of a record is above.
        return Ok(always(matches!(result, CompareResult::Greater | CompareResult::NotEqual)));
    };
    Ok(of(
        relation,
        match target {
            CompareTarget::Version => Operand::Version(number),
            CompareTarget::Create => Operand::CreateRevision(number),
            CompareTarget::Mod => Operand::ModRevision(number),
            CompareTarget::Lease => Operand::Lease(number),
            CompareTarget::Value => Operand::Value(match compare.target_union {
                Some(TargetUnion::Value(value)) => value,
                _ => Bytes::new(),
            }),
        },
    ))
}

/// The answers of a transaction. Those within it have a header with a revision only, as etcd's.
pub(super) struct Results {
    /// The revision before the transaction, and after.
    pub(super) before: u64,
    pub(super) after: u64,
    /// Whether something was changed by the results so far.
    pub(super) has_changed: bool,
}

impl Results {
    /// Of a whole transaction.
    pub(super) fn of(result: &v1::TransactionResult) -> Self {
        let changes = u64::from(changes(result));
        Self { before: result.revision.saturating_sub(changes), after: result.revision, has_changed: false }
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = if self.has_changed { self.after } else { self.before };
        Some(pb::ResponseHeader { revision: signed(revision), ..Default::default() })
    }

    pub(super) fn responses(&mut self, results: Vec<v1::OperationResult>) -> Vec<pb::ResponseOp> {
        results.into_iter().map(|result| self.response(result)).collect()
    }

    fn response(&mut self, result: v1::OperationResult) -> pb::ResponseOp {
        use pb::response_op::Response;
        use v1::operation_result::Kind;
        let response = result.kind.map(|kind| match kind {
            Kind::Put(put) => {
                self.has_changed = true;
                Response::ResponsePut(pb::PutResponse { header: self.header(), prev_kv: put.previous.map(record) })
            }
            Kind::Delete(delete) => {
                self.has_changed |= delete.deleted > 0;
                Response::ResponseDeleteRange(pb::DeleteRangeResponse { header: self.header(), ..deleted(delete) })
            }
            Kind::Range(range) => Response::ResponseRange(pb::RangeResponse { header: self.header(), ..ranged(range) }),
            Kind::Transaction(nested) => {
                let responses = self.responses(nested.results);
                let header = self.header();
                Response::ResponseTxn(pb::TxnResponse { header, succeeded: nested.succeeded, responses })
            }
        });
        pb::ResponseOp { response }
    }
}

fn changes(result: &v1::TransactionResult) -> bool {
    use v1::operation_result::Kind;
    result.results.iter().any(|result| match &result.kind {
        Some(Kind::Put(_)) => true,
        Some(Kind::Delete(delete)) => delete.deleted > 0,
        Some(Kind::Transaction(nested)) => changes(nested),
        Some(Kind::Range(_)) | None => false,
    })
}

pub(super) fn deleted(delete: v1::operation_result::DeleteResult) -> pb::DeleteRangeResponse {
    let prev_kvs = delete.previous.into_iter().map(record).collect();
    pb::DeleteRangeResponse { header: None, deleted: signed(delete.deleted), prev_kvs }
}

pub(super) fn ranged(range: v1::operation_result::RangeResult) -> pb::RangeResponse {
    let kvs = range.records.into_iter().map(record).collect();
    pb::RangeResponse { header: None, kvs, more: range.more, count: signed(range.count) }
}
