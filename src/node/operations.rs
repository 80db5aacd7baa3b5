//! Operations on shards, carried out by whoever leads the metadata group: decided by the planner or an
//! operator, on record from the first step to the last, and each step such that it may be done twice.
//!
//! A replica moves so: it is on the map as a learner, its group takes it in, it catches up; then one
//! joint change gives it a vote and takes the other's away; then the map says so. Nothing votes less
//! on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::env::time::{self, Instant};
use crate::meta;
use crate::proto::internal::change_membership::{Change, Learner, Voters};
use crate::proto::internal::meta_command::{CancelOperation, FinishOperation, Kind, StartOperation};
use crate::proto::internal::{ChangeMembership, MetaCommand, ReplicasState};
use crate::proto::v1::{self, ErrorCode};
use crate::raft::{Group, Role};
use crate::types::map::{Operation, ShardMap, Standing};
use crate::types::{GroupId, NodeId, OperationId, ReplicaId};

use super::members::NEARLY;
use super::router::Router;
use super::{Failure, change};

/// How long one step may take before it is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shard may take to say that it has a leader, before an operation begins on it,
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// and how long it is left alone when it did not.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// Pause between two steps.
const PAUSE: Duration = Duration::from_millis(300);

/// How far the running operations are, as the leader of the metadata group knows it.
#[derive(Default)]
pub(super) struct Board {
    notes: Mutex<BTreeMap<OperationId, Note>>,
}

#[derive(Clone, Default)]
struct Note {
    state: String,
    matched: u64,
    last: u64,
}

impl Board {
    fn note(&self, id: OperationId, note: Note) {
        let mut notes = self.notes.lock();
        if notes.get(&id).is_none_or(|before| before.state != note.state) {
            tracing::info!(operation = id.0, state = note.state, "operation");
        }
        notes.insert(id, note);
    }

    fn keep(&self, running: &BTreeMap<OperationId, Operation>) {
        self.notes.lock().retain(|id, _| running.contains_key(id));
    }

    /// The operations of `map`, with what is known of them.
    pub(super) fn list(&self, map: &ShardMap) -> v1::OperationsResponse {
        let notes = self.notes.lock();
        let describe = |operation: &Operation| {
            let shard = map.shards.get(&operation.shard);
            let home = |replica: Option<ReplicaId>| {
                let found = shard?.replicas.iter().find(|found| Some(found.id) == replica);
                found.map(|found| found.node.0)
            };
            let keyspace = shard.and_then(|shard| map.keyspaces.get(&shard.keyspace));
            let note = notes.get(&operation.id).cloned().unwrap_or_default();
            v1::ShardOperation {
                id: operation.id.0,
                shard_id: operation.shard.0,
                keyspace: keyspace.map(|keyspace| keyspace.name.clone()).unwrap_or_default(),
                add_node_id: home(operation.add).unwrap_or(0),
                remove_node_id: home(operation.remove).unwrap_or(0),
                cancelled: operation.cancelled,
                reason: operation.reason.clone(),
                state: note.state,
                matched_index: note.matched,
                last_index: note.last,
            }
        };
        v1::OperationsResponse { operations: map.operations.values().map(describe).collect() }
    }
}

/// As leader of the metadata group: begins what the planner wants, and carries on with everything that
/// runs. Runs until the group stops; a new leader goes on with what the map says.
pub(super) async fn lead(group: Group, router: Arc<Router>) {
    let mut status = group.watch();
    let mut map = router.watch_map();
    let mut driven = Driven::default();
    loop {
        let leads = match status.borrow_and_update().role {
            Role::Leader => true,
            Role::Stopped => return,
            Role::Follower | Role::Candidate | Role::Learner => false,
        };
        let current = map.borrow_and_update().clone();
        let mut idle = true;
        if leads {
            idle = driven.begin(&group, &router, &current).await;
            driven.carry_on(&router, &current);
        } else {
            driven = Driven::default();
        }
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return },
            changed = map.changed() => if changed.is_err() { return },
            () = time::sleep(PAUSE), if !idle => {}
        }
    }
}

/// What this leader has in hand.
#[derive(Default)]
struct Driven {
    /// A task for each operation: none waits for another. They end with this.
    tasks: JoinSet<()>,
    operations: BTreeSet<OperationId>,
    /// Shards on which nothing could begin, and until when they are left alone.
    unreachable: BTreeMap<GroupId, Instant>,
}

impl Driven {
    /// Begins what the planner wants. Returns whether it wants nothing.
    async fn begin(&mut self, group: &Group, router: &Router, map: &ShardMap) -> bool {
        let now = time::now();
        self.unreachable.retain(|_, until| *until > now);
        let Some(members) = group.members() else { return false };
        // Every node follows this group, so it knows who answers.
        let ready = members.replicas.values().filter(|member| member.answers).map(|member| member.node).collect();
        let wanted = meta::next_operations(map, &self.unreachable.keys().copied().collect(), &ready);
        // Nodes that do not answer now may later, and nobody says so.
        let all = map.nodes.keys().copied().collect();
        let idle = wanted.is_empty() && meta::next_operations(map, &BTreeSet::new(), &all).is_empty();
        let begin = wanted.into_iter().map(|wanted| async move {
            let shard = GroupId(wanted.shard_id);
            (shard, begin(router, wanted, now + BEGIN_TIMEOUT).await)
        });
        for (shard, result) in future::join_all(begin).await {
            if let Err(failure) = result {
                tracing::debug!(shard = shard.0, %failure, "an operation cannot begin yet");
                self.unreachable.insert(shard, time::now() + LEFT_ALONE);
            }
        }
        idle
    }

    /// Sees to it that every running operation is worked on.
    fn carry_on(&mut self, router: &Arc<Router>, map: &ShardMap) {
        router.board().keep(&map.operations);
        self.operations.retain(|id| map.operations.contains_key(id));
        while self.tasks.try_join_next().is_some() {}
        for id in map.operations.keys() {
            if self.operations.insert(*id) {
                self.tasks.spawn(drive(router.clone(), *id));
            }
        }
    }
}

/// Takes one step of an operation after the other, until the map has it no more.
async fn drive(router: Arc<Router>, id: OperationId) {
    loop {
        let map = router.map();
        let Some(operation) = map.operations.get(&id) else { return };
        let shard = map.shards.get(&operation.shard);
        let keyspace = shard.and_then(|shard| map.keyspaces.get(&shard.keyspace));
        // What is being dropped ends with its shard.
        if keyspace.is_some_and(|keyspace| !keyspace.dropping) {
            let mut note = Note::default();
            let state = step(&router, &map, operation, &mut note).await;
            note.state = state.unwrap_or_else(|failure| format!("waits: {failure}"));
            router.board().note(id, note);
        }
        time::sleep(PAUSE).await;
    }
}

/// Begins an operation on a shard that has a leader: without one its voters could not be changed, and
/// a shard that has not begun must not see its first replicas change.
async fn begin(router: &Router, wanted: StartOperation, deadline: Instant) -> Result<u64, Failure> {
    let shard = GroupId(wanted.shard_id);
    if router.map().shards.contains_key(&shard) {
        router.replicas(shard, deadline).await?;
    }
    Ok(change::metadata(router, Kind::StartOperation(wanted), deadline).await?.id)
}

/// Whether the node that is to get a replica is on its way out: it may never be heard of again.
fn adds_to_one_that_leaves(map: &ShardMap, operation: &Operation) -> bool {
    let replicas = map.shards.get(&operation.shard).map(|shard| &shard.replicas);
    let added = replicas.into_iter().flatten().find(|replica| Some(replica.id) == operation.add);
    let node = added.and_then(|replica| map.nodes.get(&replica.node));
    node.is_some_and(|node| node.standing == Standing::Leaving)
}

/// The next step of an operation. Returns what it does now.
async fn step(router: &Router, map: &ShardMap, operation: &Operation, note: &mut Note) -> Result<String, Failure> {
    let deadline = time::now() + STEP_TIMEOUT;
    let group = Changing { router, shard: operation.shard, deadline };
    let state = router.replicas(operation.shard, deadline).await?;
    let voters: BTreeSet<u64> = voters(&state);
    let add = operation.add.map(|replica| replica.0);
    let votes = add.is_some_and(|replica| voters.contains(&replica));
    // What has lost its vote is not given it back: such an operation is carried on.
    let has_begun = votes || state.is_joint || operation.remove.is_some_and(|replica| !voters.contains(&replica.0));
    if (operation.cancelled || adds_to_one_that_leaves(map, operation)) && !has_begun {
        if let Some(learner) = add.filter(|add| state.replicas.iter().any(|replica| replica.id == *add)) {
            group.change(&voters, Change::RemoveLearner(learner)).await?;
        }
        finish(router, operation.id, true, deadline).await?;
        return Ok("undone".to_owned());
    }
    if let Some(add) = add.filter(|_| !votes) {
        let Some(learner) = state.replicas.iter().find(|replica| replica.id == add) else {
            let home = home(map, operation.shard, ReplicaId(add));
            let learner = Learner { replica_id: add, node_id: home.map_or(0, |node| node.0) };
            group.change(&voters, Change::AddLearner(learner)).await?;
            return Ok("the new replica begins to catch up".to_owned());
        };
        (note.matched, note.last) = (learner.matched_index, state.last_index);
        if !learner.answers || learner.matched_index == 0 || learner.matched_index + NEARLY < state.last_index {
            return Ok("the new replica catches up".to_owned());
        }
    }
    let remove = operation.remove.map(|replica| replica.0);
    let wanted: BTreeSet<u64> = voters.iter().copied().chain(add).filter(|replica| Some(*replica) != remove).collect();
    if wanted != voters || state.is_joint {
        if let Some(heir) = heir(&state, remove) {
            // Who goes does not lead the change by which it goes.
            router.transfer_leader(operation.shard, heir, deadline).await?;
            return Ok("the leader moves off the replica that goes".to_owned());
        }
        // Where nobody else votes, the new replica does before the old one goes, so that it can lead then.
        let leads = remove == Some(state.leader_replica_id);
        let both = add.filter(|_| leads && !votes);
        let wanted = both.map_or(wanted, |add| voters.iter().copied().chain([add]).collect());
        let replica_ids = wanted.into_iter().collect();
        group.change(&voters, Change::SetVoters(Voters { replica_ids })).await?;
        return Ok("the votes change".to_owned());
    }
    finish(router, operation.id, false, deadline).await?;
    Ok("done".to_owned())
}

fn voters(state: &ReplicasState) -> BTreeSet<u64> {
    state.replicas.iter().filter(|replica| replica.voter).map(|replica| replica.id).collect()
}

/// Where the leadership should go if the replica that goes has it.
fn heir(state: &ReplicasState, remove: Option<u64>) -> Option<NodeId> {
    let leads = remove == Some(state.leader_replica_id);
    let heir = |replica: &&crate::proto::internal::replicas_state::Replica| {
        replica.voter && replica.answers && Some(replica.id) != remove
    };
    state.replicas.iter().filter(|_| leads).find(heir).map(|replica| NodeId(replica.node_id))
}

fn home(map: &ShardMap, shard: GroupId, replica: ReplicaId) -> Option<NodeId> {
    let shard = map.shards.get(&shard)?;
    shard.replicas.iter().find(|found| found.id == replica).map(|found| found.node)
}

async fn finish(router: &Router, id: OperationId, undone: bool, deadline: Instant) -> Result<(), Failure> {
    let finish = Kind::FinishOperation(FinishOperation { operation_id: id.0, undone });
    router.change_meta(MetaCommand { kind: Some(finish) }, deadline).await.map(|_| ())
}

/// A group whose members change.
struct Changing<'r> {
    router: &'r Router,
    shard: GroupId,
    deadline: Instant,
}

impl Changing<'_> {
    async fn change(&self, voters: &BTreeSet<u64>, change: Change) -> Result<(), Failure> {
        let request = ChangeMembership { expected_voters: voters.iter().copied().collect(), change: Some(change) };
        self.router.change_membership(self.shard, request, self.deadline).await
    }
}

/// Begins what an operator asks for.
pub(super) async fn change_replicas(
    router: &Router,
    request: v1::ChangeReplicasRequest,
    deadline: Instant,
) -> Result<v1::ChangeReplicasResponse, Failure> {
    if request.shard_id == GroupId::META.0 {
        let message =
            "shard 1 is the metadata group, whose replicas follow the members by themselves: every node has one";
        return Err(Failure::refused(ErrorCode::InvalidArgument, message));
    }
    let map = router.map();
    let mut remove_replica_id = 0;
    if request.remove_node_id > 0 {
        let shard = map.shards.get(&GroupId(request.shard_id));
        let replica = shard.and_then(|shard| shard.replica_on(NodeId(request.remove_node_id)));
        remove_replica_id = replica.map(|replica| replica.id.0).ok_or_else(|| {
            let message = format!("node {} has no replica of shard {}", request.remove_node_id, request.shard_id);
            Failure::refused(ErrorCode::NodeNotFound, message)
        })?;
    }
    let wanted = StartOperation {
        shard_id: request.shard_id,
        add_node_id: request.add_node_id,
        remove_replica_id,
        reason: "asked for by an operator".to_owned(),
    };
    Ok(v1::ChangeReplicasResponse { operation_id: begin(router, wanted, deadline).await? })
}

/// Has an operation undone.
pub(super) async fn cancel(
    router: &Router,
    request: v1::CancelOperationRequest,
    deadline: Instant,
) -> Result<v1::CancelOperationResponse, Failure> {
    let cancel = Kind::CancelOperation(CancelOperation { operation_id: request.operation_id });
    change::metadata(router, cancel, deadline).await?;
    Ok(v1::CancelOperationResponse {})
}

#[cfg(test)]
mod tests {
    use crate::types::map::{Node, Replica, Shard};
    use crate::types::{Epoch, KeyspaceId, Span};

    use super::*;

    #[test]
    fn a_replica_on_its_way_to_a_node_that_leaves_is_noticed() {
        let of = |standing, add: Option<u64>| {
            let node = Node {
                id: NodeId(5),
                name: "n5".into(),
                peer_address: String::new(),
                client_address: String::new(),
                labels: BTreeMap::new(),
                standing,
            };
            let replica = Replica { id: ReplicaId(11), node: NodeId(5), voter: false, founding: false };
            let shard = Shard {
                id: GroupId(2),
                keyspace: KeyspaceId(1),
                span: Span::all(),
                epoch: Epoch(1),
                replicas: vec![replica],
            };
            let map =
                ShardMap { nodes: [(node.id, node)].into(), shards: [(shard.id, shard)].into(), ..ShardMap::default() };
            let add = add.map(ReplicaId);
            let (id, reason) = (OperationId(1), String::new());
            let operation = Operation { id, shard: GroupId(2), add, remove: None, cancelled: false, reason };
            adds_to_one_that_leaves(&map, &operation)
        };
        assert!(of(Standing::Leaving, Some(11)));
        assert!(!of(Standing::Member, Some(11)));
        assert!(!of(Standing::Leaving, None), "nothing comes there");
        assert!(!of(Standing::Leaving, Some(12)), "another replica");
    }
}
