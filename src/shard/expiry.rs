//! The time of leases and sessions, as their leader counts it.
//!
//! Pure: instants of the monotonic clock come in, what to propose goes out. A lease's time begins
//! anew with what its last checkpoint left when another replica becomes leader; a session's begins
//! anew whole. So both may end late, and early only by what clocks drift apart.
//!
//! ```text
//! machine.follow_changes(); let mut expiry = Expiry::load(view, now)?;
//! loop { expiry.learn(&machine.take_changes(), now); propose(expiry.due(now)); wait(expiry.wake_at()) }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::changes::{Changes, LeaseTerms, SessionTerms};
use super::table::{lease, session};
use crate::env::time::Instant;
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::{
    CheckpointLeases, CloseSessions, ExpireLeases, ShardCommand, StoredLease, checkpoint_leases, close_sessions,
};
use crate::storage::engine::{EngineError, View};
use crate::types::limits::{EXPIRY_BATCH_MAX, TTL_MS_MAX};

/// How long what was proposed may take to be applied before it is proposed again.
pub const EXPIRY_RETRY: Duration = Duration::from_secs(5);
/// A checkpoint is due when a quarter of a lease's life has passed, but not more often than this …
pub const CHECKPOINT_STEP_MIN: Duration = Duration::from_secs(10);
/// … and not less often than this: what a lease can gain when the leader changes.
pub const CHECKPOINT_STEP_MAX: Duration = Duration::from_secs(300);

/// What a leader knows of the leases and sessions of its shard.
///
/// Invariants: every lease is in `expiries` once, and in `checkpoints` at most once; every session
/// is in `closes` once; each at the instant its clock says.
#[derive(Default)]
pub struct Expiry {
    leases: BTreeMap<u64, LeaseClock>,
    expiries: BTreeSet<(Instant, u64)>,
    checkpoints: BTreeSet<(Instant, u64)>,
    sessions: BTreeMap<u64, SessionClock>,
    closes: BTreeSet<(Instant, u64)>,
}

struct LeaseClock {
    ttl: Duration,
    /// Which lease of its id this is.
    serial: u64,
    /// How often a time shorter than its whole life was proposed for the record, and how many of these the
    /// whole life has taken the place of since.
    reductions: u64,
    restored: u64,
    /// When its time is over.
    end: Instant,
    /// When to propose its end; later than `end` once it was proposed.
    expire_at: Instant,
    checkpoint_at: Option<Instant>,
}

/// A lease whose time has begun anew.
#[derive(Clone, PartialEq, Debug)]
pub struct Renewed {
    /// Its life.
    pub ttl: Duration,
    /// Which lease of its id it is.
    pub serial: u64,
    /// How often its record was reduced so far.
    pub reductions: u64,
    /// What must be applied before its owner may hear of it: or else the next leader would end it by an older
    /// record. [`Expiry::recorded`] takes that in.
    pub record: Option<ShardCommand>,
}

struct SessionClock {
    terms: SessionTerms,
    close_at: Instant,
}

impl Expiry {
    /// What a new leader begins with at `now`.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn load(view: &dyn View, now: Instant) -> Result<Self, EngineError> {
        let mut expiry = Self::default();
        for stored in lease::all(view) {
            let (id, lease) = stored?;
            expiry.grant(id, terms_of(id, &lease), now);
        }
        for stored in session::all(view) {
            let (id, session) = stored?;
            expiry.touch(id, SessionTerms { ttl_ms: session.ttl_ms, highest: session.highest }, now);
        }
        Ok(expiry)
    }

    /// Learns what commands changed until `now`. Returns whether changes were lost, so that this
    /// must be loaded anew.
    #[must_use = "when changes were lost, load anew"]
    pub fn learn(&mut self, changes: &Changes, now: Instant) -> bool {
        for (&id, terms) in &changes.leases {
            match terms {
                // A change that was loaded already must not begin its time again.
                Some(terms) if self.leases.get(&id).is_none_or(|known| known.serial != terms.serial) => {
                    self.grant(id, *terms, now);
                }
                Some(_) => {}
                None => self.end(id),
            }
        }
        for (&id, terms) in &changes.sessions {
            match terms {
                Some(terms) => self.touch(id, *terms, now),
                None => self.forget(id),
            }
        }
        changes.lost
    }

    /// Whether lives are to be cut on record at `now`.
    pub fn cuts_at(&self, now: Instant) -> bool {
        self.checkpoints.first().is_some_and(|(at, _)| *at <= now)
    }

    /// What to propose at `now`: at most one command of each kind, with [`EXPIRY_BATCH_MAX`] leases
    /// or sessions each, and only where it `cuts` one that cuts lives on record, which is the first.
    /// What is not applied within [`EXPIRY_RETRY`] comes again.
    pub fn due(&mut self, now: Instant, cuts: bool) -> Vec<ShardCommand> {
        // What is over is not cut.
        let leases = self.expired(now);
        let checkpoints = if cuts { self.checkpointable(now) } else { Vec::new() };
        let sessions = self.silent(now);
        let mut due = Vec::new();
        if !checkpoints.is_empty() {
            due.push(Kind::CheckpointLeases(CheckpointLeases { leases: checkpoints }));
        }
        if !leases.is_empty() {
            let (leases, serials) = leases.into_iter().unzip();
            due.push(Kind::ExpireLeases(ExpireLeases { leases, serials }));
        }
        if !sessions.is_empty() {
            due.push(Kind::CloseSessions(CloseSessions { sessions }));
        }
        due.into_iter().map(|kind| ShardCommand { kind: Some(kind), ..ShardCommand::default() }).collect()
    }

    /// When something is due next; `None` while there is nothing to wait for but changes.
    pub fn wake_at(&self) -> Option<Instant> {
        let firsts = [&self.expiries, &self.checkpoints, &self.closes].map(|queue| queue.first().map(|(at, _)| *at));
        firsts.into_iter().flatten().min()
    }

    /// Begins the time of a lease anew at `now`, unless it is over.
    pub fn renew(&mut self, id: u64, now: Instant) -> Option<Renewed> {
        let clock = self.leases.get_mut(&id).filter(|clock| clock.end > now)?;
        let (old_expiry, old_checkpoint) = (clock.expire_at, clock.checkpoint_at.take());
        clock.end = later(now, clock.ttl);
        clock.expire_at = clock.end;
        clock.checkpoint_at = next_checkpoint(clock, now);
        self.expiries.remove(&(old_expiry, id));
        self.expiries.insert((clock.expire_at, id));
        if let Some(at) = old_checkpoint {
            self.checkpoints.remove(&(at, id));
        }
        self.checkpoints.extend(clock.checkpoint_at.map(|at| (at, id)));
        let record = (clock.reductions > clock.restored).then(|| {
            let entry = checkpoint_leases::Entry { lease: id, remaining_ms: millis(clock.ttl), serial: clock.serial };
            let kind = Kind::CheckpointLeases(CheckpointLeases { leases: vec![entry] });
            ShardCommand { kind: Some(kind), ..ShardCommand::default() }
        });
        Some(Renewed { ttl: clock.ttl, serial: clock.serial, reductions: clock.reductions, record })
    }

    /// The whole life of a lease is on record again, after so many reductions.
    pub fn recorded(&mut self, id: u64, serial: u64, reductions: u64) {
        if let Some(clock) = self.leases.get_mut(&id).filter(|clock| clock.serial == serial) {
            clock.restored = clock.restored.max(reductions.min(clock.reductions));
        }
    }

    /// How long a lease lives, and how much of that is left at `now`; `None` when it is over.
    pub fn time_of(&self, id: u64, now: Instant) -> Option<(Duration, Duration)> {
        let clock = self.leases.get(&id).filter(|clock| clock.end > now)?;
        Some((clock.ttl, clock.end.saturating_duration_since(now)))
    }

    /// Whether a lease has not ended yet, be its time over or not.
    pub fn holds(&self, id: u64) -> bool {
        self.leases.contains_key(&id)
    }

    fn expired(&mut self, now: Instant) -> Vec<(u64, u64)> {
        let mut expired = Vec::new();
        for id in first_due(&self.expiries, now) {
            let Some(clock) = self.leases.get_mut(&id) else { continue };
            expired.push((id, clock.serial));
            self.expiries.remove(&(clock.expire_at, id));
            clock.expire_at = later(now, EXPIRY_RETRY);
            self.expiries.insert((clock.expire_at, id));
            if let Some(at) = clock.checkpoint_at.take() {
                self.checkpoints.remove(&(at, id));
            }
        }
        expired
    }

    fn checkpointable(&mut self, now: Instant) -> Vec<checkpoint_leases::Entry> {
        let mut entries = Vec::new();
        for id in first_due(&self.checkpoints, now) {
            let Some(clock) = self.leases.get_mut(&id) else { continue };
            let remaining_ms = millis(clock.end.saturating_duration_since(now));
            clock.reductions += 1;
            entries.push(checkpoint_leases::Entry { lease: id, remaining_ms, serial: clock.serial });
            if let Some(at) = clock.checkpoint_at.take() {
                self.checkpoints.remove(&(at, id));
            }
            clock.checkpoint_at = next_checkpoint(clock, now);
            self.checkpoints.extend(clock.checkpoint_at.map(|at| (at, id)));
        }
        entries
    }

    fn silent(&mut self, now: Instant) -> Vec<close_sessions::Entry> {
        let mut entries = Vec::new();
        for session_id in first_due(&self.closes, now) {
            let Some(clock) = self.sessions.get_mut(&session_id) else { continue };
            entries.push(close_sessions::Entry { session_id, seen_sequence: clock.terms.highest, any: false });
            self.closes.remove(&(clock.close_at, session_id));
            clock.close_at = later(now, EXPIRY_RETRY);
            self.closes.insert((clock.close_at, session_id));
        }
        entries
    }

    fn grant(&mut self, id: u64, terms: LeaseTerms, now: Instant) {
        self.end(id);
        let end = later(now, Duration::from_millis(terms.remaining_ms.min(TTL_MS_MAX)));
        let ttl = Duration::from_millis(terms.ttl_ms.min(TTL_MS_MAX));
        let reductions = u64::from(terms.remaining_ms < terms.ttl_ms);
        let serial = terms.serial;
        let mut clock = LeaseClock { ttl, serial, reductions, restored: 0, end, expire_at: end, checkpoint_at: None };
        clock.checkpoint_at = next_checkpoint(&clock, now);
        self.expiries.insert((clock.expire_at, id));
        self.checkpoints.extend(clock.checkpoint_at.map(|at| (at, id)));
        self.leases.insert(id, clock);
    }

    fn end(&mut self, id: u64) {
        let Some(clock) = self.leases.remove(&id) else { return };
        self.expiries.remove(&(clock.expire_at, id));
        if let Some(at) = clock.checkpoint_at {
            self.checkpoints.remove(&(at, id));
        }
    }

    fn touch(&mut self, id: u64, terms: SessionTerms, now: Instant) {
        self.forget(id);
        let close_at = later(now, Duration::from_millis(terms.ttl_ms.min(TTL_MS_MAX)));
        self.closes.insert((close_at, id));
        self.sessions.insert(id, SessionClock { terms, close_at });
    }

    fn forget(&mut self, id: u64) {
        if let Some(clock) = self.sessions.remove(&id) {
            self.closes.remove(&(clock.close_at, id));
        }
    }
}

fn terms_of(id: u64, stored: &StoredLease) -> LeaseTerms {
    LeaseTerms { ttl_ms: stored.ttl_ms, remaining_ms: stored.remaining_ms, serial: lease::serial(id, stored) }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn first_due(queue: &BTreeSet<(Instant, u64)>, now: Instant) -> Vec<u64> {
    queue.iter().take_while(|(at, _)| *at <= now).take(EXPIRY_BATCH_MAX).map(|(_, id)| *id).collect()
}

/// When the time left should be written down next; not at all if the lease ends before.
fn next_checkpoint(clock: &LeaseClock, now: Instant) -> Option<Instant> {
    let at = later(now, (clock.ttl / 4).clamp(CHECKPOINT_STEP_MIN, CHECKPOINT_STEP_MAX));
    (at < clock.end).then_some(at)
}

/// `by` after `now`, or as late as the clock can tell.
fn later(now: Instant, by: Duration) -> Instant {
    std::iter::successors(Some(by), |by| Some(*by / 2)).find_map(|by| now.checked_add(by)).unwrap_or(now)
}
