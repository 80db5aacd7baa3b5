//! etcd's Lease service.

use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{lease, lease_shown};
use super::error;
use super::face::{Answer, Asked, Etcd, Refused, signed};
use crate::api::watchers::{Answers, Place};
use crate::env::time;
use crate::node::Service;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::lease_server::Lease;
use crate::proto::v1::{self, ErrorCode};
use crate::types::limits::{ETCD_LEASE_TTL_S_MAX, ETCD_LEASE_TTL_S_MIN, REQUEST_TIMEOUT_DEFAULT};

#[tonic::async_trait]
impl<S: Service> Lease for Etcd<S> {
    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Answer<pb::LeaseGrantResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            if request.ttl > ETCD_LEASE_TTL_S_MAX {
                return Err(error::LEASE_TTL_TOO_LARGE.into());
            }
            let ttl_s = request.ttl.max(ETCD_LEASE_TTL_S_MIN);
            let ttl_ms = u64::try_from(ttl_s).unwrap_or_default().saturating_mul(1_000);
            let grant = v1::GrantLeaseRequest { target: asked.target(), lease: lease(request.id), ttl_ms };
            let granted = asked.service.grant_lease(grant, asked.deadline).await?;
            let header = asked.header_of(granted.header.as_ref());
            Ok(pb::LeaseGrantResponse { header, id: lease_shown(granted.lease), ttl: ttl_s, error: String::new() })
        })
        .await
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Answer<pb::LeaseRevokeResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let revoke = v1::RevokeLeaseRequest { target: asked.target(), lease: lease(request.id) };
            let revoked = asked.service.revoke_lease(revoke, asked.deadline).await?;
            Ok(pb::LeaseRevokeResponse { header: asked.header_of(revoked.header.as_ref()) })
        })
        .await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let (asked, call) = self.asked(&request)?;
        let admitted = call.enter().and_then(|()| asked.shard()).and_then(|_| self.watchers.place());
        let place = admitted.map_err(|failure| Refused::from(failure).told(&call))?;
        let renewing = Renewing { asked, requests: request.into_inner(), place };
        let answers = stream::unfold(Some(renewing), async |renewing| renewing?.step().await);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        self.run(request, |asked, request| async move {
            asked.shard()?;
            let time = v1::LeaseTimeRequest { target: asked.target(), lease: lease(request.id), keys: request.keys };
            match asked.service.lease_time(time, asked.deadline).await {
                Ok(time) => Ok(pb::LeaseTimeToLiveResponse {
                    header: asked.header_of(time.header.as_ref()),
                    id: request.id,
                    ttl: signed(time.remaining_ms / 1_000),
                    granted_ttl: signed(time.ttl_ms / 1_000),
                    keys: time.keys,
                }),
                // etcd answers for a lease that is not there, and says so by its time.
                Err(failure) if failure.detail.code() == ErrorCode::LeaseNotFound => {
                    let header = asked.local_header();
                    Ok(pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() })
                }
                Err(failure) => Err(failure.into()),
            }
        })
        .await
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Answer<pb::LeaseLeasesResponse> {
        self.run(request, |asked, _| async move {
            asked.shard()?;
            let leases = v1::LeasesRequest { target: asked.target() };
            let answer = asked.service.leases(leases, asked.deadline).await?;
            let leases = answer.leases.into_iter().map(|id| pb::LeaseStatus { id: lease_shown(id) }).collect();
            Ok(pb::LeaseLeasesResponse { header: asked.header_of(answer.header.as_ref()), leases })
        })
        .await
    }
}

/// A stream of renewals: one answer for each request, in order, until the client ends it or the node stops.
struct Renewing<S> {
    asked: Asked<S>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    place: Place,
}

impl<S: Service> Renewing<S> {
    async fn step(mut self) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Option<Self>)> {
        let request = tokio::select! {
            biased;
            () = self.place.closing() => {
                return Some((Err(Status::unavailable("etcdserver: server stopped")), None));
            }
            request = self.requests.message() => request.ok()??,
        };
        match keep_alive(&self.asked, request.id).await {
            Ok(answer) => Some((Ok(answer), Some(self))),
            Err(refused) => Some((Err(refused.status()), None)),
        }
    }
}

/// A lease that is not there is answered with a time of 0.
async fn keep_alive<S: Service>(asked: &Asked<S>, id: i64) -> Result<pb::LeaseKeepAliveResponse, Refused> {
    let renew = v1::RenewLeaseRequest { target: asked.target(), lease: lease(id) };
    let ttl = match asked.service.renew_lease(renew, time::now() + REQUEST_TIMEOUT_DEFAULT).await {
        Ok(renewed) => signed(renewed.ttl_ms.div_ceil(1_000)),
        Err(failure) if failure.detail.code() == ErrorCode::LeaseNotFound => 0,
        Err(failure) => return Err(failure.into()),
    };
    Ok(pb::LeaseKeepAliveResponse { header: asked.local_header(), id, ttl })
}
