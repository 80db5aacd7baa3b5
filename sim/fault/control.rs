//! Faults of the control plane: leaders that change hands, a metadata leader that is lost while the
//! map changes, a node that keeps an old map.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use quorate::client::{Client, ClientConfig};
use quorate::env::disk::MemoryDisk;
use quorate::raft::{Group, Role};
use quorate::types::GroupId;

use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::{self, CLIENT_PORT, World};

/// Pause between the end of a process and its start under another label, which changes the map.
const RESTART_MS: u64 = 300;

/// An operator moves a leader by hand.
pub(crate) const TRANSFER: Kind = Kind {
    name: "leader transfer",
    counts: &["control: leader transfer"],
    weight: 2,
    lasts_ms: (500, 3_000),
    make: |chance| Box::new(Transfer { chance }),
};

struct Transfer {
    chance: Chance,
}

impl Fault for Transfer {
    fn begin(&mut self, world: &mut World) {
        let leaders = leaders(world);
        if leaders.is_empty() {
            return;
        }
        let (name, id, group) = self.chance.pick(&leaders).clone();
        let others: Vec<_> = group.status().voters.into_iter().filter(|(id, _)| *id != group.replica()).collect();
        if others.is_empty() {
            return;
        }
        let to = self.chance.pick(&others).1;
        tracing::info!(group = id.0, from = name, to = to.0, "FAULT leader transfer");
        let (seen, endpoints) = (world.seen.clone(), world.endpoints());
        operate(world, &self.chance, endpoints, move |client| {
            Box::pin(async move {
                match client.move_leader(id, to).await {
                    Ok(_) => seen.fired("control: leader transfer"),
                    Err(error) => tracing::debug!(%error, "the leader was not moved"),
                }
            })
        });
    }

    fn end(&mut self, _: &mut World) {}
}

/// The leader of the metadata group ends or is cut off while a change of the map is on its way: at the
/// founding, or while a node registers.
pub(crate) const META_LEADER_LOSS: Kind = Kind {
    name: "metadata leader loss",
    counts: &["control: metadata leader loss while the map changes"],
    weight: 2,
    lasts_ms: (2_500, 7_000),
    make: |chance| Box::new(MetaLeaderLoss { chance, newcomer: Newcomer::default(), lost: None }),
};

struct MetaLeaderLoss {
    chance: Chance,
    newcomer: Newcomer,
    lost: Option<Lost>,
}

impl Fault for MetaLeaderLoss {
    fn begin(&mut self, world: &mut World) {
        // Before the founding is over, the map changes by itself.
        if !is_founding(world) {
            let leader = world.meta_leader();
            self.newcomer.begin(world, &self.chance, &leader.into_iter().collect::<Vec<_>>());
        }
    }

    fn tick(&mut self, world: &mut World) {
        self.newcomer.tick(world);
        if self.lost.is_some() {
            return;
        }
        let Some(leader) = world.meta_leader() else { return };
        let Some(node) = world.node(&leader) else { return };
        let changes = is_founding(world) || self.newcomer.is_unknown_to(world, &leader);
        let in_flight = node.groups().get(&GroupId::META).is_some_and(|group| {
            let status = group.status();
            status.last > status.committed
        });
        if changes && in_flight {
            self.lost = Some(Lost::lose(world, leader, self.chance.percent(60)));
            world.seen.fired("control: metadata leader loss while the map changes");
        }
    }

    fn end(&mut self, world: &mut World) {
        self.newcomer.end(world);
        if let Some(lost) = self.lost.take() {
            lost.give_back(world);
        }
    }
}

/// A node loses the others but not its clients while the map moves on, and a client asks it.
pub(crate) const OLD_MAP: Kind = Kind {
    name: "router with an old map",
    counts: &["control: a router with an old map"],
    weight: 2,
    lasts_ms: (3_500, 8_000),
    make: |chance| Box::new(OldMap { chance, newcomer: Newcomer::default(), cut_off: None, asked: false }),
};

struct OldMap {
    chance: Chance,
    newcomer: Newcomer,
    cut_off: Option<Lost>,
    asked: bool,
}

impl Fault for OldMap {
    fn begin(&mut self, world: &mut World) {
        let up = world.up();
        if up.len() < 3 || is_founding(world) {
            return;
        }
        let name = self.chance.pick(&up).clone();
        self.newcomer.begin(world, &self.chance, std::slice::from_ref(&name));
        self.cut_off = Some(Lost::lose(world, name, false));
    }

    fn tick(&mut self, world: &mut World) {
        self.newcomer.tick(world);
        let Some(Lost { name, .. }) = &self.cut_off else { return };
        let Some(version) = world.node(name).map(|node| node.map().version) else { return };
        let newest = newest(world);
        if self.asked || version == 0 || version >= newest {
            return;
        }
        self.asked = true;
        let seen = world.seen.clone();
        let endpoint = format!("{name}:{CLIENT_PORT}");
        operate(world, &self.chance, vec![endpoint], move |client| {
            Box::pin(async move {
                // Its map routes what it is asked; what it answers is checked by those who know better.
                let answer = client.get("control/old map").await;
                let used = client.map().await.map_or(newest, |map| map.version);
                tracing::info!(used, newest, answered = answer.is_ok(), "FAULT a router with an old map was asked");
                seen.fired_times("control: a router with an old map", u64::from(used < newest));
            })
        });
    }

    fn end(&mut self, world: &mut World) {
        self.newcomer.end(world);
        if let Some(lost) = self.cut_off.take() {
            lost.give_back(world);
        }
    }
}

/// A node that starts again under another label, and so must register.
#[derive(Default)]
struct Newcomer {
    name: Option<String>,
    label: String,
    start_at_ms: Option<u64>,
}

impl Newcomer {
    fn begin(&mut self, world: &mut World, chance: &Chance, spared: &[String]) {
        let up: Vec<_> = world.up().into_iter().filter(|name| !spared.contains(name)).collect();
        if up.is_empty() {
            return;
        }
        let name = chance.pick(&up).clone();
        self.label = format!("{:x}", chance.bits());
        world.kill(&name);
        world.machine(&name).set_label("boot", &self.label);
        self.start_at_ms = Some(crate::now_ms() + chance.between(20, RESTART_MS));
        self.name = Some(name);
    }

    fn tick(&mut self, world: &mut World) {
        if self.start_at_ms.is_some_and(|at| at <= crate::now_ms()) {
            self.end(world);
        }
    }

    /// Whether the node runs and `other` does not know its new label.
    fn is_unknown_to(&self, world: &World, other: &str) -> bool {
        let Some(name) = &self.name else { return false };
        let Some(other) = world.node(other) else { return false };
        let map = other.map();
        let entry = map.nodes.values().find(|node| node.name == *name);
        world.node(name).is_some() && entry.is_some_and(|node| node.labels.get("boot") != Some(&self.label))
    }

    fn end(&mut self, world: &mut World) {
        self.start_at_ms = None;
        if let Some(name) = &self.name {
            world.start(name);
        }
    }
}

/// A node that is down, or cut off from the other nodes.
pub(super) struct Lost {
    pub(super) name: String,
    from: Vec<String>,
}

impl Lost {
    pub(super) fn lose(world: &mut World, name: String, killed: bool) -> Self {
        tracing::info!(node = name, killed, "FAULT lost");
        if killed {
            world.kill(&name);
            return Self { name, from: Vec::new() };
        }
        let from: Vec<_> = world.names().into_iter().filter(|other| *other != name).collect();
        for other in &from {
            world.cut(&name, other);
            world.cut(other, &name);
        }
        Self { name, from }
    }

    pub(super) fn give_back(self, world: &mut World) {
        for other in &self.from {
            world.mend(&self.name, other);
            world.mend(other, &self.name);
        }
        if self.from.is_empty() {
            world.start(&self.name);
        }
    }
}

/// Whether some node has not told its client address yet.
fn is_founding(world: &World) -> bool {
    let nodes = world.nodes();
    let map = nodes.iter().map(|(_, node)| node.map()).max_by_key(|map| map.version);
    map.is_none_or(|map| map.version == 0 || map.nodes.values().any(|node| node.client_address.is_empty()))
}

fn newest(world: &World) -> u64 {
    world.nodes().iter().map(|(_, node)| node.map().version).max().unwrap_or(0)
}

/// Whoever believes to lead a group, and which.
pub(super) fn leaders(world: &World) -> Vec<(String, GroupId, Group)> {
    let of = |(name, node): (String, quorate::node::Node)| {
        let leads = node.groups().into_iter().filter(|(_, group)| group.status().role == Role::Leader);
        leads.map(move |(id, group)| (name.clone(), id, group)).collect::<Vec<_>>()
    };
    world.nodes().into_iter().flat_map(of).collect()
}

type Operation = Pin<Box<dyn Future<Output = ()>>>;

/// Lets an operator do something, with a client on a host of its own.
pub(super) fn operate(
    world: &mut World,
    chance: &Chance,
    endpoints: Vec<String>,
    what: impl FnOnce(Client) -> Operation + 'static,
) {
    let host = format!("operator-{:x}", chance.bits());
    let env = world::env(&host, &world.network, MemoryDisk::new());
    world.sim.client(host, async move {
        let config = ClientConfig::new(endpoints).watch_map(false).timeout(Duration::from_secs(3));
        if let Ok(client) = Client::connect(&env, config).await {
            what(client).await;
        }
        Ok(())
    });
}
