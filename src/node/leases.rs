//! The leases of a shard whose leader runs here: their time, begun anew and asked for.
//!
//! A leader tells an owner nothing that another leader may contradict: what it says it confirms with a
//! majority after it has done it, and what the next leader must know is on record before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::RwLock;

use crate::env::time::{self, Instant};
use crate::proto::internal::LeaseTimed;
use crate::proto::v1::{ErrorCode, Outcome};
use crate::raft::Group;
use crate::shard::{Expiry, Renewed, ShardMachine};
use crate::storage::engine::EngineError;
use crate::types::GroupId;

use super::Failure;
use super::execute::{propose_failure, read_failure};
use super::router::no_leader;

/// The time of a shard's leases while its leader runs here.
pub(super) struct Leases {
    pub(super) id: GroupId,
    pub(super) group: Group,
    pub(super) machine: Arc<ShardMachine>,
    /// `None` while another replica leads, or none.
    expiry: Mutex<Option<Expiry>>,
    /// How often the times were read from what is on record; changed with `expiry` locked.
    loads: AtomicU64,
    /// The term that they are counted in; changed with `expiry` locked.
    term: AtomicU64,
    /// Held alone while lives are cut on record, and shared while one is made whole again: a cut that was
    /// reckoned before a renewal must not come after it in the log.
    pub(super) record: RwLock<()>,
}

impl Leases {
    pub(super) fn new(id: GroupId, group: Group, machine: Arc<ShardMachine>) -> Self {
        let (loads, term) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { id, group, machine, expiry: Mutex::default(), loads, term, record: RwLock::default() }
    }

    /// Begins to count in a term of this leader's, from what is on record.
    pub(super) fn begin(&self, term: u64) -> Result<(), EngineError> {
        // Changes first, or one that comes in between would be lost.
        self.machine.follow_changes();
        let mut held = self.expiry.lock();
        *held = Some(self.load()?);
        self.term.store(term, Ordering::Relaxed);
        Ok(())
    }

    fn load(&self) -> Result<Expiry, EngineError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Expiry::load(&*self.group.view()?, time::now())
    }

    /// Counts no longer.
    pub(super) fn end(&self) {
        *self.expiry.lock() = None;
        self.machine.unfollow_changes();
    }

    /// Does something with the times as they are now; `None` while nothing is counted here.
    pub(super) fn counted<R>(&self, act: impl FnOnce(&mut Expiry, Instant) -> R) -> Result<Option<R>, EngineError> {
        let mut held = self.expiry.lock();
        let Some(expiry) = held.as_mut() else { return Ok(None) };
        if expiry.learn(&self.machine.take_changes(), time::now()) {
            *expiry = self.load()?;
        }
        Ok(Some(act(expiry, time::now())))
    }

    /// Begins the time of a lease anew.
    pub(super) async fn renew(&self, lease: u64, deadline: Instant) -> Result<LeaseTimed, Failure> {
        let term = || self.term.load(Ordering::Relaxed);
        let renewed = self.ask(|expiry, now| Some((self.loaded(), term(), expiry.renew(lease, now)?)))?;
        let Some((loaded, term, renewed)) = renewed else {
            return self.gone(lease, deadline).await;
        };
        let Renewed { ttl, serial, reductions, record } = renewed;
        if let Some(record) = record {
            let Ok(_shared) = time::timeout_at(deadline, self.record.read()).await else {
                return Err(self.again("are being written down"));
            };
            let recorded = self.group.propose_in(term, record.encode_to_vec().into(), deadline).await;
            recorded.map_err(|error| {
                // Nothing that its owner could see has changed, whatever became of the record.
                let mut failure = propose_failure(self.id, error);
                failure.detail.set_outcome(Outcome::NotApplied);
                failure
            })?;
            self.ask(|expiry, _| {
                if self.loaded() == loaded {
                    expiry.recorded(lease, serial, reductions);
                }
            })?;
        }
        self.confirm(deadline).await?;
        // Times that were read since know of this one only what was on record by then.
        if self.ask(|_, _| self.loaded())? != loaded {
            return Err(self.again("have just been read anew"));
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(LeaseTimed { ttl_ms, remaining_ms: ttl_ms })
    }

    /// How much time a lease has left.
    pub(super) async fn time_of(&self, lease: u64, deadline: Instant) -> Result<LeaseTimed, Failure> {
        self.confirm(deadline).await?;
        let Some((ttl, remaining)) = self.ask(|expiry, now| expiry.time_of(lease, now))? else {
            return self.gone(lease, deadline).await;
        };
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(LeaseTimed { ttl_ms: ms(ttl), remaining_ms: ms(remaining) })
    }

    /// A lease that is not counted is none, if this replica still leads and shows everything. One whose time is
    /// over ends first: when its owner hears of it, its keys are gone.
    async fn gone(&self, lease: u64, deadline: Instant) -> Result<LeaseTimed, Failure> {
        self.confirm(deadline).await?;
        loop {
            let next = self.group.status().applied.map_or(0, |index| index + 1);
            let (lives, is_there) =
                self.ask(|expiry, now| (expiry.time_of(lease, now).is_some(), expiry.holds(lease)))?;
            let message = match (lives, is_there) {
                (false, false) => return Ok(LeaseTimed::default()),
                (false, true) if time::timeout_at(deadline, self.group.applied(next)).await.is_ok() => continue,
                (false, true) => {
                    format!("the time of lease {lease} is over, and its end is not applied yet; try again")
                }
                (true, _) => format!("lease {lease} has just been granted; try again"),
            };
            return Err(Failure::retry(ErrorCode::Unavailable, message));
        }
    }

    /// Nothing that the owner of a lease could see has changed.
    fn again(&self, why: &str) -> Failure {
        Failure::retry(ErrorCode::Unavailable, format!("the leases of shard {} {why}; try again", self.id.0))
    }

    fn loaded(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    fn ask<R>(&self, act: impl FnOnce(&mut Expiry, Instant) -> R) -> Result<R, Failure> {
        match self.counted(act) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(no_leader(self.id, Some("it does not count its leases yet"))),
            Err(error) => {
                let message = format!("the leases of shard {} cannot be read: {error}", self.id.0);
                Err(Failure::refused(ErrorCode::Internal, message))
            }
        }
    }

    /// This replica leads for certain, and in the term that the times are counted in: another leader may have put
    /// shorter ones on record between two terms of this one's.
    async fn confirm(&self, deadline: Instant) -> Result<(), Failure> {
        self.group.read_index(deadline).await.map_err(|error| read_failure(self.id, &error))?;
        if self.group.term() == self.term.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.again("are about to be read anew"))
    }
}
