//! The client of a Quorate cluster: finds the leader of each shard, retries what may be retried,
//! and always says what became of a write.
//!
//! Knows the public API, the shard map and the seams of `env`. Knows nothing of Raft, storage or a
//! node's inside, and keeps no global state: several clients live in one process, also under a
//! single-threaded simulator.
//!
//! ```no_run
//! use quorate::client::{Client, ClientConfig, Keys};
//! use quorate::env::Env;
//!
//! # async fn example() -> quorate::client::Result<()> {
//! let client = Client::connect(&Env::real(), ClientConfig::new(["127.0.0.1:2379"])).await?;
//! client.put("greeting", "hello").await?;
//! let record = client.get("greeting").await?;
//! assert_eq!(record.map(|record| record.value).as_deref(), Some(b"hello".as_slice()));
//!
//! // Exactly once, whatever happens to connections and leaders:
//! let session = client.session();
//! session.put("greeting", "hello again").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What an error means
//!
//! [`Error::outcome`] says whether a failed write was not applied, applied, or may be either. A
//! write without a session is never sent a second time once it may have reached a server; a write
//! of a [`Session`] is, until its time is over.

mod admin;
mod batch;
mod breaker;
mod budget;
mod call;
mod config;
mod contest;
mod core;
mod error;
mod etcd;
mod leaders;
mod leases;
pub mod limits;
mod map_watch;
mod options;
mod peers;
mod reads;
mod routes;
mod rpc;
mod scan;
mod session;
mod txn;
mod watch;
mod window;
mod writes;

#[cfg(test)]
mod call_test;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod session_test;
#[cfg(test)]
mod watch_test;

use std::sync::Arc;
use std::time::Duration;

pub use batch::ShardOutcome;
pub use config::ClientConfig;
pub use contest::Contender;

/// Which files hold the certificates of [`ClientConfig::tls`].
pub use crate::env::tls::{ClientFiles, TlsIdentity};

pub use error::{Error, Outcome, Result};
pub use etcd::{EtcdRecord, EtcdSource};
pub use leaders::Leaders;
pub use leases::{KeepAlive, Lease, LeaseTime};
pub use options::{BatchOperation, Consistency, Keys, PutOptions, ReadOptions, ScanOptions, WatchOptions};
pub use scan::{Scan, ScanPosition};
pub use session::Session;
pub use txn::{Condition, Op, Relation, Txn};
pub use watch::Watch;
pub use writes::Written;

/// Whether a key was put or deleted.
pub use crate::proto::v1::event::Kind as EventKind;

/// Parts of the public API that appear in answers as they are.
pub use crate::proto::v1::{
    CreateKeyspaceRequest, CreateKeyspaceResponse, DropKeyspaceResponse, ErrorCode, ErrorDetail, Event,
    MembersResponse, MoveLeaderResponse, Node, NodeStanding, OperationResult, Record, ReplicaStatus, ShardOperation,
    Sharding, ShardsResponse, StatusResponse, TransactionResult, UpdateKeyspaceRequest, UpdateKeyspaceResponse,
    operation_result, sharding, shards_response, span,
};

use self::core::Core;
use crate::env::Env;

/// A handle on a cluster. Clones are cheap and share connections, map and retry budget.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
    keyspace: Arc<str>,
    timeout: Duration,
    consistency: Consistency,
}

impl Client {
    /// Makes a client. It connects when it is first used: a cluster that is down shows then.
    ///
    /// Must be called within a tokio runtime, single-threaded or not.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the settings make no sense.
    #[allow(clippy::unused_async, reason = "async, so that it cannot be called without a runtime")]
    pub async fn connect(env: &Env, config: ClientConfig) -> Result<Self> {
        let core = Core::start(env, config)?;
        let keyspace = Arc::from(core.config.keyspace.as_str());
        let (timeout, consistency) = (core.config.timeout, core.config.consistency);
        Ok(Self { core, keyspace, timeout, consistency })
    }

    /// The same client on another keyspace.
    #[must_use]
    pub fn with_keyspace(&self, keyspace: &str) -> Self {
        Self { keyspace: Arc::from(keyspace), ..self.clone() }
    }

    /// The same client with another total time for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client with another level for reads that do not say.
    #[must_use]
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self { consistency, ..self.clone() }
    }

    /// The endpoints it was given, as `host:port`.
    pub fn endpoints(&self) -> &[String] {
        &self.core.config.endpoints
    }

    /// A session on the client's keyspace: writes through it happen exactly once.
    pub fn session(&self) -> Session {
        Session::new(self.clone(), crate::types::limits::SESSION_TTL_DEFAULT)
    }

    /// A session that survives `ttl` without writes; the server bounds it.
    pub fn session_with_ttl(&self, ttl: Duration) -> Session {
        Session::new(self.clone(), ttl)
    }
}
