//! The tests of what the simulator concludes from: its checker of linearizability and its checks of
//! revisions. They need no cluster.

#![allow(dead_code, reason = "the simulator uses the rest of these modules")]

mod chance;
mod history;
mod linear;

#[cfg(test)]
#[path = "linear/brute.rs"]
mod brute;
#[cfg(test)]
#[path = "linear/cases_test.rs"]
mod cases_test;
#[cfg(test)]
#[path = "linear/past_test.rs"]
mod past_test;
#[cfg(test)]
#[path = "linear/random_test.rs"]
mod random_test;
#[cfg(test)]
mod mutants_test;
