//! One key: what each operation does to it, and which answers it may get.

use std::fmt;

use super::facts::{Facts, holds};
use super::search::Model;
use crate::history::{Answer, Before, Effect, KeyHistory, Shown, Value};

/// Stands for every value that no answer and no condition names.
const UNNAMED: Value = Value::MAX;

/// A key between two operations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct State {
    value: Option<Value>,
    /// Changes in its present life; 0 when it is missing.
    version: u64,
    /// The value that its present life began with.
    first: Option<Value>,
    /// The shard's revision is at least this: the last one that the order so far implies.
    revision: u64,
}

/// The model of one key.
pub(super) struct Register<'a> {
    pub(super) history: &'a KeyHistory,
    pub(super) facts: Facts,
}

impl Model for Register<'_> {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, operation: usize) -> Option<State> {
        self.apply(state, operation).ok()
    }

    fn alike(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.history.operations[one], &self.history.operations[other]);
        let effects_alike = match (one.effect, other.effect) {
            (Effect::Put(one), Effect::Put(other)) => !self.facts.is_named(one) && !self.facts.is_named(other),
            (one, other) => one == other,
        };
        effects_alike && one.when == other.when
    }
}

impl Register<'_> {
    /// The state after an operation, or why it cannot come next.
    pub(super) fn apply(&self, state: &State, operation: usize) -> Result<State, Misfit> {
        let operation = &self.history.operations[operation];
        let open = Answer::default();
        let answer = operation.answer.as_ref().map_or(&open, |(_, answer)| answer);
        if let Some(before) = answer.before {
            self.fits(state, before)?;
        }
        let holds = holds(operation.when, state.value, state.version, &self.facts);
        if answer.held.is_some_and(|held| held != holds) {
            return Err(if holds { Misfit::Held } else { Misfit::DidNotHold });
        }
        let mut after = *state;
        let mut told = answer.revision;
        let mut changed = false;
        if holds {
            match operation.effect {
                Effect::Nothing => {}
                Effect::Put(value) => {
                    changed = true;
                    told = told.or_else(|| self.facts.modified(value));
                    // Values that nobody saw make no difference.
                    let value = if self.facts.is_named(value) { value } else { UNNAMED };
                    after.value = Some(value);
                    after.version += 1;
                    after.first = state.first.or(Some(value));
                }
                Effect::Delete => {
                    changed = state.value.is_some();
                    after = State { revision: state.revision, ..State::default() };
                }
            }
        }
        let least = state.revision + u64::from(changed);
        if let Some(told) = told.filter(|told| *told < least) {
            return Err(Misfit::Revision { least, told });
        }
        // A guess that an open operation happened only loosens: that keeps states few.
        let untold = if operation.answer.is_some() { least } else { state.revision };
        after.revision = told.unwrap_or(untold);
        Ok(after)
    }

    fn fits(&self, state: &State, before: Before) -> Result<(), Misfit> {
        match (state.value, before) {
            (None, Before::Absent) | (Some(_), Before::Present(None)) => Ok(()),
            (None, Before::Present(_)) => Err(Misfit::Missing),
            (Some(_), Before::Absent) => Err(Misfit::Present),
            (Some(value), Before::Present(Some(shown))) => self.shows(state, value, &shown),
        }
    }

    fn shows(&self, state: &State, value: Value, shown: &Shown) -> Result<(), Misfit> {
        if shown.value != value {
            return Err(Misfit::Value);
        }
        if shown.version.is_some_and(|version| version != state.version) {
            return Err(Misfit::Version);
        }
        let created = state.first.and_then(|first| self.facts.modified(first));
        if let (Some(known), Some(told)) = (created, shown.created)
            && known != told
        {
            return Err(Misfit::Created(known));
        }
        Ok(())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(UNNAMED) => write!(f, "a value that nobody saw, version {}", self.version)?,
            Some(value) => write!(f, "{value}, version {}", self.version)?,
            None => write!(f, "missing")?,
        }
        write!(f, ", at revision {} or later", self.revision)
    }
}

/// Why an operation cannot come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misfit {
    Missing,
    Present,
    Value,
    Version,
    Created(u64),
    Held,
    DidNotHold,
    Revision { least: u64, told: u64 },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the key is missing"),
            Self::Present => write!(f, "the key exists"),
            Self::Value => write!(f, "the key has another value"),
            Self::Version => write!(f, "the key has another version"),
            Self::Created(revision) => write!(f, "the key was created at revision {revision}"),
            Self::Held => write!(f, "its condition holds"),
            Self::DidNotHold => write!(f, "its condition does not hold"),
            Self::Revision { least, told } => write!(f, "its revision {told} is below {least}"),
        }
    }
}
