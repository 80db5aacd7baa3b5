//! The call `Kv.Watch`: the changes of one shard, as they come.
//!
//! A stream keeps no event beyond one page: the shard's history says what there is from the revision that it shows
//! next, and those that are up to date share one read of it. So a client that takes nothing costs nothing but its place. Whatever goes wrong ends the stream with the
//! reason, and the client asks again where it may: at another node, from where it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use super::error;
use super::watchers::{Answers, Place};
use crate::env::time::{self, Instant};
use crate::node::{Failure, Service};
use crate::proto::v1::{self, ErrorCode, ReadLevel};
use crate::types::Revision;
use crate::types::limits::{REQUEST_TIMEOUT_DEFAULT, WATCH_PROGRESS_EVERY};

/// How often changes are asked for where nothing says that there are some.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long it may take to prove what the present is; an election may fall into it.
const PROOF_TIMEOUT: Duration = Duration::from_secs(4);
/// Events of one page.
const PAGE_EVENTS: u32 = 1_000;
/// Bytes of events in one answer. One event more may go with them, and all of that fits an answer.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// As good as never.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// One stream.
pub(super) struct Watching<S> {
    place: Place,
    deadline: Instant,
    changes: Changes<S>,
    /// Answers that are ready: those to one page.
    out: VecDeque<v1::WatchResponse>,
}

/// What a stream shows, without what ends it from outside.
struct Changes<S> {
    service: Arc<S>,
    request: v1::WatchRequest,
    shard: u64,
    /// The revision that is shown next; 0 until the present is known.
    next: u64,
    /// `None` where no replica of the shard is.
    revision: Option<watch::Receiver<Revision>>,
    map: watch::Receiver<u64>,
    /// When the next answer must be proved to be as new as there is.
    prove_at: Instant,
}

impl<S: Service> Watching<S> {
    /// Begins a watch that ends at `deadline`.
    ///
    /// # Errors
    /// When the keys are not those of one shard.
    pub(super) fn begin(
        service: Arc<S>,
        request: v1::WatchRequest,
        place: Place,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        // Followed before it is looked at, so that no change in between is missed.
        let map = service.watch_map();
        let shard = service.watched_shard(request.target.as_ref(), &request.ranges)?;
        let revision = service.watch_revision(shard);
        let (next, prove_at) = (request.from_revision, time::now());
        let changes = Changes { service, request, shard, next, revision, map, prove_at };
        Ok(Self { place, deadline, changes, out: VecDeque::new() })
    }

    /// The stream.
    pub(super) fn answers(self) -> Answers<v1::WatchResponse> {
        Box::pin(stream::unfold(Some(self), async |watching| watching?.step().await))
    }

    /// The next answer, and what follows it.
    async fn step(mut self) -> Option<(Result<v1::WatchResponse, Status>, Option<Self>)> {
        loop {
            if let Some(answer) = self.out.pop_front() {
                return Some((Ok(answer), Some(self)));
            }
            let advanced = tokio::select! {
                biased;
                () = self.place.closing() => {
                    Err(Failure::retry(ErrorCode::Unavailable, "the node is shutting down: watch another one"))
                }
                advanced = self.changes.advance(&mut self.out) => advanced,
                () = time::sleep_until(self.deadline) => {
                    let message = "the deadline of this watch passed: watch again, or set none";
                    Err(Failure::retry(ErrorCode::Timeout, message))
                }
            };
            if let Err(failure) = advanced {
                tracing::debug!(%failure, "a watch ends");
                return Some((Err(error::status(&failure)), None));
            }
        }
    }
}

impl<S: Service> Changes<S> {
    /// Reads a page of changes, or waits until there may be one.
    async fn advance(&mut self, out: &mut VecDeque<v1::WatchResponse>) -> Result<(), Failure> {
        if let Some(revision) = &mut self.revision {
            // Marked before the state is read: a change in between wakes once more.
            revision.mark_unchanged();
        }
        if self.map.has_changed().unwrap_or(false) {
            self.map.mark_unchanged();
            // The keys must still be where they were, or what is shown would not be all.
            self.service.watched_shard(self.target().as_ref(), &self.request.ranges)?;
        }
        let must_prove = time::now() >= self.prove_at;
        if must_prove || self.revision.is_none() || self.is_behind() {
            self.read(must_prove, out).await?;
        }
        if out.is_empty() && !self.is_behind() {
            self.wait().await;
        }
        Ok(())
    }

    /// Whether this node has changes that were not looked at.
    fn is_behind(&self) -> bool {
        self.revision.as_ref().is_some_and(|revision| revision.borrow().0 >= self.next.max(1))
    }

    async fn read(&mut self, must_prove: bool, out: &mut VecDeque<v1::WatchResponse>) -> Result<(), Failure> {
        // What is still to come begins after the present, which a page from the end of time tells as well.
        let from_revision = if self.next == 0 { u64::MAX } else { self.next };
        let (level, patience) =
            if must_prove { (ReadLevel::Follower, PROOF_TIMEOUT) } else { (ReadLevel::Local, REQUEST_TIMEOUT_DEFAULT) };
        let request = v1::EventsRequest {
            target: self.target(),
            from_revision,
            ranges: self.request.ranges.clone(),
            previous: self.request.previous,
            limit: PAGE_EVENTS,
            level: level.into(),
        };
        let deadline = time::now() + patience;
        // What is not proved goes on from what was shown, as other watches do.
        let page = if must_prove || self.next == 0 {
            self.service.events(request, deadline).await?
        } else {
            self.service.changes(request, deadline).await?
        };
        let revision = page.header.as_ref().map_or(0, |header| header.revision);
        self.next = if self.next == 0 { revision.saturating_add(1) } else { page.next_revision.max(self.next) };
        if must_prove {
            let wait = if self.request.progress { WATCH_PROGRESS_EVERY } else { FAR };
            self.prove_at = time::now() + wait;
        }
        if must_prove || !page.events.is_empty() {
            answers(page, self.next, out);
        }
        Ok(())
    }

    /// The shard, whatever its epoch: a replica that moves changes nothing here.
    fn target(&self) -> Option<v1::Target> {
        let keyspace = self.request.target.as_ref().map(|target| target.keyspace.clone()).unwrap_or_default();
        Some(v1::Target { keyspace, shard_id: self.shard, shard_epoch: 0 })
    }

    async fn wait(&mut self) {
        let until = match self.revision {
            Some(_) => self.prove_at,
            None => self.prove_at.min(time::now() + ASK_EVERY),
        };
        let changed = async {
            match &mut self.revision {
                Some(revision) => revision.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let is_here = tokio::select! {
            biased;
            is_here = changed => is_here,
            // A map that never changes again is that of a node that stops, which ends the stream as well.
            Ok(()) = self.map.changed() => {
                self.map.mark_changed();
                true
            }
            () = time::sleep_until(until) => true,
        };
        if !is_here || self.revision.is_none() {
            // The replica is gone from here, and the shard is asked from afar; or one may have come.
            self.revision = self.service.watch_revision(self.shard);
        }
    }
}

/// A page as answers that each fit a client: at least one, all but the last of which say that more follows.
fn answers(page: v1::EventsResponse, next_revision: u64, out: &mut VecDeque<v1::WatchResponse>) {
    let header = page.header;
    let (mut part, mut bytes) = (Vec::new(), 0);
    for event in page.events {
        if bytes >= ANSWER_BYTES {
            // The revision that may go on; whoever resumes there has seen some of its changes.
            let reached = event.record.as_ref().map_or(0, |record| record.mod_revision);
            let events = std::mem::take(&mut part);
            out.push_back(v1::WatchResponse { header: header.clone(), events, next_revision: reached });
            bytes = 0;
        }
        bytes += event.encoded_len();
        part.push(event);
    }
    out.push_back(v1::WatchResponse { header, events: part, next_revision });
}
