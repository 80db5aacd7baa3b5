//! Three nodes, clients, a crash, a partition, a heal; then everything must be there.

use std::time::Duration;

use super::trace::Trace;
use super::workload::{self, Shared};
use super::world::World;

/// Clients write for so long, …
const WRITING: Duration = Duration::from_secs(20);
/// … and after the healing there is so long to converge.
const DURATION: Duration = Duration::from_secs(60);
const WRITERS: usize = 3;

/// What a run showed.
pub(crate) struct Report {
    pub(crate) trace: String,
    pub(crate) acknowledged: usize,
}

/// Runs the scenario of a seed. Panics when a promise is broken.
pub(crate) fn run(seed: u64) -> Report {
    let trace = Trace::new();
    let acknowledged = trace.collect(|| scenario(seed));
    Report { trace: trace.text(), acknowledged }
}

fn scenario(seed: u64) -> usize {
    let mut world = World::new(seed, 3, DURATION);
    let writers: Vec<_> = (1..=WRITERS).map(|number| (format!("c{number}"), Shared::default())).collect();
    for (name, knowledge) in &writers {
        let write = workload::write(name.clone(), world.endpoints(), WRITING, knowledge.clone());
        world.sim.client(name.clone(), write);
    }
    let names = world.names();
    let crashed = names[usize::try_from(world.chance.below(3)).unwrap()].clone();
    let isolated = names[usize::try_from(world.chance.below(3)).unwrap()].clone();
    type Act = fn(&mut World, &str);
    let faults: [(u64, Act, &str); 4] = [
        (5_000 + world.chance.below(2_000), World::crash, &crashed),
        (8_000 + world.chance.below(2_000), World::restart, &crashed),
        (12_000 + world.chance.below(2_000), World::isolate, &isolated),
        (15_000 + world.chance.below(2_000), World::heal, &isolated),
    ];
    for (at, act, node) in faults {
        while world.sim.elapsed() < Duration::from_millis(at) {
            world.step();
        }
        act(&mut world, node);
    }
    while !world.step() {}
    for (name, knowledge) in &writers {
        let check = workload::check(name.clone(), world.endpoints(), knowledge.clone());
        world.sim.client(format!("check-{name}"), check);
    }
    while !world.step() {}
    writers.iter().map(|(_, knowledge)| knowledge.borrow().acknowledged.len()).sum()
}
