//! Leader completeness: who comes to lead has every entry in its log that was committed in an
//! earlier term.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed};
use super::replica_log::Logs;

/// What was committed, in which term.
#[derive(Default)]
pub(crate) struct LeaderCompleteness {
    logs: Logs,
    /// Each replica's term, as its vote says.
    terms: BTreeMap<(u64, u64), u64>,
    /// By group and the term in which it was committed: the highest entry, as index and term.
    committed: BTreeMap<u64, BTreeMap<u64, (u64, u64)>>,
}

impl LeaderCompleteness {
    /// A follower may hear late that something is committed, so its term is an upper bound of the
    /// term in which it was; a leader's is exact, and it is the first to know.
    fn committed(&mut self, event: &Observed) {
        let term = self.terms.get(&event.who()).map_or(event.term, |term| event.term.max(*term));
        let highest = self.committed.entry(event.group).or_default().entry(term).or_insert(event.at());
        *highest = (*highest).max(event.at());
    }

    fn leads(&mut self, event: &Observed) -> Result<u64, String> {
        let log = self.logs.of(event);
        let earlier = self.committed.get(&event.group).into_iter().flat_map(|terms| terms.range(..event.term));
        let mut checked = 0;
        for (term, entry) in earlier {
            if !log.covers(*entry) {
                let (index, of) = entry;
                let has = log.term_at(*index);
                return Err(format!(
                    "{event} in term {} without entry {index} of term {of}, committed in term {term}; its log ends \
                     before {} and has {has:?} there",
                    event.term,
                    log.next()
                ));
            }
            checked += 1;
        }
        Ok(checked)
    }
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        self.logs.observe(event)?;
        match event.what.as_str() {
            "voted" | "remembers" => {
                self.terms.insert(event.who(), event.term);
                Ok(0)
            }
            "committed" => {
                self.committed(event);
                Ok(0)
            }
            "leads" => self.leads(event),
            _ => Ok(0),
        }
    }
}
