//! etcd's Maintenance service, as far as it makes sense here.

use tokio_stream::Empty;
use tonic::{Request, Status};

use super::error;
use super::face::{Answer, Etcd, Refused, signed};
use crate::node::Service;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::v1;

#[tonic::async_trait]
impl<S: Service> Maintenance for Etcd<S> {
    type SnapshotStream = Empty<Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        self.run(request, |asked, _| async move {
            // Nothing has to be disarmed: a full disk refuses writes by itself, and takes them again.
            Ok(pb::AlarmResponse { header: asked.local_header(), alarms: Vec::new() })
        })
        .await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        self.run(request, |asked, _| async move {
            let shard = asked.shard()?;
            let status = asked.service.status();
            let replica = status.replicas.iter().find(|replica| replica.shard_id == shard.id);
            let replica = replica.cloned().unwrap_or_default();
            Ok(pb::StatusResponse {
                header: asked.local_header(),
                version: status.version,
                db_size: signed(status.engine_bytes),
                leader: replica.leader_node_id,
                raft_index: replica.last_index,
                raft_term: replica.term,
                raft_applied_index: replica.applied_index,
                errors: if status.ready { Vec::new() } else { vec![status.reason] },
                db_size_in_use: signed(status.engine_bytes),
                is_learner: replica.role == "learner",
            })
        })
        .await
    }

    async fn defragment(&self, request: Request<pb::DefragmentRequest>) -> Answer<pb::DefragmentResponse> {
        // The engine gives space back by itself, while it serves.
        self.run(request, |asked, _| async move { Ok(pb::DefragmentResponse { header: asked.local_header() }) }).await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        self.run(request, |_, _| async move {
            Err(Refused::Said(Status::unimplemented("quorate: replicas do not store the same bytes: compare HashKV")))
        })
        .await
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        self.run(request, |_, _| async move {
            Err(Refused::Said(Status::unimplemented("quorate: HashKV is not served yet")))
        })
        .await
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        let (_, call) = self.asked(&request)?;
        call.fail(v1::ErrorCode::InvalidArgument);
        Err(Status::unimplemented(
            "quorate: there is no snapshot file: `kvctl export` writes all records of one revision",
        ))
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Answer<pb::MoveLeaderResponse> {
        self.run(request, |asked, request| async move {
            let shard = asked.shard()?;
            let (_, own) = asked.service.identity();
            if shard.leader_node_id != own {
                return Err(error::NOT_LEADER.into());
            }
            let to_node_id = request.target_id;
            if asked.service.members().members.iter().all(|member| member.id != to_node_id) {
                return Err(error::MEMBER_NOT_FOUND.into());
            }
            let move_leader = v1::MoveLeaderRequest { shard_id: shard.id, to_node_id };
            asked.service.move_leader(move_leader, asked.deadline).await?;
            Ok(pb::MoveLeaderResponse { header: asked.local_header() })
        })
        .await
    }

    async fn downgrade(&self, request: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        self.run(request, |_, _| async move {
            Err(Refused::Said(Status::unimplemented("quorate: there is no older version to go back to")))
        })
        .await
    }
}
