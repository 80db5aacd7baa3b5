//! The client port, met as clients meet it: over a socket, with a node that does as the test tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::watchers::Watchers;
use super::{Api, ApiError};
use crate::env::net::{BoxFuture, Listener, Network, Stream, TcpNetwork};
use crate::env::time::{self, Instant};
use crate::node::{Failure, OnlyShard, Readiness, Service, Telemetry};
use crate::proto::etcd::v3lockpb::LockRequest;
use crate::proto::etcd::v3lockpb::lock_client::LockClient;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::kv_client::KvClient;
use crate::proto::v1::operation::Kind;
use crate::proto::v1::operation_result::Kind as ResultKind;
use crate::proto::v1::{self, ErrorCode, ErrorDetail, Outcome};
use crate::proto::{REFLECTION, rpc};
use crate::types::limits;

/// A node that does what the key of a request says.
struct Fake {
    ready: AtomicBool,
    version: watch::Sender<u64>,
    released: Semaphore,
    deadline: Mutex<Option<Instant>>,
    transactions: Mutex<Vec<v1::Transaction>>,
}

impl Fake {
    async fn obey(&self, key: &[u8], deadline: Instant) -> Result<v1::Record, Failure> {
        *self.deadline.lock() = Some(deadline);
        let mut value = Bytes::from_static(b"value");
        match key {
            b"" => return Err(Failure::refused(ErrorCode::InvalidArgument, "the key is empty")),
            b"headless" => return Err(headless()),
            b"held" => drop(self.released.acquire().await),
            b"late" => {
                time::sleep_until(deadline).await;
                return Err(Failure::unknown(ErrorCode::Timeout, "no answer in time"));
            }
            b"stuck" => std::future::pending().await,
            b"huge" => value = vec![0; limits::RESPONSE_BYTES_MAX].into(),
            _ => {}
        }
        Ok(v1::Record { key: Bytes::copy_from_slice(key), value, ..Default::default() })
    }
}

fn headless() -> Failure {
    let mut failure = Failure::retry(ErrorCode::NoLeader, "shard g2 has no leader");
    failure.detail.leader_address = "127.0.0.1:2381".to_owned();
    failure
}

macro_rules! unsupported {
    ($($name:ident: $request:ident -> $response:ident;)*) => {
        $(async fn $name(&self, _: v1::$request, _: Instant) -> Result<v1::$response, Failure> {
            Err(Failure::refused(ErrorCode::Internal, "not in this test"))
        })*
    };
}

impl Service for Fake {
    async fn get(&self, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetResponse, Failure> {
        let record = self.obey(&request.key, deadline).await?;
        Ok(v1::GetResponse { record: Some(record), ..Default::default() })
    }

    async fn put(&self, request: v1::PutRequest, deadline: Instant) -> Result<v1::PutResponse, Failure> {
        let record = self.obey(&request.key, deadline).await?;
        Ok(v1::PutResponse { previous: Some(record), ..Default::default() })
    }

    /// Each is the seventh revision, once it is released. A key that is to be made may be there since the third.
    async fn txn(&self, request: v1::TxnRequest, _: Instant) -> Result<v1::TxnResponse, Failure> {
        let transaction = request.transaction.unwrap_or_default();
        let key = transaction.compares.first().map(|compare| compare.key.clone()).unwrap_or_default();
        self.transactions.lock().push(transaction);
        self.released.acquire().await.expect("it stays open").forget();
        let mut result = v1::TransactionResult { succeeded: true, revision: 7, ..Default::default() };
        if key.starts_with(b"old") {
            let record = v1::Record { key, create_revision: 3, mod_revision: 7, ..Default::default() };
            let range = v1::operation_result::RangeResult { records: vec![record], count: 1, more: false };
            let kinds = [ResultKind::Put(v1::operation_result::PutResult::default()), ResultKind::Range(range)];
            result.succeeded = false;
            result.results = kinds.map(|kind| v1::OperationResult { kind: Some(kind) }).to_vec();
        }
        Ok(v1::TxnResponse { result: Some(result), ..Default::default() })
    }

    unsupported! {
        delete: DeleteRequest -> DeleteResponse;
        scan: ScanRequest -> ScanResponse;
        count: CountRequest -> CountResponse;
        batch: BatchRequest -> BatchResponse;
        events: EventsRequest -> EventsResponse;
        changes: EventsRequest -> EventsResponse;
        compact: CompactRequest -> CompactResponse;
        grant_lease: GrantLeaseRequest -> GrantLeaseResponse;
        revoke_lease: RevokeLeaseRequest -> RevokeLeaseResponse;
        renew_lease: RenewLeaseRequest -> RenewLeaseResponse;
        lease_time: LeaseTimeRequest -> LeaseTimeResponse;
        leases: LeasesRequest -> LeasesResponse;
        open_session: OpenSessionRequest -> OpenSessionResponse;
        close_session: CloseSessionRequest -> CloseSessionResponse;
        move_leader: MoveLeaderRequest -> MoveLeaderResponse;
        change_replicas: ChangeReplicasRequest -> ChangeReplicasResponse;
        operations: OperationsRequest -> OperationsResponse;
        cancel_operation: CancelOperationRequest -> CancelOperationResponse;
        add_member: AddMemberRequest -> AddMemberResponse;
        remove_member: RemoveMemberRequest -> RemoveMemberResponse;
        create_keyspace: CreateKeyspaceRequest -> CreateKeyspaceResponse;
        update_keyspace: UpdateKeyspaceRequest -> UpdateKeyspaceResponse;
        drop_keyspace: DropKeyspaceRequest -> DropKeyspaceResponse;
    }

    async fn relocate_member(&self, _: crate::types::NodeId, _: String, _: Instant) -> Result<(), Failure> {
        Ok(())
    }

    fn only_shard(&self, _: &str) -> Result<OnlyShard, Failure> {
        Ok(OnlyShard::default())
    }

    fn watched_shard(&self, _: Option<&v1::Target>, _: &[v1::KeyRange]) -> Result<u64, Failure> {
        Ok(0)
    }

    fn watch_revision(&self, _: u64) -> Option<watch::Receiver<crate::types::Revision>> {
        None
    }

    fn identity(&self) -> (u64, u64) {
        (1, 1)
    }

    fn speaks_tls(&self) -> (bool, bool) {
        (false, false)
    }

    fn members(&self) -> v1::MembersResponse {
        v1::MembersResponse::default()
    }

    fn map(&self) -> v1::MapResponse {
        v1::MapResponse { version: *self.version.borrow(), ..Default::default() }
    }

    fn watch_map(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn status(&self) -> v1::StatusResponse {
        v1::StatusResponse::default()
    }

    fn shards(&self, _: v1::ShardsRequest) -> Result<v1::ShardsResponse, Failure> {
        Err(Failure::refused(ErrorCode::KeyspaceNotFound, "there is no such keyspace"))
    }

    fn readiness(&self) -> Readiness {
        let ready = self.ready.load(Ordering::Relaxed);
        Readiness { ready, reason: if ready { String::new() } else { "the log is being recovered".to_owned() } }
    }

    fn metrics(&self) -> String {
        "# TYPE quorate_node_groups gauge\nquorate_node_groups 2\n# EOF\n".to_owned()
    }
}

/// A served fake on a port of its own.
struct Served {
    node: Arc<Fake>,
    address: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ApiError>>,
}

fn api(places: usize) -> Api<Fake> {
    let (version, _) = watch::channel(1);
    let (released, deadline) = (Semaphore::new(0), Mutex::default());
    let node = Fake { ready: true.into(), version, released, deadline, transactions: Mutex::default() };
    Api {
        keyspaces: Vec::new(),
        service: Arc::new(node),
        telemetry: Arc::new(Telemetry::default()),
        requests_in_flight_max: places,
        watch_progress: Duration::from_secs(600),
        tls: None,
    }
}

async fn served(places: usize) -> Served {
    let listener = TcpNetwork.listen("127.0.0.1:0").await.expect("a port");
    let address = listener.local_address().expect("its address").to_string();
    let api = api(places);
    let node = Arc::clone(&api.service);
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(api.serve(listener, async { drop(stopped.await) }));
    Served { node, address, stop, server }
}

impl Served {
    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        endpoint.connect().await.expect("a connection")
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    async fn http(&self, request: &str) -> String {
        let answer = self.bytes(request.as_bytes()).await;
        String::from_utf8(answer).expect("text")
    }

    /// Sends bytes and reads until the server closes.
    async fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpNetwork.connect(&self.address).await.expect("a connection");
        stream.write_all(bytes).await.expect("sent");
        stream.shutdown().await.expect("sent");
        let mut answer = Vec::new();
        // A reset is as good an answer to garbage as an end.
        time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("an end").ok();
        answer
    }

    async fn page(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")).await
    }
}

fn get(key: &'static [u8]) -> v1::GetRequest {
    v1::GetRequest { key: Bytes::from_static(key), ..Default::default() }
}

fn put(key: &'static [u8], value: usize) -> v1::PutRequest {
    v1::PutRequest { key: Bytes::from_static(key), value: vec![7; value].into(), ..Default::default() }
}

fn detail(status: &Status) -> ErrorDetail {
    let details = rpc::Status::decode(status.details()).expect("a google.rpc.Status");
    assert_eq!(details.code, i32::from(status.code()));
    ErrorDetail::decode(details.details.first().expect("a detail").value.as_slice()).expect("an ErrorDetail")
}

#[tokio::test]
async fn answers_and_failures_reach_the_client() {
    let served = served(8).await;
    let mut kv = served.kv().await;
    let answer = kv.get(get(b"a")).await.expect("an answer").into_inner();
    assert_eq!(answer.record.expect("a record").value, b"value".as_slice());
    let status = kv.put(put(b"headless", 1)).await.expect_err("no leader");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "shard g2 has no leader"));
    assert_eq!(detail(&status), headless().detail);
    let metrics = served.page("/metrics").await;
    for line in [
        r#"quorate_api_requests_total{method="Kv.Get",outcome="ok"} 1"#,
        r#"quorate_api_requests_total{method="Kv.Put",outcome="no_leader"} 1"#,
        "quorate_api_requests_in_flight 0",
        "quorate_node_groups 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    assert_eq!(metrics.matches("# EOF").count(), 1);
}

#[tokio::test]
async fn messages_have_limits() {
    let served = served(8).await;
    let mut kv = served.kv().await;
    // What the encoding adds to the value.
    let frame = put(b"a", 2_000_000).encoded_len() - 2_000_000;
    kv.put(put(b"a", limits::REQUEST_BYTES_MAX - frame)).await.expect("exactly at the limit");
    for value in [limits::REQUEST_BYTES_MAX - frame + 1, 3 << 20, 64 << 20] {
        let request = put(b"a", value);
        let actual = request.encoded_len() as u64;
        let status = kv.put(request).await.expect_err("too large");
        let detail = detail(&status);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!((detail.code(), detail.outcome()), (ErrorCode::LimitExceeded, Outcome::NotApplied));
        assert_eq!((&*detail.limit, detail.limit_value), ("request_bytes_max", limits::REQUEST_BYTES_MAX as u64));
        assert_eq!(detail.actual_value, actual);
    }
    let read = detail(&kv.get(get(b"huge")).await.expect_err("too large an answer"));
    assert_eq!(
        (read.code(), read.outcome(), &*read.limit),
        (ErrorCode::LimitExceeded, Outcome::NotApplied, "response_bytes_max")
    );
    let written = detail(&kv.put(put(b"huge", 1)).await.expect_err("too large an answer"));
    assert_eq!((written.code(), written.outcome()), (ErrorCode::LimitExceeded, Outcome::Applied));
    kv.get(get(b"a")).await.expect("the connection still works");
}

#[tokio::test]
async fn the_callers_deadline_reaches_the_service_and_comes_back_with_an_outcome() {
    let served = served(8).await;
    let mut kv = served.kv().await;
    let before = time::now();
    kv.get(get(b"a")).await.expect("an answer");
    let deadline = served.node.deadline.lock().expect("a deadline");
    assert!(deadline >= before + limits::REQUEST_TIMEOUT_DEFAULT);
    assert!(deadline <= time::now() + limits::REQUEST_TIMEOUT_DEFAULT);
    let mut request = Request::new(put(b"late", 1));
    request.set_timeout(Duration::from_secs(1));
    let status = kv.put(request).await.expect_err("too late");
    assert_eq!((status.code(), detail(&status).outcome()), (Code::DeadlineExceeded, Outcome::Unknown));
}

#[tokio::test]
async fn requests_in_flight_are_limited_and_looking_is_not() {
    let served = served(1).await;
    let mut kv = served.kv().await;
    let mut first = served.kv().await;
    let held = tokio::spawn(async move { first.get(get(b"held")).await });
    let overloaded = loop {
        match kv.get(get(b"a")).await {
            // The first request is still on its way.
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_eq!(overloaded.code(), Code::ResourceExhausted);
    let detail = detail(&overloaded);
    assert_eq!((detail.code(), detail.outcome()), (ErrorCode::Overloaded, Outcome::NotApplied));
    assert_eq!((&*detail.limit, detail.limit_value, detail.retryable), ("requests_in_flight_max", 1, true));
    ClusterClient::new(served.channel().await).map(v1::MapRequest {}).await.expect("the map needs no place");
    assert!(served.page("/metrics").await.contains("quorate_api_requests_in_flight 1\n"));
    served.node.released.add_permits(1);
    held.await.expect("no panic").expect("an answer");
    kv.get(get(b"a")).await.expect("the place is free again");
}

/// One gRPC request that no well-behaved client sends, without a socket.
async fn raw(path: &str, headers: &[(&'static str, &str)], body: Vec<u8>) -> (Status, Duration) {
    let (_closing, closed) = watch::channel(false);
    let mut router = api(8).router(&Watchers::new(closed)).expect("a router");
    let mut request = http::Request::post(path).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(axum::body::Body::from(body)).expect("a request");
    let began = time::now();
    let answer = tower_service::Service::call(&mut router, request).await.expect("an answer");
    (Status::from_header_map(answer.headers()).expect("a failure"), time::now() - began)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0], length.as_slice(), message].concat()
}

#[tokio::test]
async fn malformed_requests_are_named() {
    const PUT: &str = "/quorate.v1.Kv/Put";
    for body in [
        vec![],
        vec![0, 0],
        vec![9, 0, 0, 0, 1, 0],
        vec![0, 0, 0, 0, 9, 1],
        framed(b"\xff\xff\xff\xff\xff"),
        framed(b"\x12\x7f"),
        [&[1], &framed(b"")[1..]].concat(),
    ] {
        let (status, _) = raw(PUT, &[], body.clone()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{body:?}: {status:?}");
        let detail = detail(&status);
        assert_eq!((detail.code(), detail.outcome()), (ErrorCode::InvalidArgument, Outcome::NotApplied));
    }
    let (status, _) = raw(PUT, &[("grpc-timeout", "soon")], framed(b"")).await;
    assert_eq!(detail(&status).code(), ErrorCode::InvalidArgument);
    let (status, _) = raw(PUT, &[("grpc-timeout", "0S")], framed(b"")).await;
    assert_eq!((status.code(), detail(&status).outcome()), (Code::DeadlineExceeded, Outcome::NotApplied));
    for path in ["/quorate.v1.Kv/Steal", "/quorate.v1.Nothing/Get", "/x"] {
        assert_eq!(raw(path, &[], framed(b"")).await.0.code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_founded_has_no_list_of_members_for_etcds_clients() {
    let (status, _) = raw("/etcdserverpb.Cluster/MemberList", &[], framed(b"")).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("no list of members yet"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_misses_its_deadline_is_answered_for() {
    for (path, request, outcome) in [
        ("/quorate.v1.Kv/Put", put(b"stuck", 1).encode_to_vec(), Outcome::Unknown),
        ("/quorate.v1.Kv/Get", get(b"stuck").encode_to_vec(), Outcome::NotApplied),
    ] {
        let (status, took) = raw(path, &[("grpc-timeout", "2S")], framed(&request)).await;
        assert_eq!((status.code(), detail(&status).outcome()), (Code::DeadlineExceeded, outcome));
        assert!(took >= Duration::from_millis(1_900) && took <= Duration::from_millis(2_500), "{took:?}");
    }
}

#[tokio::test]
async fn pages_have_etcds_shapes() {
    let served = served(8).await;
    let health = served.page("/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.contains("content-type: application/json\r\n"), "{health}");
    assert!(health.ends_with("\r\n\r\n{\"health\":\"true\",\"reason\":\"\"}"), "{health}");
    assert!(served.page("/readyz").await.ends_with("\r\n\r\nok\n"));
    let version = env!("CARGO_PKG_VERSION");
    let wanted = format!("{{\"etcdserver\":\"3.4.0+quorate.{version}\",\"etcdcluster\":\"3.4.0\"}}");
    assert!(served.page("/version").await.ends_with(&wanted));
    served.node.ready.store(false, Ordering::Relaxed);
    let health = served.page("/health").await;
    assert!(health.starts_with("HTTP/1.1 503 "), "{health}");
    assert!(health.ends_with("{\"health\":\"false\",\"reason\":\"the log is being recovered\"}"), "{health}");
    let readyz = served.page("/readyz").await;
    assert!(readyz.starts_with("HTTP/1.1 503 ") && readyz.ends_with("the log is being recovered\n"), "{readyz}");
    assert!(served.page("/nothing").await.starts_with("HTTP/1.1 404 "));
    let post = "POST /health HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(served.http(post).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn malformed_bytes_do_not_hurt_the_server() {
    let served = served(8).await;
    let mut random = vec![0; 64 * 1024];
    rand::TryRng::try_fill_bytes(&mut crate::env::chance::rng(), &mut random).expect("random bytes");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let long_header = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(limits::HEADER_BYTES_MAX as usize));
    for bytes in [
        b"".as_slice(),
        b"\0\0\0\0",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &random,
        &[preface.as_slice(), &random].concat(),
        &[preface.as_slice(), &[0xff; 9]].concat(),
        long_header.as_bytes(),
    ] {
        let mut stream = TcpNetwork.connect(&served.address).await.expect("a connection");
        // The server may hang up before it has read all of it.
        stream.write_all(bytes).await.ok();
        stream.shutdown().await.ok();
        let end = time::timeout(Duration::from_secs(20), stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the server keeps {:?} open", bytes.get(..24));
    }
    let refused = served.http(&long_header).await;
    assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");
    served.kv().await.get(get(b"a")).await.expect("the server still serves");
}

#[tokio::test]
async fn health_and_reflection_speak_the_standard_protocols() {
    let served = served(8).await;
    let mut health = HealthClient::new(served.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(ask("")).await.expect("health").into_inner().status, 1);
    assert_eq!(health.check(ask("quorate.v1.Kv")).await.expect("health").into_inner().status, 1);
    assert_eq!(health.check(ask("nothing")).await.expect_err("unknown").code(), Code::NotFound);
    let mut watched = health.watch(ask("")).await.expect("a watch").into_inner();
    assert_eq!(watched.message().await.expect("a state").expect("a state").status, 1);
    served.node.ready.store(false, Ordering::Relaxed);
    assert_eq!(watched.message().await.expect("a state").expect("a state").status, 2);
    assert_eq!(health.check(ask("")).await.expect("health").into_inner().status, 2);
    let files = prost_types::FileDescriptorSet::decode(REFLECTION).expect("descriptors");
    assert!(files.file.iter().all(|file| !file.package().contains("internal")));
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut reflection = ServerReflectionClient::new(served.channel().await);
    let answers = reflection.server_reflection_info(futures_util::stream::iter([request])).await;
    let answer = answers.expect("reflection").into_inner().message().await.expect("reflection").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("no list") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["quorate.v1.Kv", "quorate.v1.Cluster", "quorate.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} is missing in {names:?}");
    }
}

#[tokio::test]
async fn stopping_tells_watchers_and_lets_requests_finish() {
    let served = served(8).await;
    let mut cluster = ClusterClient::new(served.channel().await);
    let mut map = cluster.watch_map(v1::WatchMapRequest {}).await.expect("a watch").into_inner();
    assert_eq!(map.message().await.expect("a map").expect("a map").version, 1);
    served.node.version.send_replace(5);
    assert_eq!(map.message().await.expect("a map").expect("a map").version, 5);
    let mut kv = served.kv().await;
    let held = tokio::spawn(async move { kv.get(get(b"held")).await });
    while served.node.deadline.lock().is_none() {
        tokio::task::yield_now().await;
    }
    served.stop.send(()).expect("it runs");
    let status = map.message().await.expect_err("the end");
    assert_eq!((status.code(), detail(&status).code()), (Code::Unavailable, ErrorCode::Unavailable));
    assert!(TcpNetwork.connect(&served.address).await.is_err(), "the port is closed while requests finish");
    served.node.released.add_permits(1);
    held.await.expect("no panic").expect("an answer after the stop");
    served.server.await.expect("no panic").expect("a clean end");
}

/// What a call for a lock does that goes away while its key is being put.
async fn farewell(name: &'static str) -> v1::Transaction {
    let served = served(8).await;
    let mut locks = LockClient::new(served.channel().await);
    let lock = tokio::spawn(async move { locks.lock(LockRequest { name: name.into(), lease: 5 }).await });
    let asked = || served.node.transactions.lock().clone();
    while asked().is_empty() {
        tokio::task::yield_now().await;
    }
    lock.abort();
    while !served.page("/metrics").await.contains("outcome=\"cancelled\"") {
        tokio::task::yield_now().await;
    }
    served.node.released.add_permits(2);
    while asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    asked().remove(1)
}

#[tokio::test]
async fn who_goes_away_while_its_place_in_a_line_is_taken_does_not_stand_in_it() {
    let key = Bytes::from_static(b"name/5");
    let compare = |key, operand| v1::Compare { key, operand: Some(operand), ..Default::default() };
    let delete = v1::DeleteRange { key: key.clone(), ..Default::default() };
    let expected = v1::Transaction {
        compares: vec![compare(key, Operand::ModRevision(7))],
        success: vec![v1::Operation { kind: Some(Kind::Delete(delete)) }],
        failure: Vec::new(),
    };
    let equal = |mut transaction: v1::Transaction| {
        assert_eq!(transaction.compares[0].relation(), Relation::Equal);
        transaction.compares[0].relation = 0;
        transaction
    };
    assert_eq!(equal(farewell("name").await), expected);

    // Where another call made the key it goes only while somebody older stands in the line.
    let key = Bytes::from_static(b"old/5");
    let delete = v1::DeleteRange { key: key.clone(), ..Default::default() };
    let older = v1::Compare {
        range_end: Bytes::from_static(b"old0"),
        relation: Relation::Greater.into(),
        ..compare(Bytes::from_static(b"old/"), Operand::CreateRevision(2))
    };
    let unless_first = v1::Transaction {
        compares: vec![older],
        success: Vec::new(),
        failure: vec![v1::Operation { kind: Some(Kind::Delete(delete)) }],
    };
    let expected = v1::Transaction {
        compares: vec![compare(key, Operand::ModRevision(7))],
        success: vec![v1::Operation { kind: Some(Kind::Transaction(unless_first)) }],
        failure: Vec::new(),
    };
    assert_eq!(equal(farewell("old").await), expected);
}

/// Hands out one connection, then none.
struct OneStream(Mutex<Option<tokio::io::DuplexStream>>);

impl Listener for OneStream {
    fn accept(&self) -> BoxFuture<'_, std::io::Result<(Box<dyn Stream>, std::net::SocketAddr)>> {
        Box::pin(async {
            let stream = self.0.lock().take();
            match stream {
                Some(stream) => Ok((Box::new(stream) as Box<dyn Stream>, ([127, 0, 0, 1], 1).into())),
                None => std::future::pending().await,
            }
        })
    }

    fn local_address(&self) -> std::io::Result<std::net::SocketAddr> {
        Ok(([127, 0, 0, 1], 1).into())
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_say_nothing_are_closed() {
    for opening in ["", "PRI * HT", "GET /health HTTP/1.1\r\nHost: no"] {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let server = tokio::spawn(api(8).serve(Box::new(OneStream(Mutex::new(Some(theirs)))), std::future::pending()));
        ours.write_all(opening.as_bytes()).await.expect("sent");
        let end = time::timeout(Duration::from_secs(30), ours.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "{opening:?} keeps a connection open");
        server.abort();
    }
}
