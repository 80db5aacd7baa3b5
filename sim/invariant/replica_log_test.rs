use super::replica_log::{Logs, ReplicaLog};
use super::test_events::event;

fn log(events: &[(&str, u64, u64)]) -> ReplicaLog {
    let mut log = ReplicaLog::default();
    for (what, term, index) in events {
        log.observe(&event(what, 1, *term, *index, 0)).unwrap();
    }
    log
}

const FIVE: [(&str, u64, u64); 6] =
    [("appended", 0, 0), ("appended", 1, 1), ("appended", 1, 2), ("appended", 3, 3), ("appended", 3, 4), ("x", 9, 9)];

#[test]
fn entries_come_and_go() {
    let log = log(&[&FIVE[..], &[("durable", 0, 3), ("truncated", 0, 3), ("appended", 4, 3)]].concat());
    let terms: Vec<_> = (0..5).map(|index| log.term_at(index)).collect();
    assert_eq!(terms, [Some(0), Some(1), Some(1), Some(4), None]);
    assert_eq!((log.next(), log.durable(), log.last_durable()), (4, 3, Some((2, 1))));
    assert!(log.covers((3, 4)) && !log.covers((3, 3)) && !log.covers((4, 4)));
}

#[test]
fn purged_entries_count_as_covered_and_a_purge_may_go_beyond_the_log() {
    let cut = log(&[&FIVE[..], &[("purged", 1, 2)]].concat());
    assert_eq!((cut.term_at(1), cut.term_at(2), cut.term_at(3)), (None, Some(1), Some(3)));
    assert!(cut.covers((1, 77)) && !cut.covers((2, 77)) && cut.covers((4, 3)));
    let within = log(&[&FIVE[..], &[("purged", 3, 3)]].concat());
    assert_eq!((within.term_at(3), within.term_at(4), within.next()), (Some(3), Some(3), 5));
    let beyond = log(&[&FIVE[..], &[("purged", 8, 20), ("appended", 8, 21)]].concat());
    assert_eq!((beyond.term_at(4), beyond.term_at(20), beyond.term_at(21)), (None, Some(8), Some(8)));
    assert_eq!(beyond.durable(), 21);
}

#[test]
fn an_opened_log_is_what_the_disk_held() {
    let log = log(&[&FIVE[..], &[("opened", 0, 0), ("purged", 1, 1), ("holds", 1, 2), ("durable", 0, 2)]].concat());
    assert_eq!((log.next(), log.durable(), log.term_at(2), log.term_at(3)), (3, 3, Some(1), None));
}

#[test]
fn a_gap_is_refused() {
    let mut logs = Logs::default();
    logs.observe(&event("appended", 1, 1, 0, 0)).unwrap();
    assert!(logs.observe(&event("appended", 1, 1, 2, 0)).is_err());
}
