//! Reads that see every write acknowledged before them.
//!
//! A ReadIndex asks a majority whether this replica still leads. One is on its way at a time; all
//! reads that wait when it starts share it. A read that comes later waits for the next, because the
//! answer on its way may be older than the read; for the same reason a retry never gets a used one.
//!
//! The same queue serves a replica that asks its leader: [`Confirm`] says who is asked.

use std::sync::Arc;

use openraft::ReadPolicy;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::group::{Raft, ReadError, leader_of};
use super::types::TypeConfig;
use crate::env::net::BoxFuture;
use crate::env::time;
use crate::types::limits::REQUESTS_IN_FLIGHT_MAX;

/// The read index that the local state has applied.
type Answered = Result<u64, ReadError>;
/// A confirmed ReadIndex: resolves once the local state has applied it.
pub type IndexApplied = BoxFuture<'static, Answered>;

/// Asks a majority, or a leader that does.
pub trait Confirm: Send + Sync + 'static {
    /// Confirms who leads now, and up to where the local state must be applied.
    fn confirm(&self) -> BoxFuture<'_, Result<IndexApplied, ReadError>>;
}

impl Confirm for Raft {
    fn confirm(&self) -> BoxFuture<'_, Result<IndexApplied, ReadError>> {
        Box::pin(async {
            let linearizer =
                self.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| read_error(&error))?;
            let raft = self.clone();
            let applied = async move {
                let ready = linearizer.await_ready(&raft).await.map_err(|fatal| stopped(&fatal))?;
                Ok(ready.read_log_id().index())
            };
            Ok(Box::pin(applied) as IndexApplied)
        })
    }
}

/// The reads of one group that wait.
pub struct ReadIndex<C> {
    confirm: C,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<Answered>>,
    /// Whether a ReadIndex is on its way.
    asking: bool,
}

impl<C: Confirm> ReadIndex<C> {
    /// No read waits yet.
    pub fn new(confirm: C) -> Self {
        Self { confirm, queue: Mutex::default() }
    }

    /// Returns once the local state shows every write that was acknowledged before this call.
    ///
    /// # Errors
    /// When that cannot be known; the read may be retried.
    pub async fn wait(self: &Arc<Self>, deadline: time::Instant) -> Answered {
        match time::timeout_at(deadline, self.enter()?).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(ReadError::Stopped("the group was stopped".to_owned())),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    fn enter(self: &Arc<Self>) -> Result<oneshot::Receiver<Answered>, ReadError> {
        let mut queue = self.queue.lock();
        if queue.waiting.len() >= REQUESTS_IN_FLIGHT_MAX {
            return Err(ReadError::Busy);
        }
        let (waiter, answer) = oneshot::channel();
        queue.waiting.push(waiter);
        if !queue.asking {
            queue.asking = true;
            tokio::spawn(self.clone().run());
        }
        Ok(answer)
    }

    async fn run(self: Arc<Self>) {
        while let Some(waiting) = self.take() {
            match self.confirm.confirm().await {
                // Whoever comes meanwhile need not wait until this one was applied.
                Ok(applied) => {
                    tokio::spawn(async move { answer(waiting, &applied.await) });
                }
                Err(error) => answer(waiting, &Err(error)),
            }
        }
    }

    /// All that wait now; `None` ends the asking.
    fn take(&self) -> Option<Vec<oneshot::Sender<Answered>>> {
        let mut queue = self.queue.lock();
        // Whoever gave up needs no answer.
        queue.waiting.retain(|waiter| !waiter.is_closed());
        queue.asking = !queue.waiting.is_empty();
        queue.asking.then(|| std::mem::take(&mut queue.waiting))
    }
}

fn answer(waiting: Vec<oneshot::Sender<Answered>>, answered: &Answered) {
    for waiter in waiting {
        // Whoever gave up needs no answer.
        waiter.send(answered.clone()).ok();
    }
}

fn stopped(fatal: &Fatal<TypeConfig>) -> ReadError {
    ReadError::Stopped(fatal.to_string())
}

fn read_error(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            ReadError::NotLeader { leader: leader_of(to) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => ReadError::NoQuorum(error.to_string()),
        RaftError::Fatal(fatal) => stopped(fatal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use tokio::sync::Semaphore;

    /// Answers as many times as the test permits.
    struct Majority {
        asked: Arc<AtomicU64>,
        permits: Arc<Semaphore>,
        refuse: bool,
    }

    impl Confirm for Majority {
        fn confirm(&self) -> BoxFuture<'_, Result<IndexApplied, ReadError>> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.permits.acquire().await.unwrap().forget();
                if self.refuse {
                    return Err(ReadError::NoQuorum("as told".into()));
                }
                Ok(Box::pin(std::future::ready(Ok(7_u64))) as IndexApplied)
            })
        }
    }

    fn reads(refuse: bool) -> (Arc<ReadIndex<Majority>>, Arc<AtomicU64>, Arc<Semaphore>) {
        let (asked, permits) = (Arc::<AtomicU64>::default(), Arc::new(Semaphore::new(0)));
        let majority = Majority { asked: asked.clone(), permits: permits.clone(), refuse };
        (Arc::new(ReadIndex::new(majority)), asked, permits)
    }

    fn soon() -> time::Instant {
        time::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn trap_8_reads_share_the_next_read_index_and_never_one_on_its_way() {
        let (reads, asked, permits) = reads(false);
        let read = || {
            let answer = reads.enter().unwrap();
            tokio::spawn(async move { answer.await.unwrap() })
        };
        let first = read();
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let later: Vec<_> = (0..50).map(|_| read()).collect();
        permits.add_permits(1);
        first.await.unwrap().unwrap();
        assert!(later.iter().all(|read| !read.is_finished()), "they came after it had left");
        permits.add_permits(1);
        for read in later {
            read.await.unwrap().unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        permits.add_permits(1);
        reads.wait(soon()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3, "an answer is never used again");
    }

    #[tokio::test]
    async fn a_refusal_reaches_all_who_waited() {
        let (reads, _, permits) = reads(true);
        permits.add_permits(1);
        assert!(matches!(reads.wait(soon()).await, Err(ReadError::NoQuorum(_))));
    }

    #[tokio::test]
    async fn a_read_whose_deadline_came_is_not_asked_for() {
        let (reads, asked, permits) = reads(false);
        assert_eq!(reads.wait(time::now()).await, Err(ReadError::Timeout));
        permits.add_permits(8);
        reads.wait(soon()).await.unwrap();
        assert!(asked.load(Ordering::SeqCst) <= 2);
    }
}
