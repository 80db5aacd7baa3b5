//! Clocks that are wrong. The wall clock must never matter, the rate of the monotonic one only to how
//! soon something happens.

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;

const HOUR_MS: i64 = 3_600_000;

/// A wall clock is set an hour forward or back, and right again later.
pub(crate) const WALL_JUMP: Kind = Kind {
    name: "wall clock jump",
    counts: &["clock: wall clock jumps of an hour"],
    weight: 1,
    lasts_ms: (200, 8_000),
    make: |chance| make(chance, Clock::WallJump),
};

/// A wall clock runs too fast or too slow.
pub(crate) const WALL_DRIFT: Kind = Kind {
    name: "wall clock drift",
    counts: &["clock: wall clock drift"],
    weight: 1,
    lasts_ms: (1_000, 15_000),
    make: |chance| make(chance, Clock::WallDrift),
};

/// Timers of some nodes run up to a fifth too fast or too slow.
pub(crate) const MONOTONIC_DRIFT: Kind = Kind {
    name: "monotonic drift",
    counts: &["clock: monotonic drift"],
    weight: 2,
    lasts_ms: (1_000, 15_000),
    make: |chance| make(chance, Clock::MonotonicDrift),
};

#[derive(Clone, Copy)]
enum Clock {
    WallJump,
    WallDrift,
    MonotonicDrift,
}

fn make(chance: Chance, clock: Clock) -> Box<dyn Fault> {
    Box::new(Wrong { chance, clock, hosts: Vec::new(), is_counted: false })
}

struct Wrong {
    chance: Chance,
    clock: Clock,
    /// Whose clocks are wrong, and how often those had been asked before.
    hosts: Vec<(String, u64)>,
    is_counted: bool,
}

impl Wrong {
    fn set_wrong(&self, world: &World, host: &str) {
        let clocks = &world.clocks;
        let is_ahead = self.chance.percent(50);
        match self.clock {
            Clock::WallJump => clocks.set_wall_offset_ms(host, if is_ahead { HOUR_MS } else { -HOUR_MS }),
            Clock::WallDrift => clocks.set_wall_rate(host, *self.chance.pick(&[0.5, 0.95, 1.05, 2.0])),
            Clock::MonotonicDrift => {
                let percent = self.chance.between(2, 21) as f64;
                let shown = if is_ahead { 100.0 + percent } else { 100.0 - percent };
                clocks.set_rate(host, shown / 100.0);
            }
        }
    }

    fn set_right(&self, world: &World, host: &str) {
        match self.clock {
            Clock::WallJump => world.clocks.set_wall_offset_ms(host, 0),
            Clock::WallDrift => {
                world.clocks.set_wall_rate(host, 1.0);
                world.clocks.set_wall_offset_ms(host, 0);
            }
            Clock::MonotonicDrift => world.clocks.set_rate(host, 1.0),
        }
    }

    /// Counts once a process has run on a wrong clock.
    fn count(&mut self, world: &World) {
        if !self.is_counted && self.hosts.iter().any(|(host, before)| world.clocks.readings(host) > *before) {
            self.is_counted = true;
            world.seen.fired(match self.clock {
                Clock::WallJump => WALL_JUMP.counts[0],
                Clock::WallDrift => WALL_DRIFT.counts[0],
                Clock::MonotonicDrift => MONOTONIC_DRIFT.counts[0],
            });
        }
    }
}

impl Fault for Wrong {
    fn begin(&mut self, world: &mut World) {
        let names = world.names();
        let count = *self.chance.pick(&[1, 1, 2, names.len()]);
        let hosts = self.chance.sample(&names, count);
        tracing::info!(?hosts, "FAULT clocks are wrong");
        self.hosts = hosts.into_iter().map(|host| (host.clone(), world.clocks.readings(&host))).collect();
        for (host, _) in &self.hosts {
            self.set_wrong(world, host);
        }
    }

    fn tick(&mut self, world: &mut World) {
        self.count(world);
    }

    fn end(&mut self, world: &mut World) {
        self.count(world);
        for (host, _) in std::mem::take(&mut self.hosts) {
            self.set_right(world, &host);
        }
    }
}
