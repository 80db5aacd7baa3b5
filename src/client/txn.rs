//! Transactions as a builder over the wire form.

use bytes::Bytes;

use super::options::{Keys, PutOptions};
use super::routes::KeyRange;
use crate::proto::v1::{self, Compare, Operation, Transaction, compare, operation};
use crate::types::key::UNBOUNDED;
use crate::types::limits::TXN_DEPTH_MAX;

/// A transaction: if every compare holds, the success operations are carried out, else the failure
/// operations; all in one step, within one shard.
///
/// ```
/// use quorate::client::{Txn, Condition, Op};
///
/// // Take a lock that nobody holds.
/// let take = Txn::new()
///     .when(Condition::missing("lock/a"))
///     .then(Op::put("lock/a", "me"))
///     .otherwise(Op::get("lock/a"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    pub(crate) wire: Transaction,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.wire.compares.push(condition.0);
        self
    }

    /// Adds an operation for when all conditions hold.
    #[must_use]
    pub fn then(mut self, operation: Op) -> Self {
        self.wire.success.push(operation.0);
        self
    }

    /// Adds an operation for when one does not.
    #[must_use]
    pub fn otherwise(mut self, operation: Op) -> Self {
        self.wire.failure.push(operation.0);
        self
    }

    /// The wire form.
    pub fn wire(&self) -> &Transaction {
        &self.wire
    }

    pub(crate) fn touched(&self) -> Vec<KeyRange> {
        let mut ranges = Vec::new();
        touch(&self.wire, &mut ranges, TXN_DEPTH_MAX);
        ranges
    }
}

impl From<Transaction> for Txn {
    fn from(wire: Transaction) -> Self {
        Self { wire }
    }
}

/// What a transaction reads and writes, as deep as a server would take it.
fn touch(transaction: &Transaction, ranges: &mut Vec<KeyRange>, depth: usize) {
    let ranged = |key: &Bytes, range_end: &Bytes| match range_end.as_ref() {
        [] => KeyRange::key(key),
        UNBOUNDED => KeyRange::range(key.clone(), None),
        _ => KeyRange::range(key.clone(), Some(range_end.clone())),
    };
    ranges.extend(transaction.compares.iter().map(|compare| ranged(&compare.key, &compare.range_end)));
    for operation in transaction.success.iter().chain(&transaction.failure) {
        match &operation.kind {
            Some(operation::Kind::Put(put)) => ranges.push(KeyRange::key(&put.key)),
            Some(operation::Kind::Delete(delete)) => ranges.push(ranged(&delete.key, &delete.range_end)),
            Some(operation::Kind::Range(range)) => ranges.push(ranged(&range.key, &range.range_end)),
            Some(operation::Kind::Transaction(nested)) if depth > 1 => touch(nested, ranges, depth - 1),
            Some(operation::Kind::Transaction(_)) | None => {}
        }
    }
}

/// How a compare relates the key's property to its operand.
pub use crate::proto::v1::compare::Relation;

/// A condition on one key. A key that does not exist has revisions and version 0 and no value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Compare);

impl Condition {
    fn new(key: impl Into<Bytes>, relation: Relation, operand: compare::Operand) -> Self {
        Self(Compare { key: key.into(), relation: relation.into(), operand: Some(operand), range_end: Bytes::new() })
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, compare::Operand::Exists(true))
    }

    /// The key does not exist.
    pub fn missing(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, compare::Operand::Exists(false))
    }

    /// On the value.
    pub fn value(key: impl Into<Bytes>, relation: Relation, value: impl Into<Bytes>) -> Self {
        Self::new(key, relation, compare::Operand::Value(value.into()))
    }

    /// On the number of changes in the key's present life.
    pub fn version(key: impl Into<Bytes>, relation: Relation, version: u64) -> Self {
        Self::new(key, relation, compare::Operand::Version(version))
    }

    /// On the revision that created the key.
    pub fn create_revision(key: impl Into<Bytes>, relation: Relation, revision: u64) -> Self {
        Self::new(key, relation, compare::Operand::CreateRevision(revision))
    }

    /// On the revision of the key's last change.
    pub fn mod_revision(key: impl Into<Bytes>, relation: Relation, revision: u64) -> Self {
        Self::new(key, relation, compare::Operand::ModRevision(revision))
    }

    /// On the lease that the key is attached to.
    pub fn lease(key: impl Into<Bytes>, relation: Relation, lease: u64) -> Self {
        Self::new(key, relation, compare::Operand::Lease(lease))
    }
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op(Operation);

impl Op {
    fn new(kind: operation::Kind) -> Self {
        Self(Operation { kind: Some(kind) })
    }

    /// Writes a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::put_with(key, value, &PutOptions::new())
    }

    /// Writes a key, with options.
    pub fn put_with(key: impl Into<Bytes>, value: impl Into<Bytes>, options: &PutOptions) -> Self {
        Self::new(operation::Kind::Put(v1::Put {
            key: key.into(),
            value: value.into(),
            ttl_ms: options.ttl_ms(),
            previous: options.previous,
            lease: options.lease,
            ..v1::Put::default()
        }))
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        let delete = v1::DeleteRange { key: key.into(), range_end: Bytes::new(), previous: false };
        Self::new(operation::Kind::Delete(delete))
    }

    /// Deletes a range of keys.
    pub fn delete_range(keys: &Keys) -> Self {
        let (key, range_end) = keys.operation_bounds();
        Self::new(operation::Kind::Delete(v1::DeleteRange { key, range_end, previous: false }))
    }

    /// Reads a key.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::new(operation::Kind::Range(v1::Range { key: key.into(), ..v1::Range::default() }))
    }

    pub(crate) fn of_range(range: v1::Range) -> Self {
        Self::new(operation::Kind::Range(range))
    }

    /// Reads a range of keys; `limit` 0 is as many as a page may hold.
    pub fn range(keys: &Keys, limit: u32) -> Self {
        let (key, range_end) = keys.operation_bounds();
        Self::new(operation::Kind::Range(v1::Range { key, range_end, limit, ..v1::Range::default() }))
    }
}
