//! etcd's Maintenance service, as far as it makes sense here.

use bytes::Bytes;
use tokio_stream::Empty;
use tonic::{Request, Status};

use super::face::{Answer, Asked, Etcd, Refused, signed};
use super::{error, version};
use crate::node::Service;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::v1;
use crate::types::key::{UNBOUNDED, successor};

/// Records of a page of those that are hashed.
const PAGE_RECORDS: u32 = 10_000;

#[tonic::async_trait]
impl<S: Service> Maintenance for Etcd<S> {
    type SnapshotStream = Empty<Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        self.run(request, |asked, request| async move {
            let alarm = alarm_of(&asked.service.status());
            let is_asked_for = |alarm: &pb::AlarmMember| {
                [0, alarm.member_id].contains(&request.member_id)
                    && [pb::AlarmType::None, alarm.alarm()].contains(&request.alarm())
            };
            // What is asked for to be put out goes on: it ends by itself when there is space again.
            let is_shown = request.action() == pb::alarm_request::AlarmAction::Get;
            let alarms = alarm.filter(|alarm| is_shown && is_asked_for(alarm)).into_iter().collect();
            Ok(pb::AlarmResponse { header: asked.local_header(), alarms })
        })
        .await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        self.run(request, |asked, _| async move {
            let shard = asked.shard()?;
            let status = asked.service.status();
            let replica = status.replicas.iter().find(|replica| replica.shard_id == shard.id);
            let replica = replica.cloned().unwrap_or_default();
            // As etcd writes it.
            let alarm = alarm_of(&status).map(|alarm| format!("memberID:{} alarm:NOSPACE ", alarm.member_id));
            let trouble = match replica.leader_node_id {
                0 => Some(error::NO_LEADER.1.to_owned()),
                _ => (!status.ready).then_some(status.reason),
            };
            Ok(pb::StatusResponse {
                header: asked.local_header(),
                version: version(&status.version),
                db_size: signed(status.engine_bytes),
                leader: replica.leader_node_id,
                raft_index: replica.last_index,
                raft_term: replica.term,
                raft_applied_index: replica.applied_index,
                errors: trouble.into_iter().chain(alarm).collect(),
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
        // Replicas do not store the same bytes; what they show is the same.
        self.run(request, |asked, _| async move {
            let pb::HashKvResponse { header, hash, .. } = hash_of(&asked, 0).await?;
            Ok(pb::HashResponse { header, hash })
        })
        .await
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        self.run(request, |asked, request| async move { hash_of(&asked, request.revision).await }).await
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
                return Err(error::BAD_TRANSFEREE.into());
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

/// The alarm of this node's disk.
fn alarm_of(status: &v1::StatusResponse) -> Option<pb::AlarmMember> {
    let alarm = pb::AlarmMember { member_id: status.node_id, alarm: pb::AlarmType::Nospace.into() };
    status.disk_full.then_some(alarm)
}

/// A hash of the records that a revision shows and of their numbers, by what this node's own replica holds.
async fn hash_of<S: Service>(asked: &Asked<S>, revision: i64) -> Result<pb::HashKvResponse, Refused> {
    let wanted = u64::try_from(revision).unwrap_or_default();
    // The first page pins the revision, and so do all that are refused.
    let mut range = v1::Range {
        key: Bytes::from_static(UNBOUNDED),
        range_end: Bytes::from_static(UNBOUNDED),
        limit: PAGE_RECORDS,
        revision: wanted,
        ..Default::default()
    };
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut header = None;
    loop {
        let (shown, page) = asked.page(range.clone(), v1::ReadLevel::Local).await?;
        let shown = header.get_or_insert(shown);
        if range.revision == 0 {
            range.revision = shown.as_ref().map_or(0, |header| header.revision).unsigned_abs();
        }
        for record in &page.records {
            for bytes in [&record.key, &record.value] {
                hash.update(&(bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            for number in [record.create_revision, record.mod_revision, record.version, record.lease] {
                hash.update(&number.to_be_bytes());
            }
        }
        match page.records.last().filter(|_| page.more) {
            Some(last) => range.key = successor(&last.key),
            None => break,
        }
    }
    let low = u32::try_from(hash.digest() & u64::from(u32::MAX)).unwrap_or_default();
    Ok(pb::HashKvResponse { header: header.flatten(), hash: low, compact_revision: compacted(asked).await? })
}

/// The oldest revision that can be read; -1 if nothing was compacted, as etcd says it.
async fn compacted<S: Service>(asked: &Asked<S>) -> Result<i64, Refused> {
    let (target, level) = (asked.target(), v1::ReadLevel::Local.into());
    let first = v1::EventsRequest { target, from_revision: 1, limit: 1, level, ..Default::default() };
    match asked.service.events(first, asked.deadline).await {
        Ok(_) => Ok(-1),
        Err(failure) if failure.detail.code() == v1::ErrorCode::Compacted => {
            Ok(signed(failure.detail.compacted_revision))
        }
        Err(failure) => Err(failure.into()),
    }
}
