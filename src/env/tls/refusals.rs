//! Refusals are logged once for each source and reason, not once for each time it tries again.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::time::{self, Instant};

/// Sources and reasons that are remembered.
const REMEMBERED_MAX: usize = 1_024;
/// A source that was quiet for so long is told of again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Who was refused why, of late.
#[derive(Default)]
pub struct Refusals {
    seen: Mutex<BTreeMap<(String, String), Instant>>,
}

impl Refusals {
    /// Logs a refusal, at `warn` the first time. `what` says what was refused.
    pub fn log(&self, what: &str, source: &str, why: &str) {
        if self.is_new(source, why, time::now()) {
            tracing::warn!(source, "{what}: {why} (said once, while it tries again)");
        } else {
            tracing::debug!(source, "{what}: {why}");
        }
    }

    fn is_new(&self, source: &str, why: &str, now: Instant) -> bool {
        let mut seen = self.seen.lock();
        let before = seen.insert((source.to_owned(), why.to_owned()), now);
        if seen.len() > REMEMBERED_MAX {
            let oldest = seen.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| seen.remove(&oldest));
        }
        before.is_none_or(|before| now.saturating_duration_since(before) > FORGOTTEN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_and_reason_is_new_once() {
        let (refusals, now) = (Refusals::default(), time::now());
        assert!(refusals.is_new("a", "expired", now));
        assert!(!refusals.is_new("a", "expired", now + FORGOTTEN_AFTER));
        assert!(refusals.is_new("a", "unknown", now) && refusals.is_new("b", "expired", now));
        let much_later = now + FORGOTTEN_AFTER * 2 + Duration::from_secs(1);
        assert!(refusals.is_new("a", "expired", much_later), "it has been quiet");
    }

    #[test]
    fn a_flood_of_sources_is_bounded() {
        let (refusals, now) = (Refusals::default(), time::now());
        for n in 0..REMEMBERED_MAX as u64 * 2 {
            assert!(refusals.is_new(&n.to_string(), "expired", now + Duration::from_millis(n)));
        }
        assert_eq!(refusals.seen.lock().len(), REMEMBERED_MAX);
    }
}
