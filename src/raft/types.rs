//! The types every group runs openraft with, and their short names.
//!
//! Nothing outside `raft/` sees them: the rest of the node speaks of groups, replicas and bytes.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;

use super::runtime::Runtime;
use crate::types::NodeId;

/// A command as it is replicated: opaque here.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Command(pub Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What applying an entry answered: opaque here, empty for entries without a command.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Answer(pub Bytes);

/// Where a replica lives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Place {
    /// The node; its address is the host's business.
    pub node: NodeId,
}

openraft::declare_raft_types!(
    /// One configuration for all groups. openraft's node id is our replica id, as a plain number.
    pub(super) TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = Place,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type Payload = alias::PayloadOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Place>;
pub(super) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(super) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(super) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(super) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(super) type VoteReply = openraft::raft::VoteResponse<TypeConfig>;
pub(super) type RpcError = openraft::errors::RPCError<TypeConfig>;
