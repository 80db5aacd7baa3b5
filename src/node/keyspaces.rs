//! Keyspaces: asked for by clients, and taken apart by whoever leads the metadata group.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use crate::env::time::{self, Instant};
use crate::meta;
use crate::proto::internal::meta_command::{DropKeyspace, ForgetShards, Kind, UpdateKeyspace};
use crate::proto::internal::{Fence, MetaCommand, ShardCommand, ShardRequest, shard_command, shard_request};
use crate::proto::v1::{self, ErrorCode, Outcome};
use crate::raft::{Group, Role};
use crate::shard::fence::RETIRED;
use crate::types::map::{Keyspace, ShardMap};
use crate::types::{Epoch, GroupId};

use super::router::Router;
use super::{Failure, change};

/// Shards that are fenced at a time.
const FENCES_AT_ONCE: usize = 16;
/// How long a shard may take to be fenced before it is asked again.
const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a round in which some shards were not fenced.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes a keyspace; returns it once this node's map shows it.
pub(super) async fn create(
    router: &Router,
    request: v1::CreateKeyspaceRequest,
    deadline: Instant,
) -> Result<v1::CreateKeyspaceResponse, Failure> {
    let name = request.name.clone();
    change::metadata(router, Kind::CreateKeyspace(meta::place(&router.map(), request)), deadline).await?;
    let map = router.map();
    let Some(keyspace) = map.keyspace(&name) else {
        let mut failure =
            Failure::refused(ErrorCode::KeyspaceNotFound, format!("keyspace `{name}` was made, and dropped at once"));
        failure.detail.set_outcome(Outcome::Applied);
        return Err(failure);
    };
    let shards = u32::try_from(map.shards_of(keyspace.id).count()).unwrap_or(u32::MAX);
    Ok(v1::CreateKeyspaceResponse { keyspace: Some(keyspace.into()), shards })
}

/// Changes what a keyspace keeps of its history.
pub(super) async fn update(
    router: &Router,
    request: v1::UpdateKeyspaceRequest,
    deadline: Instant,
) -> Result<v1::UpdateKeyspaceResponse, Failure> {
    let name = request.name.clone();
    change::metadata(router, Kind::UpdateKeyspace(UpdateKeyspace { keyspace: Some(request) }), deadline).await?;
    Ok(v1::UpdateKeyspaceResponse { keyspace: router.map().keyspace(&name).map(Into::into) })
}

/// Takes a keyspace away. Returns when all its shards are fenced and gone: before that, a node whose map
/// is old may still serve one.
pub(super) async fn drop(
    router: &Router,
    request: v1::DropKeyspaceRequest,
    deadline: Instant,
) -> Result<v1::DropKeyspaceResponse, Failure> {
    let v1::DropKeyspaceRequest { name, keyspace_id } = request;
    let drop = DropKeyspace { name: name.clone(), keyspace_id };
    change::metadata(router, Kind::DropKeyspace(drop), deadline).await?;
    let is_meant = |keyspace: &&Keyspace| keyspace.name == name && keyspace.dropping;
    let dropping = router.map().keyspaces.values().find(is_meant).map(|keyspace| keyspace.id);
    let mut map = router.watch_map();
    let gone = map.wait_for(|map| dropping.is_none_or(|id| !map.keyspaces.contains_key(&id)));
    if time::timeout_at(deadline, gone).await.is_err() {
        let message = format!(
            "keyspace `{name}` is being dropped, but not all of its shards have confirmed it yet: this goes on by \
             itself; `kvctl keyspace list` shows when it is gone"
        );
        let mut failure = Failure::refused(ErrorCode::Timeout, message);
        failure.detail.set_outcome(Outcome::Applied);
        return Err(failure);
    }
    Ok(v1::DropKeyspaceResponse {})
}

/// As leader of the metadata group: takes the shards of dropped keyspaces apart. Runs until the group
/// stops; a new leader goes on where the one before it ended, since the map says what is left.
pub(super) async fn take_apart(group: Group, router: Arc<Router>) {
    let mut status = group.watch();
    let mut map = router.watch_map();
    loop {
        let leads = match status.borrow_and_update().role {
            Role::Leader => true,
            Role::Stopped => return,
            Role::Follower | Role::Candidate | Role::Learner => false,
        };
        let current = map.borrow_and_update().clone();
        if leads
            && current.keyspaces.values().any(|keyspace| keyspace.dropping)
            && let Err(failure) = take_apart_once(&router, &current).await
        {
            tracing::debug!(%failure, "dropped shards are not all taken apart yet");
            time::sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return },
            changed = map.changed(), if leads => if changed.is_err() { return },
        }
    }
}

async fn take_apart_once(router: &Router, map: &ShardMap) -> Result<(), Failure> {
    let dropping = map.keyspaces.values().filter(|keyspace| keyspace.dropping);
    let shards = dropping.flat_map(|keyspace| map.shards_of(keyspace.id)).map(|shard| (shard.id, shard.epoch));
    let shards: Vec<_> = shards.collect();
    let fencing = shards.into_iter().map(|(id, epoch)| async move { (id, fence(router, id, epoch).await) });
    let fenced: Vec<_> = stream::iter(fencing).buffer_unordered(FENCES_AT_ONCE).collect().await;
    let mut shard_ids = Vec::new();
    let mut failed = None;
    for (id, result) in fenced {
        match result {
            Ok(()) => shard_ids.push(id.0),
            Err(failure) => failed = Some(failure),
        }
    }
    shard_ids.sort_unstable();
    let forget = Kind::ForgetShards(ForgetShards { shard_ids });
    router.change_meta(MetaCommand { kind: Some(forget) }, time::now() + FENCE_TIMEOUT).await?;
    failed.map_or(Ok(()), Err)
}

/// Sees to it that a shard acknowledges nothing any more.
async fn fence(router: &Router, id: GroupId, epoch: Epoch) -> Result<(), Failure> {
    let kind = Some(shard_command::Kind::Fence(Fence { epoch: RETIRED }));
    let command = ShardCommand { kind, session: None, epoch: epoch.0 };
    let kind = Some(shard_request::Kind::Command(command));
    let request = ShardRequest { shard_id: id.0, shard_epoch: epoch.0, kind };
    router.execute(request, time::now() + FENCE_TIMEOUT).await.map(|_| ())
}
