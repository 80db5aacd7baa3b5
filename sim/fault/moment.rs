//! Power that goes just when something has been promised: what is not on the disk by then is missed.

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;

const ROW: &str = "process: power cut just after a step of Raft";
/// A snapshot begins to come: here it is the sender that loses its power.
const RECEIVING: &str = "receiving";
/// Events after which the power goes, how often in a hundred, and the row of each.
const MOMENTS: [(&str, u64, &str); 7] = [
    ("granted", 60, "process: power cut just after a vote"),
    ("acknowledged", 4, "process: power cut just after an append"),
    ("truncated", 80, "process: power cut just after a truncation"),
    (RECEIVING, 80, "process: power cut while a snapshot is sent"),
    ("installed", 80, "process: power cut just after a snapshot"),
    ("purged", 40, "process: power cut just after a purge"),
    ("applied", 3, "process: power cut just after an apply"),
];

/// Which moments there were: rows that may stay 0 in a short run.
pub(super) fn rows() -> impl Iterator<Item = &'static str> {
    MOMENTS.iter().map(|(.., row)| *row)
}

/// Watches for one kind of moment; a few times it cuts the power of that replica's node, or of all
/// nodes, some milliseconds later, and soon starts what it has killed.
pub(crate) const POWER_CUT: Kind = Kind {
    name: "power cut at a moment",
    counts: &[ROW],
    weight: 8,
    lasts_ms: (3_000, 15_000),
    make: |chance| {
        let moment = *chance.pick(&MOMENTS);
        let left = chance.between(1, 4);
        Box::new(PowerCut { chance, moment, left, next: None, starts: Vec::new() })
    },
};

struct PowerCut {
    chance: Chance,
    moment: (&'static str, u64, &'static str),
    /// Cuts that may still come.
    left: u64,
    /// Whom the power leaves, and when.
    next: Option<(Vec<String>, u64)>,
    /// Who is started again, and when.
    starts: Vec<(String, u64)>,
}

impl PowerCut {
    /// Chooses whom the power leaves after an event of the last step.
    fn watch(&mut self, world: &World, now_ms: u64) {
        let (what, percent, _) = self.moment;
        let hit = world.recent.iter().rfind(|event| event.what == what && self.chance.percent(percent));
        let home = hit.and_then(|event| match what {
            RECEIVING => world.leader_of(event.group),
            _ => world.home_of(event.group, event.replica),
        });
        let Some(home) = home else { return };
        let victims = if self.chance.percent(25) { world.up() } else { vec![home] };
        let soon_ms = if what == RECEIVING { 3 } else { 12 };
        self.next = Some((victims, now_ms + self.chance.below(soon_ms)));
    }

    fn strike(&mut self, world: &mut World, now_ms: u64) {
        let Some((victims, _)) = self.next.take_if(|(_, at_ms)| *at_ms <= now_ms) else { return };
        for name in victims {
            world.kill(&name);
            self.starts.push((name, now_ms + self.chance.between(20, 900)));
        }
        self.left -= 1;
        world.seen.fired(ROW);
        world.seen.fired(self.moment.2);
    }
}

impl Fault for PowerCut {
    fn begin(&mut self, _: &mut World) {}

    fn tick(&mut self, world: &mut World) {
        let now_ms = crate::now_ms();
        self.strike(world, now_ms);
        if self.next.is_none() && self.left > 0 {
            self.watch(world, now_ms);
        }
        let due: Vec<_> = self.starts.extract_if(.., |(_, at_ms)| *at_ms <= now_ms).collect();
        due.iter().for_each(|(name, _)| world.start(name));
    }

    fn end(&mut self, world: &mut World) {
        self.starts.drain(..).for_each(|(name, _)| world.start(&name));
    }
}
