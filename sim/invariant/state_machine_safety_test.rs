use super::observed::Observed;
use super::state_machine_safety::StateMachineSafety;
use super::test_events::{check, event};

fn applied(replica: u64, term: u64, index: u64, digest: u64) -> Observed {
    event("applied", replica, term, index, digest)
}

fn run(events: &[Observed]) -> Result<u64, String> {
    check(&mut StateMachineSafety::default(), events)
}

#[test]
fn an_index_is_decided_once() {
    let first = [applied(1, 1, 0, 10), applied(1, 1, 1, 11), applied(2, 1, 0, 10)];
    assert_eq!(run(&[&first[..], &[applied(2, 1, 1, 11)]].concat()), Ok(4));
    assert!(run(&[&first[..], &[applied(2, 1, 1, 12)]].concat()).is_err());
    assert!(run(&[&first[..], &[applied(2, 2, 1, 11)]].concat()).is_err());
    assert!(run(&[&first[..], &[event("committed", 2, 2, 1, 0)]].concat()).is_err());
    assert!(run(&[event("committed", 2, 2, 0, 0), applied(1, 1, 0, 10)]).is_err());
    assert!(run(&[&first[..], &[event("installed", 2, 2, 1, 0)]].concat()).is_err());
}

#[test]
fn every_index_is_applied_once_and_in_order() {
    assert!(run(&[applied(1, 1, 0, 10), applied(1, 1, 2, 12)]).is_err());
    assert!(run(&[applied(1, 1, 0, 10), applied(1, 1, 0, 10)]).is_err());
    let restart = [applied(1, 1, 0, 10), applied(1, 1, 1, 11), event("opened", 1, 0, 0, 0)];
    let restored = event("restored", 1, 1, 0, 0);
    assert!(run(&[&restart[..], &[restored.clone(), applied(1, 1, 1, 11)]].concat()).is_ok());
    assert!(run(&[&restart[..], &[restored, applied(1, 1, 0, 10)]].concat()).is_err());
    assert!(run(&[&restart[..], &[applied(1, 1, 1, 11)]].concat()).is_err(), "nothing was restored");
    let jump = [event("installed", 1, 3, 40, 0), applied(1, 3, 41, 1)];
    assert!(run(&[&restart[..], &jump].concat()).is_ok());
}
