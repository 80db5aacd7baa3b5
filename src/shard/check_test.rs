//! Every limit at, below and beyond.

use bytes::Bytes;

use super::WriteLimits;
use super::check::{Verdict, command, read, stamp, transaction};
use super::testing::{self, compare, delete, operation, put, put_ttl, stamped, txn};
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::shard_read::{Get, Kind as ReadKind, Scan};
use crate::proto::internal::v1::{Compact, ExpireLeases, OpenSession, ShardCommand, ShardRead};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::{Compare, ErrorCode, Operation, Outcome, SessionStamp, Transaction};
use crate::types::limits::{EXPIRY_BATCH_MAX, SESSION_WINDOW, TTL_MS_MAX};

const LIMITS: WriteLimits =
    WriteLimits { key_bytes_max: 8, value_bytes_max: 16, operations_max: 4, request_bytes_max: 200 };

fn branch(success: Vec<Operation>) -> Verdict {
    transaction(&Transaction { success, ..Transaction::default() }, &LIMITS)
}

#[track_caller]
fn exceeds(verdict: Verdict, limit: &str, value: u64, actual: u64) {
    let refusal = verdict.expect_err("beyond the limit");
    let detail = refusal.detail.unwrap();
    assert_eq!((detail.limit.as_str(), detail.limit_value, detail.actual_value), (limit, value, actual));
    assert_eq!(
        (detail.code(), detail.outcome(), detail.retryable),
        (ErrorCode::LimitExceeded, Outcome::NotApplied, false)
    );
    assert!(refusal.message.contains(limit) && refusal.message.contains(": "), "{}", refusal.message);
}

#[track_caller]
fn is_invalid(verdict: Verdict, word: &str) {
    let refusal = verdict.expect_err("malformed");
    assert_eq!(refusal.detail.unwrap().code(), ErrorCode::InvalidArgument);
    assert!(refusal.message.contains(word), "{}", refusal.message);
}

#[test]
fn keys_have_one_byte_to_the_limit() {
    is_invalid(branch(vec![put(b"", b"v")]), "empty");
    is_invalid(branch(vec![delete(b"", b"x")]), "empty");
    assert!(branch(vec![put(b"1", b"v")]).is_ok());
    assert!(branch(vec![put(b"12345678", b"v")]).is_ok());
    exceeds(branch(vec![put(b"123456789", b"v")]), "key_bytes_max", 8, 9);
    exceeds(branch(vec![delete(b"123456789", b"")]), "key_bytes_max", 8, 9);
    assert!(branch(vec![delete(b"12345678", b"12345678\0")]).is_ok(), "the successor of the longest key is a bound");
    exceeds(branch(vec![delete(b"1", b"1234567890")]), "key_bytes_max", 8, 10);
    let compares = vec![compare(b"123456789", Relation::Equal, Operand::Version(0))];
    exceeds(transaction(&Transaction { compares, ..Transaction::default() }, &LIMITS), "key_bytes_max", 8, 9);
}

#[test]
fn values_may_be_empty_and_end_at_the_limit() {
    assert!(branch(vec![put(b"k", b"")]).is_ok());
    assert!(branch(vec![put(b"k", &[0; 16])]).is_ok());
    exceeds(branch(vec![put(b"k", &[0; 17])]), "value_bytes_max", 16, 17);
    let compares = vec![compare(b"k", Relation::Equal, Operand::Value(vec![0; 17].into()))];
    exceeds(transaction(&Transaction { compares, ..Transaction::default() }, &LIMITS), "value_bytes_max", 16, 17);
}

#[test]
fn each_list_of_a_transaction_is_limited() {
    let puts = |count: u8| (0..count).map(|number| put(&[b'k', number], b"")).collect::<Vec<_>>();
    assert!(branch(puts(4)).is_ok());
    exceeds(branch(puts(5)), "txn_operations_max", 4, 5);
    let failing = Transaction { failure: puts(5), ..Transaction::default() };
    exceeds(transaction(&failing, &LIMITS), "txn_operations_max", 4, 5);
    let compares = vec![compare(b"k", Relation::Equal, Operand::Version(0)); 5];
    let comparing = Transaction { compares, ..Transaction::default() };
    exceeds(transaction(&comparing, &LIMITS), "txn_operations_max", 4, 5);
    let all = Transaction { success: puts(4), failure: puts(4), ..Transaction::default() };
    assert!(transaction(&all, &LIMITS).is_ok(), "one branch may write what the other does");
}

#[test]
fn requests_end_at_the_limit() {
    let sized = |value: usize| txn(vec![put(b"k", &vec![0; value])]);
    let limits = |request_bytes_max| WriteLimits { value_bytes_max: 1000, request_bytes_max, ..LIMITS };
    let bytes = prost::Message::encoded_len(&sized(100));
    assert!(command(&sized(100), &limits(bytes)).is_ok());
    exceeds(command(&sized(100), &limits(bytes - 1)), "request_bytes_max", bytes as u64 - 1, bytes as u64);
}

#[test]
fn times_to_live_are_bounded() {
    assert!(branch(vec![put_ttl(b"k", b"", TTL_MS_MAX)]).is_ok());
    exceeds(branch(vec![put_ttl(b"k", b"", TTL_MS_MAX + 1)]), "ttl_ms_max", TTL_MS_MAX, TTL_MS_MAX + 1);
    let open = |ttl_ms| command(&testing::command(Kind::OpenSession(OpenSession { ttl_ms })), &LIMITS);
    assert!(open(0).is_ok() && open(1000).is_ok() && open(24 * 3600 * 1000).is_ok());
    is_invalid(open(999), "at least");
    exceeds(open(24 * 3600 * 1000 + 1), "session_ttl_max", 24 * 3600 * 1000, 24 * 3600 * 1000 + 1);
}

#[test]
fn a_key_is_written_once_in_a_branch() {
    let is_duplicate = |operations| {
        let refusal = branch(operations).unwrap_err();
        assert_eq!(refusal.detail.unwrap().code(), ErrorCode::DuplicateKey, "{}", refusal.message);
    };
    let nested = |success, failure| {
        let transaction = Transaction { success, failure, ..Transaction::default() };
        operation(crate::proto::v1::operation::Kind::Transaction(transaction))
    };
    is_duplicate(vec![put(b"k", b"1"), put(b"k", b"2")]);
    is_duplicate(vec![put(b"k", b"1"), delete(b"k", b"")]);
    is_duplicate(vec![delete(b"a", b"z"), put(b"k", b"1")]);
    is_duplicate(vec![delete(b"a", b"\0"), put(b"k", b"1")]);
    is_duplicate(vec![nested(vec![put(b"k", b"1")], vec![]), put(b"k", b"2")]);
    is_duplicate(vec![nested(vec![], vec![delete(b"a", b"z")]), put(b"k", b"2")]);
    is_duplicate(vec![nested(vec![put(b"k", b"1")], vec![]), nested(vec![delete(b"k", b"")], vec![])]);
    is_duplicate(vec![nested(vec![nested(vec![put(b"k", b"1"), put(b"k", b"2")], vec![])], vec![])]);
    let either = nested(vec![put(b"k", b"1")], vec![put(b"k", b"2"), delete(b"l", b"")]);
    assert!(branch(vec![either]).is_ok(), "one of the two is executed");
    assert!(branch(vec![put(b"z", b"1"), delete(b"a", b"z")]).is_ok(), "the end is exclusive");
    assert!(branch(vec![put(b"k", b"1"), delete(b"z", b"a")]).is_ok(), "an empty range holds nothing");
    assert!(branch(vec![delete(b"a", b"z"), delete(b"b", b"c")]).is_ok(), "deletes may overlap, as in etcd");
}

#[test]
fn every_part_of_a_transaction_must_be_there() {
    is_invalid(branch(vec![Operation { kind: None }]), "no kind");
    let comparing =
        |compare: Compare| transaction(&Transaction { compares: vec![compare], ..Transaction::default() }, &LIMITS);
    let good = compare(b"k", Relation::Equal, Operand::Exists(false));
    assert!(comparing(good.clone()).is_ok());
    is_invalid(comparing(Compare { operand: None, ..good.clone() }), "operand");
    is_invalid(comparing(Compare { relation: 0, ..good.clone() }), "relation");
    is_invalid(comparing(Compare { relation: 77, ..good.clone() }), "relation");
    is_invalid(comparing(Compare { key: Bytes::new(), ..good.clone() }), "empty");
    is_invalid(comparing(Compare { relation: Relation::Less.into(), ..good }), "existence");
}

#[test]
fn stamps_lie_within_the_window() {
    let check = |session_id, sequence, lowest_unacknowledged| {
        stamp(&SessionStamp { session_id, sequence, lowest_unacknowledged })
    };
    assert!(check(1, 1, 1).is_ok() && check(1, SESSION_WINDOW + 1, 1).is_ok() && check(1, u64::MAX, u64::MAX).is_ok());
    let detail = check(1, SESSION_WINDOW + 2, 1).unwrap_err().detail.unwrap();
    assert_eq!((detail.code(), detail.actual_value), (ErrorCode::SessionSequence, SESSION_WINDOW + 1));
    is_invalid(check(0, 1, 1), "session_id");
    is_invalid(check(1, 0, 1), "sequence");
    is_invalid(check(1, 1, 0), "lowest_unacknowledged");
    is_invalid(check(1, 4, 5), "below");
}

#[test]
fn other_commands_are_checked_too() {
    let none = ShardCommand { kind: None, session: None, epoch: 1 };
    is_invalid(command(&none, &LIMITS), "no kind");
    let open = testing::command(Kind::OpenSession(OpenSession::default()));
    is_invalid(command(&stamped(open, 1, 1, 1), &LIMITS), "stamp");
    assert!(command(&stamped(txn(vec![]), 1, 1, 1), &LIMITS).is_ok());
    is_invalid(command(&stamped(txn(vec![]), 0, 1, 1), &LIMITS), "session_id");
    let expire = |leases: usize| {
        let expire =
            testing::command(Kind::ExpireLeases(ExpireLeases { leases: vec![1; leases], ..Default::default() }));
        command(&expire, &WriteLimits::default())
    };
    assert!(expire(EXPIRY_BATCH_MAX).is_ok());
    exceeds(expire(EXPIRY_BATCH_MAX + 1), "expiry_batch_max", 128, 129);
    let compact = |revision, step_max| {
        command(&testing::command(Kind::Compact(Compact { revision, step_max, anew: false })), &LIMITS)
    };
    assert!(compact(1, 1).is_ok());
    is_invalid(compact(0, 1), "revision");
    is_invalid(compact(1, 0), "step");
}

#[test]
fn reads_are_checked() {
    let reading = |kind| read(&ShardRead { kind: Some(kind) }, &LIMITS);
    let get = |key: &'static [u8]| reading(ReadKind::Get(Get { key: Bytes::from_static(key), revision: 0 }));
    assert!(get(b"12345678").is_ok());
    is_invalid(get(b""), "empty");
    exceeds(get(b"123456789"), "key_bytes_max", 8, 9);
    let scan = |end: &'static [u8], limit| {
        reading(ReadKind::Scan(Scan { end: Bytes::from_static(end), limit, ..Scan::default() }))
    };
    assert!(scan(b"", 10_000).is_ok() && scan(b"123456789", 0).is_ok());
    exceeds(scan(b"", 10_001), "page_records_max", 10_000, 10_001);
    exceeds(scan(b"1234567890", 0), "key_bytes_max", 8, 10);
    is_invalid(read(&ShardRead { kind: None }, &LIMITS), "no known kind");
    let unused = operation(crate::proto::v1::operation::Kind::Range(Default::default()));
    is_invalid(branch(vec![unused]), "empty");
}
