//! Nodes that were away, that lost their disk, or that come back with an older one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::harness::{Cluster, check_filled, copy_dir, eventually, fill, free_port};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;

/// Entries that stay in a log before it is cut, and a step of cutting.
const ENTRIES_KEPT: usize = 8_192 + 64;

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

/// Two nodes of three go on: a write and a read through them.
async fn goes_on(cluster: &Cluster, key: &str) {
    let client = cluster.client().await;
    fill(&client, key, 0..3, 10).await;
    check_filled(&client, key, 0..3, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_left_far_behind_catches_up_by_snapshot_under_writes() {
    const BYTES: usize = 1_500;
    let mut cluster = Cluster::new(3, &["--log-segment-bytes", "16MiB"]);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "a", 0..200, BYTES).await;
    let left_at = eventually("status", || cluster.replica(2, SHARD)).await.last_index;
    cluster.nodes[2].kill();

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = tokio::spawn({
        let (client, stop, written) = (client.clone(), stop.clone(), written.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let from = written.load(Ordering::Relaxed);
                fill(&client, "w", from..from + 32, 100).await;
                written.store(from + 32, Ordering::Relaxed);
            }
        }
    });
    // Killed once while the snapshot is on its way, and started again. A quick one may have arrived
    // before: then the others go on without the node once more.
    let (mut round, mut last) = (0, left_at);
    let (leader, purged) = loop {
        assert!(round < 8, "it always catches up before it can be killed");
        fill(&client, &format!("b{round}"), 0..2 * ENTRIES_KEPT, BYTES).await;
        let leader = cluster.leader(SHARD).await;
        let purged = eventually("log that is cut behind the node that is away", || async {
            let replica = cluster.replica(leader, SHARD).await?;
            (replica.purged_index > last + 1).then_some(replica.purged_index)
        })
        .await;
        cluster.nodes[2].start();
        let sign = eventually("first sign of the node", || cluster.replica(2, SHARD)).await;
        cluster.nodes[2].kill();
        if sign.applied_index < purged {
            break (leader, purged);
        }
        // It may have written more than it said.
        last = cluster.replica(leader, SHARD).await.map_or(sign.last_index, |leads| leads.last_index);
        round += 1;
    };
    cluster.nodes[2].start();
    let before = written.load(Ordering::Relaxed);
    eventually("node that has caught up", || async {
        let leads = cluster.replica(leader, SHARD).await?;
        let follows = cluster.replica(2, SHARD).await?;
        (follows.applied_index > purged && follows.applied_index + 2_000 > leads.applied_index).then_some(())
    })
    .await;
    // The log that the snapshot made needless goes a moment after the state is there.
    eventually("sign that it was by a snapshot", || async {
        (cluster.replica(2, SHARD).await?.purged_index > last).then_some(())
    })
    .await;
    eventually("write beside it", || async { (written.load(Ordering::Relaxed) > before).then_some(()) }).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();

    // All three say the same, each when it leads.
    let mut exports = Vec::new();
    for node in [2, 0, 1] {
        cluster.move_leader(SHARD, node).await;
        let (code, export, error) = cluster.kvctl(&["export"]);
        assert_eq!(code, 0, "{error}");
        exports.push(export);
    }
    assert!(exports[0] == exports[1] && exports[1] == exports[2], "the nodes do not agree");
    cluster.move_leader(SHARD, 2).await;
    check_filled(&client, "a", 0..200, BYTES).await;
    for round in 0..=round {
        check_filled(&client, &format!("b{round}"), 0..2 * ENTRIES_KEPT, BYTES).await;
    }
    check_filled(&client, "w", 0..written.load(Ordering::Relaxed), 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_emptied_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..100, 10).await;
    // The last one, and the one that founds: it must not found a second cluster.
    for lost in [2, 0] {
        let dir = cluster.nodes[lost].dir.clone();
        let aside = dir.with_extension("aside");
        cluster.nodes[lost].kill();
        fs::rename(&dir, &aside).unwrap();
        for _ in 0..2 {
            let said = cluster.nodes[lost].start_in_vain();
            let last = last_line(&said);
            assert!(last.contains("older or an empty disk"), "{said}");
            assert!(last.contains(&format!("--replace n{}", lost + 1)), "{said}");
        }
        goes_on(&cluster, &format!("without-{lost}")).await;
        // The disk was found again: nobody holds the impostor against it.
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(&aside, &dir).unwrap();
        cluster.nodes[lost].start();
        cluster.wait_ready().await;
    }
    check_filled(&client, "k", 0..100, 10).await;
}

/// Copies what can be seen of a directory that changes meanwhile.
fn copy_running(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_running(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), &target) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_set_back_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let dir = cluster.nodes[1].dir.clone();
    let (stopped, running, newest) =
        (dir.with_extension("stopped"), dir.with_extension("running"), dir.with_extension("newest"));
    fill(&client, "k", 0..50, 10).await;
    assert_eq!(cluster.nodes[1].terminate(), Some(0));
    copy_dir(&dir, &stopped);
    cluster.nodes[1].start();
    cluster.wait_ready().await;
    fill(&client, "k", 50..100, 10).await;
    copy_running(&dir, &running);
    fill(&client, "k", 100..150, 10).await;
    let leader = cluster.leader(SHARD).await;
    eventually("acknowledgement of the node", || async {
        let last = cluster.replica(leader, SHARD).await?.last_index;
        (cluster.replica(1, SHARD).await?.last_index >= last).then_some(())
    })
    .await;
    cluster.nodes[1].kill();
    fs::rename(&dir, &newest).unwrap();
    for attempt in 0..3 {
        copy_dir(&stopped, &dir);
        // However often it is started.
        for _ in 0..attempt {
            cluster.nodes[1].start_in_vain();
        }
        let said = cluster.nodes[1].start_in_vain();
        assert!(last_line(&said).contains("older or an empty disk"), "{said}");
        assert!(last_line(&said).contains("--replace n2"), "{said}");
        goes_on(&cluster, &format!("set-back-{attempt}")).await;
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::rename(&newest, &dir).unwrap();
    cluster.nodes[1].start();
    cluster.wait_ready().await;
    cluster.nodes[1].kill();
    fs::remove_dir_all(&dir).unwrap();
    copy_dir(&running, &dir);
    let said = cluster.nodes[1].start_in_vain();
    // Files that were copied one after the other may not even fit each other.
    assert!(last_line(&said).contains("older or an empty disk") || last_line(&said).contains("damaged"), "{said}");
    assert!(last_line(&said).contains("--replace"), "{said}");
    goes_on(&cluster, "again").await;
    check_filled(&client, "k", 0..150, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_ours_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let dir = |at: usize| cluster.nodes[at].dir.to_str().unwrap().to_owned();
    let (first, third) = (dir(0), dir(2));
    let cluster_flag = cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.peer));
    let cluster_flag = cluster_flag.collect::<Vec<_>>().join(",");
    let file = cluster.root.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let below_file = file.join("data");
    let below_file = below_file.to_str().unwrap();

    let root = cluster.root.path().to_owned();
    let fresh = |name: &str, dir: &str, founding: &str| {
        let mut node = Cluster::new(1, &[]).nodes.remove(0);
        node.name = name.to_owned();
        // Where its output goes.
        node.dir = root.join("fresh");
        for (flag, value) in [("--name", name), ("--data-dir", dir), ("--cluster", founding)] {
            node.set_flag(flag, value);
        }
        node.set_flag("--peer-addr", &format!("127.0.0.1:{}", free_port()));
        node
    };
    let cases = [
        ("n1", first.as_str(), "another kvd runs on the data directory"),
        ("n1", below_file, "cannot use the data directory"),
        ("n1", "/proc/quorate", "cannot use the data directory"),
    ];
    for (name, dir, expected) in cases {
        let mut node = fresh(name, dir, &cluster_flag);
        let said = node.start_in_vain();
        assert!(last_line(&said).contains(expected), "{said}");
        assert!(last_line(&said).contains(dir), "it names the directory: {said}");
    }
    cluster.nodes[2].kill();
    let other = format!("n3=127.0.0.1:{}", free_port());
    for (name, founding, expected) in [
        ("n2", cluster_flag.as_str(), "the data directory belongs to node `n3 (n3)`, not to `n2 (n2)`"),
        ("n3", other.as_str(), "the data directory belongs to"),
    ] {
        let mut node = fresh(name, &third, founding);
        let said = node.start_in_vain();
        assert!(last_line(&said).contains(expected), "{said}");
        assert!(last_line(&said).contains("--data-dir"), "{said}");
    }
    // None of it harmed anybody.
    cluster.nodes[2].start();
    cluster.wait_ready().await;
    goes_on(&cluster, "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_to_stop_hands_its_leaderships_over() {
    // Elections that take this long cannot be what makes the others lead at once.
    const ELECTION: Duration = Duration::from_secs(20);
    let (min, max) = (ELECTION.as_millis().to_string(), (2 * ELECTION.as_millis()).to_string());
    // The first election of all may need more than one round, so it is an ordinary one.
    let mut cluster = Cluster::start(3).await;
    for node in 0..3 {
        cluster.move_leader(1, (node + 1) % 3).await;
        cluster.move_leader(SHARD, (node + 1) % 3).await;
        assert_eq!(cluster.nodes[node].terminate(), Some(0));
        cluster.nodes[node].set_flag("--election-min-ms", &min);
        cluster.nodes[node].set_flag("--election-max-ms", &max);
        cluster.nodes[node].start();
        cluster.wait_ready().await;
    }
    let client = cluster.client().await;
    fill(&client, "k", 0..100, 10).await;
    // One node leads both groups, so that both must move.
    for stopping in [0, 1] {
        cluster.move_leader(1, stopping).await;
        cluster.move_leader(SHARD, stopping).await;
        let since = Instant::now();
        assert_eq!(cluster.nodes[stopping].terminate(), Some(0));
        goes_on(&cluster, &format!("after-{stopping}")).await;
        let took = since.elapsed();
        assert!(took < ELECTION / 2, "{took:?}");
        assert!(cluster.nodes[stopping].output().contains("leadership handed over"));
        let leader = cluster.leader(SHARD).await;
        assert_ne!(leader, stopping);
        cluster.nodes[stopping].start();
        cluster.wait_ready().await;
    }
    check_filled(&client, "k", 0..100, 10).await;
}
