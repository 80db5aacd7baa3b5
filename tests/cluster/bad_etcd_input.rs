//! What makes no sense through etcd's API, or is more than it takes: each gets its error, costs bounded memory,
//! and the node stays well.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::kv_client::KvClient;
use quorate::proto::etcd::etcdserverpb::lease_client::LeaseClient;
use quorate::proto::etcd::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcd::etcdserverpb::watch_client::WatchClient;
use quorate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::harness::{Cluster, eventually};

const KEY_BYTES_MAX: usize = 8 * 1024;
const REQUEST_BYTES_MAX: usize = 1536 * 1024;
const OPERATIONS_MAX: usize = 128;
const DEPTH_MAX: usize = 16;

async fn channel(cluster: &Cluster) -> Channel {
    Endpoint::from_shared(format!("http://{}", cluster.nodes[0].client)).unwrap().connect().await.unwrap()
}

fn put(key: impl Into<Bytes>, value_bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: vec![b'v'; value_bytes].into(), ..Default::default() }
}

fn range(key: impl Into<Bytes>) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn operation(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// So many transactions within each other, the outermost counted.
fn nested(depth: usize) -> pb::TxnRequest {
    (1..depth).fold(pb::TxnRequest::default(), |inner, _| pb::TxnRequest {
        success: vec![operation(Op::RequestTxn(inner))],
        ..Default::default()
    })
}

fn said<T>(result: Result<T, Status>) -> (Code, String) {
    result.map_or_else(|status| (status.code(), status.message().to_owned()), |_| (Code::Ok, String::new()))
}

async fn is_well(cluster: &mut Cluster) {
    let node = &mut cluster.nodes[0];
    assert!(node.is_running(), "{}", node.output());
    assert!(!node.output().contains("panicked"), "{}", node.output());
    cluster.client().await.put("well", "yes").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_etcds_messages_at_their_limits_and_beyond() {
    let mut cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(channel(&cluster).await).max_encoding_message_size(64 << 20);

    kv.put(put("k".repeat(KEY_BYTES_MAX), 1)).await.unwrap();
    let too_large = (Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    assert_eq!(said(kv.put(put("k".repeat(KEY_BYTES_MAX + 1), 1)).await), too_large);

    let largest = (0..).map(|less| put("k", REQUEST_BYTES_MAX - less));
    let fits = |put: &pb::PutRequest| prost::Message::encoded_len(put) <= REQUEST_BYTES_MAX;
    kv.put(largest.clone().find(fits).unwrap()).await.unwrap();
    assert_eq!(said(kv.put(largest.clone().take_while(|put| !fits(put)).last().unwrap()).await), too_large);
    assert_eq!(said(kv.put(put("k", 2 << 20)).await), too_large);
    assert_eq!(said(kv.put(put("k", 32 << 20)).await).0, Code::InvalidArgument);

    let many = |count| (0..count).map(|number| operation(Op::RequestPut(put(format!("many/{number}"), 1)))).collect();
    let compare = pb::Compare { key: "k".into(), ..Default::default() };
    for (count, expected) in [
        (OPERATIONS_MAX, (Code::Ok, "")),
        (OPERATIONS_MAX + 1, (Code::InvalidArgument, "etcdserver: too many operations in txn request")),
    ] {
        let expected = (expected.0, expected.1.to_owned());
        for txn in [
            pb::TxnRequest { success: many(count), ..Default::default() },
            pb::TxnRequest { failure: many(count), ..Default::default() },
            pb::TxnRequest { compare: vec![compare.clone(); count], ..Default::default() },
        ] {
            assert_eq!(said(kv.txn(txn).await), expected, "{count}");
        }
    }
    kv.txn(nested(DEPTH_MAX)).await.unwrap();
    let (code, message) = said(kv.txn(nested(DEPTH_MAX + 1)).await);
    assert!(code == Code::InvalidArgument && message.contains("16"), "{message}");
    assert_ne!(said(kv.txn(nested(200)).await).0, Code::Ok, "deeper than a message may be");
    is_well(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_etcds_messages_that_nobody_means() {
    let mut cluster = Cluster::start(1).await;
    let channel = channel(&cluster).await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(put("k", 1)).await.unwrap();

    // As etcd: less than nothing is the present, no bound, or no limit.
    for number in [-1, i64::MIN] {
        let odd = pb::RangeRequest {
            revision: number,
            limit: number,
            min_mod_revision: number,
            min_create_revision: number,
            ..range("k")
        };
        assert_eq!(kv.range(odd).await.unwrap().into_inner().kvs.len(), 1, "{number}");
    }
    let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned());
    assert_eq!(said(kv.range(pb::RangeRequest { revision: i64::MAX, ..range("k") }).await), future);
    let compact = pb::CompactionRequest { revision: i64::MAX, physical: true };
    assert_eq!(said(kv.compact(compact).await), future);
    // Ends that do not come after the key hold nothing.
    for end in ["k", "j", "\u{1}"] {
        let empty = pb::RangeRequest { range_end: end.into(), ..range("k") };
        assert_eq!(kv.range(empty).await.unwrap().into_inner().count, 0, "{end:?}");
    }
    let unknown = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    let mut lease = LeaseClient::new(channel.clone());
    for id in [-1, 4_711, i64::MIN, i64::MAX] {
        assert_eq!(said(kv.put(pb::PutRequest { lease: id, ..put("never", 1) }).await), unknown, "{id}");
        assert_eq!(said(lease.lease_revoke(pb::LeaseRevokeRequest { id }).await), unknown, "{id}");
        let time = pb::LeaseTimeToLiveRequest { id, keys: true };
        assert_eq!(lease.lease_time_to_live(time).await.unwrap().into_inner().ttl, -1, "{id}");
    }
    assert_eq!(kv.range(range("never")).await.unwrap().into_inner().count, 0);

    // A watch that makes no sense is refused on its stream; the others there go on.
    let create = |key: &str, end: &str, start_revision| pb::WatchCreateRequest {
        key: key.as_bytes().to_vec().into(),
        range_end: end.as_bytes().to_vec().into(),
        start_revision,
        ..Default::default()
    };
    let requests = [
        RequestUnion::CreateRequest(create("k", "j", 0)),
        RequestUnion::CreateRequest(create("k", "", i64::MAX)),
        RequestUnion::CreateRequest(create(&"k".repeat(9_000), "", 0)),
        RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: i64::MIN }),
        RequestUnion::CreateRequest(create("k", "", 0)),
    ];
    let mut watching = watch(&channel, requests.to_vec()).await;
    let mut answers = Vec::new();
    while answers.len() < 4 {
        let answer = watching.message().await.unwrap().unwrap();
        answers.push((answer.created, answer.canceled));
    }
    assert_eq!(answers, [(true, true), (true, false), (true, true), (true, false)]);
    kv.put(put("k", 2)).await.unwrap();
    assert_eq!(watching.message().await.unwrap().unwrap().events.len(), 1);
    is_well(&mut cluster).await;
}

async fn watch(channel: &Channel, requests: Vec<RequestUnion>) -> Streaming<pb::WatchResponse> {
    let requests = requests.into_iter().map(|union| pb::WatchRequest { request_union: Some(union) });
    let requests = stream::iter(requests.collect::<Vec<_>>()).chain(stream::pending());
    let client = WatchClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    { client }.watch(requests).await.unwrap().into_inner()
}

fn resident_mib(cluster: &Cluster) -> u64 {
    let process = cluster.nodes[0].child.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_never_read_cost_bounded_memory_and_hold_up_nobody() {
    const STREAMS: usize = 30;
    const PUTS: usize = 64;
    /// What a stream may hold: a page of 4 MiB, and the message that it becomes.
    const STREAM_MIB: u64 = 10;

    let mut cluster = Cluster::start(1).await;
    let channel = channel(&cluster).await;
    let mut kv = KvClient::new(channel.clone());
    for _ in 0..PUTS {
        kv.put(put("large", 1 << 20)).await.unwrap();
    }
    let before = resident_mib(&cluster);
    // Each could have 64 MiB, all of them 1.9 GiB; each has a connection, whose windows it leaves full.
    let mut silent = Vec::new();
    for _ in 0..STREAMS {
        let channel = self::channel(&cluster).await;
        let create = pb::WatchCreateRequest { key: "large".into(), start_revision: 1, ..Default::default() };
        silent.push(watch(&channel, vec![RequestUnion::CreateRequest(create)]).await);
    }
    // Renewals whose answers nobody reads.
    let lease = LeaseClient::new(channel.clone())
        .lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 0 })
        .await
        .unwrap()
        .into_inner()
        .id;
    let renewals = stream::repeat(pb::LeaseKeepAliveRequest { id: lease });
    let own = self::channel(&cluster).await;
    let renewing = LeaseClient::new(own).lease_keep_alive(renewals).await.unwrap();

    // Who reads gets everything meanwhile, and writers write.
    let create = pb::WatchCreateRequest { key: "large".into(), start_revision: 1, ..Default::default() };
    let mut reading = watch(&channel, vec![RequestUnion::CreateRequest(create)]).await;
    let (mut seen, mut written, mut most) = (0, 0, 0);
    while seen < 2 * PUTS {
        if written < PUTS {
            kv.put(put("large", 1 << 20)).await.unwrap();
            written += 1;
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), reading.message()).await;
        seen += answer.expect("events go on").unwrap().unwrap().events.len();
        most = most.max(resident_mib(&cluster));
    }
    // The memtables of the values themselves are among it.
    let allowed = STREAMS as u64 * STREAM_MIB + 4 * PUTS as u64;
    assert!(most < before + allowed, "{before} MiB became {most}: more than {allowed} were added");
    drop((silent, renewing));
    is_well(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_of_the_same_changes_on_a_stream_that_stops_reading_cost_bounded_memory() {
    const WATCHES: usize = 2_000;
    const EVENTS: usize = 1_024;
    /// Each watch that has its events ready has at least this of its own.
    const READY_BYTES: usize = EVENTS * size_of::<quorate::proto::etcd::mvccpb::Event>();

    let mut cluster = Cluster::start(1).await;
    let channel = channel(&cluster).await;
    let mut kv = KvClient::new(channel.clone());
    for chunk in 0..EVENTS / OPERATIONS_MAX {
        let puts = (0..OPERATIONS_MAX).map(|at| operation(Op::RequestPut(put(format!("{chunk} {at}"), 1))));
        kv.txn(pb::TxnRequest { success: puts.collect(), ..Default::default() }).await.unwrap();
    }
    let create = pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let creates = std::iter::repeat_n(RequestUnion::CreateRequest(create), WATCHES);
    let mut stream = watch(&channel, creates.collect()).await;
    for _ in 0..WATCHES {
        assert!(stream.message().await.unwrap().unwrap().created);
    }
    let before = resident_mib(&cluster);
    // All in one revision, and so on one page.
    let all = pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    assert_eq!(kv.delete_range(all).await.unwrap().into_inner().deleted, EVENTS as i64);
    assert_eq!(stream.message().await.unwrap().unwrap().events.len(), EVENTS);
    let after = resident_mib(&cluster);
    let ready = (WATCHES * READY_BYTES) as u64 >> 20;
    assert!(after < before + ready / 4, "{before} MiB became {after}; all answers at once are {ready} and more");
    is_well(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_etcds_services_that_are_noise_harm_nobody() {
    const METHODS: [&str; 16] = [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Lease/LeaseRevoke",
        "/etcdserverpb.Lease/LeaseTimeToLive",
        "/etcdserverpb.Cluster/MemberRemove",
        "/etcdserverpb.Cluster/MemberPromote",
        "/etcdserverpb.Maintenance/Alarm",
        "/etcdserverpb.Maintenance/HashKV",
        "/v3lockpb.Lock/Unlock",
        "/v3electionpb.Election/Proclaim",
        "/v3electionpb.Election/Leader",
        "/v3electionpb.Election/Resign",
    ];
    let mut cluster = Cluster::start(1).await;
    let mut grpc = Grpc::new(channel(&cluster).await);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..60 {
        for method in METHODS {
            let length = usize::try_from(random() % 40).unwrap();
            // Small tags and lengths: most of it is nearly a message.
            let noise: Vec<u8> = (0..length).map(|_| u8::try_from(random() % 64).unwrap()).collect();
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static(method);
            let request = tonic::Request::new(Noise { bytes: noise.clone() });
            let asked = grpc.unary::<_, Noise, _>(request, path, ProstCodec::default());
            let answer = tokio::time::timeout(Duration::from_secs(30), asked).await;
            let answer = answer.unwrap_or_else(|_| panic!("{round} {method}: no answer to {noise:?}"));
            let (code, message) = said(answer);
            assert!(!message.contains("panic"), "{round} {method}: {code} {message} for {noise:?}");
        }
    }
    eventually("a put", || async { cluster.client().await.put("after", "noise").await.ok() }).await;
    is_well(&mut cluster).await;
}

/// A message that is written as the bytes it holds, and reads anything.
#[derive(Default)]
struct Noise {
    bytes: Vec<u8>,
}

impl prost::Message for Noise {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.bytes);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buffer: &mut impl prost::bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
    }
}
