//! Histories made by hand, good and bad.

use crate::history::{Answer, Before, Effect, History, KeyHistory, Operation, Shown, When};
use crate::linear::{Verdict, check};

const STEPS: u64 = 1_000_000;

fn operation(client: u64, (call, returned): (u64, u64), when: When, effect: Effect, answer: Answer) -> Operation {
    Operation { client, when, effect, call, answer: Some((returned, answer)) }
}

fn put(client: u64, times: (u64, u64), value: u64) -> Operation {
    operation(client, times, When::Always, Effect::Put(value), Answer::default())
}

fn delete(client: u64, times: (u64, u64), existed: bool) -> Operation {
    let before = Some(if existed { Before::Present(None) } else { Before::Absent });
    operation(client, times, When::Always, Effect::Delete, Answer { before, ..Answer::default() })
}

fn swap(client: u64, times: (u64, u64), when: When, value: u64, held: bool) -> Operation {
    operation(client, times, when, Effect::Put(value), Answer { held: Some(held), ..Answer::default() })
}

/// A read of a value, of 0 nothing.
fn get(client: u64, times: (u64, u64), value: u64) -> Operation {
    let shown = Shown { value, ..Shown::default() };
    let before = Some(if value == 0 { Before::Absent } else { Before::Present(Some(shown)) });
    operation(client, times, When::Always, Effect::Nothing, Answer { before, ..Answer::default() })
}

fn get_version(client: u64, times: (u64, u64), value: u64, version: u64) -> Operation {
    let shown = Shown { value, version: Some(version), ..Shown::default() };
    let before = Some(Before::Present(Some(shown)));
    operation(client, times, When::Always, Effect::Nothing, Answer { before, ..Answer::default() })
}

fn at(revision: u64, mut operation: Operation) -> Operation {
    if let Some((_, answer)) = &mut operation.answer {
        answer.revision = Some(revision);
    }
    operation
}

fn open(mut operation: Operation) -> Operation {
    operation.answer = None;
    operation
}

fn verdict(operations: &[Operation]) -> Verdict {
    let history = KeyHistory { operations: operations.to_vec(), ..KeyHistory::default() };
    check(&history, STEPS, &mut || false)
}

#[track_caller]
fn good(operations: &[Operation]) {
    assert_eq!(verdict(operations), Verdict::Ok);
}

/// Bad, with an explanation that says so.
#[track_caller]
fn bad(operations: &[Operation], says: &str) {
    let Verdict::Violation(why) = verdict(operations) else { panic!("it passed") };
    assert!(why.contains(says), "{why}");
}

#[test]
fn nothing_and_one_thing_after_the_other() {
    good(&[]);
    good(&[get(1, (1, 2), 0), put(1, (3, 4), 7), get(1, (5, 6), 7), delete(1, (7, 8), true), get(1, (9, 10), 0)]);
}

#[test]
fn concurrent_operations_take_either_order() {
    good(&[put(1, (1, 10), 7), get(2, (2, 3), 0), get(2, (4, 5), 7)]);
    good(&[put(1, (1, 10), 7), put(2, (2, 9), 8), get(3, (11, 12), 7)]);
    good(&[put(1, (1, 10), 7), put(2, (2, 9), 8), get(3, (11, 12), 8)]);
}

#[test]
fn a_stale_read_is_found() {
    bad(
        &[put(1, (1, 2), 7), put(1, (3, 4), 8), get(2, (5, 6), 7)],
        "[5..6] client 2: read -> there was 7: the key has another value",
    );
    bad(&[put(1, (1, 10), 7), get(2, (2, 3), 7), get(2, (4, 5), 0)], "the key exists");
    bad(&[put(1, (1, 2), 7), delete(1, (3, 4), true), get(2, (5, 6), 7)], "the key is missing");
}

#[test]
fn a_lost_update_is_found() {
    bad(&[put(1, (1, 2), 7), get(2, (3, 4), 0)], "the key exists");
    bad(&[put(1, (1, 2), 7), delete(2, (3, 4), false)], "the key exists");
}

#[test]
fn a_read_from_the_future_is_found() {
    bad(&[get(2, (1, 2), 7), put(1, (3, 4), 7)], "the key is missing");
    bad(&[get(2, (1, 2), 7)], "nobody wrote 7");
}

#[test]
fn a_write_without_an_answer_may_come_at_any_time_or_never() {
    let lost = open(put(1, (1, 0), 7));
    good(&[lost, get(2, (2, 3), 0)]);
    good(&[lost, get(2, (2, 3), 0), get(2, (4, 5), 0), put(2, (6, 7), 8), get(2, (8, 9), 8), get(2, (10, 11), 7)]);
    bad(&[lost, get(2, (2, 3), 7), get(2, (4, 5), 0)], "the key exists");
    bad(&[lost, get(2, (2, 3), 7), put(2, (4, 5), 8), get(2, (6, 7), 7)], "the key has another value");
    bad(&[open(put(1, (4, 0), 7)), get(2, (2, 3), 7)], "the key is missing");
}

#[test]
fn of_two_swaps_on_the_same_value_one_fails() {
    let first = [put(1, (1, 2), 7), swap(1, (3, 8), When::Value(7), 8, true)];
    good(&[first[0], first[1], swap(2, (4, 9), When::Value(7), 9, false)]);
    bad(&[first[0], first[1], swap(2, (4, 9), When::Value(7), 9, true)], "its condition does not hold");
    bad(&[put(1, (1, 2), 7), swap(1, (3, 4), When::Value(7), 8, false)], "its condition holds");
    bad(
        &[swap(1, (1, 8), When::Exists(false), 8, true), swap(2, (2, 9), When::Exists(false), 9, true)],
        "its condition",
    );
}

#[test]
fn versions_count_the_changes_of_a_life() {
    good(&[put(1, (1, 2), 7), put(1, (3, 4), 8), get_version(1, (5, 6), 8, 2)]);
    good(&[put(1, (1, 2), 7), delete(1, (3, 4), true), put(1, (5, 6), 8), get_version(1, (7, 8), 8, 1)]);
    bad(&[put(1, (1, 2), 7), put(1, (3, 4), 8), get_version(1, (5, 6), 8, 3)], "the key has another version");
    good(&[put(1, (1, 2), 7), swap(1, (3, 4), When::Version(1), 8, true), swap(1, (5, 6), When::Version(1), 9, false)]);
    // A change in between that nobody saw otherwise.
    let unseen = open(put(2, (1, 0), 9));
    good(&[unseen, put(1, (2, 3), 7), put(1, (4, 5), 8), get_version(1, (6, 7), 8, 3)]);
    bad(&[unseen, put(1, (2, 3), 7), put(1, (4, 5), 8), get_version(1, (6, 7), 8, 4)], "version");
}

#[test]
fn revisions_order_what_time_does_not() {
    let writes = [at(3, put(1, (1, 10), 7)), at(2, put(2, (2, 9), 8))];
    good(&[writes[0], writes[1], get(3, (11, 12), 7)]);
    bad(&[writes[0], writes[1], get(3, (11, 12), 8)], "the key has another value");
    bad(&[at(3, put(1, (1, 2), 7)), at(3, put(1, (3, 4), 8))], "its revision 3 is below 4");
    good(&[at(3, put(1, (1, 2), 7)), at(3, delete(2, (3, 4), true))].map(|operation| match operation.effect {
        Effect::Delete => at(4, operation),
        Effect::Put(_) | Effect::Nothing => operation,
    }));
}

#[test]
fn a_swap_on_a_revision_is_one_on_the_value_that_it_wrote() {
    let writes = [at(2, put(1, (1, 2), 7)), at(3, put(1, (3, 4), 8))];
    good(&[writes[0], writes[1], swap(2, (5, 6), When::Modified(3), 9, true)]);
    good(&[writes[0], writes[1], swap(2, (5, 6), When::Modified(2), 9, false)]);
    bad(&[writes[0], writes[1], swap(2, (5, 6), When::Modified(2), 9, true)], "its condition does not hold");
    good(&[swap(2, (5, 6), When::Modified(0), 9, true)]);
}

#[test]
fn a_write_that_happened_twice_is_found() {
    let shown = |modified| Shown { value: 7, modified: Some(modified), ..Shown::default() };
    let seen = |times, modified| {
        let before = Some(Before::Present(Some(shown(modified))));
        operation(2, times, When::Always, Effect::Nothing, Answer { before, ..Answer::default() })
    };
    good(&[at(2, put(1, (1, 2), 7)), seen((3, 4), 2), seen((5, 6), 2)]);
    bad(&[at(2, put(1, (1, 2), 7)), seen((3, 4), 3)], "7 was written at revision 2 in one answer, 3 in another");
}

#[test]
fn a_refused_write_must_not_be_seen() {
    let mut history = History::default();
    let call = history.tick();
    let called = history.call("k", 1, When::Always, Effect::Put(7), call);
    history.refuse(&called);
    let call = history.tick();
    let read = history.call("k", 2, When::Always, Effect::Nothing, call);
    let time = history.tick();
    let shown = Shown { value: 7, ..Shown::default() };
    history.answer(&read, time, Answer { before: Some(Before::Present(Some(shown))), ..Answer::default() });
    let Verdict::Violation(why) = check(&history.by_key()["k"], STEPS, &mut || false) else { panic!("it passed") };
    assert!(why.contains("nobody wrote 7") && why.contains("not applied"), "{why}");
}

#[test]
fn too_few_steps_or_too_little_time_are_no_verdict() {
    let puts = (1..=5_000).map(|at| put(1, (2 * at, 2 * at + 1), at)).collect();
    let history = KeyHistory { operations: puts, ..KeyHistory::default() };
    assert_eq!(check(&history, 1_000, &mut || false), Verdict::Unknown);
    assert_eq!(check(&history, u64::MAX, &mut || true), Verdict::Unknown);
    assert_eq!(check(&history, STEPS, &mut || false), Verdict::Ok);
}

#[test]
fn many_lost_writes_are_no_reason_to_give_up() {
    let lost = (1..=40).map(|client| open(put(client, (client, 0), client)));
    let deletes = (1..=40).map(|client| open(delete(client, (40 + client, 0), false)));
    let mut operations: Vec<_> = lost.chain(deletes).collect();
    operations.push(put(100, (100, 101), 100));
    operations.push(get_version(100, (102, 103), 100, 41));
    good(&operations);
    operations.push(get_version(100, (104, 105), 100, 42));
    bad(&operations, "100 was version 41 in one answer, 42 in another");
    operations.pop();
    operations.pop();
    operations.push(get_version(100, (102, 103), 100, 42));
    bad(&operations, "the key has another version");
}
