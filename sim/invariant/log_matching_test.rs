use super::log_matching::LogMatching;
use super::observed::Observed;
use super::test_events::{check, event};

fn appended(replica: u64, term: u64, index: u64, digest: u64) -> Observed {
    event("appended", replica, term, index, digest)
}

fn run(events: &[Observed]) -> Result<u64, String> {
    check(&mut LogMatching::default(), events)
}

#[test]
fn same_entries_hold_the_same() {
    let first = [appended(1, 1, 0, 10), appended(1, 1, 1, 11), appended(2, 1, 0, 10)];
    assert_eq!(run(&[&first[..], &[appended(2, 1, 1, 11)]].concat()), Ok(4));
    assert!(run(&[&first[..], &[appended(2, 1, 1, 12)]].concat()).is_err());
    assert_eq!(run(&[&first[..], &[appended(2, 2, 1, 12)]].concat()), Ok(4), "another term, another entry");
    assert_eq!(run(&[&first[..], &[event("applied", 2, 1, 1, 11)]].concat()), Ok(4));
    assert!(run(&[&first[..], &[event("applied", 2, 1, 1, 12)]].concat()).is_err());
}

#[test]
fn same_entries_follow_the_same() {
    let first = [appended(1, 1, 0, 10), appended(1, 3, 1, 11), appended(2, 2, 0, 20)];
    assert!(run(&[&first[..], &[appended(2, 3, 1, 11)]].concat()).is_err());
    let repaired = [event("truncated", 2, 0, 0, 0), appended(2, 1, 0, 10), appended(2, 3, 1, 11)];
    assert_eq!(run(&[&first[..], &repaired].concat()), Ok(5));
}

#[test]
fn terms_do_not_fall_in_a_log() {
    assert!(run(&[appended(1, 3, 0, 10), appended(1, 2, 1, 11)]).is_err());
}
