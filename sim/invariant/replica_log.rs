//! A replica's log as its events tell it: which terms stand where, and how much of it is durable.

use std::collections::BTreeMap;

use super::observed::Observed;

/// One replica's log.
///
/// Invariants: `runs` is in order of index, neighbours differ in term; `durable <= next`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaLog {
    /// Index and term.
    purged: Option<(u64, u64)>,
    /// First index and term of each run of entries of one term.
    runs: Vec<(u64, u64)>,
    next: u64,
    /// Every entry below is durable.
    durable: u64,
}

impl ReplicaLog {
    /// Index after the last entry.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Index after the last durable entry.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// The term of an entry that is here, or was purged last.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if let Some((purged, term)) = self.purged
            && index <= purged
        {
            return (index == purged).then_some(term);
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        let (_, term) = *self.runs.get(after.checked_sub(1)?)?;
        (index < self.next).then_some(term)
    }

    /// Whether the entry is here, or may have been: what was purged is part of the state.
    pub(crate) fn covers(&self, (index, term): (u64, u64)) -> bool {
        match self.term_at(index) {
            Some(here) => here == term,
            None => self.is_purged(index),
        }
    }

    pub(crate) fn is_purged(&self, index: u64) -> bool {
        self.purged.is_some_and(|(purged, _)| index <= purged)
    }

    /// The last durable entry, as index and term.
    pub(crate) fn last_durable(&self) -> Option<(u64, u64)> {
        let index = self.durable.checked_sub(1)?;
        Some((index, self.term_at(index)?))
    }

    /// Takes an event in; those about other things change nothing.
    pub(crate) fn observe(&mut self, event: &Observed) -> Result<(), String> {
        match event.what.as_str() {
            "opened" => *self = Self::default(),
            "holds" => self.push_to(event.index, event.term),
            "appended" if event.index != self.next => {
                return Err(format!("{event}: entry {} does not follow {}", event.index, self.next));
            }
            "appended" => self.push_to(event.index, event.term),
            "truncated" => self.truncate(event.index),
            "purged" => self.purge(event.index, event.term),
            "durable" => self.durable = self.durable.max((event.index + 1).min(self.next)),
            _ => {}
        }
        Ok(())
    }

    fn push_to(&mut self, last: u64, term: u64) {
        if self.runs.last().is_none_or(|(_, latest)| *latest != term) {
            self.runs.push((self.next, term));
        }
        self.next = self.next.max(last + 1);
    }

    fn truncate(&mut self, next: u64) {
        let first = self.purged.map_or(0, |(purged, _)| purged + 1);
        self.next = self.next.min(next.max(first));
        while self.runs.last().is_some_and(|(first, _)| *first >= self.next) {
            self.runs.pop();
        }
        self.durable = self.durable.min(self.next);
    }

    fn purge(&mut self, upto: u64, term: u64) {
        if self.is_purged(upto) {
            return;
        }
        let kept = self.runs.partition_point(|(first, _)| *first <= upto + 1).saturating_sub(1);
        self.runs.drain(..kept);
        if self.next <= upto + 1 {
            self.runs.clear();
            self.next = upto + 1;
        } else if let Some((first, _)) = self.runs.first_mut() {
            *first = (*first).max(upto + 1);
        }
        self.durable = self.durable.max(upto + 1);
        self.purged = Some((upto, term));
    }
}

/// The logs of all replicas.
#[derive(Debug, Default)]
pub(crate) struct Logs(BTreeMap<(u64, u64), ReplicaLog>);

impl Logs {
    /// Takes an event in. Fails when an entry does not continue its log.
    pub(crate) fn observe(&mut self, event: &Observed) -> Result<(), String> {
        self.of_mut(event).observe(event)
    }

    /// The log of the replica that the event is about.
    pub(crate) fn of(&mut self, event: &Observed) -> &ReplicaLog {
        self.of_mut(event)
    }

    fn of_mut(&mut self, event: &Observed) -> &mut ReplicaLog {
        self.0.entry(event.who()).or_default()
    }
}
