use super::leader_completeness::LeaderCompleteness;
use super::observed::Observed;
use super::test_events::{check, event};

fn run(events: &[Observed]) -> Result<u64, String> {
    check(&mut LeaderCompleteness::default(), events)
}

fn leads(replica: u64, term: u64) -> Observed {
    event("leads", replica, term, 0, 0)
}

/// Replica 1 leads term 1 and has committed entry 1; replica 2 has it, replica 3 has not.
fn begun() -> Vec<Observed> {
    let appended = |replica, index| event("appended", replica, 1, index, 0);
    let mut events = vec![event("voted", 1, 1, 0, 1), leads(1, 1)];
    events.extend([appended(1, 0), appended(1, 1), appended(2, 0), appended(2, 1), appended(3, 0)]);
    events.push(event("committed", 1, 1, 1, 0));
    events
}

#[test]
fn a_leader_has_what_was_committed_before() {
    assert_eq!(run(&[begun(), vec![leads(2, 2)]].concat()), Ok(1));
    assert!(run(&[begun(), vec![leads(3, 2)]].concat()).is_err());
    let lost = vec![event("truncated", 2, 0, 1, 0), leads(2, 2)];
    assert!(run(&[begun(), lost].concat()).is_err());
    let other = vec![event("truncated", 2, 0, 1, 0), event("appended", 2, 2, 1, 0), leads(2, 3)];
    assert!(run(&[begun(), other].concat()).is_err(), "another entry at its place");
    let purged = vec![event("purged", 3, 1, 1, 0), leads(3, 2)];
    assert_eq!(run(&[begun(), purged].concat()), Ok(1), "its state has it");
}

#[test]
fn a_leader_of_an_older_term_need_not_have_it() {
    let later = vec![event("voted", 2, 5, 0, 2), event("committed", 2, 1, 1, 0)];
    assert_eq!(run(&[later.clone(), vec![leads(3, 4)]].concat()), Ok(0));
    assert!(run(&[later, vec![leads(3, 6)]].concat()).is_err());
}
