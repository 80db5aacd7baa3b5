//! turmoil's network behind the network seam, with what faults do to whole streams and to frames, and
//! counts that say whether a fault has met any traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quorate::env::net::{BoxFuture, Fate, FrameKind, Listener, Network, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::frames::Frames;

/// What holds for all networks of a world.
#[derive(Default)]
pub(crate) struct NetworkState {
    still: Mutex<Still>,
    /// By sender, then receiver.
    links: Mutex<BTreeMap<String, BTreeMap<String, Link>>>,
    /// What faults do to frames that arrive.
    pub(crate) frames: Frames,
}

/// One direction between two hosts.
#[derive(Clone, Copy, Default)]
struct Link {
    /// Faults that let nothing through.
    cuts: u64,
    traffic: Traffic,
}

/// What one host has done to reach another.
#[derive(Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Writes and attempts to connect.
    pub(crate) sent: u64,
    /// Those of them that were made while the link was cut.
    pub(crate) held_back: u64,
    /// Connections that it has open.
    pub(crate) open: u64,
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

    /// Counts one more cut. Returns whether it is the first.
    pub(super) fn cut(&self, from: &str, to: &str) -> bool {
        self.link(from, to, |link| {
            link.cuts += 1;
            link.cuts == 1
        })
    }

    /// Takes a cut back. Returns whether it was the last.
    pub(super) fn mend(&self, from: &str, to: &str) -> bool {
        self.link(from, to, |link| {
            link.cuts -= 1;
            link.cuts == 0
        })
    }

    /// Whether no link is cut.
    pub(super) fn is_whole(&self) -> bool {
        self.links.lock().values().flat_map(BTreeMap::values).all(|link| link.cuts == 0)
    }

    /// What one host has done so far to reach another.
    pub(crate) fn traffic(&self, from: &str, to: &str) -> Traffic {
        self.link(from, to, |link| link.traffic)
    }

    fn send(&self, from: &str, to: &str) {
        self.link(from, to, |link| {
            link.traffic.sent += 1;
            link.traffic.held_back += u64::from(link.cuts > 0);
        });
    }

    fn link<T>(&self, from: &str, to: &str, change: impl FnOnce(&mut Link) -> T) -> T {
        let mut links = self.links.lock();
        if let Some(link) = links.get_mut(from).and_then(|of| of.get_mut(to)) {
            return change(link);
        }
        change(links.entry(from.to_owned()).or_default().entry(to.to_owned()).or_default())
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
            let peer = address.split(':').next().unwrap_or(address);
            self.state.send(&self.host, peer);
            let tcp = TcpStream::connect(address).await?;
            Ok(Box::new(SimStream::new(tcp, &self.host, peer, &self.state)) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(SimListener { listener, host: self.host.clone(), state: self.state.clone() })
                as Box<dyn Listener>)
        })
    }

    fn fate(&self, frame: FrameKind) -> Fate {
        self.state.frames.fate(&self.host, frame)
    }

    fn breaks_snapshot(&self) -> bool {
        self.state.frames.breaks_snapshot(&self.host)
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
            let peer = turmoil::reverse_lookup(from.ip()).unwrap_or_default();
            let stream = SimStream::new(tcp, &self.host, &peer, &self.state);
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
    peer: Box<str>,
    state: Arc<NetworkState>,
}

impl SimStream {
    fn new(tcp: TcpStream, host: &Arc<str>, peer: &str, state: &Arc<NetworkState>) -> Self {
        state.link(host, peer, |link| link.traffic.open += 1);
        Self { tcp, host: host.clone(), peer: peer.into(), state: state.clone() }
    }

    fn ready(&self, context: &Context<'_>) -> Poll<()> {
        self.state.ready(&self.host, context)
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.state.link(&self.host, &self.peer, |link| link.traffic.open -= 1);
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
        let written = std::task::ready!(Pin::new(&mut self.tcp).poll_write(cx, data));
        self.state.send(&self.host, &self.peer);
        Poll::Ready(written)
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
