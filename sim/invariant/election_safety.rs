//! Election safety: a term has at most one leader, and a replica votes once a term, also across
//! restarts.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed};

/// Votes and leaders so far.
#[derive(Default)]
pub(crate) struct ElectionSafety {
    /// By group and term.
    leaders: BTreeMap<(u64, u64), u64>,
    voters: BTreeMap<(u64, u64), Voter>,
}

/// What one replica voted.
#[derive(Default)]
struct Voter {
    /// By term: for whom it voted, as its own disk says.
    saved: BTreeMap<u64, u64>,
    /// By term: whose leadership it has accepted. That needs no vote, and ends the voting.
    follows: BTreeMap<u64, u64>,
    /// By term: who counted on its vote. Losing the disk undoes none of it.
    counted: BTreeMap<u64, u64>,
    /// The last vote on its disk: term, whether a leader's.
    last: (u64, u64),
}

impl Voter {
    fn voted(&mut self, event: &Observed) -> Result<u64, String> {
        let (term, candidate) = (event.term, event.digest);
        self.last = self.last.max((term, event.part));
        if let Some(leader) = self.follows.get(&term).filter(|leader| **leader != candidate) {
            return Err(format!("{event} for {candidate} in term {term}, which {leader} leads"));
        }
        let chosen = if event.part == 1 { &mut self.follows } else { &mut self.saved };
        once(chosen, event)
    }

    /// The vote that was on the disk at a start. One that is older than the last counts as forgotten:
    /// whether such a replica may take part is not judged here.
    fn remembers(&mut self, event: &Observed) {
        if (event.term, event.part) < self.last {
            self.saved.clear();
            self.follows.clear();
            self.last = (event.term, event.part);
        }
    }
}

fn once(chosen: &mut BTreeMap<u64, u64>, event: &Observed) -> Result<u64, String> {
    let before = *chosen.entry(event.term).or_insert(event.digest);
    if before == event.digest {
        return Ok(1);
    }
    Err(format!("{event} for {} in term {}, and for {before} before", event.digest, event.term))
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "leads" => {
                let first = *self.leaders.entry((event.group, event.term)).or_insert(event.replica);
                if first != event.replica {
                    return Err(format!("{event} in term {}, which replica {first} has led", event.term));
                }
                Ok(1)
            }
            "voted" => self.voters.entry(event.who()).or_default().voted(event),
            "granted" => once(&mut self.voters.entry(event.who()).or_default().counted, event),
            "remembers" => {
                self.voters.entry(event.who()).or_default().remembers(event);
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}
