//! What a group looks like from this node.

use std::collections::BTreeMap;

use openraft::{RaftMetrics, ServerState};

use super::types::{LogId, TypeConfig};
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

/// What of a group its watchers wait for, cheap to read and to compare: metrics change with every
/// entry, this seldom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    role: Role,
    term: u64,
    leader: Option<(ReplicaId, NodeId)>,
    /// Where the members stand in the log.
    members: Option<LogId>,
}

impl Standing {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let members = *metrics.membership_config.log_id();
        Self { role: role(metrics), term: metrics.current_term, leader: leader(metrics), members }
    }
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> Role {
    match metrics.state {
        _ if metrics.running_state.is_err() => Role::Stopped,
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}

/// The leader as far as known, and where it lives.
pub(super) fn leader(metrics: &RaftMetrics<TypeConfig>) -> Option<(ReplicaId, NodeId)> {
    let id = metrics.current_leader?;
    metrics.membership_config.get_node(&id).map(|place| (ReplicaId(id), place.node))
}

impl GroupStatus {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>, durable_applied: Option<u64>) -> Self {
        let membership = metrics.membership_config.membership();
        let place = |replica: u64| membership.get_node(&replica).map(|place| (ReplicaId(replica), place.node));
        Self {
            role: role(metrics),
            term: metrics.current_term,
            leader: leader(metrics),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::codec::log_id;

    #[test]
    fn entries_wake_no_watcher_but_elections_do() {
        let quiet = RaftMetrics::<TypeConfig>::new_initial(1);
        let written = RaftMetrics { last_log_index: Some(9), last_applied: Some(log_id(1, 9)), ..quiet.clone() };
        assert_eq!(Standing::of(&quiet), Standing::of(&written));
        assert_ne!(GroupStatus::of(&quiet, None), GroupStatus::of(&written, None));
        let elected = RaftMetrics { state: ServerState::Leader, ..quiet.clone() };
        assert_ne!(Standing::of(&quiet), Standing::of(&elected));
        let next_term = RaftMetrics { current_term: 7, ..quiet.clone() };
        assert_ne!(Standing::of(&quiet), Standing::of(&next_term));
    }
}
