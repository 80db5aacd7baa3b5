//! Writes, the same for a client (at most once) and a session (exactly once).

use bytes::Bytes;
use futures_util::future::join_all;

use super::batch::{self, ShardOutcome};
use super::call::{Plan, Route, Safety};
use super::error::{Error, Result};
use super::options::{BatchOperation, Keys, PutOptions};
use super::routes::KeyRange;
use super::rpc::Write;
use super::txn::{Op, Txn};
use super::{Client, Record, Session, TransactionResult, operation_result};
use crate::env::time::{self, Instant};
use crate::proto::v1::{BatchRequest, DeleteRequest, ErrorCode, PutRequest, TxnRequest};
use crate::types::GroupId;

/// What a put did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Written {
    /// The shard's revision after the write.
    pub revision: u64,
    /// The record that was replaced, if it was asked for.
    pub previous: Option<Record>,
}

macro_rules! write_methods {
    ($handle:ident) => {
        impl $handle {
            /// Writes a key.
            ///
            /// # Errors
            /// [`Error::outcome`](super::Error::outcome) says what became of the write.
            pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written> {
                self.put_with(key, value, &PutOptions::new()).await
            }

            /// Writes a key, with options.
            ///
            /// # Errors
            /// As [`put`](Self::put).
            pub async fn put_with(
                &self,
                key: impl Into<Bytes>,
                value: impl Into<Bytes>,
                options: &PutOptions,
            ) -> Result<Written> {
                let (key, value) = (key.into(), value.into());
                if options.lease != 0 {
                    // Only operations of transactions name leases.
                    let put = checked(Op::put_with(key, value, options), options)?;
                    return Ok(written(self.txn(Txn::new().then(put)).await?));
                }
                let ranges = [KeyRange::key(&key)];
                let (ttl_ms, previous) = (options.ttl_ms(), options.previous);
                let request = PutRequest { key, value, ttl_ms, previous, ..PutRequest::default() };
                let answer = self.write(request, &ranges).await?;
                let revision = answer.header.map_or(0, |header| header.revision);
                Ok(Written { revision, previous: answer.previous })
            }

            /// Deletes a key. Returns whether it existed.
            ///
            /// # Errors
            /// As [`put`](Self::put).
            pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool> {
                let key = key.into();
                let ranges = [KeyRange::key(&key)];
                let request = DeleteRequest { key, ..DeleteRequest::default() };
                Ok(self.write(request, &ranges).await?.deleted > 0)
            }

            /// Deletes all keys of a range within one shard, in one step. Returns how many.
            ///
            /// # Errors
            /// As [`put`](Self::put); `LIMIT_EXCEEDED` when there are more than one transaction may
            /// delete.
            pub async fn delete_range(&self, keys: &Keys) -> Result<u64> {
                if keys.is_empty() {
                    return Ok(0);
                }
                let ranges = [keys.touched()];
                let (key, range_end) = keys.operation_bounds();
                let request = DeleteRequest { key, range_end, ..DeleteRequest::default() };
                Ok(self.write(request, &ranges).await?.deleted)
            }

            /// Carries out a transaction within one shard.
            ///
            /// # Errors
            /// As [`put`](Self::put); `CROSS_SHARD` when its keys lie in several shards.
            pub async fn txn(&self, txn: Txn) -> Result<TransactionResult> {
                let ranges = txn.touched();
                let request = TxnRequest { transaction: Some(txn.wire), ..TxnRequest::default() };
                let answer = self.write(request, &ranges).await?;
                Ok(answer.result.unwrap_or_default())
            }

            /// Carries out puts and deletes, at most 128 and no key twice: atomic within each
            /// shard, each shard on its own.
            ///
            /// # Errors
            /// When nothing was sent. What happened then is said per shard.
            pub async fn batch(&self, operations: &[BatchOperation]) -> Result<Vec<ShardOutcome>> {
                batch::check(operations)?;
                let client = self.client();
                let deadline = time::now() + client.timeout;
                client.know_map(deadline).await?;
                let parts = batch::split(&client.core.routes.lock(), &client.keyspace, operations)?;
                let outcomes = parts.into_iter().map(|part| async move {
                    let answer = self.write_to(part.shard, part.request, &part.ranges, deadline).await;
                    let result = answer.and_then(|answer| batch::read_answer(&answer));
                    ShardOutcome { shard: part.shard, operations: part.operations, result }
                });
                Ok(join_all(outcomes).await)
            }
        }
    };
}

fn checked(put: Op, options: &PutOptions) -> Result<Op> {
    if options.ttl.is_some() {
        let message = "a key has a lease or a time to live of its own: leave out one of them";
        return Err(Error::not_applied(ErrorCode::InvalidArgument, message));
    }
    Ok(put)
}

/// What a transaction of a single put did.
fn written(result: TransactionResult) -> Written {
    let previous = result.results.into_iter().find_map(|result| match result.kind {
        Some(operation_result::Kind::Put(put)) => put.previous,
        _ => None,
    });
    Written { revision: result.revision, previous }
}

write_methods!(Client);
write_methods!(Session);

impl Client {
    fn client(&self) -> &Self {
        self
    }

    /// Makes sure that there is a map with the client's keyspace.
    pub(crate) async fn know_map(&self, deadline: Instant) -> Result<()> {
        let (version, known) = {
            let routes = self.core.routes.lock();
            (routes.map().version, routes.map().keyspace(&self.keyspace).is_some())
        };
        if known { Ok(()) } else { self.core.refresh_until(version, deadline).await }
    }

    async fn write<R: Write>(&self, request: R, ranges: &[KeyRange]) -> Result<R::Answer> {
        let route = Route::Keys { keyspace: &self.keyspace, ranges };
        let plan = Plan { route, safety: Safety::Write, deadline: time::now() + self.timeout, once: false };
        self.core.call(&request, &plan).await
    }

    async fn write_to(
        &self,
        shard: GroupId,
        request: BatchRequest,
        ranges: &[KeyRange],
        deadline: Instant,
    ) -> Result<<BatchRequest as super::rpc::Rpc>::Answer> {
        let route = Route::Pinned { keyspace: &self.keyspace, shard, ranges };
        let plan = Plan { route, safety: Safety::Write, deadline, once: false };
        self.core.call(&request, &plan).await
    }
}
