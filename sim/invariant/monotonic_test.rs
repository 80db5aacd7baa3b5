use super::monotonic::Monotonic;
use super::observed::{Invariant, Observed, Sample};
use super::test_events::{check, event, part};

/// Of the metadata group, whose replicas live on the nodes of the same number.
fn run(events: &[Observed], robbed: bool) -> Result<u64, String> {
    let mut monotonic = Monotonic::default();
    let events: Vec<_> = events.iter().map(|event| Observed { group: 1, ..event.clone() }).collect();
    check(&mut monotonic, &events)?;
    monotonic.sample(&Sample { nodes: Vec::new(), robbed: robbed.then_some(3).into_iter().collect() })
}

fn of(what: &str, term: u64, index: u64, digest: u64) -> Observed {
    event(what, 3, term, index, digest)
}

/// Entries 0 and 1 of term 4 are durable and counted on, and a vote for 2 in term 4.
fn begun() -> Vec<Observed> {
    let started = [of("opened", 0, 0, 0), of("started", 0, 0, 0)];
    let entries = [of("appended", 4, 0, 0), of("appended", 4, 1, 0), of("durable", 0, 1, 0)];
    let counted = [of("granted", 4, 0, 2), of("acknowledged", 4, 1, 0)];
    [&started[..], &[of("voted", 4, 0, 2)], &entries, &counted].concat()
}

fn again(last: u64, term: u64) -> Vec<Observed> {
    let log = [of("opened", 0, 0, 0), of("holds", 4, last, 0), of("durable", 0, last, 0)];
    [&log[..], &[of("remembers", term, 0, 2), of("started", 0, 0, 0)]].concat()
}

#[test]
fn within_a_start_nothing_falls() {
    assert!(run(&[begun(), vec![of("voted", 5, 0, 1), part(of("voted", 5, 0, 1))]].concat(), false).is_ok());
    assert!(run(&[begun(), vec![of("voted", 3, 0, 1)]].concat(), false).is_err());
    for what in ["committed", "applied"] {
        assert!(run(&[begun(), vec![of(what, 4, 1, 0), of(what, 4, 0, 0)]].concat(), false).is_err());
        let restart = [vec![of(what, 4, 1, 0)], again(1, 4), vec![of(what, 4, 0, 0)]].concat();
        assert!(run(&[begun(), restart].concat(), false).is_ok());
    }
}

#[test]
fn what_is_not_durable_is_not_acknowledged() {
    let early = vec![of("appended", 4, 2, 0), of("acknowledged", 4, 2, 0)];
    assert!(run(&[begun(), early].concat(), false).is_err());
    let of_before = vec![of("truncated", 0, 1, 0), of("acknowledged", 4, 1, 0)];
    assert!(run(&[begun(), of_before].concat(), false).is_ok());
}

#[test]
fn a_sound_disk_keeps_what_was_durable() {
    assert!(run(&[begun(), again(1, 4)].concat(), false).is_ok());
    assert!(run(&[begun(), again(0, 4)].concat(), false).is_err());
    assert!(run(&[begun(), again(1, 3)].concat(), false).is_err());
    assert!(run(&[begun(), vec![of("appended", 4, 2, 0)], again(1, 4)].concat(), false).is_ok(), "not durable");
}

#[test]
fn an_older_disk_takes_no_part() {
    for (last, term) in [(0, 4), (1, 3)] {
        let older = [begun(), again(last, term)].concat();
        assert_eq!(run(&older, true), Ok(1), "merely opened");
        let follows = vec![of("appended", 5, last + 1, 0), of("durable", 0, last + 1, 0)];
        let acknowledged = vec![of("acknowledged", 5, last + 1, 0)];
        assert!(run(&[older.clone(), follows.clone()].concat(), true).is_ok(), "nobody listens");
        assert!(run(&[older.clone(), follows, acknowledged].concat(), true).is_err());
        assert!(run(&[older.clone(), vec![of("leads", 5, 0, 0)]].concat(), true).is_err());
        assert!(run(&[older, vec![of("voted", 5, 0, 1), of("granted", 5, 0, 1)]].concat(), true).is_err());
    }
}

#[test]
fn an_answer_of_an_earlier_start_may_be_counted_late() {
    let late = vec![of("acknowledged", 4, 0, 0), of("granted", 4, 0, 2)];
    assert!(run(&[begun(), again(0, 3), late].concat(), true).is_ok());
}

#[test]
fn a_robbed_disk_on_which_nobody_counts_may_go_on() {
    let not_counted: Vec<_> = begun().into_iter().filter(|event| event.what != "acknowledged").collect();
    let goes_on = vec![of("appended", 4, 1, 0), of("durable", 0, 1, 0), of("acknowledged", 4, 1, 0)];
    assert!(run(&[not_counted, again(0, 4), goes_on].concat(), true).is_ok());
}
