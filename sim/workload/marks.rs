//! Writes that each leave a mark: a key of their own, written in the same transaction, so that in the
//! end exactly which ones were applied is known and can be held against what their clients were told.

use std::collections::BTreeMap;

use quorate::client::{Op, Record};

use super::outcome::{Fate, text};

/// What a transaction with a mark answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    /// The shard's revision after it, which is the mark's.
    pub(super) revision: u64,
    /// The version it read of the key that it changed, if it did.
    pub(super) version: Option<u64>,
}

/// The marks of one series of writes, numbered from 0.
///
/// Invariant: a write that has not ended is [`Fate::Open`].
pub(super) struct Marks {
    prefix: String,
    fates: Vec<Fate<Told>>,
}

impl Marks {
    /// Marks are the keys `prefix` with a number.
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, fates: Vec::new() }
    }

    /// Begins a write. Returns its number.
    pub(super) fn begin(&mut self) -> usize {
        self.fates.push(Fate::Open);
        self.fates.len() - 1
    }

    /// The operation that leaves the mark.
    pub(super) fn leave(&self, number: usize, value: &str) -> Op {
        Op::put(format!("{}{number:06}", self.prefix), value.to_owned())
    }

    pub(super) fn end(&mut self, number: usize, fate: Fate<Told>) {
        self.fates[number] = fate;
    }

    /// How many have begun.
    pub(super) fn begun(&self) -> u64 {
        self.fates.len() as u64
    }

    /// How many are applied for sure.
    pub(super) fn at_least(&self) -> u64 {
        self.count(|fate| matches!(fate, Fate::Done(_) | Fate::Applied))
    }

    /// How many may be applied.
    pub(super) fn at_most(&self) -> u64 {
        self.count(|fate| !matches!(fate, Fate::Not))
    }

    fn count(&self, which: impl Fn(&Fate<Told>) -> bool) -> u64 {
        self.fates.iter().filter(|fate| which(fate)).count() as u64
    }

    /// Holds the marks that are there in the end against what was told.
    ///
    /// Returns them in the order in which they were applied.
    pub(super) fn compare<'a>(&self, records: &'a [Record]) -> Result<Vec<Mark<'a>>, (&'static str, String)> {
        let found = records.iter().filter_map(|record| {
            let number = text(&record.key).strip_prefix(&self.prefix)?.parse().ok()?;
            Some((number, record))
        });
        let found: BTreeMap<usize, &Record> = found.collect();
        if let Some((number, _)) = found.iter().find(|(number, _)| **number >= self.fates.len()) {
            return Err(("nothing unwritten is present", format!("{}{number}", self.prefix)));
        }
        for (number, fate) in self.fates.iter().enumerate() {
            self.judge(number, *fate, found.get(&number).copied())?;
        }
        let mut marks: Vec<_> =
            found.into_iter().map(|(number, record)| Mark { fate: self.fates[number], record }).collect();
        marks.sort_by_key(|mark| mark.record.mod_revision);
        Ok(marks)
    }

    fn judge(&self, number: usize, fate: Fate<Told>, found: Option<&Record>) -> Result<(), (&'static str, String)> {
        let broken = |check, what: String| {
            Err((check, format!("{}{number}: {what}; its client was told {fate:?}", self.prefix)))
        };
        let Some(record) = found else {
            return match fate {
                Fate::Done(_) | Fate::Applied => broken("no acknowledged write is lost", "it is missing".to_owned()),
                Fate::Not | Fate::Open => Ok(()),
            };
        };
        if record.version != 1 {
            return broken("exactly once", format!("applied {} times", record.version));
        }
        match fate {
            Fate::Not => broken("what is not applied never shows", format!("at revision {}", record.mod_revision)),
            Fate::Done(told) if told.revision != record.mod_revision => {
                broken("answers are those of the one application", format!("at revision {}", record.mod_revision))
            }
            Fate::Done(_) | Fate::Applied | Fate::Open => Ok(()),
        }
    }
}

/// A mark that is there.
pub(super) struct Mark<'a> {
    pub(super) fate: Fate<Told>,
    pub(super) record: &'a Record,
}
