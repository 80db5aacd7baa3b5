//! Sending a snapshot: read piece by piece from one view of the engine, as fast as the peer takes it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::lane::Lane;
use super::{LinkError, SNAPSHOT_CHUNK_TIMEOUT, SNAPSHOT_INSTALL_TIMEOUT, SNAPSHOT_WINDOW, refusal};
use crate::env::time;
use crate::env::work::Worker;
use crate::proto::internal as wire;
use crate::proto::internal::snapshot_frame::Kind;
use crate::raft::codec;
use crate::raft::peers::{Peers, Route};
use crate::raft::types::{SnapshotMeta, Vote};
use crate::storage::engine::stream::Sender;
use crate::storage::engine::{EngineError, View};

/// Version of the chunks' content.
pub(super) const SNAPSHOT_FORMAT: u32 = 1;

/// Why a snapshot was not taken over by the peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Worker(String),
}

/// What goes with one snapshot.
pub(super) struct Outgoing {
    pub(super) lane: Arc<Lane>,
    pub(super) peers: Arc<Peers>,
    pub(super) route: Route,
    pub(super) worker: Worker,
    pub(super) chunk_bytes: usize,
}

impl Outgoing {
    /// Sends a snapshot and returns the peer's vote once it has taken it over or refused it for a
    /// higher vote.
    pub(super) async fn send(&self, vote: &Vote, meta: &SnapshotMeta, view: Box<dyn View>) -> Result<Vote, SendError> {
        let node = self.lane.node;
        let mut connected = self.lane.channel().await?;
        let (outgoing, frames) = mpsc::channel(SNAPSHOT_WINDOW);
        let header = wire::SnapshotHeader {
            envelope: Some(self.peers.envelope(node, self.route)),
            vote: Some(codec::vote_to_wire(vote)),
            last: meta.last_log_id.as_ref().map(codec::log_id_to_wire),
            membership: Some(codec::stored_membership_to_wire(&meta.last_membership)),
            format: SNAPSHOT_FORMAT,
        };
        let reply = {
            let call = connected.client.snapshot(ReceiverStream::new(frames));
            let feed = self.feed(header, Sender::new(view, self.chunk_bytes), outgoing);
            tokio::pin!(call, feed);
            // The peer may answer before all was sent: it refuses, or a higher vote is known there.
            let early = tokio::select! {
                biased;
                reply = &mut call => Some(reply),
                fed = &mut feed => { fed?; None }
            };
            match early {
                Some(reply) => reply,
                None => time::timeout(SNAPSHOT_INSTALL_TIMEOUT, call).await.map_err(|_| LinkError::Timeout(node))?,
            }
        };
        let reply = match reply {
            Ok(reply) => reply.into_inner(),
            Err(status) => {
                self.lane.broken(connected.generation);
                return Err(LinkError::from_status(node, &status).into());
            }
        };
        match (reply.error, reply.vote) {
            (Some(error), _) => Err(LinkError::Refused(refusal(error)).into()),
            (None, Some(vote)) => Ok(codec::vote_from_wire(vote)),
            (None, None) => Err(LinkError::Malformed(codec::malformed("snapshot reply", "empty")).into()),
        }
    }

    /// Gives header, chunks and footer to the connection, each within its time.
    async fn feed(
        &self,
        header: wire::SnapshotHeader,
        mut chunks: Sender,
        outgoing: mpsc::Sender<wire::SnapshotFrame>,
    ) -> Result<(), SendError> {
        let node = self.lane.node;
        let give = async |kind| {
            let frame = wire::SnapshotFrame { kind: Some(kind) };
            match time::timeout(SNAPSHOT_CHUNK_TIMEOUT, outgoing.send(frame)).await {
                Ok(Ok(())) => Ok(()),
                // The peer has answered, or the connection broke: the call says which.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => Err(SendError::from(LinkError::Timeout(node))),
            }
        };
        give(Kind::Header(header)).await?;
        loop {
            let read = self.worker.run(move || (chunks.next(), chunks)).await;
            let (chunk, rest) = read.map_err(|error| SendError::Worker(error.to_string()))?;
            chunks = rest;
            let Some(chunk) = chunk else { break };
            give(Kind::Chunk(chunk?)).await?;
        }
        give(Kind::Footer(chunks.footer())).await
    }
}
