//! Quorate: a sharded, Raft-replicated key-value store.
//!
//! The rooms, from the ground up, and what each may know: `docs/ARCHITECTURE.md`.

pub mod api;
pub mod cli;
pub mod client;
pub mod env;
pub mod meta;
pub mod node;
pub mod proto;
pub mod raft;
pub mod shard;
pub mod storage;
pub mod types;
