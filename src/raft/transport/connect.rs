//! gRPC connections over [`crate::env::net`]: never `tokio::net`, so that a simulator can stand in.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tower_service::Service;

use super::{
    CONNECTION_WINDOW_BYTES, CONNECTIONS_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PeerService, STREAM_WINDOW_BYTES,
    STREAMS_MAX,
};
use crate::env::net::{Listener, Network, Stream};
use crate::env::time;
use crate::proto::internal::peer_server::PeerServer;
use crate::types::limits::PEER_FRAME_BYTES_MAX;

/// Pause after a failed accept: the usual cause is too many open files.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A channel over one new connection. When that breaks, the channel fails for good.
pub(super) async fn connect(net: &dyn Network, address: &str) -> Result<Channel, String> {
    let stream = net.connect(address).await.map_err(|error| error.to_string())?;
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(OneConnection { stream: Some(stream) })
        .await
        .map_err(|error| error.to_string())
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

/// Serves the peer port until `stop` turns true.
pub(in crate::raft) async fn serve(
    listener: Box<dyn Listener>,
    service: PeerService,
    stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let service = PeerServer::new(service)
        .max_decoding_message_size(PEER_FRAME_BYTES_MAX)
        .max_encoding_message_size(PEER_FRAME_BYTES_MAX);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let incoming = futures_util::stream::unfold((listener, permits), async |(listener, permits)| {
        let accepted = accept(&*listener, &permits).await;
        Some((Ok::<_, io::Error>(accepted), (listener, permits)))
    });
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_with_incoming_shutdown(service, incoming, stopped(stop))
        .await
}

/// Resolves when `stop` turns true, or when nobody is left who could turn it.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

async fn accept(listener: &dyn Listener, permits: &Arc<Semaphore>) -> Accepted {
    loop {
        // The semaphore is never closed; were it, no connection would be taken.
        let Ok(permit) = permits.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((stream, _)) => return Accepted { stream, _permit: Some(permit) },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the peer port");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection from a peer, counted while it is open.
pub(super) struct Accepted {
    stream: Box<dyn Stream>,
    _permit: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl Accepted {
    pub(super) fn uncounted(stream: Box<dyn Stream>) -> Self {
        Self { stream, _permit: None }
    }
}

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
