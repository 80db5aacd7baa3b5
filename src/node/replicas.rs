//! What the leader of a group answers about its replicas, and how it changes them.

use std::collections::BTreeSet;

use crate::env::time::Instant;
use crate::proto::internal::change_membership::Change;
use crate::proto::internal::replicas_state::Replica;
use crate::proto::internal::{ChangeMembership, ReplicasState};
use crate::proto::v1::ErrorCode;
use crate::raft::{ChangeError, Group, Member, Members};
use crate::types::{GroupId, NodeId, ReplicaId};

use super::Failure;
use super::members::has_majority;
use super::router::no_leader;

/// The replicas as this leader sees them.
pub(super) fn state(id: GroupId, group: &Group) -> Result<ReplicasState, Failure> {
    let members = members(id, group)?;
    let replica = |(id, member): (&ReplicaId, &Member)| Replica {
        id: id.0,
        node_id: member.node.0,
        voter: member.voter,
        matched_index: member.matched.unwrap_or(0),
        answers: member.answers,
    };
    Ok(ReplicasState {
        replicas: members.replicas.iter().map(replica).collect(),
        leader_replica_id: group.replica().0,
        last_index: group.status().last.unwrap_or(0),
        is_joint: members.is_joint,
    })
}

/// Changes the members, if they are who the asker believes them to be.
pub(super) async fn change(
    id: GroupId,
    group: &Group,
    request: &ChangeMembership,
    deadline: Instant,
) -> Result<(), Failure> {
    let members = members(id, group)?;
    let expected: BTreeSet<_> = request.expected_voters.iter().copied().map(ReplicaId).collect();
    if members.voters() != expected {
        let message = format!("the voters of shard {} have changed meanwhile: look again", id.0);
        return Err(Failure::retry(ErrorCode::Unavailable, message));
    }
    let done = match &request.change {
        Some(Change::AddLearner(learner)) => {
            group.add_learner(ReplicaId(learner.replica_id), NodeId(learner.node_id), deadline).await
        }
        Some(Change::RemoveLearner(replica)) => group.remove_learner(ReplicaId(*replica), deadline).await,
        Some(Change::SetVoters(voters)) => {
            let voters: BTreeSet<_> = voters.replica_ids.iter().copied().map(ReplicaId).collect();
            if !has_majority(&members, voters.iter().copied()) {
                return Err(without_majority(id));
            }
            group.change_voters(voters, deadline).await
        }
        None => return Err(Failure::refused(ErrorCode::InvalidArgument, "an empty change of members")),
    };
    done.map_err(|error| failure(id, &error))
}

fn members(id: GroupId, group: &Group) -> Result<Members, Failure> {
    group.members().ok_or_else(|| {
        let mut failure = no_leader(id, None);
        failure.detail.leader_node_id = group.leader().map_or(0, |(_, node)| node.0);
        failure
    })
}

fn without_majority(id: GroupId) -> Failure {
    let message = format!(
        "shard {} would be without a majority of voters that answer: bring its nodes back, or wait until they answer",
        id.0
    );
    Failure::retry(ErrorCode::Unavailable, message)
}

fn failure(id: GroupId, error: &ChangeError) -> Failure {
    match error {
        ChangeError::NotLeader { leader } => {
            let mut failure = no_leader(id, None);
            failure.detail.leader_node_id = leader.map_or(0, |(_, node)| node.0);
            failure
        }
        ChangeError::Unknown(_) => {
            Failure::unknown(ErrorCode::Timeout, format!("shard {}: the change of members is unknown: {error}", id.0))
        }
        ChangeError::Refused(_) | ChangeError::AlreadyInitialized => {
            Failure::retry(ErrorCode::Unavailable, format!("shard {}: the members were not changed: {error}", id.0))
        }
    }
}
