//! Three hosts in one process, on loopback: each with its own thread and runtime, so that a kill
//! takes everything of a node away at once, and with its own disk, which stays.
#![allow(clippy::disallowed_methods, reason = "a node that can be killed needs a thread of its own")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::group::{Applied, Group, GroupSpec, ProposeError, Role};
use super::host::{Host, HostConfig};
use super::peers::{Identity, PeerBook};
use super::settings::TickConfig;
use super::test_bed::{Chain, Disk, chain};
use crate::env::disk::RealDisk;
use crate::env::net::{BoxFuture, Fate, FrameKind, Listener, Network, Stream, TcpNetwork};
use crate::env::work::Workers;
use crate::env::{Env, time};
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

pub(super) const GROUP: GroupId = GroupId(7);
pub(super) const FOUNDING: u64 = 99;
/// Longest wait for anything; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `ready` says so.
pub(super) async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = time::now() + PATIENCE;
    while !ready() {
        assert!(time::now() < deadline, "waited in vain until {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn soon() -> time::Instant {
    time::now() + PATIENCE
}

/// What a test does to a node's outgoing connections.
#[derive(Default)]
pub(super) struct Wire {
    /// Connections fail, new ones and open ones.
    pub(super) cut: AtomicBool,
    pub(super) attempts: AtomicU64,
    /// New connections to this port stand still once they have written that much.
    pub(super) hold: Mutex<Option<(u16, u64)>>,
    /// Whether one does.
    pub(super) held: AtomicBool,
    /// Nothing that is answered on these connections arrives.
    pub(super) deaf: AtomicBool,
    /// Nodes that cannot be reached, by port.
    pub(super) unreachable: Mutex<Vec<u16>>,
    /// What becomes of frames that arrive at this node, if not the usual.
    pub(super) fate: Mutex<Option<Fate>>,
}

struct TestNetwork(Arc<Wire>);

impl Network for TestNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            self.0.attempts.fetch_add(1, Ordering::SeqCst);
            let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
            let stream =
                TestStream { wire: self.0.clone(), port, written: 0, inner: TcpNetwork.connect(address).await? };
            stream.check()?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        TcpNetwork.listen(address)
    }

    fn fate(&self, frame: FrameKind) -> Fate {
        self.0.fate.lock().unwrap_or_else(|| TcpNetwork.fate(frame))
    }
}

struct TestStream {
    wire: Arc<Wire>,
    port: u16,
    written: u64,
    inner: Box<dyn Stream>,
}

impl TestStream {
    fn check(&self) -> io::Result<()> {
        if self.wire.cut.load(Ordering::SeqCst) || self.wire.unreachable.lock().contains(&self.port) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for TestStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if self.wire.deaf.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let hold = self.wire.hold.lock().is_some_and(|(port, limit)| port == self.port && self.written > limit);
        if hold {
            self.wire.held.store(true, Ordering::SeqCst);
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &result {
            self.written += *written as u64;
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A node; its disk outlives its process.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) replica: ReplicaId,
    pub(super) disk: Disk,
    pub(super) wire: Arc<Wire>,
    process: Option<Process>,
}

/// What runs.
pub(super) struct Process {
    pub(super) host: Host,
    pub(super) group: Option<Group>,
    pub(super) chain: Arc<Chain>,
    runtime: tokio::runtime::Handle,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Process {
    /// Runs something on the node's own runtime.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let job = self.runtime.spawn(job);
        Box::pin(async { job.await.unwrap() })
    }

    pub(super) fn group(&self) -> &Group {
        self.group.as_ref().unwrap()
    }
}

impl Node {
    pub(super) fn name(&self) -> String {
        format!("node-{}", self.id.0)
    }

    pub(super) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Ends the process as a power cut would, but for what the disks hold.
    pub(super) fn kill(&mut self) {
        let Some(Process { host, group, kill, thread, .. }) = self.process.take() else { return };
        drop((host, group));
        kill.send(()).unwrap();
        thread.join().unwrap();
    }

    /// Runs a process on the node's disk.
    pub(super) async fn boot(&mut self, kept: u64) {
        assert!(self.process.is_none());
        let (kill, killed) = oneshot::channel();
        let (ready, running) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            ready.send(runtime.handle().clone()).unwrap();
            runtime.block_on(killed).unwrap();
        });
        let runtime: tokio::runtime::Handle = running.await.unwrap();
        let dir = self.disk.dir.path().to_owned();
        let (name, id) = (self.name(), self.id);
        let (catalog, wire) = (self.disk.catalog(), self.wire.clone());
        let host = runtime.spawn(async move {
            let env = Env { net: Arc::new(TestNetwork(wire)), disk: Arc::new(RealDisk), workers: Workers::inline() };
            let identity = Identity::open(Arc::new(RealDisk), &dir, &name, id, FOUNDING, None).unwrap();
            let peers = PeerBook::open(Arc::new(RealDisk), &dir).unwrap();
            let log = super::test_bed::open_log(&dir.join("log"), &env).await;
            let tick = TickConfig { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1_000 };
            let config = HostConfig { tick, log_entries_kept: kept, ..HostConfig::new("127.0.0.1:0") };
            Host::start(env, config, identity, peers, log, catalog.engine().clone(), catalog.clone()).await.unwrap()
        });
        let host = host.await.unwrap();
        self.process = Some(Process { host, group: None, chain: Arc::default(), runtime, kill, thread });
    }

    /// Starts the node's replica.
    pub(super) async fn open(&mut self) {
        let (replica, process) = (self.replica, self.process.as_mut().unwrap());
        let spec = GroupSpec { group: GROUP, replica, epoch: Epoch(1) };
        let (host, machine) = (process.host.clone(), process.chain.clone());
        let group = process.run(async move { host.start_group(spec, machine).await }).await.unwrap();
        process.group = Some(group);
    }
}

/// Nodes that know each other's addresses.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    kept: u64,
}

impl Cluster {
    /// Nodes that are not running yet. `kept` entries stay in their logs behind the flushed one.
    pub(super) fn new(nodes: u64, kept: u64) -> Self {
        let node = |id| Node {
            id: NodeId(id),
            replica: ReplicaId(id * 10),
            disk: Disk::new(),
            wire: Arc::default(),
            process: None,
        };
        Self { nodes: (1..=nodes).map(node).collect(), kept }
    }

    /// Three nodes with one group on all of them.
    pub(super) async fn founded(kept: u64) -> Self {
        let mut cluster = Self::new(3, kept);
        for at in 0..3 {
            cluster.start(at).await;
        }
        let voters: BTreeMap<_, _> = cluster.nodes.iter().map(|node| (node.replica, node.id)).collect();
        let group = cluster.nodes[0].process().group().clone();
        cluster.nodes[0].process().run(async move { group.initialize(voters).await }).await.unwrap();
        cluster
    }

    /// Runs a node's process, and lets it and the others know where to find each other.
    pub(super) async fn boot(&mut self, at: usize) {
        let kept = self.kept;
        self.nodes[at].boot(kept).await;
        self.introduce(at).await;
    }

    /// Runs a node's process and its replica.
    pub(super) async fn start(&mut self, at: usize) {
        self.boot(at).await;
        self.nodes[at].open().await;
    }

    async fn introduce(&self, new: usize) {
        let address = |node: &Node| node.process().host.listening().unwrap().to_string();
        for node in self.nodes.iter().filter(|node| node.is_running() && node.id != self.nodes[new].id) {
            for (one, other) in [(node, &self.nodes[new]), (&self.nodes[new], node)] {
                let (host, id, at) = (one.process().host.clone(), other.id, address(other));
                one.process().run(async move { host.set_address(id, &at) }).await;
            }
        }
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.nodes.iter().enumerate().filter_map(|(at, node)| {
            node.process.as_ref().filter(|process| process.group.is_some()).map(|process| (at, process))
        })
    }

    /// Waits for a leader that a majority of the running nodes follows.
    pub(super) async fn leader(&self) -> usize {
        let mut leader = None;
        until("a leader is followed", || {
            for (at, process) in self.running() {
                let status = process.group().status();
                let followers = self.running().filter(|(_, other)| {
                    let seen = other.group().status();
                    seen.leader == status.leader && seen.term == status.term
                });
                if status.role == Role::Leader && followers.count() * 2 > self.nodes.len() {
                    leader = Some(at);
                }
            }
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Proposes at whoever leads until it is applied. Only what was certainly not applied is retried.
    pub(super) async fn put(&self, command: impl Into<Bytes>) -> Applied {
        let command = command.into();
        loop {
            let leader = self.leader().await;
            let process = self.nodes[leader].process();
            let (group, command) = (process.group().clone(), command.clone());
            match process.run(async move { group.propose(command, soon()).await }).await {
                Ok(applied) => return applied,
                Err(ProposeError::NotLeader { .. } | ProposeError::Overloaded) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until all running replicas have applied the same up to `index`, and compares them.
    pub(super) async fn agree(&self, index: u64) {
        let mut chains = Vec::new();
        until("all have applied the same", || {
            let applied: Vec<_> = self.running().map(|(_, process)| process.group().status().applied).collect();
            chains = self.running().map(|(_, process)| chain(&*process.group().view().unwrap())).collect();
            applied.iter().all(|at| *at >= Some(index) && *at == applied[0])
        })
        .await;
        let first = chains.first().unwrap();
        assert!(chains.iter().all(|chain| chain == first), "{chains:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}
