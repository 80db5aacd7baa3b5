//! Leases: a time to live that several keys share and that their owner begins anew; and what else concerns the one
//! shard of a keyspace.

use std::time::Duration;

use bytes::Bytes;

use super::Client;
use super::budget::backoff_ceiling;
use super::call::{Plan, Route, Safety};
use super::error::{Error, Result};
use super::limits::{BACKOFF_BASE, CLOCK_DRIFT_FRACTION, KEEP_ALIVE_FRACTION};
use super::options::Keys;
use crate::env::chance;
use crate::env::time::{self, Instant};
use crate::proto::v1::{
    CompactRequest, ErrorCode, GrantLeaseRequest, LeaseTimeRequest, LeasesRequest, RenewLeaseRequest,
    RevokeLeaseRequest,
};
use crate::types::GroupId;

/// A lease that was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Its id within the keyspace.
    pub id: u64,
    /// Its life, when nobody begins it anew.
    pub ttl: Duration,
    /// A moment on this machine's clock at which its time had not begun yet.
    pub(crate) asked_at: Instant,
}

/// How a lease stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseTime {
    /// Its whole life.
    pub ttl: Duration,
    /// What is left of it.
    pub remaining: Duration,
    /// Its keys, if they were asked for.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// Grants a lease in the keyspace, which must have one shard. Without an id the server chooses one.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when the id is taken; `CROSS_SHARD` when the keyspace has several shards.
    pub async fn grant_lease(&self, ttl: Duration, id: Option<u64>) -> Result<Lease> {
        let ttl_ms = milliseconds(ttl);
        let request = GrantLeaseRequest { target: None, lease: id.unwrap_or_default(), ttl_ms };
        let plan = self.on_only_shard(Safety::Write).await?;
        let asked_at = time::now();
        let answer = self.core.call(&request, &plan).await?;
        Ok(Lease { id: answer.lease, ttl: Duration::from_millis(answer.ttl_ms), asked_at })
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND` when there is none of this id.
    pub async fn revoke_lease(&self, lease: u64) -> Result<()> {
        self.revoke(lease, Safety::Write).await
    }

    pub(crate) async fn revoke(&self, lease: u64, safety: Safety) -> Result<()> {
        let plan = self.on_only_shard(safety).await?;
        self.core.call(&RevokeLeaseRequest { target: None, lease }, &plan).await.map(|_| ())
    }

    /// Begins the time of a lease anew. Returns its life. Safe to repeat.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND` when there is none of this id, or its time is over.
    pub async fn renew_lease(&self, lease: u64) -> Result<Duration> {
        let plan = self.on_only_shard(Safety::Read).await?;
        let answer = self.core.call(&RenewLeaseRequest { target: None, lease }, &plan).await?;
        Ok(Duration::from_millis(answer.ttl_ms))
    }

    /// Begins the time of a lease anew, again and again; see [`KeepAlive`].
    pub fn keep_lease_alive(&self, lease: u64) -> KeepAlive {
        KeepAlive { client: self.clone(), lease, due_at: time::now(), ends_at: None, round: 0 }
    }

    /// The same for one that was just granted here.
    pub(crate) fn keep_alive(&self, lease: &Lease) -> KeepAlive {
        let due_at = lease.asked_at + lease.ttl / KEEP_ALIVE_FRACTION;
        let ends_at = Some(end(lease.asked_at, lease.ttl));
        KeepAlive { client: self.clone(), lease: lease.id, due_at, ends_at, round: 0 }
    }

    /// How much time a lease has left, and its keys if they are asked for.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND` when there is none of this id.
    pub async fn lease_time(&self, lease: u64, keys: bool) -> Result<LeaseTime> {
        let plan = self.on_only_shard(Safety::Read).await?;
        let answer = self.core.call(&LeaseTimeRequest { target: None, lease, keys }, &plan).await?;
        let (ttl, remaining) = (Duration::from_millis(answer.ttl_ms), Duration::from_millis(answer.remaining_ms));
        Ok(LeaseTime { ttl, remaining, keys: answer.keys })
    }

    /// The leases of the keyspace, those of puts with a time to live among them.
    ///
    /// # Errors
    /// When nobody who may serve it could be reached in time.
    pub async fn leases(&self) -> Result<Vec<u64>> {
        let plan = self.on_only_shard(Safety::Read).await?;
        Ok(self.core.call(&LeasesRequest { target: None }, &plan).await?.leases)
    }

    /// Forgets what only revisions before this one could show, in a shard, or in the only one of the keyspace.
    /// Returns the present revision once they can be read no more, or, when told to `wait`, once all is forgotten;
    /// the rest goes on by itself.
    ///
    /// # Errors
    /// `FUTURE_REVISION` or `COMPACTED` when it cannot be done; the latter for the revision that was compacted last,
    /// too, unless it is to wait. When the time is over while it waits, the outcome is *applied*.
    pub async fn compact(&self, revision: u64, shard: Option<GroupId>, wait: bool) -> Result<u64> {
        let shard = match shard {
            Some(shard) => shard,
            None => self.only_shard().await?,
        };
        let request = CompactRequest { target: None, revision, wait, anew: !wait };
        let plan = self.on_shard(shard, Safety::Write);
        let answer = self.core.call(&request, &plan).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    async fn on_only_shard(&self, safety: Safety) -> Result<Plan<'_>> {
        let shard = self.only_shard().await?;
        Ok(self.on_shard(shard, safety))
    }

    fn on_shard(&self, shard: GroupId, safety: Safety) -> Plan<'_> {
        let route = Route::Shard { keyspace: &self.keyspace, shard };
        Plan { route, safety, deadline: time::now() + self.timeout, once: false }
    }

    /// The shard of a keyspace that has one.
    pub(crate) async fn only_shard(&self) -> Result<GroupId> {
        self.know_map(time::now() + self.timeout).await?;
        let touched = self.core.routes.lock().touched(&self.keyspace, &[Keys::all().touched()])?;
        match touched.as_slice() {
            [one] => Ok(one.shard),
            several => {
                let message = format!(
                    "keyspace `{}` has {} shards, each with leases and a history of its own: use a keyspace of one \
                     shard, or name the shard where that is possible",
                    self.keyspace,
                    several.len()
                );
                Err(Error::not_applied(ErrorCode::CrossShard, message))
            }
        }
    }
}

/// Keeps a lease alive, for as long as it is asked for the next renewal.
///
/// ```no_run
/// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
/// let lease = client.grant_lease(std::time::Duration::from_secs(30), None).await?;
/// let mut alive = client.keep_lease_alive(lease.id);
/// let end = loop {
///     if let Err(end) = alive.next().await {
///         break end;
///     }
/// };
/// println!("the lease is gone: {end}");
/// # Ok(())
/// # }
/// ```
pub struct KeepAlive {
    client: Client,
    lease: u64,
    due_at: Instant,
    /// When its time is over at the earliest, also where the leader's clock goes faster; `None` before the first
    /// renewal.
    ends_at: Option<Instant>,
    round: u32,
}

impl KeepAlive {
    /// Waits until a third of the lease's life has passed, and begins it anew. Returns its life. Dropping the future
    /// is safe.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND` when the lease is gone, or may be, since nothing renewed it for its whole life. Before the
    /// first renewal, when nobody could be reached within the client's timeout.
    pub async fn next(&mut self) -> Result<Duration> {
        let Some(ends_at) = self.ends_at else { return self.renew_in_time().await };
        match time::timeout_at(ends_at, self.renew_in_time()).await {
            Ok(renewed) => renewed,
            Err(_) => {
                let message =
                    format!("lease {} could not be renewed within its life and must be taken as ended", self.lease);
                Err(Error::not_applied(ErrorCode::LeaseNotFound, message))
            }
        }
    }

    async fn renew_in_time(&mut self) -> Result<Duration> {
        loop {
            time::sleep_until(self.due_at).await;
            let asked_at = time::now();
            match self.client.renew_lease(self.lease).await {
                Ok(ttl) => {
                    self.due_at = asked_at + ttl / KEEP_ALIVE_FRACTION;
                    self.ends_at = Some(end(asked_at, ttl));
                    self.round = 0;
                    return Ok(ttl);
                }
                Err(error) if error.is_unavailable() && self.ends_at.is_some() => {
                    tracing::debug!(%error, "a lease is not renewed yet");
                    self.due_at = time::now() + chance::jitter(backoff_ceiling(BACKOFF_BASE, self.round));
                    self.round = self.round.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// When a lease that was asked for at a moment may end at the earliest, on this machine's clock.
fn end(asked_at: Instant, ttl: Duration) -> Instant {
    asked_at + (ttl - ttl / CLOCK_DRIFT_FRACTION)
}

/// At least 1: a life of zero is none.
fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000).max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{Fake, Fault};
    use crate::client::{PutOptions, Record};

    const TTL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_granted_used_and_revoked() {
        let fake = Fake::start(1);
        let client = fake.client(Duration::from_secs(5)).await;
        let lease = client.grant_lease(TTL, None).await.unwrap();
        assert_eq!(lease.ttl, TTL);
        assert_eq!(client.grant_lease(TTL, Some(lease.id)).await.unwrap_err().code, ErrorCode::AlreadyExists);
        client.put_with("k", "v", &PutOptions::new().lease(lease.id)).await.unwrap();
        let written = client.session().put_with("k", "w", &PutOptions::new().lease(lease.id).previous()).await.unwrap();
        assert_eq!((written.revision, written.previous.map(|record| record.value)), (3, Some("v".into())));
        assert_eq!(client.get("k").await.unwrap().map(|record: Record| record.lease), Some(lease.id));
        let time = client.lease_time(lease.id, true).await.unwrap();
        assert_eq!((time.ttl, time.keys), (TTL, vec![Bytes::from_static(b"k")]));
        assert_eq!(client.leases().await.unwrap(), [lease.id]);
        client.revoke_lease(lease.id).await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), None);
        assert_eq!(client.revoke_lease(lease.id).await.unwrap_err().code, ErrorCode::LeaseNotFound);
        let both = PutOptions::new().lease(lease.id).ttl(TTL);
        assert_eq!(client.put_with("k", "v", &both).await.unwrap_err().code, ErrorCode::InvalidArgument);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_alive_over_failures_and_taken_as_ended_after_its_life() {
        let fake = Fake::start(2);
        let client = fake.client(Duration::from_secs(5)).await;
        let lease = client.grant_lease(TTL, None).await.unwrap();
        let mut alive = client.keep_alive(&lease);
        for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hang] {
            fake.fault("renew", fault);
            assert_eq!(alive.next().await.unwrap(), TTL);
        }
        let renewed = time::now();
        fake.stop(1);
        fake.stop(2);
        let error = alive.next().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::LeaseNotFound);
        let took = time::now() - renewed;
        let latest = TTL - TTL / 100;
        assert!(took <= latest && took > TTL - Duration::from_secs(5), "{took:?}: before a faster clock says so");
        fake.restart(1);
        fake.restart(2);
        time::sleep(Duration::from_secs(10)).await;
        fake.state.lock().end_lease(lease.id);
        let mut alive = client.keep_lease_alive(lease.id);
        assert_eq!(alive.next().await.unwrap_err().code, ErrorCode::LeaseNotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_keyspace_of_several_shards_has_no_leases_of_its_own() {
        let fake = Fake::start(1);
        fake.state.lock().map = crate::client::fake::hash_map(&["n1:1"], u64::MAX / 2);
        let client = fake.client(Duration::from_secs(5)).await.with_keyspace("h");
        let error = client.grant_lease(TTL, None).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::CrossShard);
        assert!(error.message.contains("2 shards"), "{error}");
    }
}
