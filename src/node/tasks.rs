//! The tasks of a node, which end with it.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Spawns tasks and ends them together.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Runs a task until it ends or the node does.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock();
        // Forget those that have ended, so that the set does not grow.
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }

    /// Ends all tasks where they wait.
    pub(super) async fn stop(&self) {
        let mut set = std::mem::take(&mut *self.set.lock());
        set.shutdown().await;
    }
}
