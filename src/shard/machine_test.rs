//! What the machine promises, by name.

use bytes::Bytes;
use futures_util::FutureExt;
use prost::Message;

use super::changes::{LeaseTerms, SessionTerms};
use super::digest::digest;
use super::fence::RETIRED;
use super::testing::{Shard, command, compare, delete, operation, put, put_ttl, stamped, txn};
use crate::proto::internal::v1::command_result::Kind as ResultKind;
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::shard_read::Scan;
use crate::proto::internal::v1::{
    CloseSessions, CommandResult, Compact, ExpireLeases, Fence, GrantLease, OpenSession, ShardCommand, close_sessions,
};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind as OperationKind;
use crate::proto::v1::operation_result::Kind as OperationResultKind;
use crate::proto::v1::{DeleteRange, ErrorCode, Outcome, Put, Range, Transaction};
use crate::raft::apply::{Apply, LogPosition};
use crate::storage::engine::{StoreId, WriteSet};
use crate::types::limits::{
    PAGE_BYTES_MAX, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX, SESSION_RESULT_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX,
    TXN_DELETED_KEYS_MAX,
};

fn compact(shard: &mut Shard, revision: u64, step_max: u32) -> bool {
    match shard.one(command(Kind::Compact(Compact { revision, step_max, anew: false }))).kind {
        Some(ResultKind::Done(done)) => done.more,
        other => panic!("expected Done, got {other:?}"),
    }
}

fn expire(leases: &[u64]) -> crate::proto::internal::v1::ShardCommand {
    command(Kind::ExpireLeases(ExpireLeases { leases: leases.to_vec(), serials: leases.to_vec() }))
}

fn close(session_id: u64, seen_sequence: u64, any: bool) -> crate::proto::internal::v1::ShardCommand {
    let entry = close_sessions::Entry { session_id, seen_sequence, any };
    command(Kind::CloseSessions(CloseSessions { sessions: vec![entry] }))
}

#[test]
fn an_empty_shard_is_at_revision_1_and_only_changes_raise_it() {
    let mut shard = Shard::default();
    assert_eq!(shard.ok(txn(vec![])).revision, 1);
    assert_eq!(shard.ok(txn(vec![delete(b"k", b"")])).revision, 1);
    assert_eq!(shard.pairs.0.len(), 0, "what changes nothing writes nothing");
    assert_eq!(shard.ok(txn(vec![put(b"k", b"v"), put(b"l", b"v")])).revision, 2);
    assert_eq!(shard.ok(txn(vec![put(b"k", b"v")])).revision, 3, "the same value is a change");
    let record = shard.get(b"k", 0).unwrap().unwrap();
    assert_eq!((record.create_revision, record.mod_revision, record.version), (2, 3, 2));
    assert_eq!(shard.ok(txn(vec![delete(b"a", b"z")])).revision, 4);
    assert_eq!(shard.ok(txn(vec![put(b"k", b"w")])).revision, 5);
    let record = shard.get(b"k", 0).unwrap().unwrap();
    assert_eq!((record.create_revision, record.mod_revision, record.version), (5, 5, 1), "a new life");
}

#[test]
fn a_fence_stops_what_comes_after_it_in_the_log() {
    let mut shard = Shard::default();
    let fence = |epoch| command(Kind::Fence(Fence { epoch }));
    let at = |epoch, mut command: ShardCommand| {
        command.epoch = epoch;
        command
    };
    let session = shard.open_session();
    let first = stamped(txn(vec![put(b"k", b"1")]), session, 1, 1);
    assert_eq!(shard.ok(at(1, first.clone())).revision, 2);
    // Both were proposed before the fence and follow it.
    let [_, late, stamped_late] = shard
        .run(&[fence(3), at(2, txn(vec![put(b"k", b"2")])), at(2, stamped(txn(vec![put(b"k", b"3")]), session, 2, 1))])
        .try_into()
        .unwrap();
    for result in [late, stamped_late] {
        let Some(ResultKind::Refusal(refusal)) = result.kind else { panic!("{result:?}") };
        let detail = refusal.detail.unwrap();
        assert_eq!((detail.code(), detail.outcome()), (ErrorCode::WrongShard, Outcome::NotApplied));
        assert!(detail.retryable);
    }
    assert_eq!(shard.get(b"k", 0).unwrap().unwrap().value, "1");
    // What was applied before is answered as before, and a newer epoch is served.
    assert_eq!(shard.ok(at(1, first)).revision, 2);
    assert_eq!(shard.ok(at(3, stamped(txn(vec![put(b"k", b"4")]), session, 2, 1))).revision, 3);
    shard.one(fence(2));
    let refused = shard.refused(at(2, txn(vec![put(b"k", b"5")])));
    assert_eq!(refused.detail.unwrap().code(), ErrorCode::WrongShard, "a fence never falls");
    shard.one(fence(RETIRED));
    assert!(shard.refused(at(u64::MAX - 1, txn(vec![]))).message.contains("dropped"));
}

#[test]
fn a_compare_on_the_value_of_a_missing_key_never_holds() {
    let mut shard = Shard::default();
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater] {
        let compares = vec![compare(b"k", relation, Operand::Value(Bytes::new()))];
        let transaction = Transaction { compares, ..Transaction::default() };
        assert!(!shard.ok(command(Kind::Transaction(transaction))).succeeded, "{relation:?}");
    }
}

#[test]
fn operations_see_those_before_them() {
    let mut shard = Shard::default();
    let range = |key: &'static [u8]| {
        operation(OperationKind::Range(Range { key: Bytes::from_static(key), ..Range::default() }))
    };
    let result = shard.ok(txn(vec![range(b"k"), put(b"k", b"v"), range(b"k")]));
    let counts: Vec<u64> = result
        .results
        .iter()
        .filter_map(|result| match result.kind.as_ref().unwrap() {
            OperationResultKind::Range(range) => Some(range.count),
            OperationResultKind::Put(_) | OperationResultKind::Delete(_) | OperationResultKind::Transaction(_) => None,
        })
        .collect();
    assert_eq!(counts, [0, 1]);
}

#[test]
fn a_stamped_write_is_applied_once_and_answered_alike() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    let write = stamped(txn(vec![put(b"k", b"v")]), session, 1, 1);
    let first = shard.one(write.clone());
    shard.ok(txn(vec![put(b"k", b"other")]));
    assert_eq!(shard.one(write.clone()), first);
    assert_eq!(shard.get(b"k", 0).unwrap().unwrap().value, "other");
    // The client has seen the answers below 3: a late copy of 1 cannot be told apart from a new one.
    shard.ok(stamped(txn(vec![put(b"k", b"third")]), session, 3, 3));
    let refusal = shard.refused(write);
    assert_eq!(refusal.detail.as_ref().unwrap().code(), ErrorCode::SessionSequence);
    assert_eq!(refusal.detail.unwrap().outcome(), Outcome::Unknown);
    assert_eq!(shard.get(b"k", 0).unwrap().unwrap().value, "third");
}

#[test]
fn a_refusal_is_remembered_so_that_a_late_copy_is_not_applied() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    let malformed = stamped(txn(vec![put(b"", b"v")]), session, 1, 1);
    shard.refused(malformed);
    let refusal = shard.refused(stamped(txn(vec![put(b"k", b"v")]), session, 1, 1));
    assert_eq!(refusal.detail.unwrap().code(), ErrorCode::InvalidArgument);
    assert_eq!(shard.get(b"k", 0), Ok(None));
}

#[test]
fn the_window_bounds_what_a_session_remembers() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    let mut apply = |sequence, lowest| shard.one(stamped(txn(vec![]), session, sequence, lowest)).kind.unwrap();
    for sequence in (1..=SESSION_WINDOW + 1).rev() {
        assert!(matches!(apply(sequence, 1), ResultKind::Transaction(_)), "{sequence}");
    }
    let ResultKind::Refusal(refusal) = apply(SESSION_WINDOW + 2, 1) else { panic!("beyond the window") };
    let detail = refusal.detail.unwrap();
    assert_eq!((detail.code(), detail.outcome()), (ErrorCode::SessionSequence, Outcome::NotApplied));
    assert_eq!((detail.limit.as_str(), detail.limit_value, detail.actual_value), ("session_window", 1024, 1025));
    let _ = apply(SESSION_WINDOW + 2, SESSION_WINDOW + 2);
    assert_eq!(shard.pairs_of(0x07), 1, "acknowledged results are forgotten");
    shard.one(stamped(txn(vec![]), session, u64::MAX, u64::MAX));
    assert_eq!(shard.pairs_of(0x07), 1);
    shard.one(close(session, 0, true));
    assert_eq!((shard.pairs_of(0x06), shard.pairs_of(0x07)), (0, 0));
}

#[test]
fn a_session_that_was_written_to_since_is_not_expired() {
    let mut shard = Shard::default();
    let (one, two) = (shard.open_session(), shard.open_session());
    shard.ok(stamped(txn(vec![]), one, 5, 1));
    shard.run(&[close(one, 4, false), close(two, 0, false), close(99, 0, true)]);
    assert!(matches!(shard.one(stamped(txn(vec![]), one, 6, 1)).kind, Some(ResultKind::Transaction(_))));
    let refusal = shard.refused(stamped(txn(vec![]), two, 1, 1));
    assert_eq!(refusal.detail.as_ref().unwrap().code(), ErrorCode::SessionNotFound);
    assert_eq!(refusal.detail.unwrap().outcome(), Outcome::NotApplied);
    shard.one(close(one, 6, false));
    assert_eq!(shard.pairs_of(0x06), 0);
    assert_eq!(shard.open_session(), 3, "ids are never used again");
}

#[test]
fn sessions_are_limited() {
    let mut shard = Shard::default();
    let counted = Bytes::copy_from_slice(&(SESSIONS_MAX as u64 - 1).to_be_bytes());
    shard.pairs.0.insert(Bytes::from_static(&[0x09, 4]), counted);
    shard.open_session();
    let detail = shard.refused(command(Kind::OpenSession(OpenSession::default()))).detail.unwrap();
    assert_eq!((detail.code(), detail.limit.as_str()), (ErrorCode::LimitExceeded, "sessions_max"));
    shard.one(close(1, 0, true));
    shard.open_session();
}

#[test]
fn a_large_result_is_remembered_without_its_records() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    let value = vec![7; SESSION_RESULT_BYTES_MAX];
    shard.ok(txn(vec![put(b"k", &value)]));
    let (key, range_end) = (Bytes::from_static(b"k"), Bytes::new());
    let delete = operation(OperationKind::Delete(DeleteRange { key, range_end, previous: true }));
    let write = stamped(txn(vec![delete]), session, 1, 1);
    let deleted = |result: CommandResult| match result.kind {
        Some(ResultKind::Transaction(result)) => match result.results[0].kind.clone() {
            Some(OperationResultKind::Delete(delete)) => (delete.deleted, delete.previous.len(), result.revision),
            other => panic!("expected a delete, got {other:?}"),
        },
        other => panic!("expected a result, got {other:?}"),
    };
    assert_eq!(deleted(shard.one(write.clone())), (1, 1, 3));
    assert_eq!(deleted(shard.one(write)), (1, 0, 3));
}

#[test]
fn a_lease_goes_with_its_key_and_a_late_expiry_finds_nothing() {
    let mut shard = Shard::default();
    shard.machine.follow_changes();
    shard.ok(txn(vec![put_ttl(b"a", b"1", 500), put_ttl(b"b", b"1", 600), put_ttl(b"c", b"1", 700)]));
    assert_eq!(shard.get(b"b", 0).unwrap().unwrap().lease, 2);
    let terms = |ms, serial| Some(LeaseTerms { ttl_ms: ms, remaining_ms: ms, serial });
    let changes = shard.machine.take_changes();
    assert_eq!(changes.leases, [(1, terms(500, 1)), (2, terms(600, 2)), (3, terms(700, 3))].into());
    shard.ok(txn(vec![put(b"a", b"2"), delete(b"b", b"")]));
    assert_eq!(shard.machine.take_changes().leases, [(1, None), (2, None)].into());
    assert_eq!((shard.pairs_of(0x04), shard.pairs_of(0x05)), (1, 1));
    shard.one(expire(&[1, 2]));
    assert_eq!(shard.get(b"a", 0).unwrap().unwrap().value, "2");
    assert_eq!(shard.machine.revision().borrow().0, 3, "nothing expired, nothing changed");
    shard.ok(txn(vec![put_ttl(b"d", b"1", 700)]));
    shard.one(expire(&[3, 4, 3]));
    assert_eq!(shard.machine.revision().borrow().0, 5, "one revision for all that expire together");
    assert_eq!((shard.get(b"c", 0), shard.get(b"d", 0)), (Ok(None), Ok(None)));
    assert_eq!((shard.pairs_of(0x04), shard.pairs_of(0x05)), (0, 0));
    assert_eq!(shard.get(b"c", 4).unwrap().unwrap().value, "1", "history shows what expired");
}

#[test]
fn writes_to_a_session_are_changes_of_it_and_nobody_following_costs_nothing() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    assert!(shard.machine.take_changes().is_empty());
    shard.machine.follow_changes();
    let write = stamped(txn(vec![put(b"k", b"v")]), session, 3, 1);
    for _ in 0..2 {
        shard.one(write.clone());
        let terms = SessionTerms { ttl_ms: 60_000, highest: 3 };
        assert_eq!(shard.machine.take_changes().sessions, [(session, Some(terms))].into(), "a retry is a sign of life");
    }
    shard.one(close(session, 3, false));
    assert_eq!(shard.machine.take_changes().sessions, [(session, None)].into());
    shard.machine.unfollow_changes();
    shard.open_session();
    assert!(shard.machine.take_changes().is_empty());
}

#[tokio::test]
async fn changes_wake_their_reader() {
    let mut shard = Shard::default();
    shard.machine.follow_changes();
    shard.ok(txn(vec![put_ttl(b"k", b"v", 500)]));
    shard.machine.changed().await;
    assert!(!shard.machine.take_changes().is_empty());
    shard.ok(txn(vec![put(b"other", b"v")]));
    assert!(shard.machine.changed().now_or_never().is_none(), "no lease and no session, no wake-up");
}

#[test]
fn compaction_takes_bounded_steps_and_gives_the_space_back() {
    let mut shard = Shard::default();
    shard.ok(txn(vec![put(b"stays", b"0")]));
    compact(&mut shard, 2, 100);
    let base = shard.pairs.0.len();
    for round in 0..20u8 {
        let keys = [[b'a', round % 7], [b'b', round % 3]];
        shard.ok(txn(keys.iter().map(|key| put(key, b"v")).collect()));
        shard.ok(txn(vec![put(b"stays", &[round]), delete(b"b", b"c")]));
    }
    shard.ok(txn(vec![delete(b"a", b"c")]));
    let last = shard.ok(txn(vec![put(b"stays", b"!")])).revision;
    assert!(shard.pairs.0.len() > base + 100);
    let mut steps = 1;
    while compact(&mut shard, last, 10) {
        assert_eq!(shard.get(b"stays", last - 1), Err(ErrorCode::Compacted), "from the first step on");
        assert_eq!(shard.get(b"stays", last).unwrap().unwrap().value, "!");
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps");
    assert_eq!(shard.pairs.0.len(), base, "{:?}", shard.pairs);
    assert!(!compact(&mut shard, last, 10), "done is done");
}

#[test]
fn whatever_was_compacted_before_nothing_of_the_past_is_left() {
    for (first, step_max) in (2..28).flat_map(|first| [(first, 1), (first, 3), (first, 100)]) {
        let mut shard = Shard::default();
        for round in 0..15u8 {
            shard.ok(txn(vec![put(b"stays", &[round]), put(&[b'a', round % 4], b"v")]));
            shard.ok(txn(vec![delete(&[b'a', round % 3], b"")]));
        }
        compact(&mut shard, first, step_max);
        let last = shard.ok(txn(vec![put(b"stays", b"!"), delete(b"a", b"b")])).revision;
        while compact(&mut shard, last, step_max) {}
        let last = shard.ok(txn(vec![put(b"stays", b"?")])).revision;
        while compact(&mut shard, last, step_max) {}
        let mut fresh = Shard::default();
        fresh.ok(txn(vec![put(b"stays", b"?")]));
        compact(&mut fresh, 2, 1);
        assert_eq!(shard.pairs.0.len(), fresh.pairs.0.len(), "first {first}, steps of {step_max}: {:?}", shard.pairs);
    }
}

#[test]
fn who_goes_on_with_a_compaction_is_woken_when_its_step_can_be_seen() {
    let mut shard = Shard::default();
    (0..10).for_each(|_| drop(shard.ok(txn(vec![put(b"k", b"v")]))));
    let step = command(Kind::Compact(Compact { revision: 5, step_max: 1, anew: false }));
    let mut state = WriteSet::new(&shard.pairs);
    let at = LogPosition { term: 1, index: 11 };
    shard.machine.apply(&mut state, at, &step.encode_to_vec().into()).unwrap();
    assert!(shard.machine.compaction_begun().now_or_never().is_none(), "views do not show it yet");
    shard.machine.applied(&shard.pairs, at);
    assert!(shard.machine.compaction_begun().now_or_never().is_some());
}

#[test]
fn compaction_knows_its_bounds() {
    let mut shard = Shard::default();
    shard.ok(txn(vec![put(b"k", b"1")]));
    shard.ok(txn(vec![put(b"k", b"2")]));
    let mut refused = |revision, step_max| {
        let refusal = shard.refused(command(Kind::Compact(Compact { revision, step_max, anew: false })));
        (refusal.detail.as_ref().unwrap().code(), refusal.detail.unwrap().compacted_revision)
    };
    assert_eq!(refused(4, 1), (ErrorCode::FutureRevision, 0));
    assert_eq!(refused(0, 1), (ErrorCode::InvalidArgument, 0));
    assert_eq!(refused(3, 0), (ErrorCode::InvalidArgument, 0));
    compact(&mut shard, 3, 100);
    let refusal = shard.refused(command(Kind::Compact(Compact { revision: 2, step_max: 1, anew: false })));
    assert_eq!(refusal.detail.unwrap().compacted_revision, 3);
    assert_eq!(shard.get(b"k", 2), Err(ErrorCode::Compacted));
    assert_eq!(shard.get(b"k", 4), Err(ErrorCode::FutureRevision));
}

#[test]
fn a_transaction_may_delete_so_many_keys_and_no_more() {
    let mut shard = Shard::default();
    let keys: Vec<[u8; 2]> = (0..=10_000).map(u16::to_be_bytes).collect();
    for chunk in keys.chunks(500) {
        shard.ok(txn(chunk.iter().map(|key| put(key, b"")).collect()));
    }
    let before = shard.pairs.clone();
    let detail = shard.refused(txn(vec![put(b"zz", b""), delete(b"\0", b"zz")])).detail.unwrap();
    assert_eq!(detail.code(), ErrorCode::LimitExceeded);
    assert_eq!(
        (detail.limit.as_str(), detail.limit_value, detail.actual_value),
        ("txn_deleted_keys_max", 10_000, 10_001)
    );
    assert_eq!(shard.pairs, before, "a refusal changes nothing");
    shard.ok(txn(vec![delete(&keys[0], &keys[TXN_DELETED_KEYS_MAX])]));
    assert_eq!(shard.count(b"", b"", 0), Ok(1));
}

#[test]
fn answers_are_bounded() {
    let mut shard = Shard::default();
    let value = vec![1; PAGE_BYTES_MAX / 4];
    for key in [b"a", b"b", b"c", b"d"] {
        shard.ok(txn(vec![put(key, &value)]));
    }
    let (key, range_end) = (Bytes::from_static(b"a"), Bytes::from_static(b"z"));
    let wanted = DeleteRange { key: key.clone(), range_end: range_end.clone(), previous: true };
    let detail = shard.refused(txn(vec![operation(OperationKind::Delete(wanted))])).detail.unwrap();
    assert_eq!((detail.code(), detail.limit.as_str()), (ErrorCode::LimitExceeded, "page_bytes_max"));
    let range = operation(OperationKind::Range(Range { key, range_end, ..Range::default() }));
    let result = shard.ok(txn(vec![range.clone(), range]));
    let pages: Vec<_> = result
        .results
        .into_iter()
        .map(|result| match result.kind {
            Some(OperationResultKind::Range(range)) => (range.records.len(), range.count, range.more),
            other => panic!("expected a range, got {other:?}"),
        })
        .collect();
    assert_eq!(pages, [(3, 4, true), (0, 4, true)], "both pages share the bytes of one");
    let put = Put { key: Bytes::from_static(b"a"), previous: true, ..Put::default() };
    let result = shard.ok(txn(vec![operation(OperationKind::Put(put))]));
    let Some(OperationResultKind::Put(put)) = result.results[0].kind.clone() else { panic!("expected a put") };
    assert_eq!(put.previous.unwrap().value.len(), value.len());
}

#[test]
fn a_page_ends_at_its_limits_and_holds_one_record_at_least() {
    let mut shard = Shard::default();
    let large = vec![1; PAGE_BYTES_MAX + 1];
    let half = vec![1; PAGE_BYTES_MAX / 2];
    for (key, value) in [(b"a", &half), (b"b", &large), (b"c", &half)] {
        shard.ok(txn(vec![put(key, value)]));
    }
    let page = |start: &'static [u8], keys_only| {
        let page = shard.scan(Scan { start: Bytes::from_static(start), keys_only, ..Scan::default() }).unwrap();
        (page.records.into_iter().map(|record| record.key).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(b"", false), (vec![Bytes::from_static(b"a")], true));
    assert_eq!(page(b"b", false), (vec![Bytes::from_static(b"b")], true));
    assert_eq!(page(b"c", false), (vec![Bytes::from_static(b"c")], false));
    assert_eq!(page(b"", true).0.len(), 3, "keys alone are small");
    for chunk in 0..=10u8 {
        for part in 0..10u8 {
            shard.ok(txn((0..100).map(|key| put(&[b'x', chunk, part, key], b"")).collect()));
        }
    }
    let records = |limit| {
        let start = Bytes::from_static(b"x");
        shard.scan(Scan { start, limit, keys_only: true, ..Scan::default() }).unwrap().records.len()
    };
    assert_eq!((records(0), records(7), records(u32::MAX)), (PAGE_RECORDS_DEFAULT, 7, PAGE_RECORDS_MAX));
}

#[test]
fn the_digest_shows_every_difference_but_those_of_the_log() {
    let mut shard = Shard::default();
    let empty = digest(&shard.pairs).unwrap();
    shard.ok(txn(vec![put(b"k", b"v")]));
    let before = digest(&shard.pairs).unwrap();
    assert_ne!(before, empty);
    shard.pairs.0.insert(Bytes::from_static(&[0, 1]), Bytes::from_static(b"applied"));
    assert_eq!(digest(&shard.pairs).unwrap(), before);
    for key in shard.pairs.0.keys().filter(|key| key[0] != 0).cloned().collect::<Vec<_>>() {
        let mut other = shard.pairs.clone();
        let mut value = other.0[&key].to_vec();
        value.push(0);
        other.0.insert(key.clone(), value.into());
        assert_ne!(digest(&other).unwrap(), before);
        other.0.remove(&key);
        assert_ne!(digest(&other).unwrap(), before);
    }
}

/// `docs/format.md`, by example. A change here is a change of what is on disks.
#[test]
fn the_layout_on_disk_never_changes() {
    let mut shard = Shard::default();
    let session = shard.open_session();
    shard.ok(stamped(txn(vec![put_ttl(b"a\0", b"v", 500), put(b"b", b"w")]), session, 9, 1));
    shard.ok(txn(vec![delete(b"b", b"")]));
    compact(&mut shard, 2, 1);
    let number = |last: u8| [0, 0, 0, 0, 0, 0, 0, last];
    let row = |parts: &[&[u8]]| Bytes::from(parts.concat());
    // Fields of StoredRecord: value 0a, create 10, mod 18, version 20, lease 28, sub 30.
    let expected = [
        (row(&[b"\x01a\0"]), row(&[b"\x0a\x01v\x10\x02\x18\x02\x20\x01\x28\x01"])),
        (row(&[b"\x01b"]), row(&[b"\x18\x03"])),
        (row(&[b"\x02b\0\x01", &number(2)]), row(&[b"\x0a\x01w\x10\x02\x18\x02\x20\x01\x30\x01"])),
        (row(&[b"\x03", &number(2), b"\0\0\0\0"]), row(&[b"\x01a\0"])),
        (row(&[b"\x03", &number(2), b"\0\0\0\x01"]), row(&[b"\x01b"])),
        (row(&[b"\x03", &number(3), b"\0\0\0\0"]), row(&[b"\x02b"])),
        (row(&[b"\x04", &number(1)]), row(&[b"\x08\xf4\x03\x10\xf4\x03\x18\x01"])),
        (row(&[b"\x05", &number(1), b"a\0"]), Bytes::new()),
        (row(&[b"\x06", &number(1)]), row(&[b"\x08\xe0\xd4\x03\x10\x01\x18\x09"])),
        (row(&[b"\x07", &number(1), &number(9)]), row(&[b"\x0a\x0c\x08\x01\x12\x02\x0a\0\x12\x02\x0a\0\x18\x02"])),
        (row(&[b"\x08"]), row(&[&number(1)])),
        (row(&[b"\x09\x01"]), row(&[&number(3)])),
        (row(&[b"\x09\x02"]), row(&[&number(2)])),
        (row(&[b"\x09\x03"]), row(&[&number(2)])),
        (row(&[b"\x09\x04"]), row(&[&number(1)])),
        (row(&[b"\x09\x05"]), row(&[&number(2)])),
        (row(&[b"\x09\x06"]), row(&[&number(2), b"\0\0\0\x01"])),
    ];
    assert_eq!(shard.pairs.0.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn garbage_in_the_log_is_answered_and_changes_nothing() {
    let shard = Shard::default();
    let mut state = WriteSet::new(&shard.pairs);
    for garbage in [&b"\xff\xff\xff"[..], b"", b"\x7a\x00", b"\x0a\x02\x12\x00", b"\xf8\x07\x01"] {
        let at = LogPosition { term: 1, index: 1 };
        let answer = shard.machine.apply(&mut state, at, &Bytes::copy_from_slice(garbage)).unwrap();
        let result = <CommandResult as prost::Message>::decode(answer).unwrap();
        assert!(matches!(result.kind, Some(ResultKind::Refusal(_))), "{garbage:?}");
    }
    assert!(state.into_batch(StoreId(1)).writes.is_empty());
}

#[test]
fn corrupt_state_is_an_engine_error_and_no_answer() {
    let mut shard = Shard::default();
    shard.ok(txn(vec![put(b"k", b"v")]));
    shard.pairs.0.insert(Bytes::from_static(b"\x01k"), Bytes::from_static(b"\xff"));
    let command = prost::Message::encode_to_vec(&txn(vec![put(b"k", b"w")]));
    let mut state = WriteSet::new(&shard.pairs);
    let failed = shard.machine.apply(&mut state, LogPosition { term: 1, index: 9 }, &command.into());
    assert!(failed.unwrap_err().to_string().contains("corrupt"));
}

#[test]
fn an_implicit_lease_outlives_its_key_where_the_same_transaction_gives_it_another() {
    let mut shard = Shard::default();
    shard.ok(txn(vec![put_ttl(b"a", b"v", 1_000)]));
    let lease = shard.get(b"a", 0).unwrap().unwrap().lease;
    let moved = Put { key: b"b".to_vec().into(), lease, ..Put::default() };
    shard.ok(txn(vec![delete(b"a", b""), operation(OperationKind::Put(moved))]));
    assert_eq!(shard.get(b"b", 0).unwrap().unwrap().lease, lease);
    shard.run(&[expire(&[lease])]);
    assert!(shard.get(b"b", 0).unwrap().is_none(), "it ends with its lease");
}

#[test]
fn changes_are_handed_on_with_the_views_that_show_them() {
    let mut shard = Shard::default();
    let grant = command(Kind::GrantLease(GrantLease { lease: 7, ttl_ms: 1_000 })).encode_to_vec();
    let mut state = WriteSet::new(&shard.pairs);
    shard.machine.apply(&mut state, LogPosition { term: 1, index: 1 }, &grant.into()).unwrap();
    // Who begins to follow now reads a view without it.
    shard.machine.follow_changes();
    assert!(shard.machine.take_changes().is_empty());
    drop(state);
    shard.machine.applied(&shard.pairs, LogPosition { term: 1, index: 1 });
    assert!(shard.machine.take_changes().leases.contains_key(&7));
    shard.ok(txn(vec![]));
    assert!(shard.machine.take_changes().is_empty(), "once");
}
