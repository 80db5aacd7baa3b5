//! What clients did to keys and were told, in the order in which it happened.
//!
//! Knows registers: keys that are put, deleted, compared and read. Times are positions in one order
//! of all calls and answers, not readings of a clock: an operation came before another one if it was
//! answered before the other was called, and nothing else is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A value. No two writes of a history have the same one, so a value names its write.
pub(crate) type Value = u64;

/// What an operation does to its key, if its condition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// It reads.
    Nothing,
    Put(Value),
    Delete,
}

/// A condition on the key, as the product compares it: a missing key has version and revision 0 and
/// no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    Always,
    Exists(bool),
    Value(Value),
    Version(u64),
    Modified(u64),
}

/// A record as it was shown; what was not shown is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) value: Value,
    pub(crate) version: Option<u64>,
    /// Revision that created the key in its present life.
    pub(crate) created: Option<u64>,
    /// Revision that wrote the value.
    pub(crate) modified: Option<u64>,
}

/// What an answer says of the key just before the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    Absent,
    /// It existed, with whatever was shown of it.
    Present(Option<Shown>),
}

/// What a client was told; the default is that it was done, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Answer {
    /// The shard's revision after the operation.
    pub(crate) revision: Option<u64>,
    /// Whether the condition held.
    pub(crate) held: Option<bool>,
    pub(crate) before: Option<Before>,
}

/// One operation on one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    pub(crate) client: u64,
    pub(crate) when: When,
    pub(crate) effect: Effect,
    /// When it was called.
    pub(crate) call: u64,
    /// When it was answered, and how. Without an answer it may take effect at any later time, or never.
    pub(crate) answer: Option<(u64, Answer)>,
}

/// The operations on one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHistory {
    pub(crate) operations: Vec<Operation>,
    /// Values whose write was surely not applied.
    pub(crate) refused: BTreeSet<Value>,
}

/// The operations on all keys.
#[derive(Debug, Default)]
pub(crate) struct History {
    now: u64,
    keys: BTreeMap<String, KeyHistory>,
}

/// An operation that was called and is in the history.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    key: String,
    at: usize,
}

impl Called {
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

impl History {
    /// The next moment: an even number, so that something can be put between two.
    pub(crate) fn tick(&mut self) -> u64 {
        self.now += 2;
        self.now
    }

    /// Adds an operation that is called at `call`; open until it is answered.
    pub(crate) fn call(&mut self, key: &str, client: u64, when: When, effect: Effect, call: u64) -> Called {
        let operations = &mut self.keys.entry(key.to_owned()).or_default().operations;
        operations.push(Operation { client, when, effect, call, answer: None });
        Called { key: key.to_owned(), at: operations.len() - 1 }
    }

    /// The operation was answered at `time`.
    pub(crate) fn answer(&mut self, called: &Called, time: u64, answer: Answer) {
        if let Some(operation) = self.operation(called) {
            operation.answer = Some((time, answer));
        }
    }

    /// The operation changed nothing and never will: it says nothing, and its value must not be seen.
    pub(crate) fn refuse(&mut self, called: &Called) {
        let Some(operation) = self.operation(called) else { return };
        let effect = std::mem::replace(&mut operation.effect, Effect::Nothing);
        if let (Effect::Put(value), Some(history)) = (effect, self.keys.get_mut(&called.key)) {
            history.refused.insert(value);
        }
    }

    /// The operation as it stands.
    pub(crate) fn get(&self, called: &Called) -> Option<&Operation> {
        self.keys.get(&called.key)?.operations.get(called.at)
    }

    fn operation(&mut self, called: &Called) -> Option<&mut Operation> {
        self.keys.get_mut(&called.key)?.operations.get_mut(called.at)
    }

    /// By key, without operations that say nothing: a read without an answer.
    pub(crate) fn by_key(&self) -> BTreeMap<String, KeyHistory> {
        let mut keys = self.keys.clone();
        for history in keys.values_mut() {
            history.operations.retain(|operation| operation.answer.is_some() || operation.effect != Effect::Nothing);
        }
        keys
    }
}

impl Operation {
    /// Whether it has an answer with a revision: that revision.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.answer.and_then(|(_, answer)| answer.revision)
    }

    /// When it was answered; an open one never is.
    pub(crate) fn returned(&self) -> Option<u64> {
        self.answer.map(|(time, _)| time)
    }

    /// Whether it was told that it changed the key.
    pub(crate) fn changed(&self) -> bool {
        let Some((_, answer)) = self.answer else { return false };
        let held = self.when == When::Always || answer.held == Some(true);
        match self.effect {
            Effect::Nothing => false,
            Effect::Put(_) => held,
            Effect::Delete => held && matches!(answer.before, Some(Before::Present(_))),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}..", self.call)?;
        match self.returned() {
            Some(time) => write!(f, "{time}]")?,
            None => write!(f, "open]")?,
        }
        write!(f, " client {}: ", self.client)?;
        match self.effect {
            Effect::Nothing => write!(f, "read")?,
            Effect::Put(value) => write!(f, "put {value}")?,
            Effect::Delete => write!(f, "delete")?,
        }
        match self.when {
            When::Always => {}
            When::Exists(true) => write!(f, " if it exists")?,
            When::Exists(false) => write!(f, " if it is missing")?,
            When::Value(value) => write!(f, " if it is {value}")?,
            When::Version(version) => write!(f, " if its version is {version}")?,
            When::Modified(revision) => write!(f, " if its revision is {revision}")?,
        }
        match &self.answer {
            Some((_, answer)) => write!(f, " -> {answer}"),
            None => write!(f, " -> no answer"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.map(|held| if held { "it held" } else { "it did not hold" }.to_owned());
        let before = self.before.map(|before| match before {
            Before::Absent => "there was nothing".to_owned(),
            Before::Present(None) => "there was something".to_owned(),
            Before::Present(Some(shown)) => format!("there was {shown}"),
        });
        let revision = self.revision.map(|revision| format!("revision {revision}"));
        let parts: Vec<_> = [held, before, revision].into_iter().flatten().collect();
        if parts.is_empty() { write!(f, "done") } else { write!(f, "{}", parts.join(", ")) }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)?;
        let parts = [("version", self.version), ("created at", self.created), ("written at", self.modified)];
        let parts: Vec<_> = parts.iter().filter_map(|(name, part)| part.map(|part| format!("{name} {part}"))).collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join(", ")) }
    }
}
