//! The members of the metadata group: every node follows it, some vote, and who left is let go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::env::chance;
use crate::env::time::{self, Instant};
use crate::meta;
use crate::proto::internal::meta_command::{AddNode, ForgetNode, Kind, RemoveNode, UpdateNode};
use crate::proto::internal::{JoinRequest, JoinResponse, MetaCommand, join_response};
use crate::proto::v1;
use crate::raft::{Group, Host, Member, Members, Role};
use crate::types::map::{Node, ShardMap, Standing};
use crate::types::{NodeId, ReplicaId};

use super::founding::COMMAND_TIMEOUT;
use super::origin::Origin;
use super::router::Router;
use super::{Failure, change};

/// Pause between two rounds while something is to do.
const PAUSE: Duration = Duration::from_millis(300);
/// Longest pause between two introductions of a node without a vote.
const ASK: Duration = Duration::from_secs(5);
/// Entries that a replica may lack and still be given a vote: it has them within a moment.
pub(super) const NEARLY: u64 = 1_000;

/// As leader of the metadata group: founds the cluster if nobody has, brings every node into the group
/// as learner at least, so that each holds the map, gives votes, and forgets who has left. Runs until
/// the group stops.
pub(super) async fn lead(origin: Arc<Origin>, group: Group, router: Arc<Router>) {
    let mut status = group.watch();
    let mut map = router.watch_map();
    loop {
        let leads = match status.borrow_and_update().role {
            Role::Leader => true,
            Role::Stopped => return,
            Role::Follower | Role::Candidate | Role::Learner => false,
        };
        let mut settled = true;
        if leads {
            let current = map.borrow_and_update().clone();
            settled = lead_once(&origin, &group, &router, &current).await.unwrap_or_else(|reason| {
                tracing::debug!(reason, "the metadata group is not settled yet");
                false
            });
        }
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return },
            changed = map.changed(), if leads => if changed.is_err() { return },
            () = time::sleep(PAUSE), if !settled => {}
        }
    }
}

/// One step. Returns whether nothing is left to do.
async fn lead_once(origin: &Origin, group: &Group, router: &Router, map: &ShardMap) -> Result<bool, String> {
    let deadline = time::now() + COMMAND_TIMEOUT;
    if map.cluster_id.is_none() {
        let Some(founders) = &origin.founders else { return Ok(false) };
        router.change_meta(founders.bootstrap(), deadline).await.map_err(|failure| failure.to_string())?;
        return Ok(false);
    }
    let Some(members) = group.members() else { return Ok(false) };
    let expected = map.nodes.values().filter(|node| node.standing != Standing::Awaited);
    for node in expected.map(|node| node.id) {
        // Its replicas have their nodes' numbers.
        if !members.replicas.contains_key(&ReplicaId(node.0)) {
            group.add_learner(ReplicaId(node.0), node, deadline).await.map_err(|error| error.to_string())?;
            return Ok(false);
        }
    }
    let voters: BTreeSet<_> = members.voters().into_iter().map(|replica| NodeId(replica.0)).collect();
    if let Some(id) = meta::ready_to_forget(map, &voters).first() {
        let forget = Kind::ForgetNode(ForgetNode { node_id: id.0 });
        let command = MetaCommand { kind: Some(forget) };
        router.change_meta(command, deadline).await.map_err(|failure| failure.to_string())?;
        return Ok(false);
    }
    for (replica, member) in &members.replicas {
        if !member.voter && map.has_left(member.node) {
            group.remove_learner(*replica, deadline).await.map_err(|error| error.to_string())?;
            return Ok(false);
        }
    }
    vote(group, map, &members, &voters, deadline).await
}

/// Moves votes: to more nodes, and away from those that leave.
async fn vote(
    group: &Group,
    map: &ShardMap,
    members: &Members,
    voters: &BTreeSet<NodeId>,
    deadline: Instant,
) -> Result<bool, String> {
    let last = members.replicas.get(&group.replica()).and_then(|own| own.matched).unwrap_or(0);
    let is_ready = |member: &&Member| member.answers && member.matched.is_some_and(|at| at + NEARLY > last);
    let ready = members.replicas.values().filter(is_ready).map(|member| member.node).collect();
    let wanted = meta::meta_voters(map, voters, &ready);
    if wanted == *voters && !members.is_joint {
        // A vote that cannot move yet is tried again.
        let stays = |node: &NodeId| map.nodes.get(node).is_some_and(|node| node.standing == Standing::Member);
        return Ok(voters.iter().all(stays) && map.nodes.values().all(|node| node.standing != Standing::Leaving));
    }
    if !has_majority(members, wanted.iter().map(|node| ReplicaId(node.0))) {
        return Err("the voters to be would have no majority that answers".to_owned());
    }
    let own = NodeId(group.replica().0);
    if !wanted.contains(&own)
        && let Some(heir) = group.heirs().into_iter().find(|heir| wanted.contains(&NodeId(heir.0)))
    {
        // Who leaves does not lead the change by which it leaves.
        group.transfer_leader(heir, deadline).await.map_err(|error| error.to_string())?;
        return Ok(false);
    }
    tracing::info!(?wanted, "voters of the metadata group change");
    let wanted = wanted.into_iter().map(|node| ReplicaId(node.0)).collect();
    group.demote_others(wanted, deadline).await.map_err(|error| error.to_string())?;
    Ok(false)
}

/// Whether a majority of these replicas was heard of lately.
pub(super) fn has_majority(members: &Members, voters: impl Iterator<Item = ReplicaId>) -> bool {
    let voters: Vec<_> = voters.collect();
    let answers = |replica: &&ReplicaId| members.replicas.get(replica).is_some_and(|member| member.answers);
    voters.iter().filter(answers).count() * 2 > voters.len()
}

/// A node without a vote hears nothing more when the cluster has let it go, and would serve an old map for
/// ever. So it introduces itself to another one now and then: whoever has left is told so, and ends.
pub(super) async fn stay_known(host: Host, group: Group, router: Arc<Router>) {
    loop {
        time::sleep(ASK / 2 + chance::jitter(ASK / 2)).await;
        let status = group.status();
        if status.role == Role::Stopped {
            return;
        }
        if status.role == Role::Learner {
            let map = router.map();
            let others: Vec<_> = map.nodes.values().filter(|node| node.id.0 != group.replica().0).collect();
            if let Some(node) = chance::pick(&others)
                && let Err(error) = host.hello(&node.peer_address, ASK).await
            {
                tracing::debug!(node = %node.id, %error, "an introduction was not answered");
            }
        }
    }
}

/// Takes in a node that asks for it on the peer port.
pub(super) async fn join(router: &Router, request: JoinRequest, deadline: Instant) -> JoinResponse {
    let kind = match join_now(router, request, deadline).await {
        Ok(joined) => join_response::Kind::Joined(joined),
        Err(failure) => join_response::Kind::Refusal(failure.into()),
    };
    JoinResponse { kind: Some(kind) }
}

async fn join_now(router: &Router, request: JoinRequest, deadline: Instant) -> Result<join_response::Joined, Failure> {
    let JoinRequest { node, token, replace, .. } = request;
    if token == 0 {
        let message = "a node that joins names a token of its own";
        return Err(Failure::refused(v1::ErrorCode::InvalidArgument, message));
    }
    let add = Kind::AddNode(AddNode { node, token, replace });
    let changed = change::metadata(router, add, deadline).await?;
    let cluster_id = router.map().cluster_id.map(|id| id.0.to_vec().into()).unwrap_or_default();
    Ok(join_response::Joined { cluster_id, node_id: changed.id })
}

/// Announces a node.
pub(super) async fn add(
    router: &Router,
    request: v1::AddMemberRequest,
    deadline: Instant,
) -> Result<v1::AddMemberResponse, Failure> {
    let node = v1::Node { name: request.name, peer_address: request.peer_address, ..Default::default() };
    let add = Kind::AddNode(AddNode { node: Some(node), token: 0, replace: String::new() });
    let changed = change::metadata(router, add, deadline).await?;
    let member = router.map().nodes.get(&NodeId(changed.id)).map(Into::into);
    Ok(v1::AddMemberResponse { member })
}

/// Changes where the others look for a node, until it says itself where it is.
pub(super) async fn relocate(
    router: &Router,
    node: NodeId,
    peer_address: String,
    deadline: Instant,
) -> Result<(), Failure> {
    let map = router.map();
    let Some(current) = map.nodes.get(&node) else {
        let message = format!("node {} is not a member of this cluster", node.0);
        return Err(Failure::refused(v1::ErrorCode::NodeNotFound, message));
    };
    let has_it = |other: &&Node| other.peer_address == peer_address || other.client_address == peer_address;
    if let Some(other) = map.nodes.values().filter(|other| other.id != node).find(has_it) {
        let message = format!("the address {peer_address} is that of node {}", other.id.0);
        return Err(Failure::refused(v1::ErrorCode::AlreadyExists, message));
    }
    let node = v1::Node { peer_address, ..current.into() };
    change::metadata(router, Kind::UpdateNode(UpdateNode { node: Some(node) }), deadline).await?;
    Ok(())
}

/// Begins to take a node out.
pub(super) async fn remove(
    router: &Router,
    request: v1::RemoveMemberRequest,
    deadline: Instant,
) -> Result<v1::RemoveMemberResponse, Failure> {
    let remove = Kind::RemoveNode(RemoveNode { node_id: request.node_id });
    change::metadata(router, remove, deadline).await?;
    Ok(v1::RemoveMemberResponse {})
}
