//! Reads the keys of an etcd, or of anything that speaks its API, all as of one revision.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ClientConfig;
use super::budget::backoff_ceiling;
use super::error::{Error, Result};
use super::limits::BACKOFF_BASE;
use super::peers::{Peers, Sent, root_cause, sent};
use crate::env::time::{self, Instant};
use crate::env::tls::ClientTls;
use crate::env::{Env, chance};
use crate::proto::etcd::etcdserverpb::kv_client::KvClient;
use crate::proto::etcd::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcd::etcdserverpb::{LeaseTimeToLiveRequest, RangeRequest, RangeResponse};
use crate::proto::v1::ErrorCode;
use crate::types::key::{UNBOUNDED, prefix_end, successor};

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys of the first page.
const PAGE_KEYS: i64 = 500;
/// Keys of a page at most.
const PAGE_KEYS_MAX: i64 = 5_000;
/// A page that is larger is followed by one of fewer keys …
const PAGE_BYTES_LARGE: usize = 4 * 1024 * 1024;
/// … and one that is smaller by one of more.
const PAGE_BYTES_SMALL: usize = 1024 * 1024;

/// A key as an etcd has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdRecord {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The lease that it is attached to; 0 for none.
    pub lease: i64,
}

/// How long the first answer may take.
const OPENING_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// The keys of an etcd that begin with a prefix, page by page, all as of one revision.
pub struct EtcdSource {
    peers: Peers,
    endpoints: Vec<String>,
    timeout: Duration,
    next: Bytes,
    range_end: Bytes,
    page_keys: i64,
    /// Cluster and revision, once they are known.
    pinned: Option<(u64, i64)>,
    finished: bool,
}

impl EtcdSource {
    /// Names the members by the endpoints, TLS and timeout of `config`; nothing is asked yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the settings make no sense.
    pub fn new(env: &Env, config: ClientConfig, prefix: &[u8]) -> Result<Self> {
        let config = config.normalized()?;
        let tls = config.tls.clone().map(|files| ClientTls::start(env, files, false)).transpose();
        let tls = tls.map_err(|error| Error::not_applied(ErrorCode::InvalidArgument, error.to_string()))?;
        let peers = Peers::new(Arc::clone(&env.net), tls.map(Arc::new));
        let next = if prefix.is_empty() { Bytes::from_static(UNBOUNDED) } else { Bytes::copy_from_slice(prefix) };
        let range_end = prefix_end(prefix).unwrap_or(Bytes::from_static(UNBOUNDED));
        let (endpoints, timeout) = (config.endpoints, config.timeout);
        Ok(Self { peers, endpoints, timeout, next, range_end, page_keys: PAGE_KEYS, pinned: None, finished: false })
    }

    /// The revision that all pages show; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.pinned.map_or(0, |(_, revision)| revision.unsigned_abs())
    }

    /// The next page in key order; `None` after the last.
    ///
    /// # Errors
    /// `COMPACTED` when the revision is gone; what etcd says when it refuses; unavailable when no member answers in
    /// time.
    pub async fn next_page(&mut self) -> Result<Option<Vec<EtcdRecord>>> {
        if self.finished {
            return Ok(None);
        }
        let answer = self.page().await?;
        let header = answer.header.unwrap_or_default();
        let (cluster, revision) = *self.pinned.get_or_insert((header.cluster_id, header.revision));
        if header.cluster_id != cluster || revision <= 0 {
            let message = "the endpoints of --from-etcd belong to different clusters: name members of one";
            return Err(Error::not_applied(ErrorCode::InvalidArgument, message));
        }
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        if bytes > PAGE_BYTES_LARGE {
            self.page_keys = (self.page_keys / 2).max(1);
        } else if bytes < PAGE_BYTES_SMALL {
            self.page_keys = (self.page_keys * 2).min(PAGE_KEYS_MAX);
        }
        match answer.kvs.last() {
            Some(last) if answer.more => self.next = successor(&last.key),
            Some(_) | None => self.finished = true,
        }
        let record =
            |kv: crate::proto::etcd::mvccpb::KeyValue| EtcdRecord { key: kv.key, value: kv.value, lease: kv.lease };
        Ok(Some(answer.kvs.into_iter().map(record).collect()))
    }

    /// How much time a lease has left, in whole seconds; `None` when it has ended.
    ///
    /// # Errors
    /// As [`next_page`](Self::next_page).
    pub async fn lease_remaining(&self, lease: i64) -> Result<Option<Duration>> {
        let request = LeaseTimeToLiveRequest { id: lease, keys: false };
        let answer = self.ask(|channel| async move { LeaseClient::new(channel).lease_time_to_live(request).await });
        let answer = match answer.await {
            Ok(answer) => answer.into_inner(),
            Err(Refusal::Said(status)) if status.code() == Code::NotFound => return Ok(None),
            Err(refusal) => return Err(self.error(refusal)),
        };
        Ok(u64::try_from(answer.ttl).ok().map(Duration::from_secs))
    }

    /// A page, of as many keys as can be answered.
    async fn page(&mut self) -> Result<RangeResponse> {
        loop {
            let request = RangeRequest {
                key: self.next.clone(),
                range_end: self.range_end.clone(),
                limit: self.page_keys,
                revision: self.pinned.map_or(0, |(_, revision)| revision),
                ..RangeRequest::default()
            };
            let answer = self.ask(|channel| {
                let request = request.clone();
                async move { KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).range(request).await }
            });
            match answer.await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(Refusal::Said(status)) if is_too_large(&status) && self.page_keys > 1 => {
                    self.page_keys = (self.page_keys / 4).max(1);
                }
                Err(refusal) => return Err(self.error(refusal)),
            }
        }
    }

    /// Asks one member after the other until one answers, or the time is over.
    async fn ask<T, F>(&self, send: impl Fn(Channel) -> F) -> std::result::Result<T, Refusal>
    where
        F: Future<Output = std::result::Result<T, Status>>,
    {
        // Before anything is read, somebody waits to hear whether the endpoints are right.
        let patience = if self.pinned.is_none() { self.timeout.min(OPENING_TIMEOUT_MAX) } else { self.timeout };
        let deadline = time::now() + patience;
        let mut round = 0;
        loop {
            let mut last = "no member was asked in time".to_owned();
            for address in &self.endpoints {
                match self.ask_one(address, deadline, &send).await {
                    Ok(answer) => return Ok(answer),
                    Err(Refusal::Silent(why)) => last = why,
                    Err(said) => return Err(said),
                }
            }
            let wait = chance::jitter(backoff_ceiling(BACKOFF_BASE, round));
            if time::now() + wait >= deadline {
                return Err(Refusal::Silent(last));
            }
            round += 1;
            time::sleep(wait).await;
        }
    }

    async fn ask_one<T, F>(
        &self,
        address: &str,
        deadline: Instant,
        send: &impl Fn(Channel) -> F,
    ) -> std::result::Result<T, Refusal>
    where
        F: Future<Output = std::result::Result<T, Status>>,
    {
        let peer = self.peers.get(address);
        let connection = peer.connect(deadline).await.map_err(Refusal::Silent)?;
        let status = match time::timeout_at(deadline, send(connection.channel.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => status,
            Err(_) => return Err(Refusal::Silent(format!("{address} did not answer in time"))),
        };
        if let Some(why) = connection.refused() {
            let why = peer.distrusted(why);
            connection.discard();
            return Err(Refusal::Silent(why));
        }
        let passes = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        // An answer that is too large for this end is made here, and says so; other words from here say that the
        // connection broke.
        if is_too_large(&status) || (sent(&status) == Sent::Answered && !passes) {
            return Err(Refusal::Said(status));
        }
        if sent(&status) != Sent::Answered {
            connection.discard();
        }
        Err(Refusal::Silent(format!("{address}: {}", root_cause(&status))))
    }

    fn error(&self, refusal: Refusal) -> Error {
        let status = match refusal {
            Refusal::Silent(why) => {
                return Error::retryable(ErrorCode::Unavailable, format!("etcd cannot be reached: {why}"));
            }
            Refusal::Said(status) => status,
        };
        let said = status.message();
        if said.contains("has been compacted") {
            let message = format!(
                "etcd has compacted revision {}, at which its keys are read: run the import again, which begins with \
                 the present one",
                self.revision()
            );
            return Error::not_applied(ErrorCode::Compacted, message);
        }
        let wants_user = ["user name is empty", "invalid auth token", "permission denied"];
        let denied = wants_user.iter().any(|words| said.contains(words))
            || matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
        let message = if denied {
            format!("etcd wants a user (it says: {said}), and kvctl logs in to no etcd")
        } else {
            format!("etcd refuses: {said}")
        };
        Error { denied, ..Error::not_applied(ErrorCode::InvalidArgument, message) }
    }
}

/// Why a member gave no answer.
enum Refusal {
    /// It said so.
    Said(Status),
    /// It was not reached, or another may do better.
    Silent(String),
}

/// Whether an answer was larger than one of the two ends allows.
fn is_too_large(status: &Status) -> bool {
    let says = |words| status.message().contains(words);
    status.code() == Code::ResourceExhausted && (says("larger than") || says("too large"))
        || status.code() == Code::OutOfRange && says("message length too large")
}
