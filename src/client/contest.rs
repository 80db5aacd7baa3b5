//! Contests for a name, the ground of locks and elections: whoever has the oldest key below the name holds it, and
//! everybody waits for the one before. A key hangs on its owner's lease.
//!
//! The keys are those of etcd's own clients and services (`NAME/` and the lease in hexadecimal digits), so that all
//! contend with each other.

use std::time::Duration;

use bytes::Bytes;

use super::budget::backoff_ceiling;
use super::call::{Route, Safety};
use super::error::{Error, Result};
use super::leases::KeepAlive;
use super::limits::BACKOFF_BASE;
use super::options::{PutOptions, WatchOptions};
use super::txn::{Condition, Op, Relation, Txn};
use super::{Client, EventKind, Record, TransactionResult, operation_result};
use crate::env::{chance, time};
use crate::proto::v1::range::SortTarget;
use crate::proto::v1::{self, ErrorCode, TxnRequest};

/// A place in the line for a name. Its lease is kept alive while one of its methods is waited for, and else not:
/// whoever is dropped leaves the line when the lease ends.
pub struct Contender {
    client: Client,
    name: Bytes,
    key: Bytes,
    revision: u64,
    lease: u64,
    alive: KeepAlive,
}

impl Client {
    /// Takes a place in the line for a name, with a value for others to see. It lasts `ttl` beyond the last sign
    /// of life.
    ///
    /// # Errors
    /// When nobody could be reached in time: then nothing is left that outlives `ttl`.
    pub async fn contend(&self, name: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Result<Contender> {
        let (name, value) = (name.into(), value.into());
        // One whose answer got lost has no key, and ends by itself.
        let lease = self.grant_lease(ttl, None).await?;
        let key: Bytes = [name.as_ref(), format!("/{:x}", lease.id).as_bytes()].concat().into();
        let txn = Txn::new()
            .when(Condition::create_revision(key.clone(), Relation::Equal, 0))
            .then(Op::put_with(key.clone(), value, &PutOptions::new().lease(lease.id)))
            .otherwise(Op::get(key.clone()));
        let entered = self.repeatable(txn).await.and_then(|result| {
            let revision = if result.succeeded { Some(result.revision) } else { first(&result, 0).map(created) };
            revision.ok_or_else(|| lost("its key went as soon as it was made"))
        });
        match entered {
            Ok(revision) => {
                let alive = self.keep_alive(&lease);
                Ok(Contender { client: self.clone(), name, key, revision, lease: lease.id, alive })
            }
            Err(error) => {
                // A put that is still on its way finds no lease then; should this fail, it is the lease's time.
                self.revoke(lease.id, Safety::Read).await.ok();
                Err(error)
            }
        }
    }

    /// A transaction that does the same however often it is carried out.
    pub(crate) async fn repeatable(&self, txn: Txn) -> Result<TransactionResult> {
        let ranges = txn.touched();
        let request = TxnRequest { transaction: Some(txn.wire), ..TxnRequest::default() };
        let plan = self.read(Route::Keys { keyspace: &self.keyspace, ranges: &ranges });
        Ok(self.core.call(&request, &plan).await?.result.unwrap_or_default())
    }
}

impl Contender {
    /// The key that stands for it.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The revision that made the key. Later holders have higher ones, so that a store which remembers the highest
    /// can turn away whoever does not know yet that it holds nothing any more.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The lease of the key.
    pub fn lease(&self) -> u64 {
        self.lease
    }

    /// Waits until nobody is before it in the line: then it holds the name.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND` when its place is lost, or must be taken as lost.
    pub async fn turn(&mut self) -> Result<()> {
        let Self { client, name, key, revision, alive, .. } = self;
        tokio::select! {
            biased;
            end = end_of(alive) => Err(end),
            turn = wait_for_turn(client, name, key, *revision) => turn,
        }
    }

    /// Waits until the name is lost, or must be taken as lost, and returns why.
    pub async fn lost(&mut self) -> Error {
        let Self { client, key, revision, alive, .. } = self;
        tokio::select! {
            biased;
            end = end_of(alive) => end,
            end = until_gone(client, key, *revision) => end,
        }
    }

    /// Leaves the line, so that the next one holds the name at once.
    ///
    /// # Errors
    /// When nobody could be reached in time: then the place is given up when the lease ends.
    pub async fn leave(self) -> Result<()> {
        match self.client.revoke(self.lease, Safety::Read).await {
            Err(error) if error.code == ErrorCode::LeaseNotFound => Ok(()),
            done => done,
        }
    }
}

/// Keeps the lease alive until that is over.
async fn end_of(alive: &mut KeepAlive) -> Error {
    loop {
        if let Err(error) = alive.next().await {
            return error;
        }
    }
}

async fn wait_for_turn(client: &Client, name: &Bytes, key: &Bytes, revision: u64) -> Result<()> {
    let mut round = 0;
    loop {
        let waited = match next_before(client, name, key, revision).await {
            Ok(None) => return Ok(()),
            Ok(Some((older, from))) => until_deleted(client, older, from).await,
            Err(error) => Err(error),
        };
        match waited {
            Ok(()) => round = 0,
            Err(error) => pause(error, &mut round).await?,
        }
    }
}

/// Whose place is the next before this one, and from which revision on it may leave.
async fn next_before(client: &Client, name: &Bytes, key: &Bytes, revision: u64) -> Result<Option<(Bytes, u64)>> {
    let older = v1::Range { reverse: true, create_revision_max: revision.saturating_sub(1), ..oldest_below(name) };
    let result = client.repeatable(Txn::new().then(Op::of_range(older)).then(Op::get(key.clone()))).await?;
    if first(&result, 1).map(created) != Some(revision) {
        return Err(lost("its key was deleted"));
    }
    Ok(first(&result, 0).map(|older| (older.key.clone(), result.revision.saturating_add(1))))
}

async fn until_deleted(client: &Client, key: Bytes, from: u64) -> Result<()> {
    let mut watch = client.watch(key, WatchOptions::new().revision(from));
    while watch.next().await?.kind() != EventKind::Delete {}
    Ok(())
}

async fn until_gone(client: &Client, key: &Bytes, revision: u64) -> Error {
    let mut round = 0;
    loop {
        let gone = async {
            let mut watch = client.watch(key.clone(), WatchOptions::new());
            watch.begin().await?;
            let present = client.repeatable(Txn::new().then(Op::get(key.clone()))).await?;
            if first(&present, 0).map(created) == Some(revision) {
                while watch.next().await?.kind() != EventKind::Delete {}
            }
            Ok(())
        };
        let error = match gone.await {
            Ok(()) => return lost("its key was deleted"),
            Err(error) => error,
        };
        if let Err(error) = pause(error, &mut round).await {
            return error;
        }
    }
}

/// Waits before what failed is tried again, if that may help: whether it comes too late, the lease says.
async fn pause(error: Error, round: &mut u32) -> Result<()> {
    // What was compacted is read anew.
    if !error.is_unavailable() && error.code != ErrorCode::Compacted {
        return Err(error);
    }
    time::sleep(chance::jitter(backoff_ceiling(BACKOFF_BASE, *round))).await;
    *round = round.saturating_add(1);
    Ok(())
}

/// The oldest key below a name: whoever has it holds the name.
pub(crate) fn oldest_below(name: &Bytes) -> v1::Range {
    let (key, range_end) = below(name);
    v1::Range { key, range_end, limit: 1, sort: SortTarget::CreateRevision.into(), ..v1::Range::default() }
}

/// The keys below a name, as a range.
pub(crate) fn below(name: &Bytes) -> (Bytes, Bytes) {
    ([name.as_ref(), b"/"].concat().into(), [name.as_ref(), b"0"].concat().into())
}

/// The first record of one of a transaction's results.
pub(crate) fn first(result: &TransactionResult, at: usize) -> Option<&Record> {
    match result.results.get(at)?.kind.as_ref()? {
        operation_result::Kind::Range(range) => range.records.first(),
        operation_result::Kind::Put(_) | operation_result::Kind::Delete(_) | operation_result::Kind::Transaction(_) => {
            None
        }
    }
}

fn created(record: &Record) -> u64 {
    record.create_revision
}

fn lost(why: &str) -> Error {
    Error::not_applied(ErrorCode::LeaseNotFound, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{Fake, Fault};

    const TTL: Duration = Duration::from_secs(30);

    async fn is_waiting(contender: &mut Contender) -> bool {
        time::timeout(Duration::from_secs(2), contender.turn()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_and_the_next_follows_in_order() {
        let fake = Fake::start(3);
        let client = fake.client(Duration::from_secs(5)).await;
        let mut first = client.contend("l", "1", TTL).await.unwrap();
        let mut second = client.contend("l", "2", TTL).await.unwrap();
        let mut third = client.contend("l", "3", TTL).await.unwrap();
        assert_eq!(first.key(), &Bytes::from(format!("l/{:x}", first.lease())));
        first.turn().await.unwrap();
        assert!(is_waiting(&mut second).await && is_waiting(&mut third).await);
        assert!(second.revision() > first.revision());
        second.leave().await.unwrap();
        assert!(is_waiting(&mut third).await, "the first still holds it");
        let (turn, ()) = tokio::join!(third.turn(), async {
            time::sleep(Duration::from_secs(1)).await;
            first.leave().await.unwrap();
        });
        turn.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_leaves_one_place_and_a_failed_entry_none() {
        let fake = Fake::start(1);
        let client = fake.client(Duration::from_secs(5)).await;
        fake.fault("txn", Fault::LoseAnswer);
        let mut contender = client.contend("l", "", TTL).await.unwrap();
        contender.turn().await.unwrap();
        assert_eq!(fake.state.lock().records.len(), 1);
        fake.fault("revoke", Fault::LoseAnswer);
        contender.leave().await.unwrap();
        assert!(fake.state.lock().records.is_empty());
        for _ in 0..200 {
            fake.fault("txn", Fault::LoseRequest);
        }
        assert!(client.contend("l", "", TTL).await.is_err());
        assert!(fake.state.lock().leases.is_empty(), "the lease was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_hears_of_the_loss() {
        let fake = Fake::start(1);
        let client = fake.client(Duration::from_secs(5)).await;
        for by_lease in [true, false] {
            let mut contender = client.contend("l", "", TTL).await.unwrap();
            contender.turn().await.unwrap();
            let (key, lease) = (contender.key().clone(), contender.lease());
            let (error, ()) = tokio::join!(contender.lost(), async {
                time::sleep(Duration::from_secs(100)).await;
                if by_lease {
                    fake.state.lock().end_lease(lease);
                    fake.changed.notify_waiters();
                } else {
                    client.delete(key).await.unwrap();
                }
            });
            assert_eq!(error.code, ErrorCode::LeaseNotFound, "{error}");
        }
        let mut waiting = client.contend("l", "", TTL).await.unwrap();
        let mut next = client.contend("l", "", TTL).await.unwrap();
        waiting.turn().await.unwrap();
        client.delete(next.key().clone()).await.unwrap();
        assert_eq!(next.turn().await.unwrap_err().code, ErrorCode::LeaseNotFound, "a place that was taken away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_reaches_nobody_knows_it_before_its_lease_can_end() {
        let fake = Fake::start(1);
        let client = fake.client(Duration::from_secs(5)).await;
        let mut contender = client.contend("l", "", TTL).await.unwrap();
        contender.turn().await.unwrap();
        let began = time::now();
        fake.stop(1);
        let error = contender.lost().await;
        assert!(time::now() - began <= TTL, "{error}");
        assert_eq!(error.code, ErrorCode::LeaseNotFound);
    }
}
