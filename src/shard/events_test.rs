//! Pages of changes.

use bytes::Bytes;

use super::testing::{Shard, command, delete, put, txn};
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::shard_read::{Events, Kind as ReadKind};
use crate::proto::internal::v1::shard_read_result::{Events as Page, Kind as ResultKind};
use crate::proto::internal::v1::{Compact, ShardRead};
use crate::proto::v1::{ErrorCode, KeyRange, event};
use crate::types::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX};

fn read(shard: &Shard, events: Events) -> Result<Page, ErrorCode> {
    let result = super::read::execute(&shard.pairs, &ShardRead { kind: Some(ReadKind::Events(events)) }).unwrap();
    match result.kind {
        Some(ResultKind::Events(page)) => Ok(page),
        Some(ResultKind::Refusal(refusal)) => Err(refusal.detail.unwrap().code()),
        other => panic!("{other:?}"),
    }
}

/// A page with all parts of the revision that it ends within, as a node reads it.
fn whole(shard: &Shard, mut events: Events) -> Page {
    let mut page = read(shard, events.clone()).unwrap();
    while page.next_sub > 0 {
        (events.from_revision, events.from_sub, events.previous) = (page.next_revision, page.next_sub, false);
        let part = read(shard, events.clone()).unwrap();
        page.events.extend(part.events);
        (page.next_revision, page.next_sub) = (part.next_revision, part.next_sub);
    }
    page
}

/// The events as `+key=value@revision` and `-key@revision`, with what they replaced.
fn words(page: &Page) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let word = |event: &crate::proto::v1::Event| {
        let record = event.record.as_ref().unwrap();
        let (key, revision) = (text(&record.key), record.mod_revision);
        let was = event.previous.as_ref().map(|was| format!(" was {}", text(&was.value))).unwrap_or_default();
        match event.kind() {
            event::Kind::Put => format!("+{key}={}@{revision}{was}", text(&record.value)),
            event::Kind::Delete | event::Kind::Unspecified => format!("-{key}@{revision}{was}"),
        }
    };
    page.events.iter().map(word).collect()
}

fn filled() -> Shard {
    let mut shard = Shard::default();
    shard.ok(txn(vec![put(b"a", b"1"), put(b"b", b"1")]));
    shard.ok(txn(vec![put(b"a", b"2")]));
    shard.ok(txn(vec![delete(b"a", b""), put(b"c", b"1")]));
    shard.ok(txn(vec![put(b"a", b"3")]));
    shard
}

#[test]
fn changes_come_in_order_with_what_was_written_then() {
    let shard = filled();
    let from = |from_revision| Events { from_revision, previous: true, ..Events::default() };
    let page = read(&shard, from(1)).unwrap();
    assert_eq!(words(&page), ["+a=1@2", "+b=1@2", "+a=2@3 was 1", "-a@4 was 2", "+c=1@4", "+a=3@5"]);
    assert_eq!(page.next_revision, 6);
    assert_eq!(words(&read(&shard, from(4)).unwrap()), ["-a@4 was 2", "+c=1@4", "+a=3@5"]);
    let ahead = read(&shard, from(9)).unwrap();
    assert_eq!((words(&ahead).len(), ahead.next_revision), (0, 9), "what is to come is waited for");
    assert_eq!(read(&shard, from(0)), Err(ErrorCode::InvalidArgument));
}

#[test]
fn a_page_ends_between_two_revisions_only_and_the_next_goes_on_there() {
    let shard = filled();
    let (mut from, mut seen, mut pages) = (1, Vec::new(), 0);
    while from < 6 {
        let page = read(&shard, Events { from_revision: from, limit: 1, ..Events::default() }).unwrap();
        assert!(page.next_revision > from);
        let revisions: Vec<_> = page.events.iter().map(|event| event.record.as_ref().unwrap().mod_revision).collect();
        assert!(revisions.iter().all(|revision| *revision < page.next_revision));
        seen.extend(words(&page));
        from = page.next_revision;
        pages += 1;
    }
    assert_eq!(seen, ["+a=1@2", "+b=1@2", "+a=2@3", "-a@4", "+c=1@4", "+a=3@5"]);
    assert_eq!(pages, 4);
}

#[test]
fn what_was_replaced_is_left_out_of_no_page_for_what_came_before_it() {
    let mut shard = Shard::default();
    let value = |byte: u8| vec![byte; PAGE_BYTES_MAX / 8];
    // With what it replaced each revision takes three quarters of a page, and the one in between is alone in its.
    for byte in 1..8 {
        shard.ok(txn(vec![put(b"a", &value(byte)), put(b"b", &value(byte)), put(b"c", &value(byte))]));
    }
    for revision in [9, 10] {
        let keys: Vec<[u8; 2]> = (0..7).map(|key| [b'k', key]).collect();
        assert_eq!(shard.ok(txn(keys.iter().map(|key| put(key, &value(9))).collect())).revision, revision);
    }
    let (mut from, mut pages) = (3, Vec::new());
    while from < 11 {
        let page = whole(&shard, Events { from_revision: from, previous: true, ..Events::default() });
        let revisions: Vec<_> = page.events.iter().map(|event| event.record.as_ref().unwrap().mod_revision).collect();
        let before = page.events.iter().filter(|event| event.previous.is_some()).count();
        pages.push((revisions[0], revisions[revisions.len() - 1], revisions.len(), before));
        from = page.next_revision;
    }
    let one = |revision| (revision, revision, 3, 3);
    // The first of the large ones is new; of the second as much is shown as an answer can hold.
    let expected = [one(3), one(4), one(5), one(6), one(7), one(8), (9, 9, 7, 0), (10, 10, 7, 3)];
    assert_eq!(pages, expected);
}

#[test]
fn a_revision_that_is_larger_than_a_page_comes_in_parts_and_alone() {
    let mut shard = Shard::default();
    let keys: Vec<Vec<u8>> =
        (0..1_100_u16).map(|key| [&key.to_be_bytes()[..], &[b'k'; KEY_BYTES_MAX - 2]].concat()).collect();
    for chunk in keys.chunks(100) {
        shard.ok(txn(chunk.iter().map(|key| put(key, b"v")).collect()));
    }
    assert_eq!(shard.ok(txn(vec![put(b"\xffz", b"1")])).revision, 13);
    assert_eq!(shard.ok(txn(vec![delete(&keys[0], b"\xff")])).revision, 14);
    assert_eq!(shard.ok(txn(vec![put(b"\xffz", b"2")])).revision, 15);
    let before = read(&shard, Events { from_revision: 13, ..Events::default() }).unwrap();
    assert_eq!((words(&before), before.next_revision, before.next_sub), (vec!["+\u{fffd}z=1@13".to_owned()], 14, 0));
    let (mut from, mut parts) = (Events { from_revision: 14, ..Events::default() }, Vec::new());
    loop {
        let part = read(&shard, from.clone()).unwrap();
        assert!(part.events.iter().all(|event| event.record.as_ref().unwrap().mod_revision == 14));
        parts.push((part.events.len(), part.next_revision));
        (from.from_revision, from.from_sub) = (part.next_revision, part.next_sub);
        if part.next_sub == 0 {
            break;
        }
    }
    assert_eq!(parts, [(512, 14), (512, 14), (76, 15)]);
    let ahead = read(&shard, Events { from_revision: 16, from_sub: 7, ..Events::default() }).unwrap();
    assert_eq!((ahead.next_revision, ahead.next_sub), (16, 7), "a replica that lags does not say that this is all");
    let range = |key: &[u8]| vec![KeyRange { key: Bytes::copy_from_slice(key), range_end: Bytes::new() }];
    let last = whole(&shard, Events { from_revision: 14, ranges: range(&keys[1_099]), ..Events::default() });
    assert_eq!((last.events.len(), last.next_revision, last.next_sub), (1, 16, 0));
}

#[test]
fn only_keys_of_interest_show_and_what_was_compacted_is_refused() {
    let mut shard = filled();
    let range = |key: &'static [u8], end: &'static [u8]| KeyRange {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(end),
    };
    let of = |from_revision, ranges| Events { from_revision, ranges, ..Events::default() };
    let page = read(&shard, of(1, vec![range(b"b", b"d")])).unwrap();
    assert_eq!((words(&page), page.next_revision), (vec!["+b=1@2".to_owned(), "+c=1@4".to_owned()], 6));
    let two = read(&shard, of(1, vec![range(b"b", b""), range(b"c", b"\0")])).unwrap();
    assert_eq!(words(&two), ["+b=1@2", "+c=1@4"]);
    shard.one(command(Kind::Compact(Compact { revision: 4, step_max: 100, anew: false })));
    assert_eq!(read(&shard, of(3, Vec::new())), Err(ErrorCode::Compacted));
    let left = read(&shard, Events { previous: true, ..of(4, Vec::new()) }).unwrap();
    assert_eq!(words(&left), ["-a@4", "+c=1@4", "+a=3@5"], "what the compacted revision replaced is gone");
}
