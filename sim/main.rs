//! Whole production nodes in a simulated world: network, clock, chance and disk come from one seed.
//!
//! Run one seed with its trace on the terminal:
//! `QUORATE_SIM_SEED=7 QUORATE_SIM_TRACE=1 cargo test --test sim one_seed -- --nocapture`

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

/// A seed that anybody may choose, for replays.
#[test]
fn one_seed() {
    let seed = std::env::var("QUORATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let report = smoke::run(seed);
    assert!(report.acknowledged > 0, "seed {seed}: no write was acknowledged");
}

/// The same seed gives the same bytes; another seed gives others.
#[test]
fn a_seed_replays_byte_for_byte() {
    let (first, again, other) = (smoke::run(7), smoke::run(7), smoke::run(8));
    assert!(first.trace.lines().count() > 100, "a trace that shows nothing proves nothing");
    if let Some((line, (a, b))) = first.trace.lines().zip(again.trace.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("seed 7 parts from itself at line {line}:\n{a}\n{b}");
    }
    assert_eq!(first.trace.len(), again.trace.len(), "one run of seed 7 says more than the other");
    assert_ne!(first.trace, other.trace);
}
