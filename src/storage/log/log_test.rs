//! The log as its users see it, on the real file system.

use std::ops::Range;
use std::path::Path;

use super::model_test::{env, simulate};
use super::*;
use crate::env::Env;
use crate::env::disk::MemoryDisk;

const BIG: usize = usize::MAX;

fn config() -> LogConfig {
    LogConfig { segment_bytes: SEGMENT_BYTES_MIN, tail_cache_bytes: 2048, ..LogConfig::default() }
}

async fn open(dir: &Path) -> (Log, Recovery) {
    Log::open(&Env::real(), dir, config()).await.unwrap()
}

fn entries(term: u64, range: Range<u64>) -> Vec<LogEntry> {
    range.map(|index| LogEntry { term, index, data: Bytes::from(format!("entry {index} of term {term}")) }).collect()
}

async fn append(group: &GroupLog, entries: Vec<LogEntry>) -> Result<(), LogError> {
    let (done, durable) = tokio::sync::oneshot::channel();
    group.append(entries, move |result| drop(done.send(result)))?;
    durable.await.unwrap()
}

#[tokio::test]
async fn keeps_everything_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovery) = open(dir.path()).await;
    assert_eq!(recovery, Recovery { segments: 1, ..Recovery::default() });
    let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&one, entries(1, 0..10)).await.unwrap();
    append(&two, entries(3, 0..4)).await.unwrap();
    one.save_vote(Bytes::from_static(b"vote")).await.unwrap();
    one.save_committed(Bytes::from_static(b"mark")).unwrap();
    one.truncate_after(Some(6)).await.unwrap();
    append(&one, entries(2, 7..9)).await.unwrap();
    one.purge(EntryId { term: 1, index: 1 }).await.unwrap();
    two.purge(EntryId { term: 5, index: 20 }).await.unwrap();
    let expected = [entries(1, 2..7), entries(2, 7..9)].concat();
    assert_eq!(one.read(0..100, BIG).await.unwrap(), expected);
    assert_eq!(*one.durable().borrow(), Some(8));
    let position = log.position();
    log.close().await.unwrap();
    assert_eq!(append(&one, entries(2, 9..10)).await, Err(LogError::Closed));

    let (log, recovery) = open(dir.path()).await;
    assert!(recovery.quarantined.is_empty() && recovery.torn_bytes == 0, "{recovery:?}");
    assert!(log.position() > position);
    assert_eq!(log.groups(), vec![GroupId(1), GroupId(2)]);
    let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    assert_eq!(one.read(0..100, BIG).await.unwrap(), expected);
    assert_eq!(one.vote(), Some(Bytes::from_static(b"vote")));
    assert_eq!(one.committed(), Some(Bytes::from_static(b"mark")));
    let state = LogState { purged: Some(EntryId { term: 1, index: 1 }), last: Some(EntryId { term: 2, index: 8 }) };
    assert_eq!(one.state(), state);
    assert_eq!(*one.durable().borrow(), Some(8));
    let purged = Some(EntryId { term: 5, index: 20 });
    assert_eq!(two.state(), LogState { purged, last: purged });
    append(&two, entries(6, 21..22)).await.unwrap();
    log.remove_group(GroupId(1)).await.unwrap();
    assert_eq!(log.groups(), vec![GroupId(2)]);
    drop((log, one, two));

    let (log, _) = open(dir.path()).await;
    assert_eq!(log.groups(), vec![GroupId(2)]);
    assert_eq!(log.group(GroupId(1)).state(), LogState::default());
    assert_eq!(log.group(GroupId(2)).read(0..100, BIG).await.unwrap(), entries(6, 21..22));
}

#[tokio::test]
async fn appended_entries_are_readable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).await;
    let group = log.group(GroupId(1));
    group.append(entries(1, 0..3), |_| {}).unwrap();
    assert_eq!(group.state().last, Some(EntryId { term: 1, index: 2 }));
    assert_eq!(group.read(1..3, BIG).await.unwrap(), entries(1, 1..3));
    assert_eq!(group.read(0..3, 1).await.unwrap(), entries(1, 0..1), "at least one");
    let gap = group.append(entries(1, 4..5), |_| {});
    assert_eq!(gap, Err(LogError::NotConsecutive { group: GroupId(1), expected: 3, got: 4 }));
    let large = LogEntry { term: 1, index: 3, data: Bytes::from(vec![0; 65 * 1024]) };
    assert!(matches!(group.append(vec![large], |_| {}), Err(LogError::TooLarge { .. })));
    assert!(matches!(group.save_vote(vec![0; 1025].into()).await, Err(LogError::TooLarge { .. })));
    log.close().await.unwrap();
}

#[tokio::test]
async fn one_sync_serves_all_groups() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).await;
    append(&log.group(GroupId(1)), entries(1, 0..1)).await.unwrap();
    let before = log.stats();
    // On this thread the writer runs only once all are queued.
    let appends = (2..66).map(|id| {
        let group = log.group(GroupId(id));
        async move { append(&group, entries(1, 0..5)).await.unwrap() }
    });
    futures_util::future::join_all(appends).await;
    let after = log.stats();
    assert_eq!((after.syncs - before.syncs, after.frames - before.frames), (1, 1));
    assert_eq!(after.entries - before.entries, 64 * 5);
}

#[tokio::test]
async fn an_idle_group_pins_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).await;
    let (idle, busy) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&idle, entries(1, 0..300)).await.unwrap();
    idle.save_vote(Bytes::from_static(b"idle's vote")).await.unwrap();
    idle.purge(EntryId { term: 1, index: 9 }).await.unwrap();
    idle.save_committed(Bytes::from_static(b"idle's mark")).unwrap();
    for round in 0..400 {
        append(&busy, entries(1, round * 50..(round + 1) * 50)).await.unwrap();
        busy.purge(EntryId { term: 1, index: round * 50 + 48 }).await.unwrap();
        assert!(log.disk_bytes() <= 8 * SEGMENT_BYTES_MIN, "round {round}: {:?}", log.stats());
    }
    assert!(log.stats().bytes > 12 * SEGMENT_BYTES_MIN, "the log has gone round: {:?}", log.stats());
    assert_eq!(idle.read(0..1000, BIG).await.unwrap(), entries(1, 10..300));
    drop((log, idle, busy));

    let (log, recovery) = open(dir.path()).await;
    assert!(recovery.quarantined.is_empty(), "{recovery:?}");
    let idle = log.group(GroupId(1));
    assert_eq!(idle.read(0..1000, BIG).await.unwrap(), entries(1, 10..300));
    assert_eq!(idle.vote(), Some(Bytes::from_static(b"idle's vote")));
    assert_eq!(idle.committed(), Some(Bytes::from_static(b"idle's mark")));
    assert_eq!(idle.state().purged, Some(EntryId { term: 1, index: 9 }));
    let busy = log.group(GroupId(2)).read(0..100_000, BIG).await.unwrap();
    assert_eq!(busy, entries(1, 19_999..20_000));
}

/// Entries of 60 bytes in frames of 4 KiB: more than half of every segment is dead, whoever writes it.
#[test]
fn emptying_old_segments_never_writes_more_than_others_did() {
    simulate(async {
        let disk = MemoryDisk::new();
        let (log, _) = Log::open(&env(&disk), Path::new("/log"), config()).await.unwrap();
        let groups = [log.group(GroupId(1)), log.group(GroupId(2))];
        for index in 0..1_500 {
            append(&groups[0], entries(1, index..index + 1)).await.unwrap();
            append(&groups[1], entries(1, index..index + 1)).await.unwrap();
        }
        let written = 3_000 * 4_096;
        for _ in 0..20_000 {
            tokio::task::yield_now().await;
        }
        let stats = log.stats();
        assert!(stats.bytes <= 2 * written + 4 * SEGMENT_BYTES_MIN, "{stats:?}");
        assert_eq!(groups[0].read(0..2_000, BIG).await.unwrap(), entries(1, 0..1_500));
    });
}

#[tokio::test]
async fn one_append_larger_than_a_segment_is_cut_into_frames() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path()).await;
    let group = log.group(GroupId(1));
    let large: Vec<LogEntry> = (0..20)
        .map(|index| LogEntry { term: 1, index, data: Bytes::from(vec![u8::try_from(index).unwrap(); 60_000]) })
        .collect();
    append(&group, large.clone()).await.unwrap();
    assert_eq!(group.read(0..20, BIG).await.unwrap(), large);
    assert_eq!(group.read(0..20, 150_000).await.unwrap(), large[..2]);
    drop((log, group));
    let (log, _) = open(dir.path()).await;
    assert_eq!(log.group(GroupId(1)).read(0..20, BIG).await.unwrap(), large);
}

#[tokio::test]
async fn who_asks_for_admission_waits_while_the_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { pending_bytes_max: 1000, ..config() };
    let (log, _) = Log::open(&Env::real(), dir.path(), config).await.unwrap();
    let group = log.group(GroupId(1));
    group.admission().await.unwrap();
    group.append(entries(1, 0..100), |_| {}).unwrap();
    assert!(log.stats().pending_bytes >= 1000);
    assert!(futures_util::FutureExt::now_or_never(group.admission()).is_none());
    group.admission().await.unwrap();
    assert_eq!(*group.durable().borrow(), Some(99), "admitted once the queue was written");
}

#[test]
fn two_logs_never_write_in_one_directory() {
    simulate(async {
        let env = env(&MemoryDisk::new());
        let (log, _) = Log::open(&env, Path::new("/log"), config()).await.unwrap();
        let second = Log::open(&env, Path::new("/log"), config()).await;
        assert!(matches!(second, Err(LogError::Io(reason)) if reason.contains("in use")));
        log.close().await.unwrap();
        Log::open(&env, Path::new("/log"), config()).await.unwrap();
    });
}
