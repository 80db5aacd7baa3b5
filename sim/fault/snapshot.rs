//! A replica that needs a snapshot, because the others have purged what it missed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate::client::Client;
use quorate::raft::Group;
use quorate::types::GroupId;

use super::control::{Lost, leaders, operate};
use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;

const COUNTED: &str = "control: snapshot racing apply and purge";
const BROKEN: &str = "network: connection broken within a snapshot";
/// Most entries that writers outrun within one fault; where more are kept, a log is enough.
const ENTRIES_KEPT_MAX: u64 = 300;
/// Writes at a time, and over how many keys.
const WRITERS: u64 = 8;

/// A follower is away until its leader's log has gone on without it, and comes back under load; at
/// times its leader is lost or stands still while the snapshot is on its way.
pub(crate) const SNAPSHOT: Kind = Kind {
    name: "snapshot",
    counts: &[COUNTED, BROKEN],
    weight: 6,
    lasts_ms: (6_000, 16_000),
    make: |chance| {
        Box::new(Snapshot {
            chance,
            stage: Stage::Done,
            lost: None,
            struck: None,
            strike_at_ms: None,
            breaking: None,
            writing: Rc::default(),
        })
    },
};

struct Snapshot {
    chance: Chance,
    stage: Stage,
    lost: Option<Lost>,
    /// The leader, and whether it only stands still.
    struck: Option<(String, bool)>,
    strike_at_ms: Option<u64>,
    /// To whom connections break.
    breaking: Option<String>,
    /// Whether the writers go on.
    writing: Rc<Cell<bool>>,
}

enum Stage {
    /// Away; its log ends at `last`.
    Away {
        name: String,
        group: GroupId,
        last: u64,
    },
    /// Back; what it missed can only come as a snapshot.
    Back {
        name: String,
        group: GroupId,
        last: u64,
    },
    Done,
}

impl Fault for Snapshot {
    fn begin(&mut self, world: &mut World) {
        // The log of the metadata group hardly grows.
        let leaders: Vec<_> = leaders(world).into_iter().filter(|(_, group, _)| *group != GroupId::META).collect();
        if leaders.is_empty() || world.topology.log_entries_kept > ENTRIES_KEPT_MAX {
            return;
        }
        let (leader, group, _) = self.chance.pick(&leaders).clone();
        let followers: Vec<_> = world.up().into_iter().filter(|name| *name != leader).collect();
        let followers: Vec<_> =
            followers.into_iter().filter_map(|name| Some((last(world, &name, group)?, name))).collect();
        if followers.is_empty() {
            return;
        }
        let (last, name) = self.chance.pick(&followers).clone();
        self.lost = Some(Lost::lose(world, name.clone(), self.chance.percent(60)));
        self.stage = Stage::Away { name, group, last };
        self.writing.set(true);
        let (writing, endpoints) = (self.writing.clone(), world.endpoints());
        operate(world, &self.chance, endpoints, move |client| Box::pin(write(client, writing)));
    }

    fn tick(&mut self, world: &mut World) {
        match &mut self.stage {
            Stage::Away { name, group, last: known } => {
                // Cut off, it may still have heard a little.
                *known = last(world, name, *group).unwrap_or(*known).max(*known);
                let purged = leaders(world).into_iter().filter(|(at, id, _)| id == group && at != name);
                let purged = purged.filter_map(|(.., group)| group.status().purged).max().unwrap_or(0);
                if purged > *known {
                    tracing::info!(node = name, last = *known, purged, "FAULT comes back to a purged log");
                    let (name, group, last) = (name.clone(), *group, *known);
                    self.come_back(world, &name);
                    self.stage = Stage::Back { name, group, last };
                }
            }
            Stage::Back { name, group, last: before } => {
                let status = replica(world, name, *group).map(|group| group.status());
                let Some(status) = status.filter(|status| status.last > Some(*before)) else {
                    return self.strike(world);
                };
                // A snapshot takes the place of the log up to its end, at once.
                if status.purged > Some(*before) {
                    tracing::info!(node = name, "FAULT it got a snapshot");
                    world.seen.fired(COUNTED);
                }
                self.writing.set(false);
                self.stage = Stage::Done;
                self.mend(world);
            }
            Stage::Done => {}
        }
    }

    fn end(&mut self, world: &mut World) {
        self.stage = Stage::Done;
        self.writing.set(false);
        self.mend(world);
        if let Some(lost) = self.lost.take() {
            lost.give_back(world);
        }
        match self.struck.take() {
            Some((name, true)) => world.resume(&name),
            Some((name, false)) => world.start(&name),
            None => {}
        }
    }
}

impl Snapshot {
    fn come_back(&mut self, world: &mut World, name: &str) {
        if let Some(lost) = self.lost.take() {
            lost.give_back(world);
        }
        if self.chance.percent(60) {
            let percent = *self.chance.pick(&[5, 20, 40]);
            tracing::info!(node = name, percent, "FAULT connections break within snapshots");
            world.network.frames.break_snapshots(name, percent, self.chance.bits());
            self.breaking = Some(name.to_owned());
        }
        if self.chance.percent(50) {
            self.strike_at_ms = Some(crate::now_ms() + self.chance.between(1, 400));
        }
    }

    /// Connections break no longer.
    fn mend(&mut self, world: &World) {
        let broken = self.breaking.take().map_or(0, |name| world.network.frames.mend_snapshots(&name));
        if broken > 0 {
            world.seen.fired(BROKEN);
        }
    }

    /// Takes the leader away, when its time has come.
    fn strike(&mut self, world: &mut World) {
        let Stage::Back { name, group, .. } = &self.stage else { return };
        if self.strike_at_ms.is_none_or(|at| at > crate::now_ms()) {
            return;
        }
        self.strike_at_ms = None;
        let leader = leaders(world).into_iter().find(|(at, id, _)| id == group && at != name);
        let Some((leader, ..)) = leader else { return };
        let pauses = self.chance.percent(50);
        if pauses {
            world.pause(&leader);
        } else {
            world.kill(&leader);
        }
        self.struck = Some((leader, pauses));
    }
}

/// Writes until the fault is over: before the return so that logs are purged, after it so that more
/// is to be applied while the snapshot is on its way.
async fn write(client: Client, writing: Rc<Cell<bool>>) {
    for round in 0u64.. {
        if !writing.get() {
            return;
        }
        let puts = (0..WRITERS).map(|key| client.put(format!("control/snapshot/{key}"), round.to_string()));
        // Nobody asks what became of them: the workloads' own writes are the ones that are checked.
        drop(join_all(puts).await);
        // Refusals may come at once.
        quorate::env::time::sleep(Duration::from_millis(2)).await;
    }
}

fn replica(world: &World, name: &str, group: GroupId) -> Option<Group> {
    world.node(name)?.groups().remove(&group)
}

/// Where a replica's log ends.
fn last(world: &World, name: &str, group: GroupId) -> Option<u64> {
    Some(replica(world, name, group)?.status().last.unwrap_or(0))
}
