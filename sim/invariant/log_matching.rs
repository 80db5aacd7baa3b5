//! Log matching: logs that hold an entry of the same index and term hold the same in it and in all
//! before it. Each entry is compared with its predecessor's term, the rest follows by induction.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed};
use super::replica_log::Logs;

/// Entries that are remembered, at most, per group; the oldest go first.
const ENTRIES_MAX: usize = 200_000;

/// Every entry that was ever in a log.
#[derive(Default)]
pub(crate) struct LogMatching {
    logs: Logs,
    groups: BTreeMap<u64, BTreeMap<(u64, u64), Entry>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    digest: u64,
    /// Term of the entry before; `None` for the first of all.
    before: Option<u64>,
}

impl LogMatching {
    fn appended(&mut self, event: &Observed) -> Result<u64, String> {
        let log = self.logs.of(event);
        let before = event.index.checked_sub(1).and_then(|before| log.term_at(before));
        self.logs.observe(event)?;
        if before > Some(event.term) {
            return Err(format!("{event}: term {} at {} follows term {before:?}", event.term, event.index));
        }
        let entry = Entry { digest: event.digest, before };
        let entries = self.groups.entry(event.group).or_default();
        let known = *entries.entry(event.at()).or_insert(entry);
        if known != entry {
            let (index, term) = event.at();
            return Err(format!("{event}: {entry:x?} at {index} of term {term}, elsewhere {known:x?}"));
        }
        if entries.len() > ENTRIES_MAX {
            entries.pop_first();
        }
        Ok(1)
    }

    /// What is applied was read back from the log.
    fn applied(&self, event: &Observed) -> Result<u64, String> {
        let known = self.groups.get(&event.group).and_then(|entries| entries.get(&event.at()));
        match known {
            Some(known) if known.digest != event.digest => {
                let (index, term) = event.at();
                Err(format!("{event}: {:x} at {index} of term {term}, appended as {:x}", event.digest, known.digest))
            }
            Some(_) => Ok(1),
            None => Ok(0),
        }
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "appended" => self.appended(event),
            "applied" => self.applied(event),
            _ => self.logs.observe(event).map(|()| 0),
        }
    }
}
