//! Takes a request to the leader of its group: here, or on another node.
//!
//! Retries only what certainly changed nothing, and only within the caller's deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use crate::env::chance;
use crate::env::net::BoxFuture;
use crate::env::time::{self, Instant};
use crate::proto::internal::{
    ChangeMembership, GroupRequest, GroupResponse, JoinRequest, JoinResponse, LeaderMoved, LeaseTime, LeaseTimed,
    MembershipChanged, MetaCommand, MetaResult, MoveLeader, Operations, ReadIndex, ReadIndexed, RenewLease, Replicas,
    ReplicasState, ShardRequest, ShardResponse, group_request, group_response, meta_command, meta_result,
};
use crate::proto::v1::{ErrorCode, MoveLeaderResponse, OperationsResponse};
use crate::raft::{ForwardError, Group, Host, PeerHandler};
use crate::types::map::ShardMap;
use crate::types::{GroupId, NodeId};

use super::execute::{self, Executor};
use super::leases::Leases;
use super::near::Near;
use super::operations::Board;
use super::{Failure, members, replicas};

/// First and longest pause between two tries to find a leader.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// How long a moved leadership waits to be remembered.
const PREFER_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest pause, so that a try never follows at once.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Finds leaders and brings requests to them.
pub(super) struct Router {
    node: NodeId,
    host: Host,
    map: watch::Receiver<Arc<ShardMap>>,
    executor: Executor,
    groups: Mutex<BTreeMap<GroupId, Group>>,
    /// What reads on replicas here that need no leader know of them.
    near: Mutex<BTreeMap<GroupId, Arc<Near>>>,
    /// The time of the leases of shards that run here.
    leases: Mutex<BTreeMap<GroupId, Arc<Leases>>>,
    /// Where a group's leader was last said to be, for groups without a replica here.
    hints: Mutex<BTreeMap<GroupId, NodeId>>,
    /// How far operations are, while this node leads the metadata group.
    board: Board,
}

/// A change of the map that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MetaDone {
    /// The map shows it from this version on.
    pub(super) version: u64,
    /// The id that it gave, if it gives one.
    pub(super) id: u64,
}

enum Place {
    Here(Group),
    There(NodeId),
    Nowhere,
}

impl Router {
    pub(super) fn new(node: NodeId, host: Host, map: watch::Receiver<Arc<ShardMap>>, executor: Executor) -> Self {
        Self {
            node,
            host,
            map,
            executor,
            groups: Mutex::default(),
            near: Mutex::default(),
            leases: Mutex::default(),
            hints: Mutex::default(),
            board: Board::default(),
        }
    }

    /// The map as this node holds it.
    pub(super) fn map(&self) -> Arc<ShardMap> {
        self.map.borrow().clone()
    }

    /// The map, now and after every change.
    pub(super) fn watch_map(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.map.clone()
    }

    /// Makes a group that runs here known.
    pub(super) fn add_group(self: &Arc<Self>, id: GroupId, group: Group) {
        self.near.lock().insert(id, Arc::new(Near::new(id, group.clone(), Arc::downgrade(self))));
        self.groups.lock().insert(id, group);
    }

    /// Makes a shard that runs here known.
    pub(super) fn add_shard(self: &Arc<Self>, group: Group, leases: Arc<Leases>) {
        let id = leases.id;
        self.leases.lock().insert(id, leases);
        self.add_group(id, group);
    }

    /// A group runs here no longer.
    pub(super) fn remove_group(&self, id: GroupId) {
        self.groups.lock().remove(&id);
        self.near.lock().remove(&id);
        self.leases.lock().remove(&id);
        self.hints.lock().remove(&id);
    }

    /// The groups that run here, by id.
    pub(super) fn groups(&self) -> BTreeMap<GroupId, Group> {
        self.groups.lock().clone()
    }

    /// Who leads a group without a replica here, as this node was last told; it may lead no longer. `None`
    /// when this node had no reason to ask.
    pub(super) fn hint(&self, id: GroupId) -> Option<NodeId> {
        self.hints.lock().get(&id).copied()
    }

    /// Executes a request on the leader of its shard.
    pub(super) async fn execute(&self, request: ShardRequest, deadline: Instant) -> Result<ShardResponse, Failure> {
        let id = GroupId(request.shard_id);
        let answer = self.lead(id, group_request::Kind::Shard(request), deadline).await?;
        let group_response::Kind::Shard(response) = answer else { return Err(unexpected()) };
        Ok(response)
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// The replica of a shard that runs here, for reads that need no leader.
    pub(super) fn near(&self, id: GroupId) -> Option<Arc<Near>> {
        self.near.lock().get(&id).cloned()
    }

    /// Executes a read on the replica that runs here, whose state was proved to show enough.
    pub(super) async fn execute_as_is(&self, group: &Group, request: &ShardRequest) -> Result<ShardResponse, Failure> {
        let map = self.map();
        let shard = map.shards.get(&GroupId(request.shard_id)).ok_or_else(|| no_shard(GroupId(request.shard_id)))?;
        self.executor.execute_as_is(group, shard, request).await
    }

    /// A read index of a group from its leader, as far as that is known: one try, because a later one
    /// would serve other reads than this.
    pub(super) async fn ask_read_index(&self, id: GroupId, deadline: Instant) -> Result<u64, Failure> {
        match self.attempt(id, &group_request::Kind::ReadIndex(ReadIndex {}), deadline).await {
            Ok(group_response::Kind::ReadIndexed(indexed)) => Ok(indexed.index),
            Ok(_) => Err(unexpected()),
            Err(failure) => {
                self.remember_hint(id, &failure);
                Err(failure)
            }
        }
    }

    /// Has the leader of a shard begin the time of a lease anew.
    pub(super) async fn renew_lease(&self, id: GroupId, lease: u64, deadline: Instant) -> Result<LeaseTimed, Failure> {
        self.lease(id, group_request::Kind::RenewLease(RenewLease { lease }), deadline).await
    }

    /// How much time a lease has left, by the leader of its shard.
    pub(super) async fn lease_time(&self, id: GroupId, lease: u64, deadline: Instant) -> Result<LeaseTimed, Failure> {
        self.lease(id, group_request::Kind::LeaseTime(LeaseTime { lease }), deadline).await
    }

    async fn lease(&self, id: GroupId, ask: group_request::Kind, deadline: Instant) -> Result<LeaseTimed, Failure> {
        let answer = self.lead(id, ask, deadline).await?;
        let group_response::Kind::LeaseTimed(timed) = answer else { return Err(unexpected()) };
        Ok(timed)
    }

    fn leases_of(&self, id: GroupId) -> Result<Arc<Leases>, Failure> {
        self.leases.lock().get(&id).cloned().ok_or_else(|| no_shard(id))
    }

    /// How far operations are.
    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// The running operations, as the leader of the metadata group knows them.
    pub(super) async fn operations(&self, deadline: Instant) -> Result<OperationsResponse, Failure> {
        let answer = self.lead(GroupId::META, group_request::Kind::Operations(Operations {}), deadline).await?;
        let group_response::Kind::Operations(operations) = answer else { return Err(unexpected()) };
        Ok(operations)
    }

    /// The replicas of a group, as its leader sees them.
    pub(super) async fn replicas(&self, id: GroupId, deadline: Instant) -> Result<ReplicasState, Failure> {
        let answer = self.lead(id, group_request::Kind::Replicas(Replicas {}), deadline).await?;
        let group_response::Kind::Replicas(state) = answer else { return Err(unexpected()) };
        Ok(state)
    }

    /// Has the leader of a group change its members.
    pub(super) async fn change_membership(
        &self,
        id: GroupId,
        change: ChangeMembership,
        deadline: Instant,
    ) -> Result<(), Failure> {
        self.lead(id, group_request::Kind::ChangeMembership(change), deadline).await.map(|_| ())
    }

    /// Proposes a command to the metadata group.
    pub(super) async fn change_meta(&self, command: MetaCommand, deadline: Instant) -> Result<MetaDone, Failure> {
        let answer = self.lead(GroupId::META, group_request::Kind::Meta(command), deadline).await?;
        let group_response::Kind::Meta(result) = answer else { return Err(unexpected()) };
        match result.kind.ok_or_else(unexpected)? {
            meta_result::Kind::Version(version) => Ok(MetaDone { version, id: result.id }),
            meta_result::Kind::Refusal(refusal) => Err(refusal.into()),
        }
    }

    /// Hands the leadership of a group to its replica on `to`.
    pub(super) async fn move_leader(
        &self,
        id: GroupId,
        to: NodeId,
        deadline: Instant,
    ) -> Result<MoveLeaderResponse, Failure> {
        let map = self.map();
        if id != GroupId::META && !map.shards.contains_key(&id) {
            let message = format!("shard {} does not exist; see `kvctl shard list`", id.0);
            return Err(Failure::refused(ErrorCode::InvalidArgument, message));
        }
        if !map.nodes.contains_key(&to) {
            let message = format!("node {} is not a member; see `kvctl member list`", to.0);
            return Err(Failure::refused(ErrorCode::NodeNotFound, message));
        }
        let term = self.transfer_leader(id, to, deadline).await?;
        if id != GroupId::META {
            self.prefer(id, to, deadline.min(time::now() + PREFER_TIMEOUT)).await;
        }
        Ok(MoveLeaderResponse { leader_node_id: to.0, term })
    }

    /// Hands the leadership of a group to its replica on `to`, for now. Returns its term.
    pub(super) async fn transfer_leader(&self, id: GroupId, to: NodeId, deadline: Instant) -> Result<u64, Failure> {
        let request = group_request::Kind::MoveLeader(MoveLeader { to_node_id: to.0 });
        let answer = self.lead(id, request, deadline).await?;
        let group_response::Kind::LeaderMoved(moved) = answer else { return Err(unexpected()) };
        Ok(moved.term)
    }

    /// Has the map remember who is to lead, or the leadership would move back in time.
    async fn prefer(&self, id: GroupId, to: NodeId, deadline: Instant) {
        let prefer = meta_command::PreferLeader { shard_id: id.0, node_id: to.0 };
        let command = MetaCommand { kind: Some(meta_command::Kind::PreferLeader(prefer)) };
        if let Err(failure) = self.change_meta(command, deadline).await {
            tracing::warn!(shard = id.0, %failure, "the leadership was moved, but may move back");
        }
    }

    /// Brings a request to the leader of its group, wherever that is.
    async fn lead(
        &self,
        id: GroupId,
        request: group_request::Kind,
        deadline: Instant,
    ) -> Result<group_response::Kind, Failure> {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.attempt(id, &request, deadline).await {
                Err(failure) if is_leaderless(&failure) => self.pause(id, failure, &mut backoff, deadline).await?,
                done => return done,
            }
        }
    }

    async fn attempt(
        &self,
        id: GroupId,
        request: &group_request::Kind,
        deadline: Instant,
    ) -> Result<group_response::Kind, Failure> {
        match self.locate(id) {
            Place::Here(group) => self.serve(id, &group, request, deadline).await,
            Place::There(node) => self.pass_on(node, id, request, deadline).await,
            Place::Nowhere => Err(no_leader(id, None)),
        }
    }

    fn locate(&self, id: GroupId) -> Place {
        if let Some(group) = self.groups.lock().get(&id).cloned() {
            match group.leader() {
                Some((_, node)) if node == self.node => return Place::Here(group),
                Some((_, node)) => return Place::There(node),
                // A replica that the leader has not taken in yet, or has let go, hears of none; the others may.
                None => {}
            }
        }
        if let Some(&node) = self.hints.lock().get(&id) {
            return Place::There(node);
        }
        let map = self.map.borrow();
        let replicas = map.shards.get(&id).map(|shard| shard.replicas.as_slice()).unwrap_or_default();
        let others: Vec<_> = replicas.iter().filter(|replica| replica.node != self.node).collect();
        let voters: Vec<_> = others.iter().copied().filter(|replica| replica.voter).collect();
        // One that gets its vote while the map is not told yet may lead, and be the only one to.
        let asked = chance::pick(&voters).or_else(|| chance::pick(&others));
        asked.map_or(Place::Nowhere, |replica| Place::There(replica.node))
    }

    /// Executes a request on a group that this node is believed to lead.
    async fn serve(
        &self,
        id: GroupId,
        group: &Group,
        request: &group_request::Kind,
        deadline: Instant,
    ) -> Result<group_response::Kind, Failure> {
        match request {
            group_request::Kind::Shard(request) if request.shard_id == id.0 => {
                let map = self.map();
                let shard = map.shards.get(&id).ok_or_else(|| no_shard(id))?;
                let response = self.executor.execute(group, shard, request, deadline).await?;
                Ok(group_response::Kind::Shard(response))
            }
            group_request::Kind::Meta(command) if id == GroupId::META => {
                replicas::check_replaced(group, &self.map(), command)?;
                let applied = group.propose(command.encode_to_vec().into(), deadline).await;
                let applied = applied.map_err(|error| execute::propose_failure(id, error))?;
                let result = MetaResult::decode(applied.answer).map_err(|error| malformed(&error))?;
                Ok(group_response::Kind::Meta(result))
            }
            group_request::Kind::Replicas(_) => Ok(group_response::Kind::Replicas(replicas::state(id, group)?)),
            group_request::Kind::ChangeMembership(request) => {
                replicas::change(id, group, request, deadline).await?;
                Ok(group_response::Kind::MembershipChanged(MembershipChanged {}))
            }
            group_request::Kind::Operations(_) => Ok(group_response::Kind::Operations(self.board.list(&self.map()))),
            group_request::Kind::ReadIndex(_) => {
                let index = group.read_index(deadline).await.map_err(|error| execute::read_failure(id, &error))?;
                Ok(group_response::Kind::ReadIndexed(ReadIndexed { index }))
            }
            group_request::Kind::RenewLease(request) => {
                Ok(group_response::Kind::LeaseTimed(self.leases_of(id)?.renew(request.lease, deadline).await?))
            }
            group_request::Kind::LeaseTime(request) => {
                Ok(group_response::Kind::LeaseTimed(self.leases_of(id)?.time_of(request.lease, deadline).await?))
            }
            group_request::Kind::MoveLeader(request) => {
                let term = transfer(id, group, NodeId(request.to_node_id), deadline).await?;
                Ok(group_response::Kind::LeaderMoved(LeaderMoved { term }))
            }
            group_request::Kind::Shard(_) | group_request::Kind::Meta(_) => {
                let message = "the request names another group than its envelope";
                Err(Failure::refused(ErrorCode::InvalidArgument, message))
            }
        }
    }

    async fn pass_on(
        &self,
        node: NodeId,
        id: GroupId,
        request: &group_request::Kind,
        deadline: Instant,
    ) -> Result<group_response::Kind, Failure> {
        let writes = match request {
            group_request::Kind::Shard(request) => execute::is_write(request),
            group_request::Kind::Replicas(_)
            | group_request::Kind::Operations(_)
            | group_request::Kind::ReadIndex(_)
            | group_request::Kind::LeaseTime(_)
            // Done twice or not at all, its owner finds no other lease.
            | group_request::Kind::RenewLease(_) => false,
            group_request::Kind::Meta(_)
            | group_request::Kind::MoveLeader(_)
            | group_request::Kind::ChangeMembership(_) => true,
        };
        let encoded = GroupRequest { kind: Some(request.clone()) }.encode_to_vec().into();
        let error = match self.host.forward(node, id, encoded, deadline).await {
            Ok(answer) => {
                self.hints.lock().insert(id, node);
                let answer = GroupResponse::decode(answer).map_err(|error| malformed(&error))?;
                let answer = answer.kind.ok_or_else(unexpected)?;
                return if let group_response::Kind::Refusal(refusal) = answer {
                    Err(refusal.into())
                } else {
                    Ok(answer)
                };
            }
            Err(error) => error,
        };
        self.hints.lock().remove(&id);
        Err(match error {
            ForwardError::NotSent(reason) => no_leader(id, Some(&reason)),
            // A read changes nothing, so its loss is known.
            ForwardError::Unknown(reason) if !writes => no_leader(id, Some(&reason)),
            ForwardError::Unknown(reason) => {
                let message = format!("the answer of node {} was lost after the write was sent: {reason}", node.0);
                Failure::unknown(ErrorCode::Unavailable, message)
            }
        })
    }

    /// Waits before the next try; gives `failure` back when the deadline would pass.
    pub(super) async fn pause(
        &self,
        id: GroupId,
        failure: Failure,
        backoff: &mut Duration,
        deadline: Instant,
    ) -> Result<(), Failure> {
        self.remember_hint(id, &failure);
        let wait = chance::jitter(*backoff).max(PAUSE_MIN);
        if time::now() + wait >= deadline {
            return Err(failure);
        }
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        let status = self.groups.lock().get(&id).map(Group::watch);
        match status {
            // Nobody to ask until a leader is known; then at once.
            Some(mut status) if status.borrow().leader.is_none() => {
                time::timeout(wait, status.wait_for(|status| status.leader.is_some())).await.ok();
            }
            _ => time::sleep(wait).await,
        }
        Ok(())
    }

    fn remember_hint(&self, id: GroupId, failure: &Failure) {
        let mut hints = self.hints.lock();
        match failure.detail.leader_node_id {
            0 => hints.remove(&id),
            node => hints.insert(id, NodeId(node)),
        };
    }

    async fn handle_forwarded(
        &self,
        id: GroupId,
        request: Bytes,
        deadline: Instant,
    ) -> Result<group_response::Kind, Failure> {
        let group = self.groups.lock().get(&id).cloned();
        let group = group.ok_or_else(|| no_leader(id, Some("no replica of it runs on the node that was asked")))?;
        let request = GroupRequest::decode(request)
            .map_err(|error| Failure::refused(ErrorCode::InvalidArgument, format!("malformed request: {error}")))?;
        let kind = request.kind.ok_or_else(|| Failure::refused(ErrorCode::InvalidArgument, "an empty request"))?;
        self.serve(id, &group, &kind, deadline).await
    }
}

impl PeerHandler for Router {
    fn forward(&self, id: GroupId, request: Bytes, deadline: Instant) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            let result = self.handle_forwarded(id, request, deadline).await;
            let kind = result.unwrap_or_else(|failure| group_response::Kind::Refusal(failure.into()));
            GroupResponse { kind: Some(kind) }.encode_to_vec().into()
        })
    }

    fn join(&self, request: JoinRequest, deadline: Instant) -> BoxFuture<'_, JoinResponse> {
        Box::pin(members::join(self, request, deadline))
    }
}

/// Transfers the leadership that this node holds. Returns the term in which `to` leads.
async fn transfer(id: GroupId, group: &Group, to: NodeId, deadline: Instant) -> Result<u64, Failure> {
    let status = group.status();
    match status.leader {
        Some((_, node)) if node == to => return Ok(status.term),
        Some((leader, _)) if leader == group.replica() => {}
        other => {
            let mut failure = no_leader(id, None);
            failure.detail.leader_node_id = other.map_or(0, |(_, node)| node.0);
            return Err(failure);
        }
    }
    let replica = status.voters.iter().find(|(_, node)| **node == to).map(|(replica, _)| *replica);
    let replica = replica.ok_or_else(|| {
        let message = format!("node {} holds no voter of shard {}; see `kvctl shard list`", to.0, id.0);
        Failure::refused(ErrorCode::NodeNotFound, message)
    })?;
    group.transfer_leader(replica, deadline).await.map_err(|error| {
        let message = format!("shard {}: the leadership was not taken over: {error}; try again", id.0);
        Failure::retry(ErrorCode::Unavailable, message)
    })
}

fn malformed(error: &prost::DecodeError) -> Failure {
    Failure::unknown(ErrorCode::Internal, format!("malformed answer: {error}"))
}

fn unexpected() -> Failure {
    Failure::unknown(ErrorCode::Internal, "an answer of another kind than was asked for")
}

fn is_leaderless(failure: &Failure) -> bool {
    failure.can_retry() && failure.detail.code() == ErrorCode::NoLeader
}

fn no_shard(id: GroupId) -> Failure {
    Failure::retry(ErrorCode::WrongShard, format!("shard {} does not exist; refresh the map", id.0))
}

/// Nobody leads the group as far as is known here.
pub(super) fn no_leader(id: GroupId, reason: Option<&str>) -> Failure {
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let message = format!("shard {} has no leader that can be reached{reason}; try again", id.0);
    let mut failure = Failure::retry(ErrorCode::NoLeader, message);
    failure.detail.shard_id = id.0;
    failure
}
