//! etcd's services over a [`Service`]: one keyspace of one shard, as if it were an etcd cluster.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tonic::{Request, Response, Status};

use super::error;
use crate::api::call::Call;
use crate::api::watchers::Watchers;
use crate::env::time::{self, Instant};
use crate::node::{Failure, OnlyShard, Service};
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::v1::{self, ErrorCode};
use crate::types::limits;

pub(super) type Answer<R> = Result<Response<R>, Status>;

/// Names the keyspace that a request is for; without it that is `default`.
const KEYSPACE: &str = "quorate-keyspace";

const REQUIRE_LEADER: &str = "hasleader";
/// How long a read of what is here waits for what clients were told of here.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// The port of a keyspace by which a request has come in.
#[derive(Clone)]
pub(in crate::api) struct Entered {
    /// The keyspace that is meant where no other is named.
    pub(in crate::api) keyspace: Arc<str>,
    /// `host:port` that clients are told to connect to.
    pub(in crate::api) address: Arc<str>,
}

/// etcd's services of one node.
pub(crate) struct Etcd<S> {
    pub(super) service: Arc<S>,
    pub(super) watchers: Watchers,
    pub(super) watch_progress: Duration,
    told: Arc<Told>,
}

/// The highest revision of each shard that this node has told a client of.
#[derive(Default)]
struct Told(Mutex<BTreeMap<u64, u64>>);

impl Told {
    fn tell(&self, shard: u64, revision: u64) {
        let mut told = self.0.lock();
        let highest = told.entry(shard).or_default();
        *highest = revision.max(*highest);
    }

    fn highest(&self, shard: u64) -> u64 {
        self.0.lock().get(&shard).copied().unwrap_or_default()
    }
}

impl<S> Clone for Etcd<S> {
    fn clone(&self) -> Self {
        let (service, told) = (Arc::clone(&self.service), Arc::clone(&self.told));
        Self { service, watchers: self.watchers.clone(), watch_progress: self.watch_progress, told }
    }
}

/// One request on its way.
pub(super) struct Asked<S> {
    pub(super) service: Arc<S>,
    pub(super) keyspace: String,
    pub(super) deadline: Instant,
    /// `None` where it came in by the node's ordinary port.
    pub(super) entered: Option<Entered>,
    /// The shard that is meant; 0 for the one that the keyspace has.
    pinned: u64,
    told: Arc<Told>,
}

impl<S: Service> Etcd<S> {
    pub(in crate::api) fn new(service: Arc<S>, watchers: Watchers, watch_progress: Duration) -> Self {
        Self { service, watchers, watch_progress, told: Arc::default() }
    }

    /// Who asks, before the request is taken apart.
    pub(super) fn asked<Q>(&self, request: &Request<Q>) -> Result<(Asked<S>, Arc<Call>), Status> {
        let call = request.extensions().get::<Arc<Call>>().cloned();
        let call = call.ok_or_else(|| Status::internal("the request reached the service around the gate"))?;
        let entered = request.extensions().get::<Entered>().cloned();
        let keyspace = match request.metadata().get(KEYSPACE) {
            None => entered.as_ref().map_or_else(String::new, |entered| entered.keyspace.to_string()),
            Some(name) => match name.to_str() {
                Ok(name) => name.to_owned(),
                Err(_) => return Err(Status::invalid_argument(format!("quorate: {KEYSPACE} is no text"))),
            },
        };
        let (service, told) = (Arc::clone(&self.service), Arc::clone(&self.told));
        let asked = Asked { service, keyspace, deadline: call.deadline(), entered, pinned: 0, told };
        if requires_leader(request) && asked.shard().is_ok_and(|shard| shard.has_replica && shard.leader_node_id == 0) {
            return Err(Refused::from(error::NO_LEADER).told(&call));
        }
        Ok((asked, call))
    }

    /// Runs one request of the service within its call.
    pub(super) async fn run<Q, R, F>(
        &self,
        request: Request<Q>,
        execute: impl FnOnce(Asked<S>, Q) -> F + Send,
    ) -> Answer<R>
    where
        Q: Send,
        R: Message,
        F: Future<Output = Result<R, Refused>> + Send,
    {
        let (asked, call) = self.asked(&request)?;
        let result = match call.enter() {
            Ok(()) => execute(asked, request.into_inner()).await,
            Err(overdue) => Err(overdue.into()),
        };
        match result {
            Ok(answer) if answer.encoded_len() > limits::ETCD_RESPONSE_BYTES_MAX => {
                call.fail(ErrorCode::LimitExceeded);
                Err(too_large())
            }
            Ok(answer) => Ok(Response::new(answer)),
            Err(refused) => Err(refused.told(&call)),
        }
    }
}

/// Whether a request says in its metadata that it is only for a node that knows a leader.
pub(super) fn requires_leader<Q>(request: &Request<Q>) -> bool {
    request.metadata().get(REQUIRE_LEADER).is_some_and(|value| value.as_bytes() == b"true")
}

/// The answer to a request for more than an answer may hold.
pub(super) fn too_large() -> Status {
    let max = limits::ETCD_RESPONSE_BYTES_MAX;
    Status::resource_exhausted(format!("quorate: the answer is larger than {max} bytes: ask for less, with a limit"))
}

/// Why a request has no answer: in etcd's words from the start, or a failure of the node.
pub(super) enum Refused {
    Known(error::Known),
    Said(Status),
    Failed(Failure),
}

impl Refused {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Known(_) | Self::Said(_) => ErrorCode::InvalidArgument,
            Self::Failed(failure) => failure.detail.code(),
        }
    }

    /// Its status; the call counts as failed.
    pub(super) fn told(self, call: &Call) -> Status {
        call.fail(self.code());
        self.status()
    }

    pub(super) fn status(self) -> Status {
        match self {
            Self::Known(known) => error::known(known),
            Self::Said(status) => status,
            Self::Failed(failure) => {
                if matches!(failure.detail.code(), ErrorCode::Internal | ErrorCode::Corrupt) {
                    tracing::error!(%failure, "a request failed");
                } else {
                    tracing::debug!(%failure, "a request failed");
                }
                error::status(&failure)
            }
        }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Said(status)
    }
}

impl From<error::Known> for Refused {
    fn from(known: error::Known) -> Self {
        Self::Known(known)
    }
}

impl<S: Service> Asked<S> {
    /// The shard of the keyspace, which must have one only: there is no one order of revisions over several.
    pub(super) fn shard(&self) -> Result<OnlyShard, Failure> {
        self.service.only_shard(&self.keyspace)
    }

    /// Sees that the keyspace still is that shard: another one of the same name has other revisions.
    pub(super) fn shard_is(&self, id: u64) -> Result<(), Refused> {
        if self.shard()?.id == id {
            return Ok(());
        }
        Err(Status::not_found("quorate: the keyspace that was watched has been dropped").into())
    }

    /// Remembers that a client was told of a revision here.
    pub(super) fn tell(&self, shard: u64, revision: u64) {
        self.told.tell(shard, revision);
    }

    /// Waits, not for long, until this node's replica shows what clients were told of here: as with etcd, who
    /// writes through a node finds it there at once, also where nobody asks the leader.
    pub(super) async fn catch_up(&self, shard: u64) {
        let told = self.told.highest(shard);
        let Some(mut revision) = self.service.watch_revision(shard) else { return };
        let caught_up = revision.wait_for(|revision| revision.0 >= told);
        // Without a leader it may never; then what is here is shown.
        time::timeout(CATCH_UP_MAX, caught_up).await.ok();
    }

    pub(super) fn target(&self) -> Option<v1::Target> {
        Some(v1::Target { keyspace: self.keyspace.clone(), shard_id: self.pinned, shard_epoch: 0 })
    }

    /// From now on only the shard that is there now is meant, and none that a keyspace of the same name has later.
    pub(super) fn pin(&mut self) -> Result<u64, Failure> {
        self.pinned = self.shard()?.id;
        Ok(self.pinned)
    }

    /// The header of an answer at a revision.
    pub(super) fn header(&self, revision: u64, raft_term: u64) -> Option<pb::ResponseHeader> {
        let (cluster_id, member_id) = self.service.identity();
        Some(pb::ResponseHeader { cluster_id, member_id, revision: signed(revision), raft_term })
    }

    /// The header of an answer that the shard gave.
    pub(super) fn header_of(&self, header: Option<&v1::ResponseHeader>) -> Option<pb::ResponseHeader> {
        let header = header?;
        self.tell(header.shard_id, header.revision);
        self.header(header.revision, header.raft_term)
    }

    /// The header of an answer about members, which have no revision.
    pub(super) fn member_header(&self) -> Option<pb::ResponseHeader> {
        self.local_header().map(|header| pb::ResponseHeader { revision: 0, ..header })
    }

    /// The header of an answer that says nothing of the shard: as this node sees it. Where no replica is, or one
    /// that has just come, that is what clients were told of here: no later answer goes back behind it.
    pub(super) fn local_header(&self) -> Option<pb::ResponseHeader> {
        let shard = self.shard().ok()?;
        self.header(shard.revision.max(self.told.highest(shard.id)), shard.term)
    }
}

/// A number as etcd knows it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn what_clients_were_told_of_a_shard_never_goes_back() {
        let told = Told::default();
        assert_eq!(told.highest(7), 0);
        told.tell(7, 5);
        // Answers that say nothing of the revision, or come late.
        told.tell(7, 0);
        told.tell(7, 4);
        told.tell(8, 9);
        assert_eq!((told.highest(7), told.highest(8)), (5, 9));
    }
}
