//! How many entries a second the Raft log makes durable on this disk, for one group and for many.
//!
//! `cargo bench --bench log` measures; `cargo test --benches` only runs it. `QUORATE_BENCH_DIR` names
//! the directory to write in, for instance on another disk.
#![allow(clippy::expect_used, reason = "a benchmark that cannot run says why and ends")]

use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use quorate::env::Env;
use quorate::storage::log::{EntryId, GroupLog, Log, LogConfig, LogEntry};
use quorate::types::GroupId;
use tokio::sync::oneshot;

const ENTRY_BYTES: usize = 300;
/// Appends in flight per group: what a leader with pipelined followers has.
const IN_FLIGHT: u64 = 8;

fn main() {
    divan::main();
}

/// Entries a group appends in one sample: few when run as a test.
fn entries_per_group(groups: u64) -> u64 {
    let measured = std::env::args().any(|argument| argument == "--bench");
    if measured { 256_000 / groups } else { 64 }
}

/// Groups, and entries in one append.
#[divan::bench(args = [(1, 1), (1, 64), (64, 1), (64, 16)], sample_count = 10)]
fn append(bencher: Bencher, (groups, batch): (u64, u64)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = match std::env::var_os("QUORATE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir_in("."),
    };
    let dir = dir.expect("a directory to write in");
    let (log, _) = runtime.block_on(Log::open(&Env::real(), dir.path(), LogConfig::default())).expect("the log");
    // A group alone waits for a sync every few entries.
    let count = if (groups, batch) == (1, 1) { entries_per_group(64) } else { entries_per_group(groups) };
    bencher
        .counter(ItemsCount::new(groups * count))
        .bench_local(|| runtime.block_on(append_all(&log, groups, count, batch)));
    runtime.block_on(log.close()).expect("the log closes");
    runtime.shutdown_timeout(Duration::from_secs(5));
}

async fn append_all(log: &Log, groups: u64, count: u64, batch: u64) {
    let appending: Vec<_> =
        (1..=groups).map(|id| tokio::spawn(append_group(log.group(GroupId(id)), count, batch))).collect();
    for group in appending {
        group.await.expect("a group appends");
    }
}

/// Appends with a bounded number in flight, and purges behind.
async fn append_group(group: GroupLog, count: u64, batch: u64) {
    let data = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut next = group.state().last.map_or(0, |last| last.index + 1);
    let end = next + count;
    let mut waiting = std::collections::VecDeque::new();
    while next < end {
        if waiting.len() as u64 >= IN_FLIGHT {
            written(waiting.pop_front()).await;
        }
        let upto = end.min(next + batch);
        let entries = (next..upto).map(|index| LogEntry { term: 1, index, data: data.clone() }).collect();
        let (done, durable) = oneshot::channel();
        group.append(entries, move |result| drop(done.send(result))).expect("an append");
        waiting.push_back(durable);
        next = upto;
    }
    while !waiting.is_empty() {
        written(waiting.pop_front()).await;
    }
    group.purge(EntryId { term: 1, index: end - 1 }).await.expect("a purge");
}

async fn written(durable: Option<oneshot::Receiver<Result<(), quorate::storage::log::LogError>>>) {
    if let Some(durable) = durable {
        durable.await.expect("an answer").expect("a durable append");
    }
}
