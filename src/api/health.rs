//! gRPC's own health service: a node serves when it is ready. All our services share that state.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::error;
use super::watchers::{Answers, Source, Watchers};
use crate::env::time;
use crate::node::Service;

/// How often a watched readiness is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// The names a client may ask for; the empty one means the whole server.
const NAMES: [&str; 4] = ["", "quorate.v1.Admin", "quorate.v1.Cluster", "quorate.v1.Kv"];

/// The health of a node.
pub(super) struct Readable<S> {
    service: Arc<S>,
    watchers: Watchers,
}

impl<S: Service> Readable<S> {
    pub(super) fn new(service: Arc<S>, watchers: Watchers) -> Self {
        Self { service, watchers }
    }
}

fn state<S: Service>(service: &S, name: &str) -> ServingStatus {
    if !NAMES.contains(&name) {
        return ServingStatus::ServiceUnknown;
    }
    if service.readiness().ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(state: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: state.into() }
}

#[tonic::async_trait]
impl<S: Service> Health for Readable<S> {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let state = state(&*self.service, &request.get_ref().service);
        if state == ServingStatus::ServiceUnknown {
            // As the health protocol asks; a watcher is told SERVICE_UNKNOWN instead.
            return Err(Status::not_found("this node has no such service"));
        }
        Ok(Response::new(answer(state)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let source = StateSource { service: Arc::clone(&self.service), name, shown: None };
        self.watchers.follow(source).map(Response::new).map_err(|failure| error::status(&failure))
    }
}

struct StateSource<S> {
    service: Arc<S>,
    name: String,
    shown: Option<ServingStatus>,
}

impl<S: Service> Source for StateSource<S> {
    type Item = HealthCheckResponse;

    fn current(&mut self) -> HealthCheckResponse {
        let state = state(&*self.service, &self.name);
        self.shown = Some(state);
        answer(state)
    }

    async fn changed(&mut self) -> bool {
        while self.shown == Some(state(&*self.service, &self.name)) {
            time::sleep(WATCH_INTERVAL).await;
        }
        true
    }
}
