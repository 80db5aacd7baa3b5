//! `kvctl watch` and the client's watches over whatever befalls the nodes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use prost::Message;
use quorate::client::{Client, EventKind, Keys, Watch, WatchOptions};
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::watch_client::WatchClient;
use quorate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use quorate::proto::rpc;
use quorate::proto::v1::kv_client::KvClient;
use quorate::proto::v1::{ErrorCode, ErrorDetail, KeyRange, WatchRequest, WatchResponse};
use quorate::types::GroupId;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::harness::{Cluster, STUCK, eventually};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;

/// A kvctl whose lines are read as they come.
pub(crate) struct Follower {
    pub(crate) child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    pub(crate) fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = hearing_interrupts(&cluster.kvctl_command(arguments));
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().map(Result::unwrap).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: exit code, and what it said on standard error.
    pub(crate) fn end(self) -> (i32, String) {
        let ended = self.child.wait_with_output().unwrap();
        (ended.status.code().unwrap_or(-1), String::from_utf8_lossy(&ended.stderr).into_owned())
    }
}

/// The same command, also where whoever started the tests ignores interrupts.
fn hearing_interrupts(command: &Command) -> Command {
    let mut wrapped = Command::new("env");
    wrapped.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// Puts until it is applied, once.
async fn put(client: &Client, key: &str, value: &str) {
    let session = client.session();
    eventually("acknowledgement", || async { session.put(key.to_owned(), value.to_owned()).await.ok() }).await;
}

async fn revisions(watch: &mut Watch, last: &str) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(STUCK, watch.next()).await.expect("an event").unwrap();
        let record = event.record.unwrap();
        seen.push(record.mod_revision);
        if record.key == last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_leaders_cost_a_watch_no_change_and_repeat_none() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut watch = client.watch_range(&Keys::all(), WatchOptions::new());
    let first = watch.begin().await.unwrap();
    let mut follower =
        Follower::start(&cluster, &["watch", "--prefix", "k", "--rev", &first.to_string(), "-w", "json"]);
    put(&client, "k-first", "").await;
    let begun = follower.line();
    assert!(begun.contains("k-first"), "{begun}: {:?}", follower.end());
    let reading = std::thread::spawn(move || {
        let mut seen = vec![first];
        loop {
            let line = follower.line();
            let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else {
                panic!("`{line}`, and then {:?}", follower.end());
            };
            seen.push(event["revision"].as_u64().unwrap());
            if event["record"]["key"] == "k-last" {
                follower.signal(Signal::INT);
                return (seen, follower.end());
            }
        }
    });
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        for number in 0..600 {
            put(&writer, &format!("k{}", number % 7), &number.to_string()).await;
        }
    });
    for _ in 0..3 {
        let leader = cluster.leader(SHARD).await;
        cluster.nodes[leader].kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.nodes[leader].start();
        cluster.wait_ready().await;
    }
    writing.await.unwrap();
    put(&client, "k-last", "").await;
    let seen = revisions(&mut watch, "k-last").await;
    let last = client.get("k-last").await.unwrap().unwrap().mod_revision;
    assert_eq!(last, first + 601, "each put has a revision");
    let expected: Vec<_> = (first..=last).collect();
    assert_eq!(seen, expected, "the client's watch");
    let (seen, (code, said)) = reading.join().unwrap();
    assert_eq!(seen, expected, "kvctl's: {said}");
    assert_eq!(code, 130, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_for_each_change_and_its_failure_ends_the_watch() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let first = client.put("k", "it's\n \"one\"").await.unwrap().revision;
    client.delete("k").await.unwrap();
    client.put("k", vec![0]).await.unwrap();
    client.put("k", vec![b'x'; 100_000]).await.unwrap();
    client.put("k", "last").await.unwrap();
    let script = "read -r line; printf '%s|%s|%s|%s|%s\\n' \"$KVCTL_WATCH_REVISION\" \"$KVCTL_WATCH_EVENT_TYPE\" \
                  \"$KVCTL_WATCH_KEY\" \"${KVCTL_WATCH_VALUE-none}\" \"${#line}\"; test \"$KVCTL_WATCH_VALUE\" != last || exit 7";
    let (code, out, err) = cluster.kvctl(&["watch", "k", "--rev", &first.to_string(), "--", "bash", "-c", script]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(code, 7, "{err}");
    assert!(err.contains(&format!("--rev {}", first + 4)), "{err}");
    assert!(lines[0].starts_with(&format!("{first}|PUT|k|it's")) && lines[1].starts_with(" \"one\"|"), "{out}");
    assert!(lines[2].starts_with(&format!("{}|DELETE|k||", first + 1)), "{out}");
    assert!(lines[3].starts_with(&format!("{}|PUT|k|none|", first + 2)), "no variable holds a zero byte: {out}");
    let huge: Vec<_> = lines[4].split('|').collect();
    assert_eq!(huge[3], "none");
    assert!(huge[4].parse::<usize>().unwrap() > 100_000, "but standard input does");
    assert!(lines[5].contains("|last|"), "{out}");

    // Who interrupts it learns where to go on, in a command or between two.
    for script in ["echo seen", "echo seen; exec sleep 600"] {
        let rev = (first + 4).to_string();
        let mut follower = Follower::start(&cluster, &["watch", "k", "--rev", &rev, "--", "bash", "-c", script]);
        assert_eq!(follower.line(), "seen");
        follower.signal(Signal::INT);
        let (code, said) = follower.end();
        assert_eq!(code, 130, "{said}");
        assert!(said.contains(&format!(" a change at revision {rev}: --rev {rev} shows that change again")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_watch_cannot_follow_is_said() {
    let cluster = Cluster::start(1).await;
    for value in 0..5 {
        assert_eq!(cluster.kvctl(&["put", "k", &value.to_string()]).0, 0);
    }
    assert_eq!(cluster.kvctl(&["compact", "4"]).0, 0);
    let (code, _, said) = cluster.kvctl(&["watch", "k", "--rev", "2"]);
    assert!(code == 2 && said.contains("revision 2 was compacted"), "{code}: {said}");

    assert_eq!(cluster.kvctl(&["keyspace", "create", "many", "--hash", "4"]).0, 0);
    let (code, _, said) = cluster.kvctl(&["--keyspace", "many", "watch", "--prefix", "k"]);
    assert!(code == 2 && said.contains("a watch follows one shard"), "{code}: {said}");
    let mut follower = Follower::start(&cluster, &["--keyspace", "many", "watch", "k", "--rev", "1"]);
    assert_eq!(cluster.kvctl(&["--keyspace", "many", "put", "k", "v"]).0, 0);
    assert_eq!(follower.line(), "PUT\tk\tv");
    assert_eq!(cluster.kvctl(&["keyspace", "drop", "many", "--yes"]).0, 0);
    let (code, said) = follower.end();
    assert!(code == 2 && said.contains("keyspace `many` does not exist"), "{code}: {said}");
}

/// A stream of one node and no other.
async fn watched(address: &str, request: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    KvClient::new(endpoint.connect_lazy()).watch(request).await.map(tonic::Response::into_inner)
}

fn on_key(key: &str) -> WatchRequest {
    let range = KeyRange { key: key.as_bytes().to_vec().into(), ..KeyRange::default() };
    WatchRequest { ranges: vec![range], ..WatchRequest::default() }
}

async fn answer(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(STUCK, stream.message()).await.expect("an answer").unwrap().expect("an answer")
}

fn code(status: &Status) -> (ErrorCode, bool) {
    let details = rpc::Status::decode(status.details()).unwrap();
    let detail = ErrorDetail::decode(&*details.details.first().expect("a detail").value).unwrap();
    (detail.code(), detail.retryable)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_a_watch_also_while_replicas_move() {
    let mut cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    let replicas = client.map().await.unwrap().shards[&GroupId(SHARD)].replicas.clone();
    let holders: Vec<_> = replicas.iter().map(|replica| replica.node.0).collect();
    let without = (1..=4).find(|node| !holders.contains(node)).unwrap();
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        let mut stream = watched(&node.client, on_key("k")).await.unwrap();
        let begun = answer(&mut stream).await;
        assert!(begun.events.is_empty() && begun.next_revision == begun.header.unwrap().revision + 1);
        streams.push(stream);
    }
    let shown = async |streams: &mut Vec<Streaming<WatchResponse>>, value: &str| {
        put(&client, "k", value).await;
        for stream in streams {
            let shown = answer(stream).await;
            let [event] = shown.events.as_slice() else { panic!("{shown:?}") };
            assert_eq!(event.record.as_ref().unwrap().value, value);
        }
    };
    shown(&mut streams, "before").await;
    let leader = cluster.leader(SHARD).await as u64 + 1;
    let away = holders.iter().find(|node| **node != leader).unwrap();
    let (to, instead_of) = (format!("n{without}"), format!("n{away}"));
    let (code_of, _, said) = cluster.kvctl(&["shard", "add-replica", "2", &to, "--instead-of", &instead_of]);
    assert_eq!(code_of, 0, "{said}");
    shown(&mut streams, "moved").await;
    for value in 0..20 {
        shown(&mut streams, &value.to_string()).await;
    }

    let stopped = cluster.nodes[0].terminate();
    assert_eq!(stopped, Some(0));
    let status = streams[0].message().await.unwrap_err();
    assert_eq!(code(&status), (ErrorCode::Unavailable, true), "{status:?}");

    let refused = watched(&cluster.nodes[1].client, WatchRequest { from_revision: 1, ..on_key("k") }).await;
    answer(&mut refused.unwrap()).await;
    let nowhere = quorate::proto::v1::Target { keyspace: "none".into(), ..Default::default() };
    let refused = watched(&cluster.nodes[1].client, WatchRequest { target: Some(nowhere), ..on_key("k") }).await;
    assert_eq!(code(&refused.unwrap_err()), (ErrorCode::KeyspaceNotFound, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_wants_progress_hears_of_it_and_leaves_a_node_that_is_cut_off() {
    let cluster = Cluster::start(3).await;
    cluster.move_leader(SHARD, 0).await;
    let client = cluster.client().await;
    let mut stream = watched(&cluster.nodes[2].client, WatchRequest { progress: true, ..on_key("k") }).await.unwrap();
    answer(&mut stream).await;
    let revision = client.put("other", "v").await.unwrap().revision;
    let progress = answer(&mut stream).await;
    assert!(progress.events.is_empty());
    assert_eq!((progress.header.unwrap().revision, progress.next_revision), (revision, revision + 1));
    for node in &cluster.nodes[..2] {
        node.signal(Signal::STOP);
    }
    let status = tokio::time::timeout(STUCK, stream.message()).await.expect("an end").unwrap_err();
    assert_eq!(code(&status), (ErrorCode::NoLeader, true), "{status:?}");
    for node in &cluster.nodes[..2] {
        node.signal(Signal::CONT);
    }
}

/// A stream of etcd's API with one watch.
async fn etcd_stream(
    address: &str,
    create: pb::WatchCreateRequest,
    metadata: &[(&'static str, &str)],
) -> Result<Streaming<pb::WatchResponse>, Status> {
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut request = tonic::Request::new(stream::iter([create]).chain(stream::pending()));
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let client = WatchClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
    { client }.watch(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_now_begins_once_a_leader_says_what_now_is() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    cluster.move_leader(SHARD, 0).await;
    let create = || pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    // Stopped while it lags: what is acknowledged now it has not heard of when it goes on.
    cluster.nodes[2].signal(Signal::STOP);
    let revision = client.put("k", "before").await.unwrap().revision;
    for node in &cluster.nodes[..2] {
        node.signal(Signal::STOP);
    }
    cluster.nodes[2].signal(Signal::CONT);
    let (waiting, refused) = tokio::join!(
        etcd_stream(&cluster.nodes[2].client, create(), &[]),
        etcd_stream(&cluster.nodes[2].client, create(), &[("hasleader", "true")]),
    );
    // Where it still believes in its leader, it takes a while to find that there is none.
    let refused = match refused {
        Ok(mut refused) => refused.message().await.expect_err("no leader proves the present"),
        Err(refused) => refused,
    };
    assert_eq!(refused.message(), "etcdserver: no leader");
    for node in &cluster.nodes[..2] {
        node.signal(Signal::CONT);
    }
    let mut waiting = waiting.unwrap();
    let created = waiting.message().await.unwrap().unwrap();
    assert!(created.created && created.header.unwrap().revision >= revision as i64, "{created:?}");
    put(&client, "k", "after").await;
    let shown = waiting.message().await.unwrap().unwrap();
    let values: Vec<_> = shown.events.into_iter().map(|event| event.kv.unwrap().value).collect();
    assert_eq!(values, ["after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_etcds_api_end_with_their_keyspace_and_without_a_leader() {
    let cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    let shards = client.map().await.unwrap().shards;
    let holds =
        |node: &usize| shards[&GroupId(SHARD)].replicas.iter().any(|replica| replica.node.0 == *node as u64 + 1);
    let (holders, without): (Vec<_>, Vec<_>) = (0..4).partition(holds);
    let address = &cluster.nodes[without[0]].client;
    let create = || pb::WatchCreateRequest { key: "k".into(), ..Default::default() };

    assert_eq!(cluster.kvctl(&["keyspace", "create", "brief"]).0, 0);
    let metadata = [("quorate-keyspace", "brief"), ("hasleader", "true")];
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        let mut stream = etcd_stream(&node.client, create(), &metadata).await.unwrap();
        assert!(stream.message().await.unwrap().unwrap().created);
        streams.push(stream);
    }
    assert_eq!(cluster.kvctl(&["keyspace", "drop", "brief", "--yes"]).0, 0);
    for mut stream in streams {
        let ended = tokio::time::timeout(STUCK, stream.message()).await.expect("an end").unwrap_err();
        assert_eq!(ended.code(), Code::NotFound, "{ended:?}");
    }

    let mut stream = etcd_stream(address, create(), &metadata[1..]).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created);
    put(&client, "k", "v").await;
    assert_eq!(stream.message().await.unwrap().unwrap().events.len(), 1);
    for node in &holders {
        cluster.nodes[*node].signal(Signal::STOP);
    }
    let ended = tokio::time::timeout(STUCK, stream.message()).await.expect("an end").unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    for node in &holders {
        cluster.nodes[*node].signal(Signal::CONT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_revision_of_many_changes_comes_whole() {
    const KEYS: usize = 5_000;
    // One node has no replica: it is asked there what another one reads in parts.
    let cluster = Cluster::start(4).await;
    let client = cluster.client().await;
    // Keys that are long enough for their deletion to be too large for one answer, be it 32 MiB.
    let long = "x".repeat(7_000);
    let puts = (0..KEYS).map(|number| client.put(format!("{number:04}{long}"), ""));
    futures_util::future::try_join_all(puts).await.unwrap();
    let mut watch = client.watch_range(&Keys::all(), WatchOptions::new());
    watch.begin().await.unwrap();
    let mut streams = Vec::new();
    for (node, fragment) in cluster.nodes.iter().flat_map(|node| [(node, false), (node, true)]) {
        let create =
            pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), fragment, ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let endpoint = Endpoint::from_shared(format!("http://{}", node.client)).unwrap();
        let mut client = WatchClient::new(endpoint.connect_lazy()).max_decoding_message_size(usize::MAX);
        let requests = stream::iter([create]).chain(stream::pending());
        let mut answers = client.watch(requests).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        streams.push((answers, fragment));
    }
    assert_eq!(client.delete_range(&Keys::all()).await.unwrap(), KEYS as u64);
    for number in 0..KEYS {
        let event = tokio::time::timeout(STUCK, watch.next()).await.expect("an event").unwrap();
        assert_eq!(event.kind(), EventKind::Delete);
        assert_eq!(event.record.unwrap().key, format!("{number:04}{long}"));
    }
    for (mut answers, fragment) in streams {
        let (mut seen, mut parts) = (Vec::new(), 0);
        while seen.len() < KEYS {
            let part = tokio::time::timeout(STUCK, answers.message()).await.expect("events").unwrap().unwrap();
            seen.extend(part.events.into_iter().map(|event| event.kv.unwrap().key));
            assert_eq!(part.fragment, seen.len() < KEYS);
            parts += 1;
        }
        assert_eq!(parts > 1, fragment);
        assert!((0..KEYS).all(|number| seen[number] == format!("{number:04}{long}")));
    }
}
