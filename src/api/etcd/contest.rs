//! Contests for a name, the ground of locks and elections: whoever has the oldest key below the name holds it,
//! and everybody waits for the one before. A key hangs on its owner's lease.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::convert;
use super::error;
use super::face::{Asked, Refused};
use crate::api::watchers::Place;
use crate::env::time::{self, Instant};
use crate::node::{Failure, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::Kind as ResultKind;
use crate::proto::v1::range::SortTarget;
use crate::proto::v1::{self, ErrorCode};
use crate::types::Revision;
use crate::types::limits::REQUEST_TIMEOUT_DEFAULT;

/// Life of the lease of whoever brings none, in milliseconds; etcd's own.
const LEASE_TTL_MS: u64 = 60_000;
/// How long it is tried to take a place in a line of which it is not known whether it was taken, and to leave one.
const LEAVE_MAX: std::time::Duration = std::time::Duration::from_secs(60);
/// How often changes are asked for where no replica says that there are some.
const ASK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// A place in the line for a name, taken for one call. Dropped, it is given up: who has gone away must not stand
/// in the line.
struct Standing<S: Service> {
    asked: Arc<Asked<S>>,
    name: Bytes,
    key: Bytes,
    /// The revision that made the key: its place in the line.
    revision: u64,
    lease: i64,
    /// The revision at which this call put the key. Another call of the same session puts it once more, and from
    /// then on it is not this call's to give up.
    put_at: u64,
    is_over: bool,
}

impl<S: Service> Standing<S> {
    /// Gives the place up, whoever goes on listening.
    fn give_up(&mut self) -> Option<JoinHandle<()>> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        let (asked, farewell, until) = (self.asked.clone(), self.farewell(), time::now() + LEAVE_MAX);
        Some(tokio::spawn(async move {
            // Should it fail for so long, the key goes with its lease.
            while let Err(Refused::Failed(failure)) = transact(&asked, farewell.clone()).await
                && (failure.is_open() || failure.detail.retryable)
                && time::now() < until
            {
                time::sleep(ASK_EVERY).await;
            }
        }))
    }

    /// Deletes the key if this call was the last to put it. If another call made it, that one may have been told
    /// that it holds the name, once nobody older stood in the line: then it stays. May be repeated.
    fn farewell(&self) -> v1::Transaction {
        let delete = v1::DeleteRange { key: self.key.clone(), ..Default::default() };
        let delete = vec![v1::Operation { kind: Some(Kind::Delete(delete)) }];
        let success = if self.revision == self.put_at {
            delete
        } else {
            let (key, range_end) = below(&self.name);
            let operand = Some(Operand::CreateRevision(self.revision.saturating_sub(1)));
            let none_older = v1::Compare { key, range_end, relation: Relation::Greater.into(), operand };
            let unless_first = v1::Transaction { compares: vec![none_older], success: Vec::new(), failure: delete };
            vec![v1::Operation { kind: Some(Kind::Transaction(unless_first)) }]
        };
        let compares = vec![is(&self.key, Operand::ModRevision(self.put_at))];
        v1::Transaction { compares, success, failure: Vec::new() }
    }
}

impl<S: Service> Drop for Standing<S> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A name that is held.
pub(super) struct Held {
    pub(super) header: Option<pb::ResponseHeader>,
    pub(super) key: Bytes,
    pub(super) revision: u64,
    pub(super) lease: i64,
}

/// The keys below a name.
pub(super) fn below(name: &Bytes) -> (Bytes, Bytes) {
    ([name, &b"/"[..]].concat().into(), [name, &b"0"[..]].concat().into())
}

/// Says what etcd's own services say of a failure: they are clients of it, and so lose its code.
fn as_a_client(refused: Refused) -> Refused {
    match &refused {
        Refused::Failed(failure) if failure.detail.code() == ErrorCode::LeaseNotFound => {
            Status::new(Code::Unknown, error::LEASE_NOT_FOUND.1).into()
        }
        Refused::Known(_) | Refused::Said(_) | Refused::Failed(_) => refused,
    }
}

/// Takes a place in the line and waits until it is the first. A session that stands in it keeps its place. The
/// key has `value`; without one it is empty, or what it was.
pub(super) async fn hold<S: Service>(
    mut asked: Asked<S>,
    place: Place,
    name: &Bytes,
    lease: i64,
    value: Option<Bytes>,
) -> Result<Held, Refused> {
    asked.pin()?;
    // What is under way ends whether the caller goes away or not; the place is then given up by whoever drops it.
    let (asked, own) = (Arc::new(asked), name.clone());
    let entering = tokio::spawn(async move { (enter(asked, own, lease, value).await, place) });
    let entered = entering.await.map_err(|_| Status::internal("quorate: the place in the line was not taken"))?;
    let (standing, mut place) = entered;
    let mut standing = standing?;
    let turn = tokio::select! {
        biased;
        () = place.closing() => Err(Status::unavailable("etcdserver: server stopped").into()),
        turn = wait_for_turn(&standing, name) => turn,
    };
    match turn {
        Ok(header) => {
            standing.is_over = true;
            let (key, revision, lease) = (standing.key.clone(), standing.revision, standing.lease);
            Ok(Held { header, key, revision, lease })
        }
        Err(refused) => {
            // Who hears of an error does not stand in the line any more, unless nobody can be reached.
            if let Some(left) = standing.give_up() {
                time::timeout(REQUEST_TIMEOUT_DEFAULT, left).await.ok();
            }
            Err(refused)
        }
    }
}

/// Takes a place in the line, or finds the one that the lease has.
async fn enter<S: Service>(
    asked: Arc<Asked<S>>,
    name: Bytes,
    lease: i64,
    value: Option<Bytes>,
) -> Result<Standing<S>, Refused> {
    let lease = if lease == 0 { own_lease(&asked).await? } else { lease };
    let id = if lease < 0 { format!("-{:x}", lease.unsigned_abs()) } else { format!("{lease:x}") };
    let key: Bytes = [&name, &b"/"[..], id.as_bytes()].concat().into();
    let (keep_value, value) = (value.is_none(), value.unwrap_or_default());
    let put = v1::Put { key: key.clone(), value: value.clone(), lease: convert::lease(lease), ..Default::default() };
    let again = v1::Put { key: key.clone(), value, keep_value, keep_lease: true, ..Default::default() };
    let range = v1::Range { key: key.clone(), ..Default::default() };
    let transaction = v1::Transaction {
        compares: vec![is(&key, Operand::CreateRevision(0))],
        success: vec![v1::Operation { kind: Some(Kind::Put(put)) }],
        failure: [Kind::Put(again), Kind::Range(range)].map(|kind| v1::Operation { kind: Some(kind) }).to_vec(),
    };
    let (until, mut is_open) = (time::now() + LEAVE_MAX, false);
    let (_, result) = loop {
        let done = transact(&asked, transaction.clone()).await;
        if let Err(Refused::Failed(failure)) = &done
            && (failure.is_open() || (is_open && failure.detail.retryable))
            && time::now() < until
        {
            // Whether the key stands there is not known: putting it once more says it.
            is_open = true;
            time::sleep(ASK_EVERY).await;
            continue;
        }
        break done.map_err(as_a_client)?;
    };
    let put_at = result.revision;
    let standing = |revision| Standing { asked, name, key, revision, lease, put_at, is_over: false };
    if result.succeeded {
        return Ok(standing(put_at));
    }
    let found = result.results.into_iter().nth(1).and_then(|result| match result.kind {
        Some(ResultKind::Range(range)) => range.records.into_iter().next(),
        _ => None,
    });
    let found = found.ok_or_else(|| Status::internal("quorate: a key that exists was not shown"))?;
    Ok(standing(found.create_revision))
}

async fn own_lease<S: Service>(asked: &Asked<S>) -> Result<i64, Refused> {
    let grant = v1::GrantLeaseRequest { target: asked.target(), lease: 0, ttl_ms: LEASE_TTL_MS };
    Ok(convert::lease_shown(asked.service.grant_lease(grant, soon()).await?.lease))
}

/// Waits until nobody older is left in the line. Returns the header of the moment.
async fn wait_for_turn<S: Service>(own: &Standing<S>, name: &Bytes) -> Result<Option<pb::ResponseHeader>, Refused> {
    let asked = &*own.asked;
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
        let Some(older) = older else { return Ok(header) };
        let from = header.map_or(0, |header| header.revision).unsigned_abs().saturating_add(1);
        let ranges = [older.key, own.key.clone()].map(|key| v1::KeyRange { key, range_end: Bytes::new() });
        match until_deleted(asked, ranges.to_vec(), from).await {
            // What happened meanwhile is not known any more; how things are now is.
            Err(refused) if is_compacted(&refused) => {}
            waited => waited?,
        }
    }
}

/// Waits until one of the keys is deleted.
async fn until_deleted<S: Service>(asked: &Asked<S>, ranges: Vec<v1::KeyRange>, from: u64) -> Result<(), Refused> {
    let mut changes = Changes::of(asked, ranges, from)?;
    loop {
        for event in changes.next(asked).await? {
            if event.kind() == v1::event::Kind::Delete {
                return Ok(());
            }
        }
    }
}

/// Whether the history that was asked for is gone.
pub(super) fn is_compacted(refused: &Refused) -> bool {
    matches!(refused, Refused::Failed(failure) if failure.detail.code() == ErrorCode::Compacted)
}

/// The changes of some keys, as they come.
pub(super) struct Changes {
    shard: u64,
    ranges: Vec<v1::KeyRange>,
    from: u64,
    /// `None` where no replica of the shard is.
    revision: Option<watch::Receiver<Revision>>,
}

impl Changes {
    pub(super) fn of<S: Service>(asked: &Asked<S>, ranges: Vec<v1::KeyRange>, from: u64) -> Result<Self, Failure> {
        Ok(Self { shard: asked.shard()?.id, ranges, from, revision: None })
    }

    /// The next page with something in it.
    pub(super) async fn next<S: Service>(&mut self, asked: &Asked<S>) -> Result<Vec<v1::Event>, Refused> {
        loop {
            asked.shard_is(self.shard)?;
            if self.revision.is_none() {
                self.revision = asked.service.watch_revision(self.shard);
            }
            let mut must_ask = self.revision.is_none();
            let may_have_more = self.revision.as_mut().is_none_or(|revision| {
                // Marked before the state is read: a change in between wakes once more.
                revision.mark_unchanged();
                revision.borrow().0 >= self.from
            });
            if may_have_more {
                match self.page(asked).await {
                    Ok(page) => {
                        let goes_on = page.next_revision > self.from;
                        self.from = self.from.max(page.next_revision);
                        if !page.events.is_empty() {
                            return Ok(page.events);
                        }
                        if goes_on {
                            continue;
                        }
                    }
                    Err(failure) if failure.detail.retryable || failure.detail.code() == ErrorCode::NoLeader => {
                        must_ask = true;
                    }
                    Err(failure) => return Err(failure.into()),
                }
            }
            let changed = async {
                match &mut self.revision {
                    Some(revision) => revision.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let is_here = tokio::select! {
                is_here = changed => is_here,
                () = time::sleep(ASK_EVERY), if must_ask => true,
            };
            if !is_here {
                self.revision = None;
            }
        }
    }

    async fn page<S: Service>(&self, asked: &Asked<S>) -> Result<v1::EventsResponse, Failure> {
        let request = v1::EventsRequest {
            target: asked.target(),
            from_revision: self.from,
            ranges: self.ranges.clone(),
            level: v1::ReadLevel::Local.into(),
            ..Default::default()
        };
        asked.service.changes(request, soon()).await
    }
}

/// Deletes a key, if it is the one that was made at that revision.
pub(super) async fn leave<S: Service>(
    asked: &Asked<S>,
    key: Bytes,
    revision: u64,
) -> Result<Option<pb::ResponseHeader>, Refused> {
    let delete = v1::DeleteRange { key: key.clone(), ..Default::default() };
    let transaction = v1::Transaction {
        compares: vec![is(&key, Operand::CreateRevision(revision))],
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
        compares: vec![is(key, Operand::CreateRevision(revision))],
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

fn is(key: &Bytes, operand: Operand) -> v1::Compare {
    let relation = Relation::Equal.into();
    v1::Compare { key: key.clone(), relation, operand: Some(operand), range_end: Bytes::new() }
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
