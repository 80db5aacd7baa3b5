//! How often and how soon a client may retry. Pure: told the time and the chance.
//!
//! The budget is one token bucket for all calls of a client. A call without a token waits for one
//! instead of failing, so that an election is survived by many callers without a storm.

use std::time::Duration;

use super::limits::{BACKOFF_MAX, RETRY_TOKENS_MAX, RETRY_TOKENS_PER_SECOND, RETRY_TOKENS_PER_SUCCESS};
use crate::env::time::Instant;

/// The token bucket. It may be in debt: then tokens were promised to callers who wait for them.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    tokens: f64,
    counted_at: Instant,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: RETRY_TOKENS_MAX, counted_at: now }
    }

    /// Takes a token and says how long to wait before using it; `None`, and none is taken, when
    /// that would be longer than `patience`.
    pub(crate) fn reserve(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.counted_at).as_secs_f64() * RETRY_TOKENS_PER_SECOND;
        self.tokens = (self.tokens + earned).min(RETRY_TOKENS_MAX);
        self.counted_at = self.counted_at.max(now);
        let missing = (1.0 - self.tokens).max(0.0);
        let wait = Duration::from_secs_f64(missing / RETRY_TOKENS_PER_SECOND);
        if wait > patience {
            return None;
        }
        self.tokens -= 1.0;
        Some(wait)
    }

    /// A call succeeded.
    pub(crate) fn earn(&mut self) {
        self.tokens = (self.tokens + RETRY_TOKENS_PER_SUCCESS).min(RETRY_TOKENS_MAX);
    }
}

/// The bound below which the backoff of this round is drawn: full jitter, exponential.
pub(crate) fn backoff_ceiling(base: Duration, round: u32) -> Duration {
    base.saturating_mul(1 << round.min(16)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BACKOFF_MAX, RETRY_TOKENS_MAX, RETRY_TOKENS_PER_SECOND, RetryBudget, backoff_ceiling};
    use crate::env::time;

    #[test]
    fn a_spent_budget_paces_retries() {
        let now = time::now();
        let mut budget = RetryBudget::new(now);
        let mut at_once = 0;
        while budget.reserve(now, Duration::ZERO).is_some() {
            at_once += 1;
        }
        assert_eq!(f64::from(at_once), RETRY_TOKENS_MAX);
        let step = Duration::from_secs_f64(1.0 / RETRY_TOKENS_PER_SECOND);
        assert_eq!(budget.reserve(now, Duration::from_secs(1)), Some(step));
        assert_eq!(budget.reserve(now, Duration::from_secs(1)), Some(step * 2), "each waits its turn");
        assert_eq!(budget.reserve(now, step), None, "who cannot wait takes no token");
        assert_eq!(budget.reserve(now, Duration::from_secs(1)), Some(step * 3));
        budget.earn();
        budget.earn();
        assert_eq!(budget.reserve(now, Duration::from_secs(1)), Some(step * 3), "success earns");
        assert_eq!(budget.reserve(now + Duration::from_secs(60), Duration::ZERO), Some(Duration::ZERO));
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let base = Duration::from_millis(10);
        assert_eq!(backoff_ceiling(base, 0), base);
        assert_eq!(backoff_ceiling(base, 3), base * 8);
        assert_eq!(backoff_ceiling(base, u32::MAX), BACKOFF_MAX);
    }
}
