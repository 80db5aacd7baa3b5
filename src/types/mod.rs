//! The nouns everybody shares: identities, keys, spans, the shard map, limits.
//!
//! Knows nothing of storage, Raft or the network. Imports no other room.

pub mod hash;
pub mod id;
pub mod key;
pub mod limits;
pub mod map;
pub mod span;

pub use id::{ClusterId, Epoch, GroupId, KeyspaceId, NodeId, OperationId, ReplicaId, Revision};
pub use span::Span;
