//! What the answers say of each value of a key, before any order is looked for: its write is known,
//! and every answer that shows it must show the same record.

use std::collections::BTreeMap;

use crate::history::{Before, Effect, KeyHistory, Operation, Shown, Value, When};

/// The record that a write made, as far as anybody was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) modified: Option<u64>,
    created: Option<u64>,
    version: Option<u64>,
    /// Whether any answer or condition names the value.
    named: bool,
}

/// The records of a key by their values.
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<Value, Written>);

impl Facts {
    /// Collects them, or says which answers contradict each other whatever the order was.
    pub(super) fn collect(history: &KeyHistory) -> Result<Self, String> {
        let mut facts = Self::default();
        for operation in &history.operations {
            let Effect::Put(value) = operation.effect else { continue };
            if facts.0.insert(value, Written::default()).is_some() {
                return Err(format!("the history itself is wrong: two writes of {value}, one of them {operation}"));
            }
        }
        for operation in &history.operations {
            if let When::Value(value) = operation.when
                && let Some(written) = facts.0.get_mut(&value)
            {
                written.named = true;
            }
            facts.add(operation, history)?;
        }
        Ok(facts)
    }

    fn add(&mut self, operation: &Operation, history: &KeyHistory) -> Result<(), String> {
        let Some((_, answer)) = &operation.answer else { return Ok(()) };
        if let Some(Before::Present(Some(shown))) = answer.before {
            self.note(&shown).map_err(|why| format!("{why}: {operation}{}", refused(history, shown.value)))?;
        }
        if let (true, Effect::Put(value)) = (operation.changed(), operation.effect) {
            let shown = Shown { value, modified: answer.revision, ..Shown::default() };
            self.note(&shown).map_err(|why| format!("{why}: {operation}"))?;
        }
        Ok(())
    }

    /// Takes in what was shown of a value.
    pub(super) fn note(&mut self, shown: &Shown) -> Result<(), String> {
        let value = shown.value;
        let Some(known) = self.0.get_mut(&value) else { return Err(format!("nobody wrote {value}")) };
        known.named = true;
        for (what, known, told) in [
            ("written at revision", &mut known.modified, shown.modified),
            ("created at revision", &mut known.created, shown.created),
            ("version", &mut known.version, shown.version),
        ] {
            match (*known, told) {
                (Some(known), Some(told)) if known != told => {
                    return Err(format!("{value} was {what} {known} in one answer, {told} in another"));
                }
                (None, Some(_)) => *known = told,
                _ => {}
            }
        }
        Ok(())
    }

    /// The revision that wrote a value; `None` when nobody was told.
    pub(super) fn modified(&self, value: Value) -> Option<u64> {
        self.0.get(&value)?.modified
    }

    /// Whether any answer or condition names a value.
    pub(super) fn is_named(&self, value: Value) -> bool {
        self.0.get(&value).is_some_and(|written| written.named)
    }

    /// Values with a known revision, by it.
    pub(super) fn by_revision(&self) -> BTreeMap<u64, Value> {
        self.0.iter().filter_map(|(value, written)| Some((written.modified?, *value))).collect()
    }
}

/// A reminder for the reader when the value was reported as not applied.
fn refused(history: &KeyHistory, value: Value) -> String {
    if history.refused.contains(&value) {
        format!("; the write of {value} was reported as not applied")
    } else {
        String::new()
    }
}

/// Whether a condition holds of a key with this value and version.
pub(super) fn holds(when: When, value: Option<Value>, version: u64, facts: &Facts) -> bool {
    match when {
        When::Always => true,
        When::Exists(wanted) => value.is_some() == wanted,
        When::Value(wanted) => value == Some(wanted),
        When::Version(wanted) => version == wanted,
        When::Modified(0) => value.is_none(),
        // A revision that a condition names was shown with its value, so that of another value is
        // another one even where it is not known.
        When::Modified(wanted) => value.and_then(|value| facts.modified(value)) == Some(wanted),
    }
}
