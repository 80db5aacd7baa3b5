//! Commit on a quorum: when a replica takes an entry for committed, or applies it, a majority of the
//! voters has said that it is durable in its own log.
//!
//! A disk that loses what it had promised undoes no promise here: the vote of the majority was
//! honest. What follows from it, other invariants see.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::{Invariant, Observed};
use super::replica_log::Logs;

/// Entries that are remembered, at most, per group; the oldest go first.
const ENTRIES_MAX: usize = 200_000;
/// In a set of replicas: a majority was seen.
const PROVEN: u128 = 1 << 127;

/// Who holds what.
#[derive(Default)]
pub(crate) struct CommitOnAQuorum {
    logs: Logs,
    groups: BTreeMap<u64, Group>,
}

#[derive(Default)]
struct Group {
    /// By index and term: the replicas in whose log it is durable, a bit each.
    holders: BTreeMap<(u64, u64), u128>,
    /// By index and term of the entry: the voters of each of its configs.
    members: BTreeMap<(u64, u64), BTreeMap<u64, BTreeSet<u64>>>,
    /// The entries of `members` that were applied.
    settled: BTreeSet<(u64, u64)>,
    /// The bit of each replica.
    bits: BTreeMap<u64, u128>,
    /// Entries below were forgotten.
    floor: u64,
}

impl Group {
    fn bit(&mut self, replica: u64) -> u128 {
        let number = u32::try_from(self.bits.len()).unwrap_or(u32::MAX);
        *self.bits.entry(replica).or_insert_with(|| 1u128.checked_shl(number).unwrap_or(0) & !PROVEN)
    }

    fn forget(&mut self) {
        while self.holders.len() > ENTRIES_MAX {
            if let Some(((index, _), _)) = self.holders.pop_first() {
                self.floor = index + 1;
            }
        }
    }

    fn is_quorum(&self, holders: u128, configs: &BTreeMap<u64, BTreeSet<u64>>) -> bool {
        let holds = |voter: &&u64| self.bits.get(voter).is_some_and(|bit| holders & bit != 0);
        configs.values().all(|voters| voters.iter().filter(holds).count() * 2 > voters.len())
    }
}

impl CommitOnAQuorum {
    /// The replica's log has grown on disk.
    fn durable(&mut self, event: &Observed) -> Result<(), String> {
        let before = self.logs.of(event).durable();
        self.logs.observe(event)?;
        let log = self.logs.of(event);
        let group = self.groups.entry(event.group).or_default();
        let bit = group.bit(event.replica);
        for index in before.max(group.floor)..log.durable() {
            if let Some(term) = log.term_at(index) {
                *group.holders.entry((index, term)).or_default() |= bit;
            }
        }
        group.forget();
        Ok(())
    }

    /// The replica is about to drop entries: it takes back that it holds them.
    fn truncated(&mut self, event: &Observed) -> Result<(), String> {
        let log = self.logs.of(event);
        let group = self.groups.entry(event.group).or_default();
        let bit = group.bit(event.replica);
        for index in event.index..log.next() {
            let term = log.term_at(index).unwrap_or(0);
            if let Some(holders) = group.holders.get_mut(&(index, term)) {
                *holders &= !bit;
            }
        }
        self.logs.observe(event)
    }

    /// The members that decide on the entry: those that the replica's log names last before it. A
    /// leader goes by the newest in its log, so later ones will do as well.
    fn check(&mut self, event: &Observed) -> Result<u64, String> {
        let log = self.logs.of(event);
        let group = self.groups.entry(event.group).or_default();
        if event.index < group.floor {
            return Ok(0);
        }
        let holders = group.holders.get(&event.at()).copied().unwrap_or(0);
        if holders & PROVEN != 0 {
            return Ok(1);
        }
        let named = |at: &(u64, u64)| log.covers(*at) && (!log.is_purged(at.0) || group.settled.contains(at));
        let mut before = group.members.range(..=(event.index, u64::MAX)).rev();
        let deciding = before.find(|(at, _)| named(at));
        let later = group.members.range((event.index + 1, 0)..);
        if !deciding.into_iter().chain(later).any(|(_, configs)| group.is_quorum(holders, configs)) {
            let (index, term) = event.at();
            let by: Vec<_> = group.bits.iter().filter(|(_, bit)| holders & **bit != 0).map(|(id, _)| id).collect();
            let voters = deciding.map(|(_, configs)| configs);
            return Err(format!("{event}: {index} of term {term} is durable on {by:?} of the voters {voters:?}"));
        }
        group.holders.insert(event.at(), holders | PROVEN);
        Ok(1)
    }
}

impl Invariant for CommitOnAQuorum {
    fn name(&self) -> &'static str {
        "commit on a quorum"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "voter" => {
                let group = self.groups.entry(event.group).or_default();
                group.members.entry(event.at()).or_default().entry(event.part).or_default().insert(event.digest);
                Ok(0)
            }
            "durable" => self.durable(event).map(|()| 0),
            "truncated" => self.truncated(event).map(|()| 0),
            "applied" => {
                let checked = self.check(event)?;
                let group = self.groups.entry(event.group).or_default();
                if group.members.contains_key(&event.at()) {
                    group.settled.insert(event.at());
                }
                Ok(checked)
            }
            "committed" => self.check(event),
            _ => self.logs.observe(event).map(|()| 0),
        }
    }
}
