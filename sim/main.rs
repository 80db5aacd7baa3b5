//! Whole production nodes in a simulated world: network, clock, chance and disk come from one seed.
//!
//! Run one seed with its trace on the terminal:
//! `QUORATE_SIM_SEED=7 QUORATE_SIM_TRACE=1 cargo test --test sim one_seed -- --nocapture`

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the run")]

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs `--cfg tokio_unstable` for deterministic scheduling; .cargo/config.toml sets it, unless \
     RUSTFLAGS replaces it"
);

mod net;
mod smoke;
mod trace;
mod workload;
mod world;

use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

/// A seed that anybody may choose, for replays. The trace goes to a file if one is named.
#[test]
fn one_seed() {
    let seed = std::env::var("QUORATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let report = smoke::run(seed);
    assert!(report.acknowledged > 0, "seed {seed}: no write was acknowledged");
    if let Some(path) = std::env::var_os("QUORATE_SIM_TRACE_FILE") {
        std::fs::write(path, report.trace).unwrap();
    }
}

/// The same seed gives the same bytes; another seed gives others.
///
/// Each run is a process of its own: tokio numbers tasks for the whole process, and the order in
/// which a crash drops them depends on their numbers.
#[test]
fn a_seed_replays_byte_for_byte() {
    let dir = TempDir::new().unwrap();
    let runs = [(7, "first"), (7, "again"), (8, "other")].map(|(seed, name)| {
        let path = dir.path().join(name);
        (run_alone(seed, &path), path)
    });
    let [first, again, other] = runs.map(|(mut run, path)| {
        assert!(run.wait().unwrap().success(), "the run that writes {} failed", path.display());
        std::fs::read_to_string(path).unwrap()
    });
    assert!(first.lines().count() > 1_000, "a trace that shows nothing proves nothing");
    if let Some((line, (a, b))) = first.lines().zip(again.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("seed 7 parts from itself at line {line}:\n{a}\n{b}");
    }
    assert_eq!(first.len(), again.len(), "one run of seed 7 says more than the other");
    assert_ne!(first, other);
}

fn run_alone(seed: u64, trace: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--test-threads=1"])
        .env("QUORATE_SIM_SEED", seed.to_string())
        .env("QUORATE_SIM_TRACE_FILE", trace)
        .spawn()
        .unwrap()
}
