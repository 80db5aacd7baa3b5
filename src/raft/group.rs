//! One replica of one group, as the node sees it: propose, read, watch, change its members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResponse;
use openraft::type_config::alias::CommittedLeaderIdOf;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::apply::LogPosition;
use super::codec;
use super::machine::{Machine, Replica};
use super::read_index::ReadIndex;
use super::status;
pub use super::status::{GroupStatus, Role};
use super::types::{Command, TypeConfig};
use crate::env::time;
use crate::storage::engine::{EngineError, View};
use crate::storage::log::GroupLog;
use crate::types::limits::COMMAND_BYTES_MAX;
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

/// A leader and where it lives; `None` when nobody is known to lead.
pub type Leader = Option<(ReplicaId, NodeId)>;

/// Which replica of which group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// The group.
    pub group: GroupId,
    /// The replica that lives here.
    pub replica: ReplicaId,
    /// Version of the shard's descriptor; 0 when not known.
    pub epoch: Epoch,
}

/// A command that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Where it stands in the log.
    pub at: LogPosition,
    /// What applying it answered.
    pub answer: Bytes,
}

/// Why a proposal has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied; the leader, if known, may take it.
    #[error("this replica does not lead")]
    NotLeader {
        /// Who does.
        leader: Leader,
    },
    /// Certainly not applied: no log entry holds it.
    #[error("a command of {0} bytes exceeds the {COMMAND_BYTES_MAX} bytes that are replicated")]
    TooLarge(usize),
    /// Certainly not applied: the disk of this node is full.
    #[error("the disk of this node is full")]
    DiskFull,
    /// Certainly not applied: the log's disk was behind for as long as the deadline allowed.
    #[error("the log is overloaded")]
    Overloaded,
    /// It may be applied already, later or never.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The replica has stopped; the outcome is unknown.
    #[error("the replica has stopped, the outcome is unknown: {0}")]
    Stopped(String),
}

/// Why a read cannot be served here now. Reads change nothing, so each of these can be retried.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The leader, if known, may serve it.
    #[error("this replica does not lead")]
    NotLeader {
        /// Who does.
        leader: Leader,
    },
    /// No majority confirmed that this replica leads.
    #[error("no majority answers: {0}")]
    NoQuorum(String),
    /// The deadline came first.
    #[error("the read was not confirmed in time")]
    Timeout,
    /// The leader was asked and gave no read index.
    #[error("{0}")]
    NoIndex(String),
    /// Too many reads wait.
    #[error("too many reads wait")]
    Busy,
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

pub(super) type Raft = openraft::Raft<TypeConfig, Machine>;

/// What host, transport and handle share of a group.
pub(super) struct Core {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) epoch: Arc<AtomicU64>,
    pub(super) raft: Raft,
    pub(super) log: GroupLog,
    pub(super) state: Arc<Replica>,
    pub(super) durable_applied: watch::Sender<Option<u64>>,
    pub(super) status: watch::Sender<GroupStatus>,
    pub(super) reads: Arc<ReadIndex<Raft>>,
    /// When a leader was last followed.
    pub(super) heard: Mutex<Option<time::Instant>>,
    /// Snapshot transfers to this replica that have begun; only the latest goes on.
    pub(super) transfers: AtomicU64,
    /// Set before this node stops the replica.
    pub(super) stopping: AtomicBool,
}

/// A handle on one group.
#[derive(Clone)]
pub struct Group {
    pub(super) core: Arc<Core>,
}

impl Group {
    /// The group.
    pub fn id(&self) -> GroupId {
        self.core.group
    }

    /// The replica that lives here.
    pub fn replica(&self) -> ReplicaId {
        self.core.replica
    }

    /// Says which version of the shard's descriptor this node knows; frames of older ones are refused.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.core.epoch.fetch_max(epoch.0, Ordering::Relaxed);
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] and [`ProposeError::Stopped`] leave open whether it will be applied;
    /// the others say that it will not.
    pub async fn propose(&self, command: Bytes, deadline: time::Instant) -> Result<Applied, ProposeError> {
        self.propose_as(None, command, deadline).await
    }

    /// Like [`Group::propose`], but only if this replica leads in `term` when the command enters the log.
    ///
    /// # Errors
    /// As those of [`Group::propose`]; [`ProposeError::NotLeader`] may name this replica, when it leads in
    /// another term.
    pub async fn propose_in(
        &self,
        term: u64,
        command: Bytes,
        deadline: time::Instant,
    ) -> Result<Applied, ProposeError> {
        self.propose_as(Some(term), command, deadline).await
    }

    async fn propose_as(
        &self,
        term: Option<u64>,
        command: Bytes,
        deadline: time::Instant,
    ) -> Result<Applied, ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            // The log would refuse it, and the core would fail.
            return Err(ProposeError::TooLarge(command.len()));
        }
        // Held here, where nothing but this proposal waits, when the log's disk is behind.
        match time::timeout_at(deadline, self.core.log.admission()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(ProposeError::Stopped(error.to_string())),
            Err(_) => return Err(ProposeError::Overloaded),
        }
        if !has_room(&self.core.log, command.len()) {
            return Err(ProposeError::DiskFull);
        }
        let written = async {
            match term {
                None => self.core.raft.client_write(Command(command)).await,
                Some(term) => self.write_in(term, command).await,
            }
        };
        match time::timeout_at(deadline, written).await {
            Ok(Ok(response)) => Ok(Applied { at: codec::position(&response.log_id), answer: response.data.0 }),
            Ok(Err(error)) => Err(propose_error(error)),
            Err(_) => Err(ProposeError::Unknown("the deadline came before the answer".to_owned())),
        }
    }

    async fn write_in(
        &self,
        term: u64,
        command: Bytes,
    ) -> Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>> {
        let (responder, written) = ProgressResponder::complete_only();
        let leader = CommittedLeaderIdOf::<TypeConfig>::new(term);
        self.core.raft.write(Command(command)).responder(responder).with_leader(leader).await?;
        // The core answers everything it took, unless it ends.
        written.await.map_err(|_| Fatal::Stopped)?.map_err(RaftError::APIError)
    }

    /// Returns once this replica leads for certain and [`Group::view`] shows every write that was
    /// acknowledged before this call. So does the view of any replica that has applied the returned index.
    ///
    /// # Errors
    /// When that cannot be known; the read may be retried, here or at the leader.
    pub async fn read_index(&self, deadline: time::Instant) -> Result<u64, ReadError> {
        self.core.reads.wait(deadline).await
    }

    /// Returns once [`Group::view`] shows the log up to `index`; never, if it does not come so far.
    pub async fn applied(&self, index: u64) {
        self.core.state.reached(index).await;
    }

    /// The local state as of now. How new it is only [`Group::read_index`] can tell; without it the
    /// state may be older than one that was read here before a restart.
    ///
    /// # Errors
    /// When the engine has failed.
    pub fn view(&self) -> Result<Box<dyn View>, EngineError> {
        self.core.state.view()
    }

    /// The group at this moment.
    pub fn status(&self) -> GroupStatus {
        self.core.status()
    }

    /// Who leads, as far as known here. Cheap enough to ask for every request.
    pub fn leader(&self) -> Leader {
        let metrics = self.core.raft.metrics();
        status::leader(&metrics.borrow_watched())
    }

    /// Who leads, if this replica has heard so lately: from that leader itself or, where it leads, from a
    /// majority. `None` soon after the majority has gone, while [`Group::leader`] goes on naming who led last.
    pub fn present_leader(&self) -> Leader {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let silence_max = Duration::from_millis(self.core.raft.config().election_timeout_max) * 2;
        let is_late = |at: time::Instant| time::now().saturating_duration_since(at) > silence_max;
        let leads = metrics.current_leader == Some(self.core.replica.0);
        let is_silent = if leads {
            // A majority has just voted for a leader that nobody answered yet; who is alone is one.
            let is_alone = metrics.membership_config.membership().voter_ids().count() == 1;
            !is_alone && metrics.last_quorum_acked.as_ref().is_some_and(|at| is_late(at.into_inner().instant()))
        } else {
            self.core.heard.lock().is_none_or(is_late)
        };
        if is_silent { None } else { status::leader(&metrics) }
    }

    /// The current term, as cheap.
    pub fn term(&self) -> u64 {
        self.core.raft.metrics().borrow_watched().current_term
    }

    /// The group, whenever its term, role, leader or members change. The indexes are of that moment
    /// and get old; [`Group::status`] has the present ones.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.core.status.subscribe()
    }
}

impl Core {
    /// A leader has been followed just now.
    pub(super) fn hear(&self) {
        *self.heard.lock() = Some(time::now());
    }

    pub(super) fn status(&self) -> GroupStatus {
        let mut metrics = self.raft.metrics();
        let status = GroupStatus::of(&metrics.borrow_and_update(), *self.durable_applied.borrow());
        GroupStatus { applied: self.state.applied().map(|at| at.index).or(status.applied), ..status }
    }

    /// Stops the replica and waits for its end.
    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.group, %error, "a replica did not stop cleanly");
        }
    }

    /// The core has ended: a failure, unless this node stopped it. A failed replica must not linger.
    pub(super) fn ended(&self, why: &Fatal<TypeConfig>, failed: &watch::Sender<Option<String>>) {
        self.status.send_modify(|status| status.role = Role::Stopped);
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let message = format!("replica {} of group {} failed: {why}", self.replica, self.group);
        tracing::error!("{message}");
        failed.send_if_modified(|failed| failed.is_none() && failed.replace(message).is_none());
    }

    /// Where a replica lives according to the membership this replica knows.
    pub(super) fn home_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&replica.0).map(|place| place.node)
    }
}

/// Space that proposals and appends leave on a full disk, in bytes, for what cannot be refused: a new
/// leader's first entry, votes, and what passed this check at the same time.
const LOG_HEADROOM_BYTES: usize = 8 * 1024 * 1024;

/// Whether the log takes a command of `bytes`. Asked before the core is: there a refusal is fatal.
pub(super) fn has_room(log: &GroupLog, bytes: usize) -> bool {
    log.has_room(bytes.saturating_add(LOG_HEADROOM_BYTES))
}

/// The leader that openraft points to.
pub(super) fn leader_of(to: &ForwardToLeader<TypeConfig>) -> Leader {
    Some((ReplicaId(to.leader_id?), to.leader_node?.node))
}

fn propose_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        // Refused before it was appended, also when nobody is known to lead.
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NotLeader { leader: leader_of(&to) }
        }
        RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::Unknown(error.to_string()),
        RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Place;

    #[test]
    fn only_a_refusal_before_appending_says_not_applied() {
        let lost = ForwardToLeader::<TypeConfig>::empty();
        let known = ForwardToLeader::new(7, Place { node: NodeId(3) });
        let error = |error| propose_error(RaftError::APIError(error));
        assert_eq!(error(ClientWriteError::ForwardToLeader(lost.clone())), ProposeError::NotLeader { leader: None });
        let leader = Some((ReplicaId(7), NodeId(3)));
        assert_eq!(error(ClientWriteError::ForwardToLeader(known)), ProposeError::NotLeader { leader });
        assert!(matches!(error(ClientWriteError::LogEntryDiscarded(lost)), ProposeError::Unknown(_)));
        assert!(matches!(propose_error(RaftError::Fatal(Fatal::Stopped)), ProposeError::Stopped(_)));
    }
}
