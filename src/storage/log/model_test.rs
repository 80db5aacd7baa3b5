//! Random operations on several groups, with crashes at any disk operation, against a model: nothing
//! acknowledged is lost, nothing unwritten appears.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;

use super::*;
use crate::env::disk::{DiskDelay, MemoryDisk};
use crate::env::net::TcpNetwork;
use crate::env::work::Workers;
use crate::env::{Env, time};

const DIR: &str = "/node/log";

pub(super) fn env(disk: &MemoryDisk) -> Env {
    Env { net: Arc::new(TcpNetwork), disk: Arc::new(disk.reboot()), workers: Workers::inline() }
}

/// Runs on virtual time, on one thread.
pub(super) fn simulate<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// A seeded source.
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }
}

/// What a group's log should hold.
#[derive(Clone, PartialEq, Default)]
struct Content {
    purged: Option<EntryId>,
    entries: Vec<LogEntry>,
    vote: Option<Bytes>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[purged {:?}, vote {:?}", self.purged.map(|purged| purged.index), self.vote)?;
        self.entries.iter().try_for_each(|entry| write!(f, " {}@{}", entry.index, entry.term))?;
        write!(f, "]")
    }
}

impl Content {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    fn truncate(&mut self, next: u64) {
        self.entries.retain(|entry| entry.index < next);
    }

    fn purge(&mut self, upto: EntryId) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.entries.retain(|entry| entry.index > upto.index);
            self.purged = Some(upto);
        }
    }
}

/// Everything a group's log has been since it was opened, and up to where that was acknowledged.
#[derive(Default)]
struct History {
    states: Vec<Content>,
    acknowledged: Arc<Mutex<usize>>,
    committed: Vec<Option<Bytes>>,
}

impl History {
    fn starting(content: Content, committed: Option<Bytes>) -> Self {
        Self { states: vec![content], acknowledged: Arc::default(), committed: vec![committed] }
    }

    fn now(&self) -> Content {
        self.states.last().cloned().unwrap()
    }

    /// What the log may be after a crash: any state from the last acknowledged one on, and within an
    /// append any part of it.
    fn allows(&self, found: &Content) -> bool {
        let known = *self.acknowledged.lock();
        let later = &self.states[known..];
        later.contains(found)
            || later.windows(2).any(|pair| {
                let (before, after) = (&pair[0], &pair[1]);
                let part = after.entries.len().min(found.entries.len());
                before.entries.len() < found.entries.len()
                    && after.entries.starts_with(&before.entries)
                    && *found == Content { entries: after.entries[..part].to_vec(), ..after.clone() }
            })
    }

    /// Remembers the next state; returns what acknowledges it.
    fn push(&mut self, content: Content) -> impl FnOnce(Result<(), LogError>) + Send + 'static {
        self.states.push(content);
        let (acknowledged, at) = (self.acknowledged.clone(), self.states.len() - 1);
        move |result| {
            if result.is_ok() {
                let mut acknowledged = acknowledged.lock();
                *acknowledged = at.max(*acknowledged);
            }
        }
    }
}

/// Gives an operation, and notes in the background when it is durable.
fn give<F>(operation: F, acknowledge: impl FnOnce(Result<(), LogError>) + Send + 'static)
where
    F: Future<Output = Result<(), LogError>> + Send + 'static,
{
    let mut operation = Box::pin(operation);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match operation.as_mut().poll(&mut context) {
        Poll::Ready(result) => acknowledge(result),
        Poll::Pending => drop(tokio::spawn(async move { acknowledge(operation.await) })),
    }
}

struct Run {
    random: Seeded,
    disk: MemoryDisk,
    groups: BTreeMap<GroupId, History>,
    position: u64,
    stamp: u64,
}

impl Run {
    fn config(&mut self) -> LogConfig {
        LogConfig {
            segment_bytes: SEGMENT_BYTES_MIN,
            tail_cache_bytes: 4000,
            frame_bytes_max: 16 * 1024,
            pending_bytes_max: 1 << 20,
            idle_seal: Duration::from_millis(5),
        }
    }

    async fn check(&mut self, log: &Log, recovery: &Recovery) {
        assert!(recovery.quarantined.is_empty() && recovery.unnamed.is_none(), "{recovery:?}");
        assert!(log.position() >= self.position, "the position fell");
        self.position = log.position();
        for (id, history) in &mut self.groups {
            let group = log.group(*id);
            let entries = group.read(0..u64::MAX, usize::MAX).await.unwrap();
            let state = group.state();
            let found = Content { purged: state.purged, entries, vote: group.vote() };
            let known = *history.acknowledged.lock();
            let allowed = &history.states[known..];
            assert!(history.allows(&found), "{id} is {found:?}, not one of {allowed:#?}");
            assert_eq!(*group.durable().borrow(), state.last.map(|last| last.index));
            let committed = group.committed();
            assert!(history.committed.contains(&committed), "{id} is committed to {committed:?}");
            *history = History::starting(found, committed);
        }
    }

    /// One random operation on one group.
    async fn step(&mut self, log: &Log) -> Result<(), LogError> {
        // The last group is nearly idle.
        let id = GroupId(if self.random.below(60) == 0 { 4 } else { 1 + self.random.below(3) });
        let group = log.group(id);
        self.stamp += 1;
        let stamp = self.stamp;
        let choice = self.random.below(100);
        let now = self.groups.entry(id).or_insert_with(|| History::starting(Content::default(), None)).now();
        let mut next = now.clone();
        match choice {
            0..60 => return self.append(&group, next),
            60..70 => {
                let vote = Bytes::from(format!("vote {stamp}"));
                next.vote = Some(vote.clone());
                let acknowledge = self.history(id).push(next);
                give(async move { group.save_vote(vote).await }, acknowledge);
            }
            70..78 => {
                let keep = self.random.below(now.entries.len() as u64 + 1);
                let cut = now.first() + keep;
                next.truncate(cut);
                let acknowledge = self.history(id).push(next);
                give(async move { group.truncate_after(cut.checked_sub(1)).await }, acknowledge);
            }
            78..92 => {
                let beyond = if self.random.below(8) == 0 { 5 } else { 0 };
                let index = now.first() + self.random.below(now.entries.len() as u64 + 1 + beyond);
                let upto = EntryId { term: 1, index };
                next.purge(upto);
                let acknowledge = self.history(id).push(next);
                give(async move { group.purge(upto).await }, acknowledge);
            }
            92..93 => {
                let history = self.history(id);
                let acknowledge = history.push(Content::default());
                history.committed.push(None);
                let log = log.clone();
                give(async move { log.remove_group(id).await }, acknowledge);
            }
            93..97 => {
                let mark = Bytes::from(format!("mark {stamp}"));
                self.history(id).committed.push(Some(mark.clone()));
                group.save_committed(mark)?;
            }
            _ => {
                let from = now.first() + self.random.below(now.entries.len() as u64 + 1);
                let read = group.read(from..from + 20, 3000).await?;
                assert!(!read.is_empty() || from == now.next());
                let at = usize::try_from(from - now.first()).unwrap();
                assert_eq!(read, now.entries[at..at + read.len()]);
            }
        }
        Ok(())
    }

    fn history(&mut self, id: GroupId) -> &mut History {
        self.groups.get_mut(&id).unwrap()
    }

    fn append(&mut self, group: &GroupLog, mut content: Content) -> Result<(), LogError> {
        let count = 1 + self.random.below(8);
        let entries: Vec<LogEntry> = (content.next()..content.next() + count)
            .map(|index| {
                let len = usize::try_from(self.random.below(3000)).unwrap();
                let fill = u8::try_from(self.random.below(256)).unwrap();
                LogEntry { term: self.stamp, index, data: Bytes::from(vec![fill; len]) }
            })
            .collect();
        content.entries.extend_from_slice(&entries);
        let acknowledge = self.history(group.id()).push(content);
        group.append(entries, acknowledge)
    }

    /// From one start to the next crash or stop.
    async fn boot(&mut self) {
        let config = self.config();
        let (log, recovery) = Log::open(&env(&self.disk), Path::new(DIR), config).await.unwrap();
        self.check(&log, &recovery).await;
        self.disk.stop_after(self.random.below(400));
        let steps = self.random.below(400);
        let mut stopped = false;
        for _ in 0..steps {
            stopped = self.step(&log).await.is_err();
            if stopped {
                break;
            }
            match self.random.below(10) {
                0 => time::sleep(Duration::from_millis(self.random.below(10))).await,
                1..4 => tokio::task::yield_now().await,
                _ => {}
            }
        }
        if !stopped && log.close().await.is_ok() && self.random.below(2) == 0 {
            for history in self.groups.values_mut() {
                let (last, committed) = (history.now(), history.committed.pop().unwrap());
                *history = History::starting(last, committed);
            }
        }
        drop(log);
        self.disk.crash(&mut || self.random.bits());
    }
}

fn run(seed: u64) -> u64 {
    simulate(async move {
        let disk = MemoryDisk::new();
        disk.set_delay(DiskDelay { sync: Duration::from_millis(1), ..DiskDelay::default() });
        let mut run = Run { random: Seeded(seed), disk, groups: BTreeMap::new(), position: 0, stamp: 0 };
        for _ in 0..12 {
            run.boot().await;
        }
        run.position
    })
}

#[test]
fn random_operations_and_crashes_match_the_model() {
    let seeds = std::env::var("QUORATE_LOG_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    for seed in 0..seeds {
        let position = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(position > 20, "seed {seed} wrote nothing");
    }
}
