//! Threads for work that blocks, one job after the other. Under simulation the jobs run in place.

use std::cell::Cell;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::time;

/// A job's worker has ended, because a job panicked or the process is going down.
#[derive(Debug, thiserror::Error)]
#[error("worker thread `{0}` has ended")]
pub struct WorkerGone(String);

/// Makes [`Worker`]s.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    inline: bool,
}

impl Workers {
    /// Each worker is an operating system thread.
    pub fn threads() -> Self {
        Self { inline: false }
    }

    /// Jobs run where they are awaited: deterministic. The caller then sleeps for as long as
    /// [`charge`] was told that the job's disk would have taken.
    pub fn inline() -> Self {
        Self { inline: true }
    }

    /// Starts a worker. It ends when all its handles are gone.
    pub fn start(&self, name: &str) -> Worker {
        if self.inline {
            return Worker { name: name.to_owned(), jobs: None };
        }
        let (jobs, queue) = mpsc::channel::<Job>();
        run_thread(name, queue);
        Worker { name: name.to_owned(), jobs: Some(jobs) }
    }
}

#[allow(clippy::disallowed_methods, clippy::expect_used, reason = "this is the seam; no thread at start means no node")]
fn run_thread(name: &str, queue: mpsc::Receiver<Job>) {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Ok(job) = queue.recv() {
                job();
            }
        })
        .expect("the operating system refuses a thread");
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs blocking jobs in the order in which they were given.
#[derive(Clone, Debug)]
pub struct Worker {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
}

impl Worker {
    /// Runs `job` and waits for its result. Dropping the future does not stop a job that was given.
    ///
    /// # Errors
    /// [`WorkerGone`] when the thread has ended.
    pub async fn run<T, F>(&self, job: F) -> Result<T, WorkerGone>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let Some(jobs) = &self.jobs else {
            let result = job();
            let delay = CHARGED.replace(Duration::ZERO);
            if !delay.is_zero() {
                time::sleep(delay).await;
            }
            return Ok(result);
        };
        let (done, result) = oneshot::channel();
        let gone = || WorkerGone(self.name.clone());
        let job: Job = Box::new(move || {
            // The caller may have stopped waiting; the job was asked for all the same.
            done.send(job()).ok();
        });
        jobs.send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }
}

thread_local! {
    static CHARGED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Tells the inline worker of this thread how long the running job's device would have taken.
pub fn charge(delay: Duration) {
    CHARGED.set(CHARGED.get() + delay);
}
