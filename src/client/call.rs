//! The one loop that carries every call: where to send it, whether to send it again, and what to
//! tell the caller in the end.
//!
//! The rule that matters: a write whose outcome is unknown is never sent again unless a session's
//! stamp makes the second one harmless.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::budget::backoff_ceiling;
use super::core::{Attempted, Core};
use super::error::{Error, Outcome, Result};
use super::limits::{BACKOFF_BASE, BACKOFF_OVERLOAD_BASE, REDIRECTS_MAX};
use super::peers::Peer;
use super::routes::{KeyRange, Located};
use super::rpc::Rpc;
use crate::env::chance;
use crate::env::time::{self, Instant};
use crate::proto::v1::{self, ErrorCode, Target};
use crate::types::GroupId;
use crate::types::limits::REQUEST_BYTES_MAX;

/// Remaining time in which another try makes no sense.
const LAST_GASP: Duration = Duration::from_millis(5);

/// Whom a call concerns.
#[derive(Clone, Copy)]
pub(crate) enum Route<'a> {
    /// The shard that holds the keys; refused when there are several.
    Keys { keyspace: &'a str, ranges: &'a [KeyRange] },
    /// The shard that holds the keys, or any node when there are several: it will gather.
    Gather { keyspace: &'a str, ranges: &'a [KeyRange] },
    /// This shard.
    Shard { keyspace: &'a str, shard: GroupId },
    /// This shard as long as it holds the keys: its session is the one that knows the write.
    Pinned { keyspace: &'a str, shard: GroupId, ranges: &'a [KeyRange] },
    /// Any node.
    Any,
    /// This node and no other.
    Node(&'a str),
}

/// What a second copy of the request would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Safety {
    /// Nothing: it can always be sent again.
    Read,
    /// Take effect twice.
    Write,
    /// Nothing: its session knows it.
    Stamped,
}

/// How a call is to be carried out.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) route: Route<'a>,
    pub(crate) safety: Safety,
    pub(crate) deadline: Instant,
    /// Whether to give up after the first failure.
    pub(crate) once: bool,
}

/// A request's target, resolved by the map of the moment.
struct Aim {
    target: Target,
    shard: Option<GroupId>,
    only: Option<String>,
}

/// What a call has been through.
#[derive(Default)]
struct History {
    attempts: u32,
    round: u32,
    redirects: u32,
    tried: BTreeSet<String>,
    next: Option<String>,
    overloaded: bool,
    refreshed: bool,
    // The first attempt that may have taken effect.
    ambiguous: Option<Error>,
    last: Option<Error>,
}

/// What to do after a failed step.
enum Step {
    Fail(Error),
    /// At once, and not a retry of its own.
    Next,
    Again,
    Wait(Option<Instant>),
}

impl Core {
    /// Carries out a call.
    pub(crate) async fn call<R: Rpc>(&self, request: &R, plan: &Plan<'_>) -> Result<R::Answer> {
        let size = request.encoded_len();
        if size > REQUEST_BYTES_MAX {
            return Err(Error::limit("request_bytes_max", REQUEST_BYTES_MAX, size));
        }
        let mut history = History::default();
        loop {
            let step = match self.step(request, plan, &mut history).await {
                Ok(answer) => return Ok(answer),
                Err(step) => step,
            };
            match step {
                Step::Fail(error) => return Err(history.close(error)),
                Step::Next | Step::Again | Step::Wait(_) if plan.once => return Err(history.give_up(plan)),
                // Not a retry of its own: hints and stale maps are followed a few times for free.
                Step::Next => {}
                Step::Again if history.next.is_some() => {}
                Step::Again if self.budget.lock().reserve(time::now(), Duration::ZERO).is_some() => {}
                Step::Again => self.pause(plan, &mut history, None).await?,
                Step::Wait(until) => self.pause(plan, &mut history, until).await?,
            }
        }
    }

    async fn step<R: Rpc>(
        &self,
        request: &R,
        plan: &Plan<'_>,
        history: &mut History,
    ) -> std::result::Result<R::Answer, Step> {
        if plan.deadline <= time::now() {
            return Err(Step::Fail(history.give_up(plan)));
        }
        let aim = match self.aim(plan, history).await {
            Ok(aim) => aim,
            Err(error) if error.is_retryable() => {
                history.last = Some(error);
                return Err(Step::Wait(None));
            }
            Err(error) => return Err(Step::Fail(error)),
        };
        let peer = self.pick(&aim, request, history).map_err(Step::Wait)?;
        history.attempts += 1;
        let is_near = request.is_near();
        let mut request = request.clone();
        request.aim(aim.target);
        let deadline = match plan.safety {
            Safety::Write => plan.deadline,
            Safety::Read | Safety::Stamped => plan.deadline.min(time::now() + self.config.attempt_timeout),
        };
        let mutating = plan.safety != Safety::Read;
        match self.attempt(&peer, request, mutating, deadline).await {
            Ok(answer) => {
                if let Some(header) = R::header(&answer).filter(|_| !is_near) {
                    self.routes.lock().executed(header);
                }
                Ok(answer)
            }
            Err(attempted) => Err(self.judge(attempted, &peer, aim.shard, plan, history).await),
        }
    }

    /// Resolves the route, fetching the map when there is none or it lacks the keyspace.
    async fn aim(&self, plan: &Plan<'_>, history: &mut History) -> Result<Aim> {
        if let Route::Node(address) = plan.route {
            return Ok(Aim { target: Target::default(), shard: None, only: Some(address.to_owned()) });
        }
        if let Route::Any = plan.route {
            return Ok(Aim { target: Target::default(), shard: None, only: None });
        }
        let version = self.routes.lock().map().version;
        if version == 0 {
            self.refresh_map(0, None, plan.deadline).await?;
        }
        let resolved = self.resolve(&plan.route);
        let outdated = |error: &Error| matches!(error.code, ErrorCode::KeyspaceNotFound | ErrorCode::WrongShard);
        let stale = resolved.as_ref().is_err_and(outdated);
        if stale && !history.refreshed && version != 0 {
            history.refreshed = true;
            self.refresh_map(version, None, plan.deadline).await?;
            return self.resolve(&plan.route);
        }
        resolved
    }

    fn resolve(&self, route: &Route<'_>) -> Result<Aim> {
        let routes = self.routes.lock();
        let aim = |keyspace: &str, located: Option<Located>| Aim {
            target: Target {
                keyspace: keyspace.to_owned(),
                shard_id: located.map_or(0, |located| located.shard.0),
                shard_epoch: located.map_or(0, |located| located.epoch.0),
            },
            shard: located.map(|located| located.shard),
            only: None,
        };
        match *route {
            Route::Keys { keyspace, ranges } => Ok(aim(keyspace, Some(routes.single(keyspace, ranges)?))),
            Route::Gather { keyspace, ranges } => match routes.touched(keyspace, ranges)?.as_slice() {
                [one] => Ok(aim(keyspace, Some(*one))),
                _ => Ok(aim(keyspace, None)),
            },
            Route::Shard { keyspace, shard } => Ok(aim(keyspace, Some(routes.shard(shard)?))),
            Route::Pinned { keyspace, shard, ranges } => {
                let located = routes.single(keyspace, ranges)?;
                if located.shard != shard {
                    let message = format!("the key moved from shard {} to {}", shard.0, located.shard.0);
                    return Err(Error::not_applied(ErrorCode::WrongShard, message));
                }
                Ok(aim(keyspace, Some(located)))
            }
            Route::Any | Route::Node(_) => Ok(aim("", None)),
        }
    }

    /// The best node that was not tried in this round and whose breaker lets us through; otherwise
    /// when the first breaker may.
    fn pick<R: Rpc>(
        &self,
        aim: &Aim,
        request: &R,
        history: &mut History,
    ) -> std::result::Result<Arc<Peer>, Option<Instant>> {
        let peers = if request.is_lasting() { &self.streaming } else { &self.peers };
        let named = history.next.take();
        let (zone, endpoints) = (self.config.zone.as_deref(), &self.config.endpoints);
        let candidates = match &aim.only {
            Some(only) => vec![only.clone()],
            None if request.is_near() => self.routes.lock().nearest(aim.shard, zone, endpoints),
            None => self.routes.lock().candidates(aim.shard, &self.config.endpoints),
        };
        let fresh = candidates.into_iter().filter(|address| !history.tried.contains(address));
        let mut earliest: Option<Instant> = None;
        for address in named.into_iter().chain(fresh) {
            let peer = peers.get(&address);
            match peer.admit() {
                Ok(()) => return Ok(peer),
                Err(at) => earliest = Some(earliest.map_or(at, |earliest| earliest.min(at))),
            }
        }
        Err(earliest)
    }

    /// Decides what a failed attempt means for the call.
    async fn judge(
        &self,
        attempted: Attempted,
        peer: &Peer,
        shard: Option<GroupId>,
        plan: &Plan<'_>,
        history: &mut History,
    ) -> Step {
        let Attempted { error, reached } = attempted;
        if peer.distrust().is_some() && matches!(plan.route, Route::Node(_)) {
            return Step::Fail(error.for_good());
        }
        history.tried.insert(peer.address().to_owned());
        // What the end of the call cut short says less than what came before.
        let cut_short = error.code == ErrorCode::Timeout && plan.deadline <= time::now();
        if !cut_short || history.last.is_none() {
            history.last = Some(error.clone());
        }
        match (error.outcome, plan.safety) {
            (Outcome::Applied, _) | (Outcome::Unknown, Safety::Read | Safety::Write) => return Step::Fail(error),
            (Outcome::Unknown, Safety::Stamped) => {
                history.ambiguous.get_or_insert_with(|| error.clone());
            }
            (Outcome::NotApplied, _) => {
                let elsewhere = matches!(error.code, ErrorCode::WrongShard | ErrorCode::NoLeader);
                // What a server cannot tell does not matter where a second copy changes nothing.
                let lost = plan.safety == Safety::Read
                    && error.detail.outcome() == v1::Outcome::Unknown
                    && error.is_unavailable();
                if !error.is_retryable() && !elsewhere && !lost {
                    return Step::Fail(error);
                }
            }
        }
        if error.code == ErrorCode::TooStale {
            // It says nothing of the leader, which comes when the other replicas refuse, too.
            history.redirects += 1;
            return if history.redirects <= REDIRECTS_MAX { Step::Next } else { Step::Again };
        }
        let named = match shard {
            Some(shard) if reached => self.routes.lock().refused(shard, peer.address(), &error.detail),
            Some(shard) => {
                self.routes.lock().doubt(shard, peer.address());
                None
            }
            None => None,
        };
        if error.code == ErrorCode::WrongShard {
            return self.after_wrong_shard(peer, plan, history).await;
        }
        if let Some(leader) = named
            && history.redirects < REDIRECTS_MAX
        {
            history.redirects += 1;
            history.next = Some(leader);
            return Step::Again;
        }
        if error.code == ErrorCode::Overloaded {
            history.overloaded = true;
            return Step::Wait(None);
        }
        Step::Again
    }

    /// The node knows another map: take it over, and go on at once if it is news.
    async fn after_wrong_shard(&self, peer: &Peer, plan: &Plan<'_>, history: &mut History) -> Step {
        let version = self.routes.lock().map().version;
        let refreshed = self.refresh_map(version, Some(peer.address()), plan.deadline).await;
        let news = refreshed.is_ok() && self.routes.lock().map().version > version;
        if news && history.redirects < REDIRECTS_MAX {
            history.redirects += 1;
            history.tried.clear();
            return Step::Again;
        }
        Step::Wait(None)
    }

    /// Waits before the next round: full jitter, a token of the budget, or an open breaker,
    /// whichever takes longest.
    async fn pause(&self, plan: &Plan<'_>, history: &mut History, until: Option<Instant>) -> Result<()> {
        let now = time::now();
        let left = plan.deadline.saturating_duration_since(now);
        if left < LAST_GASP {
            return Err(history.give_up(plan));
        }
        let Some(token) = self.budget.lock().reserve(now, left) else {
            return Err(history.give_up(plan));
        };
        let base = if history.overloaded { BACKOFF_OVERLOAD_BASE } else { BACKOFF_BASE };
        let backoff = chance::jitter(backoff_ceiling(base, history.round));
        let breaker = until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        // A last try in the middle of what is left is worth more than none.
        let wait = backoff.max(breaker).min(left / 2).max(token);
        history.round = history.round.saturating_add(1);
        history.tried.clear();
        history.overloaded = false;
        time::sleep(wait).await;
        Ok(())
    }
}

impl History {
    /// The call ends with `error`, which speaks of the last attempt only.
    fn close(&self, error: Error) -> Error {
        match &self.ambiguous {
            Some(earlier) => error.after_ambiguity(earlier),
            None => error,
        }
    }

    /// The call ends because its time is over.
    fn give_up(&self, plan: &Plan<'_>) -> Error {
        let Some(last) = &self.last else {
            let message = "the time was over before any node could be asked";
            return self.close(Error::retryable(ErrorCode::Timeout, message));
        };
        if plan.once {
            return self.close(last.clone());
        }
        let mut error = last.clone();
        error.message = match self.attempts {
            0 => format!("gave up: {}", last.message),
            attempts => format!("gave up after {attempts} attempts: {}", last.message),
        };
        self.close(error)
    }
}
