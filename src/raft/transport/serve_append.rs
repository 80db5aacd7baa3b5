//! The follower's end of an append session.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, future, stream};
use openraft::base::BoxStream;
use parking_lot::Mutex;
use tonic::{Status, Streaming};

use super::server::{not_read, note, stopped};
use crate::env::net::{Fate, FrameKind, Network};
use crate::env::time;
use crate::proto::internal as wire;
use crate::proto::internal::peer_error::Code;
use crate::raft::codec;
use crate::raft::group::{Core, has_room};
use crate::raft::peers::Refusal;
use crate::raft::registry::Registry;
use crate::raft::types::AppendRequest;

type Answers = BoxStream<'static, Result<wire::AppendReply, Status>>;

/// Answers a session's frames in order. A frame that is refused ends the session, after the answers
/// to those before it.
pub(super) fn answers(
    net: Arc<dyn Network>,
    registry: Arc<Registry>,
    mut frames: Streaming<wire::AppendFrame>,
) -> Answers {
    let session = async move {
        match frames.next().await {
            Some(Ok(first)) => match registry.admit(first.envelope.as_ref()) {
                Ok(core) => append(net, registry, core, first, frames),
                Err(refusal) => only(Ok(refused(&refusal))),
            },
            Some(Err(status)) => only(Err(status)),
            None => Box::pin(stream::empty()),
        }
    };
    Box::pin(stream::once(session).flatten())
}

fn only(answer: Result<wire::AppendReply, Status>) -> Answers {
    Box::pin(stream::once(future::ready(answer)))
}

fn refused(refusal: &Refusal) -> wire::AppendReply {
    wire::AppendReply { result: Some(wire::append_reply::Result::Error(refusal.to_wire())), log_position: 0 }
}

fn append(
    net: Arc<dyn Network>,
    registry: Arc<Registry>,
    core: Arc<Core>,
    first: wire::AppendFrame,
    frames: Streaming<wire::AppendFrame>,
) -> Answers {
    let why = Arc::new(Mutex::new(None));
    let (peers, heard) = (registry.peers.clone(), core.clone());
    let requests = requests(net, registry, core.clone(), first, frames, why.clone());
    let answers = core.raft.stream_append(requests).map(move |answer| match answer {
        // What this node acknowledges and the log that proves it go together: a peer that knows
        // of both refuses an older disk.
        Ok(result) => {
            note(&heard, &result);
            wire::AppendReply { log_position: peers.position(), ..codec::append_result_to_wire(&result) }
        }
        Err(fatal) => refused(&stopped(fatal)),
    });
    let last = stream::once(async move { why.lock().take().map(|refusal| refused(&refusal)) });
    Box::pin(answers.chain(last.filter_map(future::ready)).map(Ok))
}

/// The session's requests, up to the first frame that is refused; `why` then says why.
fn requests(
    net: Arc<dyn Network>,
    registry: Arc<Registry>,
    core: Arc<Core>,
    first: wire::AppendFrame,
    frames: Streaming<wire::AppendFrame>,
    why: Arc<Mutex<Option<Refusal>>>,
) -> impl Stream<Item = AppendRequest> + Send + 'static {
    let frames = stream::once(future::ready(Ok(first))).chain(frames);
    stream::unfold(Box::pin(frames), move |mut frames| {
        let (net, registry, core, why) = (net.clone(), registry.clone(), core.clone(), why.clone());
        async move {
            // A broken stream ends the session; the leader sees it by itself.
            let frame = frames.next().await?.ok()?;
            match net.fate(FrameKind::Append) {
                Fate::Deliver => {}
                Fate::Late(by) => time::sleep(by).await,
                Fate::Twice(after) => {
                    drop(tokio::spawn(append_again(registry.clone(), core.clone(), frame.clone(), after)));
                }
            }
            match read(&registry, &core, frame).await {
                Ok(request) => Some((request, frames)),
                Err(refusal) => {
                    why.lock().replace(refusal);
                    None
                }
            }
        }
    })
}

/// Appends once more, beside the session, as if the frame had been sent again on another connection.
/// Nobody hears this answer.
async fn append_again(registry: Arc<Registry>, core: Arc<Core>, frame: wire::AppendFrame, after: Duration) {
    time::sleep(after).await;
    if let Ok(request) = read(&registry, &core, frame).await {
        drop(core.raft.append_entries(request).await);
    }
}

async fn read(registry: &Registry, core: &Arc<Core>, frame: wire::AppendFrame) -> Result<AppendRequest, Refusal> {
    let admitted = registry.admit(frame.envelope.as_ref())?;
    if !Arc::ptr_eq(&admitted, core) {
        return Err(Refusal::new(Code::WrongReplica, "a session stays with one group"));
    }
    let request = frame.request.ok_or_else(|| not_read(codec::malformed("append frame", "no request")))?;
    let request = codec::append_from_wire(request).map_err(not_read)?;
    // Held here, where only this group's session waits, when the log's disk is behind.
    core.log.admission().await.map_err(stopped)?;
    let bytes = request.entries.iter().map(codec::command_bytes).sum();
    if !request.entries.is_empty() && !has_room(&core.log, bytes) {
        // The leader asks again later; its heartbeats are still answered.
        return Err(Refusal::new(Code::Unspecified, "the disk of this node is full"));
    }
    Ok(request)
}
