//! The simulated world: whole production nodes on simulated hosts, with disks that survive them.

pub(crate) mod clock;
mod doubt;
pub(crate) mod frames;
mod links;
pub(crate) mod machine;
pub(crate) mod net;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate::env::disk::MemoryDisk;
use quorate::env::work::Workers;
use quorate::env::{Env, chance};
use quorate::node::Node;
use quorate::types::GroupId;
use quorate::types::map::ShardMap;
use turmoil::Sim;

use self::clock::Clocks;
use self::links::Latencies;
use self::machine::{Harm, Machine, Standing};
use self::net::{NetworkState, SimNetwork};
use crate::chance::Chance;
use crate::invariant::Observed;
use crate::plan::Topology;
use crate::report::Seen;

pub(crate) const CLIENT_PORT: u16 = 2379;
pub(crate) const PEER_PORT: u16 = 2380;
/// Hosts that clients run on.
pub(crate) const CLIENT_HOSTS: [&str; 2] = ["c1", "c2"];

/// Nodes, their disks and clocks, and the network between them.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) seen: Seen,
    pub(crate) topology: Topology,
    /// What links and streams do; shared with every [`SimNetwork`].
    pub(crate) network: Arc<NetworkState>,
    pub(crate) clocks: Rc<Clocks>,
    /// What the replicas did in the last step.
    pub(crate) recent: Vec<Observed>,
    machines: BTreeMap<String, Rc<Machine>>,
    latencies: Latencies,
    chance: Chance,
    /// When the machines' early images are taken.
    early_ms: u64,
}

impl World {
    /// A world whose nodes start with its first step.
    pub(crate) fn new(seed: u64, topology: Topology, seen: Seen) -> Self {
        let nodes_chance = Chance::new(seed, "nodes");
        chance::set_hook(Some(Rc::new(move || nodes_chance.bits())));
        let clocks = Clocks::install();
        let mut sim = turmoil::Builder::new()
            .rng_seed(Chance::new(seed, "turmoil").bits())
            .simulation_duration(Duration::from_secs(24 * 3600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(topology.latency.0)
            .max_message_latency(topology.latency.1)
            .tcp_capacity(4096)
            .build();
        let network = Arc::new(NetworkState::default());
        let founding: Vec<_> = topology.nodes.iter().map(|name| format!("{name}={name}:{PEER_PORT}")).collect();
        let founding = founding.join(",");
        let mut machines = BTreeMap::new();
        for name in &topology.nodes {
            let machine = Rc::new(Machine::new(name, Some(&founding), &topology, &network, &clocks));
            machines.insert(name.clone(), machine.clone());
            sim.host(name.clone(), move || machine::serve(machine.clone()));
        }
        for name in &topology.spares {
            let machine = Rc::new(Machine::new(name, None, &topology, &network, &clocks));
            machines.insert(name.clone(), machine.clone());
            sim.host(name.clone(), move || machine::serve(machine.clone()));
            sim.crash(name.as_str());
        }
        let chance = Chance::new(seed, "crashes");
        let early_ms = Chance::new(seed, "early").between(50, 3_000);
        let latencies = Latencies::new();
        Self { sim, seen, topology, network, clocks, recent: Vec::new(), machines, latencies, chance, early_ms }
    }

    /// Names of all nodes, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    /// Client addresses of all nodes.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.machines.keys().map(|name| format!("{name}:{CLIENT_PORT}")).collect()
    }

    /// What of a node outlives its process.
    pub(crate) fn machine(&self, name: &str) -> &Rc<Machine> {
        &self.machines[name]
    }

    /// Nodes whose process runs, in order.
    pub(crate) fn up(&self) -> Vec<String> {
        self.with_standing(|standing| matches!(standing, Standing::Up))
    }

    /// Nodes that will not run again, or never have.
    pub(crate) fn retired(&self) -> Vec<String> {
        self.with_standing(|standing| matches!(standing, Standing::Retired(_) | Standing::Spare))
    }

    /// Machines that are no nodes yet.
    pub(crate) fn spares(&self) -> Vec<String> {
        self.with_standing(|standing| matches!(standing, Standing::Spare))
    }

    /// Starts a spare, which asks the member `through` to be taken in.
    pub(crate) fn enlist(&mut self, name: &str, through: &str, replace: Option<&str>) {
        tracing::info!(node = name, through, replace, "FAULT a machine joins");
        self.machines[name].enlist(through, replace);
        self.start(name);
    }

    /// Whether an operator has done with a member already: it is being taken out, or another is to take its place.
    pub(crate) fn is_given_up(&self, name: &str) -> bool {
        self.machines[name].is_harmed(machine::Harm::Leaves) || self.machines.values().any(|other| other.replaces(name))
    }

    /// Takes a machine away for good; nobody starts it again.
    pub(crate) fn lose_for_good(&mut self, name: &str, why: &str) {
        self.kill(name);
        self.machines[name].retire(why);
    }

    /// The newest map that a running node has.
    pub(crate) fn newest_map(&self) -> Option<Arc<ShardMap>> {
        self.nodes().into_iter().map(|(_, node)| node.map()).max_by_key(|map| map.version)
    }

    fn with_standing(&self, which: impl Fn(&Standing) -> bool) -> Vec<String> {
        let machines = self.machines.iter().filter(|(_, machine)| which(&machine.standing.borrow()));
        machines.map(|(name, _)| name.clone()).collect()
    }

    /// The running node, once it has started.
    pub(crate) fn node(&self, name: &str) -> Option<Node> {
        self.machines[name].node.borrow().clone()
    }

    /// All nodes that have started and run.
    pub(crate) fn nodes(&self) -> Vec<(String, Node)> {
        self.up().into_iter().filter_map(|name| self.node(&name).map(|node| (name, node))).collect()
    }

    /// The node that a replica lives on, if anybody up knows.
    pub(crate) fn home_of(&self, group: u64, replica: u64) -> Option<String> {
        let nodes = self.nodes();
        let id = if group == GroupId::META.0 {
            // Its replicas have their nodes' numbers.
            replica
        } else {
            let maps = nodes.iter().map(|(_, node)| node.map());
            maps.filter_map(|map| {
                let shard = map.shards.get(&GroupId(group))?;
                shard.replicas.iter().find(|found| found.id.0 == replica).map(|found| found.node.0)
            })
            .next()?
        };
        nodes.into_iter().find(|(_, node)| node.id().0 == id).map(|(name, _)| name)
    }

    /// A node that believes to lead the metadata group.
    pub(crate) fn meta_leader(&self) -> Option<String> {
        self.leader_of(GroupId::META.0)
    }

    /// A node that believes to lead a group.
    pub(crate) fn leader_of(&self, group: u64) -> Option<String> {
        let leads = |node: &Node| {
            let group = node.groups().remove(&GroupId(group));
            group.is_some_and(|group| group.status().role == quorate::raft::Role::Leader)
        };
        self.nodes().into_iter().find(|(_, node)| leads(node)).map(|(name, _)| name)
    }

    /// Cuts a machine's power: its process is gone, and of what it had not synced some is lost, some
    /// is torn. Nothing happens when it is down already.
    pub(crate) fn kill(&mut self, name: &str) {
        if self.machines[name].is_up() {
            self.cut_power(name);
        }
    }

    /// The same also under a process that has ended by itself and left unsynced writes behind.
    pub(crate) fn cut_power(&mut self, name: &str) {
        let machine = self.machines[name].clone();
        let standing = machine.standing.borrow().clone();
        match standing {
            Standing::Up => {
                self.note_down(name);
                self.resume(name);
                self.sim.crash(name);
                *machine.standing.borrow_mut() = Standing::Down;
            }
            Standing::Down => {}
            Standing::Retired(_) | Standing::Spare => return,
        }
        tracing::info!(node = name, "FAULT power cut");
        machine.power_cut(&self.chance, &self.seen);
    }

    /// Starts a machine that is down; one whose disk is in doubt as soon as the others are whole.
    /// Nothing happens to one that is up or retired.
    pub(crate) fn start(&mut self, name: &str) {
        let machine = self.machines[name].clone();
        if !matches!(*machine.standing.borrow(), Standing::Down) {
            return;
        }
        if machine.doubt.cannot_be_judged() {
            tracing::info!(node = name, "FAULT kept away: nobody may know any more what it had");
            let why = "nobody can tell its disk from an older one".to_owned();
            *machine.standing.borrow_mut() = Standing::Retired(why);
            return;
        }
        if self.must_wait(&machine) {
            return;
        }
        tracing::info!(node = name, "FAULT over: started");
        self.seen.fired("control: restart");
        *machine.standing.borrow_mut() = Standing::Up;
        self.sim.bounce(name);
    }

    /// Lets a process stand still.
    pub(crate) fn pause(&mut self, name: &str) {
        tracing::info!(node = name, "FAULT pause");
        self.clocks.pause(name);
        self.network.pause(name);
    }

    /// Lets a process that stands still go on.
    pub(crate) fn resume(&mut self, name: &str) {
        if self.clocks.resume(name) {
            tracing::info!(node = name, "FAULT over: goes on");
            self.network.resume(name);
        }
    }

    /// Takes back that faults may have ended processes; what disks have lost stays lost.
    pub(crate) fn forgive(&self) {
        self.machines.values().for_each(|machine| machine.forgive());
    }

    /// Says what a fault may have done to a node, so that its end is no violation.
    pub(crate) fn harmed(&self, name: &str, harm: Harm) {
        self.machines[name].harm(harm);
    }

    /// Advances by one tick, and looks after processes that ended by themselves: those that a fault
    /// explains are started again after a while or retired, any other is a violation.
    pub(crate) fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            self.seen.violation("panic", format!("the simulation failed: {error}"));
            return;
        }
        crate::stepped(self.sim.elapsed());
        if let Some(said) = crate::panics::last() {
            self.seen.violation("panic", said);
            return;
        }
        let now_ms = crate::now_ms();
        if now_ms == self.early_ms {
            self.machines.values().for_each(|machine| drop(machine.early.replace(Some(machine.image()))));
        }
        for (name, machine) in self.machines.clone() {
            if machine.disk.borrow().has_stopped() {
                self.kill(&name);
            }
            if machine.has_ended() {
                self.resume(&name);
                self.sim.crash(name.as_str());
            }
            if let Some(verdict) = machine.ended(now_ms) {
                self.note_down(&name);
                tracing::info!(node = name, ?verdict, "process ended");
                if let machine::Ended::Unexplained(why) = verdict {
                    self.seen.violation("a node ended by itself", format!("{name}: {why}"));
                }
            }
            if machine.restart_due(now_ms) {
                self.start(&name);
            }
        }
        self.judge_doubtful();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        chance::set_hook(None);
        quorate::env::time::set_hook(None);
    }
}

/// The outside of a process on host `name`.
pub(crate) fn env(name: &str, network: &Arc<NetworkState>, disk: MemoryDisk) -> Env {
    let net = Arc::new(SimNetwork::new(name, network.clone()));
    Env { net, disk: Arc::new(disk), workers: Workers::inline() }
}
