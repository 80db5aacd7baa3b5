//! A client of etcd's API: plain gRPC to one node at a time, another one when that fails.

mod connection;
mod words;

use std::future::Future;
use std::time::Duration;

use quorate::env::time;
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::kv_client::KvClient;
use quorate::proto::etcd::etcdserverpb::lease_client::LeaseClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use self::connection::connect;
pub(super) use self::words::{event, prefix, revision_of, shown, signed, snapshot, unsigned};
use super::Setup;
use crate::chance::Chance;
use crate::watched::Keys;

/// Names the keyspace of a call.
const KEYSPACE: &str = "quorate-keyspace";
/// Larger than any answer here.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// How often a check asks for what it reads back, and its pause after each time.
const READ_BACK_TRIES: usize = 30;
const READ_BACK_PAUSE: Duration = Duration::from_millis(300);

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// It changed nothing and never will.
    Not(Status),
    /// It may have taken effect, or still will.
    Open,
}

/// A client with a connection of its own.
pub(super) struct Etcd {
    setup: Setup,
    chance: Chance,
    keyspace: &'static str,
    channel: Option<Channel>,
    renewals: Option<Renewals>,
}

/// A stream of renewals on the open connection.
struct Renewals {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Etcd {
    /// A client of the keyspace `keyspace`; of `default` if it is empty.
    pub(super) fn new(setup: &Setup, purpose: &str, keyspace: &'static str) -> Self {
        let chance = setup.chance(&format!("{purpose} connections"));
        Self { setup: setup.clone(), chance, keyspace, channel: None, renewals: None }
    }

    /// The open connection, or one to any node that takes it.
    pub(super) async fn channel(&mut self) -> Option<Channel> {
        if self.channel.is_none() {
            let endpoint = self.chance.pick(&self.setup.endpoints).clone();
            self.channel = connect(&self.setup, &endpoint).await;
        }
        self.channel.clone()
    }

    /// Connects to this node and no other until [`Etcd::leave`].
    pub(super) async fn stay_at(&mut self, endpoint: &str) -> bool {
        self.channel = connect(&self.setup, endpoint).await;
        self.channel.is_some()
    }

    /// The next call goes to any node.
    pub(super) fn leave(&mut self) {
        self.channel = None;
        self.renewals = None;
    }

    /// A call of this client's keyspace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(keyspace) = self.keyspace.parse()
            && !self.keyspace.is_empty()
        {
            request.metadata_mut().insert(KEYSPACE, keyspace);
        }
        request
    }

    /// Sends one call, once, and waits for `limit` at most. After a failure the next goes elsewhere.
    pub(super) async fn call<Q, A, F>(
        &mut self,
        limit: Duration,
        message: Q,
        act: impl FnOnce(Channel, Request<Q>) -> F,
    ) -> Result<A, Failed>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Some(channel) = self.channel().await else { return Err(Failed::Not(Status::unavailable("not sent"))) };
        let mut request = self.request(message);
        request.set_timeout(limit);
        let answer = time::timeout(limit, act(channel, request)).await;
        let status = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        tracing::debug!(code = ?status.code(), message = status.message(), "an etcd call failed");
        match status.code() {
            Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => Err(Failed::Not(status)),
            Code::InvalidArgument | Code::Internal | Code::Unimplemented | Code::DataLoss | Code::PermissionDenied
                if status.message().contains("etcdserver:") || status.message().contains("quorate:") =>
            {
                self.setup.seen.violation("errors have a reason", format!("{:?}: {}", status.code(), status.message()));
                Err(Failed::Open)
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => {
                self.leave();
                Err(Failed::Open)
            }
        }
    }

    /// A transaction.
    pub(super) async fn txn(&mut self, limit: Duration, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Failed> {
        self.call(limit, txn, |channel, request| async move { kv(channel).txn(request).await }).await
    }

    /// A range, at a revision or, with 0, now.
    pub(super) async fn range(
        &mut self,
        limit: Duration,
        keys: &Keys,
        revision: u64,
    ) -> Result<pb::RangeResponse, Failed> {
        let range = pb::RangeRequest {
            key: keys.start.clone().into(),
            range_end: keys.end.clone().into(),
            revision: signed(revision),
            ..Default::default()
        };
        self.call(limit, range, |channel, request| async move { kv(channel).range(request).await }).await
    }

    /// Reads what is there now from whichever node answers: in the end few may be left of many, so that all are
    /// asked in turn.
    pub(super) async fn read_back(&mut self, limit: Duration, keys: &Keys) -> Result<pb::RangeResponse, String> {
        let mut why = "no node can be reached".to_owned();
        let endpoints = self.setup.endpoints.clone();
        for endpoint in endpoints.iter().cycle().take(READ_BACK_TRIES) {
            if self.stay_at(endpoint).await {
                match self.range(limit, keys, 0).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => why = format!("{endpoint}: {failed:?}"),
                }
            }
            time::sleep(READ_BACK_PAUSE).await;
        }
        Err(why)
    }

    /// A lease; 0 lets the server choose its id.
    pub(super) async fn grant(&mut self, limit: Duration, id: i64, ttl: i64) -> Result<i64, Failed> {
        let grant = pb::LeaseGrantRequest { ttl, id };
        let granted = self
            .call(limit, grant, |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await });
        granted.await.map(|granted| granted.id)
    }

    /// Ends a lease.
    pub(super) async fn revoke(&mut self, limit: Duration, id: i64) -> Result<(), Failed> {
        let revoke = pb::LeaseRevokeRequest { id };
        let revoked = self.call(limit, revoke, |channel, request| async move {
            LeaseClient::new(channel).lease_revoke(request).await
        });
        revoked.await.map(drop)
    }

    /// Begins the time of a lease anew, on a stream that stays; `None` if there is no such lease.
    pub(super) async fn keep_alive(&mut self, limit: Duration, id: i64) -> Result<Option<i64>, Failed> {
        let answer = match time::timeout(limit, self.renew(id)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "not renewed");
                self.leave();
                return Err(Failed::Open);
            }
            Err(_) => {
                // An answer that comes later would be taken for one to the next request.
                self.leave();
                return Err(Failed::Open);
            }
        };
        if answer.id != id {
            let detail = format!("asked for {id}, answered {answer:?}");
            self.setup.seen.violation("a renewal answers its request", detail);
        }
        Ok((answer.ttl > 0).then_some(answer.ttl))
    }

    async fn renew(&mut self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let ended = || Status::unavailable("the stream ended");
        if self.renewals.is_none() {
            let channel = self.channel().await.ok_or_else(ended)?;
            let (requests, sent) = mpsc::channel(1);
            let stream = self.request(ReceiverStream::new(sent));
            let answers = LeaseClient::new(channel).lease_keep_alive(stream).await?.into_inner();
            self.renewals = Some(Renewals { requests, answers });
        }
        let renewals = self.renewals.as_mut().ok_or_else(ended)?;
        renewals.requests.send(pb::LeaseKeepAliveRequest { id }).await.map_err(|_| ended())?;
        renewals.answers.message().await?.ok_or_else(ended)
    }

    /// How much time a lease has left, and its keys.
    pub(super) async fn time_to_live(
        &mut self,
        limit: Duration,
        id: i64,
    ) -> Result<pb::LeaseTimeToLiveResponse, Failed> {
        let time = pb::LeaseTimeToLiveRequest { id, keys: true };
        let asked = self.call(limit, time, |channel, request| async move {
            LeaseClient::new(channel).lease_time_to_live(request).await
        });
        asked.await
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// A watch client.
pub(super) fn watches(channel: Channel) -> pb::watch_client::WatchClient<Channel> {
    pb::watch_client::WatchClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}
