//! Members that join, leave and take each other's place, and replicas that an operator moves, while
//! everything else goes wrong too. Only runs with spare machines have them.
//!
//! As many members stay as a shard has replicas, so that no shard ever has less than that.

use quorate::types::map::{Node, ShardMap, Standing};
use quorate::types::{GroupId, NodeId};

use super::control::{Lost, operate};
use super::{Fault, Kind};
use crate::chance::Chance;
use crate::world::World;
use crate::world::machine::Harm;

const JOINED: &str = "members: a node joins";
const REMOVED: &str = "members: a node is removed";
const REPLACED: &str = "members: a node takes the place of a lost one";
const MOVED: &str = "members: a replica is moved by hand";
const CANCELLED: &str = "members: an operation is cancelled";
const LEADERLESS: &str = "members: the metadata leader is lost during an operation";

/// Members that always stay.
const STAY_MIN: usize = 3;

/// Takes the leader of the metadata group away while an operation runs, so that another has to go on.
#[derive(Default)]
struct LeaderLoss {
    is_decided: bool,
    lost: Option<Lost>,
}

impl LeaderLoss {
    fn tick(&mut self, chance: &Chance, world: &mut World) {
        if self.is_decided || world.newest_map().is_none_or(|map| map.operations.is_empty()) {
            return;
        }
        if let Some(leader) = world.meta_leader() {
            self.is_decided = true;
            if chance.percent(50) {
                self.lost = Some(Lost::lose(world, leader, true));
                world.seen.fired(LEADERLESS);
            }
        }
    }

    fn end(&mut self, world: &mut World) {
        if let Some(lost) = self.lost.take() {
            lost.give_back(world);
        }
    }
}

/// A spare machine joins.
pub(crate) const JOIN: Kind = Kind {
    name: "join",
    counts: &[JOINED, LEADERLESS],
    weight: 3,
    lasts_ms: (3_000, 9_000),
    make: |chance| Box::new(Join::new(chance, false)),
};

/// A node is lost with its disk, and a spare machine takes its place.
pub(crate) const REPLACE: Kind = Kind {
    name: "replace",
    counts: &[REPLACED],
    weight: 3,
    lasts_ms: (3_000, 9_000),
    make: |chance| Box::new(Join::new(chance, true)),
};

struct Join {
    chance: Chance,
    replaces: bool,
    joins: Option<String>,
    counted: bool,
    loss: LeaderLoss,
}

impl Join {
    fn new(chance: Chance, replaces: bool) -> Self {
        Self { chance, replaces, joins: None, counted: false, loss: LeaderLoss::default() }
    }
}

impl Fault for Join {
    fn begin(&mut self, world: &mut World) {
        let spares = world.spares();
        let Some(map) = world.newest_map().filter(|map| map.version > 0) else { return };
        if spares.is_empty() {
            return;
        }
        let spare = self.chance.pick(&spares).clone();
        let mut lost = None;
        if self.replaces {
            // Another one that is away for good might be one too many.
            let is_candidate = |name: &String| member(&map, name).is_some() && !world.is_given_up(name);
            let candidates: Vec<_> = world.up().into_iter().filter(is_candidate).collect();
            if candidates.is_empty() || world.retired().len() > spares.len() || has_moves(&map) {
                return;
            }
            let name = self.chance.pick(&candidates).clone();
            world.lose_for_good(&name, "its disk is lost");
            lost = Some(name);
        }
        let up = world.up();
        if up.is_empty() {
            return;
        }
        let through = self.chance.pick(&up).clone();
        world.enlist(&spare, &through, lost.as_deref());
        self.joins = Some(spare);
    }

    fn tick(&mut self, world: &mut World) {
        if self.joins.is_some() {
            self.loss.tick(&self.chance, world);
        }
        let Some(name) = self.joins.as_ref().filter(|_| !self.counted) else { return };
        if world.newest_map().is_some_and(|map| member(&map, name).is_some()) {
            self.counted = true;
            world.seen.fired(if self.replaces { REPLACED } else { JOINED });
        }
    }

    fn end(&mut self, world: &mut World) {
        self.loss.end(world);
    }
}

/// A node is taken out.
pub(crate) const REMOVE: Kind = Kind {
    name: "remove",
    counts: &[REMOVED],
    weight: 3,
    lasts_ms: (1_000, 5_000),
    make: |chance| Box::new(Remove { chance, loss: LeaderLoss::default() }),
};

struct Remove {
    chance: Chance,
    loss: LeaderLoss,
}

impl Fault for Remove {
    fn begin(&mut self, world: &mut World) {
        let Some(map) = world.newest_map() else { return };
        // Another removal or a replacement may be on its way.
        let staying: Vec<_> = map.staying().filter(|node| !world.is_given_up(&node.name)).collect();
        if world.topology.spares.is_empty() || staying.len() <= STAY_MIN {
            return;
        }
        let node = self.chance.pick(&staying);
        tracing::info!(node = node.name, "FAULT a node is removed");
        world.harmed(&node.name, Harm::Leaves);
        let (seen, endpoints, id) = (world.seen.clone(), world.endpoints(), node.id);
        operate(world, &self.chance, endpoints, move |client| {
            Box::pin(async move {
                match client.remove_member(id).await {
                    Ok(()) => seen.fired(REMOVED),
                    Err(error) => tracing::debug!(%error, "the node was not removed"),
                }
            })
        });
    }

    fn tick(&mut self, world: &mut World) {
        self.loss.tick(&self.chance, world);
    }

    fn end(&mut self, world: &mut World) {
        self.loss.end(world);
    }
}

/// An operator moves a replica by hand, and may think better of it.
pub(crate) const OPERATE: Kind = Kind {
    name: "operate",
    counts: &[MOVED, CANCELLED],
    weight: 6,
    lasts_ms: (1_500, 5_000),
    make: |chance| Box::new(Operate { chance, loss: LeaderLoss::default() }),
};

struct Operate {
    chance: Chance,
    loss: LeaderLoss,
}

impl Fault for Operate {
    fn begin(&mut self, world: &mut World) {
        let Some(map) = world.newest_map().filter(|map| !map.shards.is_empty()) else { return };
        let shards: Vec<_> = map.shards.values().collect();
        let shard = *self.chance.pick(&shards);
        let free: Vec<_> = map.staying().filter(|node| shard.replica_on(node.id).is_none()).collect();
        if world.topology.spares.is_empty() || free.is_empty() || shard.replicas.is_empty() {
            return;
        }
        let add = Some(self.chance.pick(&free).id);
        let remove = self.chance.percent(60).then(|| self.chance.pick(&shard.replicas).node);
        let cancels = self.chance.percent(40);
        let has_more = shard.replicas.len() > map.replicas_wanted(shard.keyspace);
        let (add, remove) = if has_more { (None, Some(self.chance.pick(&shard.replicas).node)) } else { (add, remove) };
        let (seen, endpoints, id) = (world.seen.clone(), world.endpoints(), shard.id);
        tracing::info!(shard = id.0, ?add, ?remove, "FAULT a replica is moved by hand");
        operate(world, &self.chance, endpoints, move |client| {
            Box::pin(by_hand(client, seen, id, (add, remove), cancels))
        });
    }

    fn tick(&mut self, world: &mut World) {
        self.loss.tick(&self.chance, world);
    }

    fn end(&mut self, world: &mut World) {
        self.loss.end(world);
    }
}

async fn by_hand(
    client: quorate::client::Client,
    seen: crate::report::Seen,
    shard: GroupId,
    (add, remove): (Option<NodeId>, Option<NodeId>),
    cancels: bool,
) {
    match client.change_replicas(shard, add, remove).await {
        Ok(operation) => {
            seen.fired(MOVED);
            if cancels && client.cancel_operation(operation).await.is_ok() {
                seen.fired(CANCELLED);
            }
        }
        Err(error) => tracing::debug!(%error, "no replica was moved"),
    }
}

/// The member that is this machine.
fn member<'m>(map: &'m ShardMap, name: &str) -> Option<&'m Node> {
    map.staying().find(|node| node.name == name)
}

/// Whether replicas are on their way, or will be.
fn has_moves(map: &ShardMap) -> bool {
    !map.operations.is_empty() || map.nodes.values().any(|node| node.standing == Standing::Leaving)
}
