//! Sessions: writes that happen exactly once, across retries, leader changes and restarts.
//!
//! A session is opened on each shard it writes to, by the first write. Its writes may be in flight
//! at the same time, up to the window; a retry carries the sequence of the first try.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Client;
use super::call::{Plan, Route, Safety};
use super::error::{Error, Outcome, Result};
use super::limits::SESSION_REOPENS_MAX;
use super::routes::KeyRange;
use super::rpc::{Rpc, Write};
use super::window::Window;
use crate::env::time::{self, Instant};
use crate::proto::v1::{BatchRequest, CloseSessionRequest, ErrorCode, OpenSessionRequest, SessionStamp};
use crate::types::GroupId;

/// A session on one keyspace. Clones share it.
///
/// Writes in flight at the same time have no order among themselves. When the session expired while
/// nothing was in flight, the next write opens a new one; a retry that finds it expired cannot know
/// whether an earlier try was applied, and says so.
///
/// ```no_run
/// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
/// use quorate::client::{Condition, Op, Relation, Txn};
///
/// let session = client.session();
/// session.put("order/17", "paid").await?;
/// session.txn(Txn::new().when(Condition::value("order/17", Relation::Equal, "paid")).then(Op::delete("cart/9"))).await?;
/// session.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    client: Client,
    ttl: Duration,
    shards: Arc<Mutex<BTreeMap<GroupId, Arc<Slot>>>>,
}

/// The session on one shard: opened by one caller while the others wait.
type Slot = tokio::sync::Mutex<Option<Arc<Open>>>;

/// An open session on one shard.
struct Open {
    window: Mutex<Window>,
    session_id: u64,
    released: Notify,
}

/// A sequence in use; given back when the write is over, however it ends.
struct Ticket {
    open: Arc<Open>,
    stamp: SessionStamp,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.open.window.lock().release(self.stamp.sequence);
        self.open.released.notify_waiters();
    }
}

impl Session {
    pub(crate) fn new(client: Client, ttl: Duration) -> Self {
        Self { client, ttl, shards: Arc::default() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the session on all shards. Without it the session ends by itself after its time to live.
    pub async fn close(&self) {
        let slots: Vec<_> = std::mem::take(&mut *self.shards.lock()).into_iter().collect();
        for (shard, slot) in slots {
            let Some(open) = slot.lock().await.take() else { continue };
            let request = CloseSessionRequest { session_id: open.session_id, ..Default::default() };
            let plan = self.client.read(Route::Shard { keyspace: &self.client.keyspace, shard });
            if let Err(error) = self.client.core.call(&request, &plan).await {
                tracing::debug!(%error, %shard, "a session was left to expire");
            }
        }
    }

    pub(crate) async fn write<R: Write>(&self, request: R, ranges: &[KeyRange]) -> Result<R::Answer> {
        let deadline = time::now() + self.client.timeout;
        let mut tries = 0;
        loop {
            self.client.know_map(deadline).await?;
            let shard = self.client.core.routes.lock().single(&self.client.keyspace, ranges)?.shard;
            match self.write_stamped(shard, request.clone(), ranges, deadline).await {
                // The key moved and nothing was applied: its new shard has a session of its own.
                Err(error)
                    if error.code == ErrorCode::WrongShard
                        && error.outcome == Outcome::NotApplied
                        && tries < SESSION_REOPENS_MAX =>
                {
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// A part of a batch, which belongs to `shard`.
    pub(crate) async fn write_to(
        &self,
        shard: GroupId,
        request: BatchRequest,
        ranges: &[KeyRange],
        deadline: Instant,
    ) -> Result<<BatchRequest as Rpc>::Answer> {
        self.write_stamped(shard, request, ranges, deadline).await
    }

    async fn write_stamped<R: Write>(
        &self,
        shard: GroupId,
        mut request: R,
        ranges: &[KeyRange],
        deadline: Instant,
    ) -> Result<R::Answer> {
        let mut reopened = 0;
        loop {
            let slot = Arc::clone(self.shards.lock().entry(shard).or_default());
            let ticket = self.ticket(&slot, shard, deadline).await?;
            request.stamp(ticket.stamp);
            let route = Route::Pinned { keyspace: &self.client.keyspace, shard, ranges };
            let plan = Plan { route, safety: Safety::Stamped, deadline, once: false };
            let error = match self.client.core.call(&request, &plan).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !matches!(error.code, ErrorCode::SessionNotFound | ErrorCode::SessionSequence) {
                return Err(error);
            }
            forget(&slot, &ticket.open).await;
            // Not applied means that no try before may have been: a new stamp is safe.
            let fresh = error.outcome == Outcome::NotApplied && error.code == ErrorCode::SessionNotFound;
            if !fresh || reopened >= SESSION_REOPENS_MAX {
                return Err(error);
            }
            reopened += 1;
        }
    }

    /// A sequence of the session on this shard, which is opened if need be.
    async fn ticket(&self, slot: &Slot, shard: GroupId, deadline: Instant) -> Result<Ticket> {
        let waited = time::timeout_at(deadline, async {
            let open = self.open(slot, shard, deadline).await?;
            loop {
                // Registered before the look, so that no release in between is missed.
                let mut released = std::pin::pin!(open.released.notified());
                released.as_mut().enable();
                let stamp = open.window.lock().take();
                if let Some(stamp) = stamp {
                    return Ok(Ticket { open: Arc::clone(&open), stamp });
                }
                released.await;
            }
        });
        waited.await.unwrap_or_else(|_| {
            let message =
                format!("the session on shard {} could not be opened or its window was full for too long", shard.0);
            Err(Error::retryable(ErrorCode::Timeout, message))
        })
    }

    async fn open(&self, slot: &Slot, shard: GroupId, deadline: Instant) -> Result<Arc<Open>> {
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref() {
            return Ok(Arc::clone(open));
        }
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let request = OpenSessionRequest { ttl_ms, ..OpenSessionRequest::default() };
        // A session opened twice costs the server an entry that expires, and nothing else.
        let route = Route::Shard { keyspace: &self.client.keyspace, shard };
        let plan = Plan { route, safety: Safety::Read, deadline, once: false };
        let answer = self.client.core.call(&request, &plan).await.map_err(|error| Error {
            message: format!("the session on shard {} could not be opened: {error}", shard.0),
            ..error
        })?;
        let open = Arc::new(Open {
            window: Mutex::new(Window::new(answer.session_id)),
            session_id: answer.session_id,
            released: Notify::new(),
        });
        *slot = Some(Arc::clone(&open));
        Ok(open)
    }
}

/// Drops a session that the server does not know, unless another write already replaced it.
async fn forget(slot: &Slot, dead: &Arc<Open>) {
    let mut slot = slot.lock().await;
    if slot.as_ref().is_some_and(|open| Arc::ptr_eq(open, dead)) {
        *slot = None;
    }
}
