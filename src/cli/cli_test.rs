//! Commands from their arguments to their output, against a scripted cluster.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::args::Cli;
use super::{Exit, Interrupts, run};
use crate::client::ErrorCode;
use crate::client::fake::{Fake, Fault, detail};
use crate::env::console::{Console, Files, Input, Output, Places};
use crate::env::net::BoxFuture;
use crate::env::time;
use crate::proto::v1;

/// A growing buffer that a test can look into.
#[derive(Clone, Default)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    broken: bool,
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.bytes.lock().extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct MemoryFiles(Mutex<BTreeMap<PathBuf, Sink>>);

impl Files for MemoryFiles {
    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<(Input, Option<u64>)>> {
        Box::pin(async move {
            let files = self.0.lock();
            let content = files.get(path).ok_or(io::ErrorKind::NotFound)?.bytes.lock().clone();
            let size = content.len() as u64;
            Ok((Box::new(io::Cursor::new(content)) as Input, Some(size)))
        })
    }

    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Output>> {
        let sink = Sink::default();
        self.0.lock().insert(path.to_owned(), sink.clone());
        Box::pin(async move { Ok(Box::new(sink) as Output) })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        let mut files = self.0.lock();
        let moved = files.remove(from);
        if let Some(file) = moved {
            files.insert(to.to_owned(), file);
        }
        Box::pin(async { Ok(()) })
    }
}

/// kvctl in front of a scripted cluster.
pub(super) struct Shell {
    pub(super) fake: Fake,
    files: Arc<MemoryFiles>,
    pub(super) interrupts: Interrupts,
}

pub(super) struct Ran {
    pub(super) exit: Exit,
    out: Vec<u8>,
    pub(super) err: String,
}

impl Ran {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.out
    }

    pub(super) fn out(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }
}

impl Shell {
    pub(super) fn new(nodes: usize) -> Self {
        Self { fake: Fake::start(nodes), files: Arc::default(), interrupts: Interrupts::default() }
    }

    pub(super) async fn run(&self, line: &str) -> Ran {
        self.feed(line, b"").await
    }

    pub(super) async fn feed(&self, line: &str, stdin: &[u8]) -> Ran {
        self.feed_to(line, stdin, Sink::default()).await
    }

    async fn feed_to(&self, line: &str, stdin: &[u8], out: Sink) -> Ran {
        let nodes = self.fake.state.lock().map.nodes.len();
        let endpoints: Vec<_> = (1..=nodes).map(|node| format!("n{node}:1")).collect();
        let endpoints = endpoints.join(",");
        let words = ["kvctl", "--endpoints", &endpoints].into_iter().chain(line.split(' '));
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let err = Sink::default();
        let console = Console {
            stdin: Box::new(io::Cursor::new(stdin.to_vec())),
            stdout: Box::new(out.clone()),
            stderr: Box::new(err.clone()),
            stderr_is_terminal: false,
            is_interactive: false,
            files: self.files.clone(),
            programs: Arc::new(crate::env::program::RealPrograms),
            places: Places { config: Some("/config".into()), state: None },
        };
        let exit = run(&self.fake.env(), cli, console, &self.interrupts).await;
        let out = out.bytes.lock().clone();
        let err = String::from_utf8(err.bytes.lock().clone()).unwrap();
        Ran { exit, out, err }
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) {
        let sink = Sink::default();
        sink.bytes.lock().extend_from_slice(content);
        self.files.0.lock().insert(name.into(), sink);
    }

    pub(super) fn values(&self) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        let state = self.fake.state.lock();
        let pair = |record: &v1::Record| (record.key.to_vec(), (record.value.to_vec(), record.version));
        state.records.values().map(pair).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn simple_output_is_made_for_shells() {
    let shell = Shell::new(1);
    assert_eq!(shell.run("put greeting hello").await.out(), "OK\n");
    let got = shell.run("get greeting").await;
    assert_eq!((got.exit, got.out(), got.err.as_str()), (Exit::Ok, "hello\n", ""));
    let missing = shell.run("get nothing").await;
    assert_eq!((missing.exit, missing.out(), missing.err.as_str()), (Exit::NotFound, "", ""));
    assert_eq!(shell.run("put greeting again --prev").await.out(), "OK\nhello\n");
    assert_eq!(shell.feed("put raw -", b"\xff\x00\n").await.out(), "OK\n");
    assert_eq!(shell.run("get raw").await.out, b"\xff\x00\n\n");
    assert_eq!(shell.run("get --prefix gr").await.out(), "greeting\tagain\n");
    assert_eq!(shell.run("scan --keys-only --reverse").await.out(), "raw\ngreeting\n");
    assert_eq!(shell.run("scan --from h").await.out, b"raw\t\xff\x00\n\n");
    assert_eq!(shell.run("count").await.out(), "2\n");
    assert_eq!(shell.run("del greeting").await.out(), "1\n");
    let gone = shell.run("del greeting").await;
    assert_eq!((gone.exit, gone.out()), (Exit::NotFound, "0\n"));
    assert_eq!(shell.run("del --prefix r").await.out(), "1\n");
}

#[tokio::test(start_paused = true)]
async fn json_output_is_stable() {
    let shell = Shell::new(1);
    assert_eq!(shell.run("put a 1 -w json").await.out(), "{\"revision\":2}\n");
    assert_eq!(
        shell.run("get a -w json").await.out(),
        "{\"create_revision\":2,\"key\":\"a\",\"lease\":0,\"mod_revision\":2,\"value\":\"1\",\"version\":1}\n"
    );
    shell.feed("put b -", b"\xff").await;
    assert!(shell.run("scan -w json").await.out().contains("\"value_base64\":\"/w==\""));
    assert_eq!(shell.run("count -w json").await.out(), "{\"count\":2}\n");
    assert_eq!(shell.run("del a -w json").await.out(), "{\"deleted\":1}\n");
    let batch = shell.feed("batch -w json", b"put x 1\nput y 2\n").await;
    assert_eq!(batch.out(), "{\"applied\":2,\"shards\":[{\"operations\":[0,1],\"revision\":5,\"shard_id\":2}]}\n");
    let health: serde_json::Value = serde_json::from_str(shell.run("endpoint health -w json").await.out()).unwrap();
    assert_eq!(health["endpoints"][0]["healthy"], true);
    let shards: serde_json::Value = serde_json::from_str(shell.run("shard list -w json").await.out()).unwrap();
    assert_eq!(shards["shards"][0]["leader_node_id"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_tells_which_branch_ran() {
    let shell = Shell::new(1);
    let text = b"version(a) = 0\n\nput a 1\n\nget a\n";
    let first = shell.feed("txn", text).await;
    assert_eq!((first.exit, first.out()), (Exit::Ok, "SUCCESS\nOK\n"));
    let second = shell.feed("txn", text).await;
    assert_eq!((second.exit, second.out()), (Exit::NotFound, "FAILURE\na\t1\n"));
    let json = shell.feed("txn -w json", text).await;
    let value: serde_json::Value = serde_json::from_str(json.out()).unwrap();
    assert_eq!(value["results"][0]["get"]["records"][0]["value"], "1");
    let bad = shell.feed("txn", b"nonsense").await;
    assert_eq!(bad.exit, Exit::Usage);
    assert!(bad.err.starts_with("error: ") && bad.err.contains("\nhint: "), "{}", bad.err);
}

#[tokio::test(start_paused = true)]
async fn exit_codes_say_what_happened() {
    let shell = Shell::new(2);
    shell.fake.fault("put", Fault::Hang);
    let unknown = shell.run("put a 1").await;
    assert_eq!(unknown.exit, Exit::Unknown, "{}", unknown.err);
    shell.fake.fault("put", Fault::Refuse(detail(ErrorCode::LimitExceeded, v1::Outcome::NotApplied, false)));
    assert_eq!(shell.run("put a 1").await.exit, Exit::Usage);
    assert_eq!(shell.run("get a --keyspace nope").await.exit, Exit::Usage);
    shell.fake.elect(0);
    let unavailable = shell.run("put a 1 --timeout 1s").await;
    assert_eq!(unavailable.exit, Exit::Unavailable, "{}", unavailable.err);
    assert_eq!(unavailable.err.lines().count(), 2, "{}", unavailable.err);
    assert_eq!(shell.run("endpoint health").await.exit, Exit::Unhealthy);
    shell.fake.elect(1);
    assert_eq!(shell.run("endpoint health").await.exit, Exit::Ok);
    shell.fake.stop(2);
    let health = shell.run("endpoint health").await;
    assert_eq!(health.exit, Exit::Unhealthy);
    assert!(health.out().contains("n1:1\thealthy") && health.out().contains("n2:1\tunhealthy"), "{}", health.out());
    assert_eq!(shell.run("endpoint status").await.exit, Exit::Unavailable);
    shell.fake.stop(1);
    assert_eq!(shell.run("get a --timeout 1s").await.exit, Exit::Unavailable);
    assert_eq!(shell.run("import nowhere.json").await.exit, Exit::Usage);
}

#[tokio::test(start_paused = true)]
async fn the_cluster_can_be_looked_at_and_moved() {
    let shell = Shell::new(3);
    assert_eq!(shell.run("shard list").await.out(), "2\tdefault\t[, ∞)\t1\t1\t1\t1,2,3\n");
    assert_eq!(shell.run("shard move-leader g2 n3").await.out(), "OK\n");
    assert_eq!(shell.fake.state.lock().leader, 3);
    assert_eq!(shell.run("shard move-leader two n3").await.exit, Exit::Usage);
    assert_eq!(shell.run("shard move-leader 2 n9").await.exit, Exit::Usage);
    assert_eq!(shell.run("member list -w table").await.out().lines().count(), 4);
    assert_eq!(shell.run("endpoint status --cluster").await.out().lines().count(), 3);
    assert!(shell.run("completion bash").await.out().contains("kvctl"));
    assert!(shell.run("version").await.out().starts_with("kvctl "));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let shell = Shell::new(1);
    shell.run("put a 1").await;
    let closed = Sink { broken: true, ..Sink::default() };
    let ran = shell.feed_to("scan", b"", closed).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
}

#[tokio::test(start_paused = true)]
async fn an_import_survives_a_failover_and_writes_nothing_twice() {
    let shell = Shell::new(3);
    let lines: String = (0..5_000).map(|i| format!("package-{i}\t1.{i}\n")).collect();
    shell.file("data.tsv", lines.as_bytes());
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::LoseAnswer, Fault::Hang] {
        shell.fake.fault("batch", fault);
    }
    let failover = async {
        time::sleep(Duration::from_millis(3)).await;
        shell.fake.elect(0);
        shell.fake.stop(1);
        time::sleep(Duration::from_secs(2)).await;
        shell.fake.elect(2);
    };
    let (ran, ()) = tokio::join!(shell.run("import data.tsv -w json"), failover);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.err);
    let summary: serde_json::Value = serde_json::from_str(ran.out()).unwrap();
    assert_eq!((&summary["imported"], &summary["bytes"]), (&5_000.into(), &lines.len().into()));
    let values = shell.values();
    assert_eq!(values.len(), 5_000);
    for i in 0..5_000 {
        assert_eq!(values[format!("package-{i}").as_bytes()], (format!("1.{i}").into_bytes(), 1));
    }
    assert!(shell.fake.state.lock().sessions.is_empty(), "the session was closed");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_twice_in_a_file_ends_with_its_last_value() {
    let shell = Shell::new(1);
    let lines: String = (0..3_000).map(|i| format!("{{\"key\":\"k{}\",\"value\":\"{i}\"}}\n", i % 7)).collect();
    // The first batch waits out a backoff, in which a careless import would write all others.
    shell.fake.fault("batch", Fault::Refuse(detail(ErrorCode::Overloaded, v1::Outcome::NotApplied, true)));
    let ran = shell.feed("import", lines.as_bytes()).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.err);
    assert_eq!(shell.values().len(), 7);
    for (key, (value, _)) in shell.values() {
        let last = (0..3_000).rev().find(|i| format!("k{}", i % 7).into_bytes() == key).unwrap();
        assert_eq!(value, last.to_string().into_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_skipped_in_silence() {
    let shell = Shell::new(1);
    let text = b"a\t1\n\nno tabulator\nb\t2";
    let refused = shell.feed("import", text).await;
    assert_eq!(refused.exit, Exit::Usage);
    assert!(refused.err.contains("standard input: line 3 "), "{}", refused.err);
    let skipped = shell.feed("import --skip-invalid -w json", text).await;
    let summary: serde_json::Value = serde_json::from_str(skipped.out()).unwrap();
    assert_eq!((&summary["imported"], &summary["skipped"]), (&2.into(), &1.into()));
    assert_eq!(summary["bytes"], text.len());
    assert_eq!(shell.values().len(), 2);
    let long = [b"a\t".as_slice(), &vec![b'x'; 13 << 20], b"\nb\t3\n"].concat();
    let long = shell.feed("import --skip-invalid -w json --format tsv", &long).await;
    let summary: serde_json::Value = serde_json::from_str(long.out()).unwrap();
    assert_eq!((&summary["imported"], &summary["skipped"]), (&1.into(), &1.into()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_names_its_lines_and_what_was_done() {
    let shell = Shell::new(1);
    let text: String = (0..400).map(|i| format!("k{i}\tv\n")).collect();
    let refusal = || Fault::Refuse(detail(ErrorCode::DiskFull, v1::Outcome::NotApplied, false));
    shell.fake.state.lock().faults.extend([("batch", refusal())]);
    let ran = shell.feed("import", text.as_bytes()).await;
    assert_eq!(ran.exit, Exit::Unavailable);
    assert!(ran.err.contains("lines 1 to 128") && ran.err.contains("272 records were imported"), "{}", ran.err);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_import_says_how_far_it_came() {
    let shell = Shell::new(1);
    shell.interrupts.raise();
    let ran = shell.feed("import", b"a\t1\n").await;
    assert_eq!(ran.exit, Exit::Interrupted);
    assert!(ran.err.contains("interrupted; 0 records"), "{}", ran.err);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_write_is_unknown_and_an_interrupted_read_is_not() {
    let shell = Shell::new(1);
    for (command, said) in [("put a 1", "interrupted, outcome unknown"), ("get a", "interrupted\n")] {
        shell.interrupts.renew();
        shell.fake.fault(command.split(' ').next().unwrap(), Fault::Hang);
        let pressed = async {
            time::sleep(Duration::from_secs(1)).await;
            shell.interrupts.raise();
        };
        let (ran, ()) = tokio::join!(shell.run(command), pressed);
        assert_eq!(ran.exit, Exit::Interrupted, "{command}");
        assert!(ran.err.contains(said), "{command}: {}", ran.err);
    }
}

fn round_trip(records: BTreeMap<Vec<u8>, Vec<u8>>, format: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let from = Shell::new(1);
        from.fake.state.lock().page_max = 3;
        for (key, value) in &records {
            let record = v1::Record { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
            from.fake.state.lock().records.insert(record.key.clone(), record);
        }
        let exported = from.run(&format!("export all --format {format}")).await;
        assert_eq!(exported.exit, Exit::Ok, "{}", exported.err);
        let to_stdout = from.run(&format!("export --format {format}")).await;
        let written = from.files.0.lock()[Path::new("all")].bytes.lock().clone();
        assert_eq!(written, to_stdout.out, "a file and standard output get the same");

        let to = Shell::new(1);
        let imported = to.feed("import -", &written).await;
        assert_eq!(imported.exit, Exit::Ok, "{}", imported.err);
        let values: BTreeMap<_, _> = to.values().into_iter().map(|(key, (value, _))| (key, value)).collect();
        assert_eq!(values, records);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn import_of_an_export_gives_the_same_records(
        records in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 1..12),
            proptest::collection::vec(any::<u8>(), 0..20),
            0..12,
        ),
    ) {
        round_trip(records, "json");
    }

    #[test]
    fn the_same_as_lines_for_records_that_fit_them(
        records in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>().prop_filter("no separators", |b| !matches!(b, b'\t' | b'\n')), 1..12),
            proptest::collection::vec(any::<u8>().prop_filter("no line feed", |b| *b != b'\n'), 0..20),
            0..12,
        ),
    ) {
        round_trip(records, "tsv");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_as_new_as_was_asked_for() {
    let shell = Shell::new(3);
    shell.run("put k v").await;
    shell.fake.state.lock().all_serve = true;
    for line in [
        "get k --read follower",
        "get k --max-stale 5s --zone a",
        "get k --read stale --max-stale 500ms",
        "get k --read linearizable",
    ] {
        let got = shell.run(line).await;
        assert_eq!((got.exit, got.out()), (Exit::Ok, "v\n"), "{line}: {}", got.err);
    }
    assert_eq!(shell.run("count --max-stale 5s").await.out(), "1\n");
    assert_eq!(shell.run("scan --read follower").await.out(), "k\tv\n");
    for line in
        ["get k --read stale", "get k --read follower --max-stale 5s", "profile show --read follower --max-stale 5s"]
    {
        let refused = shell.run(line).await;
        assert_eq!(refused.exit, Exit::Usage, "{line}");
        assert!(refused.err.contains("--max-stale"), "{line}: {}", refused.err);
    }
}
