//! Opening the log: what is whole is replayed, a torn tail is cut, damage is named and kept.
//!
//! Knows files and the judgement of [`replay`](super::replay); starts the writer and the keeper.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::frame::BLOCK_BYTES;
use super::group::{Mark, Uses};
use super::keeper::Keeper;
use super::replay::{Replay, Replayed};
use super::scan::{Scanned, first_block, scan};
use super::segment::{self, FRAMES_AT, Segment};
use super::shared::{Body, Done, Shared, State};
use super::writer::Writer;
use super::{LogConfig, LogError, LogStats, Recovery, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::env::disk::{DirLock, Disk};
use crate::env::work::Worker;
use crate::env::{Env, chance, time};
use crate::types::GroupId;

/// The file whose lock says that the log is in use.
const LOCK: &str = "lock";
/// How long an earlier log in the same directory may take to finish its last write.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// What was found on disk, with the tail made fit to be written.
struct Found {
    log: u64,
    replayed: Replayed,
    /// The segments that hold frames.
    segments: BTreeMap<u64, Segment>,
    spares: VecDeque<Segment>,
    next_segment: u64,
    offset: u64,
    low: u64,
    /// Sequence of the last frame.
    sequence: u64,
    last_groups: Option<Vec<GroupId>>,
    sealed: bool,
    next_id: u64,
    recovery: Recovery,
}

/// Opens the log and starts its tasks.
pub(super) async fn open(env: &Env, dir: &Path, config: LogConfig) -> Result<(Arc<Shared>, Recovery), LogError> {
    let config = checked(config)?;
    let worker = env.workers.start("log-write");
    let lock = lock(env, &worker, dir).await?;
    let (disk, path, settings) = (env.disk.clone(), dir.to_owned(), config.clone());
    let found = worker.run(move || find(disk.as_ref(), &path, &settings)).await;
    let mut found = found.map_err(|error| LogError::Io(error.to_string()))??;
    let recovery = std::mem::take(&mut found.recovery);
    let sequence = found.sequence;
    let (sealed, last_groups) = (found.sealed, found.last_groups.take());
    let (log, state) = state(found);
    let roster_due = state.unnamed.is_some();
    let Some(segment) = state.segments.values().next_back().cloned() else {
        return Err(LogError::Corrupt("no segment can be written".to_owned()));
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        disk: env.disk.clone(),
        dir: dir.to_owned(),
        log,
        position: AtomicU64::new(sequence),
        failure: watch::Sender::new(None),
        work: Notify::new(),
        keep: Notify::new(),
        ready: Notify::new(),
        room: Notify::new(),
        reader: env.workers.start("log-read"),
        frames: Mutex::default(),
        config,
    });
    let writer = Writer {
        shared: shared.clone(),
        worker,
        lock: lock.clone(),
        segment,
        sequence: sequence + 1,
        groups: last_groups.filter(|groups| groups.len() <= shared.config.named_groups_max()),
        sealed,
        roster_due,
        buffer: Vec::new(),
    };
    tokio::spawn(writer.run());
    tokio::spawn(Keeper { shared: shared.clone(), worker: env.workers.start("log-keep"), lock }.run());
    Ok((shared, recovery))
}

/// Takes the lock that keeps two logs from writing in one directory. One of this process that was let
/// go, and is finishing its last write, is waited for.
async fn lock(env: &Env, worker: &Worker, dir: &Path) -> Result<Arc<dyn DirLock>, LogError> {
    let deadline = time::now() + LOCK_WAIT_MAX;
    loop {
        let (disk, path) = (env.disk.clone(), dir.to_owned());
        let taken = worker.run(move || disk.create_dir(&path).and_then(|()| disk.lock(&path.join(LOCK)))).await;
        match taken.map_err(|error| LogError::Io(error.to_string()))? {
            Ok(lock) => return Ok(Arc::from(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && time::now() < deadline => {
                time::sleep(LOCK_RETRY).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(LogError::Io(format!("{} is in use by another raft log", dir.display())));
            }
            Err(error) => return Err(io_error("locking the log's directory")(error)),
        }
    }
}

fn checked(mut config: LogConfig) -> Result<LogConfig, LogError> {
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&config.segment_bytes) {
        return Err(LogError::Config(format!(
            "segment_bytes is {}, and must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
            config.segment_bytes
        )));
    }
    config.segment_bytes -= config.segment_bytes % BLOCK_BYTES as u64;
    Ok(config)
}

/// The state to start with: what is newly quarantined is written down first.
fn state(found: Found) -> (u64, State) {
    let mut state = State {
        groups: found.replayed.groups,
        unnamed: found.replayed.unnamed,
        durable: BTreeMap::new(),
        queue: VecDeque::new(),
        pending_bytes: 0,
        pending_cost: 0,
        next_id: found.next_id,
        quarantines_queued: 0,
        committed_dirty: BTreeSet::new(),
        uses: found.replayed.uses,
        segments: found.segments,
        offset: found.offset,
        spares: found.spares,
        next_segment: found.next_segment,
        disk_full: false,
        carry_credit: 0,
        low_durable: found.low,
        keeper_busy: false,
        failed: None,
        closing: None,
        abandoned: false,
        writer_sleeps: false,
        stats: LogStats::default(),
    };
    let unwritten = |group: &super::group::Group| {
        group.quarantined.clone().filter(|_| group.stored[Mark::Quarantine as usize].is_none())
    };
    let fresh: Vec<(GroupId, String)> =
        state.groups.iter().filter_map(|(id, group)| Some((*id, unwritten(group)?))).collect();
    for (group, reason) in fresh {
        state.queue(group, Body::Quarantine(reason), Uses::default(), Done::Nobody);
    }
    if state.unnamed.is_some() {
        state.queue(GroupId::default(), Body::Nudge, Uses::default(), Done::Nobody);
    }
    (found.log, state)
}

fn io_error(what: &str) -> impl Fn(io::Error) -> LogError {
    move |error| {
        if error.kind() == io::ErrorKind::StorageFull {
            return LogError::Full;
        }
        LogError::Io(format!("{what}: {error}"))
    }
}

fn find(disk: &dyn Disk, dir: &Path, config: &LogConfig) -> Result<Found, LogError> {
    let mut all = Vec::new();
    for id in segment::list(disk, dir).map_err(io_error("listing segments"))? {
        let file = disk.open(&segment::path(dir, id)).map_err(io_error("opening a segment"))?;
        let bytes = file.size().map_err(io_error("opening a segment"))?;
        all.push(Segment { id, file, bytes: bytes - bytes % BLOCK_BYTES as u64 });
    }
    if all.is_empty() {
        return fresh(disk, dir, config);
    }
    let log = identity(&all)?;
    let mut tail = Tail::find(all, log);
    let low = tail.low();
    for id in tail.drop_below(low) {
        disk.remove(&segment::path(dir, id)).map_err(io_error("removing an old segment"))?;
    }
    let replay = tail.replay(log, low, config)?;
    tail.finish(log, low, replay)
}

/// A new log: its first segment is made at once, the others by the keeper.
fn fresh(disk: &dyn Disk, dir: &Path, config: &LogConfig) -> Result<Found, LogError> {
    let log = chance::bits();
    let first = segment::prepare(disk, dir, log, 1, config.segment_bytes).map_err(io_error("preparing segment 1"))?;
    Ok(Found {
        log,
        replayed: Replay::new(0, 1).finish(|| 0),
        segments: BTreeMap::from([(1, first)]),
        spares: VecDeque::new(),
        next_segment: 2,
        offset: FRAMES_AT,
        low: 1,
        sequence: 0,
        last_groups: Some(Vec::new()),
        sealed: true,
        next_id: 0,
        recovery: Recovery { segments: 1, ..Recovery::default() },
    })
}

/// The log that the segments belong to.
fn identity(all: &[Segment]) -> Result<u64, LogError> {
    let mut known = None;
    for segment in all {
        let Some(log) = segment::log_of(&first_block(segment), segment.id) else { continue };
        if *known.get_or_insert(log) != log {
            return Err(LogError::Corrupt(format!("segment {:016x} belongs to another log", segment.id)));
        }
    }
    known.ok_or_else(|| LogError::Corrupt("the headers of all segments are damaged".to_owned()))
}

/// The segments, and those at the end already looked at: from the last one that holds frames.
struct Tail {
    all: Vec<Segment>,
    scanned: BTreeMap<u64, Scanned>,
}

impl Tail {
    fn find(all: Vec<Segment>, log: u64) -> Self {
        let mut scanned = BTreeMap::new();
        for segment in all.iter().rev() {
            let found = scan(segment, log);
            let last = !found.frames.is_empty();
            scanned.insert(segment.id, found);
            if last {
                break;
            }
        }
        Self { all, scanned }
    }

    /// The last segment that holds frames.
    fn last(&self) -> Option<u64> {
        self.scanned.iter().find(|(_, scanned)| !scanned.frames.is_empty()).map(|(id, _)| *id)
    }

    /// The oldest segment that must exist: as the last frame says; the first one without a frame.
    fn low(&self) -> u64 {
        let last = self.scanned.values().find_map(|scanned| scanned.frames.last());
        last.map_or(1, |header| header.low)
    }

    /// Forgets, and names, the segments that were to be removed.
    fn drop_below(&mut self, low: u64) -> Vec<u64> {
        let (old, all) = std::mem::take(&mut self.all).into_iter().partition(|segment| segment.id < low);
        self.all = all;
        let old: Vec<Segment> = old;
        old.into_iter().map(|segment| segment.id).collect()
    }

    fn replay(&mut self, log: u64, low: u64, config: &LogConfig) -> Result<Replay, LogError> {
        let mut replay = Replay::new(config.tail_cache_bytes, low);
        let last = self.last();
        for segment in &self.all {
            let known = self.scanned.remove(&segment.id);
            let mut scanned = known.unwrap_or_else(|| scan(segment, log));
            for header in &scanned.broken {
                replay.broken(header);
            }
            for header in &scanned.frames {
                replay.frame(header, scanned.body(header), low).map_err(LogError::Corrupt)?;
            }
            if last.is_some_and(|last| segment.id < last) {
                continue;
            }
            let end = scanned.end();
            if let Some(block) = scanned.unreadable.iter().find(|block| **block >= end) {
                // Whether this was acknowledged cannot be told, so nothing is cut.
                return Err(LogError::Io(format!("segment {:016x} cannot be read at {block}", segment.id)));
            }
            scanned.dirty.retain(|block| *block >= end);
            self.scanned.insert(segment.id, scanned);
        }
        Ok(replay)
    }

    /// Judges the end of the log and makes it fit to be written.
    fn finish(self, log: u64, low: u64, mut replay: Replay) -> Result<Found, LogError> {
        let sequence = replay.last.unwrap_or(0);
        let last = self.last().unwrap_or(low);
        if let Some(reason) = self.lost_end(last, sequence, &replay) {
            replay.lost_names(&reason);
            return self.keep_end(log, low, last, replay);
        }
        let mut torn_bytes = 0;
        for segment in self.all.iter().filter(|segment| segment.id >= last) {
            let Some(scanned) = self.scanned.get(&segment.id) else { continue };
            torn_bytes += clean(segment, log, scanned).map_err(io_error("cutting the torn tail"))?;
        }
        let offset = self.scanned.get(&last).map_or(FRAMES_AT, Scanned::end);
        let last_frame = self.scanned.get(&last).and_then(|scanned| scanned.frames.last());
        let sealed = last_frame.is_none_or(|header| header.seal);
        Ok(self.found(log, low, replay, End { last, offset, sealed, torn_bytes }))
    }

    /// Whether frames that were durable are missing after the last whole one.
    fn lost_end(&self, last: u64, sequence: u64, replay: &Replay) -> Option<String> {
        if replay.testified > sequence {
            return Some(format!("frames {} to {} were durable and are damaged", sequence + 1, replay.testified));
        }
        let after = self.all.iter().map(|segment| segment.id).filter(|id| *id >= last);
        let missing = (last..).zip(after).find(|(expected, found)| expected != found).map(|(missing, _)| missing)?;
        Some(format!("segment {missing:016x} is missing"))
    }

    /// Leaves everything as it is, for those who will look into it, and goes on in a segment that was
    /// never written.
    fn keep_end(self, log: u64, low: u64, last: u64, mut replay: Replay) -> Result<Found, LogError> {
        let written = |segment: &&Segment| {
            let scanned = self.scanned.get(&segment.id);
            scanned.is_none_or(|scanned| !scanned.dirty.is_empty() || !scanned.frames.is_empty())
        };
        let last = self.all.iter().filter(written).map(|segment| segment.id).max().unwrap_or(last);
        // Of what remains, a segment must be the one that is left for the next.
        let last = last.max(self.all.first().map_or(last, |first| first.id));
        // A sequence is left out, so that every later start finds something missing here.
        replay.last = Some(replay.testified.max(replay.last.unwrap_or(0)) + 1);
        replay.last_groups = None;
        Ok(self.found(log, low, replay, End { last, offset: u64::MAX, sealed: false, torn_bytes: 0 }))
    }

    fn found(self, log: u64, low: u64, replay: Replay, end: End) -> Found {
        let count = self.all.len() as u64;
        let next_segment = self.all.last().map_or(1, |segment| segment.id + 1);
        let (segments, spares): (Vec<_>, Vec<_>) = self.all.into_iter().partition(|segment| segment.id <= end.last);
        let mut next_id = 0;
        let sequence = replay.last.unwrap_or(0);
        let last_groups = replay.last_groups.clone();
        let frames = replay.frames;
        let replayed = replay.finish(|| {
            next_id += 1;
            next_id
        });
        let quarantined = |group: &super::group::Group| group.quarantined.clone();
        let recovery = Recovery {
            quarantined: replayed.groups.iter().filter_map(|(id, group)| Some((*id, quarantined(group)?))).collect(),
            unnamed: replayed.unnamed.clone(),
            torn_bytes: end.torn_bytes,
            frames,
            segments: count,
        };
        Found {
            log,
            replayed,
            segments: segments.into_iter().map(|segment| (segment.id, segment)).collect(),
            spares: spares.into(),
            next_segment,
            offset: end.offset,
            low,
            sequence,
            last_groups,
            sealed: end.sealed,
            next_id,
            recovery,
        }
    }
}

/// How the log goes on.
struct End {
    last: u64,
    offset: u64,
    sealed: bool,
    torn_bytes: u64,
}

/// Zeroes what is left of a torn frame, mends the header of a segment, and writes the last frame
/// again: after a failed sync memory may show what the disk never got. Returns the bytes cut.
fn clean(segment: &Segment, log: u64, scanned: &Scanned) -> io::Result<u64> {
    for block in &scanned.dirty {
        segment.file.write_at(&[0; BLOCK_BYTES], *block)?;
    }
    if segment::log_of(&first_block(segment), segment.id).is_none() {
        segment.file.write_at(&segment::header(log, segment.id), 0)?;
    }
    if let Some(header) = scanned.frames.last() {
        let start = usize::try_from(header.offset).map_err(io::Error::other)?;
        let frame = scanned.data.get(start..).and_then(|data| data.get(..header.frame_bytes())).unwrap_or_default();
        segment.file.write_at(frame, header.offset)?;
    }
    segment.file.sync()?;
    Ok((scanned.dirty.len() * BLOCK_BYTES) as u64)
}
