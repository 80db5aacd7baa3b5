//! Connections to one node each, over the network of the world.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use quorate::env::net::{Network, Stream};
use quorate::env::time;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::Setup;
use crate::world::net::SimNetwork;

/// Time to open a connection before another node is tried.
const CONNECT: Duration = Duration::from_secs(1);
/// A connection that is silent for so long is probed, and given up after as long again.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// Opens a connection to a node; it never opens another by itself.
pub(super) async fn connect(setup: &Setup, endpoint: &str) -> Option<Channel> {
    let network = SimNetwork::new(setup.host, setup.network.clone());
    let connector = Connector { network: Arc::new(network), address: endpoint.to_owned(), used: false };
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).ok()?;
    let endpoint =
        endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE).keep_alive_while_idle(true);
    match time::timeout(CONNECT, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Some(channel),
        Ok(Err(_)) | Err(_) => {
            // A host that is down refuses at once, and it should not be asked again at once.
            time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// Opens one stream through the network of the world, once.
struct Connector {
    network: Arc<SimNetwork>,
    address: String,
    used: bool,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (network, address) = (self.network.clone(), self.address.clone());
        let spent = std::mem::replace(&mut self.used, true);
        Box::pin(async move {
            if spent {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection was closed"));
            }
            network.connect(&address).await.map(TokioIo::new)
        })
    }
}
