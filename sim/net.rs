//! turmoil's network behind the network seam.

use std::io;
use std::net::SocketAddr;

use quorate::env::net::{BoxFuture, Listener, Network, Stream};
use turmoil::net::{TcpListener, TcpStream};

/// Connects simulated hosts by name.
pub(crate) struct SimNetwork;

impl Network for SimNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Stream>) })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(SimListener(TcpListener::bind(address).await?)) as Box<dyn Listener>) })
    }
}

struct SimListener(TcpListener);

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
