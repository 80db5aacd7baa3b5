//! Histories with stale reads, good and bad, made by hand.

use std::time::Duration;

use crate::history::{Answer, Before, Effect, History, Shown, When};
use crate::linear::stale::Moments;
use crate::linear::{Verdict, check};

const KEY: &str = "k";
const STEPS: u64 = 100_000;
const BOUND: Duration = Duration::from_secs(1);

/// A history on one key; each call is answered 10 ms later.
#[derive(Default)]
struct Told {
    history: History,
    moments: Moments,
}

impl Told {
    fn tick(&mut self, at_ms: u64) -> u64 {
        let place = self.history.tick();
        self.moments.note(Duration::from_millis(at_ms), place);
        place
    }

    fn put(&mut self, at_ms: u64, value: u64) {
        let place = self.tick(at_ms);
        let called = self.history.call(KEY, 1, When::Always, Effect::Put(value), place);
        let place = self.tick(at_ms + 10);
        self.history.answer(&called, place, Answer::default());
    }

    /// A read that shows a value, or nothing for 0; a stale one with a bound.
    fn get(&mut self, at_ms: u64, bound: Option<Duration>, value: u64) {
        let mut place = self.tick(at_ms);
        if let Some(bound) = bound {
            place = self.moments.earliest(Duration::from_millis(at_ms), bound);
        }
        let called = self.history.call(KEY, 2, When::Always, Effect::Nothing, place);
        let shown = Shown { value, ..Shown::default() };
        let before = Some(if value == 0 { Before::Absent } else { Before::Present(Some(shown)) });
        let place = self.tick(at_ms + 10);
        self.history.answer(&called, place, Answer { before, ..Answer::default() });
    }

    fn verdict(&self) -> Verdict {
        check(&self.history.by_key()[KEY], STEPS, &mut || false)
    }
}

/// Two writes, 7 at 1 s and 8 at 4 s, and one read.
fn read_at(at_ms: u64, bound: Option<Duration>, value: u64) -> Verdict {
    let mut told = Told::default();
    told.put(1_000, 7);
    let read_first = at_ms < 4_000;
    if read_first {
        told.get(at_ms, bound, value);
    }
    told.put(4_000, 8);
    if !read_first {
        told.get(at_ms, bound, value);
    }
    told.verdict()
}

#[test]
fn a_stale_read_shows_what_was_current_within_its_bound() {
    for (at_ms, value) in [(4_500, 8), (4_500, 7), (5_200, 7), (9_000, 8), (1_500, 0), (2_000, 0), (3_000, 7)] {
        assert_eq!(read_at(at_ms, Some(BOUND), value), Verdict::Ok, "{value} at {at_ms} ms");
    }
}

#[test]
fn a_stale_read_that_is_older_than_its_bound_is_noticed() {
    for (at_ms, value) in [(5_400, 7), (9_000, 7), (2_500, 0), (9_000, 0)] {
        let verdict = read_at(at_ms, Some(BOUND), value);
        assert!(matches!(verdict, Verdict::Violation(_)), "{value} at {at_ms} ms: {verdict:?}");
    }
}

#[test]
fn a_stale_read_shows_neither_the_future_nor_what_nobody_wrote() {
    for (at_ms, value) in [(3_000, 8), (3_000, 9)] {
        let verdict = read_at(at_ms, Some(BOUND), value);
        assert!(matches!(verdict, Verdict::Violation(_)), "{value} at {at_ms} ms: {verdict:?}");
    }
}

#[test]
fn a_follower_read_is_held_to_what_a_leader_read_is() {
    assert_eq!(read_at(4_500, None, 8), Verdict::Ok);
    for (at_ms, value) in [(4_500, 7), (1_500, 0)] {
        let verdict = read_at(at_ms, None, value);
        assert!(matches!(verdict, Verdict::Violation(_)), "{value} at {at_ms} ms: {verdict:?}");
    }
}

#[test]
fn a_stale_read_is_overtaken_by_an_older_one_but_explains_no_order_that_others_saw() {
    let mut told = Told::default();
    told.put(1_000, 7);
    told.put(2_000, 8);
    told.get(2_100, Some(BOUND), 8);
    told.get(2_200, Some(BOUND), 7);
    assert_eq!(told.verdict(), Verdict::Ok, "another replica may be behind");
    told.get(2_300, None, 7);
    assert!(matches!(told.verdict(), Verdict::Violation(_)), "but a leader is not");
}
