//! Flipped bytes, torn tails and full disks: named, never served, and nothing acknowledged is lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use quorate::client::{Client, ErrorCode, Outcome};
use quorate::proto::etcd::etcdserverpb as etcd;
use tonic::transport::Endpoint;

use super::harness::{Cluster, SmallDisk, check_filled, eventually, fill, value_of};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;
/// Frames start at multiples of this.
const BLOCK: usize = 4_096;
/// Bytes of a frame's header.
const FRAME_HEADER: usize = 72;

/// The files below a directory with their sizes.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    found.sort();
    found
}

/// Changes one byte of a file.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Where the frames of a segment of the Raft log begin.
fn frames(segment: &Path) -> Vec<usize> {
    let bytes = fs::read(segment).unwrap();
    (0..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"QLF1")).collect()
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("log").join(format!("{:016x}.log", 1))
}

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_raft_log_is_named_and_the_others_go_on() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    for round in 0..20 {
        fill(&client, "k", round * 10..round * 10 + 10, 100).await;
    }
    cluster.nodes[1].kill();
    let segment = first_segment(&cluster.nodes[1].dir);
    let all = frames(&segment);
    assert!(all.len() > 10, "{} frames", all.len());
    flip(&segment, (all[all.len() / 2] + FRAME_HEADER + 20) as u64);
    // It stays refused: nothing that was damaged is cut away or forgotten.
    for _ in 0..2 {
        let said = cluster.nodes[1].start_in_vain();
        let last = last_line(&said);
        assert!(last.contains("the Raft log is damaged"), "{said}");
        assert!(last.contains("group "), "it names what is lost: {said}");
        assert!(last.contains("--replace"), "it says what to do: {said}");
    }
    fill(&client, "k", 200..250, 100).await;
    check_filled(&client, "k", 0..250, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_in_the_engine_are_named_and_never_served() {
    const RECORDS: usize = 6_000;
    const BYTES: usize = 1_000;
    let mut cluster = Cluster::new(3, &["--engine-write-buffer-bytes", "1MiB", "--engine-cache-bytes", "1MiB"]);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "k", 0..RECORDS, BYTES).await;
    // In a table: found when it is read, which ends the node, so that another leads.
    cluster.move_leader(SHARD, 0).await;
    let tables = eventually("table on disk", || async {
        let tables = files(&cluster.nodes[0].dir.join("engine"))
            .into_iter()
            .filter(|(path, bytes)| *bytes > 100_000 && path.components().any(|part| part.as_os_str() == "tables"));
        let tables: Vec<_> = tables.collect();
        (!tables.is_empty()).then_some(tables)
    })
    .await;
    assert_eq!(cluster.nodes[0].terminate(), Some(0));
    for (table, bytes) in &tables {
        for part in 1..8 {
            flip(table, bytes * part / 10);
        }
    }
    let before = cluster.nodes[0].output().len();
    cluster.nodes[0].start();
    // Where it leads all is read from it; it may find out, and end, at any time before.
    let leads = tokio::time::timeout(std::time::Duration::from_secs(5), cluster.move_leader(SHARD, 0));
    leads.await.ok();
    check_filled(&client, "k", 0..RECORDS, BYTES).await;
    assert_eq!(cluster.nodes[0].wait_exit(), Some(1));
    let said = cluster.nodes[0].output()[before..].to_owned();
    assert!(last_line(&said).contains("engine"), "{said}");
    assert!(last_line(&said).contains("--replace"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_engines_journal_is_named_at_the_start() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..500, 1_000).await;
    // An orderly stop flushes: all of the journal is known to be durable.
    assert_eq!(cluster.nodes[2].terminate(), Some(0));
    let journals = files(&cluster.nodes[2].dir.join("engine")).into_iter().map(|(path, _)| path);
    let journals: Vec<_> = journals.filter(|path| path.extension().is_some_and(|name| name == "jnl")).collect();
    let journal = journals.last().expect("a journal");
    let written = fs::read(journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    assert!(written > 100_000, "{written} bytes in {}", journal.display());
    flip(journal, written as u64 / 2);
    for _ in 0..2 {
        let said = cluster.nodes[2].start_in_vain();
        let last = last_line(&said);
        assert!(last.contains("the state engine is damaged"), "{said}");
        assert!(last.contains(&journal.display().to_string()), "it names the file: {said}");
        assert!(last.contains("--replace"), "it says what to do: {said}");
    }
    fill(&client, "k", 500..550, 1_000).await;
    check_filled(&client, "k", 0..550, 1_000).await;
}

/// One node, so that nobody else can hold what it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let segment = first_segment(&cluster.nodes[0].dir);
    let size = fs::metadata(&segment).unwrap().len();
    for (round, how) in ["half a frame", "garbage", "a damaged seal", "cut"].into_iter().enumerate() {
        fill(&client, "k", round * 50..round * 50 + 50, 100).await;
        // Once idle, the log ends with a frame that holds nothing which was acknowledged.
        eventually("seal", || async { sealed(&segment).then_some(()) }).await;
        cluster.nodes[0].kill();
        let all = frames(&segment);
        let (last, end) = (all[all.len() - 1], all[all.len() - 1] + BLOCK);
        let file = File::options().read(true).write(true).open(&segment).unwrap();
        match how {
            "half a frame" => {
                // The header of a frame, as if it was the next, over a body that never came.
                let mut header = vec![0; FRAME_HEADER];
                file.read_exact_at(&mut header, all[0] as u64).unwrap();
                file.write_all_at(&header, end as u64).unwrap();
            }
            "garbage" => file.write_all_at(&vec![0xa5; 3 * BLOCK + 17], end as u64).unwrap(),
            "a damaged seal" => flip(&segment, last as u64 + 70),
            _ => file.set_len(end as u64).unwrap(),
        }
        cluster.nodes[0].start();
        cluster.wait_ready().await;
        check_filled(&client, "k", 0..round * 50 + 50, 100).await;
        fill(&client, "after", round..round + 1, 100).await;
    }
    check_filled(&client, "after", 0..4, 100).await;
    assert!(size >= fs::metadata(&segment).unwrap().len());
}

/// Whether the last frame of a segment is a seal, or holds nothing but how far others have committed.
fn sealed(segment: &Path) -> bool {
    const COMMITTED_MARK: u8 = 3;
    let all = frames(segment);
    let bytes = fs::read(segment).unwrap();
    all.last().is_some_and(|last| {
        let body = &bytes[last + FRAME_HEADER..];
        let groups = u32::from_le_bytes(body[..4].try_into().unwrap()) as usize;
        bytes[last + 4] & 1 == 1 || body[4 + 8 * groups] == COMMITTED_MARK
    })
}

/// Puts until the disk is said to be full; returns the number of the first that was refused.
async fn put_until_full(client: &Client, prefix: &str, from: usize, bytes: usize) -> usize {
    for number in from..from + 10_000 {
        let key = format!("{prefix}{number:08}");
        match client.put(key.clone(), value_of(&key, bytes)).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!((error.code, error.outcome), (ErrorCode::DiskFull, Outcome::NotApplied), "{error}");
                assert!(client.get(key).await.unwrap().is_none());
                return number;
            }
        }
    }
    panic!("the disk was never full");
}

/// Fills the disk, and shows what works then and what does not. Returns as [`put_until_full`].
async fn fill_disk(cluster: &Cluster, client: &Client, from: usize, keep: &str, delete: &str) -> usize {
    let mut full = from;
    // The engine may give space back for a while: tables are merged, journals dropped.
    loop {
        full = put_until_full(client, "big", full, 200_000).await;
        let (code, _, error) = cluster.kvctl(&["put", "small", "x"]);
        if code == 3 {
            assert!(error.contains("disk") && error.contains("full"), "{error}");
            break;
        }
        assert_eq!(code, 0, "{error}");
    }
    assert!(client.get(keep.to_owned()).await.unwrap().is_some());
    assert!(client.delete(delete.to_owned()).await.unwrap(), "{delete}");
    full
}

/// Runs everywhere: the reserve is set above what the disk has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_reserve_growing_writes_are_refused_and_all_else_works() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..50, 100).await;
    assert_eq!(cluster.nodes[0].terminate(), Some(0));
    let stat = rustix::fs::statvfs(cluster.root.path()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    cluster.nodes[0].set_flag("--disk-reserve-bytes", &(free / 2 * 3).to_string());
    for delete in ["k00000049", "k00000048"] {
        cluster.nodes[0].start();
        cluster.wait_ready().await;
        assert_eq!(fill_disk(&cluster, &client, 0, "k00000007", delete).await, 0);
        let (_, status, _) = cluster.kvctl(&["endpoint", "status"]);
        assert!(status.contains("yes (disk full)"), "{status}");
        assert_eq!(alarms(&cluster).await, (vec![1], "memberID:1 alarm:NOSPACE ".to_owned()));
        cluster.nodes[0].kill();
    }
    // Far below it deletes are refused too, and what makes room is not.
    cluster.nodes[0].set_flag("--disk-reserve-bytes", "1048576GiB");
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    let (code, _, error) = cluster.kvctl(&["--timeout", "2s", "del", "k00000007"]);
    assert!(code == 3 && error.contains("is full") && error.contains("compact history"), "{code}: {error}");
    check_filled(&client, "k", 0..48, 100).await;
    let (code, _, error) = cluster.kvctl(&["compact", "--wait", "50"]);
    assert_eq!(code, 0, "{error}");
    cluster.nodes[0].kill();
    cluster.nodes[0].set_flag("--disk-reserve-bytes", "16MiB");
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    check_filled(&client, "k", 0..48, 100).await;
    fill(&client, "k", 48..60, 100).await;
    check_filled(&client, "k", 0..60, 100).await;
    assert_eq!(alarms(&cluster).await, (vec![], String::new()));
}

/// What etcd's clients hear of the disk: the members with an alarm, and what ails the first.
async fn alarms(cluster: &Cluster) -> (Vec<u64>, String) {
    let channel = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].client)).unwrap().connect_lazy();
    let mut client = etcd::maintenance_client::MaintenanceClient::new(channel);
    let listed = client.alarm(etcd::AlarmRequest::default()).await.unwrap().into_inner();
    let status = client.status(etcd::StatusRequest::default()).await.unwrap().into_inner();
    (listed.alarms.iter().map(|alarm| alarm.member_id).collect(), status.errors.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_growing_writes_and_loses_nothing() {
    const MIB: u64 = 1 << 20;
    /// Of those written: each is kept as history, and takes its space once more.
    const DELETED: usize = 100;
    // Merging tables takes space for a while, as much as all of them do at worst: more than the default reserve.
    const SETTINGS: [&str; 6] =
        ["--log-segment-bytes", "16MiB", "--engine-write-buffer-bytes", "8MiB", "--disk-reserve-bytes", "272MiB"];
    let mut cluster = Cluster::new(1, &SETTINGS);
    let disk = match SmallDisk::mount(&cluster.root.path().join("disk"), 640) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("NOT RUN, only the test of the reserve was: no file system can be mounted here: {why}");
            return;
        }
    };
    disk.hold(&mut cluster.nodes[0]);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "k", 0..50, 100).await;
    // Filled by our own writes.
    let full = fill_disk(&cluster, &client, 0, "k00000007", "k00000049").await;
    assert!(full > DELETED, "{full}");
    assert_eq!(cluster.nodes[0].terminate(), Some(0));
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    let full = fill_disk(&cluster, &client, full, "k00000007", "k00000048").await;
    check_filled(&client, "big", 0..full, 200_000).await;
    // And by others, who take more than the reserve can stand in for: the engine may then find no room
    // to merge its tables, and the node ends with the reason. It starts again, and nothing is lost.
    disk.take_all_but(24 * MIB);
    let (code, _, error) = cluster.kvctl(&["--timeout", "2s", "put", "small", "x"]);
    assert_ne!(code, 0, "{error}");
    disk.give_back();
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    check_filled(&client, "k", 0..48, 100).await;
    check_filled(&client, "big", 0..full, 200_000).await;
    for number in full - DELETED..full {
        client.delete(format!("big{number:08}")).await.unwrap();
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    check_filled(&client, "k", 0..48, 100).await;
    check_filled(&client, "big", 0..full - DELETED, 200_000).await;
}

/// The disk of one of three runs full: that node ends and says why, the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_ends_and_catches_up_later() {
    let mut cluster = Cluster::new(3, &["--log-segment-bytes", "16MiB"]);
    let disk = match SmallDisk::mount(&cluster.root.path().join("disk"), 256) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("NOT RUN: no file system can be mounted here: {why}");
            return;
        }
    };
    disk.hold(&mut cluster.nodes[2]);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    cluster.move_leader(1, 0).await;
    cluster.move_leader(SHARD, 0).await;
    fill(&client, "k", 0..50, 100).await;
    disk.take_all_but(0);
    let mut written = 0;
    eventually("end of the node", || {
        let running = cluster.nodes[2].is_running();
        let client = client.clone();
        written += 16;
        async move {
            fill(&client, "big", written - 16..written, 200_000).await;
            (!running).then_some(())
        }
    })
    .await;
    assert_eq!(cluster.nodes[2].wait_exit(), Some(1));
    let said = cluster.nodes[2].output();
    assert!(last_line(&said).contains("disk is full") || last_line(&said).contains("No space left"), "{said}");
    fill(&client, "k", 50..100, 100).await;
    disk.give_back();
    cluster.nodes[2].start();
    cluster.wait_ready().await;
    eventually("node that has caught up", || async {
        let leads = cluster.replica(0, SHARD).await?;
        (cluster.replica(2, SHARD).await?.applied_index >= leads.applied_index).then_some(())
    })
    .await;
    cluster.move_leader(SHARD, 2).await;
    check_filled(&client, "k", 0..100, 100).await;
    check_filled(&client, "big", 0..written, 200_000).await;
}
