//! Events for the tests of invariants.

use super::observed::{Invariant, Observed};

/// Of group 7.
pub(crate) fn event(what: &str, replica: u64, term: u64, index: u64, digest: u64) -> Observed {
    Observed { what: what.to_owned(), group: 7, replica, term, index, digest, ..Observed::default() }
}

/// A leader's vote instead of a candidate's, or a voter of the second config.
pub(crate) fn part(event: Observed) -> Observed {
    Observed { part: 1, ..event }
}

/// How many checks held, or the first that did not.
pub(crate) fn check(invariant: &mut dyn Invariant, events: &[Observed]) -> Result<u64, String> {
    events.iter().map(|event| invariant.observe(event)).sum()
}
