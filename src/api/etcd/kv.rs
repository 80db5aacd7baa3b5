//! etcd's KV service.

use tonic::Request;

use super::convert::{self, Results};
use super::error;
use super::face::{Answer, Asked, Etcd, Refused, too_large};
use crate::node::{Failure, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::kv_server::Kv;
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::{Kind as ResultKind, RangeResult};
use crate::proto::v1::range::SortTarget;
use crate::proto::v1::{self, ErrorCode};
use crate::types::key::successor;
use crate::types::limits::{ETCD_REQUEST_BYTES_MAX, ETCD_RESPONSE_BYTES_MAX};

#[tonic::async_trait]
impl<S: Service> Kv for Etcd<S> {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        self.run(request, |asked, request| async move { range(asked, request).await }).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.run(request, |asked, request| async move {
            fits(&request)?;
            let (header, result) = asked.one(Kind::Put(convert::put(request)?)).await?;
            let ResultKind::Put(put) = result else { return Err(unexpected().into()) };
            Ok(pb::PutResponse { header, prev_kv: put.previous.map(convert::record) })
        })
        .await
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        self.run(request, |asked, request| async move {
            let (header, result) = asked.one(Kind::Delete(convert::delete(request)?)).await?;
            let ResultKind::Delete(delete) = result else { return Err(unexpected().into()) };
            Ok(pb::DeleteRangeResponse { header, ..convert::deleted(delete) })
        })
        .await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.run(request, |asked, request| async move {
            fits(&request)?;
            let transaction = convert::transaction(request)?;
            let (header, result) = asked.transact(transaction, v1::ReadLevel::Linearizable).await?;
            let responses = Results::of(&result).responses(result.results);
            Ok(pb::TxnResponse { header, succeeded: result.succeeded, responses })
        })
        .await
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let revision = u64::try_from(request.revision).unwrap_or_default();
            if revision == 0 {
                // Nothing is older; etcd refuses it once something was compacted.
                return Err(error::COMPACTED.into());
            }
            let (target, wait) = (asked.target(), request.physical);
            let compact = v1::CompactRequest { target, revision, wait, anew: true };
            let compacted = asked.service.compact(compact, asked.deadline).await?;
            Ok(pb::CompactionResponse { header: asked.header_of(compacted.header.as_ref()) })
        })
        .await
    }
}

impl<S: Service> Asked<S> {
    async fn transact(
        &self,
        transaction: v1::Transaction,
        level: v1::ReadLevel,
    ) -> Result<(Option<pb::ResponseHeader>, v1::TransactionResult), Refused> {
        let shard = self.shard()?.id;
        if level == v1::ReadLevel::Local {
            self.catch_up(shard).await;
        }
        let (target, transaction) = (self.target(), Some(transaction));
        let request = v1::TxnRequest { target, transaction, level: level.into(), ..Default::default() };
        let answer = self.service.txn(request, self.deadline).await?;
        let result = answer.result.ok_or_else(unexpected)?;
        self.tell(shard, result.revision);
        let term = answer.header.map_or(0, |header| header.raft_term);
        Ok((self.header(result.revision, term), result))
    }

    async fn one(&self, kind: Kind) -> Result<(Option<pb::ResponseHeader>, ResultKind), Refused> {
        self.one_at(kind, v1::ReadLevel::Linearizable).await
    }

    async fn one_at(
        &self,
        kind: Kind,
        level: v1::ReadLevel,
    ) -> Result<(Option<pb::ResponseHeader>, ResultKind), Refused> {
        let success = vec![v1::Operation { kind: Some(kind) }];
        let (header, result) = self.transact(v1::Transaction { success, ..Default::default() }, level).await?;
        let kind = result.results.into_iter().next().and_then(|result| result.kind);
        Ok((header, kind.ok_or_else(unexpected)?))
    }

    pub(super) async fn page(
        &self,
        range: v1::Range,
        level: v1::ReadLevel,
    ) -> Result<(Option<pb::ResponseHeader>, RangeResult), Refused> {
        match self.one_at(Kind::Range(range), level).await? {
            (header, ResultKind::Range(result)) => Ok((header, result)),
            _ => Err(unexpected().into()),
        }
    }
}

/// One answer holds all of a range, as etcd's does, though a shard gives it page by page: all pages show the
/// revision of the first.
async fn range<S: Service>(asked: Asked<S>, request: pb::RangeRequest) -> Result<pb::RangeResponse, Refused> {
    let level = if request.serializable { v1::ReadLevel::Local } else { v1::ReadLevel::Linearizable };
    let wanted = convert::range(request)?;
    let (header, mut whole) = asked.page(wanted.clone(), level).await?;
    let mut bytes = bytes_of(&whole);
    let is_ordered = wanted.sort() == SortTarget::Key;
    while let Some(last) = whole.records.last().filter(|_| whole.more && wants_more(&wanted, &whole)) {
        if !is_ordered || bytes > ETCD_RESPONSE_BYTES_MAX {
            return Err(Refused::Said(too_large()));
        }
        let shown = header.as_ref().map_or(0, |header| u64::try_from(header.revision).unwrap_or_default());
        let mut next =
            v1::Range { revision: if wanted.revision == 0 { shown } else { wanted.revision }, ..wanted.clone() };
        if wanted.reverse {
            next.range_end = last.key.clone();
        } else {
            next.key = successor(&last.key);
        }
        next.limit = match wanted.limit {
            0 => 0,
            limit => limit.saturating_sub(u32::try_from(whole.records.len()).unwrap_or(u32::MAX)),
        };
        let (_, page) = asked.page(next, level).await?;
        bytes += bytes_of(&page);
        whole.more = page.more;
        whole.records.extend(page.records);
    }
    Ok(pb::RangeResponse { header, ..convert::ranged(whole) })
}

/// etcd's own limit, so that what passes here passes there.
fn fits(request: &impl prost::Message) -> Result<(), error::Known> {
    if request.encoded_len() > ETCD_REQUEST_BYTES_MAX { Err(error::REQUEST_TOO_LARGE) } else { Ok(()) }
}

fn wants_more(wanted: &v1::Range, whole: &RangeResult) -> bool {
    wanted.limit == 0 || whole.records.len() < usize::try_from(wanted.limit).unwrap_or(usize::MAX)
}

fn bytes_of(page: &RangeResult) -> usize {
    page.records.iter().map(|record| record.key.len() + record.value.len()).sum()
}

fn unexpected() -> Failure {
    Failure::unknown(ErrorCode::Internal, "the shard gave an answer of another kind than was asked for")
}
