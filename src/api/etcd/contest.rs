//! Contests for a name, the ground of locks and elections: whoever has the oldest key below the name holds it,
//! and everybody waits for the one before. A key hangs on its owner's lease.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Code, Status};

use super::convert;
use super::error;
use super::face::{Asked, Refused};
use crate::env::time::{self, Instant};
use crate::node::{Failure, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::Kind as ResultKind;
use crate::proto::v1::range::SortTarget;
use crate::proto::v1::{self, ErrorCode};
use crate::types::limits::REQUEST_TIMEOUT_DEFAULT;

/// Life of the lease of whoever brings none, in milliseconds; etcd's own.
const LEASE_TTL_MS: u64 = 60_000;
/// How often changes are asked for where no replica says that there are some.
const ASK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// A place in the line for a name.
pub(super) struct Contender {
    pub(super) key: Bytes,
    /// The revision that made the key: its place in the line.
    pub(super) revision: u64,
    pub(super) lease: i64,
    /// The value that the key has had all along.
    pub(super) value: Bytes,
}

/// Leaves the line when its future is dropped: a client that has gone away must not stand in it.
struct Standing<S: Service> {
    asked: Arc<Asked<S>>,
    /// Taken once it holds the name.
    place: Option<(Bytes, u64)>,
}

impl<S: Service> Drop for Standing<S> {
    fn drop(&mut self) {
        let Some((key, revision)) = self.place.take() else { return };
        let asked = self.asked.clone();
        // Should it fail, the key goes with its lease.
        tokio::spawn(async move { drop(leave(&asked, key, revision).await) });
    }
}

/// The keys below a name.
pub(super) fn below(name: &Bytes) -> (Bytes, Bytes) {
    ([name, &b"/"[..]].concat().into(), [name, &b"0"[..]].concat().into())
}

/// Says what etcd's own services say of a failure: they are clients of it, and so lose its code.
pub(super) fn as_a_client(refused: Refused) -> Refused {
    match &refused {
        Refused::Failed(failure) if failure.detail.code() == ErrorCode::LeaseNotFound => {
            Status::new(Code::Unknown, error::LEASE_NOT_FOUND.1).into()
        }
        Refused::Known(_) | Refused::Said(_) | Refused::Failed(_) => refused,
    }
}

/// Takes a place in the line, or finds the one that the lease has.
pub(super) async fn enter<S: Service>(
    asked: &Asked<S>,
    name: &Bytes,
    lease: i64,
    value: Bytes,
) -> Result<Contender, Refused> {
    let lease = if lease == 0 { own_lease(asked).await? } else { lease };
    let id = if lease < 0 { format!("-{:x}", lease.unsigned_abs()) } else { format!("{lease:x}") };
    let key: Bytes = [name, &b"/"[..], id.as_bytes()].concat().into();
    let put = v1::Put { key: key.clone(), value: value.clone(), lease: convert::lease(lease), ..Default::default() };
    let range = v1::Range { key: key.clone(), ..Default::default() };
    let transaction = v1::Transaction {
        compares: vec![made_at(&key, 0)],
        success: vec![v1::Operation { kind: Some(Kind::Put(put)) }],
        failure: vec![v1::Operation { kind: Some(Kind::Range(range)) }],
    };
    let (_, result) = transact(asked, transaction).await.map_err(as_a_client)?;
    if result.succeeded {
        return Ok(Contender { key, revision: result.revision, lease, value });
    }
    let found = result.results.into_iter().next().and_then(|result| match result.kind {
        Some(ResultKind::Range(range)) => range.records.into_iter().next(),
        _ => None,
    });
    let found = found.ok_or_else(|| Status::internal("quorate: a key that exists was not shown"))?;
    Ok(Contender { key, revision: found.create_revision, lease, value: found.value })
}

async fn own_lease<S: Service>(asked: &Asked<S>) -> Result<i64, Refused> {
    let grant = v1::GrantLeaseRequest { target: asked.target(), lease: 0, ttl_ms: LEASE_TTL_MS };
    Ok(convert::lease_shown(asked.service.grant_lease(grant, soon()).await?.lease))
}

/// Waits until nobody older is left in the line. Returns the header of the moment.
pub(super) async fn wait_for_turn<S: Service>(
    asked: &Arc<Asked<S>>,
    name: &Bytes,
    own: &Contender,
) -> Result<Option<pb::ResponseHeader>, Refused> {
    let mut standing = Standing { asked: asked.clone(), place: Some((own.key.clone(), own.revision)) };
    let (key, range_end) = below(name);
    loop {
        let older = v1::Range {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: 1,
            reverse: true,
            sort: SortTarget::CreateRevision.into(),
            create_revision_max: own.revision.saturating_sub(1),
            ..Default::default()
        };
        let mine = v1::Range { key: own.key.clone(), ..Default::default() };
        let (header, [older, mine]) = two(asked, older, mine).await?;
        if mine.is_none_or(|mine| mine.create_revision != own.revision) {
            return Err(Status::new(Code::Unknown, "mutex: session is expired").into());
        }
        let Some(older) = older else {
            standing.place = None;
            return Ok(header);
        };
        let from = header.map_or(0, |header| header.revision).unsigned_abs().saturating_add(1);
        let ranges = [older.key, own.key.clone()].map(|key| v1::KeyRange { key, range_end: Bytes::new() });
        until_deleted(asked, ranges.to_vec(), from).await?;
    }
}

/// Waits until one of the keys is deleted.
async fn until_deleted<S: Service>(asked: &Asked<S>, ranges: Vec<v1::KeyRange>, from: u64) -> Result<(), Refused> {
    let mut changes = Changes::of(asked, ranges, from)?;
    loop {
        for event in changes.next().await? {
            if event.kind() == v1::event::Kind::Delete {
                return Ok(());
            }
        }
    }
}

/// The changes of some keys, as they come.
pub(super) struct Changes<'a, S> {
    asked: &'a Asked<S>,
    ranges: Vec<v1::KeyRange>,
    from: u64,
    revision: Option<tokio::sync::watch::Receiver<crate::types::Revision>>,
}

impl<'a, S: Service> Changes<'a, S> {
    pub(super) fn of(asked: &'a Asked<S>, ranges: Vec<v1::KeyRange>, from: u64) -> Result<Self, Failure> {
        let revision = asked.service.watch_revision(asked.shard()?.id);
        Ok(Self { asked, ranges, from, revision })
    }

    /// The next page with something in it.
    pub(super) async fn next(&mut self) -> Result<Vec<v1::Event>, Refused> {
        loop {
            if let Some(revision) = &mut self.revision {
                revision.mark_unchanged();
            }
            let request = v1::EventsRequest {
                target: self.asked.target(),
                from_revision: self.from,
                ranges: self.ranges.clone(),
                level: v1::ReadLevel::Local.into(),
                ..Default::default()
            };
            match self.asked.service.events(request, soon()).await {
                Ok(page) => {
                    let goes_on = page.next_revision > self.from;
                    self.from = page.next_revision;
                    if !page.events.is_empty() {
                        return Ok(page.events);
                    }
                    if goes_on {
                        continue;
                    }
                }
                Err(failure) if failure.detail.retryable || failure.detail.code() == ErrorCode::NoLeader => {}
                Err(failure) => return Err(failure.into()),
            }
            let changed = async {
                match &mut self.revision {
                    Some(revision) => revision.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let has_changed = tokio::select! {
                is_here = changed => is_here,
                () = time::sleep(ASK_EVERY) => true,
            };
            if !has_changed {
                self.revision = None;
            }
        }
    }
}

/// Deletes a key, if it is the one of that revision.
pub(super) async fn leave<S: Service>(
    asked: &Asked<S>,
    key: Bytes,
    revision: u64,
) -> Result<Option<pb::ResponseHeader>, Refused> {
    let delete = v1::DeleteRange { key: key.clone(), ..Default::default() };
    let transaction = v1::Transaction {
        compares: vec![made_at(&key, revision)],
        success: vec![v1::Operation { kind: Some(Kind::Delete(delete)) }],
        failure: Vec::new(),
    };
    Ok(transact(asked, transaction).await?.0)
}

/// Gives the key another value, if it is the one of that revision. Returns whether it is.
pub(super) async fn say<S: Service>(
    asked: &Asked<S>,
    key: &Bytes,
    revision: u64,
    value: Bytes,
) -> Result<(Option<pb::ResponseHeader>, bool), Refused> {
    let put = v1::Put { key: key.clone(), value, keep_lease: true, ..Default::default() };
    let transaction = v1::Transaction {
        compares: vec![made_at(key, revision)],
        success: vec![v1::Operation { kind: Some(Kind::Put(put)) }],
        failure: Vec::new(),
    };
    let (header, result) = transact(asked, transaction).await?;
    Ok((header, result.succeeded))
}

/// Whoever holds the name, at a revision or, with 0, now.
pub(super) async fn holder<S: Service>(
    asked: &Asked<S>,
    name: &Bytes,
    revision: u64,
) -> Result<(Option<pb::ResponseHeader>, Option<v1::Record>), Refused> {
    let (key, range_end) = below(name);
    let sort = SortTarget::CreateRevision.into();
    let first = v1::Range { key, range_end, limit: 1, sort, revision, ..Default::default() };
    let none = v1::Range { key: name.clone(), count_only: true, ..Default::default() };
    let (header, [holder, _]) = two(asked, first, none).await?;
    Ok((header, holder))
}

fn made_at(key: &Bytes, revision: u64) -> v1::Compare {
    v1::Compare {
        key: key.clone(),
        relation: Relation::Equal.into(),
        operand: Some(Operand::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

/// The first records of two ranges at one moment.
async fn two<S: Service>(
    asked: &Asked<S>,
    one: v1::Range,
    other: v1::Range,
) -> Result<(Option<pb::ResponseHeader>, [Option<v1::Record>; 2]), Refused> {
    let success = [one, other].map(|range| v1::Operation { kind: Some(Kind::Range(range)) }).to_vec();
    let (header, result) = transact(asked, v1::Transaction { success, ..Default::default() }).await?;
    let mut first = result.results.into_iter().map(|result| match result.kind {
        Some(ResultKind::Range(range)) => range.records.into_iter().next(),
        _ => None,
    });
    Ok((header, [first.next().flatten(), first.next().flatten()]))
}

async fn transact<S: Service>(
    asked: &Asked<S>,
    transaction: v1::Transaction,
) -> Result<(Option<pb::ResponseHeader>, v1::TransactionResult), Refused> {
    let request = v1::TxnRequest { target: asked.target(), transaction: Some(transaction), ..Default::default() };
    let answer = asked.service.txn(request, soon()).await?;
    let result = answer.result.unwrap_or_default();
    let term = answer.header.map_or(0, |header| header.raft_term);
    Ok((asked.header(result.revision, term), result))
}

/// A wait has no deadline of its own, but each of its steps has.
fn soon() -> Instant {
    time::now() + REQUEST_TIMEOUT_DEFAULT
}
