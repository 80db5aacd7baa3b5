//! Damage at rest, torn tails, failing and full disks: what was acknowledged is there, or its group is
//! quarantined; only what no later frame proves is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::frame::FrameHeader;
use super::model_test::{Seeded, env, simulate};
use super::record::Reader;
use super::scan::scan;
use super::segment::{self, Segment};
use super::*;
use crate::env::disk::{Disk, DiskImage, MemoryDisk};

const DIR: &str = "/node/log";
const BIG: usize = usize::MAX;

fn config() -> LogConfig {
    LogConfig { segment_bytes: SEGMENT_BYTES_MIN, tail_cache_bytes: 0, ..LogConfig::default() }
}

async fn open(disk: &MemoryDisk) -> Result<(Log, Recovery), LogError> {
    Log::open(&env(disk), Path::new(DIR), config()).await
}

fn path(segment: u64) -> PathBuf {
    segment::path(Path::new(DIR), segment)
}

fn entries(group: u64, range: std::ops::Range<u64>, bytes: usize) -> Vec<LogEntry> {
    let data = |index| Bytes::from(format!("{group}/{index} ").repeat(bytes / 8 + 1).into_bytes());
    range.map(|index| LogEntry { term: group, index, data: data(index) }).collect()
}

async fn append(group: &GroupLog, entries: Vec<LogEntry>) -> Result<(), LogError> {
    let (done, durable) = tokio::sync::oneshot::channel();
    group.append(entries, move |result| drop(done.send(result)))?;
    durable.await.unwrap()
}

/// What a group acknowledged.
type Contents = BTreeMap<GroupId, (Vec<LogEntry>, Option<Bytes>)>;

async fn contents(log: &Log) -> Contents {
    let mut contents = Contents::new();
    for id in log.groups() {
        let group = log.group(id);
        if group.check().is_ok() {
            contents.insert(id, (group.read(0..1 << 40, BIG).await.unwrap(), group.vote()));
        }
    }
    contents
}

/// A disk with a log on it, to be damaged in ever new ways.
struct Fixture {
    disk: MemoryDisk,
    image: DiskImage,
    contents: Contents,
    frames: Vec<(FrameHeader, BTreeSet<GroupId>)>,
}

impl Fixture {
    /// Four groups, one or two in a frame; `rounds` decides how many segments there are.
    async fn new(rounds: u64, bytes: usize, seal: bool) -> Self {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk).await.unwrap();
        for round in 0..rounds {
            for id in 1..4 {
                append(&log.group(GroupId(id)), entries(id, round * 3..(round + 1) * 3, bytes)).await.unwrap();
            }
            let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
            let vote = Bytes::from(format!("vote {round}"));
            let (voted_one, voted_two) = tokio::join!(one.save_vote(vote.clone()), two.save_vote(vote));
            assert_eq!((voted_one, voted_two), (Ok(()), Ok(())));
        }
        append(&log.group(GroupId(4)), entries(4, 0..2, 150)).await.unwrap();
        let contents = contents(&log).await;
        if seal {
            log.close().await.unwrap();
        }
        drop(log);
        let image = disk.snapshot();
        let frames = frames(&disk);
        Self { disk, image, contents, frames }
    }

    fn restore(&self) -> MemoryDisk {
        self.disk.restore(&self.image);
        self.disk.reboot()
    }

    /// Opens what is there now: every group is either whole or quarantined. Names the quarantined.
    async fn judge(&self, what: &str) -> (BTreeSet<GroupId>, Recovery) {
        let (log, recovery) = open(&self.disk).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let quarantined = self.compare(&log, what).await;
        // What a start finds, the next one finds too, whatever was written in between.
        append(&log.group(GroupId(9)), entries(9, 0..1, 10)).await.ok();
        log.close().await.unwrap();
        let (log, _) = open(&self.disk).await.unwrap();
        assert_eq!(self.compare(&log, what).await, quarantined, "{what}: the second start");
        (quarantined, recovery)
    }

    async fn compare(&self, log: &Log, what: &str) -> BTreeSet<GroupId> {
        let mut quarantined = BTreeSet::new();
        for (id, (expected, vote)) in &self.contents {
            let group = log.group(*id);
            match group.read(0..1 << 40, BIG).await {
                Ok(found) => {
                    assert_eq!(&found, expected, "{what}: {id}");
                    assert_eq!(&group.vote(), vote, "{what}: {id}");
                }
                Err(LogError::Quarantined { .. }) => {
                    quarantined.insert(*id);
                }
                Err(error) => panic!("{what}: {id}: {error}"),
            }
        }
        quarantined
    }
}

/// The frames on the disk and the groups in each.
fn frames(disk: &MemoryDisk) -> Vec<(FrameHeader, BTreeSet<GroupId>)> {
    let disk = disk.reboot();
    let mut frames = Vec::new();
    for id in segment::list(&disk, Path::new(DIR)).unwrap() {
        let file = disk.open(&path(id)).unwrap();
        let segment = Segment { id, bytes: file.size().unwrap(), file };
        let log = segment::log_of(&super::scan::first_block(&segment), id).unwrap();
        let scanned = scan(&segment, log);
        for header in &scanned.frames {
            let mut reader = Reader::new(scanned.body(header));
            reader.groups().unwrap();
            let mut groups = BTreeSet::new();
            while !reader.at_end() {
                use super::record::Record as R;
                match reader.record().unwrap() {
                    R::Entries { group, .. } | R::Vote { group, .. } | R::Create { group } => {
                        groups.insert(group);
                    }
                    R::Committed { .. } | R::Truncate { .. } | R::Purge { .. } => {}
                    R::Remove { .. } | R::Quarantine { .. } | R::Roster { .. } => {}
                }
            }
            frames.push((*header, groups));
        }
    }
    frames
}

fn overwrite(disk: &MemoryDisk, segment: u64, offset: u64, data: &[u8]) {
    let file = disk.open(&path(segment)).unwrap();
    file.write_at(data, offset).unwrap();
    file.sync().unwrap();
}

fn zero(disk: &MemoryDisk, header: &FrameHeader) {
    overwrite(disk, header.segment, header.offset, &vec![0; usize::try_from(header.extent()).unwrap()]);
}

#[test]
fn a_flipped_bit_quarantines_the_groups_of_its_frame_and_no_other() {
    simulate(async {
        let fixture = Fixture::new(2, 1500, true).await;
        let mut random = Seeded(7);
        let (mut harmless, mut harmful) = (0, 0);
        let end = fixture.frames.last().map(|(header, _)| header.offset + header.extent()).unwrap();
        for (header, groups) in &fixture.frames {
            let bytes = header.frame_bytes() as u64;
            let head = (0..96).step_by(3);
            for at in head.chain((96..header.extent()).step_by(53)) {
                let disk = fixture.restore();
                disk.flip_bit(&path(1), header.offset + at, u8::try_from(random.below(8)).unwrap()).unwrap();
                let what = format!("byte {at} of frame {} of {bytes} bytes", header.sequence);
                let (quarantined, recovery) = fixture.judge(&what).await;
                let expected = if at < bytes && !header.seal { groups.clone() } else { BTreeSet::new() };
                assert_eq!(quarantined, expected, "{what}");
                assert_eq!(recovery.unnamed, None, "{what}");
                harmless += usize::from(expected.is_empty());
                harmful += usize::from(!expected.is_empty());
            }
        }
        assert!(harmless > 20 && harmful > 200, "{harmless} {harmful}");
        for at in (0..4096).step_by(97).chain([end, end + 5000]) {
            let disk = fixture.restore();
            disk.flip_bit(&path(1), at, 3).unwrap();
            assert_eq!(fixture.judge(&format!("byte {at}")).await.0, BTreeSet::new(), "{at}");
        }
    });
}

#[test]
fn a_torn_last_frame_is_cut_at_whatever_byte_it_was_torn() {
    simulate(async {
        let fixture = Fixture::new(1, 300, false).await;
        let (last, groups) = fixture.frames.last().cloned().unwrap();
        assert_eq!(groups, BTreeSet::from([GroupId(4)]));
        let mut frame = vec![0; last.frame_bytes()];
        fixture.restore().open(&path(1)).unwrap().read_at(&mut frame, last.offset).unwrap();
        for keep in 0..frame.len() {
            let disk = fixture.restore();
            zero(&disk, &last);
            overwrite(&disk, 1, last.offset, &frame[..keep]);
            let (log, recovery) = open(&disk).await.unwrap();
            assert!(recovery.quarantined.is_empty() && recovery.unnamed.is_none(), "{keep}: {recovery:?}");
            assert_eq!(recovery.torn_bytes, if keep == 0 { 0 } else { 4096 }, "{keep}");
            let mut expected = fixture.contents.clone();
            expected.remove(&GroupId(4));
            assert_eq!(contents(&log).await, expected, "{keep}");
            append(&log.group(GroupId(4)), entries(4, 0..1, 10)).await.unwrap();
            drop(log);
            let (log, recovery) = open(&disk).await.unwrap();
            assert_eq!(recovery.torn_bytes, 0, "{keep}");
            assert_eq!(log.group(GroupId(4)).read(0..9, BIG).await.unwrap(), entries(4, 0..1, 10), "{keep}");
        }
        // Whole, it is kept, though nothing proves it.
        fixture.restore();
        let (log, _) = open(&fixture.disk).await.unwrap();
        assert_eq!(contents(&log).await, fixture.contents);
    });
}

#[test]
fn what_is_left_of_a_torn_frame_is_wiped() {
    simulate(async {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk).await.unwrap();
        append(&log.group(GroupId(1)), entries(1, 0..5, 4000)).await.unwrap();
        drop(log);
        overwrite(&disk, 1, 4096, &[0; 4096]);
        let (log, recovery) = open(&disk).await.unwrap();
        assert!(recovery.torn_bytes >= 2 * 4096 && recovery.quarantined.is_empty(), "{recovery:?}");
        append(&log.group(GroupId(1)), entries(1, 0..1, 10)).await.unwrap();
        drop(log);
        let (log, recovery) = open(&disk).await.unwrap();
        assert_eq!(recovery.torn_bytes, 0);
        assert_eq!(log.group(GroupId(1)).read(0..9, BIG).await.unwrap(), entries(1, 0..1, 10));
    });
}

#[test]
fn a_torn_frame_whose_header_is_whole_proves_what_was_before_it() {
    simulate(async {
        let fixture = Fixture::new(1, 300, false).await;
        let [.., (before, groups), (last, _)] = fixture.frames.as_slice() else { panic!() };
        let disk = fixture.restore();
        disk.flip_bit(&path(1), last.offset + 100, 1).unwrap();
        zero(&disk, before);
        let (quarantined, recovery) = fixture.judge("the last two frames").await;
        assert!(quarantined.is_superset(groups), "{quarantined:?}");
        assert!(recovery.unnamed.is_some());
    });
}

#[test]
fn frames_that_became_zeros_or_those_of_another_place_are_missed() {
    simulate(async {
        let fixture = Fixture::new(2, 300, true).await;
        let (victim, groups) = fixture.frames[3].clone();
        let disk = fixture.restore();
        zero(&disk, &victim);
        assert_eq!(fixture.judge("zeros").await.0, groups);

        let disk = fixture.restore();
        let mut other = vec![0; fixture.frames[1].0.frame_bytes()];
        disk.open(&path(1)).unwrap().read_at(&mut other, fixture.frames[1].0.offset).unwrap();
        zero(&disk, &victim);
        overwrite(&disk, 1, victim.offset, &other);
        assert_eq!(fixture.judge("a frame of another place").await.0, groups);

        // Nobody knows whose the first of two was.
        let disk = fixture.restore();
        zero(&disk, &victim);
        zero(&disk, &fixture.frames[4].0);
        let (quarantined, recovery) = fixture.judge("two frames").await;
        // The last group came to be after the damage.
        assert_eq!(quarantined, BTreeSet::from([GroupId(1), GroupId(2), GroupId(3)]));
        assert!(recovery.unnamed.is_some());
    });
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_was() {
    simulate(async {
        let fixture = Fixture::new(20, 4000, true).await;
        let all: BTreeSet<GroupId> = fixture.contents.keys().copied().collect();
        let used: BTreeSet<u64> = fixture.frames.iter().map(|(header, _)| header.segment).collect();
        let last = *used.last().unwrap();
        assert!(last >= 4, "{used:?}");
        for segment in &used {
            let disk = fixture.restore();
            disk.remove(&path(*segment)).unwrap();
            disk.sync_dir(Path::new(DIR)).unwrap();
            let (quarantined, recovery) = fixture.judge(&format!("segment {segment} of {used:?}")).await;
            // The last group came to be in the last segment. Before that, the roster of the next
            // segment names all groups there were.
            let before_last: BTreeSet<GroupId> = [1, 2, 3].map(GroupId).into();
            assert_eq!(&quarantined, if *segment < last { &before_last } else { &all }, "{segment}");
            assert_eq!(recovery.unnamed.is_none(), *segment < last, "{segment}");
        }
        let disk = fixture.restore();
        for segment in &used {
            disk.remove(&path(*segment)).unwrap();
        }
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert_eq!(fixture.judge("only ready segments are left").await.0, all);
    });
}

#[test]
fn damage_at_the_end_of_a_segment_is_found_from_the_next() {
    simulate(async {
        let fixture = Fixture::new(20, 4000, true).await;
        let ends = fixture.frames.windows(2).filter(|pair| pair[0].0.segment != pair[1].0.segment);
        let mut found = 0;
        for pair in ends {
            for (header, groups) in pair {
                let disk = fixture.restore();
                zero(&disk, header);
                let what = format!("frame {} in segment {}", header.sequence, header.segment);
                assert_eq!(&fixture.judge(&what).await.0, groups, "{what}");
                found += 1;
            }
        }
        assert!(found >= 6);
    });
}

#[test]
fn a_quarantined_group_comes_back_only_by_being_removed() {
    simulate(async {
        let fixture = Fixture::new(2, 300, true).await;
        let disk = fixture.restore();
        zero(&disk, &fixture.frames[3].0);
        zero(&disk, &fixture.frames[4].0);
        let (log, _) = open(&disk).await.unwrap();
        for id in [1, 2, 77] {
            let group = log.group(GroupId(id));
            assert!(matches!(group.append(entries(id, 0..1, 8), |_| {}), Err(LogError::Quarantined { .. })));
            assert!(matches!(group.save_vote(Bytes::new()).await, Err(LogError::Quarantined { .. })));
            assert!(matches!(group.save_committed(Bytes::new()), Err(LogError::Quarantined { .. })));
            assert!(matches!(group.truncate_after(None).await, Err(LogError::Quarantined { .. })));
            let upto = EntryId { term: 1, index: 1 };
            assert!(matches!(group.purge(upto).await, Err(LogError::Quarantined { .. })));
            log.remove_group(GroupId(id)).await.unwrap();
            append(&group, entries(id, 0..2, 8)).await.unwrap();
        }
        drop(log);
        let (log, recovery) = open(&disk).await.unwrap();
        assert_eq!(recovery.quarantined.keys().copied().collect::<Vec<_>>(), vec![GroupId(3)]);
        assert_eq!(log.group(GroupId(4)).read(0..9, BIG).await.unwrap(), fixture.contents[&GroupId(4)].0);
        for id in [1, 2, 77] {
            assert_eq!(log.group(GroupId(id)).read(0..9, BIG).await.unwrap(), entries(id, 0..2, 8));
        }
        assert!(log.group(GroupId(78)).check().is_err(), "its name may have been lost");
    });
}

#[test]
fn what_the_device_cannot_read_is_damage_in_the_middle_and_an_error_at_the_end() {
    simulate(async {
        let fixture = Fixture::new(2, 300, true).await;
        let (victim, groups) = fixture.frames[3].clone();
        let disk = fixture.restore();
        disk.break_range(&path(1), victim.offset..victim.offset + 1);
        assert_eq!(fixture.judge("unreadable").await.0, groups);
        disk.mend();
        let disk = fixture.restore();
        let seal = fixture.frames.last().unwrap().0;
        disk.break_range(&path(1), seal.offset..seal.offset + 1);
        assert!(matches!(open(&disk).await, Err(LogError::Io(_))));
        disk.mend();
        assert_eq!(fixture.judge("mended").await.0, BTreeSet::new());
    });
}

#[test]
fn segments_of_another_log_are_refused() {
    simulate(async {
        let (fixture, other) = (Fixture::new(1, 300, true).await, Fixture::new(1, 300, false).await);
        let (disk, mut header) = (fixture.restore(), [0; 64]);
        other.restore().open(&path(2)).unwrap().read_at(&mut header, 0).unwrap();
        // Without a seam for chance both logs have random names of their own.
        overwrite(&disk, 2, 0, &header);
        assert!(matches!(open(&disk).await, Err(LogError::Corrupt(_))));
    });
}

#[test]
fn bytes_that_rot_under_a_running_log_are_never_served() {
    simulate(async {
        let fixture = Fixture::new(2, 300, true).await;
        let disk = fixture.restore();
        let (log, _) = open(&disk).await.unwrap();
        let (victim, groups) = fixture.frames[4].clone();
        disk.flip_bit(&path(1), victim.offset + victim.frame_bytes() as u64 - 20, 0).unwrap();
        let quarantined = fixture.compare(&log, "rot").await;
        assert_eq!(quarantined.len(), 1);
        assert!(groups.is_superset(&quarantined));
        drop(log);
        assert!(fixture.judge("rot").await.0.is_superset(&quarantined));
    });
}

#[test]
fn a_failed_sync_ends_the_log_and_its_frame_is_written_again() {
    simulate(async {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk).await.unwrap();
        let group = log.group(GroupId(1));
        append(&group, entries(1, 0..1, 50)).await.unwrap();
        tokio::task::yield_now().await;
        crate::env::time::sleep(Duration::from_secs(1)).await;
        let position = log.position();
        disk.fail_syncs(1);
        assert!(matches!(append(&group, entries(1, 1..2, 50)).await, Err(LogError::Failed(_))));
        assert!(log.failed().await.contains("failed to sync"));
        assert!(matches!(group.append(entries(1, 2..3, 50), |_| {}), Err(LogError::Failed(_))));
        assert!(matches!(group.read(0..1, BIG).await, Err(LogError::Failed(_))));
        assert!(matches!(log.group(GroupId(2)).save_vote(Bytes::new()).await, Err(LogError::Failed(_))));
        assert!(matches!(log.close().await, Err(LogError::Failed(_))));
        assert_eq!(log.position(), position);
        drop((log, group));

        // The process starts again; the machine never stopped, and shows what it never wrote.
        let (log, _) = open(&disk).await.unwrap();
        assert_eq!(log.group(GroupId(1)).read(0..9, BIG).await.unwrap(), entries(1, 0..2, 50));
        drop(log);
        disk.crash(&mut || 0);
        let (log, _) = open(&disk).await.unwrap();
        assert_eq!(log.group(GroupId(1)).read(0..9, BIG).await.unwrap(), entries(1, 0..2, 50));
    });
}

#[test]
fn a_failed_write_ends_the_log() {
    simulate(async {
        let disk = MemoryDisk::new();
        let (log, _) = open(&disk).await.unwrap();
        append(&log.group(GroupId(1)), entries(1, 0..1, 50)).await.unwrap();
        crate::env::time::sleep(Duration::from_secs(1)).await;
        disk.fail_writes(1);
        assert!(matches!(append(&log.group(GroupId(1)), entries(1, 1..2, 50)).await, Err(LogError::Failed(_))));
        assert!(log.failed().await.contains("failed to write"));
    });
}

#[test]
fn a_disk_that_feigns_syncs_never_makes_the_log_show_what_was_not_written() {
    for seed in 0..60 {
        simulate(async move {
            let mut random = Seeded(seed);
            let disk = MemoryDisk::new();
            let (log, _) = open(&disk).await.unwrap();
            append(&log.group(GroupId(1)), entries(1, 0..1, 50)).await.unwrap();
            disk.lie_about_syncs(true);
            for index in 1..8 {
                append(&log.group(GroupId(1)), entries(1, index..index + 1, 50)).await.unwrap();
            }
            drop(log);
            disk.crash(&mut || random.bits());
            disk.lie_about_syncs(false);
            let (log, _) = open(&disk).await.unwrap();
            match log.group(GroupId(1)).read(0..9, BIG).await {
                Ok(found) => assert!(!found.is_empty() && entries(1, 0..8, 50).starts_with(&found), "seed {seed}"),
                Err(error) => assert!(matches!(error, LogError::Quarantined { .. }), "seed {seed}: {error}"),
            }
        });
    }
}

#[test]
fn a_full_disk_refuses_entries_and_nothing_else() {
    simulate(async {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(5 * SEGMENT_BYTES_MIN));
        let (log, _) = open(&disk).await.unwrap();
        let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
        let (mut index, refused) = (0, loop_until_full(&one, 0).await);
        index += refused;
        assert!(log.is_full());
        assert!(disk.used() <= 5 * SEGMENT_BYTES_MIN);
        let held = one.state();
        assert_eq!(held.last.map(|last| last.index + 1), Some(index), "the refused entry left no trace");
        for round in 0..8 {
            one.save_vote(Bytes::from(format!("vote {round}"))).await.unwrap();
        }
        two.save_vote(Bytes::from_static(b"new group")).await.unwrap();
        assert_eq!(one.append(entries(1, index..index + 1, 3000), |_| {}), Err(LogError::Full));
        drop((log, one, two));

        // It starts again on the full disk, and makes room by purging.
        let (log, recovery) = open(&disk).await.unwrap();
        assert!(recovery.quarantined.is_empty());
        let one = log.group(GroupId(1));
        assert_eq!(one.read(0..1 << 40, BIG).await.unwrap(), entries(1, 0..index, 3000));
        one.truncate_after(Some(index - 2)).await.unwrap();
        one.purge(EntryId { term: 1, index: index - 3 }).await.unwrap();
        crate::env::time::sleep(Duration::from_secs(5)).await;
        assert!(!log.is_full());
        assert!(loop_until_full(&one, index - 1).await > 20);
        assert_eq!(one.vote(), Some(Bytes::from_static(b"vote 7")));
    });
}

async fn loop_until_full(group: &GroupLog, from: u64) -> u64 {
    for index in from.. {
        match append(group, entries(1, index..index + 1, 3000)).await {
            Ok(()) => {}
            Err(LogError::Full) => return index - from,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

#[test]
fn a_disk_without_room_for_one_segment_is_said_to_be_full() {
    simulate(async {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(SEGMENT_BYTES_MIN - 1));
        assert!(matches!(open(&disk).await, Err(LogError::Full)));
    });
}

#[test]
fn settings_out_of_bounds_are_refused() {
    simulate(async {
        let disk = MemoryDisk::new();
        for segment_bytes in [0, SEGMENT_BYTES_MIN - 1, SEGMENT_BYTES_MAX + 1] {
            let config = LogConfig { segment_bytes, ..config() };
            let opened = Log::open(&env(&disk), Path::new(DIR), config).await;
            assert!(matches!(opened, Err(LogError::Config(_))));
        }
    });
}

#[test]
fn the_segment_size_may_change_between_starts() {
    simulate(async {
        let disk = MemoryDisk::new();
        let mut index = 0;
        for segment_bytes in [SEGMENT_BYTES_MIN, 4 * SEGMENT_BYTES_MIN, SEGMENT_BYTES_MIN] {
            let config = LogConfig { segment_bytes, ..config() };
            let (log, recovery) = Log::open(&env(&disk), Path::new(DIR), config).await.unwrap();
            assert!(recovery.quarantined.is_empty());
            let group = log.group(GroupId(1));
            let large = usize::try_from(segment_bytes / 2 - 100).unwrap();
            for bytes in [30, large, 30, large, large] {
                append(&group, entries(1, index..index + 1, bytes - 20)).await.unwrap();
                index += 1;
            }
            assert_eq!(group.read(0..1 << 40, BIG).await.unwrap().len() as u64, index);
        }
    });
}
