//! etcd's Election service.

use std::collections::VecDeque;

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
        let watchers = self.watchers.clone();
        self.run(request, |asked, request| async move {
            let pb::CampaignRequest { name, lease, value } = request;
            let held = contest::hold(asked, watchers.place()?, &name, lease, Some(value)).await?;
            let leader = pb::LeaderKey { name, key: held.key, rev: signed(held.revision), lease: held.lease };
            Ok(pb::CampaignResponse { header: held.header, leader: Some(leader) })
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
        let (mut asked, call) = self.asked(&request)?;
        let admitted = call.enter().and_then(|()| asked.pin()).and_then(|_| self.watchers.place());
        let place = admitted.map_err(|failure| Refused::from(failure).told(&call))?;
        let name = request.into_inner().name;
        let observing = Observing { asked, name, place, leader: None, changes: None, out: VecDeque::new() };
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
    /// What has happened since it was looked who leads; `None` before.
    changes: Option<Changes>,
    out: VecDeque<pb::LeaderResponse>,
}

impl<S: Service> Observing<S> {
    async fn step(mut self) -> Option<(Result<pb::LeaderResponse, Status>, Option<Self>)> {
        loop {
            if let Some(answer) = self.out.pop_front() {
                return Some((Ok(answer), Some(self)));
            }
            let Self { asked, name, place, leader, changes, out } = &mut self;
            let advanced = tokio::select! {
                biased;
                () = place.closing() => Err(Status::unavailable("etcdserver: server stopped").into()),
                advanced = advance(asked, name, leader, changes, out) => advanced,
            };
            match advanced {
                Ok(()) => {}
                // What happened meanwhile is not known any more; who leads now is.
                Err(refused) if contest::is_compacted(&refused) => self.changes = None,
                Err(refused) => return Some((Err(refused.status()), None)),
            }
        }
    }
}

async fn advance<S: Service>(
    asked: &Asked<S>,
    name: &Bytes,
    leader: &mut Option<Bytes>,
    changes: &mut Option<Changes>,
    out: &mut VecDeque<pb::LeaderResponse>,
) -> Result<(), Refused> {
    let Some(changes) = changes else {
        let (header, holder) = contest::holder(asked, name, 0).await?;
        let from = header.map_or(0, |header| header.revision).unsigned_abs().saturating_add(1);
        let (key, range_end) = contest::below(name);
        *changes = Some(Changes::of(asked, vec![v1::KeyRange { key, range_end }], from)?);
        *leader = None;
        show(holder, header, leader, out);
        return Ok(());
    };
    for event in changes.next(asked).await? {
        let is_put = event.kind() == v1::event::Kind::Put;
        let Some(record) = event.record else { continue };
        let revision = record.mod_revision;
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
