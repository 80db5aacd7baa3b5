//! The machine against a simple model of what it promises, under random commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::digest::digest;
use super::testing::{Shard, command};
use super::{Interval, ShardMachine};
use crate::proto::internal::v1::command_result::Kind as ResultKind;
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::shard_read::Scan;
use crate::proto::internal::v1::{
    CheckpointLeases, CloseSessions, CommandResult, Compact, ExpireLeases, GrantLease, RevokeLease, ShardCommand,
    checkpoint_leases, close_sessions,
};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind as OperationKind;
use crate::proto::v1::operation_result::{DeleteResult, Kind as OperationResultKind, PutResult, RangeResult};
use crate::proto::v1::range::SortTarget;
use crate::proto::v1::{
    Compare, DeleteRange, ErrorCode, Operation, OperationResult, Put, Range, Record, SessionStamp, Transaction,
    TransactionResult,
};

/// What happened to a key at a revision: a record, or its end.
type Version = (u64, Option<Record>);

#[derive(Default)]
struct Session {
    floor: u64,
    highest: u64,
    results: BTreeMap<u64, CommandResult>,
}

#[derive(Clone, Copy)]
struct Lease {
    serial: u64,
    implicit: bool,
}

/// All versions of all keys for ever, the leases and the sessions.
struct Model {
    revision: u64,
    compacted: u64,
    next_lease: u64,
    leases: BTreeMap<u64, Lease>,
    next_session: u64,
    versions: BTreeMap<Bytes, Vec<Version>>,
    sessions: BTreeMap<u64, Session>,
}

impl Model {
    fn new() -> Self {
        let (versions, sessions, leases) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { revision: 1, compacted: 0, next_lease: 1, leases, next_session: 1, versions, sessions }
    }

    fn at(&self, key: &Bytes, revision: u64) -> Option<Record> {
        let versions = self.versions.get(key)?;
        versions.iter().rev().find(|(at, _)| *at <= revision).and_then(|(_, record)| record.clone())
    }

    fn live(&self, interval: &Interval, revision: u64) -> Vec<Record> {
        let within = self.versions.keys().filter(|key| interval.contains(key));
        within.filter_map(|key| self.at(key, revision)).collect()
    }

    fn apply(&mut self, command: &ShardCommand) -> CommandResult {
        let kind = match (command.kind.as_ref().unwrap(), &command.session) {
            (Kind::Transaction(txn), Some(stamp)) => self.stamped(txn, stamp),
            (Kind::Transaction(txn), None) => self.transaction(txn),
            (Kind::OpenSession(_), _) => {
                let id = self.next_session;
                self.next_session += 1;
                self.sessions.insert(id, Session { floor: 1, ..Session::default() });
                ResultKind::SessionId(id)
            }
            (Kind::CloseSessions(close), _) => {
                for entry in &close.sessions {
                    let stale = self.sessions.get(&entry.session_id).is_some_and(|s| s.highest <= entry.seen_sequence);
                    if entry.any || stale {
                        self.sessions.remove(&entry.session_id);
                    }
                }
                self.done()
            }
            (Kind::CheckpointLeases(_), _) => self.done(),
            (Kind::ExpireLeases(expire), _) => {
                let meant = expire.leases.iter().zip(&expire.serials);
                let meant = meant.filter(|(id, serial)| self.leases.get(id).is_some_and(|l| l.serial == **serial));
                let ids: Vec<u64> = meant.map(|(id, _)| *id).collect();
                self.end_leases(&ids);
                self.done()
            }
            (Kind::GrantLease(grant), _) if self.leases.contains_key(&grant.lease) => refusal(ErrorCode::AlreadyExists),
            (Kind::GrantLease(grant), _) => {
                self.leases.insert(grant.lease, Lease { serial: self.next_lease, implicit: false });
                self.next_lease += 1;
                self.done()
            }
            (Kind::RevokeLease(revoke), _) if !self.leases.contains_key(&revoke.lease) => {
                refusal(ErrorCode::LeaseNotFound)
            }
            (Kind::RevokeLease(revoke), _) => {
                self.end_leases(&[revoke.lease]);
                self.done()
            }
            (Kind::Compact(compact), _) if compact.revision > self.revision => refusal(ErrorCode::FutureRevision),
            (Kind::Compact(compact), _) if compact.revision < self.compacted => refusal(ErrorCode::Compacted),
            (Kind::Compact(compact), _) => {
                self.compacted = compact.revision;
                self.done()
            }
            (Kind::Fence(_), _) => unreachable!("not drawn"),
        };
        CommandResult { kind: Some(kind) }
    }

    fn holders(&self, lease: u64) -> Vec<Bytes> {
        let held = |key: &&Bytes| self.at(key, u64::MAX).is_some_and(|record| record.lease == lease);
        self.versions.keys().filter(held).cloned().collect()
    }

    fn end_leases(&mut self, ids: &[u64]) {
        let keys: Vec<Bytes> = ids.iter().flat_map(|id| self.holders(*id)).collect();
        for key in &keys {
            self.versions.get_mut(key).unwrap().push((self.revision + 1, None));
        }
        self.revision += u64::from(!keys.is_empty());
        self.leases.retain(|id, _| !ids.contains(id));
    }

    /// Implicit leases end with their last keys.
    fn let_go(&mut self) {
        let implicit = self.leases.iter().filter(|(_, lease)| lease.implicit).map(|(id, _)| *id);
        let left: Vec<_> = implicit.filter(|id| self.holders(*id).is_empty()).collect();
        self.leases.retain(|id, _| !left.contains(id));
    }

    fn done(&self) -> ResultKind {
        ResultKind::Done(crate::proto::internal::v1::Done { revision: self.revision, more: false })
    }

    fn stamped(&mut self, txn: &Transaction, stamp: &SessionStamp) -> ResultKind {
        let SessionStamp { session_id, sequence, lowest_unacknowledged: lowest } = *stamp;
        let Some(session) = self.sessions.get(&session_id) else { return refusal(ErrorCode::SessionNotFound) };
        if sequence < session.floor {
            return refusal(ErrorCode::SessionSequence);
        }
        if let Some(result) = session.results.get(&sequence) {
            return result.kind.clone().unwrap();
        }
        let kind = self.transaction(txn);
        let session = self.sessions.get_mut(&session_id).unwrap();
        session.floor = session.floor.max(lowest);
        session.highest = session.highest.max(sequence);
        session.results.insert(sequence, CommandResult { kind: Some(kind.clone()) });
        session.results.retain(|sequence, _| *sequence >= session.floor);
        kind
    }

    fn transaction(&mut self, txn: &Transaction) -> ResultKind {
        if twice_within(txn) {
            return refusal(ErrorCode::DuplicateKey);
        }
        let chosen = self.choose(txn);
        if let Some(code) = self.missing(&chosen) {
            return refusal(code);
        }
        let mut changed = false;
        let mut result = self.execute(&chosen, &mut changed);
        self.let_go();
        self.revision += u64::from(changed);
        stamp(&mut result, self.revision);
        ResultKind::Transaction(result)
    }

    /// The transaction with every compare decided by the present state: the branch that runs is `success`
    /// and `compares` is empty if they held.
    fn choose(&self, txn: &Transaction) -> Transaction {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let decided = branch.iter().map(|operation| match operation.kind.as_ref().unwrap() {
            OperationKind::Transaction(nested) => {
                Operation { kind: Some(OperationKind::Transaction(self.choose(nested))) }
            }
            OperationKind::Put(_) | OperationKind::Delete(_) | OperationKind::Range(_) => operation.clone(),
        });
        let compares = if succeeded { Vec::new() } else { txn.compares.clone() };
        Transaction { compares, success: decided.collect(), failure: Vec::new() }
    }

    /// The first thing that is missing for what was chosen to run.
    fn missing(&self, chosen: &Transaction) -> Option<ErrorCode> {
        chosen.success.iter().find_map(|operation| match operation.kind.as_ref().unwrap() {
            OperationKind::Put(put) => {
                let is_missing = self.at(&put.key, u64::MAX).is_none();
                if (put.keep_value || put.keep_lease) && is_missing {
                    Some(ErrorCode::KeyNotFound)
                } else {
                    (put.lease != 0 && !self.leases.contains_key(&put.lease)).then_some(ErrorCode::LeaseNotFound)
                }
            }
            OperationKind::Range(range) if range.revision > self.revision => Some(ErrorCode::FutureRevision),
            OperationKind::Range(range)
                if range.revision != 0 && range.revision != self.revision && range.revision < self.compacted =>
            {
                Some(ErrorCode::Compacted)
            }
            OperationKind::Transaction(nested) => self.missing(nested),
            OperationKind::Range(_) | OperationKind::Delete(_) => None,
        })
    }

    fn execute(&mut self, chosen: &Transaction, changed: &mut bool) -> TransactionResult {
        let next = self.revision + 1;
        let mut results = Vec::new();
        for operation in &chosen.success {
            let kind = match operation.kind.as_ref().unwrap() {
                OperationKind::Put(put) => {
                    *changed = true;
                    OperationResultKind::Put(PutResult { previous: self.put(put, next).filter(|_| put.previous) })
                }
                OperationKind::Delete(delete) => {
                    let mut previous = self.live(&Interval::of_operation(&delete.key, &delete.range_end), u64::MAX);
                    for record in &previous {
                        self.versions.get_mut(&record.key).unwrap().push((next, None));
                    }
                    *changed |= !previous.is_empty();
                    let deleted = previous.len() as u64;
                    previous.retain(|_| delete.previous);
                    OperationResultKind::Delete(DeleteResult { deleted, previous })
                }
                OperationKind::Range(range) => OperationResultKind::Range(self.range(range)),
                OperationKind::Transaction(nested) => OperationResultKind::Transaction(self.execute(nested, changed)),
            };
            results.push(OperationResult { kind: Some(kind) });
        }
        TransactionResult { succeeded: chosen.compares.is_empty(), results, revision: 0 }
    }

    fn put(&mut self, put: &Put, revision: u64) -> Option<Record> {
        let previous = self.at(&put.key, u64::MAX);
        let had = previous.as_ref().map_or(0, |record| record.lease);
        let lease = if put.keep_lease {
            had
        } else if put.ttl_ms != 0 {
            while self.leases.contains_key(&self.next_lease) {
                self.next_lease += 1;
            }
            let id = self.next_lease;
            self.next_lease += 1;
            self.leases.insert(id, Lease { serial: id, implicit: true });
            id
        } else {
            put.lease
        };
        let kept = previous.as_ref().filter(|_| put.keep_value).map(|record| record.value.clone());
        let record = Record {
            key: put.key.clone(),
            value: kept.unwrap_or_else(|| put.value.clone()),
            create_revision: previous.as_ref().map_or(revision, |record| record.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |record| record.version + 1),
            lease,
        };
        self.versions.entry(put.key.clone()).or_default().push((revision, Some(record)));
        previous
    }

    fn range(&self, range: &Range) -> RangeResult {
        let revision = if range.revision == 0 { u64::MAX } else { range.revision };
        let mut records = self.live(&Interval::of_operation(&range.key, &range.range_end), revision);
        let count = records.len() as u64;
        if range.count_only {
            return RangeResult { count, ..RangeResult::default() };
        }
        records.retain(|record| {
            record.mod_revision >= range.mod_revision_min
                && (range.mod_revision_max == 0 || record.mod_revision <= range.mod_revision_max)
                && record.create_revision >= range.create_revision_min
                && (range.create_revision_max == 0 || record.create_revision <= range.create_revision_max)
        });
        let number = |record: &Record| match range.sort() {
            SortTarget::Key | SortTarget::Value => 0,
            SortTarget::Version => record.version,
            SortTarget::CreateRevision => record.create_revision,
            SortTarget::ModRevision => record.mod_revision,
        };
        let order = |one: &Record, two: &Record| match range.sort() {
            SortTarget::Key => one.key.cmp(&two.key),
            SortTarget::Value => one.value.cmp(&two.value),
            SortTarget::Version | SortTarget::CreateRevision | SortTarget::ModRevision => number(one).cmp(&number(two)),
        };
        // A stable sort of what lies in key order: equals stay in it.
        records.sort_by(|one, two| if range.reverse { order(two, one) } else { order(one, two) });
        let more = range.limit != 0 && records.len() > range.limit as usize;
        records.truncate(if range.limit == 0 { usize::MAX } else { range.limit as usize });
        if range.keys_only {
            records.iter_mut().for_each(|record| record.value = Bytes::new());
        }
        RangeResult { records, count, more }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range_end.is_empty() {
            return one_holds(compare, self.at(&compare.key, u64::MAX));
        }
        let found = self.live(&Interval::of_operation(&compare.key, &compare.range_end), u64::MAX);
        if found.is_empty() {
            return one_holds(compare, None);
        }
        found.into_iter().all(|record| one_holds(compare, Some(record)))
    }
}

fn one_holds(compare: &Compare, live: Option<Record>) -> bool {
    let exists = live.is_some();
    let found = live.unwrap_or_default();
    let order = match compare.operand.as_ref().unwrap() {
        Operand::Value(_) if !exists => return false,
        Operand::Value(value) => found.value.cmp(value),
        Operand::Version(number) => found.version.cmp(number),
        Operand::CreateRevision(number) => found.create_revision.cmp(number),
        Operand::ModRevision(number) => found.mod_revision.cmp(number),
        Operand::Lease(number) => found.lease.cmp(number),
        Operand::Exists(wanted) => return exists == *wanted,
    };
    match compare.relation() {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
        Relation::Unspecified => unreachable!("never generated"),
    }
}

fn stamp(result: &mut TransactionResult, revision: u64) {
    result.revision = revision;
    for nested in &mut result.results {
        if let Some(OperationResultKind::Transaction(nested)) = &mut nested.kind {
            stamp(nested, revision);
        }
    }
}

fn refusal(code: ErrorCode) -> ResultKind {
    ResultKind::Refusal(super::error::refused(code, "").as_ref().clone())
}

fn twice_within(txn: &Transaction) -> bool {
    written_twice(&txn.success) || written_twice(&txn.failure)
}

/// What an operation may write, in either branch.
fn writes(operation: &Operation) -> (Vec<Bytes>, Vec<Interval>) {
    match operation.kind.as_ref().unwrap() {
        OperationKind::Put(put) => (vec![put.key.clone()], Vec::new()),
        OperationKind::Delete(delete) => (Vec::new(), vec![Interval::of_operation(&delete.key, &delete.range_end)]),
        OperationKind::Range(_) => (Vec::new(), Vec::new()),
        OperationKind::Transaction(nested) => {
            let all = nested.success.iter().chain(&nested.failure).map(writes);
            all.fold((Vec::new(), Vec::new()), |(mut puts, mut deletes), (more_puts, more_deletes)| {
                puts.extend(more_puts);
                deletes.extend(more_deletes);
                (puts, deletes)
            })
        }
    }
}

fn written_twice(branch: &[Operation]) -> bool {
    let within = branch.iter().any(|operation| match operation.kind.as_ref().unwrap() {
        OperationKind::Transaction(nested) => twice_within(nested),
        OperationKind::Put(_) | OperationKind::Delete(_) | OperationKind::Range(_) => false,
    });
    let written: Vec<_> = branch.iter().map(writes).collect();
    let clash = |one: &(Vec<Bytes>, Vec<Interval>), two: &(Vec<Bytes>, Vec<Interval>)| {
        one.0.iter().any(|key| two.0.contains(key) || two.1.iter().any(|interval| interval.contains(key)))
    };
    let pairs = |at: usize| (0..written.len()).filter(move |other| *other != at);
    within || (0..written.len()).any(|at| pairs(at).any(|other| clash(&written[at], &written[other])))
}

fn key() -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)];
    prop::collection::vec(byte, 1..3).prop_map(Bytes::from)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(Bytes::new()), 1 => Just(Bytes::from_static(&[0])), 2 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
}

fn a_put() -> impl Strategy<Value = Put> {
    let plain = prop_oneof![2 => Just((0u64, 0u64)), 1 => (1u64..10_000).prop_map(|ttl| (ttl, 0)), 2 => (1u64..9).prop_map(|lease| (0, lease))];
    (key(), value(), plain, any::<bool>(), 0u8..8).prop_map(|(key, value, (ttl_ms, lease), previous, keep)| {
        let (keep_value, keep_lease) = (keep == 1 || keep == 3, keep == 2 || keep == 3);
        Put {
            key,
            value: if keep_value { Bytes::new() } else { value },
            ttl_ms: if keep_lease { 0 } else { ttl_ms },
            previous,
            lease: if keep_lease { 0 } else { lease },
            keep_value,
            keep_lease,
        }
    })
}

fn a_range() -> impl Strategy<Value = Range> {
    let bound = || prop_oneof![3 => Just(0u64), 1 => 1u64..12];
    let filters = (bound(), bound(), bound(), bound());
    let revision = prop_oneof![4 => Just(0u64), 1 => 1u64..12];
    let sort = prop_oneof![2 => Just(0i32), 1 => 1i32..5];
    (key(), range_end(), 0u32..4, any::<[bool; 3]>(), revision, sort, filters).prop_map(
        |(key, range_end, limit, [reverse, keys_only, count_only], revision, sort, filters)| Range {
            key,
            range_end,
            limit,
            reverse,
            keys_only,
            count_only,
            revision,
            sort,
            mod_revision_min: filters.0,
            mod_revision_max: filters.1,
            create_revision_min: filters.2,
            create_revision_max: filters.3,
            complete: false,
        },
    )
}

fn an_operation() -> impl Strategy<Value = Operation> {
    let delete = (key(), range_end(), any::<bool>())
        .prop_map(|(key, range_end, previous)| OperationKind::Delete(DeleteRange { key, range_end, previous }));
    let flat = prop_oneof![
        4 => a_put().prop_map(OperationKind::Put),
        2 => delete,
        2 => a_range().prop_map(OperationKind::Range),
    ];
    let flat = flat.prop_map(|kind| Operation { kind: Some(kind) });
    flat.prop_recursive(2, 8, 3, |within| {
        let branch = || prop::collection::vec(within.clone(), 0..3);
        (prop::collection::vec(a_compare(), 0..2), branch(), branch()).prop_map(|(compares, success, failure)| {
            Operation { kind: Some(OperationKind::Transaction(Transaction { compares, success, failure })) }
        })
    })
}

fn a_compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        value().prop_map(Operand::Value),
        (0u64..4).prop_map(Operand::Version),
        (0u64..20).prop_map(Operand::CreateRevision),
        (0u64..20).prop_map(Operand::ModRevision),
        (0u64..5).prop_map(Operand::Lease),
        any::<bool>().prop_map(Operand::Exists),
    ];
    (key(), range_end(), 1i32..5, operand).prop_map(|(key, range_end, relation, operand)| {
        let equal_only = matches!(operand, Operand::Exists(_));
        let relation = if equal_only { Relation::Equal.into() } else { relation };
        Compare { key, relation, operand: Some(operand), range_end }
    })
}

fn a_transaction() -> impl Strategy<Value = Transaction> {
    let branch = || prop::collection::vec(an_operation(), 0..4);
    (prop::collection::vec(a_compare(), 0..2), branch(), branch())
        .prop_map(|(compares, success, failure)| Transaction { compares, success, failure })
}

fn a_command() -> impl Strategy<Value = ShardCommand> {
    let plain = a_transaction().prop_map(|txn| command(Kind::Transaction(txn)));
    let stamped = (a_transaction(), 1u64..4, 1u64..12, 0u64..8).prop_map(|(txn, session_id, sequence, behind)| {
        let lowest_unacknowledged = sequence.saturating_sub(behind).max(1);
        let stamp = SessionStamp { session_id, sequence, lowest_unacknowledged };
        ShardCommand { kind: Some(Kind::Transaction(txn)), session: Some(stamp), epoch: 1 }
    });
    let close = (1u64..4, 0u64..12, any::<bool>()).prop_map(|(session_id, seen_sequence, any)| {
        let entry = close_sessions::Entry { session_id, seen_sequence, any };
        command(Kind::CloseSessions(CloseSessions { sessions: vec![entry] }))
    });
    let checkpoint = (1u64..9, 0u64..20_000, 1u64..12).prop_map(|(lease, remaining_ms, serial)| {
        let entry = checkpoint_leases::Entry { lease, remaining_ms, serial };
        command(Kind::CheckpointLeases(CheckpointLeases { leases: vec![entry] }))
    });
    let named = prop_oneof![2 => (1u64..12).prop_map(|id| (id, id)), 1 => (1u64..9, 1u64..12)];
    let expire = prop::collection::vec(named, 1..4).prop_map(|named| {
        let (leases, serials) = named.into_iter().unzip();
        command(Kind::ExpireLeases(ExpireLeases { leases, serials }))
    });
    let grant =
        (1u64..9, 1u64..10_000).prop_map(|(lease, ttl_ms)| command(Kind::GrantLease(GrantLease { lease, ttl_ms })));
    let revoke = (1u64..9).prop_map(|lease| command(Kind::RevokeLease(RevokeLease { lease })));
    let compact = (1u64..25, 1u32..6)
        .prop_map(|(revision, step_max)| command(Kind::Compact(Compact { revision, step_max, anew: false })));
    prop_oneof![
        8 => plain,
        5 => stamped,
        1 => Just(command(Kind::OpenSession(Default::default()))),
        1 => close,
        1 => checkpoint,
        2 => expire,
        3 => grant,
        1 => revoke,
        1 => compact,
    ]
}

/// The answer with what a model need not predict left out: words, and how far compaction got.
fn comparable(mut result: CommandResult) -> CommandResult {
    match result.kind.as_mut() {
        Some(ResultKind::Refusal(refusal)) => {
            let code = refusal.detail.as_ref().unwrap().code();
            result.kind = Some(self::refusal(code));
        }
        Some(ResultKind::Done(done)) => done.more = false,
        Some(ResultKind::Transaction(_) | ResultKind::SessionId(_)) | None => {}
    }
    result
}

#[derive(Clone, Debug)]
struct Probe {
    start: Bytes,
    end: Bytes,
    back: u64,
    limit: u32,
    reverse: bool,
}

fn a_probe() -> impl Strategy<Value = Probe> {
    let bound = || prop_oneof![1 => Just(Bytes::new()), 3 => key()];
    (bound(), bound(), 0u64..12, 0u32..5, any::<bool>()).prop_map(|(start, end, back, limit, reverse)| Probe {
        start,
        end,
        back,
        limit,
        reverse,
    })
}

/// Reads as the probe says, from the shard and from the model.
fn compare_reads(shard: &Shard, model: &Model, probe: &Probe) -> Result<(), TestCaseError> {
    let revision = model.revision.saturating_sub(probe.back).max(1);
    let interval = Interval::of_scan(&probe.start, &probe.end);
    let scan = Scan {
        start: probe.start.clone(),
        end: probe.end.clone(),
        reverse: probe.reverse,
        limit: probe.limit,
        keys_only: false,
        revision,
    };
    let answer = shard.scan(scan);
    let count = shard.count(&probe.start, &probe.end, revision);
    if revision < model.compacted {
        prop_assert_eq!(answer, Err(ErrorCode::Compacted));
        prop_assert_eq!(count, Err(ErrorCode::Compacted));
        return Ok(());
    }
    let mut expected = model.live(&interval, revision);
    prop_assert_eq!(count, Ok(expected.len() as u64));
    for record in &expected {
        prop_assert_eq!(shard.get(&record.key, revision), Ok(Some(record.clone())));
    }
    if probe.reverse {
        expected.reverse();
    }
    let limit = if probe.limit == 0 { usize::MAX } else { probe.limit as usize };
    let more = expected.len() > limit;
    expected.truncate(limit);
    let page = answer.unwrap();
    prop_assert_eq!((page.records, page.more, page.revision), (expected, more, revision));
    Ok(())
}

/// After a compaction to the present, the store holds what is alive and nothing else.
fn compact_to_the_present(shard: &mut Shard, model: &Model) -> Result<(), TestCaseError> {
    let compact = Compact { revision: model.revision, step_max: 3, anew: false };
    while let Some(ResultKind::Done(done)) = shard.one(command(Kind::Compact(compact))).kind
        && done.more
    {}
    let live = model.live(&Interval::all(), model.revision);
    let leased = live.iter().filter(|record| record.lease != 0).count();
    prop_assert!(live.iter().all(|record| record.lease == 0 || model.leases.contains_key(&record.lease)));
    let results: usize = model.sessions.values().map(|session| session.results.len()).sum();
    prop_assert_eq!(shard.pairs_of(0x01), live.len(), "latest");
    prop_assert_eq!(shard.pairs_of(0x02), 0, "history");
    for key in shard.pairs.0.keys().filter(|key| key[0] == 0x03) {
        prop_assert_eq!(&key[1..9], &model.revision.to_be_bytes()[..], "events before the revision");
    }
    prop_assert_eq!(shard.pairs_of(0x04), model.leases.len(), "leases");
    prop_assert_eq!(shard.pairs_of(0x05), leased, "keys of leases");
    prop_assert_eq!(shard.pairs_of(0x06), model.sessions.len(), "sessions");
    prop_assert_eq!(shard.pairs_of(0x07), results, "results of sessions");
    prop_assert_eq!(shard.pairs_of(0x08), usize::from(!live.is_empty()), "blocks");
    prop_assert_eq!(super::table::meta::sessions(&shard.pairs).unwrap(), model.sessions.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn answers_and_reads_are_those_of_the_model(steps in prop::collection::vec((a_command(), a_probe()), 1..60)) {
        let (mut shard, mut model) = (Shard::default(), Model::new());
        for (command, probe) in steps {
            let answer = shard.one(command.clone());
            prop_assert_eq!(comparable(answer), comparable(model.apply(&command)), "{:?}", command);
            compare_reads(&shard, &model, &probe)?;
            compare_reads(&shard, &model, &Probe { back: 0, ..probe })?;
            prop_assert_eq!(shard.machine.revision().borrow().0, model.revision);
        }
        compact_to_the_present(&mut shard, &model)?;
    }

    #[test]
    fn grouping_of_entries_changes_no_byte(
        commands in prop::collection::vec(a_command(), 1..60),
        groups in prop::collection::vec(1usize..9, 60),
    ) {
        let (mut single, mut grouped, mut restarted) = (Shard::default(), Shard::default(), Shard::default());
        let alone: Vec<_> = commands.iter().map(|command| single.one(command.clone())).collect();
        let mut together = Vec::new();
        let mut rest = commands.as_slice();
        for group in groups {
            let (run, after) = rest.split_at(group.min(rest.len()));
            together.extend(grouped.run(run));
            rest = after;
        }
        for command in &commands {
            restarted.machine = ShardMachine::new();
            restarted.one(command.clone());
        }
        prop_assert_eq!(alone, together);
        prop_assert_eq!(&single.pairs, &restarted.pairs, "what a machine remembers never shows");
        prop_assert_eq!(&single.pairs, &grouped.pairs);
        prop_assert_eq!(digest(&single.pairs).unwrap(), digest(&grouped.pairs).unwrap());
    }
}
