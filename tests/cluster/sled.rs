//! Nodes that keep their state in sled, as a `kvd` built with the feature `engine-sled` can.

use std::time::Instant;

use super::harness::{Cluster, check_filled, eventually, fill};
use super::writers::{SHARD, Writers};

const ON_SLED: [&str; 4] = ["--engine", "sled", "--log-segment-bytes", "16MiB"];
const WRITERS: usize = 16;
const KILLS: usize = 3;
const WRITES_PER_KILL: usize = 500;
/// More than stay in a log before it is cut.
const KEYS: usize = 10_000;
const BYTES: usize = 100;

/// Waits until a node has cut its log, so that its first entries are nowhere but in the engine.
async fn cut(cluster: &Cluster, node: usize) {
    eventually("cut log", || async { (cluster.replica(node, SHARD).await?.purged_index > 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_on_sled_has_what_it_acknowledged_after_each_kill() {
    let mut cluster = Cluster::new(1, &ON_SLED);
    cluster.start_all();
    cluster.wait_ready().await;
    let writers = Writers::start(&cluster, WRITERS).await;
    cut(&cluster, 0).await;
    for _ in 0..KILLS {
        let before = writers.acknowledged();
        eventually("more writes", || async { (writers.acknowledged() > before + WRITES_PER_KILL).then_some(()) }).await;
        cluster.nodes[0].kill();
        let (before, killed) = (writers.acknowledged(), Instant::now());
        cluster.nodes[0].start();
        let resumed = writers.resumed(before, killed).await;
        println!("writes again {resumed:.2?} after the kill");
    }
    let totals = writers.check(&mut cluster).await;
    println!("{totals:?}");
    assert!(totals.acknowledged > (KILLS * WRITES_PER_KILL) as u64, "{totals:?}");

    assert_eq!(cluster.nodes[0].terminate(), Some(0));
    cluster.nodes[0].set_flag("--engine", "fjall");
    let said = cluster.nodes[0].start_in_vain();
    assert!(said.contains("holds the state of the engine sled: start with --engine sled"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_pass_from_sled_to_fjall_and_back() {
    let mut cluster = Cluster::new(1, &ON_SLED);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "k", 0..KEYS, BYTES).await;
    cut(&cluster, 0).await;
    for (name, engine) in [("n2", "fjall"), ("n3", "sled")] {
        let node = cluster.add(name, 0, &["--engine", engine]);
        cluster.nodes[node].start();
        cluster.wait_ready().await;
        // The one before it has sent it a snapshot; now it answers, and sends to the next.
        cluster.move_leader(SHARD, node).await;
        cut(&cluster, node).await;
        check_filled(&client, "k", 0..KEYS, BYTES).await;
    }
}
