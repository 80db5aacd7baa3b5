//! What never goes backwards: a replica's term, what it knows to be committed, what it has applied;
//! and over a restart, what it had said to be durable.
//!
//! Two measures for a restart. A disk that nobody robbed must bring back all that the replica had
//! called durable. Nothing is applied before it is durable in the replica's own log. A robbed one may come back with less, but once others have counted on what is
//! gone, such a replica must take no part any more: an older disk under the same identity.

use std::collections::BTreeMap;

use super::observed::{Invariant, Observed, Sample};
use super::replica_log::ReplicaLog;

/// All replicas.
#[derive(Default)]
pub(crate) struct Monotonic {
    replicas: BTreeMap<(u64, u64), Replica>,
}

/// A vote: term, 1 if it is a leader's, for whom. Later is greater, but for two candidates of a term.
type Vote = (u64, u64, u64);

#[derive(Default)]
struct Replica {
    log: ReplicaLog,
    vote: Option<Vote>,
    committed: Option<u64>,
    applied: Option<u64>,
    /// What it had called durable before this start: its last entry as index and term, its vote.
    before: (Option<(u64, u64)>, Option<Vote>),
    /// What others count on: the last entry, the last vote.
    counted: (Option<(u64, u64)>, Option<Vote>),
    /// What this start lacks of what others count on.
    behind: Option<String>,
    /// What this start lacks of what was durable, until it is known whether the disk was robbed.
    less: Option<String>,
    /// Reached by what was written since the start.
    written: Option<u64>,
    is_started: bool,
}

impl Replica {
    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        match event.what.as_str() {
            "opened" => self.opened(),
            "remembers" => self.vote = Some((event.term, event.part, event.digest)),
            "started" => return Ok(self.started()),
            "voted" => return self.voted(event),
            "leads" => return self.may_act(event),
            "granted" => return self.granted(event),
            "acknowledged" => return self.acknowledged(event),
            "committed" => return rises(&mut self.committed, event),
            "applied" => {
                self.may_apply(event)?;
                return rises(&mut self.applied, event);
            }
            "installed" | "restored" => return rises(&mut self.applied, event),
            "durable" if self.is_started => self.written = self.written.max(Some(event.index)),
            "truncated" => self.truncated(event),
            _ => {}
        }
        self.log.observe(event).map(|()| 0)
    }

    fn opened(&mut self) {
        self.before = (self.log.last_durable(), self.vote);
        (self.vote, self.committed, self.applied, self.written) = (None, None, None, None);
        self.is_started = false;
    }

    fn started(&mut self) -> u64 {
        self.is_started = true;
        self.less = self.lacks(self.before);
        self.behind = self.lacks(self.counted);
        1
    }

    fn lacks(&self, (entry, vote): (Option<(u64, u64)>, Option<Vote>)) -> Option<String> {
        if let Some((index, term)) = entry.filter(|entry| !self.log.covers(*entry)) {
            return Some(format!("entry {index} of term {term}; its log ends before {}", self.log.next()));
        }
        let vote = vote.filter(|vote| !self.vote.is_some_and(|here| keeps(here, *vote)));
        vote.map(|(term, _, candidate)| format!("its vote for {candidate} in term {term}; it has {:?}", self.vote))
    }

    fn voted(&mut self, event: &Observed) -> Result<u64, String> {
        let vote = (event.term, event.part, event.digest);
        match self.vote {
            Some(before) if !keeps(vote, before) => Err(format!("{event}: {vote:?} after {before:?}")),
            _ => {
                self.vote = Some(vote);
                Ok(1)
            }
        }
    }

    fn may_act(&self, event: &Observed) -> Result<u64, String> {
        match &self.behind {
            Some(lacks) => Err(format!("{event}: an older disk under the same identity, it lacks {lacks}")),
            None => Ok(1),
        }
    }

    /// Or a power cut would leave a state that is ahead of the log.
    fn may_apply(&self, event: &Observed) -> Result<(), String> {
        match event.index < self.log.durable() {
            true => Ok(()),
            false => Err(format!("{event}: {} applied, durable before {} only", event.index, self.log.durable())),
        }
    }

    /// A vote that came from an earlier start may be counted late: only one that is on this start's
    /// disk makes the replica take part.
    fn granted(&mut self, event: &Observed) -> Result<u64, String> {
        let vote = (event.term, 0, event.digest);
        let checked = if self.vote == Some(vote) { self.may_act(event)? } else { 0 };
        self.counted.1 = self.counted.1.max(Some(vote));
        Ok(checked)
    }

    /// The same for what a leader counts on. An entry that was dropped since need not be here.
    fn acknowledged(&mut self, event: &Observed) -> Result<u64, String> {
        if self.log.term_at(event.index) != Some(event.term) {
            return Ok(0);
        }
        if self.behind.is_some() {
            return if self.written >= Some(event.index) { self.may_act(event) } else { Ok(0) };
        }
        if event.index >= self.log.durable() {
            let (index, term) = event.at();
            return Err(format!("{event}: {index} of term {term}, durable before {} only", self.log.durable()));
        }
        self.counted.0 = self.counted.0.max(Some(event.at()));
        Ok(1)
    }

    /// Entries that a leader has replaced are not counted on.
    fn truncated(&mut self, event: &Observed) {
        if self.counted.0.is_some_and(|(index, _)| index >= event.index) {
            let last = event.index.checked_sub(1);
            self.counted.0 = last.and_then(|last| Some((last, self.log.term_at(last)?)));
        }
    }
}

/// Whether a disk with the vote `here` has not forgotten `there`.
fn keeps(here: Vote, there: Vote) -> bool {
    (here.0, here.1) > (there.0, there.1) || here == there
}

fn rises(known: &mut Option<u64>, event: &Observed) -> Result<u64, String> {
    if *known > Some(event.index) {
        return Err(format!("{event}: {} after {known:?}", event.index));
    }
    *known = Some(event.index);
    Ok(1)
}

impl Invariant for Monotonic {
    fn name(&self) -> &'static str {
        "nothing durable goes backwards"
    }

    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        self.replicas.entry(event.who()).or_default().observe(event)
    }

    fn sample(&mut self, sample: &Sample) -> Result<u64, String> {
        let mut held = 0;
        for ((group, id), replica) in &mut self.replicas {
            let Some(lacks) = &replica.less else { continue };
            let Some(node) = sample.home_of(*group, *id) else { continue };
            if !sample.robbed.contains(&node) {
                return Err(format!("group {group} replica {id} has started on a sound disk, and lacks {lacks}"));
            }
            replica.less = None;
            held += 1;
        }
        Ok(held)
    }
}
