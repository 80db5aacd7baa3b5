//! Disks that lose what was not synced, fail or delay a sync, and fill up. Any node must survive it.

use std::path::Path;

use quorate::env::disk::{DiskCounts, DiskDelay};
use quorate::node::Service;

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::report::Seen;
use crate::world::World;
use crate::world::machine::{Harm, Standing};

const LOST: &str = "disk: unsynced writes lost";
const TORN: &str = "disk: torn tail";
const FAILED: &str = "disk: failed fsync";
const SLOW_SYNC: &str = "disk: slow fsync";
const FULL_DISK: &str = "disk: full";
pub(super) const LIED: &str = "disk: lying fsync";
pub(super) const UNREADABLE: &str = "disk: read error";
pub(super) const FLIPPED: &str = "disk: bits flipped at rest";
pub(super) const MISDIRECTED: &str = "disk: misdirected write";

/// Puts what a disk has done into the table of faults.
pub(crate) fn count(seen: &Seen, done: &DiskCounts) {
    for (row, times) in [
        (LOST, done.writes_lost),
        (TORN, done.writes_torn),
        // That a sync lied does nobody harm: it counts when a crash took what it had promised.
        (LIED, done.promises_broken),
        (FAILED, done.syncs_failed),
        (SLOW_SYNC, done.syncs_delayed),
        (FULL_DISK, done.refused_full),
        (UNREADABLE, done.reads_failed),
        (FLIPPED, done.bits_flipped),
        (MISDIRECTED, done.writes_misdirected),
    ] {
        seen.fired_times(row, times);
    }
}

/// Power cuts between a write and its sync. In the simulation a job on a disk takes no time, so the
/// disk itself stops the machine, after some more changes.
pub(crate) const CUT: Kind = Kind {
    name: "power cut in mid-write",
    counts: &[LOST, TORN],
    weight: 5,
    lasts_ms: (100, 4_000),
    make: |chance| Box::new(Cut { chance, cut: Vec::new() }),
};

/// Changes of a disk before it stops: a few frames of the log.
const CHANGES_MAX: u64 = 10;
/// The same when all disks stop: the first take the service with them, and the others write no more.
const CHANGES_OF_ALL_MAX: u64 = 4;

struct Cut {
    chance: Chance,
    cut: Vec<String>,
}

impl Fault for Cut {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        // The power of a whole room fails, too.
        let is_all = self.chance.percent(25);
        self.cut = if is_all { up } else { vec![self.chance.pick(&up).clone()] };
        let changes_max = if is_all { CHANGES_OF_ALL_MAX } else { CHANGES_MAX };
        for name in &self.cut {
            world.machine(name).disk.borrow().stop_after(self.chance.below(changes_max));
        }
    }

    fn end(&mut self, world: &mut World) {
        for name in &self.cut {
            // One that wrote too little to be cut in mid-write.
            world.kill(name);
            world.start(name);
        }
    }
}

/// A sync fails: the process must end, and what was to be synced may be gone.
pub(crate) const FAILED_SYNC: Kind = Kind {
    name: "failed sync",
    counts: &[FAILED],
    weight: 2,
    lasts_ms: (500, 3_000),
    make: |chance| {
        let cuts = chance.percent(50);
        Box::new(FailedSync { chance, cuts, name: None })
    },
};

struct FailedSync {
    chance: Chance,
    /// The power fails, too, once the process has ended and before it is started again.
    cuts: bool,
    name: Option<String>,
}

impl Fault for FailedSync {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let name = self.chance.pick(&up).clone();
        world.harmed(&name, Harm::Ends);
        world.machine(&name).disk.borrow().fail_syncs(1 + u32::from(self.chance.percent(30)));
        self.name = Some(name);
    }

    fn tick(&mut self, world: &mut World) {
        let Some(name) = &self.name else { return };
        let is_down = *world.machine(name).standing.borrow() == Standing::Down;
        if self.cuts && is_down {
            self.cuts = false;
            world.cut_power(name);
        }
    }

    fn end(&mut self, world: &mut World) {
        let Some(name) = self.name.take() else { return };
        world.machine(&name).disk.borrow().fail_syncs(0);
        world.machine(&name).count(&world.seen);
        world.start(&name);
    }
}

/// Syncs take long, on some disks or on all.
pub(crate) const SLOW: Kind = Kind {
    name: "slow syncs",
    counts: &[SLOW_SYNC],
    weight: 2,
    lasts_ms: (500, 8_000),
    make: |chance| Box::new(Slow { chance, slow: Vec::new() }),
};

struct Slow {
    chance: Chance,
    slow: Vec<String>,
}

impl Fault for Slow {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        let count = if self.chance.percent(25) { up.len() } else { 1 };
        self.slow = self.chance.sample(&up, count);
        for name in &self.slow {
            let delay = DiskDelay { sync: self.chance.millis(5, 400), ..DiskDelay::default() };
            world.machine(name).disk.borrow().set_delay(delay);
        }
    }

    fn end(&mut self, world: &mut World) {
        for name in &self.slow {
            world.machine(name).disk.borrow().set_delay(DiskDelay::default());
            world.machine(name).count(&world.seen);
        }
    }
}

/// Others have filled the disk.
pub(crate) const FULL: Kind = Kind {
    name: "full disk",
    counts: &[FULL_DISK],
    weight: 2,
    lasts_ms: (1_000, 8_000),
    make: |chance| Box::new(Full { chance, full: Vec::new(), told: Vec::new() }),
};

/// How often a node is asked whether it knows.
const LOOK_EVERY_MS: u64 = 50;
/// Where a node keeps its files.
pub(super) const DATA: &str = "/data";

struct Full {
    chance: Chance,
    full: Vec<String>,
    /// Those that have said so.
    told: Vec<String>,
}

impl Fault for Full {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        let count = if self.chance.percent(15) { up.len() } else { 1 };
        self.full = self.chance.sample(&up, count);
        for name in &self.full {
            let disk = world.machine(name).disk.borrow().clone();
            let mut capacity = disk.used() + self.chance.below(world.topology.log_segment_bytes);
            // Also of what the node itself has held back, others may have taken the most.
            if self.chance.percent(60) {
                capacity = capacity.saturating_sub(size(&disk, &Path::new(DATA).join("BALLAST")));
                world.harmed(name, Harm::Ends);
            }
            disk.set_capacity(Some(capacity));
        }
    }

    /// It counts when a node refuses growing writes, which is what a user meets, besides every write
    /// that the disk itself refuses.
    fn tick(&mut self, world: &mut World) {
        if !crate::now_ms().is_multiple_of(LOOK_EVERY_MS) {
            return;
        }
        for name in &self.full {
            let says_so = world.node(name).is_some_and(|node| node.metrics().contains("\nquorate_disk_full 1"));
            if says_so && !self.told.contains(name) {
                self.told.push(name.clone());
                world.seen.fired(FULL_DISK);
            }
        }
    }

    fn end(&mut self, world: &mut World) {
        for name in &self.full {
            world.machine(name).disk.borrow().set_capacity(None);
            world.machine(name).count(&world.seen);
        }
    }
}

fn size(disk: &dyn quorate::env::disk::Disk, path: &Path) -> u64 {
    disk.open(path).and_then(|file| file.size()).unwrap_or(0)
}
