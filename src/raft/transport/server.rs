//! The peer port: what other nodes may ask of this one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future};
use openraft::base::BoxStream;
use openraft::raft::{AppendEntriesResponse, StreamAppendError, TransferLeaderRequest};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};

use super::connect::stopped as stopped_serving;
use super::receive::Receiving;
use super::{CONTROL_CALLS_MAX, JOIN_TIMEOUT, refused_status, serve_append};
use crate::env::net::{BoxFuture, Fate, FrameKind, Network};
use crate::env::time;
use crate::env::tls::{Certificate, PeerTls};
use crate::env::work::Worker;
use crate::proto::internal as wire;
use crate::proto::internal::control_frame::Request as Call;
use crate::proto::internal::control_reply::Reply;
use crate::proto::internal::peer_error::Code;
use crate::proto::internal::peer_server::Peer;
use crate::raft::codec::{self, Malformed};
use crate::raft::group::Core;
use crate::raft::peers::{Introduction, PROTOCOL, Refusal};
use crate::raft::registry::Registry;
use crate::raft::types::{AppendResult, VoteReply};
use crate::storage::engine::Engine;
use crate::types::limits::{REQUEST_TIMEOUT_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::types::{GroupId, NodeId};

/// Answers what other nodes ask of this one as a node, not of one of its groups' replicas.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one request; whatever goes wrong is part of the answer.
    fn forward(&self, group: GroupId, request: Bytes, deadline: time::Instant) -> BoxFuture<'_, Bytes>;
    /// Makes a new node a member.
    fn join(&self, request: wire::JoinRequest, deadline: time::Instant) -> BoxFuture<'_, wire::JoinResponse>;
}

/// The service on the peer port.
#[derive(Clone)]
pub(in crate::raft) struct PeerService {
    inner: Arc<Inner>,
    /// The groups, as far as this connection may reach them.
    registry: Arc<Registry>,
    /// Who is at the other end of this connection; `None` without TLS.
    caller: Option<Arc<Caller>>,
}

/// The other end of a connection over TLS.
struct Caller {
    from: SocketAddr,
    certificate: Certificate,
}

struct Inner {
    /// Says what becomes of frames.
    net: Arc<dyn Network>,
    engine: Arc<dyn Engine>,
    /// Writes received snapshots.
    writer: Worker,
    handler: RwLock<Option<Arc<dyn PeerHandler>>>,
    forwards: Semaphore,
    /// Ends the streams that would otherwise outlive the host.
    stop: watch::Receiver<bool>,
}

impl PeerService {
    pub(in crate::raft) fn new(
        net: Arc<dyn Network>,
        registry: Arc<Registry>,
        engine: Arc<dyn Engine>,
        writer: Worker,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let forwards = Semaphore::new(REQUESTS_IN_FLIGHT_MAX);
        let inner = Inner { net, engine, writer, handler: RwLock::default(), forwards, stop };
        Self { inner: Arc::new(inner), registry, caller: None }
    }

    pub(super) fn tls(&self) -> Option<Arc<PeerTls>> {
        self.registry.peers.tls().cloned()
    }

    /// The service on one connection over TLS, on which only one node is listened to: the one that the
    /// certificate names.
    pub(super) fn certified(self, from: SocketAddr, certificate: Certificate) -> Self {
        let registry = Arc::new(self.registry.on_certified_connection());
        Self { registry, caller: Some(Arc::new(Caller { from, certificate })), ..self }
    }

    pub(in crate::raft) fn set_handler(&self, handler: Arc<dyn PeerHandler>) {
        *self.inner.handler.write() = Some(handler);
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type ControlStream = BoxStream<'static, Result<wire::ControlReply, Status>>;

    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        let hello = request.into_inner();
        let from = NodeId(hello.from.as_ref().map_or(0, |from| from.node_id));
        self.introduce(hello).await.map(Response::new).map_err(|refusal| {
            let log = |source: String| self.registry.peers.refusals().log("refused a node", &source, &refusal.message);
            match (refusal.code, &self.caller) {
                // It ends, and tries again only if somebody starts it.
                (Code::StaleIncarnation | Code::Removed, _) => {
                    tracing::warn!(code = ?refusal.code, "refused a node: {refusal}");
                }
                (Code::Untrusted, Some(caller)) => log(caller.from.ip().to_string()),
                _ => log(from.to_string()),
            }
            refused_status(&refusal)
        })
    }

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (net, registry) = (self.inner.net.clone(), self.registry.clone());
        let answers = serve_append::answers(net, registry, request.into_inner());
        Ok(Response::new(Box::pin(answers.take_until(stopped_serving(self.inner.stop.clone())))))
    }

    async fn control(
        &self,
        request: Request<Streaming<wire::ControlFrame>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let service = self.clone();
        // A broken stream ends the calls; the peer sees it by itself.
        let frames = request.into_inner().filter_map(|frame| future::ready(frame.ok()));
        let replies = frames.map(move |frame| service.clone().called(frame)).buffer_unordered(CONTROL_CALLS_MAX);
        Ok(Response::new(Box::pin(replies.map(Ok).take_until(stopped_serving(self.inner.stop.clone())))))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotFrame>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let receiving = Receiving {
            net: self.inner.net.clone(),
            registry: self.registry.clone(),
            engine: self.inner.engine.clone(),
            writer: self.inner.writer.clone(),
        };
        let reply = match receiving.receive(request.into_inner()).await {
            Ok(vote) => wire::SnapshotReply { vote: Some(codec::vote_to_wire(&vote)), error: None },
            Err(refusal) => {
                tracing::warn!(code = ?refusal.code, "refused a snapshot: {refusal}");
                wire::SnapshotReply { vote: None, error: Some(refusal.to_wire()) }
            }
        };
        Ok(Response::new(reply))
    }

    async fn forward(&self, request: Request<wire::ForwardRequest>) -> Result<Response<wire::ForwardResponse>, Status> {
        let request = request.into_inner();
        match self.forwarded(request).await {
            Ok(response) => Ok(Response::new(wire::ForwardResponse { response, error: None })),
            Err(Failed::Refused(refusal)) => {
                let error = Some(refusal.to_wire());
                Ok(Response::new(wire::ForwardResponse { response: Bytes::new(), error }))
            }
            Err(Failed::Late) => Err(Status::deadline_exceeded("the forwarded request was not answered in time")),
        }
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        self.take_in(request.into_inner()).await.map(Response::new).map_err(|refusal| refused_status(&refusal))
    }
}

enum Failed {
    /// It was not begun.
    Refused(Refusal),
    /// It may still be executed.
    Late,
}

impl PeerService {
    async fn introduce(&self, hello: wire::HelloRequest) -> Result<wire::HelloResponse, Refusal> {
        let peers = &self.registry.peers;
        if hello.to_node_id != 0 && hello.to_node_id != peers.node().0 {
            let message = format!("this is node {}, not n{}: check the addresses", peers.node(), hello.to_node_id);
            return Err(Refusal::new(Code::WrongNode, message));
        }
        let theirs = Introduction::from_request(hello)?;
        let node = theirs.node;
        peers.meet(theirs, self.caller.as_ref().map(|caller| &caller.certificate)).await?;
        self.registry.introduced(node)?;
        Ok(peers.introduction().to_response())
    }

    /// Whoever asks has no id yet, so nothing can be checked but that it speaks as this node does and, over
    /// TLS, that the name is its own.
    async fn take_in(&self, request: wire::JoinRequest) -> Result<wire::JoinResponse, Refusal> {
        if request.protocol != PROTOCOL {
            let message = format!(
                "version {} speaks peer protocol {}, this cluster (version {}) speaks {PROTOCOL}: use a version that fits",
                request.version,
                request.protocol,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Refusal::new(Code::Malformed, message));
        }
        if let Some(caller) = &self.caller {
            let name = request.node.as_ref().map_or("", |node| node.name.as_str());
            caller.certificate.check_name(name).map_err(|why| Refusal::new(Code::Untrusted, why))?;
        }
        let refuse = |message: &str| Refusal::new(Code::Unspecified, message);
        let handler = self.inner.handler.read().clone().ok_or_else(|| refuse("this node is still starting"))?;
        let _permit = self.inner.forwards.try_acquire().map_err(|_| refuse("too many requests are executing"))?;
        Ok(handler.join(request, time::now() + JOIN_TIMEOUT).await)
    }

    async fn called(self, frame: wire::ControlFrame) -> wire::ControlReply {
        match self.inner.net.fate(FrameKind::Call) {
            Fate::Deliver => {}
            Fate::Late(by) => time::sleep(by).await,
            Fate::Twice(after) => drop(tokio::spawn(self.clone().answer_again(frame.clone(), after))),
        }
        let reply = match self.answer(frame.envelope.as_ref(), frame.request).await {
            Ok(reply) => reply,
            Err(refusal) => Reply::Error(refusal.to_wire()),
        };
        let log_position = self.registry.peers.position();
        wire::ControlReply { call: frame.call, reply: Some(reply), log_position }
    }

    /// Executes a call once more, as if it had come again. Nobody hears this answer.
    async fn answer_again(self, frame: wire::ControlFrame, after: Duration) {
        time::sleep(after).await;
        drop(self.answer(frame.envelope.as_ref(), frame.request).await);
    }

    async fn answer(&self, envelope: Option<&wire::Envelope>, call: Option<Call>) -> Result<Reply, Refusal> {
        let core = self.registry.admit(envelope)?;
        match call {
            Some(Call::Heartbeat(request)) => heartbeat(&core, request).await,
            Some(Call::Vote(request)) => {
                let request = codec::vote_request_from_wire(request).map_err(not_read)?;
                voted(core.raft.vote(request).await)
            }
            Some(Call::PreVote(request)) => {
                let request = codec::vote_request_from_wire(request).map_err(not_read)?;
                voted(core.raft.pre_vote(request).await)
            }
            Some(Call::Transfer(request)) => transfer(&core, request).await,
            None => Err(not_read(codec::malformed("control frame", "no call"))),
        }
    }

    async fn forwarded(&self, request: wire::ForwardRequest) -> Result<Bytes, Failed> {
        self.registry.admit_to_node(request.envelope.as_ref()).map_err(Failed::Refused)?;
        let refuse = |message: &str| Failed::Refused(Refusal::new(Code::Unspecified, message));
        let handler = self.inner.handler.read().clone().ok_or_else(|| refuse("this node is still starting"))?;
        let _permit =
            self.inner.forwards.try_acquire().map_err(|_| refuse("too many forwarded requests are executing"))?;
        let group = GroupId(request.envelope.map_or(0, |envelope| envelope.group_id));
        let limit = Duration::from_millis(request.deadline_ms).min(REQUEST_TIMEOUT_MAX);
        let deadline = time::now() + limit;
        time::timeout(limit, handler.forward(group, request.request, deadline)).await.map_err(|_| Failed::Late)
    }
}

pub(super) fn not_read(error: Malformed) -> Refusal {
    Refusal::new(Code::Malformed, error.to_string())
}

pub(super) fn stopped(why: impl ToString) -> Refusal {
    Refusal::new(Code::GroupStopped, why.to_string())
}

/// Notes that a leader was followed, if it was one.
pub(super) fn note(core: &Core, result: &AppendResult) {
    if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
        core.hear();
    }
}

async fn heartbeat(core: &Core, request: wire::AppendRequest) -> Result<Reply, Refusal> {
    let request = codec::append_from_wire(request).map_err(not_read)?;
    let previous = request.prev_log_id;
    let last = request.entries.last().map(|entry| entry.log_id).or(previous);
    let result: AppendResult = match core.raft.append_entries(request).await.map_err(stopped)? {
        AppendEntriesResponse::Success => Ok(last),
        AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        AppendEntriesResponse::Conflict => match previous {
            Some(previous) => Err(StreamAppendError::Conflict(previous)),
            None => return Err(stopped("nothing conflicts with an empty log")),
        },
    };
    note(core, &result);
    Ok(Reply::Heartbeat(codec::append_result_to_wire(&result)))
}

fn voted<E: std::error::Error>(reply: Result<VoteReply, E>) -> Result<Reply, Refusal> {
    reply.map(|reply| Reply::Vote(codec::vote_reply_to_wire(&reply))).map_err(stopped)
}

async fn transfer(core: &Core, request: wire::TransferRequest) -> Result<Reply, Refusal> {
    let from = request.from_leader.map(codec::vote_from_wire).filter(|vote| vote.committed);
    let from = from.ok_or_else(|| not_read(codec::malformed("transfer request", "no leader's vote")))?;
    let last = request.last.map(codec::log_id_from_wire);
    let call = TransferLeaderRequest::new(from, request.to_replica, last);
    let refused = match core.raft.handle_transfer_leader(call).await.map_err(stopped)? {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    Ok(Reply::Transfer(wire::TransferReply { refused }))
}
