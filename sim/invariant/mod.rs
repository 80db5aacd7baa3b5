//! What must hold of Raft and of the map at every moment, one module each, checked on what the
//! replicas say they did (`tracing` events of the target [`OBSERVE`](crate::trace::OBSERVE)) and on
//! samples of the running nodes. To add one, write it and name it in [`Invariants::new`].

mod commit_on_a_quorum;
mod election_safety;
mod enough_voters;
mod leader_completeness;
mod log_matching;
mod metadata;
mod monotonic;
mod observed;
mod replica_log;
mod state_machine_safety;

pub(crate) use observed::Observed;

use quorate::raft::Role;

use self::observed::{Invariant, NodeSample, Sample};
use crate::report::Seen;
use crate::world::World;
use crate::world::machine::Harm;

/// Simulated time between two samples.
const SAMPLE_MS: u64 = 200;

/// All invariants of a run.
pub(crate) struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    next_sample_ms: u64,
    seen: Seen,
}

impl Invariants {
    pub(crate) fn new(seen: Seen) -> Self {
        let all: Vec<Box<dyn Invariant>> = vec![
            Box::<election_safety::ElectionSafety>::default(),
            Box::<log_matching::LogMatching>::default(),
            Box::<leader_completeness::LeaderCompleteness>::default(),
            Box::<state_machine_safety::StateMachineSafety>::default(),
            Box::<commit_on_a_quorum::CommitOnAQuorum>::default(),
            Box::<monotonic::Monotonic>::default(),
            Box::<metadata::Metadata>::default(),
            Box::<enough_voters::EnoughVoters>::default(),
        ];
        Self { all, next_sample_ms: 0, seen }
    }

    pub(crate) fn observe(&mut self, events: &[Observed]) {
        for invariant in &mut self.all {
            let mut held = 0;
            for event in events {
                match invariant.observe(event) {
                    Ok(checked) => held += checked,
                    Err(broken) => self.seen.violation(invariant.name(), broken),
                }
            }
            self.seen.held(invariant.name(), held);
        }
    }

    /// Looks at the running nodes, every now and then.
    pub(crate) fn sample(&mut self, world: &World) {
        let now_ms = u64::try_from(world.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now_ms < self.next_sample_ms {
            return;
        }
        self.next_sample_ms = now_ms + SAMPLE_MS;
        let sample = sample_of(world);
        for invariant in &mut self.all {
            match invariant.sample(&sample) {
                Ok(checked) => self.seen.held(invariant.name(), checked),
                Err(broken) => self.seen.violation(invariant.name(), broken),
            }
        }
    }
}

fn sample_of(world: &World) -> Sample {
    let nodes = world.nodes().into_iter().map(|(_, node)| {
        let standing = node.groups().into_iter().map(|(id, group)| (id, group.status()));
        let leads = standing.filter(|(_, status)| status.role == Role::Leader);
        let leads = leads.map(|(id, status)| (id.0, status.term)).collect();
        NodeSample { node: node.id().0, map: node.map(), leads }
    });
    // The ids of founding nodes follow their names, and `names` is sorted.
    let robbed = (1..).zip(world.names()).filter(|(_, name)| world.machine(name).is_harmed(Harm::Loses));
    Sample { nodes: nodes.collect(), robbed: robbed.map(|(id, _)| id).collect() }
}
