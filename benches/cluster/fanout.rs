//! Many watches of one prefix while it is written at a steady rate, through etcd's API on both stores: how long an
//! event takes from the call of its put to each watcher, and what that costs the servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::watch_client::WatchClient;
use quorate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::drive::VALUE_BYTES;
use super::processes::Processes;
use super::{Options, Store, etcd};

const PREFIX: &[u8] = b"fanout/";
const PREFIX_END: &[u8] = b"fanout0";
const KEYS: u64 = 100;
/// Streams that share a connection.
const STREAMS: usize = 50;
/// Puts under way at a time; when there are so many, the rate is not held.
const PUTS_MAX: usize = 256;
/// How long the last events may take.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
const LATENCY_US_MAX: u64 = 120_000_000;

/// Prints a row for each number of watchers and each store.
pub(crate) async fn run(options: &Options, stores: &[Store]) {
    println!(
        "\n{:>8}  {:<8} {:>8} {:>10} {:>9} {:>9} {:>9} {:>9} {:>13} {:>8}",
        "watchers", "store", "puts/s", "events/s", "p50 ms", "p99 ms", "max ms", "drain ms", "CPU us/event", "RSS MiB"
    );
    for &watchers in &options.watchers {
        let mut rows = Vec::new();
        for store in stores {
            let figures = measure(options, store.processes(), watchers).await;
            figures.print(watchers, store.name());
            rows.push(figures);
        }
        if let [ours, theirs] = rows.as_slice() {
            let ratio = |figure: fn(&Figures) -> f64| figure(ours) / figure(theirs).max(f64::MIN_POSITIVE);
            println!(
                "{:>8}  {:<8} {:>7.2}x {:>9.2}x {:>8.2}x {:>8.2}x {:>8.2}x {:>8.2}x {:>12.2}x {:>7.2}x",
                "",
                "ratio",
                ratio(|figures| figures.puts_per_second),
                ratio(|figures| figures.events_per_second),
                ratio(|figures| figures.latency_ms(0.5)),
                ratio(|figures| figures.latency_ms(0.99)),
                ratio(|figures| figures.latency_ms(1.0)),
                ratio(|figures| figures.drain_ms),
                ratio(|figures| figures.cpu_us),
                ratio(|figures| figures.memory_mib),
            );
        }
    }
}

struct Figures {
    puts_per_second: f64,
    events_per_second: f64,
    latency_us: Histogram<u64>,
    /// From the last acknowledged put until every watcher has its event.
    drain_ms: f64,
    /// Of all servers together, for one event at one watcher, the puts included.
    cpu_us: f64,
    /// Of one server on average, at the end.
    memory_mib: f64,
}

impl Figures {
    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn print(&self, watchers: usize, store: &str) {
        println!(
            "{watchers:>8}  {store:<8} {:>8.0} {:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>9.0} {:>13.2} {:>8.1}",
            self.puts_per_second,
            self.events_per_second,
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_ms(1.0),
            self.drain_ms,
            self.cpu_us,
            self.memory_mib,
        );
    }
}

async fn measure(options: &Options, processes: &Processes, watchers: usize) -> Figures {
    let epoch = Instant::now();
    let total = options.rate * options.seconds.max(1);
    let mut watching = JoinSet::new();
    let endpoints = processes.clients();
    let mut channel = None;
    for number in 0..watchers {
        if number % STREAMS == 0 {
            channel = Some(connect(&endpoints[number / STREAMS % endpoints.len()]).await);
        }
        let stream = watch(channel.clone().expect("a connection")).await;
        watching.spawn(count(stream, total, epoch));
    }
    let writer = etcd::connect(processes).await;
    let (cpu, begun) = (processes.cpu(), Instant::now());
    write(&writer, total, options.rate, epoch).await;
    let written = begun.elapsed();
    let mut latency_us = Histogram::<u64>::new_with_max(LATENCY_US_MAX, 3).expect("a histogram");
    let drained = async {
        while let Some(watched) = watching.join_next().await {
            latency_us.add(watched.expect("a watcher")).expect("histograms of one kind");
        }
    };
    tokio::time::timeout(DRAINED_WITHIN, drained).await.expect("every watcher gets every event");
    let took = begun.elapsed();
    let events = (total * watchers as u64) as f64;
    assert_eq!(latency_us.len(), total * watchers as u64, "each event once at each watcher");
    Figures {
        puts_per_second: total as f64 / written.as_secs_f64(),
        events_per_second: events / took.as_secs_f64(),
        latency_us,
        drain_ms: (took - written).as_secs_f64() * 1e3,
        cpu_us: (processes.cpu() - cpu).as_secs_f64() * 1e6 / events,
        memory_mib: processes.memory_bytes() as f64 / endpoints.len() as f64 / f64::from(1 << 20),
    }
}

/// Puts `total` values at a steady rate, whatever the answers take; each says when it was due.
async fn write(writer: &etcd::Client, total: u64, rate: u64, epoch: Instant) {
    let permits = Arc::new(Semaphore::new(PUTS_MAX));
    let mut puts = JoinSet::new();
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number == total {
            break;
        }
        let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let permit = permits.clone().acquire_owned().await.expect("permits");
        let key = [PREFIX, &(number % KEYS).to_be_bytes()].concat();
        let mut value = vec![7; VALUE_BYTES];
        let sent_us = u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        value[..8].copy_from_slice(&sent_us.to_be_bytes());
        let writer = writer.clone();
        puts.spawn(async move {
            writer.put(key.into(), value.into()).await.expect("a put");
            drop(permit);
        });
    }
    while let Some(put) = puts.join_next().await {
        put.expect("a put");
    }
}

async fn connect(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an address");
    endpoint.tcp_nodelay(true).connect().await.expect("a connection")
}

/// Watches the prefix from now on; returns once the watch has begun.
async fn watch(channel: Channel) -> tonic::Streaming<pb::WatchResponse> {
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(PREFIX),
        range_end: Bytes::from_static(PREFIX_END),
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures_util::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let answer = WatchClient::new(channel).watch(requests).await.expect("a watch");
    let mut stream = answer.into_inner();
    let created = stream.message().await.expect("an answer").expect("an answer");
    assert!(created.created && !created.canceled, "{created:?}");
    stream
}

/// Takes `total` events.
async fn count(mut stream: tonic::Streaming<pb::WatchResponse>, total: u64, epoch: Instant) -> Histogram<u64> {
    let mut latency = Histogram::<u64>::new_with_max(LATENCY_US_MAX, 3).expect("a histogram");
    while latency.len() < total {
        let answer = stream.message().await.expect("a watch that goes on").expect("a watch that goes on");
        let now = u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        for event in answer.events {
            let value = event.kv.expect("a record").value;
            let sent = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
            latency.saturating_record(now - sent);
        }
    }
    latency
}
