//! Keeps leaderships where the map wants them: each shard says which replica is to lead when all are
//! well, and whoever leads instead hands over to it. So leaders stay evenly spread after failures, and
//! leave nodes that leave.

use std::sync::Arc;
use std::time::Duration;

use crate::env::{chance, time};
use crate::raft::{Group, Role};
use crate::types::map::{ShardMap, Standing};
use crate::types::{GroupId, NodeId, ReplicaId};

use super::router::Router;

/// Pause between two looks; half of it is left to chance, so that nodes do not all move at once.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a replica may take to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Hands over what this node should not lead. Runs until the node stops.
pub(super) async fn keep(node: NodeId, router: Arc<Router>) {
    loop {
        time::sleep(PAUSE / 2 + chance::jitter(PAUSE / 2)).await;
        let map = router.map();
        for (id, group) in router.groups() {
            if let Some(heir) = heir(node, &map, id, &group) {
                match group.transfer_leader(heir, time::now() + HANDOVER_TIMEOUT).await {
                    Ok(_) => tracing::info!(shard = id.0, to = heir.0, "leadership handed to the preferred replica"),
                    Err(error) => tracing::debug!(shard = id.0, %error, "the preferred replica did not take over"),
                }
            }
        }
    }
}

/// The replica that should lead instead of this node's.
fn heir(node: NodeId, map: &ShardMap, id: GroupId, group: &Group) -> Option<ReplicaId> {
    if group.status().role != Role::Leader || map.operation_on(id).is_some() {
        return None;
    }
    let stays = |node: &NodeId| map.nodes.get(node).is_some_and(|node| node.standing == Standing::Member);
    let shard = map.shards.get(&id)?;
    let preferred = shard.replicas.iter().find(|replica| replica.voter && stays(&replica.node))?;
    (preferred.node != node && group.heirs().contains(&preferred.id)).then_some(preferred.id)
}
