//! How fast three nodes answer: puts and linearizable gets of 256-byte values at 1, 64 and 256
//! concurrent clients, and what they cost the servers. Where etcd is installed, it is measured the
//! same way in the same run.
//!
//! `cargo bench --bench cluster` measures; `cargo bench --bench cluster -- --help` lists the options.
//! `cargo test` runs it small. Servers and clients share this machine.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot run says why and ends")]
#![allow(clippy::print_stdout, reason = "it prints its table")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures real time on real processes")]

#[path = "cluster/drive.rs"]
mod drive;
#[path = "cluster/etcd.rs"]
mod etcd;
#[path = "cluster/fanout.rs"]
mod fanout;
#[path = "cluster/processes.rs"]
mod processes;
#[path = "cluster/quorate.rs"]
mod quorate_store;
#[path = "cluster/shards.rs"]
mod shards;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use drive::{Driven, Operation, VALUE_BYTES};
use processes::Processes;

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
    /// Measures one keyspace of so many shards instead, for each of these counts, without etcd: also what it
    /// costs while nothing is asked, and how long it takes to lead and serve after all nodes were killed.
    #[arg(long, value_delimiter = ',')]
    shards: Vec<u32>,
    /// Measures so many watchers of one prefix instead, for each of these counts.
    #[arg(long, value_delimiter = ',')]
    watchers: Vec<usize>,
    /// Puts a second below the watchers' prefix.
    #[arg(long, default_value_t = 500)]
    rate: u64,
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

impl drive::Connection for Connection {
    async fn run(&self, operation: Operation, key: Bytes, value: Bytes) {
        match (self, operation) {
            (Self::Quorate(client), _) => client.run(operation, key, value).await,
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
    driven: Driven,
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
        let defaults = Options::parse_from(["cluster"]);
        Options { keys: 64, seconds: 0, clients: vec![4], shards: vec![2], watchers: vec![4], rate: 50, ..defaults }
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
    if !options.shards.is_empty() {
        shards::run(options).await;
        if options.bench {
            return;
        }
    }
    let root = tempfile::tempdir_in(&options.dir).expect("a directory to write in");
    let places = quorate_store::places(root.path());
    let mut stores = vec![Store::Quorate(quorate_store::start(&options.kvd, &places).await)];
    if options.bench && !options.no_etcd {
        match etcd::start(root.path()).await {
            Some(processes) => stores.push(Store::Etcd(processes)),
            None => println!("etcd is not installed: there is nothing to compare with"),
        }
    }
    for store in &stores {
        println!("{}: processes {:?}", store.name(), store.processes().ids());
    }
    if !options.watchers.is_empty() {
        fanout::run(options, &stores).await;
        if options.bench {
            return;
        }
    }
    for store in &stores {
        let connections = drive::connections(drive::LOADERS, || store.connect()).await;
        drive::load(&connections, options.keys).await;
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
    let ms = |quantile| figures.driven.latency_ms(quantile);
    println!(
        "{:<4} {clients:>7}  {store:<8} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>11.0} {:>9.3}",
        operation.name(),
        figures.driven.per_second(),
        ms(0.5),
        ms(0.99),
        ms(0.999),
        figures.cpu_us,
        figures.syncs
    );
}

fn print_ratio(ours: &Figures, theirs: &Figures) {
    let latency = |quantile| ours.driven.latency_ms(quantile) / theirs.driven.latency_ms(quantile).max(0.001);
    println!(
        "{:<12}  {:<8} {:>8.2}x {:>7.2}x {:>7.2}x {:>7.2}x {:>10.2}x",
        "",
        "ratio",
        ours.driven.per_second() / theirs.driven.per_second(),
        latency(0.5),
        latency(0.99),
        latency(0.999),
        ours.cpu_us / theirs.cpu_us.max(1.0)
    );
}

async fn measure(store: &Store, operation: Operation, clients: usize, options: &Options) -> Figures {
    let connections = drive::connections(clients, || store.connect()).await;
    let (cpu, syncs) = (store.processes().cpu(), store.syncs());
    let time = Duration::from_secs(options.seconds);
    let driven = drive::drive(&connections, operation, clients, options.keys, time).await;
    let count = driven.count();
    Figures {
        cpu_us: (store.processes().cpu() - cpu).as_secs_f64() * 1e6 / count,
        syncs: (store.syncs() - syncs) / store.processes().ids().len() as f64 / count,
        driven,
    }
}
