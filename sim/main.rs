//! Whole production nodes in a simulated world: network, clocks, chance and disks come from one seed.
//!
//! `docs/testing.md` says how to run, replay, shrink and extend it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the run")]
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs `--cfg tokio_unstable` for deterministic scheduling; .cargo/config.toml sets it, unless \
     RUSTFLAGS replaces it"
);

mod chance;
mod commands;
mod converge;
mod fault;
mod fencing;
mod history;
mod invariant;
mod leased;
mod linear;
mod many;
mod mutants;
mod panics;
mod plan;
mod pool;
mod report;
mod retired;
mod run;
mod scenario;
mod shrink;
mod total;
mod trace;
mod watched;
mod workload;
mod world;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

thread_local! {
    /// Simulated time as of the last step: turmoil tells it only to its hosts.
    static STEPPED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Simulated time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_else(|| STEPPED.get());
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Tells [`now_ms`] how far the simulation is.
pub(crate) fn stepped(elapsed: Duration) {
    STEPPED.set(elapsed);
}

fn main() -> ExitCode {
    commands::Arguments::parse().execute()
}
