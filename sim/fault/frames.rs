//! Frames between nodes that overtake each other or come twice. Streams of bytes do neither, so it is
//! done where frames have arrived whole.

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;
use crate::world::frames::{Mischief, Rule};

/// Heartbeats, votes and transfers are acted on late, after others that came later.
pub(crate) const REORDERING: Kind = Kind {
    name: "reordering",
    counts: &["network: reordering"],
    weight: 3,
    lasts_ms: (500, 10_000),
    make: |chance| Box::new(Frames { chance, mischief: Mischief::Late, rule: None }),
};

/// Heartbeats, votes, transfers and appends are acted on again, long after.
pub(crate) const DUPLICATES: Kind = Kind {
    name: "duplicated calls",
    counts: &["network: duplicated calls"],
    weight: 3,
    lasts_ms: (500, 10_000),
    make: |chance| Box::new(Frames { chance, mischief: Mischief::Twice, rule: None }),
};

struct Frames {
    chance: Chance,
    mischief: Mischief,
    /// The number of the rule while it holds.
    rule: Option<u64>,
}

impl Fault for Frames {
    fn begin(&mut self, world: &mut World) {
        let names = world.names();
        let count = *self.chance.pick(&[1, 2, names.len()]);
        let hosts = self.chance.sample(&names, count);
        let percent = *self.chance.pick(&[2, 10, 30]);
        // A copy may come after its leader has been followed by others.
        let longest_ms = match self.mischief {
            Mischief::Late => *self.chance.pick(&[20, 200, 1_500]),
            Mischief::Twice => *self.chance.pick(&[2, 100, 1_500, 6_000]),
        };
        let longest = std::time::Duration::from_millis(longest_ms);
        tracing::info!(?hosts, percent, ?longest, mischief = ?self.mischief, "FAULT frames");
        let seed = self.chance.bits();
        self.rule = Some(world.network.frames.add(Rule { mischief: self.mischief, hosts, percent, longest, seed }));
    }

    fn end(&mut self, world: &mut World) {
        let Some(rule) = self.rule.take() else { return };
        if world.network.frames.remove(rule) > 0 {
            world.seen.fired(match self.mischief {
                Mischief::Late => REORDERING.counts[0],
                Mischief::Twice => DUPLICATES.counts[0],
            });
        }
    }
}
