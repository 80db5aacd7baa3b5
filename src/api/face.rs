//! The gRPC services over a [`Service`]: they unwrap, hand over, and turn failures into statuses.

use std::future::Future;
use std::sync::Arc;

use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::error;
use super::watchers::{Answers, Source, Watchers};
use super::watching::Watching;
use crate::env::time::Instant;
use crate::node::{Failure, Service};
use crate::proto::v1::admin_server::Admin;
use crate::proto::v1::cluster_server::Cluster;
use crate::proto::v1::kv_server::Kv;
use crate::proto::v1::lease_server::Lease;
use crate::proto::v1::{self, ErrorCode, Outcome};
use crate::types::limits;

type Answer<R> = Result<Response<R>, Status>;

/// The gRPC services of one node.
pub(super) struct Face<S> {
    service: Arc<S>,
    watchers: Watchers,
}

impl<S> Clone for Face<S> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), watchers: self.watchers.clone() }
    }
}

impl<S: Service> Face<S> {
    pub(super) fn new(service: Arc<S>, watchers: Watchers) -> Self {
        Self { service, watchers }
    }

    /// Runs one request of the service within its call.
    async fn run<Q, R, F>(&self, request: Request<Q>, execute: impl FnOnce(Arc<S>, Q, Instant) -> F + Send) -> Answer<R>
    where
        Q: Send,
        R: Message,
        F: Future<Output = Result<R, Failure>> + Send,
    {
        let call = request.extensions().get::<Arc<Call>>().cloned().ok_or_else(no_call)?;
        let result = match call.enter() {
            Ok(()) => execute(Arc::clone(&self.service), request.into_inner(), call.deadline()).await,
            Err(overdue) => Err(overdue),
        };
        let result = result.and_then(|answer| fits(&call, answer));
        result.map(Response::new).map_err(|failure| refusal(&call, &failure))
    }
}

/// Every request passes the gate, which makes its call.
fn no_call() -> Status {
    error::status(&Failure::refused(ErrorCode::Internal, "the request reached the service around the gate"))
}

/// Refuses an answer that a client would not take.
fn fits<R: Message>(call: &Call, answer: R) -> Result<R, Failure> {
    let (actual, max) = (answer.encoded_len(), limits::RESPONSE_BYTES_MAX);
    if actual <= max {
        return Ok(answer);
    }
    let message = format!("the answer has {actual} bytes, but response_bytes_max is {max}: ask for less at a time");
    let mut failure = error::limit(ErrorCode::LimitExceeded, "response_bytes_max", max as u64, actual as u64, message);
    if call.method().write {
        failure.detail.set_outcome(Outcome::Applied);
    }
    Err(failure)
}

fn refusal(call: &Call, failure: &Failure) -> Status {
    call.fail(failure.detail.code());
    if matches!(failure.detail.code(), ErrorCode::Internal | ErrorCode::Corrupt) {
        tracing::error!(%failure, "a request failed");
    } else {
        tracing::debug!(%failure, "a request failed");
    }
    error::status(failure)
}

macro_rules! serve {
    ($face:ident.$method:ident($request:ident)) => {
        $face.run($request, |node, request, deadline| async move { node.$method(request, deadline).await }).await
    };
}

#[tonic::async_trait]
impl<S: Service> Kv for Face<S> {
    type WatchStream = Answers<v1::WatchResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        serve!(self.get(request))
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::PutResponse> {
        serve!(self.put(request))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        serve!(self.delete(request))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<v1::ScanResponse> {
        serve!(self.scan(request))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Answer<v1::CountResponse> {
        serve!(self.count(request))
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Answer<v1::TxnResponse> {
        serve!(self.txn(request))
    }

    async fn batch(&self, request: Request<v1::BatchRequest>) -> Answer<v1::BatchResponse> {
        serve!(self.batch(request))
    }

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<v1::EventsResponse> {
        serve!(self.events(request))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let call = request.extensions().get::<Arc<Call>>().cloned().ok_or_else(no_call)?;
        let place = call.enter().and_then(|()| self.watchers.place());
        let watching = place
            .and_then(|place| Watching::begin(Arc::clone(&self.service), request.into_inner(), place, call.deadline()));
        watching.map(|watching| Response::new(watching.answers())).map_err(|failure| refusal(&call, &failure))
    }

    async fn compact(&self, request: Request<v1::CompactRequest>) -> Answer<v1::CompactResponse> {
        serve!(self.compact(request))
    }

    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Answer<v1::OpenSessionResponse> {
        serve!(self.open_session(request))
    }

    async fn close_session(&self, request: Request<v1::CloseSessionRequest>) -> Answer<v1::CloseSessionResponse> {
        serve!(self.close_session(request))
    }
}

#[tonic::async_trait]
impl<S: Service> Lease for Face<S> {
    async fn grant(&self, request: Request<v1::GrantLeaseRequest>) -> Answer<v1::GrantLeaseResponse> {
        serve!(self.grant_lease(request))
    }

    async fn revoke(&self, request: Request<v1::RevokeLeaseRequest>) -> Answer<v1::RevokeLeaseResponse> {
        serve!(self.revoke_lease(request))
    }

    async fn renew(&self, request: Request<v1::RenewLeaseRequest>) -> Answer<v1::RenewLeaseResponse> {
        serve!(self.renew_lease(request))
    }

    async fn time(&self, request: Request<v1::LeaseTimeRequest>) -> Answer<v1::LeaseTimeResponse> {
        serve!(self.lease_time(request))
    }

    async fn list(&self, request: Request<v1::LeasesRequest>) -> Answer<v1::LeasesResponse> {
        serve!(self.leases(request))
    }
}

#[tonic::async_trait]
impl<S: Service> Cluster for Face<S> {
    type WatchMapStream = Answers<v1::MapResponse>;

    async fn members(&self, request: Request<v1::MembersRequest>) -> Answer<v1::MembersResponse> {
        self.run(request, |node, _, _| async move { Ok(node.members()) }).await
    }

    async fn map(&self, request: Request<v1::MapRequest>) -> Answer<v1::MapResponse> {
        self.run(request, |node, _, _| async move { Ok(node.map()) }).await
    }

    async fn watch_map(&self, request: Request<v1::WatchMapRequest>) -> Answer<Self::WatchMapStream> {
        let call = request.extensions().get::<Arc<Call>>().cloned().ok_or_else(no_call)?;
        let versions = self.service.watch_map();
        let source = MapSource { service: Arc::clone(&self.service), versions };
        let followed = call.enter().and_then(|()| self.watchers.follow(source));
        followed.map(Response::new).map_err(|failure| refusal(&call, &failure))
    }
}

struct MapSource<S> {
    service: Arc<S>,
    versions: watch::Receiver<u64>,
}

impl<S: Service> Source for MapSource<S> {
    type Item = v1::MapResponse;

    fn current(&mut self) -> v1::MapResponse {
        // Marked as seen before it is read: a change in between shows once more, never not at all.
        self.versions.mark_unchanged();
        self.service.map()
    }

    async fn changed(&mut self) -> bool {
        self.versions.changed().await.is_ok()
    }
}

#[tonic::async_trait]
impl<S: Service> Admin for Face<S> {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.run(request, |node, _, _| async move { Ok(node.status()) }).await
    }

    async fn shards(&self, request: Request<v1::ShardsRequest>) -> Answer<v1::ShardsResponse> {
        self.run(request, |node, request, _| async move { node.shards(request) }).await
    }

    async fn move_leader(&self, request: Request<v1::MoveLeaderRequest>) -> Answer<v1::MoveLeaderResponse> {
        serve!(self.move_leader(request))
    }

    async fn change_replicas(&self, request: Request<v1::ChangeReplicasRequest>) -> Answer<v1::ChangeReplicasResponse> {
        serve!(self.change_replicas(request))
    }

    async fn operations(&self, request: Request<v1::OperationsRequest>) -> Answer<v1::OperationsResponse> {
        serve!(self.operations(request))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Answer<v1::CancelOperationResponse> {
        serve!(self.cancel_operation(request))
    }

    async fn add_member(&self, request: Request<v1::AddMemberRequest>) -> Answer<v1::AddMemberResponse> {
        serve!(self.add_member(request))
    }

    async fn remove_member(&self, request: Request<v1::RemoveMemberRequest>) -> Answer<v1::RemoveMemberResponse> {
        serve!(self.remove_member(request))
    }

    async fn create_keyspace(&self, request: Request<v1::CreateKeyspaceRequest>) -> Answer<v1::CreateKeyspaceResponse> {
        serve!(self.create_keyspace(request))
    }

    async fn update_keyspace(&self, request: Request<v1::UpdateKeyspaceRequest>) -> Answer<v1::UpdateKeyspaceResponse> {
        serve!(self.update_keyspace(request))
    }

    async fn drop_keyspace(&self, request: Request<v1::DropKeyspaceRequest>) -> Answer<v1::DropKeyspaceResponse> {
        serve!(self.drop_keyspace(request))
    }
}
