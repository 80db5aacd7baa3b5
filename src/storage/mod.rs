//! What a node keeps on disk: one Raft log for all groups, and the engine with their state.

pub mod engine;
pub mod log;
