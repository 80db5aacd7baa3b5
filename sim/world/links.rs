//! What faults do to the links between hosts: cut them, lose what is on them, make them long.
//!
//! Faults overlap, so each takes back only what it did itself: cuts are counted, and of several
//! latencies the longest holds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::World;

/// Latencies that faults ask for, by link: the two ends in order.
pub(super) type Latencies = BTreeMap<(String, String), Vec<Duration>>;

impl World {
    /// Lets nothing through from one host to the other until as many [`World::mend`]s have come.
    /// Returns how many messages were on their way and are lost.
    pub(crate) fn cut(&mut self, from: &str, to: &str) -> usize {
        let lost = self.in_flight(from, to);
        if self.network.cut(from, to) {
            self.sim.partition_oneway(from, to);
        }
        lost
    }

    /// Takes one [`World::cut`] back.
    pub(crate) fn mend(&mut self, from: &str, to: &str) {
        if self.network.mend(from, to) {
            self.sim.repair_oneway(from, to);
        }
    }

    /// Loses everything that is on its way from one host to the other at this moment, and returns how
    /// many messages those were. Nothing sends them again: a connection that misses one stands still
    /// until somebody gives it up.
    pub(crate) fn lose(&mut self, from: &str, to: &str) -> usize {
        let lost = self.cut(from, to);
        self.mend(from, to);
        lost
    }

    /// Raises the longest latency between two hosts, both ways.
    pub(crate) fn lengthen(&mut self, a: &str, b: &str, latency: Duration) {
        self.latencies.entry(ends(a, b)).or_default().push(latency);
        self.set_latency(a, b);
    }

    /// Takes one [`World::lengthen`] back.
    pub(crate) fn shorten(&mut self, a: &str, b: &str, latency: Duration) {
        let asked = self.latencies.entry(ends(a, b)).or_default();
        if let Some(at) = asked.iter().position(|asked| *asked == latency) {
            asked.remove(at);
        }
        self.set_latency(a, b);
    }

    fn set_latency(&mut self, a: &str, b: &str) {
        let asked = self.latencies.get(&ends(a, b)).into_iter().flatten().copied();
        let longest = asked.fold(self.topology.latency.1, Duration::max);
        self.sim.set_link_max_message_latency(a, b, longest);
    }

    fn in_flight(&self, from: &str, to: &str) -> usize {
        let (from, to) = (self.sim.lookup(from), self.sim.lookup(to));
        let mut count = 0;
        self.sim.links(|links| {
            let ours = links.filter(|link| [(from, to), (to, from)].contains(&link.pair()));
            count = ours.flatten().filter(|sent| sent.pair().0.ip() == from).count();
        });
        count
    }
}

fn ends(a: &str, b: &str) -> (String, String) {
    let (a, b) = (a.min(b), a.max(b));
    (a.to_owned(), b.to_owned())
}
