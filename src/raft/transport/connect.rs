//! gRPC connections over [`crate::env::net`], within [`crate::env::tls`] where that is set: never
//! `tokio::net`, so that a simulator can stand in.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{
    CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PeerService, STREAM_WINDOW_BYTES,
    STREAMS_MAX,
};
use crate::env::net::{Listener, Network, Stream};
use crate::env::time;
use crate::env::tls::{self, Certificate, PeerTls, Verdict};
use crate::proto::internal::peer_server::{Peer, PeerServer};
use crate::types::limits::PEER_FRAME_BYTES_MAX;

/// Pause after a failed accept: the usual cause is too many open files.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A channel over one new connection. When that breaks, the channel fails for good.
pub(super) struct Dialed {
    pub(super) channel: Channel,
    /// What the peer presented; `None` without TLS.
    pub(super) certificate: Option<Certificate>,
    /// Becomes the reason if the peer refuses this end.
    pub(super) verdict: Verdict,
}

/// Why there is no connection.
pub(super) enum NotDialed {
    Unreachable(String),
    Untrusted(String),
}

pub(super) async fn connect(net: &dyn Network, tls: Option<&Arc<PeerTls>>, address: &str) -> Result<Dialed, NotDialed> {
    let unreachable = |error: &dyn std::error::Error| NotDialed::Unreachable(error.to_string());
    let stream = net.connect(address).await.map_err(|error| unreachable(&error))?;
    let verdict = Verdict::default();
    let (stream, certificate) = match tls {
        None => {
            let remedy = "give this node its files (--peer-tls-cert, --peer-tls-key and --peer-tls-ca)";
            (tls::attentive(stream, verdict.clone(), remedy), None)
        }
        Some(tls) => {
            let secured = tls.connect(stream, verdict.clone()).await;
            let (stream, certificate) = secured.map_err(|error| NotDialed::Untrusted(error.to_string()))?;
            (stream, Some(certificate))
        }
    };
    let channel = Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(OneConnection { stream: Some(stream) })
        .await
        .map_err(|error| unreachable(&error))?;
    Ok(Dialed { channel, certificate, verdict })
}

/// Hands out one connection, then refuses: a channel must not reconnect without an introduction.
struct OneConnection {
    stream: Option<Box<dyn Stream>>,
}

impl Service<Uri> for OneConnection {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection broke");
        ready(self.stream.take().map(TokioIo::new).ok_or_else(gone))
    }
}

/// Serves the peer port until `stop` turns true, then lets what is under way end.
///
/// hyper is driven from here and not by tonic's server, which puts the wall clock into every answer.
pub(in crate::raft) async fn serve(listener: Box<dyn Listener>, service: PeerService, stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let http = Arc::new(http());
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopped(stop.clone()));
    loop {
        tokio::select! {
            biased;
            () = &mut stopping => break,
            Some(_) = connections.join_next() => {}
            (stream, from, permit) = accept(&*listener, &permits) => {
                let serving = serve_peer(http.clone(), stream, from, service.clone(), stop.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Serves one connection, which may first have to prove where it comes from.
async fn serve_peer(
    http: Arc<Builder<TokioExecutor>>,
    stream: Box<dyn Stream>,
    from: SocketAddr,
    service: PeerService,
    stop: watch::Receiver<bool>,
) {
    let (stream, service) = match service.tls() {
        None => (stream, service),
        Some(tls) => {
            let accepted = tokio::select! {
                biased;
                () = stopped(stop.clone()) => return,
                accepted = tls.accept(stream, from) => accepted,
            };
            let Some((stream, certificate)) = accepted else { return };
            (stream, service.certified(from, certificate))
        }
    };
    let service = PeerServer::new(service)
        .max_decoding_message_size(PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(PEER_FRAME_BYTES_MAX);
    serve_connection(http, stream, service, stop).await;
}

pub(super) fn http() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX);
    builder
}

pub(super) async fn serve_connection<P: Peer>(
    http: Arc<Builder<TokioExecutor>>,
    stream: Box<dyn Stream>,
    service: PeerServer<P>,
    stop: watch::Receiver<bool>,
) {
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stopped(stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection on the peer port broke");
    }
}

/// Resolves when `stop` turns true, or when nobody is left who could turn it.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

async fn accept(
    listener: &dyn Listener,
    permits: &Arc<Semaphore>,
) -> (Box<dyn Stream>, SocketAddr, OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed; were it, no connection would be taken.
        let Ok(permit) = permits.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, from)) => return (stream, from, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the peer port");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
