//! Batches: puts and deletes, split by shard, atomic within each.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::error::{Error, Result};
use super::options::BatchOperation;
use super::routes::{KeyRange, Routes};
use crate::proto::v1::{BatchRequest, BatchResponse, ErrorCode, ErrorDetail};
use crate::types::GroupId;
use crate::types::limits::BATCH_OPERATIONS_MAX;

/// What one shard did with its part of a batch.
#[derive(Clone, Debug)]
pub struct ShardOutcome {
    /// The shard.
    pub shard: GroupId,
    /// Indexes into the operations of the batch.
    pub operations: Vec<usize>,
    /// The shard's revision after it applied them all, or why it did not.
    pub result: Result<u64>,
}

/// The operations of one batch that one shard holds.
pub(crate) struct Part {
    pub(crate) shard: GroupId,
    pub(crate) operations: Vec<usize>,
    pub(crate) ranges: Vec<KeyRange>,
    pub(crate) request: BatchRequest,
}

/// Refuses what no server takes.
pub(crate) fn check(operations: &[BatchOperation]) -> Result<()> {
    if operations.len() > BATCH_OPERATIONS_MAX {
        return Err(Error::limit("batch_operations_max", BATCH_OPERATIONS_MAX, operations.len()));
    }
    let mut keys = BTreeSet::new();
    match operations.iter().find(|operation| !keys.insert(operation.key())) {
        Some(twice) => {
            let message = format!("key `{}` is twice in the batch", twice.key().escape_ascii());
            Err(Error::not_applied(ErrorCode::InvalidArgument, message))
        }
        None => Ok(()),
    }
}

/// Cuts a batch into the parts of its shards.
pub(crate) fn split(routes: &Routes, keyspace: &str, operations: &[BatchOperation]) -> Result<Vec<Part>> {
    let mut parts: BTreeMap<GroupId, Part> = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        let range = KeyRange::key(operation.key());
        let shard = routes.single(keyspace, std::slice::from_ref(&range))?.shard;
        let part = parts.entry(shard).or_insert_with(|| Part {
            shard,
            operations: Vec::new(),
            ranges: Vec::new(),
            request: BatchRequest::default(),
        });
        part.operations.push(index);
        part.ranges.push(range);
        part.request.operations.push(operation.wire());
    }
    Ok(parts.into_values().collect())
}

/// What the answer to a part says: one revision, or the first thing that went wrong.
pub(crate) fn read_answer(answer: &BatchResponse) -> Result<u64> {
    let mut revision = None;
    for shard in &answer.shards {
        if let Some(error) = &shard.error {
            let detail = ErrorDetail::decode(error.detail.as_ref()).unwrap_or_default();
            return Err(Error::from_detail(detail, &error.message, true));
        }
        revision = revision.max(shard.header.as_ref().map(|header| header.revision));
    }
    // An answer that names no shard proves nothing.
    revision.ok_or_else(|| Error::from_detail(ErrorDetail::default(), "the server's answer names no shard", true))
}
