//! Writers that remember what they were told of each write, and the comparison of that with what
//! the cluster holds in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate::client::{Client, Condition, Error, Keys, Op, Outcome, Record, Relation, ScanOptions, Session, Txn};
use quorate::types::{GroupId, NodeId};
use tokio::task::JoinHandle;

use super::harness::{Cluster, STUCK, eventually};

/// The shard of the keyspace `default`.
pub(crate) const SHARD: u64 = 2;
/// Too short to sit out an election: such a writer hears of unknown outcomes.
const HASTE: Duration = Duration::from_millis(300);
/// Wrongs that are shown in full.
const WRONGS_SHOWN_MAX: usize = 20;

/// What a writer was told of one write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Acknowledged,
    Unknown,
    NotApplied,
}

/// What one writer was told of all its writes.
struct Ledger {
    writer: usize,
    puts: Vec<Fate>,
    increments: Vec<Fate>,
    /// Increments of unknown outcome that were seen to have happened.
    found: u64,
}

/// What all writers share while they write.
#[derive(Default)]
struct Board {
    stop: AtomicBool,
    /// When each acknowledged put began and ended.
    acknowledged: Mutex<Vec<(Instant, Instant)>>,
    /// Errors by code and outcome: how many, and the first of them.
    errors: Mutex<BTreeMap<String, (u64, String)>>,
}

/// What came of all writes.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    /// Of unknown outcome, and applied.
    pub(crate) unknown_applied: u64,
    pub(crate) not_applied: u64,
    pub(crate) rate: u64,
}

/// Writers at work.
pub(crate) struct Writers {
    board: Arc<Board>,
    tasks: Vec<JoinHandle<Ledger>>,
    since: Instant,
}

impl Writers {
    /// Each writer has a client of its own, as applications have. A quarter of them are hasty, and
    /// a quarter put without a session.
    pub(crate) async fn start(cluster: &Cluster, count: usize) -> Self {
        let board = Arc::new(Board::default());
        let mut tasks = Vec::new();
        for writer in 0..count {
            let client = cluster.client().await;
            let client = if writer % 4 == 1 { client.with_timeout(HASTE) } else { client };
            let ledger = Ledger { writer, puts: Vec::new(), increments: Vec::new(), found: 0 };
            let session = client.session();
            let plain = writer % 4 == 3;
            let task = Writer { client, session, plain, board: board.clone(), ledger, version: 0, doubt: false };
            tasks.push(tokio::spawn(task.run()));
        }
        Self { board, tasks, since: Instant::now() }
    }

    /// Puts that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.board.acknowledged.lock().len()
    }

    /// How long after `begin` the first put was acknowledged that began after it; waits for it.
    /// `before` is the number of those acknowledged at some moment before `begin`.
    pub(crate) async fn resumed(&self, before: usize, begin: Instant) -> Duration {
        eventually("write acknowledged", || async {
            // In the order of their ends: the first that began late enough is the one.
            let acknowledged = self.board.acknowledged.lock();
            let late = acknowledged[before..].iter().find(|(begun, _)| *begun >= begin);
            late.map(|(_, ended)| ended.duration_since(begin))
        })
        .await
    }

    /// Lets the writers end and compares what each replica holds with what they were told.
    pub(crate) async fn check(self, cluster: &mut Cluster) -> Totals {
        self.board.stop.store(true, Ordering::Relaxed);
        let mut ledgers = Vec::new();
        for task in self.tasks {
            ledgers.push(task.await.expect("a writer failed"));
        }
        let seconds = self.since.elapsed().as_secs().max(1);
        for (kind, (count, first)) in &*self.board.errors.lock() {
            println!("  {count} times {kind}, first: {first}");
        }
        cluster.wait_ready().await;
        let mut totals = Totals::default();
        for (at, records) in every_replica(cluster).await.into_iter().enumerate() {
            let (found, wrongs) = compare(&ledgers, &records);
            let shown = wrongs.iter().take(WRONGS_SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n");
            assert!(wrongs.is_empty(), "{} things wrong under leader {}:\n{shown}", wrongs.len(), at + 1);
            totals = found;
        }
        totals.rate = (totals.acknowledged + totals.unknown + totals.not_applied) / seconds;
        totals
    }
}

/// All records, once for each node, read while that node leads: a leader answers from its own state.
pub(crate) async fn every_replica(cluster: &Cluster) -> Vec<Vec<Record>> {
    let client = cluster.client().await;
    let nodes: Vec<NodeId> = client.map().await.unwrap().nodes.keys().copied().collect();
    let mut replicas: Vec<Vec<Record>> = Vec::new();
    for node in nodes {
        eventually("move of the leader", || async {
            // Its log may be behind at first.
            client.move_leader(GroupId(SHARD), node).await.ok()
        })
        .await;
        replicas.push(records(&client).await);
    }
    replicas
}

/// All records of the keyspace, at one revision.
pub(crate) async fn records(client: &Client) -> Vec<Record> {
    let mut scan = client.with_timeout(STUCK).scan(Keys::all(), ScanOptions::new());
    let mut records = Vec::new();
    while let Some(page) = scan.next_page().await.unwrap() {
        records.extend(page);
    }
    records
}

struct Writer {
    client: Client,
    session: Session,
    plain: bool,
    board: Arc<Board>,
    ledger: Ledger,
    /// Version of the counter, as far as known.
    version: u64,
    /// Whether an increment of unknown outcome may have happened or happen yet.
    doubt: bool,
}

impl Writer {
    async fn run(mut self) -> Ledger {
        while !self.board.stop.load(Ordering::Relaxed) {
            self.put().await;
            self.increment().await;
        }
        self.ledger
    }

    async fn put(&mut self) {
        let (key, value) = put_of(self.ledger.writer, self.ledger.puts.len());
        let begun = Instant::now();
        let written = if self.plain { self.client.put(key, value).await } else { self.session.put(key, value).await };
        let fate = match written {
            Ok(_) => Fate::Acknowledged,
            Err(error) => self.fate(&error),
        };
        if fate == Fate::Acknowledged {
            // Ended when it is on the board, so that the board is in order.
            let mut acknowledged = self.board.acknowledged.lock();
            acknowledged.push((begun, Instant::now()));
        }
        self.ledger.puts.push(fate);
    }

    async fn increment(&mut self) {
        let key = counter_of(self.ledger.writer);
        let txn = Txn::new()
            .when(Condition::version(key.clone(), Relation::Equal, self.version))
            .then(Op::put(key, (self.version + 1).to_string()));
        let fate = match self.session.txn(txn).await {
            Ok(result) if result.succeeded => {
                // Whatever was in doubt expected the version that is now gone.
                self.version += 1;
                self.doubt = false;
                Fate::Acknowledged
            }
            Ok(_) => {
                let writer = self.ledger.writer;
                assert!(self.doubt, "counter {writer} changed behind its only writer's back at {}", self.version);
                self.learn().await;
                assert!(!self.doubt, "counter {writer} is still at {}, where the compare failed", self.version);
                Fate::NotApplied
            }
            Err(error) => {
                let fate = self.fate(&error);
                if fate == Fate::NotApplied {
                    fate
                } else {
                    // Also when it is said to be applied: then it is found.
                    self.doubt = true;
                    self.learn().await;
                    Fate::Unknown
                }
            }
        };
        self.ledger.increments.push(fate);
    }

    /// Reads the counter after an increment of unknown outcome.
    async fn learn(&mut self) {
        let key = counter_of(self.ledger.writer);
        let read = eventually("answer to a get", || async { self.client.get(key.clone()).await.ok() }).await;
        let version = read.map_or(0, |record| record.version);
        let writer = self.ledger.writer;
        assert!(
            version == self.version || version == self.version + 1,
            "counter {writer} went from {} to {version} with one increment in doubt",
            self.version
        );
        if version > self.version {
            self.version = version;
            self.doubt = false;
            self.ledger.found += 1;
        }
    }

    fn fate(&self, error: &Error) -> Fate {
        let kind = format!("{:?} ({})", error.code, error.outcome);
        let mut errors = self.board.errors.lock();
        errors.entry(kind).or_insert_with(|| (0, error.to_string())).0 += 1;
        assert!(error.is_unavailable(), "writer {}: {error:?}", self.ledger.writer);
        match error.outcome {
            Outcome::Applied => Fate::Acknowledged,
            Outcome::Unknown => Fate::Unknown,
            Outcome::NotApplied => Fate::NotApplied,
        }
    }
}

fn put_of(writer: usize, number: usize) -> (Bytes, Bytes) {
    let key = format!("put/{writer:02}/{number:06}");
    let value = format!("{key} {:0100}", number * 31 + writer);
    (key.into(), value.into())
}

fn counter_of(writer: usize) -> Bytes {
    format!("counter/{writer:02}").into()
}

/// Everything in `records` that contradicts what the writers were told.
fn compare(ledgers: &[Ledger], records: &[Record]) -> (Totals, Vec<String>) {
    let mut totals = Totals::default();
    let mut wrongs = Vec::new();
    let mut left: BTreeMap<&Bytes, &Record> = records.iter().map(|record| (&record.key, record)).collect();
    if left.len() != records.len() {
        wrongs.push(format!("{} records have only {} keys", records.len(), left.len()));
    }
    for ledger in ledgers {
        for (number, fate) in ledger.puts.iter().enumerate() {
            let (key, value) = put_of(ledger.writer, number);
            let record = left.remove(&key);
            totals.add(*fate, record.is_some());
            match (fate, record) {
                (Fate::Acknowledged, None) => wrongs.push(format!("{key:?} was acknowledged and is lost")),
                (Fate::NotApplied, Some(_)) => wrongs.push(format!("{key:?} was called not applied and is there")),
                (_, Some(record)) if record.value != value || record.version != 1 => {
                    wrongs.push(format!("{key:?} was put once as {value:?} and is {record:?}"));
                }
                _ => {}
            }
        }
        let count = |wanted| ledger.increments.iter().filter(|fate| **fate == wanted).count() as u64;
        let (acknowledged, unknown) = (count(Fate::Acknowledged), count(Fate::Unknown));
        let record = left.remove(&counter_of(ledger.writer));
        let version = record.map_or(0, |record| record.version);
        let text = record.map_or_else(|| "0".into(), |record| String::from_utf8_lossy(&record.value).into_owned());
        let late = version.saturating_sub(acknowledged);
        // The last increment may have been in doubt and happened after it was looked at.
        if version < acknowledged + ledger.found || late > unknown.min(ledger.found + 1) || text != version.to_string()
        {
            let writer = ledger.writer;
            wrongs.push(format!(
                "counter {writer} is {text}, version {version}, after {acknowledged} acknowledged increments, {unknown} \
                 unknown ones, {} of those seen",
                ledger.found
            ));
        }
        totals.acknowledged += acknowledged;
        totals.unknown += unknown;
        totals.unknown_applied += late;
        totals.not_applied += count(Fate::NotApplied);
    }
    wrongs.extend(left.values().map(|record| format!("nobody wrote {record:?}")));
    (totals, wrongs)
}

impl Totals {
    fn add(&mut self, fate: Fate, is_there: bool) {
        match fate {
            Fate::Acknowledged => self.acknowledged += 1,
            Fate::Unknown => {
                self.unknown += 1;
                self.unknown_applied += u64::from(is_there);
            }
            Fate::NotApplied => self.not_applied += 1,
        }
    }
}

#[test]
fn a_comparison_finds_every_kind_of_wrong() {
    let record = |(key, value): (Bytes, Bytes), version| Record { key, value, version, ..Record::default() };
    let ledger = |found| Ledger {
        writer: 0,
        puts: vec![Fate::Acknowledged, Fate::Unknown, Fate::NotApplied],
        increments: vec![Fate::Acknowledged, Fate::Unknown],
        found,
    };
    let counter = |value: &'static str, version| record((counter_of(0), value.into()), version);
    let right = vec![record(put_of(0, 0), 1), counter("2", 2)];
    let wrongs = |records: &[Record]| compare(&[ledger(1)], records).1;
    assert_eq!(wrongs(&right), Vec::<String>::new());
    assert!(compare(&[ledger(0)], &[right[0].clone(), counter("1", 1)]).1.is_empty(), "the unknown one never came");
    let with = |record| [right.clone(), vec![record]].concat();
    assert!(wrongs(&with(record(put_of(0, 1), 1))).is_empty(), "the unknown put came");
    for (records, wrong) in [
        (vec![right[1].clone()], "is lost"),
        (with(record(put_of(0, 1), 2)), "was put once"),
        (with(record(put_of(0, 2), 1)), "called not applied"),
        (with(record(put_of(0, 3), 1)), "nobody wrote"),
        (with(right[0].clone()), "only 2 keys"),
        (vec![right[0].clone(), counter("1", 1)], "counter 0 is 1"),
        (vec![right[0].clone(), counter("3", 3)], "counter 0 is 3"),
        (vec![right[0].clone(), counter("2", 3)], "counter 0 is 2"),
        (vec![right[0].clone()], "counter 0 is 0"),
    ] {
        let found = wrongs(&records);
        assert!(found.iter().any(|found| found.contains(wrong)), "{wrong}: {found:?}");
    }
}
