//! What all handles of one client share, and single attempts against single nodes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::budget::{RetryBudget, backoff_ceiling};
use super::config::ClientConfig;
use super::error::{Error, Result};
use super::limits::{BACKOFF_BASE, BREAKER_PATIENCE};
use super::map_watch;
use super::peers::{Peer, Peers, Sent, root_cause, sent};
use super::routes::Routes;
use super::rpc::Rpc;
use crate::env::Env;
use crate::env::chance;
use crate::env::time::{self, Instant};
use crate::env::tls::ClientTls;
use crate::proto::v1::{ErrorCode, MapRequest};

/// The shared part of a client.
pub(crate) struct Core {
    pub(crate) config: ClientConfig,
    pub(crate) peers: Peers,
    /// The same nodes, for streams that last.
    pub(crate) streaming: Peers,
    pub(crate) routes: Mutex<Routes>,
    pub(crate) budget: Mutex<RetryBudget>,
    refreshing: tokio::sync::Mutex<()>,
    /// Why no node gave a map when they were asked last.
    unreachable: Mutex<Option<Error>>,
    // Ends the background task with the last handle.
    _stop: DropGuard,
}

impl Core {
    /// Checks the settings and starts to follow the map. Needs a tokio runtime.
    pub(crate) fn start(env: &Env, config: ClientConfig) -> Result<Arc<Self>> {
        let config = config.normalized()?;
        let tls = config.tls.clone().map(|files| ClientTls::start(env, files, config.watch_map)).transpose();
        let tls = tls.map_err(|error| Error::not_applied(ErrorCode::InvalidArgument, error.to_string()))?;
        let stop = CancellationToken::new();
        let peers = Peers::new(Arc::clone(&env.net), tls.map(Arc::new));
        let core = Arc::new(Self {
            streaming: peers.for_streams(),
            peers,
            routes: Mutex::default(),
            budget: Mutex::new(RetryBudget::new(time::now())),
            refreshing: tokio::sync::Mutex::default(),
            unreachable: Mutex::default(),
            _stop: stop.clone().drop_guard(),
            config,
        });
        if core.config.watch_map {
            tokio::spawn(map_watch::follow_map(Arc::downgrade(&core), stop));
        }
        Ok(core)
    }

    /// One request to one node, until `deadline`. With an error comes whether the caller's own
    /// connection failed, so that a write was surely not sent.
    pub(crate) async fn attempt<R: Rpc>(
        &self,
        peer: &Peer,
        request: R,
        mutating: bool,
        deadline: Instant,
    ) -> std::result::Result<R::Answer, Attempted> {
        let connection = match peer.connect(deadline).await {
            Ok(connection) => connection,
            Err(message) => {
                peer.failed();
                let untrusted = peer.distrust().is_some();
                let error = Error { untrusted, ..Error::retryable(ErrorCode::Unavailable, message) };
                return Err(Attempted { error, reached: false });
            }
        };
        let patience = deadline.saturating_duration_since(time::now());
        if patience < Duration::from_millis(1) {
            // gRPC cannot express it, and nothing would come back in time.
            let message = format!("no time left to ask {}", peer.address());
            return Err(Attempted { error: Error::timed_out(false, message), reached: true });
        }
        let answer = time::timeout(patience, request.send(connection.channel.clone(), patience)).await;
        let status = match answer {
            Ok(Ok(answer)) => {
                peer.succeeded();
                if let Some(error) = R::failure(&answer) {
                    return Err(Attempted { error, reached: true });
                }
                self.budget.lock().earn();
                return Ok(answer);
            }
            Ok(Err(status)) if sent(&status) != Sent::Late => status,
            Ok(Err(_)) | Err(_) => {
                if patience >= BREAKER_PATIENCE {
                    peer.failed();
                }
                let message = format!("{} did not answer within {patience:?}", peer.address());
                return Err(Attempted { error: Error::timed_out(mutating, message), reached: false });
            }
        };
        if let Some(why) = connection.refused() {
            connection.discard();
            peer.failed();
            return Err(Attempted { error: Error::untrusted(peer.distrusted(why)), reached: false });
        }
        Err(match sent(&status) {
            Sent::Answered => {
                peer.succeeded();
                Attempted { error: Error::from_status(&status, mutating), reached: true }
            }
            Sent::No => {
                connection.discard();
                let message = format!("the connection to {} was closed", peer.address());
                Attempted { error: Error::retryable(ErrorCode::Unavailable, message), reached: false }
            }
            Sent::Maybe | Sent::Late => {
                connection.discard();
                peer.failed();
                let message = format!("the connection to {} broke: {}", peer.address(), root_cause(&status));
                Attempted { error: Error::broken(mutating, message), reached: false }
            }
        })
    }

    /// Gets a map newer than version `seen`, from `prefer` or whoever answers first.
    pub(crate) async fn refresh_map(&self, seen: u64, prefer: Option<&str>, deadline: Instant) -> Result<()> {
        match time::timeout_at(deadline, self.refresh_map_once(seen, prefer, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(Error::retryable(ErrorCode::Unavailable, "no endpoint sent the shard map in time")),
        }
    }

    /// The same, again and again until the deadline.
    pub(crate) async fn refresh_until(&self, seen: u64, deadline: Instant) -> Result<()> {
        let mut round = 0;
        loop {
            let error = match self.refresh_map(seen, None, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let wait = chance::jitter(backoff_ceiling(BACKOFF_BASE, round));
            if !error.is_retryable() || time::now() + wait >= deadline {
                return Err(error);
            }
            round += 1;
            time::sleep(wait).await;
        }
    }

    async fn refresh_map_once(&self, seen: u64, prefer: Option<&str>, deadline: Instant) -> Result<()> {
        let _only_one = self.refreshing.lock().await;
        if self.routes.lock().map().version > seen {
            return Ok(());
        }
        let others = self.routes.lock().candidates(None, &self.config.endpoints);
        // While all endpoints are given a rest, what they failed with last is still the reason.
        let mut last = self.unreachable.lock().clone().unwrap_or_else(|| {
            Error::retryable(ErrorCode::Unavailable, "every endpoint failed recently; waiting before the next try")
        });
        // Whether distrust keeps us from every one of them: that does not pass by itself within a call.
        let mut hopeless = true;
        for address in prefer.into_iter().chain(others.iter().map(String::as_str)) {
            let peer = self.peers.get(address);
            if peer.admit().is_err() {
                match peer.distrust() {
                    Some(why) => last = Error::untrusted(why),
                    None => hopeless = false,
                }
                continue;
            }
            let deadline = deadline.min(time::now() + self.config.attempt_timeout);
            let installed = match self.attempt(&peer, MapRequest {}, false, deadline).await {
                Ok(map) => {
                    hopeless = false;
                    self.routes.lock().install(&map)
                }
                Err(attempted) => {
                    hopeless &= peer.distrust().is_some();
                    Err(attempted.error)
                }
            };
            match installed {
                Ok(()) => {
                    *self.unreachable.lock() = None;
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        *self.unreachable.lock() = Some(last.clone());
        Err(if hopeless { last.for_good() } else { last })
    }
}

/// An attempt that failed.
pub(crate) struct Attempted {
    pub(crate) error: Error,
    /// Whether the node itself answered.
    pub(crate) reached: bool,
}
