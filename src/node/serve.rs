//! The node as its clients use it.

use std::fmt::Write;
use std::sync::Arc;

use tokio::sync::watch;

use crate::env::time::{self, Instant};
use crate::proto::v1::{self, ErrorCode};
use crate::raft::{Group, GroupStatus, Role};
use crate::types::map::ShardMap;
use crate::types::{GroupId, NodeId, Revision};

use super::service::{OnlyShard, Readiness, Service};
use super::{Failure, Node, keyspaces, members, operations, route};

/// Keyspace name under which the metadata group is listed.
const META_NAME: &str = "(metadata)";

impl Service for Node {
    async fn get(&self, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetResponse, Failure> {
        self.inner.kv.get(request, deadline).await
    }

    async fn put(&self, request: v1::PutRequest, deadline: Instant) -> Result<v1::PutResponse, Failure> {
        self.inner.kv.put(request, deadline).await
    }

    async fn delete(&self, request: v1::DeleteRequest, deadline: Instant) -> Result<v1::DeleteResponse, Failure> {
        self.inner.kv.delete(request, deadline).await
    }

    async fn scan(&self, request: v1::ScanRequest, deadline: Instant) -> Result<v1::ScanResponse, Failure> {
        self.inner.kv.scan(request, deadline).await
    }

    async fn count(&self, request: v1::CountRequest, deadline: Instant) -> Result<v1::CountResponse, Failure> {
        self.inner.kv.count(request, deadline).await
    }

    async fn txn(&self, request: v1::TxnRequest, deadline: Instant) -> Result<v1::TxnResponse, Failure> {
        self.inner.kv.txn(request, deadline).await
    }

    async fn batch(&self, request: v1::BatchRequest, deadline: Instant) -> Result<v1::BatchResponse, Failure> {
        self.inner.kv.batch(request, deadline).await
    }

    async fn events(&self, request: v1::EventsRequest, deadline: Instant) -> Result<v1::EventsResponse, Failure> {
        self.inner.kv.events(request, deadline).await
    }

    async fn changes(&self, request: v1::EventsRequest, deadline: Instant) -> Result<v1::EventsResponse, Failure> {
        self.inner.kv.changes(request, deadline).await
    }

    async fn relocate_member(&self, node: NodeId, peer_address: String, deadline: Instant) -> Result<(), Failure> {
        members::relocate(&self.inner.router, node, peer_address, deadline).await
    }

    async fn compact(&self, request: v1::CompactRequest, deadline: Instant) -> Result<v1::CompactResponse, Failure> {
        self.inner.kv.compact(request, deadline).await
    }

    async fn grant_lease(
        &self,
        request: v1::GrantLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::GrantLeaseResponse, Failure> {
        self.inner.kv.grant_lease(request, deadline).await
    }

    async fn revoke_lease(
        &self,
        request: v1::RevokeLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::RevokeLeaseResponse, Failure> {
        self.inner.kv.revoke_lease(request, deadline).await
    }

    async fn renew_lease(
        &self,
        request: v1::RenewLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::RenewLeaseResponse, Failure> {
        self.inner.kv.renew_lease(request, deadline).await
    }

    async fn lease_time(
        &self,
        request: v1::LeaseTimeRequest,
        deadline: Instant,
    ) -> Result<v1::LeaseTimeResponse, Failure> {
        self.inner.kv.lease_time(request, deadline).await
    }

    async fn leases(&self, request: v1::LeasesRequest, deadline: Instant) -> Result<v1::LeasesResponse, Failure> {
        self.inner.kv.leases(request, deadline).await
    }

    async fn open_session(
        &self,
        request: v1::OpenSessionRequest,
        deadline: Instant,
    ) -> Result<v1::OpenSessionResponse, Failure> {
        self.inner.kv.open_session(request, deadline).await
    }

    async fn close_session(
        &self,
        request: v1::CloseSessionRequest,
        deadline: Instant,
    ) -> Result<v1::CloseSessionResponse, Failure> {
        self.inner.kv.close_session(request, deadline).await
    }

    async fn move_leader(
        &self,
        request: v1::MoveLeaderRequest,
        deadline: Instant,
    ) -> Result<v1::MoveLeaderResponse, Failure> {
        self.inner.router.move_leader(GroupId(request.shard_id), NodeId(request.to_node_id), deadline).await
    }

    async fn change_replicas(
        &self,
        request: v1::ChangeReplicasRequest,
        deadline: Instant,
    ) -> Result<v1::ChangeReplicasResponse, Failure> {
        operations::change_replicas(&self.inner.router, request, deadline).await
    }

    async fn operations(&self, _: v1::OperationsRequest, deadline: Instant) -> Result<v1::OperationsResponse, Failure> {
        self.inner.router.operations(deadline).await
    }

    async fn cancel_operation(
        &self,
        request: v1::CancelOperationRequest,
        deadline: Instant,
    ) -> Result<v1::CancelOperationResponse, Failure> {
        operations::cancel(&self.inner.router, request, deadline).await
    }

    async fn add_member(
        &self,
        request: v1::AddMemberRequest,
        deadline: Instant,
    ) -> Result<v1::AddMemberResponse, Failure> {
        members::add(&self.inner.router, request, deadline).await
    }

    async fn remove_member(
        &self,
        request: v1::RemoveMemberRequest,
        deadline: Instant,
    ) -> Result<v1::RemoveMemberResponse, Failure> {
        members::remove(&self.inner.router, request, deadline).await
    }

    async fn create_keyspace(
        &self,
        request: v1::CreateKeyspaceRequest,
        deadline: Instant,
    ) -> Result<v1::CreateKeyspaceResponse, Failure> {
        keyspaces::create(&self.inner.router, request, deadline).await
    }

    async fn update_keyspace(
        &self,
        request: v1::UpdateKeyspaceRequest,
        deadline: Instant,
    ) -> Result<v1::UpdateKeyspaceResponse, Failure> {
        keyspaces::update(&self.inner.router, request, deadline).await
    }

    async fn drop_keyspace(
        &self,
        request: v1::DropKeyspaceRequest,
        deadline: Instant,
    ) -> Result<v1::DropKeyspaceResponse, Failure> {
        keyspaces::drop(&self.inner.router, request, deadline).await
    }

    fn members(&self) -> v1::MembersResponse {
        let map = v1::MapResponse::from(&*self.inner.router.map());
        v1::MembersResponse { cluster_id: map.cluster_id, members: map.nodes }
    }

    fn map(&self) -> v1::MapResponse {
        let mut map = v1::MapResponse::from(&*self.inner.router.map());
        let known = self.inner.router.groups();
        let hints = known.iter().filter(|(id, _)| **id != GroupId::META).filter_map(|(id, group)| {
            let status = group.status();
            let (_, node) = status.leader?;
            Some(v1::LeaderHint { shard_id: id.0, node_id: node.0, term: status.term })
        });
        map.leaders = hints.collect();
        map
    }

    fn only_shard(&self, keyspace: &str) -> Result<OnlyShard, Failure> {
        let map = self.inner.router.map();
        let target = v1::Target { keyspace: keyspace.to_owned(), ..Default::default() };
        let keyspace = route::keyspace(&map, Some(&target))?;
        let mut shards = map.shards_of(keyspace.id);
        let (Some(shard), None) = (shards.next(), shards.next()) else {
            let (name, count) = (&keyspace.name, map.shards_of(keyspace.id).count());
            let message = format!("keyspace `{name}` has {count} shards, and so no one order of revisions");
            return Err(Failure::refused(ErrorCode::CrossShard, message));
        };
        let local = self.inner.groups.running().get(&shard.id).map(|local| local.machine.revision().borrow().0);
        let group = self.inner.router.groups().get(&shard.id).cloned();
        let leader = group.as_ref().and_then(Group::present_leader);
        Ok(OnlyShard {
            id: shard.id.0,
            has_replica: group.is_some(),
            revision: local.unwrap_or_default(),
            term: group.as_ref().map_or(0, Group::term),
            leader_node_id: leader.map_or(0, |(_, node)| node.0),
        })
    }

    fn watched_shard(&self, target: Option<&v1::Target>, ranges: &[v1::KeyRange]) -> Result<u64, Failure> {
        Ok(route::shard_of_watch(&self.inner.router.map(), target, ranges)?.id.0)
    }

    fn watch_revision(&self, shard: u64) -> Option<watch::Receiver<Revision>> {
        self.inner.groups.running().get(&GroupId(shard)).map(|local| local.machine.revision())
    }

    fn identity(&self) -> (u64, u64) {
        let cluster_id = self.inner.router.map().cluster_id;
        let first = cluster_id.and_then(|id| id.0.first_chunk::<8>().copied());
        (first.map_or(0, u64::from_be_bytes), self.inner.id.0)
    }

    fn speaks_tls(&self) -> (bool, bool) {
        (self.inner.config.client_tls.is_some(), self.inner.config.peer_tls.is_some())
    }

    fn watch_map(&self) -> watch::Receiver<u64> {
        self.inner.map_version.subscribe()
    }

    fn status(&self) -> v1::StatusResponse {
        let inner = &self.inner;
        let Readiness { ready, reason } = self.readiness();
        let shards = inner.groups.running();
        let replicas = inner.router.groups().into_iter().map(|(id, group)| {
            let revision = shards.get(&id).map_or(0, |shard| shard.machine.revision().borrow().0);
            replica_status(id, &group, revision)
        });
        v1::StatusResponse {
            cluster_id: inner.router.map().cluster_id.map(|id| id.0.to_vec().into()).unwrap_or_default(),
            node_id: inner.id.0,
            name: inner.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready,
            reason,
            log_bytes: inner.log.disk_bytes(),
            engine_bytes: inner.engine.disk_bytes().unwrap_or(0),
            replicas: replicas.collect(),
            uptime_ms: u64::try_from((time::now() - inner.started).as_millis()).unwrap_or(u64::MAX),
            disk_full: inner.space.is_full(),
        }
    }

    fn shards(&self, request: v1::ShardsRequest) -> Result<v1::ShardsResponse, Failure> {
        let map = self.inner.router.map();
        let groups = self.inner.router.groups();
        let wanted = match request.keyspace.as_str() {
            "" => None,
            name => Some(map.keyspace(name).ok_or_else(|| {
                Failure::refused(ErrorCode::KeyspaceNotFound, format!("keyspace `{name}` does not exist"))
            })?),
        };
        // Without a majority nobody leads, whoever did last.
        let led =
            |id: &GroupId| groups.get(id).map(|group| GroupStatus { leader: group.present_leader(), ..group.status() });
        let mut shards = Vec::new();
        if wanted.is_none() {
            shards.extend(led(&GroupId::META).map(|status| entry(meta_shard(&map, &status), META_NAME, Some(&status))));
        }
        for shard in map.shards.values().filter(|shard| wanted.is_none_or(|keyspace| keyspace.id == shard.keyspace)) {
            let name = map.keyspaces.get(&shard.keyspace).map_or("", |keyspace| keyspace.name.as_str());
            let mut entry = entry(shard.into(), name, led(&shard.id).as_ref());
            if !groups.contains_key(&shard.id) {
                let hint = self.inner.router.hint(shard.id).filter(|node| shard.replica_on(*node).is_some());
                entry.leader_node_id = hint.map_or(0, |node| node.0);
            }
            shards.push(entry);
        }
        Ok(v1::ShardsResponse { shards })
    }

    fn readiness(&self) -> Readiness {
        match self.not_ready() {
            None => Readiness { ready: true, reason: String::new() },
            Some(reason) => Readiness { ready: false, reason },
        }
    }

    fn metrics(&self) -> String {
        let inner = &self.inner;
        let mut text = String::new();
        let stats = inner.log.stats();
        let counters = [
            ("quorate_log_frames", "Frames written to the Raft log.", stats.frames),
            ("quorate_log_syncs", "Syncs of the Raft log.", stats.syncs),
            ("quorate_log_entries", "Entries written to the Raft log.", stats.entries),
            ("quorate_log_bytes", "Bytes written to the Raft log.", stats.bytes),
        ];
        for (name, help, value) in counters {
            // Writing to a string does not fail.
            write!(text, "# TYPE {name} counter\n# HELP {name} {help}\n{name}_total {value}\n").ok();
        }
        gauge(&mut text, "quorate_log_disk_bytes", "Size of the Raft log on disk.", &[("", inner.log.disk_bytes())]);
        let engine = inner.engine.disk_bytes().unwrap_or(0);
        gauge(&mut text, "quorate_engine_disk_bytes", "Size of the state engine on disk.", &[("", engine)]);
        let full = u64::from(inner.space.is_full());
        gauge(&mut text, "quorate_disk_full", "1 while growing writes are refused for want of space.", &[("", full)]);
        let groups: Vec<_> = inner.router.groups().into_iter().map(|(id, group)| (id, group.status())).collect();
        let mut per_group = |name: &str, help: &str, value: fn(&GroupStatus) -> u64| {
            let labelled: Vec<_> =
                groups.iter().map(|(id, status)| (format!("{{shard=\"{}\"}}", id.0), value(status))).collect();
            let labelled: Vec<_> = labelled.iter().map(|(label, value)| (label.as_str(), *value)).collect();
            gauge(&mut text, name, help, &labelled);
        };
        per_group("quorate_raft_term", "Term of the group.", |status| status.term);
        per_group("quorate_raft_is_leader", "1 where this node leads.", |status| {
            u64::from(status.role == Role::Leader)
        });
        per_group("quorate_raft_last_index", "Last log index.", |status| status.last.unwrap_or(0));
        per_group("quorate_raft_applied_index", "Last applied index.", |status| status.applied.unwrap_or(0));
        per_group("quorate_raft_durable_applied_index", "Applied index that the engine has flushed.", |status| {
            status.durable_applied.unwrap_or(0)
        });
        text
    }
}

impl Node {
    fn not_ready(&self) -> Option<String> {
        let map = self.inner.router.map();
        if map.cluster_id.is_none() {
            return Some("the cluster is not founded yet: some nodes of --cluster have not started".to_owned());
        }
        let running = self.inner.router.groups();
        let missing = map
            .shards
            .values()
            .find(|shard| shard.replica_on(self.inner.id).is_some() && !running.contains_key(&shard.id));
        if let Some(shard) = missing {
            return Some(format!("shard {} is starting", shard.id.0));
        }
        let leaderless = running.iter().find(|(_, group)| group.present_leader().is_none());
        leaderless.map(|(id, _)| format!("shard {} has no leader", id.0))
    }
}

fn gauge(text: &mut String, name: &str, help: &str, values: &[(&str, u64)]) {
    // Writing to a string does not fail.
    write!(text, "# TYPE {name} gauge\n# HELP {name} {help}\n").ok();
    for (labels, value) in values {
        writeln!(text, "{name}{labels} {value}").ok();
    }
}

fn entry(shard: v1::Shard, keyspace: &str, status: Option<&GroupStatus>) -> v1::shards_response::Entry {
    let leader = status.and_then(|status| status.leader);
    v1::shards_response::Entry {
        shard: Some(shard),
        keyspace: keyspace.to_owned(),
        leader_node_id: leader.map_or(0, |(_, node)| node.0),
        term: status.map_or(0, |status| status.term),
    }
}

/// The metadata group in the form of a shard, as its replicas know it.
fn meta_shard(map: &Arc<ShardMap>, status: &GroupStatus) -> v1::Shard {
    let voters = status.voters.iter().map(|(id, node)| (id, node, true));
    let members = voters.chain(status.learners.iter().map(|(id, node)| (id, node, false)));
    let replicas = members.map(|(id, node, voter)| v1::Replica { id: id.0, node_id: node.0, voter, founding: true });
    v1::Shard { id: GroupId::META.0, epoch: map.version, replicas: replicas.collect(), ..Default::default() }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

fn replica_status(id: GroupId, group: &Group, revision: u64) -> v1::ReplicaStatus {
    let status = group.status();
    v1::ReplicaStatus {
        shard_id: id.0,
        replica_id: group.replica().0,
        role: role_name(status.role).to_owned(),
        term: status.term,
        last_index: status.last.unwrap_or(0),
        committed_index: status.committed.unwrap_or(0),
        applied_index: status.applied.unwrap_or(0),
        purged_index: status.purged.unwrap_or(0),
        leader_node_id: group.present_leader().map_or(0, |(_, node)| node.0),
        revision,
    }
}
