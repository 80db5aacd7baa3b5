//! Tests of what the simulator concludes from: its checker of linearizability, its judges of watches and
//! locks, its invariants, its mutants. They need no cluster. The target `sim` has a `main` of its own and
//! runs no tests.

#![allow(dead_code, reason = "the simulator uses the rest of these modules")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod chance;
mod fencing;
mod history;
mod leased;
mod linear;
mod watched;

#[cfg(test)]
#[path = "linear/brute.rs"]
mod brute;
#[cfg(test)]
#[path = "linear/cases_test.rs"]
mod cases_test;
#[cfg(test)]
mod fencing_test;
#[cfg(test)]
mod leased_test;
#[cfg(test)]
mod mutants_test;
#[cfg(test)]
#[path = "linear/past_test.rs"]
mod past_test;
#[cfg(test)]
#[path = "linear/random_test.rs"]
mod random_test;
#[cfg(test)]
#[path = "linear/stale_test.rs"]
mod stale_test;
#[cfg(test)]
#[path = "watched/ledger_test.rs"]
mod watched_ledger_test;
#[cfg(test)]
#[path = "watched/view_test.rs"]
mod watched_view_test;

mod invariant {
    mod commit_on_a_quorum;
    mod election_safety;
    mod enough_voters;
    mod leader_completeness;
    mod log_matching;
    mod metadata;
    mod monotonic;
    mod observed;
    mod replica_log;
    mod state_machine_safety;

    #[cfg(test)]
    mod commit_on_a_quorum_test;
    #[cfg(test)]
    mod election_safety_test;
    #[cfg(test)]
    mod enough_voters_test;
    #[cfg(test)]
    mod leader_completeness_test;
    #[cfg(test)]
    mod log_matching_test;
    #[cfg(test)]
    mod metadata_test;
    #[cfg(test)]
    mod monotonic_test;
    #[cfg(test)]
    mod replica_log_test;
    #[cfg(test)]
    mod state_machine_safety_test;
    #[cfg(test)]
    mod test_events;
}
