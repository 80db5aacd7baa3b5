//! Who is in a group: founding it, changing its members, handing its leadership over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};

use super::group::{Group, Leader, leader_of};
use super::status::Role;
use super::types::{Place, TypeConfig};
use crate::env::time;
use crate::types::{NodeId, ReplicaId};

/// A replica as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where it lives.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// The last index that it is known to hold.
    pub matched: Option<u64>,
    /// Whether it was heard of lately.
    pub answers: bool,
}

/// The members of a group as their leader sees them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// By id.
    pub replicas: BTreeMap<ReplicaId, Member>,
    /// A change of voters has begun and not ended: both the old and the new ones must agree. It goes on
    /// when it is asked for again.
    pub is_joint: bool,
}

impl Members {
    /// Who votes; while a change goes on, before it or after it.
    pub fn voters(&self) -> BTreeSet<ReplicaId> {
        self.replicas.iter().filter(|(_, member)| member.voter).map(|(replica, _)| *replica).collect()
    }
}

/// Why a group's members or leader were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// The group has members already: nothing was changed.
    #[error("the group is initialised already")]
    AlreadyInitialized,
    /// Nothing was changed; the leader, if known, can do it.
    #[error("this replica does not lead")]
    NotLeader {
        /// Who does.
        leader: Leader,
    },
    /// Nothing was changed.
    #[error("refused: {0}")]
    Refused(String),
    /// It may happen yet.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// A replica that was silent for longer than this and four heartbeats is asked for nothing.
const HEIR_SILENCE_BASE: Duration = Duration::from_millis(500);

impl Group {
    /// Founds the group with its first voters. At most one of them need be asked; asking several
    /// with the same voters is harmless.
    ///
    /// # Errors
    /// [`ChangeError::AlreadyInitialized`] when it has members.
    pub async fn initialize(&self, voters: BTreeMap<ReplicaId, NodeId>) -> Result<(), ChangeError> {
        let members: BTreeMap<u64, Place> =
            voters.into_iter().map(|(replica, node)| (replica.0, Place { node })).collect();
        match self.core.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(ChangeError::AlreadyInitialized),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(ChangeError::Refused(error.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Unknown(fatal.to_string())),
        }
    }

    /// Has this replica stand for election now.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn elect(&self) -> Result<(), ChangeError> {
        self.core.raft.trigger().elect(false).await.map_err(|fatal| ChangeError::Unknown(fatal.to_string()))
    }

    /// Adds a replica without a vote. It catches up by itself: see [`Group::members`].
    ///
    /// # Errors
    /// When this replica does not lead, or the change was not committed in time.
    pub async fn add_learner(
        &self,
        replica: ReplicaId,
        node: NodeId,
        deadline: time::Instant,
    ) -> Result<(), ChangeError> {
        changed(time::timeout_at(deadline, self.core.raft.add_learner(replica.0, Place { node }, false)).await)
    }

    /// Takes a replica without a vote out of the group.
    ///
    /// # Errors
    /// When this replica does not lead, that one votes, or the change was not committed in time.
    pub async fn remove_learner(&self, replica: ReplicaId, deadline: time::Instant) -> Result<(), ChangeError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([replica.0]));
        changed(time::timeout_at(deadline, self.core.raft.change_membership(change, false)).await)
    }

    /// Makes exactly these replicas voters. Others leave the group.
    ///
    /// # Errors
    /// When this replica does not lead, one of them is not part of the group, or the change was not
    /// committed in time.
    pub async fn change_voters(&self, voters: BTreeSet<ReplicaId>, deadline: time::Instant) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|replica| replica.0).collect();
        changed(time::timeout_at(deadline, self.core.raft.change_membership(voters, false)).await)
    }

    /// Makes exactly these replicas voters. Others stay in the group without a vote.
    ///
    /// # Errors
    /// As [`Group::change_voters`].
    pub async fn demote_others(&self, voters: BTreeSet<ReplicaId>, deadline: time::Instant) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|replica| replica.0).collect();
        changed(time::timeout_at(deadline, self.core.raft.change_membership(voters, true)).await)
    }

    /// All replicas as their leader sees them. `None` when this one does not lead.
    pub fn members(&self) -> Option<Members> {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let heard: BTreeSet<_> = self.heard(&metrics).into_iter().map(|(_, replica)| replica).collect();
        let membership = metrics.membership_config.membership();
        let voters = membership.voter_ids().collect::<BTreeSet<_>>();
        let member = |(id, place): (&u64, &Place)| {
            let own = *id == self.core.replica.0;
            let matched = replication.get(id).copied().flatten().map(|log_id| log_id.index);
            let member = Member {
                node: place.node,
                voter: voters.contains(id),
                matched: if own { metrics.last_log_index } else { matched },
                answers: own || heard.contains(&ReplicaId(*id)),
            };
            (ReplicaId(*id), member)
        };
        let is_joint = membership.get_joint_config().len() > 1;
        Some(Members { replicas: membership.nodes().map(member).collect(), is_joint })
    }

    /// The other voters that answer, those that answered last first. Empty when this replica does not
    /// lead.
    pub fn heirs(&self) -> Vec<ReplicaId> {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids().collect::<BTreeSet<_>>();
        let mut heirs = self.heard(&metrics);
        heirs.retain(|(_, replica)| voters.contains(&replica.0));
        heirs.sort_by(|left, right| right.cmp(left));
        heirs.into_iter().map(|(_, replica)| replica).collect()
    }

    /// The other replicas that answered this leader lately, and when.
    fn heard(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<(time::Instant, ReplicaId)> {
        let silence = HEIR_SILENCE_BASE + Duration::from_millis(self.core.raft.config().heartbeat_interval) * 4;
        let now = time::now();
        let answered = metrics.heartbeat.iter().flatten().filter(|(id, _)| **id != self.core.replica.0);
        let heard = answered.filter_map(|(id, at)| Some((at.as_ref()?.into_inner().instant(), ReplicaId(*id))));
        heard.filter(|(at, _)| now.saturating_duration_since(*at) < silence).collect()
    }

    /// Hands leadership over and waits until this replica has seen it. Returns the new leader's term.
    ///
    /// # Errors
    /// When this replica does not lead, `to` has no vote, or it did not take over in time.
    pub async fn transfer_leader(&self, to: ReplicaId, deadline: time::Instant) -> Result<u64, ChangeError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(ChangeError::NotLeader { leader: status.leader });
        }
        if to == self.core.replica {
            return Ok(status.term);
        }
        if !status.voters.contains_key(&to) {
            return Err(ChangeError::Refused(format!("{to} is no voter of {}", self.core.group)));
        }
        let asked = self.core.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|fatal| ChangeError::Unknown(fatal.to_string()))?;
        let mut changes = self.watch();
        let taken = changes.wait_for(|now| now.leader.is_some_and(|(leader, _)| leader == to));
        match time::timeout_at(deadline, taken).await {
            // As of then: the leadership may have moved on.
            Ok(Ok(now)) => Ok(now.term),
            Ok(Err(_)) => Err(ChangeError::Unknown("the group was stopped".to_owned())),
            Err(_) => Err(ChangeError::Unknown(format!("{to} has not taken over in time"))),
        }
    }
}

fn changed<T>(
    result: Result<Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>, time::Elapsed>,
) -> Result<(), ChangeError> {
    match result {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
            Err(ChangeError::NotLeader { leader: leader_of(&to) })
        }
        Ok(Err(RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ))) => Err(ChangeError::Refused(error.to_string())),
        Ok(Err(error @ (RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) | RaftError::Fatal(_)))) => {
            Err(ChangeError::Unknown(error.to_string()))
        }
        Err(_) => Err(ChangeError::Unknown("it was not committed in time".to_owned())),
    }
}
