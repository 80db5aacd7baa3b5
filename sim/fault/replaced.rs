//! Disks that forget what they promised: a sync that lied, a disk that came back empty or older. Only
//! nodes of the frail minority, and they start again once the others are whole: see
//! [`doubt`](crate::world). A node must notice that its state is gone, or its peers must.

use super::disk::LIED;
use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;
use crate::world::machine::{Harm, Image};

const EMPTIED: &str = "disk: emptied under the same identity";
const OLD_DISK: &str = "disk: an old disk under the same identity";

/// Syncs lie for a while; then the power fails.
pub(crate) const LYING: Kind = Kind {
    name: "lying syncs",
    counts: &[LIED],
    weight: 2,
    lasts_ms: (300, 5_000),
    make: |chance| Box::new(Lying { chance, name: None }),
};

struct Lying {
    chance: Chance,
    name: Option<String>,
}

impl Lying {
    fn lie(world: &World, name: &str, lie: bool) {
        let machine = world.machine(name);
        machine.disk.borrow().lie_about_syncs(lie);
        // The engine lies on the same device.
        machine.stores.borrow().lie_about_flushes(lie);
    }
}

impl Fault for Lying {
    fn begin(&mut self, world: &mut World) {
        let frail = world.may_lose();
        if frail.is_empty() {
            return;
        }
        let name = self.chance.pick(&frail).clone();
        world.harmed(&name, Harm::Ends);
        world.harmed(&name, Harm::Loses);
        Self::lie(world, &name, true);
        self.name = Some(name);
    }

    fn tick(&mut self, world: &mut World) {
        // Another fault may cut the power at any time.
        if let Some(name) = &self.name {
            world.doubt(name);
        }
    }

    fn end(&mut self, world: &mut World) {
        let Some(name) = self.name.take() else { return };
        world.cut_power(&name);
        Self::lie(world, &name, false);
        world.doubt(&name);
        world.start(&name);
    }
}

/// A disk comes back empty.
pub(crate) const EMPTY: Kind = Kind {
    name: "emptied disk",
    counts: &[EMPTIED],
    weight: 2,
    lasts_ms: (50, 3_000),
    make: |chance| Box::new(Empty { chance, name: None }),
};

struct Empty {
    chance: Chance,
    name: Option<String>,
}

impl Fault for Empty {
    fn begin(&mut self, world: &mut World) {
        let frail = world.may_lose();
        if frail.is_empty() {
            return;
        }
        let name = self.chance.pick(&frail).clone();
        world.kill(&name);
        let machine = world.machine(&name);
        let had_something = machine.disk.borrow().used() > 0;
        machine.empty();
        world.harmed(&name, Harm::Ends);
        world.harmed(&name, Harm::Loses);
        world.doubt(&name);
        world.seen.fired_times(EMPTIED, u64::from(had_something));
        self.name = Some(name);
    }

    fn end(&mut self, world: &mut World) {
        if let Some(name) = self.name.take() {
            world.start(&name);
        }
    }
}

/// A disk comes back as it was before, as from a backup.
pub(crate) const OLD: Kind = Kind {
    name: "old disk",
    counts: &[OLD_DISK],
    weight: 2,
    lasts_ms: (300, 9_000),
    make: |chance| {
        let (is_early, restarts) = (chance.percent(30), chance.percent(50));
        Box::new(Old { chance, is_early, restarts, taken: None })
    },
};

struct Old {
    chance: Chance,
    /// What comes back is from when the cluster was founded.
    is_early: bool,
    /// The node is started again after the backup was taken.
    restarts: bool,
    taken: Option<(String, Image, u64)>,
}

impl Fault for Old {
    fn begin(&mut self, world: &mut World) {
        let frail = world.may_lose();
        if frail.is_empty() {
            return;
        }
        let name = self.chance.pick(&frail).clone();
        let machine = world.machine(&name).clone();
        let early = if self.is_early { machine.early.take() } else { None };
        let syncs = if early.is_some() { 0 } else { machine.disk.borrow().syncs() };
        let image = early.unwrap_or_else(|| machine.image());
        if self.restarts {
            world.kill(&name);
            world.start(&name);
        }
        self.taken = Some((name, image, syncs));
    }

    fn end(&mut self, world: &mut World) {
        let Some((name, image, syncs)) = self.taken.take() else { return };
        if !world.may_lose().contains(&name) {
            // It is down or gone, or another disk has been harmed since.
            return world.start(&name);
        }
        world.kill(&name);
        let has_written = world.machine(&name).disk.borrow().syncs() > syncs;
        world.machine(&name).restore(&image);
        world.harmed(&name, Harm::Ends);
        world.harmed(&name, Harm::Loses);
        world.doubt(&name);
        world.seen.fired_times(OLD_DISK, u64::from(has_written));
        world.start(&name);
    }
}
