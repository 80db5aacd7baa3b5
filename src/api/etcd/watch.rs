//! etcd's Watch service: any number of watches on a stream.
//!
//! A stream keeps no event: each watch has the revision that it shows next, and the shard's history says what
//! there is from there on; those that are up to date share one read of it. So a client that takes nothing costs
//! nothing but its place.

mod watches;

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use self::watches::Watches;
use super::error;
use super::face::{Answer, Asked, Etcd, Refused, requires_leader};
use crate::api::watchers::{Answers, Place};
use crate::env::time::{self, Instant};
use crate::node::{Failure, OnlyShard, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcd::etcdserverpb::watch_server::Watch;
use crate::proto::v1::{self, ErrorCode};
use crate::types::Revision;
use crate::types::limits::REQUEST_TIMEOUT_DEFAULT;

/// How long there may be no leader before a stream ends that requires one.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);
/// How often changes are asked for where nothing says that there are some, and whether there is a leader.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long the present revision may take to be proven in one way, before it is tried in another.
const PRESENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Events of one page.
const PAGE_EVENTS: u32 = 1_000;

#[tonic::async_trait]
impl<S: Service> Watch for Etcd<S> {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Answer<Self::WatchStream> {
        let (mut asked, call) = self.asked(&request)?;
        let requires_leader = requires_leader(&request);
        let admitted = call.enter().and_then(|()| asked.pin());
        let shard = admitted.map_err(|failure| Refused::from(failure).told(&call))?;
        let place = self.watchers.place().map_err(|failure| Refused::from(failure).told(&call))?;
        let revision = asked.service.watch_revision(shard);
        let watching = Watching {
            asked,
            requests: Some(request.into_inner()),
            place,
            shard,
            revision,
            requires_leader,
            leaderless_since: None,
            has_failed: false,
            owes_progress: false,
            begins: None,
            settle_at: time::now(),
            watches: Watches::new(self.watch_progress),
            out: VecDeque::new(),
        };
        let answers = stream::unfold(Some(watching), async |watching| watching?.step().await);
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One stream.
struct Watching<S> {
    asked: Asked<S>,
    /// `None` once the client asks for nothing more.
    requests: Option<Streaming<pb::WatchRequest>>,
    place: Place,
    shard: u64,
    /// `None` where no replica of the shard is.
    revision: Option<watch::Receiver<Revision>>,
    requires_leader: bool,
    leaderless_since: Option<Instant>,
    /// The last page could not be read.
    has_failed: bool,
    /// Progress was asked for, and no leader has proven yet what the present is.
    owes_progress: bool,
    /// A watch that is to begin now, of which the same is true. Nothing else is heard before.
    begins: Option<pb::WatchCreateRequest>,
    /// When these two are tried again.
    settle_at: Instant,
    watches: Watches,
    /// Answers that are ready: those to one request, or of one watch to a page of changes.
    out: VecDeque<pb::WatchResponse>,
}

/// Why a stream goes on.
enum Woken {
    Asked(Option<pb::WatchRequest>),
    Changed,
    Closing,
}

impl<S: Service> Watching<S> {
    /// The next answer, and what follows it.
    async fn step(mut self) -> Option<(Result<pb::WatchResponse, Status>, Option<Self>)> {
        loop {
            if let Some(answer) = self.out.pop_front() {
                return Some((Ok(answer), Some(self)));
            }
            if self.requests.is_none() && self.watches.is_empty() && self.begins.is_none() {
                return None;
            }
            if self.is_owing() && time::now() >= self.settle_at {
                self.settle().await;
                self.settle_at = time::now() + ASK_EVERY;
            }
            let goes_on = match self.advance().await {
                Ok(has_more) => has_more || !self.out.is_empty(),
                Err(status) => return Some((Err(status), None)),
            };
            // Requests are heard also while there is always more to show.
            match self.wait(goes_on).await {
                Woken::Asked(Some(request)) => self.take(request).await,
                Woken::Asked(None) => self.requests = None,
                Woken::Changed => {}
                Woken::Closing => return Some((Err(Status::unavailable("etcdserver: server stopped")), None)),
            }
            if self.is_leaderless() {
                return Some((Err(error::known(error::NO_LEADER)), None));
            }
        }
    }

    /// Shows what was read, or reads a page of changes if there can be one. Returns whether there is more to do at
    /// once.
    async fn advance(&mut self) -> Result<bool, Status> {
        let has_more = self.watches.show(time::now(), &mut self.out);
        if has_more || !self.out.is_empty() {
            return Ok(true);
        }
        self.asked.shard_is(self.shard).map_err(Refused::status)?;
        if self.revision.is_none() {
            // A replica may have come.
            self.revision = self.asked.service.watch_revision(self.shard);
        }
        if let Some(revision) = &mut self.revision {
            // Marked before the state is read: a change in between wakes once more.
            revision.mark_unchanged();
        }
        let Some(from) = self.watches.next() else {
            self.tell_progress();
            return Ok(!self.out.is_empty());
        };
        if self.revision.as_ref().is_some_and(|revision| revision.borrow().0 < from) {
            self.tell_progress();
            return Ok(!self.out.is_empty());
        }
        let request = v1::EventsRequest {
            target: self.asked.target(),
            from_revision: from,
            ranges: self.watches.ranges(),
            previous: self.watches.want_previous(),
            limit: PAGE_EVENTS,
            level: v1::ReadLevel::Local.into(),
        };
        let deadline = time::now() + REQUEST_TIMEOUT_DEFAULT;
        // The history says what a new watch cannot have because it was compacted.
        let read = if self.watches.has_new() {
            self.asked.service.events(request, deadline).await
        } else {
            self.asked.service.changes(request, deadline).await
        };
        self.has_failed = read.is_err();
        match read {
            Ok(page) => {
                let header = self.asked.header_of(page.header.as_ref());
                let is_moved = page.next_revision > from;
                self.watches.take_page(page, header.as_ref());
                let has_more = self.watches.show(time::now(), &mut self.out);
                self.tell_progress();
                Ok(is_moved || has_more || !self.out.is_empty())
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn fail(&mut self, failure: Failure) -> Result<bool, Status> {
        let detail = &failure.detail;
        if detail.code() == ErrorCode::Compacted {
            let header = self.asked.local_header();
            self.watches.end_compacted(detail.compacted_revision, header.as_ref(), &mut self.out);
            return Ok(true);
        }
        if detail.retryable || detail.code() == ErrorCode::NoLeader {
            // Requests are heard before it is tried again.
            tracing::debug!(%failure, "changes cannot be read yet");
            return Ok(false);
        }
        Err(error::status(&failure))
    }

    /// Progress that was asked for is told once all watches have shown what there was then.
    fn tell_progress(&mut self) {
        let header = self.asked.local_header();
        self.watches.progress(header.as_ref(), time::now(), &mut self.out);
    }

    /// What has come, or comes; nothing is waited for when the stream `goes_on` anyway.
    async fn wait(&mut self, goes_on: bool) -> Woken {
        let must_ask = self.revision.is_none() || self.requires_leader || self.has_failed || self.is_owing();
        let nap = if must_ask { ASK_EVERY } else { self.watches.progress_every() };
        let asked = async {
            match &mut self.requests {
                // A request that cannot be read ends the requests.
                Some(requests) if self.begins.is_none() => requests.message().await.ok().flatten(),
                _ => std::future::pending().await,
            }
        };
        let changed = async {
            match &mut self.revision {
                Some(revision) => revision.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.place.closing() => Woken::Closing,
            request = asked => Woken::Asked(request),
            // The replica is gone from here: the shard is asked from afar.
            is_here = changed => {
                if !is_here {
                    self.revision = self.asked.service.watch_revision(self.shard);
                }
                Woken::Changed
            }
            () = std::future::ready(()), if goes_on => Woken::Changed,
            () = time::sleep(nap) => Woken::Changed,
        }
    }

    fn is_leaderless(&mut self) -> bool {
        if !self.requires_leader {
            return false;
        }
        // Where no replica is, whether somebody leads shows when it is asked.
        let led = |shard: &OnlyShard| if shard.has_replica { shard.leader_node_id != 0 } else { !self.has_failed };
        let led = self.asked.shard().as_ref().is_ok_and(led);
        if led {
            self.leaderless_since = None;
            return false;
        }
        let since = *self.leaderless_since.get_or_insert_with(time::now);
        time::now().saturating_duration_since(since) >= LEADERLESS_MAX
    }

    async fn take(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => {
                let header = self.asked.local_header();
                self.watches.cancel(cancel.watch_id, header.as_ref(), &mut self.out);
            }
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress().await,
            None => {}
        }
    }

    /// Whether something waits for a leader who says what the present is.
    fn is_owing(&self) -> bool {
        self.owes_progress || self.begins.is_some()
    }

    /// Tries again what waits for that.
    async fn settle(&mut self) {
        if let Some(create) = self.begins.take() {
            self.create(create).await;
        }
        if self.owes_progress {
            self.ask_progress().await;
            self.tell_progress();
        }
    }

    /// A watch that does not say from where begins at a present that is proven: this node may lag behind what the
    /// client was told elsewhere.
    async fn create(&mut self, create: pb::WatchCreateRequest) {
        let header = if create.start_revision == 0 { self.present().await } else { self.asked.local_header() };
        self.has_failed = header.is_none();
        if header.is_none() {
            self.begins = Some(create);
            return;
        }
        self.watches.create(create, header.as_ref(), time::now(), &mut self.out);
    }

    /// Progress is told of a present that is proven: a node that lags would tell the client of less than it was
    /// shown elsewhere. Until a leader answers it is owed.
    async fn ask_progress(&mut self) {
        let present = self.present().await;
        self.owes_progress = present.is_none();
        if present.is_some() {
            self.watches.ask_progress(present.as_ref(), &mut self.out);
        }
    }

    /// The header of now, with every write that was acknowledged before; `None` while no leader can prove it.
    async fn present(&self) -> Option<pb::ResponseHeader> {
        // The leader knows also while this node lags too far behind to say it.
        for level in [v1::ReadLevel::Follower, v1::ReadLevel::Linearizable] {
            let request = v1::TxnRequest {
                target: self.asked.target(),
                transaction: Some(v1::Transaction::default()),
                level: level.into(),
                ..Default::default()
            };
            if let Ok(answer) = self.asked.service.txn(request, time::now() + PRESENT_TIMEOUT).await {
                return self.asked.header_of(answer.header.as_ref());
            }
        }
        None
    }
}
