//! Real `kvd` and `kvctl` processes on loopback: killed, starved and damaged.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "real processes are met with real sockets, files and clocks, and tests say what they measured"
)]

mod bad_etcd_input;
mod bad_input;
mod chaos;
mod damage;
mod dev;
#[cfg(feature = "etcd-cases")]
mod etcd;
mod harness;
mod import_etcd;
mod keyspaces;
mod locks;
mod main_job;
mod members;
mod pki;
mod reads;
mod recovery;
mod repl;
#[cfg(feature = "engine-sled")]
mod sled;
mod tls;
mod watch;
mod writers;
