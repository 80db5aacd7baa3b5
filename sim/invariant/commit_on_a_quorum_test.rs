use super::commit_on_a_quorum::CommitOnAQuorum;
use super::observed::Observed;
use super::test_events::{check, event, part};

fn run(events: &[&[Observed]]) -> Result<u64, String> {
    check(&mut CommitOnAQuorum::default(), &events.concat())
}

fn durable(replica: u64, index: u64) -> Observed {
    event("durable", replica, 0, index, 0)
}

fn committed(replica: u64, term: u64, index: u64) -> Observed {
    event("committed", replica, term, index, 0)
}

fn appended(replica: u64, term: u64, index: u64) -> Observed {
    event("appended", replica, term, index, 0)
}

/// Voters 1, 2, 3 in entry 0; entry 1 is in all logs and durable nowhere.
fn begun() -> Vec<Observed> {
    let mut events: Vec<_> = (1..=3).map(|voter| event("voter", 1, 0, 0, voter)).collect();
    events.extend((1..=3).flat_map(|replica| [appended(replica, 0, 0), appended(replica, 1, 1)]));
    events
}

#[test]
fn a_majority_of_the_voters_holds_what_is_committed() {
    assert_eq!(run(&[&begun(), &[durable(1, 1), durable(3, 1), committed(1, 1, 1), committed(2, 1, 1)]]), Ok(2));
    assert!(run(&[&begun(), &[durable(1, 1), committed(1, 1, 1)]]).is_err());
    assert!(run(&[&begun(), &[durable(1, 1), durable(2, 0), event("applied", 1, 1, 1, 0)]]).is_err());
    assert!(run(&[&begun(), &[durable(1, 1), durable(4, 1), committed(1, 1, 1)]]).is_err(), "4 has no vote");
}

#[test]
fn another_entry_at_the_same_index_does_not_count() {
    let replaced = [event("truncated", 2, 0, 1, 0), appended(2, 2, 1), durable(2, 1)];
    assert!(run(&[&begun(), &[durable(1, 1)], &replaced, &[committed(1, 1, 1)]]).is_err());
    assert!(run(&[&begun(), &[durable(1, 1), durable(2, 1)], &replaced, &[committed(1, 1, 1)]]).is_err());
    assert_eq!(run(&[&begun(), &[durable(1, 1), durable(3, 1)], &replaced, &[committed(1, 1, 1)]]), Ok(1));
}

#[test]
fn what_a_disk_has_lost_since_was_held() {
    let lost = [event("opened", 3, 0, 0, 0), event("holds", 3, 0, 0, 0), durable(3, 0)];
    assert_eq!(run(&[&begun(), &[durable(1, 1), durable(3, 1)], &lost, &[committed(1, 1, 1)]]), Ok(1));
}

#[test]
fn two_configs_need_a_majority_each() {
    // Entry 1 of term 1 names voters 1, 2, 3 and 3, 4, 5.
    let mut joint = begun();
    joint.extend((1..=3).map(|voter| event("voter", 1, 1, 1, voter)));
    joint.extend((3..=5).map(|voter| part(event("voter", 1, 1, 1, voter))));
    joint.extend([appended(4, 0, 0), appended(4, 1, 1)]);
    assert!(run(&[&joint, &[durable(1, 1), durable(2, 1), committed(1, 1, 1)]]).is_err());
    assert!(run(&[&joint, &[durable(1, 1), durable(2, 1), durable(3, 1), committed(1, 1, 1)]]).is_err());
    assert_eq!(run(&[&joint, &[durable(1, 1), durable(3, 1), durable(4, 1), committed(1, 1, 1)]]), Ok(1));
    assert_eq!(run(&[&joint, &[durable(1, 1), durable(2, 1), committed(1, 0, 0)]]), Ok(1), "decided before");
}
