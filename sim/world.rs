//! The simulated world: nodes on simulated hosts with disks that survive them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quorate::api::Api;
use quorate::env::disk::MemoryDisk;
use quorate::env::work::Workers;
use quorate::env::{Env, chance};
use quorate::node::{Node, NodeConfig, Sources, Telemetry};
use quorate::storage::engine::{Engine, MemoryStores};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use super::net::SimNetwork;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Small, so that segments are filled, purged and recovered within a run.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Random numbers of a run: one source for the simulator's choices and the nodes' own.
#[derive(Clone)]
pub(crate) struct Chance(Rc<RefCell<StdRng>>);

impl Chance {
    pub(crate) fn bits(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.bits() % bound
    }
}

/// What of a node outlives its process.
#[derive(Clone)]
struct Machine {
    /// The handle of the running process; a crash kills it.
    disk: Rc<RefCell<MemoryDisk>>,
    stores: MemoryStores,
}

/// Nodes, their disks and the network between them.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) chance: Chance,
    machines: BTreeMap<String, Machine>,
}

impl World {
    /// A world of `nodes` nodes, drawn from `seed`.
    pub(crate) fn new(seed: u64, nodes: usize, duration: Duration) -> Self {
        let random = Chance(Rc::new(RefCell::new(StdRng::seed_from_u64(seed))));
        let source = random.clone();
        chance::set_hook(Some(Rc::new(move || source.bits())));
        let mut sim = turmoil::Builder::new()
            .rng_seed(random.bits())
            .simulation_duration(duration)
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(5))
            .tcp_capacity(1024)
            .build();
        let names: Vec<_> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let founding: Vec<_> = names.iter().map(|name| format!("{name}={name}:{PEER_PORT}")).collect();
        let founding = founding.join(",");
        let mut machines = BTreeMap::new();
        for name in names {
            let machine = Machine { disk: Rc::new(RefCell::new(MemoryDisk::new())), stores: MemoryStores::new() };
            machines.insert(name.clone(), machine.clone());
            let founding = founding.clone();
            sim.host(name.clone(), move || serve(name.clone(), founding.clone(), machine.clone()));
        }
        Self { sim, chance: random, machines }
    }

    /// Names of the nodes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    /// Client addresses of the nodes.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.machines.keys().map(|name| format!("{name}:{CLIENT_PORT}")).collect()
    }

    /// Kills a node: its process is gone, and of what it did not sync some is lost, some is torn.
    pub(crate) fn crash(&mut self, name: &str) {
        tracing::info!(node = name, "FAULT crash");
        self.sim.crash(name);
        let machine = &self.machines[name];
        let random = self.chance.clone();
        let mut bits = move || random.bits();
        let mut disk = machine.disk.borrow_mut();
        disk.crash(&mut bits);
        *disk = disk.reboot();
        machine.stores.crash(&mut bits);
    }

    /// Starts a killed node again.
    pub(crate) fn restart(&mut self, name: &str) {
        tracing::info!(node = name, "FAULT over: restart");
        self.sim.bounce(name);
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&mut self, name: &str) {
        tracing::info!(node = name, "FAULT partition");
        for other in self.names().iter().filter(|other| *other != name) {
            self.sim.partition(name, other.as_str());
        }
    }

    /// Heals all cuts around a node.
    pub(crate) fn heal(&mut self, name: &str) {
        tracing::info!(node = name, "FAULT over: healed");
        for other in self.names().iter().filter(|other| *other != name) {
            self.sim.repair(name, other.as_str());
        }
    }

    /// Advances by one tick. Returns whether all clients have finished.
    pub(crate) fn step(&mut self) -> bool {
        self.sim.step().unwrap_or_else(|error| panic!("after {:?}: {error}", self.sim.elapsed()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        chance::set_hook(None);
    }
}

/// The outside of a simulated process.
pub(crate) fn env(disk: MemoryDisk) -> Env {
    Env { net: Arc::new(SimNetwork), disk: Arc::new(disk), workers: Workers::inline() }
}

/// What `kvd` does, without a process around it.
async fn serve(name: String, founding: String, machine: Machine) -> turmoil::Result {
    let flags = [
        ("name", name.clone()),
        ("data_dir", "/data".to_owned()),
        ("client_addr", format!("0.0.0.0:{CLIENT_PORT}")),
        ("client_advertise", format!("{name}:{CLIENT_PORT}")),
        ("peer_addr", format!("0.0.0.0:{PEER_PORT}")),
        ("peer_advertise", format!("{name}:{PEER_PORT}")),
        ("cluster", founding),
    ];
    let mut config = NodeConfig::resolve(&Sources { flags: flags.into(), ..Sources::default() })?;
    config.log_segment_bytes = SEGMENT_BYTES;
    let requests_in_flight_max = config.requests_in_flight_max;
    let env = env(machine.disk.borrow().clone());
    let listener = env.net.listen(&config.client_listen).await?;
    let stores = machine.stores;
    let node = Node::start(config, env, move |_| Ok(Arc::new(stores.open()) as Arc<dyn Engine>)).await?;
    let api =
        Api { service: Arc::new(node.clone()), telemetry: Arc::new(Telemetry::default()), requests_in_flight_max };
    tokio::select! {
        biased;
        reason = node.failed() => Err(format!("{name} failed: {reason}").into()),
        served = api.serve(listener, std::future::pending()) => Ok(served?),
    }
}
