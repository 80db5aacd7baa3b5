//! A watch: the changes of some keys as they come, over broken connections and whatever befalls nodes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use tonic::{Status, Streaming};

use super::budget::backoff_ceiling;
use super::call::{Plan, Route, Safety};
use super::error::{Error, Result};
use super::limits::{BACKOFF_BASE, BACKOFF_MAX};
use super::options::{Keys, WatchOptions};
use super::peers::{Sent, root_cause, sent};
use super::routes::KeyRange;
use super::{Client, Event};
use crate::env::chance;
use crate::env::time::{self, Instant};
use crate::proto::v1::{self, ErrorCode, WatchRequest, WatchResponse};

/// The changes of some keys of one shard, in order: every one from the first revision on, and each once.
///
/// It resumes by itself when a stream breaks, at whichever node answers, for as long as that takes; until it has
/// begun it gives up when the client's timeout is over. An error is what cannot be mended: the history that comes
/// next was compacted, the keyspace is gone, the request makes no sense.
///
/// ```no_run
/// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
/// use quorate::client::{Keys, WatchOptions};
///
/// let mut watch = client.watch_range(&Keys::prefix("config/"), WatchOptions::new().revision(42));
/// loop {
///     let event = watch.next().await?;
///     println!("{:?} {:?}", event.kind(), event.record);
/// }
/// # }
/// ```
pub struct Watch {
    client: Client,
    ranges: [KeyRange; 1],
    /// As it is asked for next: from the revision where the watch stands.
    request: WatchRequest,
    /// Events of that very revision that were received: the rest of it may be still to come.
    received: usize,
    /// How many of them the present stream shows again.
    repeated: usize,
    stream: Option<Streaming<WatchResponse>>,
    buffered: VecDeque<Event>,
    /// Cluster and shard, once the watch has begun: their revisions are the ones that count.
    origin: Option<(Bytes, u64)>,
    /// When to give up, until it has begun.
    give_up_at: Option<Instant>,
    /// Streams that brought nothing, one after the other.
    round: u32,
    trouble: Option<Error>,
}

impl Client {
    /// Watches a key.
    pub fn watch(&self, key: impl Into<Bytes>, options: WatchOptions) -> Watch {
        let key = key.into();
        let range = KeyRange::key(&key);
        Watch::new(self.clone(), range, v1::KeyRange { key, range_end: Bytes::new() }, options)
    }

    /// Watches all keys of a range, which must lie in one shard.
    pub fn watch_range(&self, keys: &Keys, options: WatchOptions) -> Watch {
        let (key, range_end) = keys.operation_bounds();
        Watch::new(self.clone(), keys.touched(), v1::KeyRange { key, range_end }, options)
    }
}

impl Watch {
    fn new(client: Client, range: KeyRange, wire: v1::KeyRange, options: WatchOptions) -> Self {
        let request = WatchRequest {
            target: None,
            from_revision: options.revision,
            ranges: vec![wire],
            previous: options.previous,
            progress: true,
        };
        Self {
            client,
            ranges: [range],
            request,
            received: 0,
            repeated: 0,
            stream: None,
            buffered: VecDeque::new(),
            origin: None,
            give_up_at: None,
            round: 0,
            trouble: None,
        }
    }

    /// The next change. Dropping the future loses none.
    ///
    /// # Errors
    /// `COMPACTED` when what comes next is forgotten; `KEYSPACE_NOT_FOUND` when the keyspace is gone; `CROSS_SHARD`
    /// when the keys lie in several shards, which have no order in common; before it has begun, anything that a
    /// read may fail with.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                return Ok(event);
            }
            self.advance().await?;
        }
    }

    /// Waits until the watch has begun, and returns the first revision that it is to show: of what is written from
    /// now on it misses nothing.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn begin(&mut self) -> Result<u64> {
        while self.origin.is_none() {
            self.advance().await?;
        }
        Ok(self.next_revision())
    }

    /// Where a watch goes on that is to show what this one has not received; 0 before it has begun, if it begins
    /// with the present.
    pub fn next_revision(&self) -> u64 {
        self.request.from_revision
    }

    /// Why the watch is interrupted at the moment, if it is.
    pub fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// The watch as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event>> + Send {
        stream::try_unfold(self, |mut watch| async move { Ok(Some((watch.next().await?, watch))) })
    }

    /// Receives an answer, or sees to it that the next try may.
    async fn advance(&mut self) -> Result<()> {
        let received = match self.receive().await {
            Ok(answer) => self.take(answer),
            Err(error) => Err(error),
        };
        let Err(error) = received else { return Ok(()) };
        self.stream = None;
        if !is_mendable(&error) {
            return Err(error);
        }
        let wait = self.backoff();
        if self.give_up_at.is_some_and(|at| time::now() + wait >= at) {
            self.give_up_at = None;
            // That the time is over says less than what took it.
            let earlier = self.trouble.take().filter(|_| error.code == ErrorCode::Timeout);
            return Err(earlier.unwrap_or(error));
        }
        tracing::debug!(%error, "a watch is resumed");
        self.trouble = Some(error);
        time::sleep(wait).await;
        Ok(())
    }

    async fn receive(&mut self) -> Result<WatchResponse> {
        if self.origin.is_none() {
            self.give_up_at.get_or_insert(time::now() + self.client.timeout);
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let deadline = self.give_up_at.unwrap_or_else(|| time::now() + self.client.timeout);
                let route = Route::Keys { keyspace: &self.client.keyspace, ranges: &self.ranges };
                let plan = Plan { route, safety: Safety::Read, deadline, once: false };
                let opened = self.client.core.call(&self.request, &plan).await.map_err(in_words_of_a_watch)?;
                self.repeated = self.received;
                self.stream.insert(opened)
            }
        };
        let message = match self.give_up_at {
            Some(at) => time::timeout_at(at, stream.message())
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the watch did not begin in time"))),
            None => stream.message().await,
        };
        match message {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Error::retryable(ErrorCode::Unavailable, "the node ended the watch without a word")),
            Err(status) if sent(&status) == Sent::Answered => Err(Error::from_status(&status, false)),
            Err(status) => {
                let message = format!("the connection of the watch broke: {}", root_cause(&status));
                Err(Error::retryable(ErrorCode::Unavailable, message))
            }
        }
    }

    /// Takes an answer in, without what was received before.
    fn take(&mut self, answer: WatchResponse) -> Result<()> {
        let header = answer.header.unwrap_or_default();
        let origin = (header.cluster_id, header.shard_id);
        if self.origin.get_or_insert_with(|| origin.clone()) != &origin {
            let message = format!(
                "keyspace `{}` is another one than the watch began with, and its revisions say nothing of the first: \
                 watch it anew",
                self.client.keyspace
            );
            return Err(Error::not_applied(ErrorCode::KeyspaceNotFound, message));
        }
        let stood = self.request.from_revision;
        let mut events = answer.events;
        let again = events.iter().take(self.repeated).take_while(|event| revision(event) == stood).count();
        events.drain(..again);
        self.repeated = self.repeated.saturating_sub(again);
        let next = answer.next_revision.max(stood);
        let of_next = events.iter().filter(|event| revision(event) == next).count();
        self.received = if next == stood { self.received + of_next } else { of_next };
        if next > stood || !events.is_empty() {
            self.round = 0;
        }
        self.request.from_revision = next;
        self.buffered.extend(events);
        self.give_up_at = None;
        self.trouble = None;
        Ok(())
    }

    /// How long to wait for the next try: full jitter, and a token of the client's budget.
    fn backoff(&mut self) -> Duration {
        let token = self.client.core.budget.lock().reserve(time::now(), BACKOFF_MAX).unwrap_or(BACKOFF_MAX);
        let wait = chance::jitter(backoff_ceiling(BACKOFF_BASE, self.round)).max(token);
        self.round = self.round.saturating_add(1);
        wait
    }
}

fn revision(event: &Event) -> u64 {
    event.record.as_ref().map_or(0, |record| record.mod_revision)
}

/// Whether another try, or another node, may do better.
fn is_mendable(error: &Error) -> bool {
    error.is_retryable() || matches!(error.code, ErrorCode::NoLeader | ErrorCode::WrongShard)
}

fn in_words_of_a_watch(error: Error) -> Error {
    if error.code != ErrorCode::CrossShard {
        return error;
    }
    let message = "a watch follows one shard, and these keys lie in several, which have no order of revisions in \
                   common: watch a single key, or use a keyspace of one shard";
    Error { message: message.to_owned(), ..error }
}
