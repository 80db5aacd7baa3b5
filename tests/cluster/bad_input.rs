//! What clients and strangers send that makes no sense: each gets its error, and the node stays well.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use prost::Message;
use quorate::proto::internal::peer_client::PeerClient;
use quorate::proto::internal::peer_error::Code as PeerCode;
use quorate::proto::internal::{
    AppendFrame, Envelope, ForwardRequest, HelloRequest, Incarnation, PeerError, SnapshotFrame, SnapshotHeader,
    append_reply, snapshot_frame,
};
use quorate::proto::v1::kv_client::KvClient;
use quorate::proto::v1::{
    BatchRequest, Compare, DeleteRequest, ErrorCode, ErrorDetail, GetRequest, Operation, Outcome, Put, PutRequest,
    ScanRequest, SessionStamp, Target, Transaction, TxnRequest, compare, operation,
};
use quorate::proto::{rpc, v1};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::harness::{Cluster, check_filled, eventually, fill};

const KEY_BYTES_MAX: usize = 8 * 1024;
const VALUE_BYTES_MAX: usize = 1536 * 1024;
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a refusal carries for programs.
fn detail(status: &Status) -> ErrorDetail {
    let details = rpc::Status::decode(status.details()).unwrap();
    let first = details.details.first().unwrap_or_else(|| panic!("no detail: {status:?}"));
    ErrorDetail::decode(&*first.value).unwrap()
}

/// Checks a refusal of something that changed nothing and that sending again will not mend.
fn refused(what: &str, status: &Status, code: ErrorCode, grpc: Code) -> ErrorDetail {
    let detail = detail(status);
    assert_eq!((detail.code(), status.code()), (code, grpc), "{what}: {status:?}");
    assert_eq!((detail.outcome(), detail.retryable), (Outcome::NotApplied, false), "{what}: {status:?}");
    assert!(!status.message().is_empty(), "{what}");
    detail
}

fn beyond(what: &str, status: &Status, limit: &str, value: usize, actual: usize) {
    let detail = refused(what, status, ErrorCode::LimitExceeded, Code::InvalidArgument);
    let found = (detail.limit.as_str(), detail.limit_value, detail.actual_value);
    assert_eq!(found, (limit, value as u64, actual as u64), "{what}: {status:?}");
}

fn put(key: impl AsRef<[u8]>, value_bytes: usize) -> PutRequest {
    PutRequest { key: key.as_ref().to_vec().into(), value: vec![b'v'; value_bytes].into(), ..Default::default() }
}

fn put_operation(key: &str) -> Operation {
    let put = Put { key: key.as_bytes().to_vec().into(), ..Default::default() };
    Operation { kind: Some(operation::Kind::Put(put)) }
}

async fn kv(address: &str) -> KvClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    KvClient::new(channel).max_encoding_message_size(64 << 20)
}

/// The cluster serves, on the same processes as before, what it served before.
async fn is_well(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "{} ended:\n{}", node.name, node.output());
        assert!(!node.output().contains("panicked"), "{}", node.output());
    }
    let client = cluster.client().await;
    check_filled(&client, "k", 0..100, 100).await;
    client.put("well", "yes").await.unwrap();
    assert_eq!(client.get("well").await.unwrap().unwrap().value, "yes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limits_get_the_documented_errors() {
    let mut cluster = Cluster::start(3).await;
    fill(&cluster.client().await, "k", 0..100, 100).await;
    let leader = cluster.leader(2).await;
    // Through the leader, and through a node that passes on.
    for node in [leader, (leader + 1) % 3] {
        let mut kv = kv(&cluster.nodes[node].client).await;
        sizes(&mut kv).await;
        counts(&mut kv).await;
        names(&mut kv).await;
    }
    is_well(&mut cluster).await;
    assert!(cluster.client().await.get("never").await.unwrap().is_none());
}

async fn sizes(kv: &mut KvClient<Channel>) {
    let status = kv.put(put("", 1)).await.unwrap_err();
    refused("an empty key", &status, ErrorCode::InvalidArgument, Code::InvalidArgument);
    let status = kv.get(GetRequest::default()).await.unwrap_err();
    refused("an empty key", &status, ErrorCode::InvalidArgument, Code::InvalidArgument);
    let status = kv.delete(DeleteRequest::default()).await.unwrap_err();
    refused("an empty key", &status, ErrorCode::InvalidArgument, Code::InvalidArgument);

    let longest = "l".repeat(KEY_BYTES_MAX);
    kv.put(put(&longest, 0)).await.unwrap();
    let too_long = "l".repeat(KEY_BYTES_MAX + 1);
    let status = kv.put(put(&too_long, 0)).await.unwrap_err();
    beyond("a long key", &status, "key_bytes_max", KEY_BYTES_MAX, KEY_BYTES_MAX + 1);
    let status = kv.get(GetRequest { key: too_long.into(), ..Default::default() }).await.unwrap_err();
    beyond("a long key", &status, "key_bytes_max", KEY_BYTES_MAX, KEY_BYTES_MAX + 1);

    kv.put(put("largest", VALUE_BYTES_MAX)).await.unwrap();
    let read = kv.get(GetRequest { key: "largest".into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(read.record.unwrap().value.len(), VALUE_BYTES_MAX);
    let status = kv.put(put("never", VALUE_BYTES_MAX + 1)).await.unwrap_err();
    beyond("a large value", &status, "value_bytes_max", VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1);

    for bytes in [REQUEST_BYTES_MAX, 16 * REQUEST_BYTES_MAX] {
        let request = put("never", bytes);
        let actual = request.encoded_len();
        let status = kv.put(request).await.unwrap_err();
        beyond("a large request", &status, "request_bytes_max", REQUEST_BYTES_MAX, actual);
    }
    // The connection is as good as before.
    kv.put(put("after", 1)).await.unwrap();
}

async fn counts(kv: &mut KvClient<Channel>) {
    let many = |count: usize| (0..count).map(|number| put_operation(&format!("never{number}"))).collect::<Vec<_>>();
    let transaction = Transaction { success: many(129), ..Default::default() };
    let request = TxnRequest { transaction: Some(transaction), ..Default::default() };
    let status = kv.txn(request).await.unwrap_err();
    beyond("many operations", &status, "txn_operations_max", 128, 129);
    let status = kv.batch(BatchRequest { operations: many(129), ..Default::default() }).await.unwrap_err();
    beyond("a large batch", &status, "batch_operations_max", 128, 129);
    let status = kv.scan(ScanRequest { limit: 10_001, ..Default::default() }).await.unwrap_err();
    beyond("a large page", &status, "page_records_max", 10_000, 10_001);
    let status = kv.put(PutRequest { ttl_ms: u64::MAX, ..put("never", 1) }).await.unwrap_err();
    let detail = refused("a long life", &status, ErrorCode::LimitExceeded, Code::InvalidArgument);
    assert_eq!((detail.limit.as_str(), detail.actual_value), ("ttl_ms_max", u64::MAX));

    let twice = Transaction { success: vec![put_operation("never"), put_operation("never")], ..Default::default() };
    let nothing = Transaction { success: vec![Operation::default()], ..Default::default() };
    let vague = Compare { key: "k".into(), operand: Some(compare::Operand::Version(1)), ..Default::default() };
    let vague = Transaction { compares: vec![vague], ..Default::default() };
    let request = TxnRequest { transaction: Some(twice), ..Default::default() };
    let status = kv.txn(request).await.unwrap_err();
    refused("a key twice", &status, ErrorCode::DuplicateKey, Code::InvalidArgument);
    for (what, transaction) in [("an empty operation", nothing), ("no relation", vague)] {
        let request = TxnRequest { transaction: Some(transaction), ..Default::default() };
        let status = kv.txn(request).await.unwrap_err();
        refused(what, &status, ErrorCode::InvalidArgument, Code::InvalidArgument);
    }
}

async fn names(kv: &mut KvClient<Channel>) {
    let target =
        |keyspace: &str, shard_id, shard_epoch| Some(Target { keyspace: keyspace.to_owned(), shard_id, shard_epoch });
    let status = kv.put(PutRequest { target: target("nowhere", 0, 0), ..put("never", 1) }).await.unwrap_err();
    refused("an unknown keyspace", &status, ErrorCode::KeyspaceNotFound, Code::NotFound);
    assert!(status.message().contains("nowhere") && status.message().contains("default"), "{status:?}");
    let status = kv.put(PutRequest { target: target("", 77, 1), ..put("never", 1) }).await.unwrap_err();
    assert_eq!(detail(&status).code(), ErrorCode::WrongShard, "{status:?}");
    let session = Some(SessionStamp { session_id: 77, sequence: 1, lowest_unacknowledged: 1 });
    let status = kv.put(PutRequest { session, ..put("never", 1) }).await.unwrap_err();
    let detail = detail(&status);
    // For a write that was tried before, an unknown session says nothing of its outcome.
    assert_eq!(detail.code(), ErrorCode::SessionNotFound, "{status:?}");
    let status = kv.scan(ScanRequest { page_token: "nonsense".into(), ..Default::default() }).await.unwrap_err();
    refused("a page token", &status, ErrorCode::PageToken, Code::InvalidArgument);
    let status = kv.get(GetRequest { key: "k".into(), revision: u64::MAX, ..Default::default() }).await.unwrap_err();
    assert_eq!(self::detail(&status).code(), ErrorCode::FutureRevision, "{status:?}");
}

/// Sends bytes; returns what came back until the other side closed, or nothing after a while.
fn send(address: &str, bytes: &[u8], close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // The other side may have had enough before all was sent.
    stream.write_all(bytes).ok();
    if close {
        stream.shutdown(Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame whose announced length may be a lie.
fn frame(announced: u32, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = announced.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

/// Bytes that no client of ours sends.
fn garbage() -> Vec<Vec<u8>> {
    let settings = frame(0, 4, 0, 0, &[]);
    let after_settings = |more: Vec<u8>| [PREFACE, &settings, &more].concat();
    let mut state = 7_u64;
    let mut random = |count: usize| {
        let bytes = (0..count).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        bytes.collect::<Vec<_>>()
    };
    let mut all = vec![
        Vec::new(),
        vec![0],
        vec![0xff; 100_000],
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PUT \0\xff HTTP/1.1\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nHost: x\r\nA: ".as_slice(), &vec![b'a'; 200_000], b"\r\n\r\n"].concat(),
        b"POST /quorate.v1.Kv/Put HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec(),
        // TLS, to a port that speaks none.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        PREFACE.to_vec(),
        PREFACE[..20].to_vec(),
        // A frame of 16 MiB, announced and begun.
        after_settings(frame(0x00ff_ffff, 0, 0, 1, &[0; 64])),
        // Data on a stream that was never opened; headers that are no HPACK; a window of nothing.
        after_settings(frame(4, 0, 0, 3, &[1, 2, 3, 4])),
        after_settings(frame(8, 1, 4, 1, &[0xff; 8])),
        after_settings(frame(4, 8, 0, 0, &[0; 4])),
        after_settings(frame(5, 4, 0, 0, &[0; 5])),
        // Headers that are continued and continued.
        after_settings([frame(0, 1, 0, 1, &[]), frame(1_000, 9, 0, 1, &[0x40; 1_000]).repeat(200)].concat()),
        // Streams that are reset as soon as they are opened.
        after_settings(
            (0..2_000)
                .flat_map(|at| {
                    [frame(1, 1, 4, 2 * at + 1, &[0x82]), frame(4, 3, 0, 2 * at + 1, &[0, 0, 0, 8])].concat()
                })
                .collect(),
        ),
    ];
    for count in [10, 1_000, 100_000] {
        all.push(random(count));
        let noise = random(count);
        all.push(after_settings(noise));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_either_port_harms_nobody() {
    let mut cluster = Cluster::start(3).await;
    fill(&cluster.client().await, "k", 0..100, 100).await;
    let leader = cluster.leader(2).await;
    let addresses = [cluster.nodes[leader].client.clone(), cluster.nodes[leader].peer.clone()];
    // Connections that say nothing, or a byte at a time, stay open beside all of it.
    let slow: Vec<_> = (0..200)
        .map(|at| {
            let mut stream = TcpStream::connect(&addresses[at % 2]).unwrap();
            stream.write_all(&PREFACE[..at % 24]).unwrap();
            stream
        })
        .collect();
    let senders = garbage().into_iter().flat_map(|bytes| {
        addresses.clone().map(|address| {
            let bytes = bytes.clone();
            tokio::task::spawn_blocking(move || {
                send(&address, &bytes, true);
                send(&address, &bytes, false);
            })
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    is_well(&mut cluster).await;
    assert_eq!(cluster.leader(2).await, leader, "nobody had to be elected anew");
    // A message that announces 4 GiB is refused before it is read, with our error.
    let status = huge_prefix(&addresses[0]).await;
    let detail = refused("4 GiB", &status, ErrorCode::LimitExceeded, Code::InvalidArgument);
    assert_eq!((detail.limit.as_str(), detail.actual_value), ("request_bytes_max", u64::from(u32::MAX)));
    // The client port closes whoever does not open in time (10 s).
    let since = Instant::now();
    for mut stream in slow.into_iter().step_by(2) {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "still open after {:?}", since.elapsed());
        }
    }
    is_well(&mut cluster).await;
}

/// Begins a call whose message announces as many bytes as its prefix can say.
async fn huge_prefix(address: &str) -> Status {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let body =
        tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from_static(&[0, 255, 255, 255, 255, 1])));
    let request = http::Request::post(format!("http://{address}/quorate.v1.Kv/Put"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let mut channel = channel;
    std::future::poll_fn(|context| tower_service::Service::poll_ready(&mut channel, context)).await.unwrap();
    let response = tower_service::Service::call(&mut channel, request).await.unwrap();
    Status::from_header_map(response.headers()).expect("refused in the head of the answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_on_the_peer_port_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..100, 100).await;
    let target = cluster.nodes[1].peer.clone();
    let channel = Channel::from_shared(format!("http://{target}")).unwrap().connect().await.unwrap();
    let mut peer = PeerClient::new(channel).max_encoding_message_size(256 << 20);
    let from = Some(Incarnation { node_id: 1, boot: 1_000, nonce: 5 });
    let hello = HelloRequest {
        cluster_id: vec![9; 16].into(),
        founding_hash: 12,
        from,
        to_node_id: 2,
        name: "n1".into(),
        log_position: u64::MAX,
        protocol: 1,
        version: "0".into(),
        earlier_nonces: Vec::new(),
    };
    let code = |status: &Status| PeerError::decode(status.details()).unwrap().code();
    let status = peer.hello(hello.clone()).await.unwrap_err();
    assert_eq!(code(&status), PeerCode::WrongCluster, "{status:?}");
    let status = peer.hello(HelloRequest { cluster_id: vec![9; 3].into(), ..hello.clone() }).await.unwrap_err();
    assert_eq!(code(&status), PeerCode::Malformed, "{status:?}");
    let status = peer.hello(HelloRequest { to_node_id: 3, ..hello.clone() }).await.unwrap_err();
    assert_eq!(code(&status), PeerCode::WrongNode, "{status:?}");
    let status = peer.hello(HelloRequest { protocol: 99, ..hello.clone() }).await.unwrap_err();
    assert_eq!(code(&status), PeerCode::Malformed, "{status:?}");
    let status = peer.hello(HelloRequest { from: None, ..hello }).await.unwrap_err();
    assert_eq!(code(&status), PeerCode::Malformed, "{status:?}");

    // Frames without an introduction, and larger than any frame may be.
    let envelope = |cluster: Vec<u8>| Envelope {
        cluster_id: cluster.into(),
        from,
        to_node_id: 2,
        group_id: 2,
        from_replica: 1,
        to_replica: 2,
        shard_epoch: 1,
    };
    for cluster_id in [vec![9; 16], Vec::new(), vec![1; 40]] {
        let envelope = Some(envelope(cluster_id));
        let request = ForwardRequest { envelope: envelope.clone(), deadline_ms: 1_000, request: vec![0xff; 10].into() };
        let error = peer.forward(request).await.unwrap().into_inner().error.unwrap();
        assert_eq!(error.code(), PeerCode::UnknownIncarnation, "{error:?}");
        let header = SnapshotHeader { envelope: envelope.clone(), ..Default::default() };
        let frame = SnapshotFrame { kind: Some(snapshot_frame::Kind::Header(header)) };
        let reply = peer.snapshot(tokio_stream::once(frame)).await.unwrap().into_inner();
        assert!(reply.error.is_some() && reply.vote.is_none(), "{reply:?}");
        let frame = AppendFrame { envelope, ..Default::default() };
        let mut replies = peer.append(tokio_stream::once(frame)).await.unwrap().into_inner();
        let reply = replies.message().await.unwrap();
        let result = reply.and_then(|reply| reply.result);
        assert!(matches!(result, Some(append_reply::Result::Error(_))), "{result:?}");
    }
    let large = ForwardRequest { envelope: None, deadline_ms: 1, request: vec![0; 100 << 20].into() };
    let status = peer.forward(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    is_well(&mut cluster).await;
    // The node whose name was used is none the worse for it.
    assert!(!cluster.nodes[0].output().contains("older or an empty disk"));
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    is_well(&mut cluster).await;
}

/// A library that shifts the wall clock of the process that loads it, and no other clock.
const SHIFT: &str = r#"
use std::ffi::{c_char, c_int, c_long, c_void};
#[repr(C)]
pub struct Timespec { seconds: c_long, nanos: c_long }
unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn atol(text: *const c_char) -> c_long;
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, to: *mut Timespec) -> c_int {
    unsafe {
        let next = dlsym(-1_isize as *mut c_void, c"clock_gettime".as_ptr());
        let next: unsafe extern "C" fn(c_int, *mut Timespec) -> c_int = std::mem::transmute(next);
        let result = next(clock, to);
        let shift = getenv(c"WALL_CLOCK_SHIFT".as_ptr());
        if clock == 0 && !shift.is_null() { (*to).seconds += atol(shift); }
        result
    }
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_an_hour_off_changes_nothing() {
    let mut cluster = Cluster::new(3, &[]);
    let source = cluster.root.path().join("shift.rs");
    let library = cluster.root.path().join("libshift.so");
    std::fs::write(&source, SHIFT).unwrap();
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let built = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for (node, shift) in cluster.nodes.iter_mut().zip(["3600", "-3600", "0"]) {
        node.set_variable("LD_PRELOAD", library.to_str().unwrap());
        node.set_variable("WALL_CLOCK_SHIFT", shift);
    }
    cluster.start_all();
    cluster.wait_ready().await;
    // What people see in the logs is the shifted clock: the shift works.
    let hours = cluster.nodes.iter().map(|node| {
        let output = node.output();
        let line = output.lines().find(|line| line.contains("listening for clients")).unwrap();
        line.get(11..13).unwrap().parse::<i32>().unwrap()
    });
    let hours: Vec<_> = hours.collect();
    assert_ne!(hours[0], hours[2], "{hours:?}");
    assert_ne!(hours[1], hours[2], "{hours:?}");

    let client = cluster.client().await;
    fill(&client, "k", 0..100, 100).await;
    // A life that passes from a leader an hour ahead to one an hour behind, and back.
    let kept = v1::PutRequest { ttl_ms: 600_000, ..put("lasting", 1) };
    let brief = v1::PutRequest { ttl_ms: 3_000, ..put("brief", 1) };
    cluster.move_leader(2, 0).await;
    let mut kv = kv(&cluster.nodes[0].client).await;
    kv.put(kept).await.unwrap();
    let since = Instant::now();
    kv.put(brief).await.unwrap();
    for leader in [1, 0, 2] {
        cluster.move_leader(2, leader).await;
        let seen = client.get("brief").await.unwrap();
        assert!(seen.is_some() || since.elapsed() > Duration::from_millis(2_900), "gone after {:?}", since.elapsed());
        assert!(client.get("lasting").await.unwrap().is_some());
    }
    eventually("expiry", || async { client.get("brief").await.unwrap().is_none().then_some(()) }).await;
    assert!(since.elapsed() > Duration::from_millis(2_900), "gone after {:?}", since.elapsed());
    assert!(client.get("lasting").await.unwrap().is_some());
    is_well(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_output_nobody_reads_goes_on_and_stops_in_order() {
    let mut cluster = Cluster::new(1, &[]);
    cluster.nodes[0].start_unread();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "k", 0..10, 100).await;
    assert_eq!(cluster.nodes[0].terminate(), Some(0));
    cluster.start_all();
    cluster.wait_ready().await;
    check_filled(&client, "k", 0..10, 100).await;
}
