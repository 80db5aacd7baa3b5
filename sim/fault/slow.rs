//! A node on which everything takes longer.

use std::time::Duration;

use quorate::env::disk::DiskDelay;

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::{CLIENT_HOSTS, World};

/// The disk and all links of one node are slow. It is not gone: others must neither wait for it nor
/// give it up.
pub(crate) const SLOW_NODE: Kind = Kind {
    name: "slow node",
    counts: &["process: slow node"],
    weight: 3,
    lasts_ms: (1_000, 12_000),
    make: |chance| Box::new(Slow { chance, slow: None, is_counted: false }),
};

struct Slow {
    chance: Chance,
    slow: Option<SlowNode>,
    is_counted: bool,
}

struct SlowNode {
    name: String,
    latency: Duration,
    /// How often its clocks had been asked before: that grows while it runs.
    readings: u64,
}

impl Fault for Slow {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let name = self.chance.pick(&up).clone();
        let delay = DiskDelay {
            read: self.chance.millis(1, 10),
            write: self.chance.millis(0, 3),
            sync: self.chance.millis(20, 250),
        };
        let latency = self.chance.millis(30, 250);
        tracing::info!(node = name, ?delay, ?latency, "FAULT slow node");
        world.machine(&name).disk.borrow().set_delay(delay);
        for other in others(world, &name) {
            world.lengthen(&name, &other, latency);
        }
        let readings = world.clocks.readings(&name);
        self.slow = Some(SlowNode { name, latency, readings });
    }

    fn tick(&mut self, world: &mut World) {
        let Some(slow) = &self.slow else { return };
        if !self.is_counted && world.clocks.readings(&slow.name) > slow.readings {
            self.is_counted = true;
            world.seen.fired(SLOW_NODE.counts[0]);
        }
    }

    fn end(&mut self, world: &mut World) {
        let Some(slow) = self.slow.take() else { return };
        world.machine(&slow.name).disk.borrow().set_delay(DiskDelay::default());
        for other in others(world, &slow.name) {
            world.shorten(&slow.name, &other, slow.latency);
        }
    }
}

fn others(world: &World, name: &str) -> Vec<String> {
    let clients = CLIENT_HOSTS.map(str::to_owned);
    world.names().into_iter().filter(|other| other != name).chain(clients).collect()
}
