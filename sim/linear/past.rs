//! What revisions promise beyond the order of one key: a read at a revision shows the key as it was
//! then, for ever; and revisions rise as changes happen, whatever key they change.

use std::collections::BTreeMap;

use super::facts::Facts;
use crate::history::{Before, Effect, KeyHistory, Operation, Shown, When};

/// A key as it was shown at a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PastRead {
    pub(crate) client: u64,
    pub(crate) revision: u64,
    pub(crate) shown: Option<Shown>,
}

/// A change of a key at a known revision: the value that it wrote, none for a delete.
type Changes = BTreeMap<u64, Option<u64>>;

/// Holds reads at revisions against what is known of a key. Returns how many were held, or which is
/// wrong.
///
/// A read of nothing is only as good as the deletes are known: one whose revision nobody was told may
/// have happened at several.
pub(crate) fn check_reads(history: &KeyHistory, reads: &[PastRead]) -> Result<u64, String> {
    let mut facts = Facts::collect(history)?;
    let mut reads = reads.to_vec();
    reads.extend(history.operations.iter().filter_map(implied));
    for read in &reads {
        let Some(shown) = &read.shown else { continue };
        facts.note(shown).map_err(|why| format!("{why}: {}", describe(read)))?;
    }
    let mut changes: Changes = facts.by_revision().into_iter().map(|(at, value)| (at, Some(value))).collect();
    let mut undated = Vec::new();
    for operation in history.operations.iter().filter(|operation| operation.effect == Effect::Delete) {
        match (has_deleted(operation), operation.revision()) {
            (Some(true), Some(revision)) => drop(changes.entry(revision).or_insert(None)),
            // It found nothing to delete.
            _ if operation.answer.is_some_and(|(_, answer)| answer.before == Some(Before::Absent)) => {}
            (Some(true) | None, _) => undated.push(Undated::new(operation, history)),
            (Some(false), _) => {}
        }
    }
    for read in &reads {
        check_read(read, &changes, &undated)?;
    }
    check_pairs(&reads)?;
    Ok(reads.len() as u64)
}

/// Whether the key was missing after a delete because of it, or before it; `None` when it may or may
/// not have happened.
fn has_deleted(operation: &Operation) -> Option<bool> {
    let (_, answer) = &operation.answer?;
    match (operation.when, answer.held) {
        (When::Always, _) | (_, Some(true)) => Some(true),
        (_, Some(false)) => Some(false),
        (_, None) => None,
    }
}

/// A delete at a revision that nobody was told: above `after`, and not above `until`.
struct Undated {
    after: u64,
    until: u64,
}

impl Undated {
    fn new(delete: &Operation, history: &KeyHistory) -> Self {
        let others = || history.operations.iter().filter_map(|other| Some((other, other.revision()?)));
        let before = others().filter(|(other, _)| other.returned().is_some_and(|returned| returned < delete.call));
        let after = others().filter(|(other, _)| delete.returned().is_some_and(|returned| returned < other.call));
        Self {
            after: before.map(|(_, revision)| revision).max().unwrap_or(0),
            until: after.map(|(_, revision)| revision).min().unwrap_or(u64::MAX),
        }
    }

    /// Whether it may have happened in between.
    fn explains(&self, put: u64, read: u64) -> bool {
        put.max(self.after) < read.min(self.until)
    }
}

/// What the answer to an operation says of its key at a revision: its own, or the one before it if it
/// changed the key.
fn implied(operation: &Operation) -> Option<PastRead> {
    let (_, answer) = &operation.answer?;
    let after = answer.revision?;
    let shown = match answer.before? {
        Before::Absent => None,
        Before::Present(Some(shown)) => Some(shown),
        Before::Present(None) => return None,
    };
    if operation.effect != Effect::Nothing && operation.when != When::Always && answer.held.is_none() {
        return None;
    }
    let revision = after.checked_sub(u64::from(operation.changed()))?;
    Some(PastRead { client: operation.client, revision, shown })
}

fn check_read(read: &PastRead, changes: &Changes, undated: &[Undated]) -> Result<(), String> {
    let last = changes.range(..=read.revision).next_back();
    match (&read.shown, last) {
        (Some(shown), _) => {
            let Some(modified) = shown.modified else { return Ok(()) };
            if modified > read.revision {
                return Err(format!("from the future: {}", describe(read)));
            }
            match last {
                Some((at, what)) if *at > modified => {
                    let what = what.map_or_else(|| "deleted".to_owned(), |value| format!("overwritten with {value}"));
                    Err(format!("the key was {what} at revision {at} already: {}", describe(read)))
                }
                _ => Ok(()),
            }
        }
        (None, Some((at, Some(value)))) if !undated.iter().any(|delete| delete.explains(*at, read.revision)) => {
            Err(format!("{value} was put at revision {at} and not deleted until then: {}", describe(read)))
        }
        (None, _) => Ok(()),
    }
}

/// A record that lived from its write to a read of it was there for every read in between.
fn check_pairs(reads: &[PastRead]) -> Result<(), String> {
    let mut lived: BTreeMap<u64, &PastRead> = BTreeMap::new();
    for read in reads {
        let Some(modified) = read.shown.and_then(|shown| shown.modified) else { continue };
        let last = lived.entry(modified).or_insert(read);
        if last.revision < read.revision {
            *last = read;
        }
    }
    for read in reads {
        let Some((from, alive)) = lived.range(..=read.revision).next_back() else { continue };
        let same = read.shown.is_some_and(|shown| shown.modified.is_none_or(|modified| modified == *from));
        if read.revision <= alive.revision && !same {
            return Err(format!("{}, but {}", describe(read), describe(alive)));
        }
    }
    Ok(())
}

fn describe(read: &PastRead) -> String {
    let shown = read.shown.map_or_else(|| "nothing".to_owned(), |shown| shown.to_string());
    format!("client {} was shown {shown} at revision {}", read.client, read.revision)
}

/// Holds the revisions of all answers in one shard against each other: what is called after an answer
/// was given happens at its revision or later, a change later, and no two changes share one. Returns
/// how many answers were held.
pub(crate) fn check_revisions(keys: &BTreeMap<String, KeyHistory>) -> Result<u64, String> {
    let mut changes: BTreeMap<u64, (&str, &Operation)> = BTreeMap::new();
    let mut events = Vec::new();
    for (key, history) in keys {
        for operation in &history.operations {
            let (Some(revision), Some(returned)) = (operation.revision(), operation.returned()) else { continue };
            events.push((operation.call, false, revision, key.as_str(), operation));
            events.push((returned, true, revision, key.as_str(), operation));
            if !operation.changed() {
                continue;
            }
            let (other_key, other) = changes.entry(revision).or_insert((key, operation));
            if (other.client, other.call) != (operation.client, operation.call) {
                return Err(format!("two changes at one revision: {other_key}: {other}; {key}: {operation}"));
            }
        }
    }
    events.sort_by_key(|(time, returned, ..)| (*time, *returned));
    let mut latest: Option<(u64, &str, &Operation)> = None;
    let mut checked = 0;
    for (_, returned, revision, key, operation) in events {
        let reached = latest.map_or(0, |(reached, ..)| reached);
        if returned {
            latest = latest.filter(|_| reached >= revision).or(Some((revision, key, operation)));
            continue;
        }
        checked += 1;
        if revision < reached + u64::from(operation.changed())
            && let Some((_, before_key, before)) = latest
        {
            return Err(format!("revisions went back: {before_key}: {before}; then {key}: {operation}"));
        }
    }
    Ok(checked)
}
