//! What the leader of a group answers about its replicas, and how it changes them.

use std::collections::BTreeSet;

use crate::env::time::Instant;
use crate::proto::internal::change_membership::Change;
use crate::proto::internal::meta_command::{AddNode, Kind};
use crate::proto::internal::replicas_state::Replica;
use crate::proto::internal::{ChangeMembership, MetaCommand, ReplicasState};
use crate::proto::v1::ErrorCode;
use crate::raft::{ChangeError, Group, Member, Members};
use crate::types::map::{Node, ShardMap, Standing};
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

/// Refuses to give the place of a node away that is heard of: it would be put out while it serves. Asked of
/// the leader, who alone knows.
pub(super) fn check_replaced(group: &Group, map: &ShardMap, command: &MetaCommand) -> Result<(), Failure> {
    let Some(Kind::AddNode(AddNode { replace, .. })) = &command.kind else { return Ok(()) };
    let named = |node: &&Node| node.name == *replace && node.standing == Standing::Member;
    // Nobody, or nobody yet: the command itself says what that means.
    let Some(old) = map.nodes.values().find(named) else { return Ok(()) };
    let members = members(GroupId::META, group)?;
    if !has_majority(&members, members.voters().into_iter()) {
        // A new leader has heard of nobody yet.
        let message = format!("whether node `{replace}` is still there is not known yet");
        return Err(Failure::retry(ErrorCode::Unavailable, message));
    }
    if members.replicas.get(&ReplicaId(old.id.0)).is_some_and(|member| member.answers) {
        let message = format!(
            "node `{replace}` is still there: stop it, and this goes on as soon as it is no longer heard of; or take \
             it out with `kvctl member remove {replace}`, and start this node without --replace"
        );
        return Err(Failure::retry(ErrorCode::Unavailable, message));
    }
    Ok(())
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
