//! What watches of etcd's API showed, held against what was written and against each other. Pure.
//!
//! A [`View`] judges one watch as its answers come; the [`Ledger`] judges all of them in the end.

mod chain;
mod ledger;
mod view;

pub(crate) use ledger::{Floor, Ledger};
pub(crate) use view::{Kinds, View};

/// A broken promise: the check, and what it saw.
pub(crate) type Broken = (&'static str, String);

/// A record as it was shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    /// Written once in a run.
    pub(crate) value: String,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) version: u64,
}

/// What became of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Put(Shown),
    Delete,
}

/// A change of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) what: What,
    /// The record before, if it was shown.
    pub(crate) before: Option<Shown>,
}

/// Keys from `start` to before `end`; without an end, one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Keys {
    pub(crate) start: String,
    pub(crate) end: String,
}

impl Keys {
    pub(crate) fn hold(&self, key: &str) -> bool {
        if self.end.is_empty() { self.start == key } else { *self.start <= *key && *key < *self.end }
    }
}

/// A part of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put { key: String, value: String },
    Delete(Keys),
}

/// What the writer of a transaction was told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Applied at this revision with these changes, each with the record before.
    Applied(u64, Vec<Event>),
    /// Never applied.
    Refused,
    /// Nothing: it may be applied, once.
    Nothing,
}

/// A transaction that somebody sent.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) steps: Vec<Step>,
    pub(crate) told: Told,
}

/// All records of some keys at a revision.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) keys: Keys,
    pub(crate) revision: u64,
    pub(crate) records: Vec<(String, Shown)>,
}
