//! Streams that show a client something now and again after every change, and end with the server.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use super::error;
use crate::node::Failure;
use crate::proto::v1::ErrorCode;
use crate::types::limits;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a watcher watches.
pub(super) trait Source: Send + 'static {
    /// What is shown.
    type Item: Send;
    /// How it is now.
    fn current(&mut self) -> Self::Item;
    /// Waits until it differs from what was shown last; false when it never will again.
    fn changed(&mut self) -> impl Future<Output = bool> + Send;
}

/// Bounds and ends a node's watchers.
#[derive(Clone)]
pub(super) struct Watchers {
    places: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Watchers {
    pub(super) fn new(closing: watch::Receiver<bool>) -> Self {
        Self { places: Arc::new(Semaphore::new(limits::WATCHERS_MAX)), closing }
    }

    /// Follows `source` until the client leaves or the server stops.
    ///
    /// # Errors
    /// When too many watch already.
    pub(super) fn follow<T: Source>(&self, source: T) -> Result<Answers<T::Item>, Failure> {
        let following = Following { source, place: self.place()?, shown: false };
        Ok(Box::pin(stream::unfold(Some(following), async |following| following?.step().await)))
    }

    /// A place for one stream.
    ///
    /// # Errors
    /// When too many have one already.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let max = limits::WATCHERS_MAX as u64;
            let message = format!("{max} streams watch this node, as many as watchers_max allows: ask another node");
            error::limit(ErrorCode::Overloaded, "watchers_max", max, max + 1, message)
        })?;
        Ok(Place { closing: self.closing.clone(), _permit: permit })
    }
}

/// One stream's place; given back when dropped.
pub(super) struct Place {
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Waits until the server stops.
    pub(super) async fn closing(&mut self) {
        // An error means that the server is gone without a word: closing as well.
        self.closing.wait_for(|closing| *closing).await.ok();
    }
}

struct Following<T> {
    source: T,
    place: Place,
    shown: bool,
}

impl<T: Source> Following<T> {
    /// The next answer, and what follows it.
    async fn step(mut self) -> Option<(Result<T::Item, Status>, Option<Self>)> {
        let goes_on = if self.shown {
            tokio::select! {
                biased;
                () = self.place.closing() => false,
                changed = self.source.changed() => changed,
            }
        } else {
            true
        };
        self.shown = true;
        if goes_on {
            return Some((Ok(self.source.current()), Some(self)));
        }
        let closing = Failure::retry(ErrorCode::Unavailable, "the node is shutting down: watch another one");
        Some((Err(error::status(&closing)), None))
    }
}
