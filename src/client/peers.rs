//! Connections to nodes, one each, and their breakers.
//!
//! A connection is opened explicitly and never reopens by itself: so a failure to connect is known
//! to have sent nothing, and only then may a write be sent elsewhere.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::breaker::Breaker;
use super::limits::{
    CHANNEL_QUEUE_MAX, CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    LASTING_CONNECTION_WINDOW_BYTES, LASTING_WINDOW_BYTES, PEERS_MAX, STREAM_WINDOW_BYTES,
};
use crate::env::net::{Network, Stream};
use crate::env::time::{self, Instant};
use crate::env::tls::{self, ClientTls, Verdict};

/// All nodes this client has talked to.
pub(crate) struct Peers {
    way: Way,
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
}

impl Peers {
    pub(crate) fn new(net: Arc<dyn Network>, tls: Option<Arc<ClientTls>>) -> Self {
        let windows = (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES);
        Self { way: Way { net, tls, windows }, peers: Mutex::default() }
    }

    /// The same nodes by other connections, for streams that last: one that nobody takes from holds up no other,
    /// and no call.
    pub(crate) fn for_streams(&self) -> Self {
        let windows = (LASTING_WINDOW_BYTES, LASTING_CONNECTION_WINDOW_BYTES);
        Self { way: Way { windows, ..self.way.clone() }, peers: Mutex::default() }
    }

    /// The node at `address`.
    pub(crate) fn get(&self, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(address) {
            return Arc::clone(peer);
        }
        if peers.len() >= PEERS_MAX {
            // Addresses come from servers; forgetting one costs a connection.
            peers.pop_first();
        }
        let peer = Arc::new(Peer {
            way: self.way.clone(),
            address: address.to_owned(),
            breaker: Mutex::new(Breaker::new()),
            distrust: Mutex::default(),
            slot: tokio::sync::Mutex::new(None),
        });
        peers.insert(address.to_owned(), Arc::clone(&peer));
        peer
    }
}

/// How nodes are reached.
#[derive(Clone)]
struct Way {
    net: Arc<dyn Network>,
    /// `None` in the clear.
    tls: Option<Arc<ClientTls>>,
    /// Bytes on their way on one stream, and on a whole connection.
    windows: (u32, u32),
}

impl Way {
    async fn open(self, address: &str, verdict: Verdict) -> io::Result<Box<dyn Stream>> {
        let stream = self.net.connect(address).await?;
        match self.tls {
            None => Ok(tls::attentive(stream, verdict, "name the CA of its certificate (--tls-ca)")),
            Some(tls) => tls.connect(stream, address, verdict).await,
        }
    }
}

/// One node.
pub(crate) struct Peer {
    way: Way,
    address: String,
    breaker: Mutex<Breaker>,
    distrust: Mutex<Option<String>>,
    slot: tokio::sync::Mutex<Option<Connection>>,
}

/// An open connection to a node.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    spent: Arc<Mutex<bool>>,
    verdict: Verdict,
}

impl Connection {
    /// The connection broke: the next call opens another.
    pub(crate) fn discard(&self) {
        *self.spent.lock() = true;
    }

    /// Why the node refused the connection as such, if it did: then it acted on nothing that was sent on it.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.verdict.refused()
    }
}

impl Peer {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the breaker lets a call through; otherwise when to ask again.
    pub(crate) fn admit(&self) -> Result<(), Instant> {
        self.breaker.lock().admit(time::now())
    }

    pub(crate) fn succeeded(&self) {
        self.breaker.lock().success();
        *self.distrust.lock() = None;
    }

    /// Why the node and this client did not believe each other when they last met, if so: a certificate does
    /// not do, or one of them speaks no TLS.
    pub(crate) fn distrust(&self) -> Option<String> {
        self.distrust.lock().clone()
    }

    /// Remembers that, and says it.
    pub(crate) fn distrusted(&self, why: &str) -> String {
        let message = format!("cannot connect to {}: {why}", self.address);
        *self.distrust.lock() = Some(message.clone());
        message
    }

    pub(crate) fn failed(&self) {
        self.breaker.lock().failure(time::now());
    }

    /// The open connection, or a new one. One caller connects, the others wait for it.
    ///
    /// An error says in words why nothing was sent.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<Connection, String> {
        let limit = deadline.min(time::now() + CONNECT_TIMEOUT);
        match time::timeout_at(limit, self.connect_now()).await {
            Ok(result) => result,
            Err(_) => Err(format!("cannot connect to {} in time", self.address)),
        }
    }

    async fn connect_now(&self) -> Result<Connection, String> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = slot.as_ref() {
            // Ready means that the channel still takes requests: a dead one is found out before
            // anything is given to it.
            let mut channel = connection.channel.clone();
            let ready = std::future::poll_fn(|cx| Service::poll_ready(&mut channel, cx)).await;
            let usable = ready.is_ok() && !*connection.spent.lock();
            if usable {
                return Ok(Connection { channel, ..connection.clone() });
            }
            *slot = None;
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| error.to_string())?
            .buffer_size(CHANNEL_QUEUE_MAX)
            .initial_stream_window_size(self.way.windows.0)
            .initial_connection_window_size(self.way.windows.1)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let verdict = Verdict::default();
        let connector =
            Connector { way: self.way.clone(), address: self.address.clone(), verdict: verdict.clone(), used: false };
        let channel = match endpoint.connect_with_connector(connector).await {
            Ok(channel) => channel,
            Err(error) => {
                return Err(match verdict.refused() {
                    Some(why) => self.distrusted(why),
                    None => {
                        *self.distrust.lock() = None;
                        format!("cannot connect to {}: {}", self.address, root_cause(&error))
                    }
                });
            }
        };
        let connection = Connection { channel, spent: Arc::default(), verdict };
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

/// Opens one byte stream through the network seam, once.
struct Connector {
    way: Way,
    address: String,
    verdict: Verdict,
    used: bool,
}

/// A channel's connection ended and the channel tried to open another: nothing was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection was closed")]
struct ConnectionSpent;

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (way, address, verdict) = (self.way.clone(), self.address.clone(), self.verdict.clone());
        let spent = std::mem::replace(&mut self.used, true);
        Box::pin(async move {
            if spent {
                return Err(io::Error::new(io::ErrorKind::NotConnected, ConnectionSpent));
            }
            way.open(&address, verdict).await.map(TokioIo::new)
        })
    }
}

/// What a status that no server sent says of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// A server answered.
    Answered,
    /// The connection was known to be closed before the request was given to it.
    No,
    /// The connection broke, or the channel did not say.
    Maybe,
    /// The caller's time was over, of which gRPC keeps a clock of its own. The connection is well.
    Late,
}

/// Tells a server's answer from a failure of the connection.
pub(crate) fn sent(status: &Status) -> Sent {
    let mut source = std::error::Error::source(status);
    if source.is_none() {
        // gRPC's "not ready" and other statuses made on this side look like an answer of the code
        // Unknown; Quorate's servers never send it without details.
        let made_here = status.code() == tonic::Code::Unknown && status.details().is_empty();
        return if made_here { Sent::Maybe } else { Sent::Answered };
    }
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return Sent::Late;
        }
        let spent = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if spent.is_some_and(|inner| inner.is::<ConnectionSpent>()) {
            return Sent::No;
        }
        source = error.source();
    }
    Sent::Maybe
}

/// The innermost words of an error: "connection refused" rather than "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
