//! The groups of one node: one log, one engine, one peer port under all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::apply::Apply;
use super::flusher::{Flusher, LOG_ENTRIES_KEPT};
use super::group::{Group, GroupSpec};
use super::peers::{Identity, IdentityError, PROTOCOL, PeerBook, Peers, Route};
use super::registry::Registry;
use super::settings::{self, TickConfig};
use super::start::{self, Ground, GroupError};
use super::transport::{self, LinkError, Links, PeerService};
use crate::env::time;
use crate::env::tls::{PeerFiles, PeerTls, TlsError};
use crate::env::work::Worker;
use crate::env::{Env, net};
use crate::proto::internal as wire;
use crate::proto::internal::peer_error::Code;
use crate::proto::v1;
use crate::storage::engine::Engine;
use crate::storage::engine::catalog::Catalog;
use crate::storage::engine::stream::CHUNK_BYTES_TARGET;
use crate::storage::log::Log;
use crate::types::limits::PEER_FRAME_BYTES_MAX;
use crate::types::{ClusterId, GroupId, NodeId, ReplicaId};

pub use super::transport::PeerHandler;

/// Threads that apply; a group stays with one.
const APPLY_WORKERS: usize = 2;
/// Pause between two writes of what was seen of the peers' logs.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of a forwarded request's frame beside the request.
const FORWARD_OVERHEAD_BYTES_MAX: usize = 1024;

/// How a host is set.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// `host:port` of the peer port; port 0 picks one.
    pub listen: String,
    /// Heartbeats and elections.
    pub tick: TickConfig,
    /// Entries that stay in each log behind what the engine has flushed.
    pub log_entries_kept: u64,
    /// Snapshots are sent in chunks of so many bytes, at most [`CHUNK_BYTES_TARGET`].
    pub snapshot_chunk_bytes: usize,
    /// TLS on the peer port and to other peers' ports.
    pub tls: Option<PeerFiles>,
}

impl HostConfig {
    /// The defaults on `listen`.
    pub fn new(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            tick: TickConfig::default(),
            log_entries_kept: LOG_ENTRIES_KEPT,
            snapshot_chunk_bytes: CHUNK_BYTES_TARGET,
            tls: None,
        }
    }
}

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The times contradict each other.
    #[error("the heartbeat and election times contradict each other: {0}")]
    Tick(#[from] openraft::ConfigError),
    /// The peer port's certificate, key or CA cannot be used.
    #[error("the peer port's TLS files cannot be used: {0}")]
    Tls(#[from] TlsError),
    /// The peer port cannot be opened.
    #[error("cannot listen for peers on {address}: {error}")]
    Listen {
        /// As configured.
        address: String,
        /// What the network said.
        error: std::io::Error,
    },
}

/// Who answered an introduction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its cluster, if it knows.
    pub cluster_id: Option<ClusterId>,
    /// Whether it has ever been part of a cluster.
    pub founded: bool,
    /// Hash of the first cluster's definition as it was given.
    pub founding_hash: u64,
}

/// Why an introduction failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// Nobody answers there, or not in time.
    #[error("{0}")]
    Unreachable(String),
    /// One of the two does not accept the other.
    #[error("{0}")]
    Refused(String),
}

/// Why a forwarded request has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForwardError {
    /// The other node did not begin with it: certainly not applied.
    #[error("the request was not passed on: {0}")]
    NotSent(String),
    /// It may have been applied.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Asks the member whose peer port is at `address` to take a new node in; returns its cluster and its
/// id. Asking again with the same token does no harm.
///
/// # Errors
/// When nobody answers there in time, or the cluster does not want it.
pub async fn join(
    net: &dyn net::Network,
    tls: Option<&Arc<PeerTls>>,
    address: &str,
    node: v1::Node,
    token: u64,
    replace: &str,
) -> Result<(ClusterId, NodeId), HelloError> {
    let request = wire::JoinRequest {
        node: Some(node),
        token,
        replace: replace.to_owned(),
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    transport::join(net, tls, address, request).await
}

/// The groups of one node.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    links: Arc<Links>,
    service: PeerService,
    ground: Ground,
    catalog: Arc<Catalog>,
    log: Log,
    flush: Worker,
    config: HostConfig,
    listening: Option<SocketAddr>,
    /// Starting and stopping groups, one at a time.
    changing: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Host {
    /// Binds the peer port and serves it. No group runs yet.
    ///
    /// # Errors
    /// When the port cannot be bound or the settings contradict each other.
    pub async fn start(
        env: Env,
        config: HostConfig,
        identity: Identity,
        peers: PeerBook,
        log: Log,
        engine: Arc<dyn Engine>,
        catalog: Arc<Catalog>,
    ) -> Result<Self, HostError> {
        let raft = settings::config(config.tick)?;
        let tls = config.tls.clone().map(|files| PeerTls::start(&env, files, &identity.name)).transpose()?;
        let listener = env.net.listen(&config.listen).await;
        let listener = listener.map_err(|error| HostError::Listen { address: config.listen.clone(), error })?;
        let listening = listener.local_address().ok();
        let worker = |name: &str| env.workers.start(name);
        let position = log.clone();
        let peers = Peers::new(identity, peers, worker("peers"), move || position.position());
        let peers = Arc::new(peers.with_tls(tls.map(Arc::new)));
        let links = Arc::new(Links::new(env.net.clone(), peers.clone(), config.snapshot_chunk_bytes));
        let registry = Arc::new(Registry::new(peers));
        let (stop, stopped) = watch::channel(false);
        let service = PeerService::new(
            env.net.clone(),
            registry.clone(),
            engine.clone(),
            worker("snapshot-write"),
            stopped.clone(),
        );
        let flush = worker("flush");
        let ground = Ground {
            raft,
            links: links.clone(),
            catalog: catalog.clone(),
            log: log.clone(),
            apply: (0..APPLY_WORKERS).map(|n| worker(&format!("apply-{n}"))).collect(),
            flush: flush.clone(),
            reader: worker("snapshot-read"),
            failed: watch::Sender::new(None),
        };
        let inner = Inner {
            registry,
            links,
            service,
            ground,
            catalog,
            log,
            flush,
            config,
            listening,
            changing: tokio::sync::Mutex::default(),
            stop,
            tasks: Mutex::default(),
        };
        let host = Self { inner: Arc::new(inner) };
        host.spawn_tasks(listener, stopped, engine);
        Ok(host)
    }

    fn spawn_tasks(&self, listener: Box<dyn net::Listener>, stopped: watch::Receiver<bool>, engine: Arc<dyn Engine>) {
        let inner = &self.inner;
        let failed = inner.ground.failed.clone();
        let fail = move |why: String| {
            failed.send_if_modified(|failed| failed.is_none() && failed.replace(why).is_none());
        };
        let serve = tokio::spawn(transport::serve(listener, inner.service.clone(), stopped));
        let flusher = self.flusher(engine);
        let flushing = fail.clone();
        let flush = tokio::spawn(async move { flushing(flusher.run().await) });
        let (log, logging) = (inner.log.clone(), fail.clone());
        let watch_log = tokio::spawn(async move { logging(format!("the log failed: {}", log.failed().await)) });
        let peers = inner.registry.peers.clone();
        let remember = tokio::spawn(async move {
            loop {
                time::sleep(REMEMBER_INTERVAL).await;
                if let Err(error) = peers.save().await {
                    return fail(format!("what was seen of the peers cannot be kept: {error}"));
                }
            }
        });
        inner.tasks.lock().extend([serve, flush, watch_log, remember]);
    }

    fn flusher(&self, engine: Arc<dyn Engine>) -> Flusher {
        let inner = &self.inner;
        let entries_kept = inner.config.log_entries_kept;
        Flusher { registry: inner.registry.clone(), engine, worker: inner.flush.clone(), entries_kept }
    }

    /// Where the peer port listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.inner.listening
    }

    /// Says where a node's peer port is. This node introduces itself there.
    pub fn set_address(&self, node: NodeId, address: &str) {
        self.inner.links.set_address(node, address);
    }

    /// Says who the members are, out of all nodes with an id below `next`. Whoever has left is not
    /// listened to, and ends when it says hello.
    pub fn set_members(&self, ids: BTreeSet<NodeId>, next: NodeId) {
        self.inner.registry.peers.set_members(ids, next);
    }

    /// Says which name a node's id belongs to: over TLS, no certificate of another node will do for it.
    pub fn set_name(&self, node: NodeId, name: &str) {
        self.inner.registry.peers.set_name(node, name);
    }

    /// Makes the cluster id durable and says it from now on.
    ///
    /// # Errors
    /// When another one is known already, or the device refuses.
    pub fn set_cluster_id(&self, id: ClusterId) -> Result<(), IdentityError> {
        self.inner.registry.peers.set_cluster_id(id)
    }

    /// Introduces this node to whoever listens at `address`.
    ///
    /// # Errors
    /// When nobody answers in time, or one does not accept the other.
    pub async fn hello(&self, address: &str, timeout: Duration) -> Result<PeerInfo, HelloError> {
        let inner = &self.inner;
        let greeting = transport::greet(&**inner.links.net(), &inner.registry.peers, address, NodeId(0));
        match time::timeout(timeout, greeting).await {
            Ok(Ok((_, answer))) => Ok(peer_info(&answer)),
            Ok(Err(LinkError::Refused(refusal))) if refusal.code != Code::Unspecified => {
                Err(HelloError::Refused(refusal.message))
            }
            Ok(Err(error)) => Err(HelloError::Unreachable(error.to_string())),
            Err(_) => Err(HelloError::Unreachable(format!("{address} did not answer in time"))),
        }
    }

    /// Sets who answers what other nodes ask of this one.
    pub fn set_peer_handler(&self, handler: Arc<dyn PeerHandler>) {
        self.inner.service.set_handler(handler);
    }

    /// Passes a request for a group on to another node.
    ///
    /// # Errors
    /// The error says whether the request may have been executed.
    pub async fn forward(
        &self,
        to: NodeId,
        group: GroupId,
        request: Bytes,
        deadline: time::Instant,
    ) -> Result<Bytes, ForwardError> {
        if request.len() + FORWARD_OVERHEAD_BYTES_MAX > PEER_FRAME_BYTES_MAX {
            return Err(ForwardError::NotSent(format!("the request has {} bytes", request.len())));
        }
        let link = self.inner.links.to(to);
        let connected = match time::timeout_at(deadline, link.append.channel()).await {
            Ok(connected) => connected.map_err(|error| ForwardError::NotSent(error.to_string()))?,
            Err(_) => return Err(ForwardError::NotSent(format!("node {to} is not connected yet"))),
        };
        let left = deadline.saturating_duration_since(time::now());
        let route = Route { group, ..Route::default() };
        let frame = wire::ForwardRequest {
            envelope: Some(self.inner.registry.peers.envelope(to, route)),
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            request,
        };
        link.append.forward(connected, frame, left).await.map_err(|error| {
            if error.is_unsent() {
                ForwardError::NotSent(error.to_string())
            } else {
                ForwardError::Unknown(error.to_string())
            }
        })
    }

    /// Starts the local replica of a group, which is made if it never was.
    ///
    /// # Errors
    /// [`GroupError::NeedsRebuild`] when its state cannot be proven: it must neither vote nor serve.
    pub async fn start_group(&self, spec: GroupSpec, machine: Arc<dyn Apply>) -> Result<Group, GroupError> {
        let _one_at_a_time = self.inner.changing.lock().await;
        if self.inner.registry.get(spec.group).is_some() {
            return Err(GroupError::Running(spec.group));
        }
        let core = start::start(&self.inner.ground, spec, machine).await?;
        self.inner.registry.insert(core.clone());
        Ok(Group { core })
    }

    /// The same for one of the first replicas of a group, which all get the same first entry. Returns
    /// whether that was now.
    ///
    /// # Errors
    /// As [`Host::start_group`].
    pub async fn found_group(
        &self,
        spec: GroupSpec,
        founders: &BTreeMap<ReplicaId, NodeId>,
        machine: Arc<dyn Apply>,
    ) -> Result<(Group, bool), GroupError> {
        let begun = {
            let _one_at_a_time = self.inner.changing.lock().await;
            start::begin(&self.inner.ground, spec, founders).await?
        };
        Ok((self.start_group(spec, machine).await?, begun))
    }

    /// The running replica of a group.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.inner.registry.get(group).map(|core| Group { core })
    }

    /// Stops the local replica of a group. Its log and state stay.
    pub async fn stop_group(&self, group: GroupId) {
        let _one_at_a_time = self.inner.changing.lock().await;
        self.stop_core(group).await;
    }

    async fn stop_core(&self, group: GroupId) {
        let Some(core) = self.inner.registry.remove(group) else { return };
        core.stop().await;
    }

    /// Makes durable what all groups have applied.
    ///
    /// # Errors
    /// When the device refuses; the process must then end.
    pub async fn flush(&self) -> Result<(), GroupError> {
        let engine = self.inner.catalog.engine().clone();
        Ok(self.inner.flush.run(move || engine.flush()).await.map_err(GroupError::from)??)
    }

    /// Stops the local replica of a group and drops its log and state.
    ///
    /// # Errors
    /// When the device refuses; then some of it may be left, and removing can be tried again.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), GroupError> {
        let _one_at_a_time = self.inner.changing.lock().await;
        self.stop_core(group).await;
        // The log goes first: a state without a log is recognised, a log without a state might not be.
        self.inner.log.remove_group(group).await.map_err(|error| GroupError::Log(error.to_string()))?;
        let catalog = self.inner.catalog.clone();
        let removed = self.inner.flush.run(move || {
            let mut replicas = catalog.list().into_iter().filter(|(of, ..)| *of == group);
            replicas.try_for_each(|(_, replica, _)| catalog.remove(group, replica))
        });
        Ok(removed.await.map_err(GroupError::from)??)
    }

    /// The replicas that have a state here, running or not.
    pub fn local_replicas(&self) -> Vec<(GroupId, ReplicaId)> {
        self.inner.catalog.list().into_iter().map(|(group, replica, _)| (group, replica)).collect()
    }

    /// Resolves when a peer refuses this node for good, with what to do. Until it was rebuilt under a
    /// new identity the process must neither vote nor serve, so it should end.
    pub async fn refused(&self) -> String {
        message(self.inner.registry.peers.watch_refused()).await
    }

    /// Resolves when something failed that the process must not survive: the log, the engine, or a
    /// group's core.
    pub async fn failed(&self) -> String {
        message(self.inner.ground.failed.subscribe()).await
    }

    /// Stops all groups and the peer port, and makes durable what was applied.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        let _one_at_a_time = inner.changing.lock().await;
        inner.stop.send_replace(true);
        let flusher = self.flusher(inner.catalog.engine().clone());
        for core in inner.registry.all() {
            core.stop().await;
        }
        if let Err(why) = flusher.round(true).await {
            tracing::error!(why, "the engine cannot be flushed at the end");
        }
        for core in inner.registry.all() {
            inner.registry.remove(core.group);
        }
        if let Err(error) = inner.registry.peers.save().await {
            tracing::error!(%error, "what was seen of the peers cannot be kept");
        }
        for task in inner.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

fn peer_info(answer: &wire::HelloResponse) -> PeerInfo {
    PeerInfo {
        node: NodeId(answer.from.map_or(0, |from| from.node_id)),
        name: answer.name.clone(),
        cluster_id: ClusterId::from_bytes(&answer.cluster_id),
        founded: answer.founded,
        founding_hash: answer.founding_hash,
    }
}

async fn message(mut watched: watch::Receiver<Option<String>>) -> String {
    let message = watched.wait_for(Option::is_some).await.map(|message| message.clone());
    match message {
        Ok(Some(message)) => message,
        // The sender is gone with the host: nothing will be said any more.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "host_test.rs"]
mod tests;
