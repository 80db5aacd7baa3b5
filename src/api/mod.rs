//! The faces that clients see: gRPC and HTTP on one port.
//!
//! Knows transports, deadlines, limits on messages and connections, and how a
//! [`Failure`](crate::node::Failure) becomes a status. It knows a node only as a [`Service`], and no
//! shard, log or engine.

mod call;
pub mod error;
#[allow(dead_code, reason = "served by nobody yet")]
mod etcd;
mod face;
mod gate;
mod health;
mod http;
mod port;
mod watchers;

#[cfg(test)]
mod api_test;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::IntoResponse;
use axum::{Router, middleware};
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;

use self::face::Face;
use self::gate::Gate;
use self::port::Port;
use self::watchers::Watchers;
use crate::env::net::Listener;
use crate::env::tls::ServerTls;
use crate::node::{Service, Telemetry};
use crate::proto::REFLECTION;
use crate::proto::v1::admin_server::AdminServer;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::kv_server::KvServer;
use crate::types::limits;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The descriptors that were compiled in cannot be read.
    #[error("the descriptors for gRPC reflection cannot be read: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What is served, and within which bounds.
pub struct Api<S> {
    /// The node.
    pub service: Arc<S>,
    /// Where requests are counted. The node's own registry.
    pub telemetry: Arc<Telemetry>,
    /// Requests executed at a time; one more is refused with `OVERLOADED`.
    pub requests_in_flight_max: usize,
    /// What clients are met with; `None` where the network is trusted.
    pub tls: Option<ServerTls>,
}

impl<S: Service> Api<S> {
    /// Serves clients on `listener` until `stop`. Then no connection is accepted, watchers are told to go
    /// elsewhere, and requests in flight may finish within five seconds. Dropping the future closes
    /// everything at once.
    ///
    /// # Errors
    /// Before anything is served, when the API cannot be assembled.
    pub async fn serve(mut self, listener: Box<dyn Listener>, stop: impl Future<Output = ()>) -> Result<(), ApiError> {
        let (closing, closed) = watch::channel(false);
        let telemetry = Arc::clone(&self.telemetry);
        let tls = self.tls.take().map(Arc::new);
        let router = self.router(&Watchers::new(closed))?;
        Port { listener, tls, router, telemetry, closing }.serve(stop).await;
        Ok(())
    }

    fn router(self, watchers: &Watchers) -> Result<Router, ApiError> {
        let face = Face::new(Arc::clone(&self.service), watchers.clone());
        let (request_max, response_max) = (limits::REQUEST_BYTES_MAX, limits::RESPONSE_BYTES_MAX);
        let kv = KvServer::new(face.clone());
        let cluster = ClusterServer::new(face.clone());
        let admin = AdminServer::new(face);
        let gate = Arc::new(Gate::new(self.requests_in_flight_max, Arc::clone(&self.telemetry)));
        let ours = Router::new();
        let ours = with(ours, kv.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = with(ours, cluster.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = with(ours, admin.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = ours.layer(middleware::from_fn_with_state(gate, gate::pass));
        let health = health::Readable::new(Arc::clone(&self.service), watchers.clone());
        let router = http::router(self.service, self.telemetry).merge(ours);
        let router = with(router, HealthServer::new(health));
        let router = with(router, reflection().build_v1()?);
        let router = with(router, reflection().build_v1alpha()?);
        Ok(router.fallback(http::unknown))
    }
}

/// Adds a gRPC service under its name.
fn with<G>(router: Router, service: G) -> Router
where
    G: tower_service::Service<Request, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    G::Response: IntoResponse,
    G::Future: Send + 'static,
{
    router.route_service(&format!("/{}/{{*method}}", G::NAME), service)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(REFLECTION)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
