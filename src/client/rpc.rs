//! One trait over the calls of the public API, so that one loop retries them all.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::batch;
use super::error::Error;
use crate::env::net::BoxFuture;
use crate::proto::v1::admin_client::AdminClient;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::kv_client::KvClient;
use crate::proto::v1::lease_client::LeaseClient;
use crate::proto::v1::{
    AddMemberRequest, AddMemberResponse, BatchRequest, BatchResponse, CancelOperationRequest, CancelOperationResponse,
    ChangeReplicasRequest, ChangeReplicasResponse, CloseSessionRequest, CloseSessionResponse, CompactRequest,
    CompactResponse, CountRequest, CountResponse, CreateKeyspaceRequest, CreateKeyspaceResponse, DeleteRequest,
    DeleteResponse, DropKeyspaceRequest, DropKeyspaceResponse, GetRequest, GetResponse, GrantLeaseRequest,
    GrantLeaseResponse, LeaseTimeRequest, LeaseTimeResponse, LeasesRequest, LeasesResponse, MapRequest, MapResponse,
    MembersRequest, MembersResponse, MoveLeaderRequest, MoveLeaderResponse, OpenSessionRequest, OpenSessionResponse,
    OperationsRequest, OperationsResponse, PutRequest, PutResponse, ReadLevel, RemoveMemberRequest,
    RemoveMemberResponse, RenewLeaseRequest, RenewLeaseResponse, ResponseHeader, RevokeLeaseRequest,
    RevokeLeaseResponse, ScanRequest, ScanResponse, SessionStamp, ShardsRequest, ShardsResponse, StatusRequest,
    StatusResponse, Target, TxnRequest, TxnResponse, UpdateKeyspaceRequest, UpdateKeyspaceResponse, WatchRequest,
    WatchResponse,
};
use crate::types::limits::RESPONSE_BYTES_MAX;

/// A call. Of one that is answered by a stream, the answer is the open stream.
pub(crate) trait Rpc: prost::Message + Clone + 'static {
    type Answer: Send;
    /// Names the shard; calls that address none ignore it.
    fn aim(&mut self, target: Target);
    /// The header of an answer that has one.
    fn header(answer: &Self::Answer) -> Option<&ResponseHeader>;
    /// A failure that travels inside an answer.
    fn failure(_: &Self::Answer) -> Option<Error> {
        None
    }
    /// Whether any replica may serve it, not only the leader.
    fn is_near(&self) -> bool {
        false
    }
    /// Whether it is answered by a stream, which goes over connections of its own.
    fn is_lasting(&self) -> bool {
        false
    }
    /// Sends it; the server learns how long the caller waits.
    fn send(self, channel: Channel, patience: Duration) -> BoxFuture<'static, Result<Self::Answer, Status>>;
}

/// A write that a session can stamp.
pub(crate) trait Write: Rpc {
    fn stamp(&mut self, stamp: SessionStamp);
}

macro_rules! rpc {
    ($request:ident => $answer:ident, $client:ident . $method:ident $(, $aimed:ident)?) => {
        impl Rpc for $request {
            type Answer = $answer;

            rpc!(@aim $($aimed)?);

            fn send(self, channel: Channel, patience: Duration) -> BoxFuture<'static, Result<$answer, Status>> {
                Box::pin(async move {
                    let mut client = $client::new(channel)
                        .max_decoding_message_size(RESPONSE_BYTES_MAX)
                        .max_encoding_message_size(usize::MAX);
                    let mut request = Request::new(self);
                    request.set_timeout(patience);
                    client.$method(request).await.map(Response::into_inner)
                })
            }
        }
    };
    (@aim aimed) => {
        fn aim(&mut self, target: Target) {
            self.target = Some(target);
        }

        fn header(answer: &Self::Answer) -> Option<&ResponseHeader> {
            answer.header.as_ref()
        }
    };
    (@aim level) => {
        rpc!(@aim aimed);

        fn is_near(&self) -> bool {
            self.level() != ReadLevel::Linearizable
        }
    };
    (@aim parts) => {
        fn aim(&mut self, target: Target) {
            self.target = Some(target);
        }

        fn header(_: &Self::Answer) -> Option<&ResponseHeader> {
            None
        }

        fn failure(answer: &Self::Answer) -> Option<Error> {
            batch::read_answer(answer).err()
        }
    };
    (@aim) => {
        fn aim(&mut self, _: Target) {}

        fn header(_: &Self::Answer) -> Option<&ResponseHeader> {
            None
        }
    };
}

rpc!(GetRequest => GetResponse, KvClient.get, level);
rpc!(PutRequest => PutResponse, KvClient.put, aimed);
rpc!(DeleteRequest => DeleteResponse, KvClient.delete, aimed);
rpc!(ScanRequest => ScanResponse, KvClient.scan, level);
rpc!(CountRequest => CountResponse, KvClient.count, level);
rpc!(TxnRequest => TxnResponse, KvClient.txn, aimed);
rpc!(BatchRequest => BatchResponse, KvClient.batch, parts);
rpc!(OpenSessionRequest => OpenSessionResponse, KvClient.open_session, aimed);
rpc!(CloseSessionRequest => CloseSessionResponse, KvClient.close_session, aimed);
rpc!(CompactRequest => CompactResponse, KvClient.compact, aimed);
rpc!(GrantLeaseRequest => GrantLeaseResponse, LeaseClient.grant, aimed);
rpc!(RevokeLeaseRequest => RevokeLeaseResponse, LeaseClient.revoke, aimed);
rpc!(RenewLeaseRequest => RenewLeaseResponse, LeaseClient.renew, aimed);
rpc!(LeaseTimeRequest => LeaseTimeResponse, LeaseClient.time, aimed);
rpc!(LeasesRequest => LeasesResponse, LeaseClient.list, aimed);
rpc!(MembersRequest => MembersResponse, ClusterClient.members);
rpc!(MapRequest => MapResponse, ClusterClient.map);
rpc!(StatusRequest => StatusResponse, AdminClient.status);
rpc!(ShardsRequest => ShardsResponse, AdminClient.shards);
rpc!(MoveLeaderRequest => MoveLeaderResponse, AdminClient.move_leader);
rpc!(ChangeReplicasRequest => ChangeReplicasResponse, AdminClient.change_replicas);
rpc!(OperationsRequest => OperationsResponse, AdminClient.operations);
rpc!(CancelOperationRequest => CancelOperationResponse, AdminClient.cancel_operation);
rpc!(AddMemberRequest => AddMemberResponse, AdminClient.add_member);
rpc!(RemoveMemberRequest => RemoveMemberResponse, AdminClient.remove_member);
rpc!(CreateKeyspaceRequest => CreateKeyspaceResponse, AdminClient.create_keyspace);
rpc!(UpdateKeyspaceRequest => UpdateKeyspaceResponse, AdminClient.update_keyspace);
rpc!(DropKeyspaceRequest => DropKeyspaceResponse, AdminClient.drop_keyspace);

impl Rpc for WatchRequest {
    type Answer = Streaming<WatchResponse>;

    fn aim(&mut self, target: Target) {
        self.target = Some(target);
    }

    fn header(_: &Self::Answer) -> Option<&ResponseHeader> {
        None
    }

    fn is_near(&self) -> bool {
        true
    }

    fn is_lasting(&self) -> bool {
        true
    }

    /// The caller's patience is for the opening; a stream may last.
    fn send(self, channel: Channel, _: Duration) -> BoxFuture<'static, Result<Self::Answer, Status>> {
        Box::pin(async move {
            let mut client = KvClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
            client.watch(self).await.map(Response::into_inner)
        })
    }
}

macro_rules! write {
    ($($request:ident),*) => {
        $(impl Write for $request {
            fn stamp(&mut self, stamp: SessionStamp) {
                self.session = Some(stamp);
            }
        })*
    };
}

write!(PutRequest, DeleteRequest, TxnRequest, BatchRequest);
