//! State machine safety: what one replica has applied at an index, no other applies differently, and
//! each applies every index once and in order.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed};

/// What was applied.
#[derive(Default)]
pub(crate) struct StateMachineSafety {
    groups: BTreeMap<u64, BTreeMap<u64, Decided>>,
    /// The index that each replica applies next.
    next: BTreeMap<(u64, u64), u64>,
}

struct Decided {
    term: u64,
    /// Once somebody has applied it.
    digest: Option<u64>,
}

impl StateMachineSafety {
    /// Whether this is the one entry of its index.
    fn decided(&mut self, event: &Observed, digest: Option<u64>) -> Result<u64, String> {
        let group = self.groups.entry(event.group).or_default();
        let decided = group.entry(event.index).or_insert(Decided { term: event.term, digest });
        if decided.term != event.term {
            let (index, term) = event.at();
            return Err(format!("{event}: {index} of term {term}, decided in term {}", decided.term));
        }
        match (decided.digest, digest) {
            (Some(known), Some(digest)) if known != digest => {
                Err(format!("{event}: {} is {digest:x} here and {known:x} elsewhere", event.index))
            }
            _ => {
                decided.digest = decided.digest.or(digest);
                Ok(1)
            }
        }
    }

    fn applied(&mut self, event: &Observed) -> Result<u64, String> {
        let next = self.next.entry(event.who()).or_default();
        if event.index != *next {
            return Err(format!("{event}: {} where {next} is next", event.index));
        }
        *next += 1;
        self.decided(event, Some(event.digest))
    }
}

impl Invariant for StateMachineSafety {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "opened" => {
                self.next.insert(event.who(), 0);
                Ok(0)
            }
            "restored" | "installed" => {
                self.next.insert(event.who(), event.index + 1);
                self.decided(event, None)
            }
            "committed" => self.decided(event, None),
            "applied" => self.applied(event),
            _ => Ok(0),
        }
    }
}
