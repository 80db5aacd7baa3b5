//! Processes that end or stand still.

use std::time::Duration;

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;

/// One process ends by a power cut: of what it had not synced, some is lost and some is torn.
pub(crate) const KILL: Kind = Kind {
    name: "kill",
    counts: &["process: kill"],
    weight: 4,
    lasts_ms: (50, 6_000),
    make: |chance| Box::new(Kill { chance, all: false, killed: Vec::new() }),
};

/// All processes end at once.
pub(crate) const KILL_ALL: Kind = Kind {
    name: "kill all",
    counts: &["process: kill of all"],
    weight: 1,
    lasts_ms: (50, 2_000),
    make: |chance| Box::new(Kill { chance, all: true, killed: Vec::new() }),
};

struct Kill {
    chance: Chance,
    all: bool,
    killed: Vec<String>,
}

impl Fault for Kill {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        self.killed = if self.all { up } else { vec![self.chance.pick(&up).clone()] };
        for name in &self.killed {
            world.kill(name);
        }
        world.seen.fired(if self.all { "process: kill of all" } else { "process: kill" });
    }

    fn end(&mut self, world: &mut World) {
        for name in &self.killed {
            world.start(name);
        }
    }
}

/// One process stands still: no timer fires, nothing is read or sent, and then all of it at once.
pub(crate) const PAUSE: Kind = Kind {
    name: "pause",
    counts: &["process: pause beyond a heartbeat", "process: pause beyond an election and a lease"],
    weight: 3,
    lasts_ms: (200, 6_000),
    make: |chance| Box::new(Pause { chance, paused: None, began_ms: 0 }),
};

/// Longer than an election timeout, which is also how long a lease would last.
const BEYOND_ELECTION: Duration = Duration::from_millis(1_300);

struct Pause {
    chance: Chance,
    paused: Option<String>,
    began_ms: u64,
}

impl Fault for Pause {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let name = self.chance.pick(&up).clone();
        world.pause(&name);
        self.began_ms = crate::now_ms();
        self.paused = Some(name);
    }

    fn end(&mut self, world: &mut World) {
        let Some(name) = self.paused.take() else { return };
        world.resume(&name);
        let lasted = Duration::from_millis(crate::now_ms() - self.began_ms);
        let row = usize::from(lasted > BEYOND_ELECTION);
        world.seen.fired(PAUSE.counts[row]);
    }
}

/// One process is asked to end, hands over what it leads, and is started again.
pub(crate) const RESTART: Kind = Kind {
    name: "graceful restart",
    counts: &["control: restart", "control: graceful restart"],
    weight: 2,
    lasts_ms: (1_000, 8_000),
    make: |chance| Box::new(Restart { chance, stopped: None }),
};

struct Restart {
    chance: Chance,
    stopped: Option<String>,
}

impl Fault for Restart {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let name = self.chance.pick(&up).clone();
        tracing::info!(node = name, "FAULT asked to end");
        world.machine(&name).stop();
        self.stopped = Some(name);
    }

    fn end(&mut self, world: &mut World) {
        let Some(name) = self.stopped.take() else { return };
        if !world.up().contains(&name) && !world.retired().contains(&name) {
            world.seen.fired("control: graceful restart");
        }
        world.start(&name);
    }
}
