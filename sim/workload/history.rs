//! What is known of the changes of some keys, and so what each revision must show.
//!
//! Each key has one writer, which waits for an answer before its next change.

use std::collections::BTreeMap;

use quorate::client::Record;

use super::outcome::text;

/// One change of a key.
struct Change {
    /// `None` is a delete.
    value: Option<String>,
    /// Where it was applied; `None` while that is unknown, and it may be nowhere.
    revision: Option<u64>,
}

/// The changes of some keys.
#[derive(Default)]
pub(super) struct History {
    changes: BTreeMap<String, Vec<Change>>,
    /// The latest revision that was acknowledged.
    newest: u64,
}

/// What a scan showed of `keys` in order, which is all of them from `start` to before `end`.
pub(super) struct Shown {
    pub(super) revision: u64,
    pub(super) start: String,
    pub(super) end: String,
    pub(super) records: Vec<(String, u64, String)>,
}

impl Shown {
    /// Adds a record, whose key must come after the others in the order of the scan.
    pub(super) fn add(&mut self, record: &Record, reverse: bool) -> Result<(), String> {
        let key = text(&record.key);
        if let Some((before, ..)) = self.records.last()
            && (if reverse { key >= *before } else { key <= *before })
        {
            return Err(format!("{key} after {before} at {}", self.revision));
        }
        self.records.push((key, record.mod_revision, text(&record.value)));
        Ok(())
    }

    /// Only what was passed counts, for a scan that did not come to its end.
    pub(super) fn cut(&mut self, reverse: bool) {
        let Some((last, ..)) = self.records.last() else {
            self.end = self.start.clone();
            return;
        };
        match reverse {
            true => self.start = last.clone(),
            // The first key after it.
            false => self.end = format!("{last}\0"),
        }
    }
}

impl History {
    /// Begins a change. Returns its number among those of its key.
    pub(super) fn begin(&mut self, key: &str, value: Option<String>) -> usize {
        let changes = self.changes.entry(key.to_owned()).or_default();
        changes.push(Change { value, revision: None });
        changes.len() - 1
    }

    /// The change was applied there.
    pub(super) fn applied(&mut self, key: &str, number: usize, revision: u64) {
        self.newest = self.newest.max(revision);
        if let Some(change) = self.changes.get_mut(key).and_then(|changes| changes.get_mut(number)) {
            change.revision = Some(revision);
        }
    }

    /// The latest revision that was acknowledged.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether `shown` is exactly what its revision holds, as far as is known now.
    pub(super) fn judge(&self, shown: &Shown) -> Result<(), String> {
        let found: BTreeMap<&str, (u64, &str)> =
            shown.records.iter().map(|(key, revision, value)| (key.as_str(), (*revision, value.as_str()))).collect();
        if let Some(key) = found.keys().find(|key| !self.changes.contains_key(**key)) {
            return Err(format!("{key} was never written"));
        }
        for (key, changes) in self.changes.range(shown.start.clone()..shown.end.clone()) {
            let found = found.get(key.as_str()).copied();
            if let Err(why) = judge_key(changes, found, shown.revision) {
                return Err(format!("{key} at {}: {why}; found {found:?}", shown.revision));
            }
        }
        Ok(())
    }
}

fn judge_key(changes: &[Change], found: Option<(u64, &str)>, at: u64) -> Result<(), String> {
    let known = changes.iter().filter_map(|change| Some((change.revision?, change.value.as_deref())));
    let last = known.clone().filter(|(revision, _)| *revision <= at).max();
    let may_be = |value: Option<&str>| {
        changes.iter().any(|change| change.revision.is_none() && change.value.as_deref() == value)
    };
    let Some((revision, value)) = found else {
        return match last {
            Some((put_at, Some(_))) if !may_be(None) => Err(format!("missing, though put at {put_at}")),
            Some(_) | None => Ok(()),
        };
    };
    if revision > at {
        return Err(format!("from the future, {revision}"));
    }
    if let Some((last_at, _)) = last
        && revision < last_at
    {
        return Err(format!("older than the change at {last_at}"));
    }
    let is_known = known.clone().any(|change| change == (revision, Some(value)));
    if is_known || may_be(Some(value)) { Ok(()) } else { Err("such a change was never made".to_owned()) }
}
