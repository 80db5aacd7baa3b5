//! Stale reads. What one shows was current at some moment since `bound` before it was called: so it is a
//! read like any other that was called so much earlier, and may take effect at any moment from then on.

use std::time::Duration;

/// Clocks of nodes run up to a fifth too slow: a node that measures the bound lets this much of it pass.
const SLOWEST: f64 = 1.25;
/// What readings of the clock may be apart.
const SLACK: Duration = Duration::from_millis(5);

/// When the calls and answers of a history happened.
#[derive(Default)]
pub(crate) struct Moments(Vec<(Duration, u64)>);

impl Moments {
    /// `place` is that of a call or an answer at `now`. Both rise.
    pub(crate) fn note(&mut self, now: Duration, place: u64) {
        self.0.push((now, place));
    }

    /// From which place on a stale read may take effect that is called at `now`: behind whatever was
    /// answered longer ago than its bound, and behind nothing else.
    pub(crate) fn earliest(&self, now: Duration, bound: Duration) -> u64 {
        let since = now.saturating_sub(bound.mul_f64(SLOWEST) + SLACK);
        let before = self.0.partition_point(|(at, _)| *at < since);
        // Places are even, so that one in between is nobody's.
        before.checked_sub(1).and_then(|last| self.0.get(last)).map_or(1, |(_, place)| place + 1)
    }
}
