//! The control stream to one peer: small calls of all groups, answered in any order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::lane::Lane;
use super::{CONTROL_CALLS_MAX, LinkError, describe, refusal};
use crate::env::time;
use crate::proto::internal as wire;
use crate::proto::internal::control_frame::Request;
use crate::proto::internal::control_reply::Reply;
use crate::proto::internal::peer_error::Code;
use crate::raft::peers::{Peers, Route};
use crate::types::NodeId;

/// Calls to one peer.
pub(in crate::raft) struct Control {
    lane: Arc<Lane>,
    peers: Arc<Peers>,
    open: tokio::sync::Mutex<Option<Arc<Stream>>>,
}

/// An open stream and the calls on it.
struct Stream {
    outgoing: mpsc::Sender<wire::ControlFrame>,
    calls: Mutex<Calls>,
    generation: u64,
}

#[derive(Default)]
struct Calls {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Reply>>,
    /// Why the stream ended.
    ended: Option<String>,
}

impl Control {
    pub(super) fn new(lane: Arc<Lane>, peers: Arc<Peers>) -> Self {
        Self { lane, peers, open: tokio::sync::Mutex::default() }
    }

    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Asks the peer and waits for the answer. A refusal is an error.
    pub(super) async fn call(&self, route: Route, request: Request, limit: Duration) -> Result<Reply, LinkError> {
        let node = self.lane.node;
        time::timeout(limit, self.ask(route, request)).await.unwrap_or(Err(LinkError::Timeout(node)))
    }

    async fn ask(&self, route: Route, request: Request) -> Result<Reply, LinkError> {
        let node = self.lane.node;
        let stream = self.stream().await?;
        let (call, answer) = stream.enter(node)?;
        // Forgets the call when this future is dropped: its deadline has come.
        let _forget = Forget { stream: &stream, call };
        let envelope = Some(self.peers.envelope(node, route));
        let frame = wire::ControlFrame { call, envelope, request: Some(request) };
        stream.outgoing.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Busy(node),
            mpsc::error::TrySendError::Closed(_) => stream.broken(node),
        })?;
        match answer.await {
            Ok(Reply::Error(error)) => {
                let refusal = refusal(error);
                if matches!(refusal.code, Code::UnknownIncarnation | Code::StaleIncarnation) {
                    // The next call introduces this process anew, or learns why not.
                    self.lane.broken(stream.generation);
                }
                Err(refusal.into())
            }
            Ok(reply) => Ok(reply),
            Err(_) => Err(stream.broken(node)),
        }
    }

    async fn stream(&self) -> Result<Arc<Stream>, LinkError> {
        let mut open = self.open.lock().await;
        let mut connected = self.lane.channel().await?;
        if let Some(stream) = open.as_ref().filter(|stream| stream.is_open(connected.generation)) {
            return Ok(stream.clone());
        }
        let (outgoing, frames) = mpsc::channel(CONTROL_CALLS_MAX);
        let replies = match connected.client.control(ReceiverStream::new(frames)).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.lane.broken(connected.generation);
                return Err(LinkError::from_status(self.lane.node, &status));
            }
        };
        let stream = Arc::new(Stream { outgoing, calls: Mutex::default(), generation: connected.generation });
        tokio::spawn(read(stream.clone(), replies, self.lane.clone(), self.peers.clone()));
        *open = Some(stream.clone());
        Ok(stream)
    }
}

impl Stream {
    fn is_open(&self, generation: u64) -> bool {
        self.generation == generation && self.calls.lock().ended.is_none()
    }

    fn enter(&self, node: NodeId) -> Result<(u64, oneshot::Receiver<Reply>), LinkError> {
        let mut calls = self.calls.lock();
        if let Some(why) = &calls.ended {
            return Err(LinkError::Broken { node, why: why.clone() });
        }
        if calls.waiting.len() >= CONTROL_CALLS_MAX {
            return Err(LinkError::Busy(node));
        }
        calls.last += 1;
        let (answer, answered) = oneshot::channel();
        let call = calls.last;
        calls.waiting.insert(call, answer);
        Ok((call, answered))
    }

    fn broken(&self, node: NodeId) -> LinkError {
        let why = self.calls.lock().ended.clone().unwrap_or_else(|| "the stream ended".to_owned());
        LinkError::Broken { node, why }
    }
}

struct Forget<'s> {
    stream: &'s Stream,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.stream.calls.lock().waiting.remove(&self.call);
    }
}

/// Hands answers to those who wait for them, until the stream ends.
async fn read(stream: Arc<Stream>, mut replies: Streaming<wire::ControlReply>, lane: Arc<Lane>, peers: Arc<Peers>) {
    let why = loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                peers.note_position(lane.node, reply.log_position);
                let waiting = stream.calls.lock().waiting.remove(&reply.call);
                if let Some((waiting, reply)) = waiting.zip(reply.reply) {
                    // Whoever asked may have stopped waiting.
                    waiting.send(reply).ok();
                }
            }
            Ok(None) => break "the peer ended the stream".to_owned(),
            Err(status) => break describe(&status),
        }
    };
    {
        let mut calls = stream.calls.lock();
        calls.ended = Some(why);
        calls.waiting.clear();
    }
    lane.broken(stream.generation);
}
