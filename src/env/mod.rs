//! The seams to the world: time, chance, network, disk and worker threads.
//!
//! Everything that is not a pure function of its input enters here, so that a simulator can stand
//! in for it. [`time`] and [`chance`] are free functions with a thread-local hook, because openraft
//! asks for them through static functions; [`net`], [`disk`] and [`work`] are values that are
//! handed down. No other room may name a clock, a random source, a socket, a thread or a file.
//! [`tls`] wraps what [`net`] gives, where that is asked for. [`console`] and [`program`] are a command-line tool's.

pub mod chance;
pub mod console;
pub mod disk;
pub mod net;
pub mod program;
pub mod time;
pub mod tls;
pub mod work;

use std::sync::Arc;

/// The outside of one node.
#[derive(Clone)]
pub struct Env {
    /// Sockets.
    pub net: Arc<dyn net::Network>,
    /// Files.
    pub disk: Arc<dyn disk::Disk>,
    /// Threads for blocking work.
    pub workers: work::Workers,
}

impl Env {
    /// The real world.
    pub fn real() -> Self {
        Self { net: Arc::new(net::TcpNetwork), disk: Arc::new(disk::RealDisk), workers: work::Workers::threads() }
    }
}
