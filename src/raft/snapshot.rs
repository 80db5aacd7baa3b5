//! What openraft passes around as a snapshot: one view of the engine on its way out, or a verified
//! staging store on its way in. Never a copy in memory.

use std::sync::Arc;

use crate::storage::engine::stream::{CHUNK_BYTES_TARGET, Receiver, Sender, StreamError};
use crate::storage::engine::{Engine, StoreId, View};

/// A snapshot's data.
pub(super) enum SnapshotData {
    /// The state as one view showed it, with its applied position and membership.
    View(Box<dyn View>),
    /// All of a received snapshot, verified, in a store of its own.
    Staged(Staged),
}

impl SnapshotData {
    /// The data as a store that can take a replica's place.
    pub(super) fn into_staged(self, engine: &Arc<dyn Engine>) -> Result<Staged, StreamError> {
        match self {
            Self::Staged(staged) => Ok(staged),
            Self::View(view) => {
                let mut receiver = Receiver::new(engine.clone())?;
                let mut sender = Sender::new(view, CHUNK_BYTES_TARGET);
                for chunk in &mut sender {
                    receiver.chunk(chunk?)?;
                }
                Ok(Staged::new(engine.clone(), receiver.finish(&sender.footer())?))
            }
        }
    }
}

/// A staging store, dropped unless it is taken.
pub(super) struct Staged {
    engine: Arc<dyn Engine>,
    store: Option<StoreId>,
}

impl Staged {
    pub(super) fn new(engine: Arc<dyn Engine>, store: StoreId) -> Self {
        Self { engine, store: Some(store) }
    }

    /// Whose store it is; it stays guarded.
    pub(super) fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// Hands the store over.
    pub(super) fn take(mut self) -> Option<StoreId> {
        self.store.take()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(store) = self.store.take() else { return };
        if let Err(error) = self.engine.drop_store(store) {
            // The catalog drops it at the next start.
            tracing::warn!(store = store.0, %error, "cannot drop the staging store of a snapshot");
        }
    }
}
