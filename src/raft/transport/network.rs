//! openraft's network over the links of this node.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{ErrorSource, ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{SnapshotResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse};
use openraft::{OptionalSend, StorageError};

use super::append::Session;
use super::snapshot::{Outgoing, SendError};
use super::{Link, LinkError, Links};
use crate::env::chance;
use crate::env::work::Worker;
use crate::proto::internal as wire;
use crate::proto::internal::control_frame::Request;
use crate::proto::internal::control_reply::Reply;
use crate::raft::codec::{self, Asked};
use crate::raft::observe::Observer;
use crate::raft::peers::Route;
use crate::raft::snapshot::SnapshotData;
use crate::raft::types::{
    AppendRequest, AppendResult, Place, RpcError, SnapshotMeta, TypeConfig, Vote, VoteReply, VoteRequest,
};
use crate::storage::engine::EngineError;
use crate::types::{Epoch, GroupId, ReplicaId};

/// Longest pause before a follower is tried again; the first is a sixteenth of it.
const BACKOFF_MAX: Duration = Duration::from_millis(800);

type FullSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes one group's clients.
pub(in crate::raft) struct NetworkFactory {
    pub(in crate::raft) links: Arc<Links>,
    pub(in crate::raft) group: GroupId,
    pub(in crate::raft) replica: ReplicaId,
    /// The group's epoch, as the node last said.
    pub(in crate::raft) epoch: Arc<AtomicU64>,
    /// Reads snapshots.
    pub(in crate::raft) reader: Worker,
}

impl NetworkFactory {
    fn client(&self, target: u64, place: &Place, heartbeats: bool) -> Client {
        Client {
            links: self.links.clone(),
            link: self.links.to(place.node),
            group: self.group,
            from: self.replica,
            to: ReplicaId(target),
            epoch: self.epoch.clone(),
            heartbeats,
            reader: self.reader.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, place: &Place) -> Client {
        self.client(target, place, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, place: &Place) -> Client {
        self.client(target, place, true)
    }
}

/// One group's way to one replica.
pub(in crate::raft) struct Client {
    links: Arc<Links>,
    link: Arc<Link>,
    group: GroupId,
    from: ReplicaId,
    to: ReplicaId,
    epoch: Arc<AtomicU64>,
    /// Appends without entries that must not wait behind others: they take the control stream.
    heartbeats: bool,
    reader: Worker,
}

impl Client {
    /// Speaks for the replica at the other end, when its answer counts.
    fn peer(&self) -> Observer {
        Observer { group: self.group, replica: self.to }
    }

    fn route(&self) -> Route {
        let epoch = Epoch(self.epoch.load(Ordering::Relaxed));
        Route { group: self.group, from: self.from, to: self.to, epoch }
    }

    async fn heartbeat(&self, request: &AppendRequest, limit: Duration) -> Result<AppendResult, LinkError> {
        let asked = Asked::of(request);
        let request = Request::Heartbeat(codec::append_to_wire(request));
        match self.link.control.call(self.route(), request, limit).await? {
            Reply::Heartbeat(reply) => match asked.read(reply)? {
                Ok(answer) => Ok(answer),
                Err(error) => Err(super::refusal(error).into()),
            },
            Reply::Vote(_) | Reply::Transfer(_) | Reply::Error(_) => Err(unfitting()),
        }
    }

    async fn ask_vote(&self, request: Request, limit: Duration) -> Result<VoteReply, RpcError> {
        let reply = self.link.control.call(self.route(), request, limit).await;
        match reply {
            Ok(Reply::Vote(reply)) => {
                codec::vote_reply_from_wire(reply).map_err(|error| LinkError::from(error).to_rpc())
            }
            Ok(Reply::Heartbeat(_) | Reply::Transfer(_) | Reply::Error(_)) => Err(unfitting().to_rpc()),
            Err(error) => Err(error.to_rpc()),
        }
    }
}

fn unfitting() -> LinkError {
    codec::malformed("control reply", "it does not fit the call").into()
}

fn counted(peer: Observer, answer: &Result<AppendResult, RpcError>) {
    if let Ok(Ok(Some(matched))) = answer {
        peer.acknowledged(matched);
    }
}

impl NetStreamAppend<TypeConfig> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let peer = self.peer();
        if !self.heartbeats {
            let session = Session::new(self.link.append.clone(), self.links.peers.clone(), self.route(), input);
            let answers: BoxStream<'s, _> = Box::pin(session.answers().inspect(move |answer| counted(peer, answer)));
            return Box::pin(async move { Ok(answers) });
        }
        let limit = option.hard_ttl();
        let client: &'s Self = self;
        let answers = input.then(move |request| async move {
            client.heartbeat(&request, limit).await.map_err(|error| error.to_rpc())
        });
        let answers: BoxStream<'s, _> = Box::pin(answers.inspect(move |answer| counted(peer, answer)));
        Box::pin(async move { Ok(answers) })
    }
}

impl NetVote<TypeConfig> for Client {
    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteReply, RpcError> {
        let reply = self.ask_vote(Request::Vote(codec::vote_request_to_wire(&rpc)), option.hard_ttl()).await?;
        if reply.vote_granted {
            self.peer().granted(&rpc.vote);
        }
        Ok(reply)
    }

    /// Asked for real: the default would grant on behalf of a peer that cannot even be reached.
    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteReply, RpcError> {
        self.ask_vote(Request::PreVote(codec::vote_request_to_wire(&rpc)), option.hard_ttl()).await
    }
}

impl NetTransferLeader<TypeConfig> for Client {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let call = wire::TransferRequest {
            from_leader: Some(codec::vote_to_wire(request.from_leader())),
            to_replica: *request.to_node_id(),
            last: request.last_log_id().map(codec::log_id_to_wire),
        };
        let reply = self.link.control.call(self.route(), Request::Transfer(call), option.hard_ttl()).await;
        match reply {
            Ok(Reply::Transfer(reply)) if reply.refused.is_empty() => Ok(Ok(())),
            Ok(Reply::Transfer(reply)) => {
                tracing::warn!(group = %self.group, to = %self.to, why = reply.refused, "leadership was not taken");
                let expected = request.last_log_id().copied();
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
            }
            Ok(Reply::Heartbeat(_) | Reply::Vote(_) | Reply::Error(_)) => Err(unfitting().to_rpc()),
            Err(error) => Err(error.to_rpc()),
        }
    }
}

impl NetSnapshot<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    /// openraft's own time limit is not used: each chunk has one, however long the whole takes.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: FullSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            return Err(streaming(&SendError::Worker("a staged snapshot is not sent on".to_owned())));
        };
        let outgoing = Outgoing {
            lane: self.link.snapshot.clone(),
            peers: self.links.peers.clone(),
            route: self.route(),
            worker: self.reader.clone(),
            chunk_bytes: self.links.snapshot_chunk_bytes,
        };
        let meta: SnapshotMeta = snapshot.meta;
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = outgoing.send(&vote, &meta, view) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(group = %self.group, to = %self.to, %error, "a snapshot was not taken over");
                    Err(streaming(&error))
                }
            },
        }
    }
}

/// A broken engine stops the leader; anything else is tried again after a pause.
fn streaming(error: &SendError) -> StreamingError<TypeConfig> {
    match error {
        SendError::Engine(EngineError::ViewExpired { .. }) => openraft::errors::Unreachable::from_string(error).into(),
        SendError::Engine(error) => {
            StorageError::read_snapshot(None, openraft::impls::BoxedErrorSource::from_error(error)).into()
        }
        SendError::Link(_) | SendError::Worker(_) => openraft::errors::Unreachable::from_string(error).into(),
    }
}

impl NetBackoff<TypeConfig> for Client {
    /// Doubled each time, between half and all of it by chance.
    fn backoff(&self) -> Option<Backoff> {
        let pauses = (0u32..).map(|failures| {
            let full = BACKOFF_MAX / 16 * 2u32.pow(failures.min(4));
            full / 2 + chance::jitter(full / 2)
        });
        Some(Backoff::new(pauses))
    }
}
