//! The plain HTTP pages of a node: metrics, health, version, readiness.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::etcd;
use crate::node::{Service, Telemetry};

/// Content type of the OpenMetrics text format, which Prometheus reads.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const METRICS_END: &str = "# EOF\n";

struct Pages<S> {
    service: Arc<S>,
    telemetry: Arc<Telemetry>,
}

/// The pages as a router. Nothing here asks for more than the node knows by itself.
pub(super) fn router<S: Service>(service: Arc<S>, telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<S>))
        .route("/health", get(health::<S>))
        .route("/version", get(version))
        .route("/readyz", get(readyz::<S>))
        .with_state(Arc::new(Pages { service, telemetry }))
}

async fn metrics<S: Service>(State(pages): State<Arc<Pages<S>>>) -> Response {
    let (ours, theirs) = (pages.telemetry.encode(), pages.service.metrics());
    let body = [ours.trim_end_matches(METRICS_END), theirs.trim_end_matches(METRICS_END), METRICS_END].concat();
    ([(header::CONTENT_TYPE, METRICS_TYPE)], body).into_response()
}

/// etcd's shape: `health` is a string.
#[derive(Serialize)]
struct Health {
    health: &'static str,
    reason: String,
}

async fn health<S: Service>(State(pages): State<Arc<Pages<S>>>) -> Response {
    let readiness = pages.service.readiness();
    let body = Health { health: if readiness.ready { "true" } else { "false" }, reason: readiness.reason };
    json(code(readiness.ready), &body)
}

/// etcd's shape, and versions that its clients can go by: of the API that is served.
#[derive(Serialize)]
struct Version<'a> {
    etcdserver: &'a str,
    etcdcluster: &'a str,
}

async fn version() -> Response {
    let own = etcd::version(env!("CARGO_PKG_VERSION"));
    json(StatusCode::OK, &Version { etcdserver: &own, etcdcluster: etcd::COMPATIBLE })
}

async fn readyz<S: Service>(State(pages): State<Arc<Pages<S>>>) -> (StatusCode, String) {
    let readiness = pages.service.readiness();
    let body = if readiness.ready { "ok\n".to_owned() } else { format!("{}\n", readiness.reason) };
    (code(readiness.ready), body)
}

/// What is neither a page nor a service of ours: a gRPC client hears so in its own terms.
pub(super) async fn unknown(headers: HeaderMap, request: Request) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    if kind.starts_with("application/grpc") {
        return tonic::Status::unimplemented(format!("this node has no service {path}")).into_http();
    }
    (
        StatusCode::NOT_FOUND,
        "not found; there is /metrics, /health, /version, /readyz, etcd's JSON under /v3/, and gRPC\n",
    )
        .into_response()
}

fn code(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json<T: Serialize>(code: StatusCode, body: &T) -> Response {
    match serde_json::to_string(body) {
        Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
