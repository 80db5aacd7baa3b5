//! The metadata state machine and the planner that decides placements.
//!
//! Knows nodes, keyspaces and shard descriptors; no key, no value, no shard state.

mod balance;
mod keyspaces;
mod machine;
mod nodes;
mod operations;
mod plan;
mod tables;
#[cfg(test)]
mod test_bed;

pub use balance::{meta_voters, next_operations, ready_to_forget};
pub use keyspaces::place;
pub use machine::MetaMachine;
pub use plan::{founding_members, founding_meta_voters};
