//! The state machine of a shard: one command in, its effects and its answer out.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};

use super::blocks::BlockHints;
use super::changes::Changes;
use super::error::{ShardError, invalid, refused};
use super::mutation::Scratch;
use super::sessions::{self, Admission};
use super::table::{encode, meta};
use super::{check, compaction, fence, leases, txn};
use crate::proto::internal::v1::command_result::Kind as ResultKind;
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::{CommandResult, Done, ShardCommand};
use crate::proto::v1::{ErrorCode, SessionStamp, Transaction};
use crate::raft::apply::{Apply, LogPosition};
use crate::storage::engine::{EngineError, View, WriteSet};
use crate::types::Revision;
use crate::types::limits::SESSION_RESULT_BYTES_MAX;

/// Applies a shard's commands.
///
/// What it keeps in memory never flows into the state: the revision it publishes, and the changes
/// of leases and sessions that a leader's [`super::Expiry`] feeds on.
pub struct ShardMachine {
    revision: watch::Sender<Revision>,
    followed: AtomicBool,
    changes: Mutex<Changes>,
    /// Those of the batch that is being applied: views do not show them yet.
    pending: Mutex<Changes>,
    changed: Notify,
    /// Whether a step of a compaction, which nobody may see yet, has left something to do.
    compacts: AtomicBool,
    compaction: Notify,
    hints: Mutex<BlockHints>,
}

impl Default for ShardMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl ShardMachine {
    /// A machine that has applied nothing yet.
    pub fn new() -> Self {
        Self {
            revision: watch::Sender::new(Revision(0)),
            followed: AtomicBool::new(false),
            changes: Mutex::default(),
            pending: Mutex::default(),
            changed: Notify::new(),
            compacts: AtomicBool::new(false),
            compaction: Notify::new(),
            hints: Mutex::default(),
        }
    }

    /// The revision that is visible, and its changes; 0 until the state was first seen.
    pub fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Collects changes of leases and sessions from here on. Call it first, then load an
    /// [`super::Expiry`] from a view: that shows all that was not collected, and what comes twice does no harm.
    pub fn follow_changes(&self) {
        *self.changes.lock() = Changes::default();
        self.followed.store(true, Ordering::SeqCst);
    }

    /// Collects no more changes.
    pub fn unfollow_changes(&self) {
        self.followed.store(false, Ordering::SeqCst);
        *self.changes.lock() = Changes::default();
    }

    /// The changes since they were last taken.
    pub fn take_changes(&self) -> Changes {
        std::mem::take(&mut self.changes.lock())
    }

    /// Waits until there are changes to take. Cancel safe; for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until a step of a compaction, which views show, has left something to do. Cancel safe; for
    /// one waiter.
    pub async fn compaction_begun(&self) {
        self.compaction.notified().await;
    }

    /// Hands on what views show from now on.
    fn publish(&self) {
        let pending = std::mem::take(&mut *self.pending.lock());
        if pending.is_empty() || !self.followed.load(Ordering::SeqCst) {
            return;
        }
        self.changes.lock().merge(pending);
        self.changed.notify_one();
    }
}

impl Apply for ShardMachine {
    fn apply(&self, state: &mut WriteSet<'_>, _at: LogPosition, command: &Bytes) -> Result<Bytes, EngineError> {
        let hints = std::mem::take(&mut *self.hints.lock());
        let mut scratch = Scratch { hints, ..Scratch::default() };
        let answer = match ShardCommand::decode(command.clone()) {
            Ok(command) => execute(state, &mut scratch, &command),
            Err(_) => Err(refused(ErrorCode::Internal, "the command in the log cannot be decoded").into()),
        };
        *self.hints.lock() = scratch.hints;
        self.pending.lock().merge(scratch.changes);
        if scratch.compacts {
            self.compacts.store(true, Ordering::SeqCst);
        }
        match answer {
            Ok(answer) => Ok(answer),
            Err(ShardError::Refused(refusal)) => Ok(answered(ResultKind::Refusal(*refusal))),
            Err(ShardError::Engine(error)) => Err(error),
        }
    }

    fn applied(&self, view: &dyn View, _at: LogPosition) {
        match meta::revision(view) {
            Ok(revision) => drop(self.revision.send_replace(Revision(revision))),
            Err(error) => tracing::error!(%error, "the shard's revision cannot be read; watches do not advance"),
        }
        self.publish();
        if self.compacts.swap(false, Ordering::SeqCst) {
            self.compaction.notify_one();
        }
    }
}

/// Executes a command and encodes its answer.
fn execute(state: &mut WriteSet<'_>, scratch: &mut Scratch, command: &ShardCommand) -> Result<Bytes, ShardError> {
    let kind = match (&command.kind, &command.session) {
        (Some(Kind::Transaction(transaction)), Some(stamp)) => {
            return once(state, scratch, stamp, command.epoch, transaction);
        }
        (_, Some(_)) => return Err(invalid("only a transaction may carry a session stamp: leave it out").into()),
        (None, None) => return Err(refused(ErrorCode::Internal, "the command in the log has no known kind").into()),
        (Some(kind), None) => kind,
    };
    if !matches!(kind, Kind::Fence(_)) {
        fence::check(state, command.epoch)?;
    }
    let mut more = false;
    match kind {
        Kind::Transaction(transaction) => {
            return Ok(answered(ResultKind::Transaction(txn::execute(state, scratch, transaction)?)));
        }
        Kind::OpenSession(open) => {
            return Ok(answered(ResultKind::SessionId(sessions::open(state, &mut scratch.changes, open)?)));
        }
        Kind::CloseSessions(close) => sessions::close(state, &mut scratch.changes, close)?,
        Kind::CheckpointLeases(checkpoint) => leases::checkpoint(state, checkpoint)?,
        Kind::ExpireLeases(expire) => leases::expire(state, scratch, expire)?,
        Kind::GrantLease(grant) => leases::grant(state, scratch, grant)?,
        Kind::RevokeLease(revoke) => leases::revoke(state, scratch, revoke)?,
        Kind::Compact(compact) => {
            more = compaction::compact(state, compact)?;
            scratch.compacts = more;
        }
        Kind::Fence(raised) => fence::raise(state, raised)?,
    }
    Ok(answered(ResultKind::Done(Done { revision: meta::revision(state)?, more })))
}

/// Executes a stamped transaction unless it was before. A refusal is remembered too, or else a
/// copy that arrives late could be applied after the client was told that nothing was.
fn once(
    state: &mut WriteSet<'_>,
    scratch: &mut Scratch,
    stamp: &SessionStamp,
    epoch: u64,
    transaction: &Transaction,
) -> Result<Bytes, ShardError> {
    check::stamp(stamp)?;
    let session = match sessions::admit(state, &mut scratch.changes, stamp)? {
        Admission::Fresh(session) => session,
        Admission::Replay(answer) => return Ok(answer),
    };
    // Not remembered: every copy bears this epoch and meets the same fence.
    fence::check(state, epoch)?;
    let (answer, remembered) = match txn::execute(state, scratch, transaction) {
        Ok(result) => {
            let bare = (result.encoded_len() > SESSION_RESULT_BYTES_MAX).then(|| txn::without_records(&result));
            let answer = answered(ResultKind::Transaction(result));
            let remembered = bare.map_or_else(|| answer.clone(), |bare| answered(ResultKind::Transaction(bare)));
            (answer, remembered)
        }
        Err(ShardError::Refused(refusal)) => {
            let answer = answered(ResultKind::Refusal(*refusal));
            (answer.clone(), answer)
        }
        Err(ShardError::Engine(error)) => return Err(error.into()),
    };
    sessions::remember(state, stamp, session, remembered);
    Ok(answer)
}

fn answered(kind: ResultKind) -> Bytes {
    encode(&CommandResult { kind: Some(kind) })
}
