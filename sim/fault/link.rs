//! Links that lose or delay what they carry, and connections whose other end is gone.

use std::time::Duration;

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::{CLIENT_HOSTS, World};

/// Now and then, what is on its way is lost. Nothing sends it again: the connection that misses it
/// stands still until somebody gives it up.
pub(crate) const LOSS: Kind = Kind {
    name: "loss",
    counts: &["network: loss"],
    weight: 3,
    lasts_ms: (500, 8_000),
    make: |chance| Box::new(Loss { chance, links: Vec::new(), pause_ms: 1, is_counted: false }),
};

/// Messages take long.
pub(crate) const DELAY: Kind = Kind {
    name: "delay",
    counts: &["network: delay"],
    weight: 3,
    lasts_ms: (500, 8_000),
    make: |chance| Box::new(Delay { chance, links: Vec::new(), latency: Duration::ZERO, sent_before: 0 }),
};

/// A machine is gone without a word: its peers keep connections that nobody answers on.
pub(crate) const HALF_OPEN: Kind = Kind {
    name: "half-open connections",
    counts: &["network: half-open connections"],
    weight: 3,
    lasts_ms: (50, 12_000),
    make: |chance| Box::new(HalfOpen { chance, killed: None }),
};

/// All links of nodes, with each other and with clients.
fn all_links(world: &World) -> Vec<(String, String)> {
    let names = world.names();
    let between = (0..).zip(&names).flat_map(|(at, a)| names.iter().skip(at + 1).map(move |b| (a.clone(), b.clone())));
    let clients = names.iter().flat_map(|node| CLIENT_HOSTS.map(|client| (node.clone(), client.to_owned())));
    between.chain(clients).collect()
}

/// Some of them: one, a few, or all.
fn some_links(world: &World, chance: &Chance) -> Vec<(String, String)> {
    let all = all_links(world);
    let count = *chance.pick(&[1, 1, 2, 3, all.len()]);
    chance.sample(&all, count)
}

fn sent(world: &World, links: &[(String, String)]) -> u64 {
    links.iter().map(|(a, b)| world.network.traffic(a, b).sent + world.network.traffic(b, a).sent).sum()
}

struct Loss {
    chance: Chance,
    /// From whom to whom, and when the next loss is due.
    links: Vec<(String, String, u64)>,
    /// Longest pause between two losses on one link.
    pause_ms: u64,
    is_counted: bool,
}

impl Fault for Loss {
    fn begin(&mut self, world: &mut World) {
        let links = some_links(world, &self.chance);
        self.pause_ms = self.chance.between(200, 4_000);
        tracing::info!(?links, self.pause_ms, "FAULT loss");
        let both_ways = links.into_iter().flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]);
        let now_ms = crate::now_ms();
        self.links = both_ways.map(|(from, to)| (from, to, now_ms + self.chance.below(self.pause_ms))).collect();
    }

    fn tick(&mut self, world: &mut World) {
        let now_ms = crate::now_ms();
        for (from, to, due_ms) in self.links.iter_mut().filter(|(_, _, due_ms)| *due_ms <= now_ms) {
            // As soon as there is something to lose.
            let lost = world.lose(from, to);
            if lost == 0 {
                continue;
            }
            tracing::debug!(from, to, lost, "FAULT lost");
            *due_ms = now_ms + self.chance.between(1, self.pause_ms + 1);
            if !std::mem::replace(&mut self.is_counted, true) {
                world.seen.fired(LOSS.counts[0]);
            }
        }
    }

    fn end(&mut self, _: &mut World) {
        self.links.clear();
    }
}

struct Delay {
    chance: Chance,
    links: Vec<(String, String)>,
    latency: Duration,
    sent_before: u64,
}

impl Fault for Delay {
    fn begin(&mut self, world: &mut World) {
        self.links = some_links(world, &self.chance);
        self.latency = self.chance.millis(100, 1_500);
        self.sent_before = sent(world, &self.links);
        tracing::info!(links = ?self.links, latency = ?self.latency, "FAULT delay");
        for (a, b) in &self.links {
            world.lengthen(a, b, self.latency);
        }
    }

    fn end(&mut self, world: &mut World) {
        if sent(world, &self.links) > self.sent_before {
            world.seen.fired(DELAY.counts[0]);
        }
        for (a, b) in std::mem::take(&mut self.links) {
            world.shorten(&a, &b, self.latency);
        }
    }
}

struct HalfOpen {
    chance: Chance,
    killed: Option<String>,
}

impl Fault for HalfOpen {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let name = self.chance.pick(&up).clone();
        let mut others = world.names();
        others.retain(|other| *other != name);
        others.extend(CLIENT_HOSTS.map(str::to_owned));
        tracing::info!(node = name, "FAULT gone without a word");
        for other in &others {
            world.cut(&name, other);
        }
        world.kill(&name);
        for other in &others {
            world.mend(&name, other);
        }
        if others.iter().any(|other| world.network.traffic(other, &name).open > 0) {
            world.seen.fired(HALF_OPEN.counts[0]);
        }
        self.killed = Some(name);
    }

    fn end(&mut self, world: &mut World) {
        if let Some(name) = self.killed.take() {
            world.start(&name);
        }
    }
}
