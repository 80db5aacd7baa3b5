//! What a node is told at its start.
//!
//! Knows the keys, their defaults, and how they must fit together; reads no file and no environment
//! by itself: the binary hands over [`Sources`].

mod security;
mod sources;
mod values;

#[cfg(test)]
mod config_test;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use self::sources::{SETTINGS, Sources};

use self::security::Security;
use self::sources::Given;
use crate::env::tls::{PeerFiles, ServerFiles};
use crate::raft::TickConfig;
use crate::storage::engine::stream::CHUNK_BYTES_TARGET;
use crate::storage::log::SEGMENT_BYTES_MAX;
use crate::types::limits;

/// Settings that cannot be used. The message says which, where it came from, and what it must be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody knows this key.
    #[error("unknown setting {key} in {place}; did you mean {nearest}?")]
    UnknownKey {
        /// As it was written.
        key: String,
        /// The file, or the environment.
        place: String,
        /// What may have been meant.
        nearest: String,
    },
    /// A value that is no such value.
    #[error("{origin}: {text:?} {why}")]
    Invalid {
        /// The flag, variable or key in a file.
        origin: String,
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Values that do not fit each other.
    #[error("{0}")]
    Conflict(String),
    /// The file is not TOML.
    #[error("{path} is not a TOML file: {error}")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        error: toml::de::Error,
    },
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where replicas keep their state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// On disk.
    Fjall,
    /// On disk, for those who ask for it.
    #[cfg(feature = "engine-sled")]
    Sled,
    /// In memory, lost when the process ends. For simulation and tests.
    Memory,
}

/// Settings of one node, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Unique within the cluster.
    pub name: String,
    /// Everything the node keeps lies here.
    pub data_dir: PathBuf,
    /// `host:port` to listen on for clients.
    pub client_listen: String,
    /// `host:port` that clients are told to connect to.
    pub client_advertise: String,
    /// `host:port` to listen on for clients of etcd's API that mean another keyspace than `default`, by its name.
    pub etcd_listen: BTreeMap<String, String>,
    /// `host:port` to listen on for peers.
    pub peer_listen: String,
    /// `host:port` that peers are told to connect to.
    pub peer_advertise: String,
    /// TLS on the client port.
    pub client_tls: Option<ServerFiles>,
    /// TLS on the peer port, and to other nodes' peer ports.
    pub peer_tls: Option<PeerFiles>,
    /// Whether it may listen without TLS where others can reach it.
    pub insecure: bool,
    /// The first members: name and peer address. This node is among them, unless it joins.
    pub founding: BTreeMap<String, String>,
    /// Peer address of a member that is asked to take this node in; matters for an empty data directory.
    pub join: Option<String>,
    /// The name of the member whose place it takes.
    pub replace: Option<String>,
    /// For instance `zone`.
    pub labels: BTreeMap<String, String>,
    /// Replicas of the keyspace `default`, if there are as many nodes.
    pub replication_factor: u32,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are, as `tracing` filters them.
    pub log_filter: String,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Client requests in flight.
    pub requests_in_flight_max: usize,
    /// How often a watch that asked for progress hears of it while nothing happens.
    pub watch_progress_ms: u64,
    /// Time between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing waits at least this long before it stands for election,
    pub election_min_ms: u64,
    /// and at most this long.
    pub election_max_ms: u64,
    /// Size of a segment of the Raft log.
    pub log_segment_bytes: u64,
    /// Entries that stay in each Raft log behind what the engine has flushed: a follower that lags no
    /// more than this needs no snapshot. Not a setting of `kvd`.
    pub log_entries_kept: u64,
    /// Snapshots are sent in chunks of so many bytes. Not a setting of `kvd`.
    pub snapshot_chunk_bytes: usize,
    /// Writes that grow are refused while less than this is free on the data disk.
    pub disk_reserve_bytes: u64,
    /// Memory for blocks the engine has read.
    pub engine_cache_bytes: u64,
    /// Memory for writes the engine has not written out, over all shards.
    pub engine_write_buffer_bytes: u64,
    /// Where replicas keep their state.
    pub engine: EngineKind,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const CLIENT_ADDRESS: &str = "127.0.0.1:2379";
const PEER_ADDRESS: &str = "127.0.0.1:2380";
/// Bytes of a request that its largest value leaves to keys and framing.
const REQUEST_SLACK_BYTES: usize = 64 * 1024;
/// Heartbeats a follower may miss before it stands for election.
const HEARTBEATS_PER_ELECTION: u64 = 2;

impl NodeConfig {
    /// Merges and checks the sources.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn resolve(sources: &Sources) -> Result<Self, ConfigError> {
        let given = Values(sources.merged()?);
        let replace = given.parsed("replace", values::name)?;
        // Who takes a node's place keeps its name, unless told otherwise.
        let name = given.parsed("name", values::name)?.or_else(|| replace.clone()).unwrap_or_else(|| "n1".to_owned());
        let addresses = Addresses::resolve(&given, &name)?;
        let security = Security::resolve(&given)?;
        let etcd_listen = given.parsed("etcd_addr", values::keyspaces)?.unwrap_or_default();
        let taken = [&addresses.client_listen, &addresses.peer_listen];
        if let Some((keyspace, address)) = etcd_listen.iter().find(|(_, address)| taken.contains(address)) {
            let why = format!("etcd_addr gives {keyspace} the address {address}, which client_addr or peer_addr has");
            return Err(ConfigError::Conflict(why));
        }
        security.check(&addresses.client_listen, &etcd_listen, &addresses.peer_listen)?;
        let value_bytes_top = (limits::REQUEST_BYTES_MAX - REQUEST_SLACK_BYTES) as u64;
        let tick = TickConfig::default();
        let config = Self {
            data_dir: given.parsed("data_dir", data_dir)?.unwrap_or_else(|| PathBuf::from("./quorate-data")),
            client_listen: addresses.client_listen,
            client_advertise: addresses.client_advertise,
            etcd_listen,
            peer_listen: addresses.peer_listen,
            peer_advertise: addresses.peer_advertise,
            client_tls: security.client,
            peer_tls: security.peer,
            insecure: security.insecure,
            founding: addresses.founding,
            join: given.parsed("join", values::peer_reachable)?,
            replace,
            labels: given.parsed("labels", values::labels)?.unwrap_or_default(),
            replication_factor: given.number(
                "replication_factor",
                limits::REPLICATION_FACTOR_DEFAULT.into(),
                1,
                limits::REPLICATION_FACTOR_MAX.into(),
            )?,
            log_format: given.parsed("log_format", log_format)?.unwrap_or(LogFormat::Text),
            log_filter: given.parsed("log", log_filter)?.unwrap_or_else(|| own_lines("info")),
            value_bytes_max: given.bytes("value_bytes_max", limits::VALUE_BYTES_MAX as u64, 1, value_bytes_top)?,
            requests_in_flight_max: given.number(
                "requests_in_flight_max",
                limits::REQUESTS_IN_FLIGHT_MAX as u64,
                1,
                1_000_000,
            )?,
            watch_progress_ms: given.number("watch_progress_ms", 600_000, 100, 86_400_000)?,
            heartbeat_ms: given.number("heartbeat_ms", tick.heartbeat_ms, 10, 60_000)?,
            election_min_ms: given.number("election_min_ms", tick.election_min_ms, 20, 600_000)?,
            election_max_ms: given.number("election_max_ms", tick.election_max_ms, 20, 600_000)?,
            log_segment_bytes: given.bytes("log_segment_bytes", 64 * MIB, 16 * MIB, SEGMENT_BYTES_MAX)?,
            log_entries_kept: crate::raft::LOG_ENTRIES_KEPT,
            snapshot_chunk_bytes: CHUNK_BYTES_TARGET,
            disk_reserve_bytes: given.bytes("disk_reserve_bytes", 64 * MIB, 16 * MIB, 1024 * 1024 * GIB)?,
            engine_cache_bytes: given.bytes("engine_cache_bytes", 256 * MIB, MIB, 1024 * GIB)?,
            engine_write_buffer_bytes: given.bytes("engine_write_buffer_bytes", 256 * MIB, MIB, 1024 * GIB)?,
            engine: given.parsed("engine", engine)?.unwrap_or(EngineKind::Fjall),
            name,
        };
        config.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        let Self { heartbeat_ms, election_min_ms, election_max_ms, .. } = self;
        if election_min_ms < heartbeat_ms.saturating_mul(HEARTBEATS_PER_ELECTION) {
            return Err(ConfigError::Conflict(format!(
                "election_min_ms ({election_min_ms}) must be at least {HEARTBEATS_PER_ELECTION} times \
                 heartbeat_ms ({heartbeat_ms}), or followers stand against a healthy leader"
            )));
        }
        if self.replace.is_some() && self.join.is_none() {
            let message = "replace needs join: give the peer address of a member that is to take this node in";
            return Err(ConfigError::Conflict(message.to_owned()));
        }
        if election_max_ms <= election_min_ms {
            return Err(ConfigError::Conflict(format!(
                "election_max_ms ({election_max_ms}) must be greater than election_min_ms ({election_min_ms}), \
                 or all followers stand at the same time"
            )));
        }
        Ok(self)
    }

    /// What clients are told of an address in `etcd_listen`: its port, on the host that they know this node by.
    pub fn etcd_advertise(&self, listening: &str) -> String {
        match (self.client_advertise.rsplit_once(':'), listening.rsplit_once(':')) {
            (Some((host, _)), Some((_, port))) => format!("{host}:{port}"),
            _ => listening.to_owned(),
        }
    }

    /// What an operator should know before the node starts.
    pub fn warnings(&self) -> Vec<String> {
        let clients = ("clients", &self.client_listen, self.client_tls.is_some());
        let peers = ("peers", &self.peer_listen, self.peer_tls.is_some());
        let etcd = self.etcd_listen.values().map(|address| ("clients", address, self.client_tls.is_some()));
        [clients, peers]
            .into_iter()
            .chain(etcd)
            .filter(|(_, address, tls)| !tls && security::is_open(address))
            .map(|(who, address, _)| {
                format!(
                    "listening for {who} on {address} without TLS: whoever reaches it can read and write everything"
                )
            })
            .collect()
    }
}

struct Addresses {
    client_listen: String,
    client_advertise: String,
    peer_listen: String,
    peer_advertise: String,
    founding: BTreeMap<String, String>,
}

impl Addresses {
    /// An address that is not given follows from those that are: a node advertises where it listens, and
    /// what `cluster` says of a node is where it listens for peers and what it advertises to them.
    fn resolve(given: &Values, name: &str) -> Result<Self, ConfigError> {
        let client_listen = given.parsed("client_addr", values::listening)?;
        let client_listen = client_listen.unwrap_or_else(|| CLIENT_ADDRESS.to_owned());
        let client_advertise = match given.parsed("client_advertise", values::reachable)? {
            Some(address) => address,
            None => advertised(&client_listen, "client_addr", "client_advertise")?,
        };
        let founding = given.parsed("cluster", values::cluster)?;
        let joins = given.0.contains_key("join");
        if joins && founding.is_some() {
            let message = "cluster names the first members of a new cluster, join a member of one that runs: give one";
            return Err(ConfigError::Conflict(message.to_owned()));
        }
        let own = match &founding {
            None => None,
            Some(founding) => Some(founding.get(name).ok_or_else(|| {
                let names: Vec<_> = founding.keys().map(String::as_str).collect();
                let names = names.join(", ");
                ConfigError::Conflict(format!("cluster names {names}, but not this node: name is {name}"))
            })?),
        };
        let peer_listen = given.parsed("peer_addr", values::peer_listening)?;
        let peer_listen = peer_listen.or_else(|| own.cloned()).unwrap_or_else(|| PEER_ADDRESS.to_owned());
        let peer_advertise = match (given.parsed("peer_advertise", values::peer_reachable)?, own) {
            (Some(address), Some(own)) if address != *own => {
                return Err(ConfigError::Conflict(format!(
                    "peer_advertise is {address}, but cluster says that {name} is at {own}"
                )));
            }
            (Some(address), _) => address,
            (None, Some(own)) => own.clone(),
            (None, None) => advertised(&peer_listen, "peer_addr", "peer_advertise")?,
        };
        if client_listen == peer_listen && !client_listen.ends_with(":0") {
            let same = format!("client_addr and peer_addr are both {client_listen}: give each a port of its own");
            return Err(ConfigError::Conflict(same));
        }
        let alone = || (!joins).then(|| (name.to_owned(), peer_advertise.clone())).into_iter().collect();
        let founding = founding.unwrap_or_else(alone);
        Ok(Self { client_listen, client_advertise, peer_listen, peer_advertise, founding })
    }
}

/// The listening address as what others are told, if they can use it.
fn advertised(listening: &str, key: &str, advertise_key: &str) -> Result<String, ConfigError> {
    values::reachable(listening).map_err(|why| {
        ConfigError::Conflict(format!(
            "{key} is {listening}, which {why}: set {advertise_key} to the host:port that reaches this node"
        ))
    })
}

struct Values(BTreeMap<&'static str, Given>);

impl Values {
    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let Some(Given { text, origin }) = self.0.get(key) else { return Ok(None) };
        let invalid = |why| ConfigError::Invalid { origin: origin.clone(), text: text.clone(), why };
        parse(text).map(Some).map_err(invalid)
    }

    fn number<T: TryFrom<u64>>(&self, key: &str, default: u64, min: u64, max: u64) -> Result<T, ConfigError> {
        let number = self.parsed(key, |text| values::number(text, &(min..=max)))?.unwrap_or(default);
        fitting(key, number)
    }

    fn bytes<T: TryFrom<u64>>(&self, key: &str, default: u64, min: u64, max: u64) -> Result<T, ConfigError> {
        let bytes = self.parsed(key, |text| values::bytes(text, &(min..=max)))?.unwrap_or(default);
        fitting(key, bytes)
    }
}

fn fitting<T: TryFrom<u64>>(key: &str, number: u64) -> Result<T, ConfigError> {
    T::try_from(number).map_err(|_| ConfigError::Conflict(format!("{key} is too large for this machine: {number}")))
}

fn data_dir(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must name a directory".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

/// A level alone speaks of Quorate's own lines. openraft logs each step of an election, and warns of
/// a peer that is away with every heartbeat, of which Quorate speaks once.
fn own_lines(level: &str) -> String {
    format!("warn,openraft=error,quorate={level},kvd={level}")
}

fn log_filter(text: &str) -> Result<String, String> {
    if let Ok(level) = text.parse::<tracing::Level>() {
        // Where Quorate itself is to be quiet, everything is.
        return Ok(if level <= tracing::Level::WARN { text.to_owned() } else { own_lines(text) });
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is no log filter, for instance info or info,quorate::raft=debug: {error}")),
    }
}

fn engine(text: &str) -> Result<EngineKind, String> {
    match text {
        "fjall" => Ok(EngineKind::Fjall),
        "memory" => Ok(EngineKind::Memory),
        #[cfg(feature = "engine-sled")]
        "sled" => Ok(EngineKind::Sled),
        #[cfg(not(feature = "engine-sled"))]
        "sled" => Err("is not in this kvd: build it with `cargo build --release --features engine-sled`".to_owned()),
        _ => Err("must be fjall, or sled in a kvd that was built with it".to_owned()),
    }
}
