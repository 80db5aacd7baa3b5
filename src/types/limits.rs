//! Every bound of the system that a user can meet, by name. `docs/limits.md` lists them.

use std::time::Duration;

/// Longest key, in bytes. The empty key is no key.
pub const KEY_BYTES_MAX: usize = 8 * 1024;
/// Longest value, in bytes, unless configured otherwise.
pub const VALUE_BYTES_MAX: usize = 1536 * 1024;
/// Largest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest replicated command, in bytes: a request with what a node adds to it. A log entry must be
/// able to hold it.
pub const COMMAND_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Largest frame between nodes, in bytes: a full append batch with its envelopes.
pub const PEER_FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries' payload in one append request between nodes, in bytes; one larger entry goes alone.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Operations in a branch of a transaction, or compares.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Transactions within transactions, the outermost counted.
pub const TXN_DEPTH_MAX: usize = 16;
/// Ranges of keys that one page of changes, or one stream of watches, may name.
pub const WATCH_RANGES_MAX: usize = 10_000;
/// Shortest time for which a keyspace may keep its history.
pub const HISTORY_MS_MIN: u64 = 1_000;
/// Bytes of a shard's newest changes that a node keeps for its watches; who is behind them reads the history.
pub const RECENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pages that these changes come in.
pub const RECENT_PAGES_MAX: usize = 1_024;
/// How often a watch that asked for it hears that nothing was missed.
pub const WATCH_PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Operations in a batch request.
pub const BATCH_OPERATIONS_MAX: usize = 128;
/// Records in a page.
pub const PAGE_RECORDS_MAX: usize = 10_000;
/// Records in a page when the request does not say.
pub const PAGE_RECORDS_DEFAULT: usize = 1_000;
/// Keys and values in a page, in bytes; a page holds at least one record.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest answer to a client, in bytes: a page with its framing.
pub const RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest text of a request of etcd's JSON gateway, in bytes: the largest request with its bytes in base64.
pub const GATEWAY_BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX / 3 * 4;
/// Largest put or transaction through etcd's API, in bytes; etcd's own default.
pub const ETCD_REQUEST_BYTES_MAX: usize = 1536 * 1024;
/// Largest answer to a client of etcd's API, in bytes: a range is answered whole there.
pub const ETCD_RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest life of a lease that etcd's API grants, in seconds; etcd's own.
pub const ETCD_LEASE_TTL_S_MAX: i64 = 9_000_000_000;
/// Shortest life of a lease there, in seconds: what is asked for below it is raised to it, as etcd does.
pub const ETCD_LEASE_TTL_S_MIN: i64 = 2;
/// Keys that one transaction may delete.
pub const TXN_DELETED_KEYS_MAX: usize = 10_000;
/// Client requests in flight on a node, unless configured otherwise.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 4_096;
/// Sequences a session may be ahead of its lowest unacknowledged one.
pub const SESSION_WINDOW: u64 = 1_024;
/// Bytes of one result that a session remembers; a larger one is replayed without its records.
pub const SESSION_RESULT_BYTES_MAX: usize = 64 * 1024;
/// Sessions open in one shard.
pub const SESSIONS_MAX: usize = 100_000;
/// Life of a session without writes.
pub const SESSION_TTL_DEFAULT: Duration = Duration::from_secs(60);
/// Shortest and longest life of a session.
pub const SESSION_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest life of a session.
pub const SESSION_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest time to live of a key or a lease: 285 years, as etcd's.
pub const TTL_MS_MAX: u64 = 9_000_000_000_000;
/// Highest id of a lease that a node chooses: etcd's clients know them as signed numbers.
pub const LEASE_ID_MAX: u64 = i64::MAX as u64;
/// Events that one entry of a compaction looks at.
pub const COMPACTION_STEP: u32 = 1_000;
/// Leases and sessions that end with one entry.
pub const EXPIRY_BATCH_MAX: usize = 128;
/// Time a request may take when its caller set no deadline.
pub const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest deadline a node honours.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Shortest pause between two proofs of a replica's state for stale reads.
pub const STALE_PROOF_EVERY_MIN: Duration = Duration::from_millis(50);
/// Longest pause; between the two it is a quarter of the reads' bound.
pub const STALE_PROOF_EVERY_MAX: Duration = Duration::from_secs(5);
/// How long after the last stale read of a shard a node goes on proving its replica's state.
pub const STALE_PROOF_KEPT: Duration = Duration::from_secs(60);
/// Voters of the metadata group.
pub const META_VOTERS_MAX: usize = 5;
/// Keyspaces of a cluster.
pub const KEYSPACES_MAX: usize = 1_024;
/// Longest name of a keyspace, in bytes.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 64;
/// Shards of one keyspace.
pub const KEYSPACE_SHARDS_MAX: usize = 1_024;
/// Shards of a cluster.
pub const SHARDS_MAX: usize = 4_096;
/// Split keys of a new range keyspace, in bytes together.
pub const SPLIT_KEYS_BYTES_MAX: usize = 256 * 1024;
/// Members of a cluster.
pub const NODES_MAX: usize = 256;
/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Operations on shards that run at a time.
pub const OPERATIONS_MAX: usize = 16;
/// Members named by `--cluster`.
pub const FOUNDING_NODES_MAX: usize = 64;
/// Replication factor of the keyspace `default`.
pub const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// Highest replication factor.
pub const REPLICATION_FACTOR_MAX: u32 = 9;
/// Connections open on a node's client port.
pub const CLIENT_CONNECTIONS_MAX: usize = 4_096;
/// Requests at a time on one client connection; a client waits beyond it.
pub const CONNECTION_STREAMS_MAX: u32 = 1_024;
/// Headers of one client request, in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Calls that a node keeps open for clients that watch keys, the map or its health, renew leases, or wait for a lock.
pub const WATCHERS_MAX: usize = 8_192;
/// Messages in the JSON of one request to a method of etcd's API that takes a stream.
pub const GATEWAY_MESSAGES_MAX: usize = 128;
/// Longest text of an error, in bytes; the rest is cut.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 2 * 1024;
