//! Byte streams between addresses: TCP, or what a simulator puts in its place.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A frame from another node that has arrived whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A small call for itself: a heartbeat, a vote, a transfer of leadership. Calls overtake each
    /// other.
    Call,
    /// Part of a session of appends, which keeps its order.
    Append,
}

/// What becomes of a frame that has arrived.
///
/// A stream of bytes neither reorders nor repeats what it carries, but the frames of a node's several
/// connections overtake each other, and a frame may be sent again on a later connection. A simulator
/// makes both happen often, frame by frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is acted on at once.
    Deliver,
    /// It is acted on after so long. Later calls overtake a call; a session of appends waits.
    Late(Duration),
    /// It is acted on at once, and again after so long. The second answer goes nowhere.
    Twice(Duration),
}

/// Where connections come from and go to.
pub trait Network: Send + Sync + 'static {
    /// Connects to `host:port`.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;
    /// Listens on `host:port`; port 0 picks one.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// What becomes of a frame that has arrived; asked once a frame.
    fn fate(&self, _frame: FrameKind) -> Fate {
        Fate::Deliver
    }
    /// Whether a connection breaks before the next frame of a snapshot; asked once a frame. A broken
    /// connection may still deliver what has arrived, so that a simulated one hardly ever ends within a
    /// stream that is short.
    fn breaks_snapshot(&self) -> bool {
        false
    }
}

/// An open listening socket.
pub trait Listener: Send + Sync + 'static {
    /// The next connection and its source.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is no longer open.
    fn local_address(&self) -> io::Result<SocketAddr>;
}

/// TCP with `TCP_NODELAY`.
pub struct TcpNetwork;

#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "this is the seam")]
mod tcp {
    use tokio::net::{TcpListener, TcpStream};

    use super::{BoxFuture, Listener, Network, SocketAddr, Stream, TcpNetwork, io};

    impl Network for TcpNetwork {
        fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            })
        }

        fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
            Box::pin(async move { Ok(Box::new(TcpListener::bind(address).await?) as Box<dyn Listener>) })
        }
    }

    impl Listener for TcpListener {
        fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
            Box::pin(async move {
                let (stream, from) = TcpListener::accept(self).await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream) as Box<dyn Stream>, from))
            })
        }

        fn local_address(&self) -> io::Result<SocketAddr> {
            self.local_addr()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_delivers_every_frame_at_once_and_once() {
        assert!(!TcpNetwork.breaks_snapshot());
        for frame in [FrameKind::Call, FrameKind::Append] {
            assert_eq!(TcpNetwork.fate(frame), Fate::Deliver);
        }
    }
}
