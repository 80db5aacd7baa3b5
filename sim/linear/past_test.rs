//! Reads at revisions, and the order of revisions.

use std::collections::BTreeMap;

use crate::history::{Answer, Before, Effect, KeyHistory, Operation, Shown, When};
use crate::linear::past::{PastRead, check_reads, check_revisions};

fn put((call, returned): (u64, u64), value: u64, revision: u64) -> Operation {
    let answer = Answer { revision: Some(revision), ..Answer::default() };
    Operation { client: 1, when: When::Always, effect: Effect::Put(value), call, answer: Some((returned, answer)) }
}

fn delete((call, returned): (u64, u64), revision: Option<u64>) -> Operation {
    let answer = Answer { revision, before: Some(Before::Present(None)), ..Answer::default() };
    Operation { client: 1, when: When::Always, effect: Effect::Delete, call, answer: Some((returned, answer)) }
}

fn read(revision: u64, shown: Option<(u64, u64)>) -> PastRead {
    let shown = shown.map(|(value, modified)| Shown { value, modified: Some(modified), ..Shown::default() });
    PastRead { client: 2, revision, shown }
}

fn key(operations: &[Operation]) -> KeyHistory {
    KeyHistory { operations: operations.to_vec(), ..KeyHistory::default() }
}

#[track_caller]
fn bad(history: &KeyHistory, reads: &[PastRead], says: &str) {
    let why = check_reads(history, reads).unwrap_err();
    assert!(why.contains(says), "{why}");
}

#[test]
fn a_read_at_a_revision_shows_what_was_current_then() {
    let history = key(&[put((1, 2), 7, 2), put((3, 4), 8, 5), delete((5, 6), Some(6)), put((7, 8), 9, 9)]);
    let shown = [read(1, None), read(4, Some((7, 2))), read(5, Some((8, 5))), read(8, None), read(99, Some((9, 9)))];
    assert_eq!(check_reads(&history, &shown), Ok(5));
    bad(&history, &[read(5, Some((7, 2)))], "overwritten with 8 at revision 5");
    bad(&history, &[read(8, Some((8, 5)))], "deleted at revision 6");
    bad(&history, &[read(4, Some((8, 5)))], "from the future");
    bad(&history, &[read(5, None)], "8 was put at revision 5");
    bad(&history, &[read(4, Some((7, 3)))], "7 was written at revision 2");
    bad(&history, &[read(4, Some((70, 3)))], "nobody wrote 70");
}

#[test]
fn a_delete_of_unknown_revision_explains_an_absence_but_no_gap_in_a_life() {
    let history = key(&[put((1, 2), 7, 2), delete((3, 4), None)]);
    assert_eq!(check_reads(&history, &[read(5, None), read(4, Some((7, 2)))]), Ok(2));
    bad(&history, &[read(4, None), read(5, Some((7, 2)))], "was shown nothing at revision 4");
    let history = key(&[put((1, 2), 7, 2), delete((3, 4), None), put((5, 6), 8, 9)]);
    assert_eq!(check_reads(&history, &[read(8, None)]), Ok(1));
    bad(&history, &[read(9, None)], "8 was put at revision 9");
    bad(&history, &[read(12, None)], "8 was put at revision 9");
}

#[test]
fn an_answer_with_its_revision_is_a_read_too() {
    let shown = Shown { value: 7, modified: Some(2), ..Shown::default() };
    let seen = |revision| {
        let before = Some(Before::Present(Some(shown)));
        let answer = Answer { revision: Some(revision), before, ..Answer::default() };
        Operation { client: 3, when: When::Always, effect: Effect::Nothing, call: 1, answer: Some((9, answer)) }
    };
    let writes = [put((1, 2), 7, 2), put((3, 4), 8, 5)];
    assert_eq!(check_reads(&key(&[writes[0], writes[1], seen(4)]), &[]), Ok(1));
    bad(&key(&[writes[0], writes[1], seen(5)]), &[], "overwritten with 8 at revision 5");
}

#[test]
fn revisions_rise_over_all_keys() {
    let keys = |one: &[Operation], other: &[Operation]| {
        BTreeMap::from([("a".to_owned(), key(one)), ("b".to_owned(), key(other))])
    };
    assert_eq!(check_revisions(&keys(&[put((1, 2), 7, 2)], &[put((3, 4), 8, 3)])), Ok(2));
    assert_eq!(check_revisions(&keys(&[put((1, 3), 7, 3)], &[put((2, 4), 8, 2)])), Ok(2), "concurrent");
    let why = check_revisions(&keys(&[put((1, 2), 7, 4)], &[put((3, 4), 8, 3)])).unwrap_err();
    assert!(why.contains("went back"), "{why}");
    let why = check_revisions(&keys(&[put((1, 3), 7, 4)], &[put((2, 4), 8, 4)])).unwrap_err();
    assert!(why.contains("two changes at one revision"), "{why}");
    // One call that changed both.
    assert_eq!(check_revisions(&keys(&[put((1, 3), 7, 4)], &[put((1, 3), 8, 4)])), Ok(2));
}
