//! Many clients that each wait for their answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

pub(crate) const VALUE_BYTES: usize = 256;
/// Clients that write all keys before anything is measured.
pub(crate) const LOADERS: usize = 64;
/// Connections that the clients share; fewer when there are fewer clients.
const CONNECTIONS_MAX: usize = 4;
const LATENCY_US_MAX: u64 = 60_000_000;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    Put,
    Get,
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// A connection to a store, shared by some of the clients.
pub(crate) trait Connection: Clone + Send + Sync + 'static {
    fn run(&self, operation: Operation, key: Bytes, value: Bytes) -> impl Future<Output = ()> + Send;
}

impl Connection for quorate::client::Client {
    async fn run(&self, operation: Operation, key: Bytes, value: Bytes) {
        match operation {
            Operation::Put => drop(self.put(key, value).await.expect("a put")),
            Operation::Get => {
                let record = self.get(key).await.expect("a get").expect("a key that was written");
                assert_eq!(record.value.len(), VALUE_BYTES);
            }
        }
    }
}

/// As many connections as `clients` share.
pub(crate) async fn connections<C>(clients: usize, connect: impl AsyncFn() -> C) -> Vec<C> {
    let mut connections = Vec::new();
    for _ in 0..clients.min(CONNECTIONS_MAX) {
        connections.push(connect().await);
    }
    connections
}

fn key(number: u64) -> Bytes {
    format!("key-{number:012}").into()
}

/// Writes every key once.
pub(crate) async fn load<C: Connection>(connections: &[C], keys: u64) {
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

/// What clients saw.
pub(crate) struct Driven {
    pub(crate) took: Duration,
    pub(crate) latency_us: Histogram<u64>,
}

impl Driven {
    pub(crate) fn count(&self) -> f64 {
        self.latency_us.len() as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.count() / self.took.as_secs_f64()
    }

    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Lets `clients` run one operation after the other on `keys` keys, each at least once.
pub(crate) async fn drive<C: Connection>(
    connections: &[C],
    operation: Operation,
    clients: usize,
    keys: u64,
    time: Duration,
) -> Driven {
    let begun = Instant::now();
    let end = begun + time;
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
    Driven { took: begun.elapsed(), latency_us }
}
