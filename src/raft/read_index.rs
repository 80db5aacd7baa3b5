//! Reads that see every write acknowledged before them.
//!
//! A ReadIndex asks a majority whether this replica still leads. One is on its way at a time; all
//! reads that wait when it starts share it. A read that comes later waits for the next, because the
//! answer on its way may be older than the read; for the same reason a retry never gets a used one.

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::group::{Leader, ReadError, leader_of};
use super::machine::Machine;
use super::types::TypeConfig;
use crate::env::time;
use crate::types::limits::REQUESTS_IN_FLIGHT_MAX;

type Raft = openraft::Raft<TypeConfig, Machine>;
type Waiter = oneshot::Sender<Result<(), ReadError>>;

/// The reads of one group that wait.
#[derive(Default)]
pub(super) struct ReadIndex {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// Whether a ReadIndex is on its way.
    asking: bool,
}

impl ReadIndex {
    /// Returns once the local state shows every write that was acknowledged before this call.
    pub(super) async fn wait(self: &Arc<Self>, raft: &Raft, deadline: time::Instant) -> Result<(), ReadError> {
        let answer = {
            let mut queue = self.queue.lock();
            if queue.waiting.len() >= REQUESTS_IN_FLIGHT_MAX {
                return Err(ReadError::Busy);
            }
            let (waiter, answer) = oneshot::channel();
            queue.waiting.push(waiter);
            if !queue.asking {
                queue.asking = true;
                tokio::spawn(self.clone().run(raft.clone()));
            }
            answer
        };
        match time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ReadError::Stopped("the group was stopped".to_owned())),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    async fn run(self: Arc<Self>, raft: Raft) {
        while let Some(waiting) = self.take() {
            match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
                Ok(linearizer) => {
                    // Whoever comes meanwhile need not wait until this one was applied.
                    let raft = raft.clone();
                    tokio::spawn(async move {
                        let applied = linearizer.await_ready(&raft).await;
                        answer(waiting, &applied.map(|_| ()).map_err(|fatal| stopped(&fatal)));
                    });
                }
                Err(error) => answer(waiting, &Err(read_error(&error))),
            }
        }
    }

    /// All that wait now; `None` ends the asking.
    fn take(&self) -> Option<Vec<Waiter>> {
        let mut queue = self.queue.lock();
        // Whoever gave up needs no answer.
        queue.waiting.retain(|waiter| !waiter.is_closed());
        queue.asking = !queue.waiting.is_empty();
        queue.asking.then(|| std::mem::take(&mut queue.waiting))
    }
}

fn answer(waiting: Vec<Waiter>, result: &Result<(), ReadError>) {
    for waiter in waiting {
        // Whoever gave up needs no answer.
        waiter.send(result.clone()).ok();
    }
}

fn stopped(fatal: &Fatal<TypeConfig>) -> ReadError {
    ReadError::Stopped(fatal.to_string())
}

fn read_error(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            let leader: Leader = leader_of(to);
            ReadError::NotLeader { leader }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => ReadError::NoQuorum(error.to_string()),
        RaftError::Fatal(fatal) => stopped(fatal),
    }
}
