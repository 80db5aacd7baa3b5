//! Transactions: compares, then the operations of one branch, and of transactions within it.
//!
//! All that can refuse a transaction is found before the first write, so nothing needs undoing. Every compare
//! looks at the state before the whole transaction; every operation at what the ones before it have left.

use bytes::Bytes;

use super::Interval;
use super::blocks;
use super::check;
use super::compare;
use super::error::{ShardError, beyond, refused};
use super::mutation::{Mutation, Scratch, Write};
use super::range;
use super::table::{latest, lease};
use super::visible::{self, At, cost, public};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::{DeleteResult, Kind as ResultKind, PutResult, RangeResult};
use crate::proto::v1::{DeleteRange, ErrorCode, Operation, OperationResult, Put, Transaction, TransactionResult};
use crate::storage::engine::{Direction, EngineError, View, WriteSet};
use crate::types::limits::{PAGE_BYTES_MAX, TXN_DELETED_KEYS_MAX};

/// Executes a transaction.
///
/// # Errors
/// Refused when it is malformed, deletes more than [`TXN_DELETED_KEYS_MAX`] keys, asks for more than
/// [`PAGE_BYTES_MAX`] of previous records, or names a key, lease or revision that must be there and is not.
pub(crate) fn execute(
    state: &mut WriteSet<'_>,
    scratch: &mut Scratch,
    transaction: &Transaction,
) -> Result<TransactionResult, ShardError> {
    check::structure(transaction)?;
    let branch = Branch::of(state, transaction)?;
    let mut cost = Cost::default();
    cost.add(state, &branch, branch.steps.len() == 1)?;
    cost.check()?;
    let mutation = Mutation::begin(state, scratch)?;
    let mut execution = Execution { mutation, answered_bytes: cost.previous_bytes };
    let mut result = execution.run(&branch)?;
    let revision = execution.mutation.finish()?;
    stamp(&mut result, revision);
    Ok(result)
}

/// Executes one that [writes nothing](check::is_read_only) on a view.
///
/// # Errors
/// As [`execute`].
pub(crate) fn read(view: &dyn View, transaction: &Transaction) -> Result<TransactionResult, ShardError> {
    execute(&mut WriteSet::new(view), &mut Scratch::default(), transaction)
}

/// A revision is known once the last operation has run.
fn stamp(result: &mut TransactionResult, revision: u64) {
    result.revision = revision;
    for nested in &mut result.results {
        if let Some(ResultKind::Transaction(nested)) = &mut nested.kind {
            stamp(nested, revision);
        }
    }
}

/// The operations that the compares have chosen.
struct Branch<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Operation(&'t Operation),
    Branch(Branch<'t>),
}

impl<'t> Branch<'t> {
    fn of(view: &dyn View, transaction: &'t Transaction) -> Result<Self, EngineError> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            succeeded = succeeded && compare::holds(view, compare)?;
        }
        let chosen = if succeeded { &transaction.success } else { &transaction.failure };
        let steps = chosen.iter().map(|operation| match &operation.kind {
            Some(Kind::Transaction(nested)) => Self::of(view, nested).map(Step::Branch),
            Some(Kind::Put(_) | Kind::Delete(_) | Kind::Range(_)) | None => Ok(Step::Operation(operation)),
        });
        Ok(Self { succeeded, steps: steps.collect::<Result<_, _>>()? })
    }
}

/// What a branch would cost, and all that can refuse it. Ranges to delete that overlap are measured each.
#[derive(Default)]
struct Cost {
    deleted: u64,
    /// Bytes of the previous records that are asked for.
    previous_bytes: usize,
    /// Bytes of the ranges that must be answered whole.
    complete_bytes: usize,
}

impl Cost {
    /// An operation that is alone needs no measure of one previous record: any record fits.
    fn add(&mut self, view: &dyn View, branch: &Branch<'_>, is_alone: bool) -> Result<(), ShardError> {
        for step in &branch.steps {
            match step {
                Step::Operation(operation) => self.add_one(view, operation, is_alone)?,
                Step::Branch(nested) => self.add(view, nested, false)?,
            }
        }
        Ok(())
    }

    fn add_one(&mut self, view: &dyn View, operation: &Operation, is_alone: bool) -> Result<(), ShardError> {
        match &operation.kind {
            Some(Kind::Put(put)) => {
                check_put(view, put)?;
                if put.previous && !is_alone {
                    self.previous_bytes += latest::live(view, &put.key)?.map_or(0, |found| cost(&put.key, &found));
                }
            }
            Some(Kind::Delete(delete)) if !delete.range_end.is_empty() => {
                let interval = Interval::of_operation(&delete.key, &delete.range_end);
                self.deleted += blocks::count(view, &interval)?;
                if self.deleted <= TXN_DELETED_KEYS_MAX as u64 && delete.previous {
                    self.previous_bytes += previous_bytes(view, &interval)?;
                }
            }
            Some(Kind::Delete(delete)) if !is_alone => {
                let live = latest::live(view, &delete.key)?;
                self.deleted += u64::from(live.is_some());
                let live = live.filter(|_| delete.previous);
                self.previous_bytes += live.map_or(0, |found| cost(&delete.key, &found));
            }
            Some(Kind::Range(wanted)) => {
                range::check(view, wanted)?;
                if wanted.complete {
                    self.add_complete(view, wanted)?;
                }
            }
            Some(Kind::Delete(_) | Kind::Transaction(_)) | None => {}
        }
        Ok(())
    }

    /// A range of the state before: what the transaction itself puts is bounded by its own size.
    fn add_complete(&mut self, view: &dyn View, wanted: &crate::proto::v1::Range) -> Result<(), ShardError> {
        let (result, bytes) = range::execute(view, wanted, self.complete_bytes)?;
        self.complete_bytes += bytes;
        let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
        if result.more && (limit == 0 || result.records.len() < limit) {
            let remedy = "ask for smaller ranges, or with a limit";
            return Err(beyond("page_bytes_max", PAGE_BYTES_MAX as u64, result.count, remedy).into());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ShardError> {
        if self.deleted > TXN_DELETED_KEYS_MAX as u64 {
            let remedy = "delete smaller ranges, one after the other";
            return Err(beyond("txn_deleted_keys_max", TXN_DELETED_KEYS_MAX as u64, self.deleted, remedy).into());
        }
        let bytes = self.previous_bytes + self.complete_bytes;
        if bytes > PAGE_BYTES_MAX {
            let remedy = "ask for fewer records in one transaction";
            return Err(beyond("page_bytes_max", PAGE_BYTES_MAX as u64, bytes as u64, remedy).into());
        }
        Ok(())
    }
}

/// Whether what a put keeps or names is there.
fn check_put(view: &dyn View, put: &Put) -> Result<(), ShardError> {
    if (put.keep_value || put.keep_lease) && latest::live(view, &put.key)?.is_none() {
        let message = format!("key {} does not exist: it has nothing to keep", put.key.escape_ascii());
        return Err(refused(ErrorCode::KeyNotFound, message).into());
    }
    if put.lease != 0 && lease::get(view, put.lease)?.is_none() {
        return Err(no_lease(put.lease).into());
    }
    Ok(())
}

/// The refusal for a lease that is not there.
pub(super) fn no_lease(id: u64) -> Box<crate::proto::internal::v1::Refusal> {
    let message = format!("lease {id} does not exist, or its time is over: grant another one");
    refused(ErrorCode::LeaseNotFound, message)
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
    fn run(&mut self, branch: &Branch<'_>) -> Result<TransactionResult, EngineError> {
        let mut results = Vec::with_capacity(branch.steps.len());
        for step in &branch.steps {
            let kind = match step {
                Step::Operation(operation) => self.operate(operation)?,
                Step::Branch(nested) => Some(ResultKind::Transaction(self.run(nested)?)),
            };
            results.push(OperationResult { kind });
        }
        Ok(TransactionResult { succeeded: branch.succeeded, results, revision: 0 })
    }

    fn operate(&mut self, operation: &Operation) -> Result<Option<ResultKind>, EngineError> {
        Ok(match &operation.kind {
            Some(Kind::Put(put)) => Some(ResultKind::Put(self.put(put)?)),
            Some(Kind::Delete(delete)) => Some(ResultKind::Delete(self.delete(delete)?)),
            Some(Kind::Range(wanted)) => {
                let (result, bytes) = range::execute(self.mutation.view(), wanted, self.answered_bytes)?;
                self.answered_bytes += bytes;
                Some(ResultKind::Range(result))
            }
            Some(Kind::Transaction(_)) | None => None,
        })
    }

    fn put(&mut self, put: &Put) -> Result<PutResult, EngineError> {
        let write = Write {
            value: (!put.keep_value).then(|| put.value.clone()),
            ttl_ms: put.ttl_ms,
            lease: if put.keep_lease { None } else { Some(put.lease) },
        };
        let previous = self.mutation.put(&put.key, write)?;
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
            ResultKind::Transaction(nested) => ResultKind::Transaction(without_records(nested)),
        });
        OperationResult { kind }
    });
    TransactionResult { succeeded: result.succeeded, results: results.collect(), revision: result.revision }
}
