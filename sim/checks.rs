//! Tests of the simulator's own parts. The `sim` target has a `main` of its own, so its tests would
//! not run there.

#![allow(dead_code, reason = "what only the simulator calls")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step fails the test")]

mod invariant {
    mod commit_on_a_quorum;
    mod election_safety;
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
