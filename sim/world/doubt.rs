//! Machines whose disk may have lost what it promised.
//!
//! Such a disk breaks the assumption that Raft stands on, so what it takes with it must still be on a
//! majority of the others. Before the machine starts again, those are therefore up and have a leader
//! for a while: whatever was acknowledged is then committed among them, and whatever the machine
//! forgot is known to those who can refuse it. No promise holds without that, nor could one be
//! checked.
//!
//! Peers write down every five seconds how far a node's log had got. One that loses its power sooner
//! may have been the only one to know: then an operator would have to keep the old disk away, and so
//! the machine stays down.

use std::cell::Cell;

use super::World;
use super::machine::{Harm, Machine, Standing};

/// Time for which the others must have been whole.
const WHOLE_MS: u64 = 3_000;
/// Time after its start in which they have judged it.
const JUDGED_MS: u64 = 5_000;
/// Time after which peers have written down how far a log had got when its node went down.
const WRITTEN_DOWN_MS: u64 = 6_000;

/// What one machine's disk may have done.
#[derive(Default)]
pub(super) struct Doubt {
    is_doubtful: Cell<bool>,
    /// A start was asked for.
    waits: Cell<bool>,
    whole_since_ms: Cell<Option<u64>>,
    started_ms: Cell<Option<u64>>,
    /// When it last went down.
    down_ms: Cell<Option<u64>>,
    /// A peer went down at about the same time, before it can have written down how far the log had got.
    is_forgotten: Cell<bool>,
}

impl Doubt {
    /// Nobody may be left who could tell its disk from an older one.
    pub(super) fn cannot_be_judged(&self) -> bool {
        self.is_doubtful.get() && self.is_forgotten.get()
    }
}

impl World {
    /// The disk of a node may have lost what it promised, or is about to.
    pub(crate) fn doubt(&self, name: &str) {
        let doubt = &self.machines[name].doubt;
        doubt.is_doubtful.set(true);
        doubt.started_ms.set(None);
    }

    /// A node that ran goes down, and with it what it had not written down of the others.
    pub(super) fn note_down(&self, name: &str) {
        let now_ms = crate::now_ms();
        let is_recent = |doubt: &Doubt| doubt.down_ms.get().is_some_and(|down_ms| now_ms < down_ms + WRITTEN_DOWN_MS);
        let others = || self.machines.iter().filter(|(other, _)| *other != name).map(|(_, machine)| machine);
        for machine in others().filter(|machine| !machine.is_up() && is_recent(&machine.doubt)) {
            machine.doubt.is_forgotten.set(true);
        }
        let doubt = &self.machines[name].doubt;
        doubt.down_ms.set(Some(now_ms));
        doubt.is_forgotten.set(others().any(|machine| is_recent(&machine.doubt)));
    }

    /// Whether a start has to wait. It then happens by itself in time.
    pub(super) fn must_wait(&self, machine: &Machine) -> bool {
        let doubt = &machine.doubt;
        let long_enough = |since: u64| crate::now_ms() >= since + WHOLE_MS;
        let waits = doubt.is_doubtful.get() && !doubt.whole_since_ms.get().is_some_and(long_enough);
        doubt.waits.set(waits);
        if !waits {
            doubt.whole_since_ms.set(None);
            doubt.started_ms.set(doubt.is_doubtful.get().then(crate::now_ms));
        }
        waits
    }

    /// Called every millisecond: starts who waited long enough, and believes who was judged.
    pub(super) fn judge_doubtful(&mut self) {
        let now_ms = crate::now_ms();
        for (name, machine) in self.machines.clone() {
            let doubt = &machine.doubt;
            if !doubt.is_doubtful.get() {
                continue;
            }
            if machine.is_up() {
                if doubt.started_ms.get().is_some_and(|started| now_ms >= started + JUDGED_MS) {
                    doubt.is_doubtful.set(false);
                }
            } else if doubt.waits.get() {
                let since = doubt.whole_since_ms.get().filter(|_| self.others_are_whole());
                let since = since.or_else(|| self.others_are_whole().then_some(now_ms));
                doubt.whole_since_ms.set(since);
                self.start(&name);
            } else {
                doubt.whole_since_ms.set(None);
            }
        }
    }

    /// Whether all nodes that never lost anything run, reach each other and know a leader of each group.
    fn others_are_whole(&self) -> bool {
        if !self.network.is_whole() {
            return false;
        }
        let mut others = self.machines.values().filter(|machine| !machine.is_harmed(Harm::Loses));
        others.all(|machine| {
            let has_leaders = |node: &quorate::node::Node| {
                let groups = node.groups();
                !groups.is_empty() && groups.values().all(|group| group.status().leader.is_some())
            };
            *machine.standing.borrow() == Standing::Up && machine.node.borrow().as_ref().is_some_and(has_leaders)
        })
    }

    /// Up nodes of the frail minority whose disks may lose something now: those that were harmed so
    /// stay a minority of the voters of every group.
    pub(crate) fn may_lose(&self) -> Vec<String> {
        let names = self.names();
        let is_harmed = |name: &String| self.machines[name].is_harmed(Harm::Loses);
        // Ids of founding nodes count the sorted names.
        let id = |name: &String| names.iter().position(|other| other == name).map_or(0, |at| at as u64 + 1);
        let nodes = self.nodes();
        let allowed = |candidate: &String| {
            let harmed: Vec<u64> = names.iter().filter(|name| is_harmed(name) || *name == candidate).map(id).collect();
            harmed.len() <= 1
                || nodes.iter().flat_map(|(_, node)| node.groups()).all(|(_, group)| {
                    let voters = group.status().voters;
                    let lost = voters.values().filter(|home| harmed.contains(&home.0)).count();
                    lost * 2 < voters.len()
                })
        };
        let up = self.up();
        self.topology.frail.iter().filter(|name| up.contains(name) && allowed(name)).cloned().collect()
    }
}
