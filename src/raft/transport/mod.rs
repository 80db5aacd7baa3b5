//! What nodes say to each other, over gRPC on [`crate::env::net`].
//!
//! Three connections go to each peer, so that nothing small waits behind something large: one for
//! appends and forwarded requests, one for heartbeats, votes and transfers, one for snapshots. Each
//! begins with an introduction that both ends check ([`super::peers`]), carries an envelope with
//! every frame, and is never silently replaced: when it breaks, its calls fail and the next call
//! connects anew, after a jittered pause.

mod append;
mod connect;
mod control;
mod join;
mod lane;
mod network;
mod receive;
mod serve_append;
mod server;
#[cfg(test)]
mod server_test;
mod snapshot;

pub(super) use connect::serve;
pub(super) use join::join;
pub(super) use lane::greet;
pub(super) use network::NetworkFactory;
pub use server::PeerHandler;
pub(super) use server::PeerService;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prost::Message;
use tonic::{Code, Status};

use self::control::Control;
use self::lane::{Lane, Use};
use super::codec::Malformed;
use super::peers::{Peers, Refusal};
use super::types::RpcError;
use crate::env::net::Network;
use crate::proto::internal as wire;
use crate::types::NodeId;

/// Time to connect to a peer.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for an introduction on a new connection.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a member has to take a new node in.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause before a refused connection is tried again; the first is an eighth of it.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(800);
/// Idle time after which a connection is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Time for the answer to a probe.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Append frames of one group on their way to one peer.
const APPEND_WINDOW: usize = 32;
/// Time for the next answer while append frames are on their way.
const APPEND_REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls on their way on one control stream.
const CONTROL_CALLS_MAX: usize = 1_024;
/// Time for the next chunk of a snapshot to be taken, or to come.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to verify, switch to and acknowledge a snapshot that has fully arrived.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Chunks of a snapshot that wait for the connection.
const SNAPSHOT_WINDOW: usize = 4;
/// Connections that peers may hold open to this node.
const CONNECTIONS_MAX: usize = 1_024;
/// Streams on one connection: groups that append, and forwarded requests.
const STREAMS_MAX: u32 = 4_096;
/// Unread bytes of one stream.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Unread bytes of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Why a peer cannot be spoken to.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// Nothing was sent.
    #[error("node {0} has no known address")]
    NoAddress(NodeId),
    /// Nothing was sent.
    #[error("node {node} at {address} is unreachable: {why}")]
    Unreachable { node: NodeId, address: String, why: String },
    /// Nothing was sent: too much is on its way already.
    #[error("too many calls are on their way to node {0}")]
    Busy(NodeId),
    /// Nothing but a handshake or an introduction was sent: the other end does not prove who it is, or does
    /// not believe this one.
    #[error("node {node} at {address} is not trusted, or does not trust this node: {why}")]
    Untrusted { node: NodeId, address: String, why: String },
    /// The peer does not listen to this process, or the other way round.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer in time.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    /// The connection broke while an answer was due.
    #[error("the connection to node {node} broke: {why}")]
    Broken { node: NodeId, why: String },
    /// The answer makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl LinkError {
    /// Reads the refusal out of a status, if it is one.
    fn from_status(node: NodeId, status: &Status) -> Self {
        match wire::PeerError::decode(status.details()) {
            Ok(error) if !status.details().is_empty() => Self::Refused(refusal(error)),
            _ => Self::Broken { node, why: describe(status) },
        }
    }

    /// For openraft: after what `Unreachable` says it backs off, after what `Network` says it tries
    /// again at once.
    fn to_rpc(&self) -> RpcError {
        match self {
            Self::NoAddress(_)
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Refused(_)
            | Self::Malformed(_) => RpcError::Unreachable(openraft::errors::Unreachable::from_string(self)),
            Self::Busy(_) | Self::Timeout(_) | Self::Broken { .. } => {
                RpcError::Network(openraft::errors::NetworkError::from_string(self))
            }
        }
    }

    /// Whether the peer certainly did not see what was to be sent.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::NoAddress(_)
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Busy(_)
            | Self::Refused(_) => true,
            Self::Timeout(_) | Self::Broken { .. } | Self::Malformed(_) => false,
        }
    }
}

fn refusal(error: wire::PeerError) -> Refusal {
    Refusal::new(error.code(), error.message)
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// A refusal where a call has no reply for it.
fn refused_status(refusal: &Refusal) -> Status {
    let details = refusal.to_wire().encode_to_vec();
    Status::with_details(Code::FailedPrecondition, refusal.message.clone(), details.into())
}

/// The peers this node speaks to.
pub(super) struct Links {
    net: Arc<dyn Network>,
    pub(super) peers: Arc<Peers>,
    snapshot_chunk_bytes: usize,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
}

impl Links {
    pub(super) fn new(net: Arc<dyn Network>, peers: Arc<Peers>, snapshot_chunk_bytes: usize) -> Self {
        Self { net, peers, snapshot_chunk_bytes, links: Mutex::default() }
    }

    pub(super) fn net(&self) -> &Arc<dyn Network> {
        &self.net
    }

    /// The link to a node; made when it is first asked for.
    pub(super) fn to(&self, node: NodeId) -> Arc<Link> {
        let mut links = self.links.lock();
        links.entry(node).or_insert_with(|| Arc::new(Link::new(node, self.net.clone(), self.peers.clone()))).clone()
    }

    /// Says where a node listens. Connections to another address are given up.
    pub(super) fn set_address(&self, node: NodeId, address: &str) {
        let link = self.to(node);
        {
            let mut known = link.address.write();
            if known.as_deref() == Some(address) {
                return;
            }
            *known = Some(address.to_owned());
        }
        for lane in [&link.append, &link.snapshot, link.control.lane()] {
            lane.reset();
        }
        // Meets the peer early: a node that must not come back learns it before it is needed.
        tokio::spawn(async move {
            if let Err(error) = link.control.lane().channel().await {
                tracing::debug!(%node, %error, "a peer cannot be reached yet");
            }
        });
    }
}

/// The connections to one peer.
pub(super) struct Link {
    address: Arc<RwLock<Option<String>>>,
    pub(super) append: Arc<Lane>,
    pub(super) snapshot: Arc<Lane>,
    pub(super) control: Control,
}

impl Link {
    fn new(node: NodeId, net: Arc<dyn Network>, peers: Arc<Peers>) -> Self {
        let address = Arc::new(RwLock::new(None));
        let lane = |purpose| Arc::new(Lane::new(node, purpose, address.clone(), net.clone(), peers.clone()));
        let control = Control::new(lane(Use::Control), peers.clone());
        Self { append: lane(Use::Append), snapshot: lane(Use::Snapshot), control, address }
    }
}
