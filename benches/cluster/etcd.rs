//! Three etcd processes with their own fsync, over the part of their gRPC API that is measured.
//! The messages are etcd's `rpc.proto`, only as far as they are used here.

use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::processes::{Processes, places};

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// Without further fields it reads the newest value, linearizably.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Starts a cluster; `None` when etcd is not installed.
pub(crate) async fn start(root: &Path) -> Option<Processes> {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.ok().filter(std::process::ExitStatus::success)?;
    let places = places(root, "etcd");
    let cluster: Vec<_> = places.iter().map(|place| format!("{}=http://{}", place.name, place.peer)).collect();
    let cluster = cluster.join(",");
    let processes = Processes::start(&places, |place| {
        let (client, peer) = (format!("http://{}", place.client), format!("http://{}", place.peer));
        let mut command = Command::new("etcd");
        command.args(["--name", &place.name, "--logger", "zap", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster, "--data-dir"]).arg(&place.dir);
        command
    });
    processes.wait(async |endpoint| leads(endpoint).await.is_ok()).await;
    Some(processes)
}

/// A connection to one etcd process.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
}

/// A connection of its own to the leader, as kvd's clients have it.
pub(crate) async fn connect(processes: &Processes) -> Client {
    loop {
        for endpoint in processes.clients() {
            if leads(&endpoint).await == Ok(true) {
                return Client::connect(&endpoint).await.expect("a connection");
            }
        }
    }
}

/// Whether the node at `endpoint` leads; an error while it knows no leader.
async fn leads(endpoint: &str) -> Result<bool, String> {
    let client = Client::connect(endpoint).await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
    let status: StatusResponse = client.call(path, StatusRequest {}).await.map_err(|error| error.to_string())?;
    match status.leader {
        0 => Err("no leader yet".to_owned()),
        leader => Ok(status.header.is_some_and(|header| header.member_id == leader)),
    }
}

impl Client {
    async fn connect(endpoint: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an address");
        Ok(Self { channel: endpoint.tcp_nodelay(true).connect().await? })
    }

    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let _: PutResponse = self.call(path, PutRequest { key, value }).await?;
        Ok(())
    }

    pub(crate) async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let answer: RangeResponse = self.call(path, RangeRequest { key }).await?;
        Ok(answer.kvs.into_iter().next().map(|record| record.value))
    }

    async fn call<Q, A>(&self, path: PathAndQuery, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }
}
