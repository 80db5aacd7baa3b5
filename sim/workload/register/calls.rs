//! Every kind of read and write that the product offers on a key, and what its answer tells.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate::client::operation_result::Kind;
use quorate::client::{
    BatchOperation, Condition, Consistency, Error, ErrorCode, Keys, Op, OperationResult, PutOptions, ReadOptions,
    Record, Relation, Result, ScanOptions, TransactionResult, Txn,
};

use super::caller::Caller;
use super::{PREFIX, Registers};
use crate::chance::Chance;
use crate::history::{Answer, Before, Effect, When};
use crate::linear::past::PastRead;
use crate::workload::Setup;

/// Failures of one scan after which it is given up.
const SCAN_FAILURES_MAX: usize = 3;

impl Registers {
    /// One operation. Returns whether its client lives on.
    pub(super) async fn operate(&self, caller: &Caller, chance: &Chance, setup: &Setup) -> bool {
        let keys = chance.sample(&self.keys, 2);
        let (key, other) = (&keys[0], &keys[1]);
        let revision = chance.between(1, self.revision.get() + 1);
        let consistency = draw_consistency(chance);
        match chance.below(100) {
            0..18 => drop(self.get(caller, key, consistency, setup).await),
            18..24 => drop(self.get_past(caller, key, revision, setup).await),
            24..29 => drop(self.scan(caller, 0, chance, setup).await),
            29..31 => drop(self.scan(caller, revision, chance, setup).await),
            31..35 => self.count(caller, key, consistency, setup).await,
            35..41 => return self.read_two(caller, [key, other], setup).await,
            41..61 => return self.put(caller, key, chance, setup).await,
            61..65 => return self.delete(caller, key).await,
            65..72 => return self.conditional(caller, key, When::Always, Effect::Delete, setup).await,
            72..92 => {
                let delete = chance.percent(20);
                let effect = if delete { Effect::Delete } else { Effect::Put(self.take_value()) };
                let when = self.draw_condition(key, chance);
                return self.conditional(caller, key, when, effect, setup).await;
            }
            _ => return self.batch(caller, [key, other], chance).await,
        }
        true
    }

    pub(super) async fn get(&self, caller: &Caller, key: &str, consistency: Consistency, setup: &Setup) -> Result<()> {
        let called = self.begin_reads(caller, &[key], consistency);
        let told = caller.client.get_with(key.to_owned(), &ReadOptions::new().consistency(consistency)).await;
        match consistency {
            Consistency::Linearizable => {}
            Consistency::Follower => setup.seen.held("follower reads", told.is_ok().into()),
            Consistency::Stale(_) => setup.seen.held("stale reads", told.is_ok().into()),
        }
        let failed = told.as_ref().map(|_| ()).map_err(Error::clone);
        let answer =
            told.map(|record| vec![Answer { before: self.before(key, record.as_ref(), setup), ..Answer::default() }]);
        self.finish(&called, answer);
        failed
    }

    /// Reads a key at a revision that the shard has surely reached. One that was compacted shows nothing.
    pub(super) async fn get_past(&self, caller: &Caller, key: &str, revision: u64, setup: &Setup) -> Result<()> {
        match caller.client.get_at(key.to_owned(), revision).await {
            Ok(record) => {
                tracing::debug!(key, revision, found = record.is_some(), "read at a revision");
                self.past_read(caller, key, revision, record.as_ref(), setup);
                Ok(())
            }
            Err(error) => {
                self.past_failed(key, revision, &error, setup);
                if error.code == ErrorCode::Compacted { Ok(()) } else { Err(error) }
            }
        }
    }

    fn past_read(&self, caller: &Caller, key: &str, revision: u64, record: Option<&Record>, setup: &Setup) {
        let shown = record.map(|record| self.shown(key, record, setup));
        let read = PastRead { client: caller.id, revision, shown };
        self.past.borrow_mut().entry(key.to_owned()).or_default().push(read);
    }

    fn past_failed(&self, what: &str, revision: u64, error: &Error, setup: &Setup) {
        if error.code == ErrorCode::FutureRevision {
            let detail = format!("{what}: an answer told revision {revision} before: {error}");
            setup.seen.violation("a read at a revision shows it", detail);
        }
    }

    /// Reads all keys, in pages of one revision: the present one when `revision` is 0.
    pub(super) async fn scan(&self, caller: &Caller, revision: u64, chance: &Chance, setup: &Setup) -> Result<()> {
        let consistency = draw_consistency(chance);
        let mut options = ScanOptions::new().revision(revision).consistency(consistency);
        options = options.page_records(u32::try_from(chance.between(1, 5)).unwrap_or(1));
        let is_reverse = chance.percent(30);
        let options = if is_reverse { options.reverse() } else { options };
        let keys: Vec<_> = self.keys.iter().map(String::as_str).collect();
        // An old revision says nothing of the present.
        let called = if revision == 0 { self.begin_reads(caller, &keys, consistency) } else { Vec::new() };
        let mut scan = caller.client.scan(Keys::prefix(PREFIX), options);
        let (mut records, mut pinned, mut failures) = (Vec::new(), None, 0);
        loop {
            match scan.next_page().await {
                Ok(Some(page)) => {
                    // What later pages show was settled with the first.
                    let (_, first) = *pinned.get_or_insert_with(|| (self.tick(), scan.revision()));
                    if scan.revision() != first || (revision != 0 && first != revision) {
                        let detail = format!("asked for {revision}, began at {first}, now {}", scan.revision());
                        setup.seen.violation("a scan shows one revision", detail);
                    }
                    records.extend(page);
                }
                Ok(None) => break,
                Err(error) if failures == SCAN_FAILURES_MAX || revision != 0 => {
                    self.past_failed("a scan", revision, &error, setup);
                    self.finish(&called, Err(error.clone()));
                    return Err(error);
                }
                Err(_) => failures += 1,
            }
        }
        let Some((now, revision)) = pinned else { return Ok(()) };
        let found = in_order(records, is_reverse, setup);
        let reads = self.keys.iter().map(|key| (key, found.get(key)));
        if called.is_empty() {
            reads.for_each(|(key, record)| self.past_read(caller, key, revision, record, setup));
        } else {
            let answer = |record: Option<&Record>, key: &String| self.before(key, record, setup);
            let answers = reads.map(|(key, record)| told(revision, None, answer(record, key))).collect();
            self.finish_at(now, &called, Ok(answers));
        }
        Ok(())
    }

    /// Counts a range of one key.
    async fn count(&self, caller: &Caller, key: &str, consistency: Consistency, setup: &Setup) {
        let called = self.begin_reads(caller, &[key], consistency);
        let keys = Keys::all().from(key.to_owned()).to(format!("{key}\0"));
        let answer = caller.client.count_with(keys, &ReadOptions::new().consistency(consistency)).await.map(|count| {
            if count > 1 {
                setup.seen.violation("a count counts", format!("{count} keys in a range of one"));
            }
            let before = if count == 0 { Before::Absent } else { Before::Present(None) };
            vec![Answer { before: Some(before), ..Answer::default() }]
        });
        self.finish(&called, answer);
    }

    /// Reads two keys in one transaction.
    async fn read_two(&self, caller: &Caller, keys: [&String; 2], setup: &Setup) -> bool {
        let called = self.begin(caller, &keys.map(|key| (key.as_str(), When::Always, Effect::Nothing)));
        let txn = keys.into_iter().fold(Txn::new(), |txn, key| txn.then(Op::get(key.clone())));
        let answer = caller.txn(txn).await.map(|result| {
            let reads = keys.iter().zip(&result.results);
            reads.map(|(key, read)| told(result.revision, None, self.before_of(key, read, setup))).collect()
        });
        self.finish(&called, answer)
    }

    async fn put(&self, caller: &Caller, key: &str, chance: &Chance, setup: &Setup) -> bool {
        let value = self.take_value();
        let asks = chance.percent(40);
        let options = if asks { PutOptions::new().previous() } else { PutOptions::new() };
        let called = self.begin(caller, &[(key, When::Always, Effect::Put(value))]);
        let answer = caller.put(key, value.to_string(), &options).await.map(|written| {
            let before = if asks { self.before(key, written.previous.as_ref(), setup) } else { None };
            vec![told(written.revision, None, before)]
        });
        self.finish(&called, answer)
    }

    async fn delete(&self, caller: &Caller, key: &str) -> bool {
        let called = self.begin(caller, &[(key, When::Always, Effect::Delete)]);
        let answer = caller.delete(key).await.map(|existed| {
            let before = if existed { Before::Present(None) } else { Before::Absent };
            vec![Answer { before: Some(before), ..Answer::default() }]
        });
        self.finish(&called, answer)
    }

    /// A condition on what was seen last of the key, or on its absence.
    fn draw_condition(&self, key: &str, chance: &Chance) -> When {
        let last = self.last.borrow().get(key).copied();
        match (chance.below(10), last) {
            (0..3, Some(last)) => When::Value(last.value),
            (3..5, Some(last)) => When::Version(last.version.unwrap_or(0)),
            (5..7, Some(last)) => When::Modified(last.modified.unwrap_or(0)),
            (7, _) => When::Exists(true),
            (8, _) => When::Version(0),
            _ => When::Exists(false),
        }
    }

    /// Compares and writes in one transaction, which reads the key if the condition does not hold.
    async fn conditional(&self, caller: &Caller, key: &str, when: When, effect: Effect, setup: &Setup) -> bool {
        let called = self.begin(caller, &[(key, when, effect)]);
        let write = match effect {
            Effect::Put(value) => Op::put_with(key.to_owned(), value.to_string(), &PutOptions::new().previous()),
            Effect::Delete => Op::delete(key.to_owned()),
            Effect::Nothing => Op::get(key.to_owned()),
        };
        let txn = Txn::new().then(write).otherwise(Op::get(key.to_owned()));
        let txn = condition(key, when).into_iter().fold(txn, Txn::when);
        let answer = caller.txn(txn).await.map(|result: TransactionResult| {
            let before = result.results.first().and_then(|result| self.before_of(key, result, setup));
            vec![told(result.revision, (when != When::Always).then_some(result.succeeded), before)]
        });
        self.finish(&called, answer)
    }

    /// Writes two keys in one batch.
    async fn batch(&self, caller: &Caller, keys: [&String; 2], chance: &Chance) -> bool {
        let effects = keys.map(|key| {
            let delete = chance.percent(30);
            (key.as_str(), When::Always, if delete { Effect::Delete } else { Effect::Put(self.take_value()) })
        });
        let operations = effects.map(|(key, _, effect)| match effect {
            Effect::Put(value) => BatchOperation::put(key.to_owned(), value.to_string()),
            Effect::Delete | Effect::Nothing => BatchOperation::delete(key.to_owned()),
        });
        let called = self.begin(caller, &effects);
        let outcome = caller.batch(&operations).await;
        // The default keyspace is one shard, so that there is one part.
        let revision = outcome.and_then(|parts| parts.into_iter().next().map_or(Ok(0), |part| part.result));
        self.finish(&called, revision.map(|revision| vec![told(revision, None, None); 2]))
    }

    /// What the result of one operation of a transaction says of its key just before.
    fn before_of(&self, key: &str, result: &OperationResult, setup: &Setup) -> Option<Before> {
        match result.kind.as_ref()? {
            Kind::Put(put) => self.before(key, put.previous.as_ref(), setup),
            Kind::Delete(delete) if delete.deleted > 0 => Some(Before::Present(None)),
            Kind::Delete(_) => Some(Before::Absent),
            Kind::Range(range) => self.before(key, range.records.first(), setup),
            Kind::Transaction(_) => None,
        }
    }
}

/// Who serves a read, and how old it may be.
fn draw_consistency(chance: &Chance) -> Consistency {
    match chance.below(10) {
        0..4 => Consistency::Linearizable,
        4..8 => Consistency::Follower,
        _ => Consistency::Stale(Duration::from_millis(*chance.pick(&[200, 1_000, 3_000]))),
    }
}

fn told(revision: u64, held: Option<bool>, before: Option<Before>) -> Answer {
    Answer { revision: Some(revision), held, before }
}

fn condition(key: &str, when: When) -> Option<Condition> {
    let key = key.to_owned();
    Some(match when {
        When::Always => return None,
        When::Exists(true) => Condition::exists(key),
        When::Exists(false) => Condition::missing(key),
        When::Value(value) => Condition::value(key, Relation::Equal, value.to_string()),
        When::Version(version) => Condition::version(key, Relation::Equal, version),
        When::Modified(revision) => Condition::mod_revision(key, Relation::Equal, revision),
    })
}

/// The records of a scan by key. Each comes once, in the order that was asked for.
fn in_order(records: Vec<Record>, is_reverse: bool, setup: &Setup) -> BTreeMap<String, Record> {
    let sorted =
        records.windows(2).all(|pair| if is_reverse { pair[0].key > pair[1].key } else { pair[0].key < pair[1].key });
    if !sorted {
        let keys: Vec<_> = records.iter().map(|record| record.key.escape_ascii().to_string()).collect();
        setup.seen.violation("a scan is in order", format!("{keys:?}"));
    }
    records.into_iter().map(|record| (String::from_utf8_lossy(&record.key).into_owned(), record)).collect()
}
