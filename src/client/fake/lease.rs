//! Leases of a scripted node. Their time never runs out by itself: a test ends them.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::service::Node;
use super::{State, detail, status};
use crate::proto::v1::lease_server::Lease;
use crate::proto::v1::{
    self, ErrorCode, GrantLeaseRequest, GrantLeaseResponse, LeaseTimeRequest, LeaseTimeResponse, LeasesRequest,
    LeasesResponse, RenewLeaseRequest, RenewLeaseResponse, RevokeLeaseRequest, RevokeLeaseResponse,
};

impl State {
    /// Ends a lease with its keys, in one revision.
    pub(crate) fn end_lease(&mut self, lease: u64) {
        self.leases.remove(&lease);
        self.revision += 1;
        let keys: Vec<_> =
            self.records.values().filter(|record| record.lease == lease).map(|record| record.key.clone()).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    pub(super) fn need_lease(&self, lease: u64) -> Result<Duration, Status> {
        self.leases.get(&lease).copied().ok_or_else(|| {
            let detail = detail(ErrorCode::LeaseNotFound, v1::Outcome::NotApplied, false);
            status(Code::NotFound, &format!("lease {lease} does not exist"), detail)
        })
    }
}

fn ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap()
}

#[tonic::async_trait]
impl Lease for Node {
    async fn grant(&self, request: Request<GrantLeaseRequest>) -> Result<Response<GrantLeaseResponse>, Status> {
        let apply = |state: &mut State, request: GrantLeaseRequest| {
            let lease = if request.lease == 0 { 1_000 + state.leases.len() as u64 } else { request.lease };
            if state.leases.contains_key(&lease) {
                let detail = detail(ErrorCode::AlreadyExists, v1::Outcome::NotApplied, false);
                return Err(status(Code::AlreadyExists, "it exists", detail));
            }
            state.leases.insert(lease, Duration::from_millis(request.ttl_ms));
            Ok(GrantLeaseResponse { header: Some(state.header()), lease, ttl_ms: request.ttl_ms })
        };
        self.run("grant", request, 0, apply, |request| request.target.clone()).await
    }

    async fn revoke(&self, request: Request<RevokeLeaseRequest>) -> Result<Response<RevokeLeaseResponse>, Status> {
        let apply = |state: &mut State, request: RevokeLeaseRequest| {
            state.need_lease(request.lease)?;
            state.end_lease(request.lease);
            Ok(RevokeLeaseResponse { header: Some(state.header()) })
        };
        self.run("revoke", request, 0, apply, |request| request.target.clone()).await
    }

    async fn renew(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        let apply = |state: &mut State, request: RenewLeaseRequest| {
            let ttl_ms = ms(state.need_lease(request.lease)?);
            Ok(RenewLeaseResponse { header: Some(state.header()), ttl_ms })
        };
        self.run("renew", request, 0, apply, |request| request.target.clone()).await
    }

    async fn time(&self, request: Request<LeaseTimeRequest>) -> Result<Response<LeaseTimeResponse>, Status> {
        let apply = |state: &mut State, request: LeaseTimeRequest| {
            let ttl_ms = ms(state.need_lease(request.lease)?);
            let attached = state.records.values().filter(|record| record.lease == request.lease && request.keys);
            let keys = attached.map(|record| record.key.clone()).collect();
            Ok(LeaseTimeResponse { header: Some(state.header()), ttl_ms, remaining_ms: ttl_ms, keys })
        };
        self.run("time", request, 0, apply, |request| request.target.clone()).await
    }

    async fn list(&self, request: Request<LeasesRequest>) -> Result<Response<LeasesResponse>, Status> {
        let apply = |state: &mut State, _: LeasesRequest| {
            Ok(LeasesResponse { header: Some(state.header()), leases: state.leases.keys().copied().collect() })
        };
        self.run("list", request, 0, apply, |request| request.target.clone()).await
    }
}
