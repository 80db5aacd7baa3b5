//! The client port: accepts connections, bounds them, serves HTTP/1.1 and HTTP/2 on each, drains them.
//!
//! hyper is driven from here and not by tonic's own server: that one answers a passed deadline itself,
//! without saying what became of the write, and knows no bound on connections and no end to a drain.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::authority::Authority;
use crate::env::net::{Listener, Stream};
use crate::env::time;
use crate::env::tls::ServerTls;
use crate::node::Telemetry;
use crate::types::limits;

/// Pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time a client has to say which protocol it speaks, and to send the headers of an HTTP/1.1 request.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes in which it says so: HTTP/2's preface. No HTTP/1.1 request with a host is shorter.
const OPENING_BYTES: usize = 24;
/// What is read at a time until its first headers are through.
const OPENING_PIECE_BYTES: usize = 1024;
/// Pings on an idle HTTP/2 connection, and the wait for their answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Unread bytes of one request, and of all on one connection: a whole request fits.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Time that requests in flight get when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A listening client port.
pub(super) struct Port {
    pub(super) listener: Box<dyn Listener>,
    /// How each connection begins, if not in the clear.
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) router: Router,
    pub(super) telemetry: Arc<Telemetry>,
    /// Set when the server stops: ends watchers and idle connections.
    pub(super) closing: Arc<watch::Sender<bool>>,
}

impl Port {
    /// Serves until `stop`, then lets requests in flight finish for a bounded time.
    pub(super) async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, router, telemetry, closing } = self;
        let http = Arc::new(http());
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        let mut full = false;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(ended) = connections.join_next() => ended_well(&ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) if connections.len() < limits::CLIENT_CONNECTIONS_MAX => {
                        full = false;
                        let open = Open::new(&telemetry);
                        let (tls, closing) = (tls.clone(), closing.subscribe());
                        let serving = secured(tls, Arc::clone(&http), stream, from, router.clone(), closing);
                        connections.spawn(async move {
                            serving.await;
                            drop(open);
                        });
                    }
                    Ok((stream, from)) => {
                        drop(stream);
                        telemetry.connections_refused.inc();
                        if !std::mem::replace(&mut full, true) {
                            let max = limits::CLIENT_CONNECTIONS_MAX;
                            tracing::warn!(%from, max, "closing new connections: client_connections_max are open");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client's connection");
                        time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
        // New clients must be refused by now rather than wait in the backlog.
        drop(listener);
        closing.send_replace(true);
        let drained = time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(connections = connections.len(), "closing client connections with requests in flight");
        }
    }
}

fn ended_well(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a client connection's task failed");
    }
}

fn http() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The wall clock stays out of answers: nobody asks for it here, and a simulator could not replay it.
    builder
        .http1()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .header_read_timeout(OPENING_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits::CONNECTION_STREAMS_MAX)
        .max_header_list_size(limits::HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// Buffer of an HTTP/1.1 connection, which bounds the headers of a request.
const HTTP1_BUFFER_BYTES: usize = limits::HEADER_BYTES_MAX as usize;

/// Shakes hands, if that is asked for, and serves the connection. It counts as open meanwhile.
async fn secured(
    tls: Option<Arc<ServerTls>>,
    http: Arc<Builder<TokioExecutor>>,
    stream: Box<dyn Stream>,
    from: SocketAddr,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let stream = match tls {
        None => stream,
        Some(tls) => {
            let accepted = tokio::select! {
                biased;
                () = async { closing.wait_for(|closing| *closing).await.ok(); } => return,
                accepted = tls.accept(stream, from) => accepted,
            };
            let Some(stream) = accepted else { return };
            stream
        }
    };
    connection(http, stream, router, closing).await;
}

async fn connection(
    http: Arc<Builder<TokioExecutor>>,
    stream: Box<dyn Stream>,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let received = Arc::new(AtomicUsize::new(0));
    let authority = Authority::default();
    let io = TokioIo::new(Opening { stream, received: Arc::clone(&received), authority });
    let mut served = pin!(http.serve_connection(io, TowerToHyperService::new(router)));
    let mut opening = pin!(time::sleep(OPENING_TIMEOUT));
    let (mut is_opening, mut is_closing) = (true, false);
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a client connection broke");
                }
                return;
            }
            () = opening.as_mut(), if is_opening => {
                is_opening = false;
                if received.load(Ordering::Relaxed) < OPENING_BYTES {
                    tracing::debug!("a client connected and said nothing");
                    return;
                }
            }
            _ = closing.changed(), if !is_closing => {
                is_closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open(prometheus_client::metrics::gauge::Gauge);

impl Open {
    fn new(telemetry: &Telemetry) -> Self {
        telemetry.connections.inc();
        Self(telemetry.connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A stream that counts its first bytes, and lets the first headers name the server by a URL.
struct Opening {
    stream: Box<dyn Stream>,
    received: Arc<AtomicUsize>,
    authority: Authority,
}

impl AsyncRead for Opening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        while !self.authority.is_done() {
            let passed = self.authority.pass_on(buf.initialize_unfilled());
            if passed > 0 {
                buf.advance(passed);
                return Poll::Ready(Ok(()));
            }
            let mut piece = [0; OPENING_PIECE_BYTES];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            self.count(piece.filled().len());
            match piece.filled() {
                [] => self.authority.end(),
                bytes => self.authority.receive(bytes),
            }
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.count(buf.filled().len().saturating_sub(before));
        Poll::Ready(read)
    }
}

impl Opening {
    fn count(&self, bytes: usize) {
        if self.received.load(Ordering::Relaxed) < OPENING_BYTES {
            self.received.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl AsyncWrite for Opening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
