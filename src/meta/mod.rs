//! The metadata state machine and the planner that decides placements.
//!
//! Knows nodes, keyspaces and shard descriptors; no key, no value, no shard state.

mod keyspaces;
mod machine;
mod plan;
mod tables;

pub use keyspaces::place;
pub use machine::MetaMachine;
pub use plan::{founding_members, founding_meta_voters};
