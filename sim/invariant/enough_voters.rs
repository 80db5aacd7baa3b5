//! No change of members leaves a group with fewer voters than it is to have: the new one votes before
//! the old one goes, and with both in the same step.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed};

/// Every group of a run is founded with as many, and as many nodes always stay.
const VOTERS_MIN: usize = 3;

/// Voters of the entries that replicas are appending, by replica: one count for each config.
#[derive(Default)]
pub(crate) struct EnoughVoters {
    appending: BTreeMap<(u64, u64), BTreeMap<u64, usize>>,
}

impl Invariant for EnoughVoters {
    fn name(&self) -> &'static str {
        "enough voters"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "voter" => {
                *self.appending.entry(event.who()).or_default().entry(event.part).or_default() += 1;
                Ok(0)
            }
            "appended" => {
                let Some(configs) = self.appending.remove(&event.who()) else { return Ok(0) };
                match configs.values().find(|voters| **voters < VOTERS_MIN) {
                    Some(voters) => Err(format!("{event}: entry {:?} has {voters} voters", event.at())),
                    None => Ok(1),
                }
            }
            _ => Ok(0),
        }
    }
}
