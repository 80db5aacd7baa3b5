use super::election_safety::ElectionSafety;
use super::observed::Observed;
use super::test_events::{check, event, part};

fn run(events: &[Observed]) -> Result<u64, String> {
    check(&mut ElectionSafety::default(), events)
}

fn voted(replica: u64, term: u64, candidate: u64) -> Observed {
    event("voted", replica, term, 0, candidate)
}

#[test]
fn one_leader_a_term() {
    let leads = |replica, term| event("leads", replica, term, 0, 0);
    assert_eq!(run(&[leads(1, 1), leads(2, 2), leads(1, 3), leads(1, 3)]), Ok(4));
    let other_group = Observed { group: 8, ..leads(2, 1) };
    assert_eq!(run(&[leads(1, 1), other_group]), Ok(2));
    assert!(run(&[leads(1, 1), leads(2, 2), leads(2, 1)]).is_err());
}

#[test]
fn one_vote_a_term_also_after_a_restart() {
    let opened = event("opened", 1, 0, 0, 0);
    assert_eq!(run(&[voted(1, 1, 2), voted(1, 2, 3), voted(2, 1, 1)]), Ok(3));
    assert!(run(&[voted(1, 1, 2), voted(1, 1, 3)]).is_err());
    assert!(run(&[voted(1, 1, 2), opened, event("remembers", 1, 1, 0, 2), voted(1, 1, 3)]).is_err());
}

#[test]
fn who_follows_has_not_voted_but_votes_no_more() {
    assert_eq!(run(&[voted(1, 1, 2), part(voted(1, 1, 3)), part(voted(1, 1, 3))]), Ok(3));
    assert!(run(&[part(voted(1, 1, 3)), voted(1, 1, 2)]).is_err());
    assert!(run(&[part(voted(1, 1, 3)), part(voted(1, 1, 2))]).is_err());
}

#[test]
fn a_forgotten_vote_counts_when_it_was_counted() {
    let granted = |candidate| event("granted", 1, 5, 0, candidate);
    let forgets = [voted(1, 5, 2), granted(2), event("remembers", 1, 4, 0, 2), voted(1, 5, 3)];
    assert!(run(&forgets).is_ok(), "nobody has counted the second");
    assert!(run(&[&forgets[..], &[granted(3)]].concat()).is_err());
}
