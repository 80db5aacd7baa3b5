//! Transactions: compares, then the operations of one branch.
//!
//! All that can refuse a transaction is found before the first write, so nothing needs undoing.

use bytes::Bytes;

use super::Interval;
use super::blocks;
use super::check;
use super::error::{ShardError, beyond};
use super::mutation::{Mutation, Scratch};
use super::table::latest;
use super::visible::{self, At, Page, Wanted, cost, public};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::{DeleteResult, Kind as ResultKind, PutResult, RangeResult};
use crate::proto::v1::{Compare, DeleteRange, Operation, OperationResult, Put, Range, Transaction, TransactionResult};
use crate::storage::engine::{Direction, EngineError, View, WriteSet};
use crate::types::limits::{PAGE_BYTES_MAX, PAGE_RECORDS_MAX, TXN_DELETED_KEYS_MAX};

/// Executes a transaction.
///
/// # Errors
/// Refused when it is malformed, deletes more than [`TXN_DELETED_KEYS_MAX`] keys, or asks for more
/// than [`PAGE_BYTES_MAX`] of previous records.
pub(crate) fn execute(
    state: &mut WriteSet<'_>,
    scratch: &mut Scratch,
    transaction: &Transaction,
) -> Result<TransactionResult, ShardError> {
    check::structure(transaction)?;
    let mut succeeded = true;
    for compare in &transaction.compares {
        succeeded = succeeded && holds(state, compare)?;
    }
    let branch = if succeeded { &transaction.success } else { &transaction.failure };
    let previous_bytes = measure(state, branch)?;
    let mut execution = Execution { mutation: Mutation::begin(state, scratch)?, answered_bytes: previous_bytes };
    let mut results = Vec::with_capacity(branch.len());
    for operation in branch {
        results.push(OperationResult { kind: execution.operate(operation)? });
    }
    Ok(TransactionResult { succeeded, results, revision: execution.mutation.finish() })
}

/// Whether a compare holds. One on the value of a key that does not exist never does, as in etcd.
fn holds(view: &dyn View, compare: &Compare) -> Result<bool, EngineError> {
    let live = latest::live(view, &compare.key)?;
    let exists = live.is_some();
    let found = live.unwrap_or_default();
    let order = match &compare.operand {
        Some(Operand::Value(_)) if !exists => return Ok(false),
        Some(Operand::Value(value)) => found.value.cmp(value),
        Some(Operand::Version(version)) => found.version.cmp(version),
        Some(Operand::CreateRevision(revision)) => found.create_revision.cmp(revision),
        Some(Operand::ModRevision(revision)) => found.mod_revision.cmp(revision),
        Some(Operand::Lease(lease)) => found.lease.cmp(lease),
        Some(Operand::Exists(wanted)) => exists.cmp(wanted),
        None => return Ok(false),
    };
    Ok(match compare.relation() {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
        Relation::Unspecified => false,
    })
}

/// Bytes of the previous records that `branch` asks for, all of it proven to be within the limits.
/// Ranges to delete that overlap are measured each.
fn measure(view: &dyn View, branch: &[Operation]) -> Result<usize, ShardError> {
    let mut deleted = 0;
    let mut bytes = 0;
    for operation in branch {
        match &operation.kind {
            Some(Kind::Put(put)) if put.previous && branch.len() > 1 => {
                bytes += latest::live(view, &put.key)?.map_or(0, |record| cost(&put.key, &record));
            }
            Some(Kind::Delete(delete)) if !delete.range_end.is_empty() => {
                let interval = Interval::of_operation(&delete.key, &delete.range_end);
                deleted += blocks::count(view, &interval)?;
                if deleted <= TXN_DELETED_KEYS_MAX as u64 && delete.previous {
                    bytes += previous_bytes(view, &interval)?;
                }
            }
            Some(Kind::Delete(delete)) if branch.len() > 1 => {
                let live = latest::live(view, &delete.key)?;
                deleted += u64::from(live.is_some());
                bytes += live.filter(|_| delete.previous).map_or(0, |record| cost(&delete.key, &record));
            }
            Some(Kind::Put(_) | Kind::Delete(_) | Kind::Range(_)) | None => {}
        }
    }
    if deleted > TXN_DELETED_KEYS_MAX as u64 {
        let remedy = "delete smaller ranges, one after the other";
        return Err(beyond("txn_deleted_keys_max", TXN_DELETED_KEYS_MAX as u64, deleted, remedy).into());
    }
    if bytes > PAGE_BYTES_MAX {
        let remedy = "ask for fewer previous records in one transaction";
        return Err(beyond("page_bytes_max", PAGE_BYTES_MAX as u64, bytes as u64, remedy).into());
    }
    Ok(bytes)
}

fn previous_bytes(view: &dyn View, interval: &Interval) -> Result<usize, EngineError> {
    visible::records(view, interval, At::Present, Direction::Forward)
        .try_fold(0, |bytes, shown| shown.map(|(key, record)| bytes + cost(&key, &record)))
}

struct Execution<'s, 'v> {
    mutation: Mutation<'s, 'v>,
    /// Bytes of records in the answer so far; previous records are counted ahead.
    answered_bytes: usize,
}

impl Execution<'_, '_> {
    fn operate(&mut self, operation: &Operation) -> Result<Option<ResultKind>, EngineError> {
        Ok(match &operation.kind {
            Some(Kind::Put(put)) => Some(ResultKind::Put(self.put(put)?)),
            Some(Kind::Delete(delete)) => Some(ResultKind::Delete(self.delete(delete)?)),
            Some(Kind::Range(range)) => Some(ResultKind::Range(self.range(range)?)),
            None => None,
        })
    }

    fn put(&mut self, put: &Put) -> Result<PutResult, EngineError> {
        let previous = self.mutation.put(&put.key, &put.value, put.ttl_ms)?;
        Ok(PutResult { previous: previous.filter(|_| put.previous).map(|record| public(put.key.clone(), record)) })
    }

    fn delete(&mut self, delete: &DeleteRange) -> Result<DeleteResult, EngineError> {
        let keys = if delete.range_end.is_empty() {
            vec![delete.key.clone()]
        } else {
            let interval = Interval::of_operation(&delete.key, &delete.range_end);
            let walk = visible::records(self.mutation.view(), &interval, At::Present, Direction::Forward);
            walk.map(|shown| shown.map(|(key, _)| key)).collect::<Result<Vec<Bytes>, _>>()?
        };
        let mut result = DeleteResult::default();
        for key in keys {
            let Some(previous) = self.mutation.delete(&key)? else { continue };
            result.deleted += 1;
            if delete.previous {
                result.previous.push(public(key, previous));
            }
        }
        Ok(result)
    }

    fn range(&mut self, range: &Range) -> Result<RangeResult, EngineError> {
        let view = self.mutation.view();
        let interval = Interval::of_operation(&range.key, &range.range_end);
        if range.count_only {
            return Ok(RangeResult { count: blocks::count(view, &interval)?, ..RangeResult::default() });
        }
        let Page { records, more, bytes } = if range.range_end.is_empty() {
            let only = visible::record(view, &range.key, At::Present)?.map(|record| Ok((range.key.clone(), record)));
            visible::page(only.into_iter(), &self.wanted(range))?
        } else {
            let direction = if range.reverse { Direction::Reverse } else { Direction::Forward };
            visible::page(visible::records(view, &interval, At::Present, direction), &self.wanted(range))?
        };
        let count = if more { blocks::count(view, &interval)? } else { records.len() as u64 };
        self.answered_bytes += bytes;
        Ok(RangeResult { records, count, more })
    }

    fn wanted(&self, range: &Range) -> Wanted {
        let limit = usize::try_from(range.limit).unwrap_or(usize::MAX);
        Wanted {
            records_max: if limit == 0 { PAGE_RECORDS_MAX } else { limit.min(PAGE_RECORDS_MAX) },
            bytes_max: PAGE_BYTES_MAX.saturating_sub(self.answered_bytes),
            one_at_least: self.answered_bytes == 0,
            keys_only: range.keys_only,
        }
    }
}

/// The same answer without its records: what is remembered of one that is too large.
pub(crate) fn without_records(result: &TransactionResult) -> TransactionResult {
    let results = result.results.iter().map(|result| {
        let kind = result.kind.as_ref().map(|kind| match kind {
            ResultKind::Put(_) => ResultKind::Put(PutResult::default()),
            ResultKind::Delete(delete) => {
                ResultKind::Delete(DeleteResult { deleted: delete.deleted, previous: Vec::new() })
            }
            ResultKind::Range(range) => {
                ResultKind::Range(RangeResult { records: Vec::new(), count: range.count, more: range.count > 0 })
            }
        });
        OperationResult { kind }
    });
    TransactionResult { succeeded: result.succeeded, results: results.collect(), revision: result.revision }
}
