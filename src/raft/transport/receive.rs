//! Receiving a snapshot: into a staging store, verified to the end, then handed to openraft whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::Snapshot;
use tonic::{Status, Streaming};

use super::server::{not_read, stopped};
use super::{SNAPSHOT_CHUNK_TIMEOUT, describe};
use crate::env::net::Network;
use crate::env::time;
use crate::env::work::Worker;
use crate::proto::internal as wire;
use crate::proto::internal::peer_error::Code;
use crate::proto::internal::snapshot_frame::Kind;
use crate::raft::codec;
use crate::raft::group::Core;
use crate::raft::machine::check_snapshot;
use crate::raft::observe::Observer;
use crate::raft::peers::Refusal;
use crate::raft::registry::Registry;
use crate::raft::snapshot::{SnapshotData, Staged};
use crate::raft::transport::snapshot::SNAPSHOT_FORMAT;
use crate::raft::types::{SnapshotMeta, Vote};
use crate::storage::engine::Engine;
use crate::storage::engine::stream::Receiver;
use openraft::async_runtime::watch::WatchReceiver;

/// What receiving a snapshot needs.
pub(super) struct Receiving {
    pub(super) net: Arc<dyn Network>,
    pub(super) registry: Arc<Registry>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) writer: Worker,
}

impl Receiving {
    /// Takes a snapshot over and returns this replica's vote, which is higher than the sender's if it
    /// did not. Whatever goes wrong before the switch leaves the replica as it was.
    pub(super) async fn receive(&self, mut frames: Streaming<wire::SnapshotFrame>) -> Result<Vote, Refusal> {
        let Kind::Header(header) = self.next(&mut frames).await? else {
            return Err(not_read(codec::malformed("snapshot", "it does not begin with a header")));
        };
        let core = self.registry.admit(header.envelope.as_ref())?;
        if header.format != SNAPSHOT_FORMAT {
            let why = format_args!("format {} is not known, {SNAPSHOT_FORMAT} is", header.format);
            return Err(not_read(codec::malformed("snapshot", why)));
        }
        let (vote, meta) = codec::snapshot_from_wire(header.vote, header.last, header.membership).map_err(not_read)?;
        let known = core.raft.metrics().borrow_watched().vote;
        if known.leader_id.term > vote.leader_id.term {
            return Ok(known);
        }
        Observer { group: core.group, replica: core.replica }.receiving();
        let transfer = core.transfers.fetch_add(1, Ordering::Relaxed) + 1;
        let staged = self.stage(&core, transfer, &mut frames).await?;
        let staged = self.check(staged, &meta).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Staged(staged) };
        let response = core.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(response.vote)
    }

    async fn stage(
        &self,
        core: &Core,
        transfer: u64,
        frames: &mut Streaming<wire::SnapshotFrame>,
    ) -> Result<Staged, Refusal> {
        let engine = self.engine.clone();
        let mut receiver = self.run(move || Receiver::new(engine)).await?;
        loop {
            match self.next(frames).await? {
                Kind::Chunk(chunk) => {
                    receiver = self.run(move || receiver.chunk(chunk).map(|()| receiver)).await?;
                }
                Kind::Footer(footer) => {
                    let store = self.run(move || receiver.finish(&footer)).await?;
                    return Ok(Staged::new(self.engine.clone(), store));
                }
                Kind::Header(_) => return Err(not_read(codec::malformed("snapshot", "a second header"))),
            }
            if core.transfers.load(Ordering::Relaxed) != transfer {
                return Err(stopped("a newer transfer has begun"));
            }
        }
    }

    /// The content must be what the header announced: openraft believes the header.
    async fn check(&self, staged: Staged, meta: &SnapshotMeta) -> Result<Staged, Refusal> {
        let (engine, meta) = (self.engine.clone(), meta.clone());
        self.run(move || {
            if let Some(store) = staged.store() {
                check_snapshot(&*engine.view(store)?, &meta)?;
            }
            Ok::<_, crate::storage::engine::EngineError>(staged)
        })
        .await
    }

    async fn run<T, E>(&self, job: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Refusal>
    where
        T: Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        match self.writer.run(job).await {
            Ok(result) => result.map_err(|error| Refusal::new(Code::Malformed, error.to_string())),
            Err(gone) => Err(stopped(gone)),
        }
    }

    /// The next frame, in time.
    async fn next(&self, frames: &mut Streaming<wire::SnapshotFrame>) -> Result<Kind, Refusal> {
        let broken = |why: &str| Refusal::new(Code::Unspecified, why);
        if self.net.breaks_snapshot() {
            return Err(broken("the connection broke"));
        }
        let frame = time::timeout(SNAPSHOT_CHUNK_TIMEOUT, frames.message()).await;
        let frame: Result<_, Status> = frame.map_err(|_| broken("the next chunk did not come in time"))?;
        let frame: Option<wire::SnapshotFrame> = frame.map_err(|status| broken(&describe(&status)))?;
        let frame = frame.ok_or_else(|| broken("the snapshot ends before its footer"))?;
        frame.kind.ok_or_else(|| not_read(codec::malformed("snapshot frame", "empty")))
    }
}
