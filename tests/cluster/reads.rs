//! Reads of every kind from every node, and what a follower says that hears of no leader.

use std::time::Duration;

use prost::Message;
use quorate::proto::rpc;
use quorate::proto::v1::kv_client::KvClient;
use quorate::proto::v1::{
    CountRequest, ErrorCode, ErrorDetail, GetRequest, GetResponse, Outcome, ReadLevel, ScanRequest, ScanResponse,
};
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::harness::{Cluster, eventually, fill};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;
/// A bound that no proof reaches within a test.
const MINUTES: u64 = 600_000;

/// Asks one node and no other.
struct Asked(KvClient<Channel>);

impl Asked {
    fn node(cluster: &Cluster, node: usize) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[node].client)).unwrap();
        Self(KvClient::new(endpoint.connect_lazy()))
    }

    async fn get(&self, key: &str, level: ReadLevel, max_stale_ms: u64) -> Result<GetResponse, Status> {
        let key = key.as_bytes().to_vec().into();
        let get = GetRequest { key, level: level.into(), max_stale_ms, ..GetRequest::default() };
        let mut request = Request::new(get);
        request.set_timeout(Duration::from_secs(5));
        self.0.clone().get(request).await.map(tonic::Response::into_inner)
    }

    async fn stale(&self, key: &str, max_stale_ms: u64) -> Result<GetResponse, Status> {
        self.get(key, ReadLevel::Stale, max_stale_ms).await
    }

    async fn scan(&self, limit: u32, page_token: &[u8]) -> Result<ScanResponse, Status> {
        let scan = ScanRequest {
            start: b"page".to_vec().into(),
            end: b"pagf".to_vec().into(),
            limit,
            page_token: page_token.to_vec().into(),
            level: ReadLevel::Follower.into(),
            ..ScanRequest::default()
        };
        self.0.clone().scan(scan).await.map(tonic::Response::into_inner)
    }
}

/// The value that was shown, and the node that showed it.
fn shown(answer: GetResponse) -> (String, u64) {
    let value = answer.record.map(|record| String::from_utf8(record.value.to_vec()).unwrap());
    (value.unwrap_or_default(), answer.header.unwrap().node_id)
}

fn detail(status: &Status) -> ErrorDetail {
    let details = rpc::Status::decode(status.details()).unwrap();
    let first = details.details.first().unwrap_or_else(|| panic!("no detail: {status:?}"));
    ErrorDetail::decode(&*first.value).unwrap()
}

fn is_too_stale(answer: &Result<GetResponse, Status>) -> bool {
    answer.as_ref().is_err_and(|status| {
        let detail = detail(status);
        assert_eq!((detail.outcome(), detail.retryable), (Outcome::NotApplied, true), "{status:?}");
        detail.code() == ErrorCode::TooStale && status.message().contains("ask the leader, or raise the bound")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_every_kind_of_read() {
    let cluster = Cluster::start(3).await;
    cluster.move_leader(SHARD, 0).await;
    let client = cluster.client().await;
    let nodes: Vec<_> = (0..3).map(|node| Asked::node(&cluster, node)).collect();

    // Whatever was acknowledged, the next follower read on any node shows, and the node itself serves it.
    for round in 0..60 {
        let value = round.to_string();
        client.put("k", value.clone()).await.unwrap();
        let node = round % 3;
        let answer = nodes[node].get("k", ReadLevel::Follower, 0).await.unwrap();
        assert_eq!(shown(answer), (value.clone(), node as u64 + 1));
        let answer = nodes[node].get("k", ReadLevel::Linearizable, 0).await.unwrap();
        assert_eq!(shown(answer).0, value);
    }
    for (node, asked) in nodes.iter().enumerate() {
        // The first one may come before the replica has proved anything.
        let answer = eventually("stale read", || async { asked.stale("k", MINUTES).await.ok() }).await;
        assert_eq!(shown(answer), ("59".to_owned(), node as u64 + 1));
    }

    // Pages of one scan, each from another node and under writes: all of one revision.
    fill(&client, "page", 0..30, 10).await;
    let (mut token, mut revision, mut keys) = (Vec::new(), 0, Vec::new());
    for round in 0.. {
        let page = nodes[round % 3].scan(7, &token).await.unwrap();
        assert!(revision == 0 || page.revision == revision, "{} after {revision}", page.revision);
        revision = page.revision;
        keys.extend(page.records.into_iter().map(|record| record.key));
        client.put(format!("page-{round}"), "late").await.unwrap();
        if page.next_page.is_empty() {
            break;
        }
        token = page.next_page.to_vec();
    }
    assert_eq!(keys.len(), 30, "{keys:?}");
    for asked in &nodes {
        let count = CountRequest { level: ReadLevel::Follower.into(), ..CountRequest::default() };
        let counted = asked.0.clone().count(count).await.unwrap().into_inner().count;
        assert_eq!(counted, client.count(quorate::client::Keys::all()).await.unwrap());
    }

    // A bound belongs to stale reads, and kvctl asks for all of this.
    for (level, bound) in [(ReadLevel::Stale, 0), (ReadLevel::Follower, 5)] {
        let status = nodes[1].get("k", level, bound).await.unwrap_err();
        assert_eq!(detail(&status).code(), ErrorCode::InvalidArgument, "{status:?}");
    }
    for options in [&["--read", "follower", "--zone", "a"][..], &["--max-stale", "5s"], &["--read", "linearizable"]] {
        let (code, stdout, stderr) = cluster.kvctl(&[options, &["get", "k"]].concat());
        assert_eq!((code, stdout.as_str()), (0, "59\n"), "{options:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_a_leader_serves_within_its_bound_and_then_refuses() {
    let cluster = Cluster::start(3).await;
    cluster.move_leader(SHARD, 0).await;
    cluster.client().await.put("k", "1").await.unwrap();
    let alone = Asked::node(&cluster, 2);
    let _ = eventually("stale read", || async { alone.stale("k", MINUTES).await.ok() }).await;
    for node in &cluster.nodes[..2] {
        node.signal(Signal::STOP);
    }
    eventually("refusal of what is too old", || async { is_too_stale(&alone.stale("k", 300).await).then_some(()) })
        .await;
    assert!(is_too_stale(&alone.stale("k", 300).await), "nothing makes it newer");
    assert_eq!(shown(alone.stale("k", MINUTES).await.unwrap()), ("1".to_owned(), 3), "but old is what was asked for");

    let status = alone.get("k", ReadLevel::Follower, 0).await.unwrap_err();
    let told = detail(&status);
    assert_eq!((told.code(), told.outcome(), told.retryable), (ErrorCode::NoLeader, Outcome::NotApplied, true));
    assert!(status.message().contains("cannot serve a follower read"), "{status:?}");

    for node in &cluster.nodes[..2] {
        node.signal(Signal::CONT);
    }
    let again = eventually("follower read", || async { alone.get("k", ReadLevel::Follower, 0).await.ok() }).await;
    assert_eq!(shown(again), ("1".to_owned(), 3));
    eventually("stale read within a short bound", || async { alone.stale("k", 2_000).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_stood_still_shows_nothing_older_than_the_bound() {
    const BOUND: Duration = Duration::from_millis(1_000);
    let bound_ms = u64::try_from(BOUND.as_millis()).unwrap();
    let cluster = Cluster::start(3).await;
    cluster.move_leader(SHARD, 0).await;
    let client = cluster.client().await;
    client.put("k", "0").await.unwrap();
    let asked = Asked::node(&cluster, 2);
    for round in 1..4 {
        eventually("stale read", || async { asked.stale("k", bound_ms).await.ok() }).await;
        cluster.nodes[2].signal(Signal::STOP);
        let value = round.to_string();
        client.put("k", value.clone()).await.unwrap();
        // What the leader sent meanwhile waits in the node's sockets, and looks new when it wakes up.
        tokio::time::sleep(BOUND + BOUND / 2).await;
        cluster.nodes[2].signal(Signal::CONT);
        let answer = eventually("stale read", || async { asked.stale("k", bound_ms).await.ok() }).await;
        assert_eq!(shown(answer), (value, 3));
    }
}
