//! Every bound of the client, by name.

use std::time::Duration;

use crate::types::limits::CONNECTION_STREAMS_MAX;

/// Endpoints a client may be given.
pub const ENDPOINTS_MAX: usize = 64;
/// Port of an endpoint that names none.
pub const PORT_DEFAULT: u16 = 2379;
/// Time to open one connection before the next node is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time one attempt may take before another node is asked, for calls that may be repeated.
pub const ATTEMPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// Backoff is uniformly random below this, doubled with every round.
pub const BACKOFF_BASE: Duration = Duration::from_millis(10);
/// The same after a node said that it is overloaded.
pub const BACKOFF_OVERLOAD_BASE: Duration = Duration::from_millis(80);
/// Backoff never waits longer.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Leader hints that one call follows at once; further ones wait like any retry.
pub const REDIRECTS_MAX: u32 = 3;
/// Retries a client may make at once, over all its calls.
pub const RETRY_TOKENS_MAX: f64 = 4_096.0;
/// Retries earned by time.
pub const RETRY_TOKENS_PER_SECOND: f64 = 512.0;
/// Retries earned by a call that succeeded.
pub const RETRY_TOKENS_PER_SUCCESS: f64 = 0.5;
/// Consecutive failures to reach a node after which it is left alone.
pub const BREAKER_FAILURES_MAX: u32 = 5;
/// How long at first; doubled by every probe that fails.
pub const BREAKER_OPEN_MIN: Duration = Duration::from_millis(250);
/// How long at most.
pub const BREAKER_OPEN_MAX: Duration = Duration::from_secs(5);
/// An attempt that was given less says nothing of the node when it runs out of time.
pub const BREAKER_PATIENCE: Duration = Duration::from_millis(500);
/// A connection in use that is silent for so long is probed.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// And is given up when the probe is not answered within this.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 flow control window of one call: a page fits.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2 flow control window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 flow control window of one watch.
pub const LASTING_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 flow control window of a connection for watches: as many watches as a node takes on one.
pub const LASTING_CONNECTION_WINDOW_BYTES: u32 = LASTING_WINDOW_BYTES * CONNECTION_STREAMS_MAX;
/// Calls that wait for one connection's writer.
pub const CHANNEL_QUEUE_MAX: usize = 1_024;
/// Nodes whose connections a client remembers.
pub const PEERS_MAX: usize = 256;
/// Sessions that one write opens anew before it gives up.
pub const SESSION_REOPENS_MAX: usize = 2;
/// Renewals in the life of a lease that is kept alive.
pub const KEEP_ALIVE_FRACTION: u32 = 3;
/// Part of a lease's life by which the clocks of its owner and of its leader may differ at its end: one hundredth,
/// ten times what two clocks come apart that NTP steers, by at most 500 parts in a million each.
pub const CLOCK_DRIFT_FRACTION: u32 = 100;
/// Longest wait before the map is watched again after its stream broke.
pub const WATCH_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long to wait for a map that a node still lacks, before it is asked again.
pub const WATCH_BACKOFF_BASE: Duration = Duration::from_millis(200);
/// A watch that lasted this long resets the backoff.
pub const WATCH_STABLE: Duration = Duration::from_secs(10);
