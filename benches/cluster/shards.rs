//! One keyspace of 1, 4, 16 … shards: the same load on each in turn, each on a cluster of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::client::sharding::{Hash, Kind};
use quorate::client::{Client, ClientConfig, CreateKeyspaceRequest, Sharding};
use quorate::env::Env;

use super::drive;
use super::processes::{Place, Processes};
use super::{Options, quorate_store};

const KEYSPACE: &str = "measured";
/// Groups besides the keyspace's shards: the metadata group and the shard of `default`.
const OTHER_GROUPS: usize = 2;
const LEADERS_WITHIN: Duration = Duration::from_secs(120);
/// Leaders move to where they are preferred within this time of their election.
const SETTLING: Duration = Duration::from_secs(5);

/// Prints a row for each count of shards and each operation.
pub(crate) async fn run(options: &Options) {
    println!(
        "{:>6}  {:<4} {:>7} {:>9} {:>8} {:>8} {:>9} {:>12} {:>9} {:>10} {:>8}",
        "shards",
        "",
        "clients",
        "per s",
        "p50 ms",
        "p99 ms",
        "CPU us/op",
        "idle CPU ms/s",
        "RSS MiB",
        "leaders s",
        "served s"
    );
    for &shards in &options.shards {
        let root = tempfile::tempdir_in(&options.dir).expect("a directory to write in");
        measure(options, shards, root.path()).await;
    }
}

async fn measure(options: &Options, shards: u32, root: &Path) {
    let places = quorate_store::places(root);
    let processes = quorate_store::start(&options.kvd, &places).await;
    let client = connect(&processes).await;
    let sharding = Sharding { kind: Some(Kind::Hash(Hash { shards })) };
    let request = CreateKeyspaceRequest { name: KEYSPACE.into(), sharding: Some(sharding), ..Default::default() };
    client.create_keyspace(request).await.expect("a keyspace");
    leaders(&client, &processes, shards).await;
    let (settling, watched) = if options.bench { (SETTLING, 2 * SETTLING) } else { (Duration::ZERO, Duration::ZERO) };
    tokio::time::sleep(settling).await;
    let connections = drive::connections(drive::LOADERS, || connect(&processes)).await;
    drive::load(&connections, options.keys).await;
    let idle_ms = idle(&processes, watched).await;
    for &operation in &options.operations {
        for &clients in &options.clients {
            let cpu = processes.cpu();
            let time = Duration::from_secs(options.seconds);
            let driven = drive::drive(&connections, operation, clients, options.keys, time).await;
            let cpu_us = (processes.cpu() - cpu).as_secs_f64() * 1e6 / driven.count();
            println!(
                "{shards:>6}  {:<4} {clients:>7} {:>9.0} {:>8.2} {:>8.2} {:>9.0} {idle_ms:>12.1} {:>9.1}",
                operation.name(),
                driven.per_second(),
                driven.latency_ms(0.5),
                driven.latency_ms(0.99),
                cpu_us,
                processes.memory_bytes() as f64 / places.len() as f64 / (1 << 20) as f64,
            );
        }
    }
    drop(connections);
    restart(options, shards, &places, processes).await;
}

/// Kills all nodes, starts them, and sees how long it takes until all shards lead and serve.
async fn restart(options: &Options, shards: u32, places: &[Place], processes: Processes) {
    drop(processes);
    let begun = Instant::now();
    let processes = quorate_store::start_only(&options.kvd, places);
    let client = connect(&processes).await;
    leaders(&client, &processes, shards).await;
    let elected = begun.elapsed();
    let count = client.count(quorate::client::Keys::all()).await.expect("a count");
    assert_eq!(count, options.keys, "all that was written");
    let (elected, served) = (elected.as_secs_f64(), begun.elapsed().as_secs_f64());
    println!("{shards:>6}  {:<76} {elected:>10.2} {served:>8.2}", "restart");
}

async fn connect(processes: &Processes) -> Client {
    let config = ClientConfig::new(processes.clients()).keyspace(KEYSPACE).timeout(Duration::from_secs(60));
    Client::connect(&Env::real(), config).await.expect("a client")
}

/// Waits until every group has a leader, by the word of the leaders.
async fn leaders(client: &Client, processes: &Processes, shards: u32) {
    let since = Instant::now();
    loop {
        let mut led = BTreeSet::new();
        for endpoint in processes.clients() {
            let Ok(status) = client.status(&endpoint).await else { continue };
            led.extend(status.replicas.iter().filter(|replica| replica.role == "leader").map(|one| one.shard_id));
        }
        if led.len() == shards as usize + OTHER_GROUPS {
            return;
        }
        assert!(since.elapsed() < LEADERS_WITHIN, "only {} of {shards} shards have a leader", led.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// CPU time of all servers in a second without requests, in milliseconds.
async fn idle(processes: &Processes, watched: Duration) -> f64 {
    let (cpu, begun) = (processes.cpu(), Instant::now());
    tokio::time::sleep(watched).await;
    (processes.cpu() - cpu).as_secs_f64() * 1e3 / begun.elapsed().as_secs_f64()
}
