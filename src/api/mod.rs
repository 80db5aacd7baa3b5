//! The faces that clients see: gRPC and HTTP on one port.
//!
//! Knows transports, deadlines, limits on messages and connections, and how a
//! [`Failure`](crate::node::Failure) becomes a status. It knows a node only as a [`Service`], and no
//! shard, log or engine.

mod authority;
mod call;
pub mod error;
mod etcd;
mod face;
mod gate;
mod health;
mod http;
mod port;
mod watchers;
mod watching;

#[cfg(test)]
mod api_test;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::IntoResponse;
use axum::{Extension, Router, middleware};
use futures_util::future;
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
use crate::proto::etcd::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcd::etcdserverpb::cluster_server::ClusterServer as EtcdClusterServer;
use crate::proto::etcd::etcdserverpb::kv_server::KvServer as KVServer;
use crate::proto::etcd::etcdserverpb::lease_server::LeaseServer as EtcdLeaseServer;
use crate::proto::etcd::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcd::etcdserverpb::watch_server::WatchServer;
use crate::proto::etcd::v3electionpb::election_server::ElectionServer;
use crate::proto::etcd::v3lockpb::lock_server::LockServer;
use crate::proto::v1::admin_server::AdminServer;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::kv_server::KvServer;
use crate::proto::v1::lease_server::LeaseServer;
use crate::types::limits;

/// Largest message to a client of etcd's API: what an answer may hold, and its framing.
const ETCD_ANSWER_MAX: usize = limits::ETCD_RESPONSE_BYTES_MAX + 64 * 1024;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The descriptors that were compiled in cannot be read.
    #[error("the descriptors for gRPC reflection cannot be read: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A path of the JSON gateway leads nowhere.
    #[error("the JSON gateway cannot be assembled: {0}")]
    Gateway(String),
}

/// What is served, and within which bounds.
pub struct Api<S> {
    /// The node.
    pub service: Arc<S>,
    /// Where requests are counted. The node's own registry.
    pub telemetry: Arc<Telemetry>,
    /// Requests executed at a time; one more is refused with `OVERLOADED`.
    pub requests_in_flight_max: usize,
    /// How often a watch of etcd's API that asked for progress hears of it while nothing happens.
    pub watch_progress: Duration,
    /// What clients are met with; `None` where the network is trusted.
    pub tls: Option<ServerTls>,
    /// Further ports.
    pub keyspaces: Vec<KeyspacePort>,
}

/// A port on which clients of etcd's API that name no keyspace mean this one, and not `default`.
pub struct KeyspacePort {
    /// Its name. It need not exist yet.
    pub keyspace: String,
    /// `host:port` that clients are told to connect to.
    pub advertise: String,
    /// Where they come in.
    pub listener: Box<dyn Listener>,
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
        let (closing, telemetry) = (Arc::new(closing), Arc::clone(&self.telemetry));
        let tls = self.tls.take().map(Arc::new);
        let keyspaces = std::mem::take(&mut self.keyspaces);
        let router = self.router(&Watchers::new(closed.clone()))?;
        let port = |listener, router| {
            let (tls, telemetry, closing) = (tls.clone(), Arc::clone(&telemetry), Arc::clone(&closing));
            Port { listener, tls, router, telemetry, closing }
        };
        let others = keyspaces.into_iter().map(|KeyspacePort { keyspace, advertise, listener }| {
            let entered = etcd::Entered { keyspace: keyspace.into(), address: advertise.into() };
            let mut closed = closed.clone();
            let stop = async move { drop(closed.wait_for(|closing| *closing).await) };
            port(listener, router.clone().layer(Extension(entered))).serve(stop)
        });
        future::join(port(listener, router.clone()).serve(stop), future::join_all(others)).await;
        Ok(())
    }

    fn router(self, watchers: &Watchers) -> Result<Router, ApiError> {
        let face = Face::new(Arc::clone(&self.service), watchers.clone());
        let (request_max, response_max) = (limits::REQUEST_BYTES_MAX, limits::RESPONSE_BYTES_MAX);
        let kv = KvServer::new(face.clone());
        let cluster = ClusterServer::new(face.clone());
        let lease = LeaseServer::new(face.clone());
        let admin = AdminServer::new(face);
        let gate = Arc::new(Gate::new(self.requests_in_flight_max, Arc::clone(&self.telemetry)));
        let ours = Router::new();
        let ours = with(ours, kv.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = with(ours, lease.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = with(ours, cluster.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let ours = with(ours, admin.max_decoding_message_size(request_max).max_encoding_message_size(response_max));
        let etcd = etcd::Etcd::new(Arc::clone(&self.service), watchers.clone(), self.watch_progress);
        let (kv, lease) = (KVServer::new(etcd.clone()), EtcdLeaseServer::new(etcd.clone()));
        let (cluster, auth) = (EtcdClusterServer::new(etcd.clone()), AuthServer::new(etcd.clone()));
        let watch = WatchServer::new(etcd.clone());
        let (lock, election) = (LockServer::new(etcd.clone()), ElectionServer::new(etcd.clone()));
        let maintenance = MaintenanceServer::new(etcd);
        let ours = with(ours, kv.max_decoding_message_size(request_max).max_encoding_message_size(ETCD_ANSWER_MAX));
        let ours = with(ours, lease.max_decoding_message_size(request_max).max_encoding_message_size(ETCD_ANSWER_MAX));
        let ours = with(ours, cluster.max_decoding_message_size(request_max));
        let ours = with(ours, auth.max_decoding_message_size(request_max));
        let ours = with(ours, lock.max_decoding_message_size(request_max));
        let ours = with(ours, election.max_decoding_message_size(request_max));
        // All events of a revision go out in one answer, however large, unless the client asks for fragments.
        let ours = with(ours, watch.max_decoding_message_size(request_max));
        let ours = with(ours, maintenance.max_decoding_message_size(request_max));
        let ours = ours.layer(middleware::from_fn_with_state(gate, gate::pass));
        let gateway = etcd::gateway::router(&ours).map_err(|error| ApiError::Gateway(error.to_string()))?;
        let health = health::Readable::new(Arc::clone(&self.service), watchers.clone());
        let router = http::router(self.service, self.telemetry).merge(ours).merge(gateway);
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
