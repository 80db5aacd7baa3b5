//! The running server: what is opened at start, in which order, and how it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use tokio::sync::watch;

use crate::env::Env;
use crate::env::disk::DirLock;
use crate::env::time::{self, Instant};
use crate::meta::MetaMachine;
use crate::raft::{
    Group, GroupSpec, Host, HostConfig, HostError, Identity, IdentityError, PeerBook, PeerBookError, Role, TickConfig,
};
use crate::shard::check::WriteLimits;
use crate::storage::engine::{Catalog, Engine, EngineError};
use crate::storage::log::{Log, LogConfig, LogError};
use crate::types::map::ShardMap;
use crate::types::{ClusterId, Epoch, GroupId, NodeId, ReplicaId};

use super::NodeConfig;
use super::execute::Executor;
use super::founding;
use super::groups::Groups;
use super::kv::Kv;
use super::origin::Origin;
use super::router::Router;
use super::space::SpaceGuard;
use super::tasks::Tasks;
use super::{keyspaces, leaders, members, operations};

const LOCK: &str = "LOCK";
const LOG: &str = "log";
/// Where an engine that keeps files keeps them, below the data directory.
const ENGINE: &str = "engine";
/// How long a graceful stop waits for leaderships to move.
const HANDOVER: Duration = Duration::from_secs(5);
/// How long one replica may take to take a leadership before another is asked,
const HANDOVER_ATTEMPT: Duration = Duration::from_secs(1);
/// and the pause after none did.
const HANDOVER_PAUSE: Duration = Duration::from_millis(50);

/// Why a node does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error("cannot use the data directory {}: {error}", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process holds the directory.
    #[error("another kvd runs on the data directory {}; stop it, or choose another --data-dir", .0.display())]
    Locked(PathBuf),
    /// `--cluster` does not name this node.
    #[error("--cluster does not name this node (--name {name}); add `{name}=HOST:PORT` to it")]
    NotNamed {
        /// This node's name.
        name: String,
    },
    /// The directory was made by another node or for another cluster, or is damaged.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What was seen of the peers cannot be read.
    #[error(transparent)]
    PeerBook(#[from] PeerBookError),
    /// The Raft log cannot be opened.
    #[error("the Raft log cannot be opened: {0}")]
    Log(LogError),
    /// The log is damaged before its end.
    #[error(
        "the Raft log is damaged and this node cannot prove its state: {0}; remove the data directory and bring the node back with `kvd --join HOST:PORT --replace NAME`"
    )]
    Quarantined(String),
    /// The state engine cannot be opened.
    #[error("the state engine cannot be opened: {0}")]
    Engine(EngineError),
    /// The state engine's files are damaged.
    #[error(
        "the state engine is damaged and this node cannot prove its state: {0}; remove the data directory and bring the node back with `kvd --join HOST:PORT --replace NAME`"
    )]
    EngineDamaged(String),
    /// The peer port or a group cannot be started.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The first start failed.
    #[error("the cluster cannot be founded: {0}")]
    Founding(String),
    /// The disk is empty but the cluster is not new.
    #[error("{peer} already belongs to a cluster{}, so this empty data directory must not found one: if this node lost its disk, bring it back with `kvd --join HOST:PORT --replace NAME`", cluster.map(|id| format!(" ({id})")).unwrap_or_default())]
    Wiped {
        /// The peer's name.
        peer: String,
        /// Its cluster.
        cluster: Option<ClusterId>,
    },
    /// A peer knows a newer disk under this identity.
    #[error("{0}")]
    Refused(String),
    /// Something that the node cannot live without has failed.
    #[error("{0}")]
    Failed(String),
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> Self {
        let LogError::Corrupt(what) = error else { return Self::Log(error) };
        Self::Quarantined(what)
    }
}

impl From<EngineError> for StartError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Corrupt(what) => Self::EngineDamaged(what),
            other @ (EngineError::Io(_)
            | EngineError::NoStore(_)
            | EngineError::Poisoned(_)
            | EngineError::ViewExpired { .. }) => Self::Engine(other),
        }
    }
}

/// One running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Arc<NodeConfig>,
    pub(super) id: NodeId,
    pub(super) started: Instant,
    pub(super) host: Host,
    pub(super) log: Log,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) meta: Group,
    pub(super) groups: Arc<Groups>,
    pub(super) router: Arc<Router>,
    pub(super) kv: Kv,
    pub(super) space: SpaceGuard,
    pub(super) map_version: watch::Sender<u64>,
    /// Why the node must end; set once.
    failure: watch::Sender<Option<String>>,
    tasks: Tasks,
    _lock: Box<dyn DirLock>,
}

impl Node {
    /// Opens the data directory and starts everything on it. `open_engine` is given the directory
    /// for the engine's files.
    ///
    /// # Errors
    /// [`StartError`] says what to do.
    pub async fn start(
        config: NodeConfig,
        env: Env,
        open_engine: impl FnOnce(&Path) -> Result<Arc<dyn Engine>, EngineError>,
    ) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        let data_dir = |error| StartError::DataDir { dir: dir.clone(), error };
        env.disk.create_dir(&dir).map_err(data_dir)?;
        let lock = env.disk.lock(&dir.join(LOCK)).map_err(|error| {
            let held = error.kind() == std::io::ErrorKind::WouldBlock;
            if held { StartError::Locked(dir.clone()) } else { data_dir(error) }
        })?;
        SpaceGuard::of(&config).give_room(&*env.disk, &dir);
        let origin = Origin::of(&config, &env).await?;
        let Origin { node, founding_hash, cluster_id, .. } = origin;
        let identity = Identity::open(env.disk.clone(), &dir, &config.name, node, founding_hash, cluster_id)?;
        let peers = PeerBook::open(env.disk.clone(), &dir)?;
        let log_config = LogConfig { segment_bytes: config.log_segment_bytes, ..LogConfig::default() };
        let (log, recovery) = Log::open(&env, &dir.join(LOG), log_config).await?;
        if let Some((group, reason)) = recovery.quarantined.iter().next() {
            return Err(StartError::Quarantined(format!("group {}: {reason}", group.0)));
        }
        if let Some(reason) = recovery.unnamed {
            return Err(StartError::Quarantined(reason));
        }
        let engine = open_engine(&dir.join(ENGINE))?;
        let catalog = Arc::new(Catalog::open(engine.clone())?);
        let tick = TickConfig {
            heartbeat_ms: config.heartbeat_ms,
            election_min_ms: config.election_min_ms,
            election_max_ms: config.election_max_ms,
        };
        let log_entries_kept = config.log_entries_kept;
        let snapshot_chunk_bytes = config.snapshot_chunk_bytes;
        let tls = config.peer_tls.clone();
        let host_config =
            HostConfig { tick, log_entries_kept, snapshot_chunk_bytes, tls, ..HostConfig::new(&config.peer_listen) };
        let host = Host::start(env.clone(), host_config, identity, peers, log.clone(), engine.clone(), catalog).await?;
        origin.names().for_each(|(id, name)| host.set_name(id, name));
        origin.peers().for_each(|(id, address)| host.set_address(id, address));
        Self::run(config, env, origin, host, log, engine, lock).await
    }

    async fn run(
        config: NodeConfig,
        env: Env,
        origin: Origin,
        host: Host,
        log: Log,
        engine: Arc<dyn Engine>,
        lock: Box<dyn DirLock>,
    ) -> Result<Self, StartError> {
        let id = origin.node;
        let machine = Arc::new(MetaMachine::new());
        let spec = GroupSpec { group: GroupId::META, replica: ReplicaId(id.0), epoch: Epoch(0) };
        let meta =
            host.start_group(spec, machine.clone()).await.map_err(|error| StartError::Failed(error.to_string()))?;
        let space = SpaceGuard::of(&config);
        if let Err(error) = space.check(&*env.disk, &config.data_dir) {
            tracing::warn!(%error, "cannot tell how much space the data disk has");
        }
        let failure = watch::Sender::new(None);
        let executor = Executor::new(id, space.clone(), env.workers, failure.clone());
        let router = Arc::new(Router::new(id, host.clone(), machine.map(), executor));
        router.add_group(GroupId::META, meta.clone());
        host.set_peer_handler(router.clone());
        let tasks = Tasks::default();
        let groups = Arc::new(Groups::new(id, host.clone(), router.clone(), tasks.clone()));
        let limits = WriteLimits { value_bytes_max: config.value_bytes_max, ..WriteLimits::default() };
        let inner = Inner {
            id,
            started: time::now(),
            host,
            log,
            engine,
            meta,
            groups,
            kv: Kv::new(router.clone(), id.0, limits),
            router,
            space,
            map_version: watch::Sender::new(0),
            failure,
            tasks,
            config: Arc::new(config),
            _lock: lock,
        };
        let node = Self { inner: Arc::new(inner) };
        node.spawn_tasks(Arc::new(origin), &env);
        Ok(node)
    }

    fn spawn_tasks(&self, origin: Arc<Origin>, env: &Env) {
        let inner = &self.inner;
        let tasks = &inner.tasks;
        for (_, address) in origin.peers() {
            tasks.spawn(founding::announce(inner.host.clone(), address.to_owned()));
        }
        let watch_space =
            inner.space.clone().watch(env.disk.clone(), inner.config.data_dir.clone(), env.workers.start("space"));
        tasks.spawn(watch_space);
        tasks.spawn(inner.space.clone().tidy(inner.engine.clone(), env.workers.start("tidy")));
        tasks.spawn(members::lead(origin.clone(), inner.meta.clone(), inner.router.clone()));
        tasks.spawn(members::stay_known(inner.host.clone(), inner.meta.clone(), inner.router.clone()));
        tasks.spawn(keyspaces::take_apart(inner.meta.clone(), inner.router.clone()));
        tasks.spawn(operations::lead(inner.meta.clone(), inner.router.clone()));
        tasks.spawn(leaders::keep(inner.id, inner.router.clone()));
        tasks.spawn(founding::register(inner.config.clone(), inner.id, inner.router.clone()));
        let meta_log = inner.log.group(GroupId::META).state();
        let empty = meta_log.last.is_none() && meta_log.purged.is_none();
        let (host, meta, failure) = (inner.host.clone(), inner.meta.clone(), inner.failure.clone());
        tasks.spawn(async move {
            if let Some(founders) = &origin.founders
                && let Err(error) = founders.found(&host, &meta, empty).await
            {
                fail(&failure, error.to_string());
            }
        });
        let (groups, failure) = (inner.groups.clone(), inner.failure.clone());
        tasks.spawn(async move {
            if let Err(reason) = groups.follow().await {
                fail(&failure, reason);
            }
        });
        let (mut map, version) = (inner.router.watch_map(), inner.map_version.clone());
        tasks.spawn(async move {
            loop {
                version.send_replace(map.borrow_and_update().version);
                if map.changed().await.is_err() {
                    return;
                }
            }
        });
        let (host, log, failure) = (inner.host.clone(), inner.log.clone(), inner.failure.clone());
        tasks.spawn(async move {
            let reason = tokio::select! {
                biased;
                reason = host.refused() => reason,
                reason = log.failed() => format!("the Raft log has failed: {reason}"),
                reason = host.failed() => reason,
            };
            fail(&failure, reason);
        });
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// The groups that run here, by id.
    pub fn groups(&self) -> BTreeMap<GroupId, Group> {
        self.inner.router.groups()
    }

    /// The shard map as this node knows it.
    pub fn map(&self) -> Arc<ShardMap> {
        self.inner.router.watch_map().borrow().clone()
    }

    /// Waits until the node cannot go on, and says why. The process should then end with an error.
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the node was dropped".to_owned(),
        }
    }

    /// Hands leaderships over, stops all groups and makes everything durable.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        let deadline = time::now() + HANDOVER;
        let groups = inner.router.groups();
        future::join_all(groups.iter().map(|(id, group)| hand_over(*id, group, deadline))).await;
        inner.tasks.stop().await;
        inner.host.shutdown().await;
        if let Err(error) = inner.log.close().await {
            tracing::error!(%error, "the Raft log was not closed cleanly; it is recovered at the next start");
        }
    }
}

/// Records the first reason why the node must end.
pub(super) fn fail(failure: &watch::Sender<Option<String>>, reason: String) {
    failure.send_if_modified(|current| {
        let first = current.is_none();
        if first {
            *current = Some(reason);
        }
        first
    });
}

/// Hands a leadership to whoever takes it first, the most caught up before the others; one that does
/// not answer costs a part of the time.
async fn hand_over(id: GroupId, group: &Group, deadline: Instant) {
    while time::now() < deadline {
        let heirs = group.heirs();
        if group.status().role != Role::Leader || heirs.is_empty() {
            return;
        }
        for replica in heirs {
            let attempt = deadline.min(time::now() + HANDOVER_ATTEMPT);
            match group.transfer_leader(replica, attempt).await {
                Ok(_) => {
                    tracing::info!(group = id.0, to = replica.0, "leadership handed over");
                    return;
                }
                Err(error) => tracing::debug!(group = id.0, to = replica.0, %error, "leadership not taken"),
            }
        }
        time::sleep(HANDOVER_PAUSE).await;
    }
    tracing::warn!(group = id.0, "nobody took the leadership: the others elect once they miss this node");
}
