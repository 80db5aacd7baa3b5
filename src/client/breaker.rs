//! Leaves a node alone that could not be reached several times in a row. Pure: told the time.

use crate::env::time::Instant;
use std::time::Duration;

use super::limits::{BREAKER_FAILURES_MAX, BREAKER_OPEN_MAX, BREAKER_OPEN_MIN};

/// One node's breaker: closed, open until an instant, or half open.
///
/// Half open is an admitted probe with the next one due after `open_for`: a probe whose caller
/// went away without a result blocks nobody for ever.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    open_for: Duration,
    next_probe: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { failures: 0, open_for: BREAKER_OPEN_MIN, next_probe: None }
    }

    /// Whether a call may go to the node now; otherwise when the next probe is due.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        match self.next_probe {
            Some(at) if now < at => Err(at),
            Some(_) => {
                self.next_probe = Some(now + self.open_for);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The node answered, whatever it said.
    pub(crate) fn success(&mut self) {
        *self = Self::new();
    }

    /// The node could not be reached, or did not answer in time.
    pub(crate) fn failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < BREAKER_FAILURES_MAX {
            return;
        }
        if self.failures > BREAKER_FAILURES_MAX {
            self.open_for = (self.open_for * 2).min(BREAKER_OPEN_MAX);
        }
        self.next_probe = Some(now + self.open_for);
    }
}

#[cfg(test)]
mod tests {
    use super::{BREAKER_FAILURES_MAX, BREAKER_OPEN_MAX, BREAKER_OPEN_MIN, Breaker};
    use crate::env::time;

    #[test]
    fn opens_probes_once_and_closes() {
        let start = time::now();
        let mut breaker = Breaker::new();
        for _ in 0..BREAKER_FAILURES_MAX - 1 {
            breaker.failure(start);
            assert_eq!(breaker.admit(start), Ok(()));
        }
        breaker.failure(start);
        let due = start + BREAKER_OPEN_MIN;
        assert_eq!(breaker.admit(start), Err(due));
        assert_eq!(breaker.admit(due), Ok(()), "half open: one probe");
        assert_eq!(breaker.admit(due), Err(due + BREAKER_OPEN_MIN), "but no second one");
        breaker.failure(due);
        assert_eq!(breaker.admit(due), Err(due + BREAKER_OPEN_MIN * 2), "a failed probe doubles the wait");
        breaker.success();
        assert_eq!(breaker.admit(due), Ok(()));
        assert_eq!(breaker.admit(due), Ok(()));
    }

    #[test]
    fn the_wait_is_bounded() {
        let now = time::now();
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            breaker.failure(now);
        }
        assert_eq!(breaker.admit(now), Err(now + BREAKER_OPEN_MAX));
    }
}
