//! etcd's Election service.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tonic::{Code, Request, Response, Status};

use super::contest::{self, Changes};
use super::convert;
use super::face::{Answer, Asked, Etcd, Refused, signed};
use crate::api::watchers::{Answers, Place};
use crate::node::Service;
use crate::proto::etcd::v3electionpb as pb;
use crate::proto::etcd::v3electionpb::election_server::Election;
use crate::proto::v1;

#[tonic::async_trait]
impl<S: Service> Election for Etcd<S> {
    type ObserveStream = Answers<pb::LeaderResponse>;

    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Answer<pb::CampaignResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let asked = Arc::new(asked);
            let pb::CampaignRequest { name, lease, value } = request;
            let own = contest::enter(&asked, &name, lease, value.clone()).await?;
            if own.value != value {
                contest::say(&asked, &own.key, own.revision, value).await?;
            }
            let header = contest::wait_for_turn(&asked, &name, &own).await?;
            let (rev, lease) = (signed(own.revision), own.lease);
            Ok(pb::CampaignResponse { header, leader: Some(pb::LeaderKey { name, key: own.key, rev, lease }) })
        })
        .await
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Answer<pb::ProclaimResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let leader = request.leader.ok_or_else(no_leader_field)?;
            match contest::say(&asked, &leader.key, leader.rev.unsigned_abs(), request.value).await? {
                (header, true) => Ok(pb::ProclaimResponse { header }),
                (_, false) => Err(Status::new(Code::Unknown, "election: not leader").into()),
            }
        })
        .await
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Answer<pb::LeaderResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            match contest::holder(&asked, &request.name, 0).await? {
                (header, Some(record)) => Ok(pb::LeaderResponse { header, kv: Some(convert::record(record)) }),
                (_, None) => Err(Status::new(Code::Unknown, "election: no leader").into()),
            }
        })
        .await
    }

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Answer<Self::ObserveStream> {
        let (asked, call) = self.asked(&request)?;
        let admitted = call.enter().and_then(|()| asked.shard()).and_then(|_| self.watchers.place());
        let place = admitted.map_err(|failure| Refused::from(failure).told(&call))?;
        let name = request.into_inner().name;
        let observing = Observing { asked, name, place, leader: None, from: 0, out: VecDeque::new() };
        let answers = stream::unfold(Some(observing), async |observing| observing?.step().await);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Answer<pb::ResignResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let leader = request.leader.ok_or_else(no_leader_field)?;
            let header = contest::leave(&asked, leader.key, leader.rev.unsigned_abs()).await?;
            Ok(pb::ResignResponse { header })
        })
        .await
    }
}

fn no_leader_field() -> Refused {
    Status::new(Code::Unknown, "\"leader\" field must be provided").into()
}

/// A stream of an election's leaders and of what they proclaim.
struct Observing<S> {
    asked: Asked<S>,
    name: Bytes,
    place: Place,
    /// The key of whoever leads, as far as it was shown.
    leader: Option<Bytes>,
    /// The revision that is looked at next; 0 before the first look.
    from: u64,
    out: VecDeque<pb::LeaderResponse>,
}

impl<S: Service> Observing<S> {
    async fn step(mut self) -> Option<(Result<pb::LeaderResponse, Status>, Option<Self>)> {
        loop {
            if let Some(answer) = self.out.pop_front() {
                return Some((Ok(answer), Some(self)));
            }
            let Self { asked, name, place, leader, from, out } = &mut self;
            let advanced = tokio::select! {
                biased;
                () = place.closing() => Err(Status::unavailable("etcdserver: server stopped")),
                advanced = advance(asked, name, leader, from, out) => advanced.map_err(Refused::status),
            };
            if let Err(status) = advanced {
                return Some((Err(status), None));
            }
        }
    }
}

async fn advance<S: Service>(
    asked: &Asked<S>,
    name: &Bytes,
    leader: &mut Option<Bytes>,
    from: &mut u64,
    out: &mut VecDeque<pb::LeaderResponse>,
) -> Result<(), Refused> {
    if *from == 0 {
        let (header, holder) = contest::holder(asked, name, 0).await?;
        *from = header.map_or(0, |header| header.revision).unsigned_abs().saturating_add(1);
        show(holder, header, leader, out);
        return Ok(());
    }
    let (key, range_end) = contest::below(name);
    let ranges = vec![v1::KeyRange { key, range_end }];
    let events = Changes::of(asked, ranges, *from)?.next().await?;
    for event in events {
        let is_put = event.kind() == v1::event::Kind::Put;
        let Some(record) = event.record else { continue };
        let revision = record.mod_revision;
        *from = revision.saturating_add(1);
        let is_leaders = leader.as_ref().is_some_and(|leader| *leader == record.key);
        if is_put && (is_leaders || leader.is_none()) {
            show(Some(record), asked.header(revision, 0), leader, out);
        } else if !is_put && is_leaders {
            *leader = None;
            let (_, next) = contest::holder(asked, name, revision).await?;
            show(next, asked.header(revision, 0), leader, out);
        }
    }
    Ok(())
}

fn show(
    record: Option<v1::Record>,
    header: Option<crate::proto::etcd::etcdserverpb::ResponseHeader>,
    leader: &mut Option<Bytes>,
    out: &mut VecDeque<pb::LeaderResponse>,
) {
    let Some(record) = record else { return };
    *leader = Some(record.key.clone());
    out.push_back(pb::LeaderResponse { header, kv: Some(convert::record(record)) });
}
