//! Executes a request on a shard that this node leads, or a read on any replica that was proved to show
//! enough.

use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message;
use tokio::sync::watch;

use crate::env::time::Instant;
use crate::env::work::{Worker, Workers};
use crate::proto::internal::{
    CommandResult, Refusal, ShardCommand, ShardRead, ShardReadResult, ShardRequest, ShardResponse, command_result,
    shard_command, shard_read, shard_read_result, shard_request, shard_response,
};
use crate::proto::v1::{ErrorCode, Transaction, operation};
use crate::raft::{Group, ProposeError, ReadError};
use crate::shard::{ShardError, fence, read};
use crate::storage::engine::{EngineError, View};
use crate::types::map::Shard;
use crate::types::{GroupId, NodeId};

use super::Failure;
use super::router::no_leader;
use super::server;
use super::space::SpaceGuard;

/// Threads that walk ranges, so that a long scan holds up no other request.
const READERS: usize = 2;

/// Proposes commands and reads views.
pub(super) struct Executor {
    node: NodeId,
    space: SpaceGuard,
    /// Why the node must end.
    failure: watch::Sender<Option<String>>,
    readers: Vec<Worker>,
    next_reader: AtomicUsize,
}

impl Executor {
    pub(super) fn new(
        node: NodeId,
        space: SpaceGuard,
        workers: Workers,
        failure: watch::Sender<Option<String>>,
    ) -> Self {
        let readers = (0..READERS).map(|number| workers.start(&format!("read-{number}"))).collect();
        Self { node, space, failure, readers, next_reader: AtomicUsize::new(0) }
    }

    /// Executes `request` if this node leads `shard`; refuses it with NO_LEADER otherwise.
    pub(super) async fn execute(
        &self,
        group: &Group,
        shard: &Shard,
        request: &ShardRequest,
        deadline: Instant,
    ) -> Result<ShardResponse, Failure> {
        check_epoch(shard, request)?;
        let kind = match &request.kind {
            Some(shard_request::Kind::Command(command)) => shard_response::Kind::Command(
                self.propose(group, shard.id, request.shard_epoch, command, deadline).await?,
            ),
            Some(shard_request::Kind::Read(read)) => {
                shard_response::Kind::Read(self.read(group, shard.id, request.shard_epoch, read, deadline).await?)
            }
            None => return Err(Failure::refused(ErrorCode::InvalidArgument, "an empty request")),
        };
        Ok(self.response(group, shard, kind))
    }

    /// Executes a read on the state as it is. The caller has proved that it shows enough.
    pub(super) async fn execute_as_is(
        &self,
        group: &Group,
        shard: &Shard,
        request: &ShardRequest,
    ) -> Result<ShardResponse, Failure> {
        check_epoch(shard, request)?;
        let Some(shard_request::Kind::Read(read)) = &request.kind else {
            return Err(Failure::refused(ErrorCode::InvalidArgument, "only reads need no leader"));
        };
        let result = self.look(group, shard.id, request.shard_epoch, read).await?;
        Ok(self.response(group, shard, shard_response::Kind::Read(result)))
    }

    fn response(&self, group: &Group, shard: &Shard, kind: shard_response::Kind) -> ShardResponse {
        ShardResponse { kind: Some(kind), node_id: self.node.0, raft_term: group.term(), shard_epoch: shard.epoch.0 }
    }

    async fn propose(
        &self,
        group: &Group,
        id: GroupId,
        epoch: u64,
        command: &ShardCommand,
        deadline: Instant,
    ) -> Result<CommandResult, Failure> {
        if command.epoch != epoch {
            let message = format!("the command is for epoch {} and its request for {epoch}", command.epoch);
            return Err(Failure::refused(ErrorCode::InvalidArgument, message));
        }
        match appetite(command) {
            Appetite::Growth => self.space.admit_growth(command.encoded_len())?,
            Appetite::History => self.space.admit_removal()?,
            Appetite::Nothing => {}
        }
        let applied = group.propose(command.encode_to_vec().into(), deadline).await;
        let applied = applied.map_err(|error| propose_failure(id, error))?;
        let result = CommandResult::decode(applied.answer)
            .map_err(|error| Failure::unknown(ErrorCode::Internal, format!("malformed result: {error}")))?;
        match result.kind {
            Some(command_result::Kind::Refusal(refusal)) => Err(refused(id, refusal)),
            Some(_) => Ok(result),
            None => Err(Failure::unknown(ErrorCode::Internal, "an empty result")),
        }
    }

    async fn read(
        &self,
        group: &Group,
        id: GroupId,
        epoch: u64,
        request: &ShardRead,
        deadline: Instant,
    ) -> Result<ShardReadResult, Failure> {
        group.read_index(deadline).await.map_err(|error| read_failure(id, &error))?;
        self.look(group, id, epoch, request).await
    }

    /// Reads the state as it is.
    async fn look(
        &self,
        group: &Group,
        id: GroupId,
        epoch: u64,
        request: &ShardRead,
    ) -> Result<ShardReadResult, Failure> {
        let view = group.view().map_err(|error| self.engine_failure(id, &error))?;
        match fence::check(&*view, epoch) {
            Ok(()) => {}
            Err(ShardError::Refused(refusal)) => return Err(refused(id, *refusal)),
            Err(ShardError::Engine(error)) => return Err(self.engine_failure(id, &error)),
        }
        let result = match &request.kind {
            Some(shard_read::Kind::Get(_)) => read::execute(&*view, request),
            _ => self.read_on_worker(view, request.clone()).await?,
        };
        let result = result.map_err(|error| self.engine_failure(id, &error))?;
        match result.kind {
            Some(shard_read_result::Kind::Refusal(refusal)) => Err(refused(id, refusal)),
            _ => Ok(result),
        }
    }

    async fn read_on_worker(
        &self,
        view: Box<dyn View>,
        request: ShardRead,
    ) -> Result<Result<ShardReadResult, EngineError>, Failure> {
        let turn = self.next_reader.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        let read = self.readers[turn].run(move || read::execute(&*view, &request)).await;
        read.map_err(|gone| Failure::retry(ErrorCode::Unavailable, gone.to_string()))
    }

    /// Damaged data ends the node: a replica that cannot prove its state serves nothing, and the
    /// others do once it no longer leads.
    fn engine_failure(&self, id: GroupId, error: &EngineError) -> Failure {
        let message = format!("shard {} on node {}: {error}", id.0, self.node.0);
        if matches!(error, EngineError::ViewExpired { .. }) {
            tracing::warn!(shard = id.0, %error, "a read took too long");
            return Failure::retry(ErrorCode::Overloaded, message);
        }
        tracing::error!(shard = id.0, %error, "a read failed");
        if !matches!(error, EngineError::Corrupt(_)) {
            return Failure::retry(ErrorCode::Internal, message);
        }
        server::fail(
            &self.failure,
            format!(
                "{message}: this node cannot prove its state. Keep its data directory for those who look into it, and \
                 bring the node back with `kvd --join HOST:PORT --replace NAME`"
            ),
        );
        Failure::retry(ErrorCode::Corrupt, message)
    }
}

/// A newer epoch only says that this node's map is behind: what is no longer this shard's to serve, the
/// fence in its state refuses.
fn check_epoch(shard: &Shard, request: &ShardRequest) -> Result<(), Failure> {
    if request.shard_epoch >= shard.epoch.0 {
        return Ok(());
    }
    let message =
        format!("shard {} is at epoch {}, not {}; refresh the map", shard.id.0, shard.epoch.0, request.shard_epoch);
    Err(Failure::retry(ErrorCode::WrongShard, message))
}

/// Whether a request may change the shard, so that its loss leaves an unknown outcome.
pub(super) fn is_write(request: &ShardRequest) -> bool {
    matches!(request.kind, Some(shard_request::Kind::Command(_)))
}

/// What space a command takes besides its own entry in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Appetite {
    Nothing,
    /// As much as it removes, until that history is compacted.
    History,
    /// What it says.
    Growth,
}

/// What is due by time, and what makes room, always may run.
fn appetite(command: &ShardCommand) -> Appetite {
    match &command.kind {
        Some(shard_command::Kind::Transaction(transaction)) => appetite_of(transaction),
        Some(shard_command::Kind::OpenSession(_) | shard_command::Kind::GrantLease(_)) => Appetite::Growth,
        _ => Appetite::Nothing,
    }
}

fn appetite_of(transaction: &Transaction) -> Appetite {
    let operations = transaction.success.iter().chain(&transaction.failure);
    let appetites = operations.map(|operation| match &operation.kind {
        Some(operation::Kind::Put(_)) => Appetite::Growth,
        Some(operation::Kind::Delete(_)) => Appetite::History,
        Some(operation::Kind::Transaction(nested)) => appetite_of(nested),
        Some(operation::Kind::Range(_)) | None => Appetite::Nothing,
    });
    appetites.max().unwrap_or(Appetite::Nothing)
}

/// What a failed proposal means to its caller.
pub(super) fn propose_failure(id: GroupId, error: ProposeError) -> Failure {
    match error {
        ProposeError::NotLeader { leader } => {
            let mut failure = no_leader(id, None);
            failure.detail.leader_node_id = leader.map_or(0, |(_, node)| node.0);
            failure
        }
        error @ ProposeError::TooLarge(_) => {
            Failure::refused(ErrorCode::LimitExceeded, format!("shard {}: {error}; send less at a time", id.0))
        }
        error @ ProposeError::DiskFull => {
            let message = format!("shard {}: {error}; free some space on the leader's disk and try again", id.0);
            Failure::refused(ErrorCode::DiskFull, message)
        }
        ProposeError::Overloaded => {
            let message = format!("shard {} has too many writes waiting; back off and try again", id.0);
            Failure::retry(ErrorCode::Overloaded, message)
        }
        ProposeError::Unknown(reason) | ProposeError::Stopped(reason) => {
            let message = format!("shard {}: the write was proposed but its outcome is unknown: {reason}", id.0);
            Failure::unknown(ErrorCode::Timeout, message)
        }
    }
}

/// What a read index that did not come means to its caller.
pub(super) fn read_failure(id: GroupId, error: &ReadError) -> Failure {
    let mut failure = no_leader(id, Some(&error.to_string()));
    if let ReadError::NotLeader { leader: Some((_, node)) } = error {
        failure.detail.leader_node_id = node.0;
    }
    failure
}

fn refused(id: GroupId, refusal: Refusal) -> Failure {
    let mut failure = Failure::from(refusal);
    failure.detail.shard_id = id.0;
    failure
}
