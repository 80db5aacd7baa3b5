//! One connection to one peer for one purpose: made on demand, introduced before it is used.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::connect::{Dialed, NotDialed, connect};
use super::{CONNECT_TIMEOUT, HELLO_TIMEOUT, LinkError, RECONNECT_PAUSE_MAX, describe, refusal};
use crate::env::net::Network;
use crate::env::{chance, time};
use crate::proto::internal as wire;
use crate::proto::internal::peer_client::PeerClient;
use crate::proto::internal::peer_error::Code;
use crate::raft::peers::{Introduction, Peers, Refusal};
use crate::types::NodeId;
use crate::types::limits::PEER_FRAME_BYTES_MAX;

/// A client on one connection.
pub(super) type Client = PeerClient<Channel>;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Append,
    Control,
    Snapshot,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Control => "control",
            Self::Snapshot => "snapshot",
        })
    }
}

/// A connection in use, and which one it is.
#[derive(Clone)]
pub(in crate::raft) struct Connected {
    pub(super) client: Client,
    pub(super) generation: u64,
}

type Attempt = watch::Receiver<Option<Result<Connected, LinkError>>>;

enum State {
    /// Nothing, and nothing will be tried before `not_before`; `failures` attempts failed in a row.
    Idle {
        failures: u32,
        not_before: time::Instant,
        last: Option<LinkError>,
    },
    Connecting(Attempt),
    Ready(Connected),
}

/// One connection to one peer.
pub(in crate::raft) struct Lane {
    pub(super) node: NodeId,
    purpose: Use,
    address: Arc<RwLock<Option<String>>>,
    net: Arc<dyn Network>,
    peers: Arc<Peers>,
    state: Mutex<(u64, State)>,
}

impl Lane {
    pub(super) fn new(
        node: NodeId,
        purpose: Use,
        address: Arc<RwLock<Option<String>>>,
        net: Arc<dyn Network>,
        peers: Arc<Peers>,
    ) -> Self {
        Self { node, purpose, address, net, peers, state: Mutex::new((0, idle())) }
    }

    /// The connection; made if there is none. An attempt goes on even when no caller waits for it any
    /// longer, or a short deadline could keep a slow peer away for ever.
    pub(in crate::raft) async fn channel(self: &Arc<Self>) -> Result<Connected, LinkError> {
        let mut attempt = match self.attempt()? {
            Ok(connected) => return Ok(connected),
            Err(attempt) => attempt,
        };
        let done = attempt.wait_for(Option::is_some).await.map(|done| done.clone());
        match done {
            Ok(Some(result)) => result,
            _ => Err(self.unreachable("the attempt was given up")),
        }
    }

    fn attempt(self: &Arc<Self>) -> Result<Result<Connected, Attempt>, LinkError> {
        let (generation, state) = &mut *self.state.lock();
        match state {
            State::Ready(connected) => Ok(Ok(connected.clone())),
            State::Connecting(attempt) => Ok(Err(attempt.clone())),
            State::Idle { failures, not_before, last } => {
                if let Some(last) = last.as_ref().filter(|_| time::now() < *not_before) {
                    return Err(last.clone());
                }
                let failures = *failures;
                let (done, attempt) = watch::channel(None);
                *generation += 1;
                *state = State::Connecting(attempt.clone());
                tokio::spawn(self.clone().run(*generation, failures, done));
                Ok(Err(attempt))
            }
        }
    }

    async fn run(
        self: Arc<Self>,
        generation: u64,
        failures: u32,
        done: watch::Sender<Option<Result<Connected, LinkError>>>,
    ) {
        let result = self.connect().await.map(|client| Connected { client, generation });
        if let (0, Err(error)) = (failures, &result)
            && (self.peers.tls().is_none() || !matches!(error, LinkError::Untrusted { .. }))
        {
            // Once: it is tried again and again, and said when it is there.
            tracing::warn!(node = %self.node, purpose = %self.purpose, %error, "a peer cannot be reached");
        }
        {
            let (current, state) = &mut *self.state.lock();
            if *current == generation {
                *state = match &result {
                    Ok(connected) => State::Ready(connected.clone()),
                    Err(error) => State::Idle {
                        failures: failures.saturating_add(1),
                        not_before: time::now() + pause(failures),
                        last: Some(error.clone()),
                    },
                };
            }
        }
        done.send_replace(Some(result));
    }

    async fn connect(&self) -> Result<Client, LinkError> {
        let address = self.address.read().clone();
        let address = address.ok_or(LinkError::NoAddress(self.node))?;
        let result = greet(&*self.net, &self.peers, &address, self.node).await;
        match &result {
            Ok(_) => tracing::info!(node = %self.node, address, purpose = %self.purpose, "connected"),
            Err(error) => tracing::debug!(node = %self.node, address, purpose = %self.purpose, %error, "not connected"),
        }
        result.map(|(client, _)| client)
    }

    /// Passes a request on and waits for its answer.
    pub(in crate::raft) async fn forward(
        &self,
        mut connected: Connected,
        frame: wire::ForwardRequest,
        limit: std::time::Duration,
    ) -> Result<Bytes, LinkError> {
        match time::timeout(limit, connected.client.forward(frame)).await {
            Ok(Ok(response)) => {
                let wire::ForwardResponse { response, error } = response.into_inner();
                let Some(error) = error else { return Ok(response) };
                let refusal = refusal(error);
                if matches!(refusal.code, Code::UnknownIncarnation | Code::StaleIncarnation) {
                    self.broken(connected.generation);
                }
                Err(refusal.into())
            }
            Ok(Err(status)) => {
                if status.code() != tonic::Code::DeadlineExceeded {
                    self.broken(connected.generation);
                }
                Err(LinkError::Broken { node: self.node, why: describe(&status) })
            }
            Err(_) => Err(LinkError::Timeout(self.node)),
        }
    }

    /// Gives up a connection that failed. Another one stays.
    pub(super) fn broken(&self, generation: u64) {
        let (current, state) = &mut *self.state.lock();
        if *current == generation && matches!(state, State::Ready(_)) {
            *state = idle();
        }
    }

    /// Gives up whatever there is, and forgets earlier failures.
    pub(super) fn reset(&self) {
        let (generation, state) = &mut *self.state.lock();
        *generation += 1;
        *state = idle();
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state.lock().1, State::Idle { .. })
    }

    fn unreachable(&self, why: &str) -> LinkError {
        let address = self.address.read().clone().unwrap_or_default();
        LinkError::Unreachable { node: self.node, address, why: why.to_owned() }
    }
}

fn idle() -> State {
    State::Idle { failures: 0, not_before: time::now(), last: None }
}

/// The pause after an attempt: doubled each time, between half and all of it by chance.
fn pause(failures: u32) -> std::time::Duration {
    let full = RECONNECT_PAUSE_MAX / 8 * 2u32.pow(failures.min(3));
    full / 2 + chance::jitter(full / 2)
}

/// Connects to `address` and introduces both ends to each other. `node` is who is expected there, 0
/// for anybody.
pub(in crate::raft) async fn greet(
    net: &dyn Network,
    peers: &Peers,
    address: &str,
    node: NodeId,
) -> Result<(Client, wire::HelloResponse), LinkError> {
    let unreachable = |why: String| LinkError::Unreachable { node, address: address.to_owned(), why };
    let untrusted = |why: &str| distrust(peers, node, address, why);
    let dialed = match time::timeout(CONNECT_TIMEOUT, connect(net, peers.tls(), address)).await {
        Ok(Ok(dialed)) => dialed,
        Ok(Err(NotDialed::Unreachable(why))) => return Err(unreachable(why)),
        Ok(Err(NotDialed::Untrusted(why))) => return Err(untrusted(&why)),
        Err(_) => return Err(unreachable("connecting took too long".into())),
    };
    let Dialed { channel, certificate, verdict } = dialed;
    // Before anything is said: an introduction names what only peers should know.
    let certificate = certificate.as_ref();
    peers.check_expected(node, certificate).map_err(|refusal| untrusted(&refusal.message))?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(PEER_FRAME_BYTES_MAX);
    let request = peers.introduction().to_request(node);
    let response = match time::timeout(HELLO_TIMEOUT, client.hello(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            if let Some(why) = verdict.refused() {
                return Err(untrusted(why));
            }
            let error = LinkError::from_status(node, &status);
            if let LinkError::Refused(refusal) = &error
                && refusal.code == Code::Untrusted
            {
                return Err(untrusted(&refusal.message));
            }
            return Err(not_welcome(peers, address, error, unreachable));
        }
        Err(_) => return Err(unreachable("it did not introduce itself in time".into())),
    };
    let theirs = Introduction::from_response(response.clone())?;
    if node.0 != 0 && theirs.node != node {
        let message = format!("at {address} is node {}, not {node}: check the addresses", theirs.node);
        return Err(Refusal::new(Code::WrongNode, message).into());
    }
    match peers.meet(theirs, certificate).await {
        Ok(()) => Ok((client, response)),
        Err(refusal) if refusal.code == Code::Untrusted => Err(untrusted(&refusal.message)),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Says once why two nodes do not believe each other: they try again and again.
fn distrust(peers: &Peers, node: NodeId, address: &str, why: &str) -> LinkError {
    let error = LinkError::Untrusted { node, address: address.to_owned(), why: why.to_owned() };
    match peers.tls() {
        Some(tls) => tls.refusals().log("no connection to a peer", address, why),
        None => tracing::debug!(%error, "no connection to a peer"),
    }
    error
}

fn not_welcome(peers: &Peers, address: &str, error: LinkError, unreachable: impl Fn(String) -> LinkError) -> LinkError {
    if let LinkError::Refused(refusal) = &error
        && matches!(refusal.code, Code::StaleIncarnation | Code::Removed)
    {
        peers.refused_by(address, &refusal.message);
    }
    // Nothing but an introduction was sent.
    if let LinkError::Broken { why, .. } = error { unreachable(why) } else { error }
}
