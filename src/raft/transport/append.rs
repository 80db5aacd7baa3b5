//! One append session: a stream of requests to a follower and of its answers, a window apart.
//!
//! The requests come from openraft as a stream whose polling includes its pause after a failure, so
//! nothing is connected before the first request came out of it. And the session ends as soon as the
//! requests have ended and all answers came, whatever the peer does: openraft waits for that end.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::lane::Lane;
use super::{APPEND_REPLY_TIMEOUT, APPEND_WINDOW, LinkError, describe, refusal};
use crate::env::time;
use crate::proto::internal as wire;
use crate::proto::internal::peer_error::Code;
use crate::raft::codec::{self, Asked};
use crate::raft::peers::{Peers, Route};
use crate::raft::types::{AppendRequest, AppendResult, RpcError};

/// A session on its way.
pub(super) struct Session<S> {
    lane: Arc<Lane>,
    peers: Arc<Peers>,
    route: Route,
    /// `None` once it has ended.
    requests: Option<S>,
    open: Option<Open>,
    /// Requests whose answers are due, in order.
    asked: VecDeque<Asked>,
    ended: bool,
}

struct Open {
    /// `None` once the requests have ended.
    outgoing: Option<mpsc::Sender<wire::AppendFrame>>,
    replies: Streaming<wire::AppendReply>,
    generation: u64,
}

enum Event {
    Reply(Option<Result<wire::AppendReply, tonic::Status>>),
    Request(Option<AppendRequest>),
    Late,
}

impl<S: Stream<Item = AppendRequest> + Send + Unpin> Session<S> {
    pub(super) fn new(lane: Arc<Lane>, peers: Arc<Peers>, route: Route, requests: S) -> Self {
        Self { lane, peers, route, requests: Some(requests), open: None, asked: VecDeque::new(), ended: false }
    }

    /// The answers, in the order of the requests, up to the first that is not plain success.
    pub(super) fn answers(self) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send {
        futures_util::stream::unfold(self, async |mut session| {
            if session.ended {
                return None;
            }
            let answer = session.next().await.transpose()?;
            session.ended = !matches!(answer, Ok(Ok(_)));
            if let Err(error) = &answer {
                session.give_up(error);
            }
            Some((answer.map_err(|error| error.to_rpc()), session))
        })
    }

    /// The next answer; `None` once the requests have ended and all answers came.
    async fn next(&mut self) -> Result<Option<AppendResult>, LinkError> {
        loop {
            if self.requests.is_none() && self.asked.is_empty() {
                return Ok(None);
            }
            match self.event().await {
                Event::Request(Some(request)) => self.send(&request).await?,
                Event::Request(None) => {
                    self.requests = None;
                    if let Some(open) = &mut self.open {
                        open.outgoing = None;
                    }
                }
                Event::Reply(reply) => return self.take(reply).map(Some),
                Event::Late => return Err(LinkError::Timeout(self.lane.node)),
            }
        }
    }

    async fn event(&mut self) -> Event {
        let Some(open) = &mut self.open else {
            // Trap: the pause after a failure sits in here, before anything is connected.
            return match &mut self.requests {
                Some(requests) => Event::Request(requests.next().await),
                None => Event::Request(None),
            };
        };
        let may_ask = self.asked.len() < APPEND_WINDOW;
        let next_request = async {
            match self.requests.as_mut().filter(|_| may_ask) {
                Some(requests) => requests.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = open.replies.next() => Event::Reply(reply),
            request = next_request => Event::Request(request),
            () = time::sleep(APPEND_REPLY_TIMEOUT), if !self.asked.is_empty() => Event::Late,
        }
    }

    async fn send(&mut self, request: &AppendRequest) -> Result<(), LinkError> {
        let node = self.lane.node;
        let envelope = Some(self.peers.envelope(node, self.route));
        let frame = wire::AppendFrame { envelope, request: Some(codec::append_to_wire(request)) };
        self.asked.push_back(Asked::of(request));
        let broken = |why: &str| LinkError::Broken { node, why: why.to_owned() };
        if let Some(open) = &self.open {
            let outgoing = open.outgoing.as_ref().ok_or_else(|| broken("the requests had ended"))?;
            return outgoing.try_send(frame).map_err(|_| broken("the stream takes no more"));
        }
        let mut connected = self.lane.channel().await?;
        let (outgoing, frames) = mpsc::channel(APPEND_WINDOW);
        outgoing.try_send(frame).map_err(|_| broken("the stream takes nothing"))?;
        let opened = time::timeout(APPEND_REPLY_TIMEOUT, connected.client.append(ReceiverStream::new(frames))).await;
        let replies = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                self.lane.broken(connected.generation);
                return Err(LinkError::from_status(node, &status));
            }
            Err(_) => {
                self.lane.broken(connected.generation);
                return Err(LinkError::Timeout(node));
            }
        };
        self.open = Some(Open { outgoing: Some(outgoing), replies, generation: connected.generation });
        Ok(())
    }

    fn take(&mut self, reply: Option<Result<wire::AppendReply, tonic::Status>>) -> Result<AppendResult, LinkError> {
        let node = self.lane.node;
        let broken = |why: String| LinkError::Broken { node, why };
        let reply = match reply {
            Some(Ok(reply)) => reply,
            Some(Err(status)) => return Err(broken(describe(&status))),
            None => return Err(broken("the peer ended the stream".to_owned())),
        };
        if let Some(wire::append_reply::Result::Error(error)) = reply.result {
            return Err(refusal(error).into());
        }
        self.peers.note_position(node, reply.log_position);
        let asked = self.asked.pop_front().ok_or_else(|| broken("an answer to nothing".to_owned()))?;
        match asked.read(reply)? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(refusal(error).into()),
        }
    }

    /// Leaves a connection that is of no more use to anybody.
    fn give_up(&self, error: &LinkError) {
        let Some(open) = &self.open else { return };
        let useless = match error {
            LinkError::Timeout(_) | LinkError::Broken { .. } | LinkError::Malformed(_) => true,
            LinkError::Refused(refusal) => {
                matches!(refusal.code, Code::UnknownIncarnation | Code::StaleIncarnation | Code::WrongNode)
            }
            LinkError::NoAddress(_)
            | LinkError::Unreachable { .. }
            | LinkError::Untrusted { .. }
            | LinkError::Busy(_) => false,
        };
        if useless {
            self.lane.broken(open.generation);
        }
    }
}
