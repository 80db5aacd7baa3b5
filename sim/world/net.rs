//! turmoil's network behind the network seam, with what faults do to whole streams.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quorate::env::net::{BoxFuture, Listener, Network, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// What holds for all networks of a world.
#[derive(Default)]
pub(crate) struct NetworkState {
    still: Mutex<Still>,
}

#[derive(Default)]
struct Still {
    hosts: BTreeSet<String>,
    waiting: BTreeMap<String, Vec<Waker>>,
}

impl NetworkState {
    /// Nothing is read or written by a process that stands still.
    pub(super) fn pause(&self, host: &str) {
        self.still.lock().hosts.insert(host.to_owned());
    }

    pub(super) fn resume(&self, host: &str) {
        let waiting = {
            let mut still = self.still.lock();
            still.hosts.remove(host);
            still.waiting.remove(host).unwrap_or_default()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn ready(&self, host: &str, context: &Context<'_>) -> Poll<()> {
        let mut still = self.still.lock();
        if !still.hosts.contains(host) {
            return Poll::Ready(());
        }
        still.waiting.entry(host.to_owned()).or_default().push(context.waker().clone());
        Poll::Pending
    }
}

/// The network as one host sees it.
pub(crate) struct SimNetwork {
    host: Arc<str>,
    state: Arc<NetworkState>,
}

impl SimNetwork {
    pub(crate) fn new(host: &str, state: Arc<NetworkState>) -> Self {
        Self { host: host.into(), state }
    }
}

impl Network for SimNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            Ok(Box::new(SimStream { tcp, host: self.host.clone(), state: self.state.clone() }) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(SimListener { listener, host: self.host.clone(), state: self.state.clone() })
                as Box<dyn Listener>)
        })
    }
}

struct SimListener {
    listener: TcpListener,
    host: Arc<str>,
    state: Arc<NetworkState>,
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (tcp, from) = self.listener.accept().await?;
            let stream = SimStream { tcp, host: self.host.clone(), state: self.state.clone() };
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that stands still with its process.
struct SimStream {
    tcp: TcpStream,
    host: Arc<str>,
    state: Arc<NetworkState>,
}

impl SimStream {
    fn ready(&self, context: &Context<'_>) -> Poll<()> {
        self.state.ready(&self.host, context)
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.ready(cx));
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.ready(cx));
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.ready(cx));
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.ready(cx));
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
