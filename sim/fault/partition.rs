//! Links that let nothing through, in all the ways in which a cluster can fall apart.

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::{CLIENT_HOSTS, World};

/// Two parts that do not hear each other.
pub(crate) const SYMMETRIC: Kind = Kind {
    name: "symmetric partition",
    counts: &["network: symmetric partition"],
    weight: 4,
    lasts_ms: (200, 8_000),
    make: |chance| make(chance, Shape::Symmetric),
};

/// Some hear others who do not hear them.
pub(crate) const ONE_WAY: Kind = Kind {
    name: "one-way partition",
    counts: &["network: one-way partition"],
    weight: 4,
    lasts_ms: (200, 8_000),
    make: |chance| make(chance, Shape::OneWay),
};

/// Two halves that only see each other through one node.
pub(crate) const BRIDGE: Kind = Kind {
    name: "bridge partition",
    counts: &["network: bridge partition"],
    weight: 3,
    lasts_ms: (200, 8_000),
    make: |chance| make(chance, Shape::Bridge),
};

/// The metadata group, and the shard of `default`.
const LED: [u64; 2] = [1, 2];

#[derive(Clone, Copy)]
enum Shape {
    Symmetric,
    OneWay,
    Bridge,
}

fn make(chance: Chance, shape: Shape) -> Box<dyn Fault> {
    Box::new(Partition { chance, shape, cuts: Vec::new(), held_back_before: 0, is_counted: false })
}

struct Partition {
    chance: Chance,
    shape: Shape,
    /// From whom to whom nothing goes.
    cuts: Vec<(String, String)>,
    held_back_before: u64,
    is_counted: bool,
}

impl Partition {
    fn draw(&self, world: &World) -> Vec<(String, String)> {
        // The leaders matter most, so one of them comes first half of the time.
        let mut names = self.chance.sample(&world.names(), usize::MAX);
        let leader = world.leader_of(*self.chance.pick(&LED)).filter(|_| self.chance.percent(50));
        if let Some(leader) = &leader {
            names.retain(|name| name != leader);
            names.insert(0, leader.clone());
        }
        let whole = names.len() as u64;
        match self.shape {
            Shape::Symmetric => {
                // One that is cut off alone, but not from clients, believes to lead for as long as that lasts.
                let is_alone = leader.is_some() && self.chance.percent(60);
                let (left, right) = split(&names, if is_alone { 1 } else { self.chance.between(1, whole) });
                let [mut left, mut right] = [left.to_vec(), right.to_vec()];
                for client in CLIENT_HOSTS.iter().filter(|_| !is_alone) {
                    // Some clients are on one side, the others see both.
                    match self.chance.below(4) {
                        0 => left.push((*client).to_owned()),
                        1 => right.push((*client).to_owned()),
                        _ => {}
                    }
                }
                both_ways(&left, &right)
            }
            Shape::OneWay => {
                let (one, others) = names.split_at(1);
                let (some, _) = split(others, self.chance.between(1, whole));
                let mut others = some.to_vec();
                others.extend(CLIENT_HOSTS.iter().filter(|_| self.chance.percent(25)).map(|name| (*name).to_owned()));
                let (from, to) = if self.chance.percent(50) { (one, &*others) } else { (&*others, one) };
                pairs(from, to)
            }
            Shape::Bridge => {
                // Who comes first is the bridge, or else in the second half.
                names.rotate_left(usize::from(self.chance.percent(50)));
                let (left, right) = split(&names[1..], self.chance.between(1, whole - 1));
                both_ways(left, right)
            }
        }
    }

    /// Counts once something was held back, which only those do who run and try.
    fn count(&mut self, world: &World) {
        if !self.is_counted && held_back(world, &self.cuts) > self.held_back_before {
            self.is_counted = true;
            world.seen.fired(match self.shape {
                Shape::Symmetric => SYMMETRIC.counts[0],
                Shape::OneWay => ONE_WAY.counts[0],
                Shape::Bridge => BRIDGE.counts[0],
            });
        }
    }
}

impl Fault for Partition {
    fn begin(&mut self, world: &mut World) {
        self.cuts = self.draw(world);
        self.held_back_before = held_back(world, &self.cuts);
        tracing::info!(cuts = ?self.cuts, "FAULT partition");
        for (from, to) in &self.cuts {
            world.cut(from, to);
        }
    }

    fn tick(&mut self, world: &mut World) {
        self.count(world);
    }

    fn end(&mut self, world: &mut World) {
        self.count(world);
        for (from, to) in std::mem::take(&mut self.cuts) {
            world.mend(&from, &to);
        }
    }
}

fn held_back(world: &World, cuts: &[(String, String)]) -> u64 {
    cuts.iter().map(|(from, to)| world.network.traffic(from, to).held_back).sum()
}

fn split(names: &[String], at: u64) -> (&[String], &[String]) {
    names.split_at(usize::try_from(at).unwrap_or(0).min(names.len()))
}

fn pairs(from: &[String], to: &[String]) -> Vec<(String, String)> {
    let is_link = |from: &str, to: &str| !(CLIENT_HOSTS.contains(&from) && CLIENT_HOSTS.contains(&to));
    let all = from.iter().flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone())));
    all.filter(|(from, to)| is_link(from, to)).collect()
}

fn both_ways(left: &[String], right: &[String]) -> Vec<(String, String)> {
    let mut cuts = pairs(left, right);
    cuts.extend(pairs(right, left));
    cuts
}
