//! What a group looks like from this node.

use std::collections::BTreeMap;

use openraft::{RaftMetrics, ServerState};

use super::types::TypeConfig;
use crate::types::{NodeId, ReplicaId};

/// What the local replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// Takes proposals and reads.
    Leader,
    /// Votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Follows without a vote; also before a group is initialised.
    #[default]
    Learner,
    /// Is shut down or has failed.
    Stopped,
}

/// A group at one moment. Indexes are of the last such entry, `None` when there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupStatus {
    /// What the local replica is.
    pub role: Role,
    /// Current term.
    pub term: u64,
    /// The leader as far as known, and where it lives.
    pub leader: Option<(ReplicaId, NodeId)>,
    /// In the local log.
    pub last: Option<u64>,
    /// Known to be committed.
    pub committed: Option<u64>,
    /// Visible in the local state.
    pub applied: Option<u64>,
    /// Removed from the local log.
    pub purged: Option<u64>,
    /// Applied and flushed by the engine.
    pub durable_applied: Option<u64>,
    /// Who votes, and where they live.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Who follows without a vote, and where.
    pub learners: BTreeMap<ReplicaId, NodeId>,
}

impl GroupStatus {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>, durable_applied: Option<u64>) -> Self {
        let membership = metrics.membership_config.membership();
        let place = |replica: u64| membership.get_node(&replica).map(|place| (ReplicaId(replica), place.node));
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        Self {
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.and_then(place),
            last: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            durable_applied,
            voters: membership.voter_ids().filter_map(place).collect(),
            learners: membership.learner_ids().filter_map(place).collect(),
        }
    }
}
