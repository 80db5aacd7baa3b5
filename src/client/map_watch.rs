//! Follows the shard map in the background, from whichever node answers.

use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::budget::backoff_ceiling;
use super::core::Core;
use super::limits::{WATCH_BACKOFF_BASE, WATCH_BACKOFF_MAX, WATCH_STABLE};
use crate::env::{chance, time};
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::{MapResponse, WatchMapRequest};
use crate::types::limits::RESPONSE_BYTES_MAX;

/// Runs until the client is gone. It holds the client only while it works, never while it waits.
pub(crate) async fn follow_map(core: Weak<Core>, stop: CancellationToken) {
    let mut round = 0_u32;
    loop {
        let began = time::now();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = follow_once(&core, round) => {}
        }
        round = if time::now().saturating_duration_since(began) >= WATCH_STABLE { 0 } else { round.saturating_add(1) };
        let ceiling = backoff_ceiling(WATCH_BACKOFF_BASE, round).min(WATCH_BACKOFF_MAX);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = time::sleep(Duration::from_millis(1) + chance::jitter(ceiling)) => {}
        }
    }
}

/// Opens one stream and installs what it brings until it ends. Failures are the normal course:
/// calls that need the map fetch it themselves and report what is wrong.
async fn follow_once(core: &Weak<Core>, round: u32) {
    let Some(mut stream) = open(core, round).await else { return };
    while let Ok(Some(map)) = stream.message().await {
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core.routes.lock().install(&map) {
            tracing::warn!(%error, "ignoring a shard map");
            return;
        }
    }
}

async fn open(core: &Weak<Core>, round: u32) -> Option<Streaming<MapResponse>> {
    let core = core.upgrade()?;
    let candidates = core.routes.lock().candidates(None, &core.config.endpoints);
    let at = usize::try_from(round).ok()?.checked_rem(candidates.len())?;
    let peer = core.peers.get(candidates.get(at)?);
    peer.admit().ok()?;
    let deadline = time::now() + core.config.attempt_timeout;
    let connection = match peer.connect(deadline).await {
        Ok(connection) => connection,
        Err(error) => {
            peer.failed();
            tracing::debug!(%error, "cannot watch the shard map");
            return None;
        }
    };
    let mut client = ClusterClient::new(connection.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
    match time::timeout_at(deadline, client.watch_map(WatchMapRequest {})).await {
        Ok(Ok(stream)) => Some(stream.into_inner()),
        Ok(Err(status)) => {
            if super::peers::sent(&status) != super::peers::Sent::Answered {
                connection.discard();
            }
            None
        }
        Err(_) => None,
    }
}
