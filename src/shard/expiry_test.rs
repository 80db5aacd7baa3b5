//! Leases and sessions under a clock that the test turns.

use std::time::Duration;

use proptest::prelude::*;

use super::Expiry;
use super::changes::{Changes, LeaseTerms, SessionTerms};
use super::expiry::{CHECKPOINT_STEP_MAX, CHECKPOINT_STEP_MIN, EXPIRY_RETRY};
use super::testing::{Shard, command, delete, put_ttl, stamped, txn};
use crate::env::time::{self, Instant};
use crate::proto::internal::v1::shard_command::Kind;
use crate::proto::internal::v1::{OpenSession, ShardCommand};
use crate::types::limits::EXPIRY_BATCH_MAX;

const MS: Duration = Duration::from_millis(1);

fn kinds(due: &[ShardCommand]) -> impl Iterator<Item = &Kind> {
    due.iter().map(|command| command.kind.as_ref().unwrap())
}

fn expired(due: &[ShardCommand]) -> Vec<u64> {
    let leases =
        kinds(due).filter_map(|kind| if let Kind::ExpireLeases(expire) = kind { Some(&expire.leases) } else { None });
    leases.flatten().copied().collect()
}

fn checkpointed(due: &[ShardCommand]) -> Vec<(u64, u64)> {
    let leases = kinds(due)
        .filter_map(|kind| if let Kind::CheckpointLeases(leases) = kind { Some(&leases.leases) } else { None });
    leases.flatten().map(|entry| (entry.lease, entry.remaining_ms)).collect()
}

fn closed(due: &[ShardCommand]) -> Vec<(u64, u64)> {
    let sessions =
        kinds(due).filter_map(|kind| if let Kind::CloseSessions(close) = kind { Some(&close.sessions) } else { None });
    sessions.flatten().map(|entry| (entry.session_id, entry.seen_sequence)).collect()
}

fn granted(id: u64, ttl_ms: u64) -> Changes {
    let terms = LeaseTerms { ttl_ms, remaining_ms: ttl_ms, serial: 1 };
    Changes { leases: [(id, Some(terms))].into(), ..Changes::default() }
}

#[test]
fn a_lease_ends_on_time_and_is_proposed_again_only_after_a_while() {
    let now = time::now();
    let mut expiry = Expiry::load(&Shard::default().pairs, now).unwrap();
    assert_eq!(expiry.wake_at(), None);
    assert!(!expiry.learn(&granted(1, 500), now));
    assert_eq!(expiry.wake_at(), Some(now + 500 * MS));
    assert!(expiry.due(now + 499 * MS, true).is_empty());
    assert_eq!(expired(&expiry.due(now + 500 * MS, true)), [1]);
    assert!(expiry.due(now + 501 * MS, true).is_empty());
    let again = now + 500 * MS + EXPIRY_RETRY;
    assert_eq!(expiry.wake_at(), Some(again));
    assert_eq!(expired(&expiry.due(again, true)), [1]);
    assert!(!expiry.learn(&Changes { leases: [(1, None)].into(), ..Changes::default() }, again));
    assert_eq!(expiry.wake_at(), None);
}

#[test]
fn what_was_loaded_does_not_begin_again_when_the_feed_repeats_it() {
    let mut shard = Shard::default();
    shard.machine.follow_changes();
    shard.ok(txn(vec![put_ttl(b"k", b"v", 500)]));
    let now = time::now();
    let mut expiry = Expiry::load(&shard.pairs, now).unwrap();
    assert!(!expiry.learn(&shard.machine.take_changes(), now + 300 * MS));
    assert_eq!(expired(&expiry.due(now + 500 * MS, true)), [1]);
}

#[test]
fn a_new_leader_goes_on_from_the_checkpoint() {
    let mut shard = Shard::default();
    let hour_ms = 3_600_000;
    shard.ok(txn(vec![put_ttl(b"k", b"v", hour_ms)]));
    let mut now = time::now();
    let mut expiry = Expiry::load(&shard.pairs, now).unwrap();
    assert_eq!(expiry.wake_at(), Some(now + CHECKPOINT_STEP_MAX));
    for _ in 0..3 {
        now = expiry.wake_at().unwrap();
        shard.run(&expiry.due(now, true));
    }
    let left = Duration::from_millis(hour_ms) - 3 * CHECKPOINT_STEP_MAX;
    now += CHECKPOINT_STEP_MAX / 2;
    let mut next = Expiry::load(&shard.pairs, now).unwrap();
    assert!(expired(&next.due(now + left - MS, true)).is_empty());
    assert_eq!(expired(&next.due(now + left, true)), [1]);
}

#[test]
fn checkpoints_come_by_quarters_of_a_life_and_never_for_short_ones() {
    let now = time::now();
    let mut expiry = Expiry::default();
    let short = CHECKPOINT_STEP_MIN;
    assert!(!expiry.learn(&granted(1, u64::try_from(short.as_millis()).unwrap()), now));
    assert!(!expiry.learn(&granted(2, 100_000), now));
    assert!(expiry.due(now + short - MS, true).is_empty());
    assert_eq!(expired(&expiry.due(now + short, true)), [1]);
    assert_eq!(checkpointed(&expiry.due(now + 25_000 * MS, true)), [(2, 75_000)]);
    assert!(checkpointed(&expiry.due(now + 49_999 * MS, true)).is_empty());
    assert_eq!(checkpointed(&expiry.due(now + 51_000 * MS, true)), [(2, 49_000)]);
}

#[test]
fn batches_are_bounded_and_the_rest_is_due_at_once() {
    let now = time::now();
    let mut expiry = Expiry::default();
    for id in 1..=EXPIRY_BATCH_MAX as u64 + 1 {
        assert!(!expiry.learn(&granted(id, 10), now));
        let terms = SessionTerms { ttl_ms: 10, highest: 0 };
        assert!(!expiry.learn(&Changes { sessions: [(id, Some(terms))].into(), ..Changes::default() }, now));
    }
    let then = now + 10 * MS;
    let due = expiry.due(then, true);
    assert_eq!((expired(&due).len(), closed(&due).len()), (EXPIRY_BATCH_MAX, EXPIRY_BATCH_MAX));
    assert_eq!(expiry.wake_at(), Some(then));
    let due = expiry.due(then, true);
    assert_eq!((expired(&due).len(), closed(&due).len()), (1, 1));
    assert_eq!(expiry.wake_at(), Some(then + EXPIRY_RETRY));
}

#[test]
fn a_silent_session_is_closed_and_a_written_one_lives_on() {
    let mut shard = Shard::default();
    shard.machine.follow_changes();
    let open = command(Kind::OpenSession(OpenSession { ttl_ms: 1000 }));
    shard.run(&[open.clone(), open]);
    let now = time::now();
    let mut expiry = Expiry::load(&shard.pairs, now).unwrap();
    shard.machine.take_changes();
    shard.ok(stamped(txn(vec![]), 1, 7, 7));
    assert!(!expiry.learn(&shard.machine.take_changes(), now + 900 * MS));
    let due = expiry.due(now + 1000 * MS, true);
    assert_eq!(closed(&due), [(2, 0)]);
    // A write that was on its way when the leader decided keeps the session open.
    shard.ok(stamped(txn(vec![]), 2, 1, 1));
    shard.run(&due);
    assert!(!expiry.learn(&shard.machine.take_changes(), now + 1001 * MS));
    assert_eq!(closed(&expiry.due(now + 1900 * MS, true)), [(1, 7)]);
    assert_eq!(closed(&expiry.due(now + 2001 * MS, true)), [(2, 1)]);
}

#[test]
fn lost_changes_ask_for_a_reload() {
    let lost = Changes { lost: true, ..Changes::default() };
    assert!(Expiry::default().learn(&lost, time::now()));
}

#[test]
fn absurd_times_do_not_overflow() {
    let now = time::now();
    let mut expiry = Expiry::default();
    let terms = SessionTerms { ttl_ms: u64::MAX, highest: u64::MAX };
    let changes = Changes { sessions: [(1, Some(terms))].into(), ..granted(1, u64::MAX) };
    assert!(!expiry.learn(&changes, now));
    let year = Duration::from_secs(365 * 24 * 3600);
    let due = expiry.due(now + 99 * year, true);
    assert!(expired(&due).is_empty() && closed(&due).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u64),
    Delete(u8),
    Pass(u64),
    /// Another replica becomes leader.
    Change,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..6, 1u64..120_000).prop_map(|(key, ttl)| Step::Put(key, ttl)),
        1 => (0u8..6).prop_map(Step::Delete),
        4 => (0u64..60_000).prop_map(Step::Pass),
        1 => Just(Step::Change),
    ];
    prop::collection::vec(step, 1..40)
}

/// Lets the leader act whenever it wants to until `end`.
fn pass(shard: &mut Shard, expiry: &mut Expiry, end: Instant) {
    while let Some(at) = expiry.wake_at().filter(|at| *at <= end) {
        let due = expiry.due(at, true);
        assert!(!due.is_empty(), "woken for nothing");
        shard.run(&due);
        assert!(!expiry.learn(&shard.machine.take_changes(), at));
    }
}

proptest! {
    #[test]
    fn no_key_dies_early_nor_outlives_its_time_and_what_leader_changes_add(steps in steps()) {
        let mut shard = Shard::default();
        shard.machine.follow_changes();
        let mut now = time::now();
        let mut expiry = Expiry::load(&shard.pairs, now).unwrap();
        // When each key's time is over, and when it must be gone by.
        let mut ends: std::collections::BTreeMap<u8, (Instant, Instant)> = Default::default();
        for step in steps {
            match step {
                Step::Put(key, ttl) => {
                    shard.ok(txn(vec![put_ttl(&[key], b"v", ttl)]));
                    let end = now + Duration::from_millis(ttl);
                    ends.insert(key, (end, end));
                }
                Step::Delete(key) => {
                    shard.ok(txn(vec![delete(&[key], b"")]));
                    ends.remove(&key);
                }
                Step::Pass(ms) => {
                    now += Duration::from_millis(ms);
                    pass(&mut shard, &mut expiry, now);
                }
                Step::Change => {
                    expiry = Expiry::load(&shard.pairs, now).unwrap();
                    // 120 s at most: a quarter is at most 30 s.
                    ends.values_mut().for_each(|(_, latest)| *latest += Duration::from_secs(30));
                }
            }
            assert!(!expiry.learn(&shard.machine.take_changes(), now));
            for key in 0..6 {
                let alive = shard.get(&[key], 0).unwrap().is_some();
                match ends.get(&key) {
                    Some((end, latest)) if alive => prop_assert!(now < *latest, "outlived {:?} {:?}", end, latest),
                    Some((end, _)) => prop_assert!(now >= *end, "died early"),
                    None => prop_assert!(!alive),
                }
            }
        }
    }
}

fn remaining(command: &ShardCommand) -> Vec<(u64, u64)> {
    checkpointed(std::slice::from_ref(command))
}

#[test]
fn a_renewed_lease_begins_anew_and_its_whole_life_is_put_on_record_if_less_is() {
    let now = time::now();
    let mut expiry = Expiry::default();
    assert!(!expiry.learn(&granted(1, 60_000), now));
    let renewed = expiry.renew(1, now + 1_000 * MS).unwrap();
    assert_eq!((renewed.ttl, &renewed.record), (60_000 * MS, &None), "the record says so already");
    assert_eq!(expiry.time_of(1, now + 2_000 * MS), Some((60_000 * MS, 59_000 * MS)));
    // A checkpoint on its way may lower the record, whether it was applied or not.
    assert_eq!(checkpointed(&expiry.due(now + 16_000 * MS, true)), [(1, 45_000)]);
    let renewed = expiry.renew(1, now + 17_000 * MS).unwrap();
    assert_eq!(remaining(renewed.record.as_ref().unwrap()), [(1, 60_000)]);
    assert!(expiry.renew(1, now + 17_001 * MS).unwrap().record.is_some(), "until it is known to be applied");
    // Another checkpoint before that: the older confirmation says nothing of it.
    assert_eq!(checkpointed(&expiry.due(now + 33_000 * MS, true)).len(), 1);
    expiry.recorded(1, renewed.serial, renewed.reductions);
    let again = expiry.renew(1, now + 34_000 * MS).unwrap();
    assert!(again.record.is_some());
    expiry.recorded(1, again.serial, again.reductions);
    assert_eq!(expiry.renew(1, now + 35_000 * MS).unwrap().record, None);
    assert!(expired(&expiry.due(now + 94_999 * MS, true)).is_empty());
    assert_eq!(expired(&expiry.due(now + 95_000 * MS, true)), [1]);
    assert_eq!(expiry.renew(1, now + 95_000 * MS), None, "its time is over, whether its end is applied or not");
}

#[test]
fn an_id_that_is_given_again_is_another_lease() {
    let now = time::now();
    let mut expiry = Expiry::default();
    let terms = |serial| LeaseTerms { ttl_ms: 1_000, remaining_ms: 1_000, serial };
    let granted = |serial| Changes { leases: [(7, Some(terms(serial)))].into(), ..Changes::default() };
    assert!(!expiry.learn(&granted(1), now));
    let late = now + 900 * MS;
    assert!(!expiry.learn(&granted(1), late), "what is known begins no time anew");
    assert_eq!(expiry.time_of(7, late), Some((1_000 * MS, 100 * MS)));
    assert!(!expiry.learn(&granted(2), late));
    assert_eq!(expiry.time_of(7, late), Some((1_000 * MS, 1_000 * MS)));
    let due = expiry.due(late + 1_000 * MS, true);
    let Some(Kind::ExpireLeases(expire)) = &due[0].kind else { panic!("{due:?}") };
    assert_eq!((expire.leases.as_slice(), expire.serials.as_slice()), (&[7][..], &[2][..]));
}

#[test]
fn a_leader_that_loads_a_reduced_record_restores_it_with_the_first_renewal() {
    let mut shard = Shard::default();
    let grant = crate::proto::internal::v1::GrantLease { lease: 9, ttl_ms: 100_000 };
    shard.one(command(Kind::GrantLease(grant)));
    let entry = crate::proto::internal::v1::checkpoint_leases::Entry { lease: 9, remaining_ms: 30_000, serial: 1 };
    let checkpoint = crate::proto::internal::v1::CheckpointLeases { leases: vec![entry] };
    shard.one(command(Kind::CheckpointLeases(checkpoint)));
    let now = time::now();
    let mut expiry = Expiry::load(&shard.pairs, now).unwrap();
    assert_eq!(expiry.time_of(9, now), Some((100_000 * MS, 30_000 * MS)));
    assert_eq!(remaining(&expiry.renew(9, now).unwrap().record.unwrap()), [(9, 100_000)]);
}

#[test]
fn lives_are_cut_on_record_only_where_that_is_wanted_and_before_anything_else() {
    let now = time::now();
    let mut expiry = Expiry::load(&Shard::default().pairs, now).unwrap();
    assert!(!expiry.learn(&granted(1, 60_000), now));
    assert!(!expiry.learn(&granted(2, 10_000), now));
    let then = now + 15_000 * MS;
    assert!(!expiry.cuts_at(then - MS) && expiry.cuts_at(then));
    let due = expiry.due(then, false);
    assert_eq!((checkpointed(&due).len(), expired(&due)), (0, vec![2]));
    assert_eq!(expiry.wake_at(), Some(then), "it is still due");
    assert!(!expiry.learn(&granted(3, 10_000), now));
    let due = expiry.due(then, true);
    assert!(matches!(due[0].kind, Some(Kind::CheckpointLeases(_))), "{due:?}");
    assert_eq!((checkpointed(&due), expired(&due)), (vec![(1, 45_000)], vec![3]));
    assert!(!expiry.cuts_at(then));
}
