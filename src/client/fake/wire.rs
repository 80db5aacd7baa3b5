//! In-memory streams between a client and scripted nodes, which a test can break.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tower_service::Service;

use super::service::Node;
use crate::env::net::{BoxFuture, Listener, Network, Stream};
use crate::proto::v1::admin_server::AdminServer;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::kv_server::KvServer;
use crate::proto::v1::lease_server::LeaseServer;

const PIPE_BYTES: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Up,
    Down,
    Blackhole,
}

struct Port {
    reach: Reach,
    incoming: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    broken: CancellationToken,
    connects: usize,
}

/// A network of named ports.
#[derive(Default)]
pub(crate) struct MemoryNetwork {
    ports: Mutex<BTreeMap<String, Port>>,
}

impl MemoryNetwork {
    pub(crate) fn stop(&self, address: &str) {
        self.set(address, Reach::Down);
        self.break_connections(address);
    }

    pub(crate) fn restart(&self, address: &str) {
        self.set(address, Reach::Up);
    }

    pub(crate) fn blackhole(&self, address: &str) {
        self.set(address, Reach::Blackhole);
        self.break_connections(address);
    }

    fn set(&self, address: &str, reach: Reach) {
        self.ports.lock().get_mut(address).unwrap().reach = reach;
    }

    pub(crate) fn break_connections(&self, address: &str) {
        let mut ports = self.ports.lock();
        let port = ports.get_mut(address).unwrap();
        std::mem::take(&mut port.broken).cancel();
    }

    /// How often somebody tried to connect.
    pub(crate) fn connects(&self, address: &str) -> usize {
        self.ports.lock()[address].connects
    }
}

impl Network for MemoryNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let reach = {
                let mut ports = self.ports.lock();
                let port = ports.get_mut(address).ok_or(io::ErrorKind::NotFound)?;
                port.connects += 1;
                port.reach
            };
            match reach {
                Reach::Up => {}
                Reach::Down => return Err(io::ErrorKind::ConnectionRefused.into()),
                Reach::Blackhole => std::future::pending().await,
            }
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let ports = self.ports.lock();
            ports[address].incoming.send(Ok(far)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let broken = Box::pin(ports[address].broken.clone().cancelled_owned());
            Ok(Box::new(Breakable { stream: near, broken }) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct Breakable {
    stream: DuplexStream,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Breakable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves a scripted node at `address`.
pub(crate) fn serve(net: &MemoryNetwork, address: &str, node: Node) {
    let (incoming, connections) = mpsc::unbounded_channel();
    let port = Port { reach: Reach::Up, incoming, broken: CancellationToken::new(), connects: 0 };
    net.ports.lock().insert(address.to_owned(), port);
    let services = Services {
        kv: KvServer::new(node.clone()),
        cluster: ClusterServer::new(node.clone()),
        lease: LeaseServer::new(node.clone()),
        admin: AdminServer::new(node),
    };
    let connections = futures_util::stream::unfold(connections, |mut connections| async move {
        connections.recv().await.map(|connection| (connection, connections))
    });
    tokio::spawn(async move {
        tonic::transport::Server::builder().serve_with_incoming(services, connections).await.unwrap();
    });
}

#[derive(Clone)]
struct Services {
    kv: KvServer<Node>,
    cluster: ClusterServer<Node>,
    lease: LeaseServer<Node>,
    admin: AdminServer<Node>,
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/quorate.v1.Kv/") {
            Box::pin(self.kv.call(request))
        } else if path.starts_with("/quorate.v1.Cluster/") {
            Box::pin(self.cluster.call(request))
        } else if path.starts_with("/quorate.v1.Lease/") {
            Box::pin(self.lease.call(request))
        } else {
            Box::pin(self.admin.call(request))
        }
    }
}
