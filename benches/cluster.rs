//! How fast three nodes answer: puts and linearizable gets of 256-byte values at 1, 64 and 256
//! concurrent clients, and what they cost the servers. Where etcd is installed, it is measured the
//! same way in the same run.
//!
//! `cargo bench --bench cluster` measures; `cargo bench --bench cluster -- --help` lists the options.
//! `cargo test` runs it small. Servers and clients share this machine.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot run says why and ends")]
#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real time on real processes")]

#[path = "cluster/etcd.rs"]
mod etcd;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/quorate.rs"]
mod quorate_store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;
use processes::Processes;

const VALUE_BYTES: usize = 256;
/// Connections that the clients share; fewer when there are fewer clients.
const CONNECTIONS_MAX: usize = 4;
/// Clients that write all keys before anything is measured.
const LOADERS: usize = 64;
const LATENCY_US_MAX: u64 = 60_000_000;

/// Measures a cluster of three kvd processes, and of three etcd processes if it is installed.
#[derive(Parser)]
struct Options {
    /// Cargo says that this is a measurement and no test.
    #[arg(long, hide = true)]
    bench: bool,
    /// How long each figure is measured.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of concurrent clients.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    operations: Vec<Operation>,
    /// Keys that are written at the start and then put and read.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Leaves etcd out.
    #[arg(long)]
    no_etcd: bool,
    /// Another build of kvd, to compare with.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_kvd"))]
    kvd: PathBuf,
    /// Directory to write in, for instance on another disk.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Operation {
    Put,
    Get,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// A running cluster to be measured.
enum Store {
    Quorate(Processes),
    Etcd(Processes),
}

/// One connection to a [`Store`].
#[derive(Clone)]
enum Connection {
    Quorate(quorate::client::Client),
    Etcd(etcd::Client),
}

impl Store {
    fn name(&self) -> &'static str {
        match self {
            Self::Quorate(_) => "quorate",
            Self::Etcd(_) => "etcd",
        }
    }

    fn processes(&self) -> &Processes {
        match self {
            Self::Quorate(processes) | Self::Etcd(processes) => processes,
        }
    }

    async fn connect(&self) -> Connection {
        match self {
            Self::Quorate(processes) => Connection::Quorate(quorate_store::connect(processes).await),
            Self::Etcd(processes) => Connection::Etcd(etcd::connect(processes).await),
        }
    }

    /// Syncs of the log, of all nodes together.
    fn syncs(&self) -> f64 {
        self.processes().metric(match self {
            Self::Quorate(_) => "quorate_log_syncs_total",
            Self::Etcd(_) => "etcd_disk_wal_fsync_duration_seconds_count",
        })
    }
}

impl Connection {
    async fn run(&self, operation: Operation, key: Bytes, value: Bytes) {
        match (self, operation) {
            (Self::Quorate(client), Operation::Put) => drop(client.put(key, value).await.expect("a put")),
            (Self::Quorate(client), Operation::Get) => {
                let record = client.get(key).await.expect("a get").expect("a key that was written");
                assert_eq!(record.value.len(), VALUE_BYTES);
            }
            (Self::Etcd(client), Operation::Put) => client.put(key, value).await.expect("a put"),
            (Self::Etcd(client), Operation::Get) => {
                let value = client.get(key).await.expect("a get").expect("a key that was written");
                assert_eq!(value.len(), VALUE_BYTES);
            }
        }
    }
}

/// What was measured.
struct Figures {
    per_second: f64,
    latency_us: Histogram<u64>,
    /// Of all servers together, for one operation.
    cpu_us: f64,
    /// Of one server on average, for one operation.
    syncs: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = if arguments.iter().any(|argument| argument == "--bench") {
        Options::parse()
    } else if is_asked_for(&arguments) {
        // As a test: everything once, with few clients.
        Options { keys: 64, seconds: 0, clients: vec![4], ..Options::parse_from(["cluster"]) }
    } else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(&options));
}

/// Whether `cargo test` means this one: its arguments are those of the test harness.
fn is_asked_for(arguments: &[String]) -> bool {
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    let named = filters.peek().is_none() || filters.any(|filter| "cluster".contains(filter.as_str()));
    named && !arguments.iter().any(|argument| argument == "--list")
}

async fn run(options: &Options) {
    let root = tempfile::tempdir_in(&options.dir).expect("a directory to write in");
    let mut stores = vec![Store::Quorate(quorate_store::start(&options.kvd, root.path()).await)];
    if options.bench && !options.no_etcd {
        match etcd::start(root.path()).await {
            Some(processes) => stores.push(Store::Etcd(processes)),
            None => println!("etcd is not installed: there is nothing to compare with"),
        }
    }
    for store in &stores {
        println!("{}: processes {:?}", store.name(), store.processes().ids());
        load(store, options.keys).await;
    }
    println!(
        "\n{:<4} {:>7}  {:<8} {:>9} {:>8} {:>8} {:>8} {:>11} {:>9}",
        "", "clients", "store", "per s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us/op", "syncs/op"
    );
    for &operation in &options.operations {
        for &clients in &options.clients {
            let mut rows = Vec::new();
            for store in &stores {
                let figures = measure(store, operation, clients, options).await;
                print(operation, clients, store.name(), &figures);
                rows.push(figures);
            }
            if let [ours, theirs] = rows.as_slice() {
                print_ratio(ours, theirs);
            }
        }
    }
}

fn print(operation: Operation, clients: usize, store: &str, figures: &Figures) {
    let ms = |quantile| figures.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{:<4} {clients:>7}  {store:<8} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>11.0} {:>9.3}",
        operation.name(),
        figures.per_second,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        figures.cpu_us,
        figures.syncs
    );
}

fn print_ratio(ours: &Figures, theirs: &Figures) {
    let latency = |quantile| {
        let of = |figures: &Figures| figures.latency_us.value_at_quantile(quantile) as f64;
        of(ours) / of(theirs).max(1.0)
    };
    println!(
        "{:<12}  {:<8} {:>8.2}x {:>7.2}x {:>7.2}x {:>7.2}x {:>10.2}x",
        "",
        "ratio",
        ours.per_second / theirs.per_second,
        latency(0.5),
        latency(0.99),
        latency(0.999),
        ours.cpu_us / theirs.cpu_us.max(1.0)
    );
}

fn key(number: u64) -> Bytes {
    format!("key-{number:012}").into()
}

async fn connections(store: &Store, clients: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..clients.min(CONNECTIONS_MAX) {
        connections.push(store.connect().await);
    }
    connections
}

async fn load(store: &Store, keys: u64) {
    let connections = connections(store, LOADERS).await;
    let next = Arc::new(AtomicU64::new(0));
    let loaders = (0..LOADERS).map(|number| {
        let (connection, next) = (connections[number % connections.len()].clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return;
                }
                connection.run(Operation::Put, key(number), vec![7; VALUE_BYTES].into()).await;
            }
        })
    });
    for loader in loaders.collect::<Vec<_>>() {
        loader.await.expect("a loader");
    }
}

async fn measure(store: &Store, operation: Operation, clients: usize, options: &Options) -> Figures {
    let connections = connections(store, clients).await;
    let (cpu, syncs) = (store.processes().cpu(), store.syncs());
    let begun = Instant::now();
    let end = begun + Duration::from_secs(options.seconds);
    let keys = options.keys;
    let tasks = (0..clients).map(|number| {
        let connection = connections[number % connections.len()].clone();
        tokio::spawn(async move {
            let mut latency = Histogram::<u64>::new_with_max(LATENCY_US_MAX, 3).expect("a histogram");
            let value = Bytes::from(vec![7; VALUE_BYTES]);
            // Each client walks through the keys in an order of its own.
            let mut at = number as u64 * 7_919;
            loop {
                let since = Instant::now();
                connection.run(operation, key(at % keys), value.clone()).await;
                latency.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
                at += 104_729;
                if Instant::now() >= end {
                    return latency;
                }
            }
        })
    });
    let mut latency_us = Histogram::<u64>::new_with_max(LATENCY_US_MAX, 3).expect("a histogram");
    for task in tasks.collect::<Vec<_>>() {
        latency_us.add(task.await.expect("a client")).expect("histograms of one kind");
    }
    let count = latency_us.len() as f64;
    Figures {
        per_second: count / begun.elapsed().as_secs_f64(),
        cpu_us: (store.processes().cpu() - cpu).as_secs_f64() * 1e6 / count,
        syncs: (store.syncs() - syncs) / store.processes().ids().len() as f64 / count,
        latency_us,
    }
}
