//! Writers under kill -9: nothing acknowledged is lost, nothing happens twice.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::harness::{Cluster, eventually};
use super::writers::{SHARD, Writers};

const WRITERS: usize = 16;
/// Kills of single nodes, and the time between two of them.
const KILLS: usize = 20;
const ROUND: Duration = Duration::from_secs(2);
/// A later restart leaves the node no time to take part before the next kill.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// Kills of all nodes at once, and the writes that come before each.
const BLACKOUTS: usize = 5;
const WRITES_PER_BLACKOUT: std::ops::Range<usize> = 50..800;
/// Half of all elections must be over by then, on a machine that also runs other tests.
const FAILOVER_MEDIAN_MAX: Duration = Duration::from_secs(4);

/// Chance, whose seed is printed, or given as `CHAOS_SEED`. Processes and sockets keep their own
/// time, so a seed repeats the choices and not the run.
fn chance() -> StdRng {
    let given = std::env::var("CHAOS_SEED").ok().map(|seed| seed.parse().expect("CHAOS_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("CHAOS_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_single_nodes_lose_and_repeat_nothing() {
    let mut chance = chance();
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, WRITERS).await;
    let (mut failovers, mut others) = (Vec::new(), Vec::new());
    for round in 1..=KILLS {
        let before = writers.acknowledged();
        let leader = cluster.leader(SHARD).await;
        let victim = if chance.random_bool(0.6) { leader } else { chance.random_range(0..3) };
        let at_once = chance.random_bool(0.5);
        cluster.nodes[victim].kill();
        let kill = Instant::now();
        if at_once {
            cluster.nodes[victim].start();
        }
        let resumed = writers.resumed(before, kill).await;
        if victim == leader {
            failovers.push(resumed)
        } else {
            others.push(resumed)
        };
        if !at_once {
            tokio::time::sleep(RESTART_DELAY.saturating_sub(kill.elapsed())).await;
            cluster.nodes[victim].start();
        }
        tokio::time::sleep(ROUND.saturating_sub(kill.elapsed())).await;
        println!(
            "kill {round}: n{}{}, restarted {}, writes again after {resumed:.2?}; {} acknowledged in the round",
            victim + 1,
            if victim == leader { ", the leader" } else { "" },
            if at_once { "at once" } else { "later" },
            writers.acknowledged() - before,
        );
        for node in &mut cluster.nodes {
            assert!(node.is_running(), "{} ended by itself", node.name);
        }
    }
    let totals = writers.check(&mut cluster).await;
    failovers.sort();
    let (median, worst) = (failovers[failovers.len() / 2], failovers[failovers.len() - 1]);
    println!("{KILLS} kills, {} of them of the leader; {totals:?}", failovers.len());
    println!("writes again after a leader's death: median {median:.2?}, worst {worst:.2?}");
    println!("after another's: worst {:.2?}", others.iter().max());
    assert!(median <= FAILOVER_MEDIAN_MAX, "elections take {median:?}");
    assert!(totals.acknowledged > totals.unknown + totals.not_applied, "most writes should succeed: {totals:?}");
    assert!(totals.unknown > 0, "the test should meet writes of unknown outcome: {totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_all_nodes_at_once_loses_and_repeats_nothing() {
    let mut chance = chance();
    let mut cluster = Cluster::start(3).await;
    let writers = Writers::start(&cluster, WRITERS).await;
    for round in 1..=BLACKOUTS {
        let wanted = writers.acknowledged() + chance.random_range(WRITES_PER_BLACKOUT);
        eventually("progress", || async { (writers.acknowledged() >= wanted).then_some(()) }).await;
        cluster.kill_all();
        let dead = writers.acknowledged();
        let start = Instant::now();
        cluster.start_all();
        let resumed = writers.resumed(dead, start).await;
        println!("all killed, {round}: {dead} writes acknowledged before, writes again after {resumed:.2?}");
    }
    let totals = writers.check(&mut cluster).await;
    println!("{BLACKOUTS} kills of all nodes; {totals:?}");
    assert!(totals.unknown > 0, "some writes should be cut off: {totals:?}");
}
