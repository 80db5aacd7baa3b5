//! One machine: what of a node outlives its process, and what its end means.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use quorate::api::Api;
use quorate::env::disk::{DiskCounts, DiskImage, MemoryDisk};
use quorate::node::{Node, NodeConfig, Sources, Telemetry};
use quorate::storage::engine::{Engine, MemoryStores, StoresImage};

use tokio::sync::Notify;

use super::clock::Clocks;
use super::doubt::Doubt;
use super::net::NetworkState;
use super::{CLIENT_PORT, PEER_PORT};
use crate::chance::Chance;
use crate::plan::Topology;
use crate::report::Seen;

/// Pause before a process that ended by itself is started again, as a supervisor would.
const RESTART_PAUSE_MS: u64 = 700;

/// How often a watch hears of progress while nothing happens: often enough for a run to see it.
const WATCH_PROGRESS_MS: u64 = 700;
/// What a process says that was asked to end.
const STOPPED: &str = "stopped in good order";

/// Whether a machine runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Up,
    Down,
    /// Its state is gone and it says so: it stays down. The reason that it gave.
    Retired(String),
    /// It has never been started: no member of the cluster knows it.
    Spare,
}

/// What a fault may have done to a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Harm {
    /// It is being taken out of the cluster, and ends when it hears of that.
    Leaves,
    /// The process may end, and can be started again.
    Ends,
    /// Its state may be lost: it may refuse to start, or be refused, for good.
    Loses,
}

/// A durable state of a machine's device: files and engine.
pub(crate) struct Image {
    disk: DiskImage,
    stores: StoresImage,
}

/// What the end of a process was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Explained(String),
    Retired(String),
    Unexplained(String),
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) name: String,
    config: RefCell<NodeConfig>,
    /// The handle of the running process; a power cut kills it.
    pub(crate) disk: RefCell<MemoryDisk>,
    pub(crate) stores: RefCell<MemoryStores>,
    pub(crate) standing: RefCell<Standing>,
    /// The running node, once started.
    pub(crate) node: RefCell<Option<Node>>,
    /// Why the process ended by itself.
    exit: RefCell<Option<String>>,
    harms: RefCell<BTreeSet<Harm>>,
    restart_at_ms: Cell<Option<u64>>,
    /// Asks the process to end in good order.
    stop: Notify,
    /// Its device, as it was soon after the beginning.
    pub(crate) early: RefCell<Option<Image>>,
    pub(super) doubt: Doubt,
    /// What of the disk's deeds is in the table of faults.
    counted: Cell<DiskCounts>,
    network: Arc<NetworkState>,
    clocks: Rc<Clocks>,
}

impl Machine {
    /// A spare joins later; the others are named by `founding`.
    pub(super) fn new(
        name: &str,
        founding: Option<&str>,
        topology: &Topology,
        network: &Arc<NetworkState>,
        clocks: &Rc<Clocks>,
    ) -> Self {
        // A spare is told whom to ask when it is started.
        let first =
            founding.map_or(("join", format!("{name}:{PEER_PORT}")), |founding| ("cluster", founding.to_owned()));
        let flags = [
            ("name", name.to_owned()),
            ("data_dir", "/data".to_owned()),
            ("client_addr", format!("0.0.0.0:{CLIENT_PORT}")),
            ("client_advertise", format!("{name}:{CLIENT_PORT}")),
            ("peer_addr", format!("0.0.0.0:{PEER_PORT}")),
            ("peer_advertise", format!("{name}:{PEER_PORT}")),
            first,
            ("insecure", "true".to_owned()),
        ];
        let mut config = NodeConfig::resolve(&Sources { flags: flags.into(), ..Sources::default() }).unwrap();
        config.log_segment_bytes = topology.log_segment_bytes;
        config.log_entries_kept = topology.log_entries_kept;
        config.snapshot_chunk_bytes = topology.snapshot_chunk_bytes;
        config.watch_progress_ms = WATCH_PROGRESS_MS;
        Self {
            name: name.to_owned(),
            config: RefCell::new(config),
            disk: RefCell::new(MemoryDisk::new()),
            stores: RefCell::new(MemoryStores::new()),
            standing: RefCell::new(if founding.is_some() { Standing::Up } else { Standing::Spare }),
            node: RefCell::new(None),
            exit: RefCell::new(None),
            harms: RefCell::default(),
            restart_at_ms: Cell::new(None),
            stop: Notify::new(),
            early: RefCell::default(),
            doubt: Doubt::default(),
            counted: Cell::default(),
            network: network.clone(),
            clocks: clocks.clone(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.standing.borrow() == Standing::Up
    }

    /// Asks the process to hand over, to make everything durable and to end.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// A spare comes into use: it asks the member `through` to be taken in, in the place of another if
    /// that is named.
    pub(super) fn enlist(&self, through: &str, replace: Option<&str>) {
        let mut config = self.config.borrow_mut();
        config.join = Some(format!("{through}:{PEER_PORT}"));
        config.replace = replace.map(ToOwned::to_owned);
        *self.standing.borrow_mut() = Standing::Down;
    }

    /// Whether it is to take the place of this member.
    pub(super) fn replaces(&self, member: &str) -> bool {
        self.config.borrow().replace.as_deref() == Some(member)
    }

    /// Nobody will start it again: it has left the cluster, or is to.
    pub(super) fn retire(&self, why: &str) {
        *self.standing.borrow_mut() = Standing::Retired(why.to_owned());
        self.restart_at_ms.set(None);
    }

    /// Changes a label of the node, from its next start on.
    pub(crate) fn set_label(&self, name: &str, value: &str) {
        self.config.borrow_mut().labels.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn harm(&self, harm: Harm) {
        self.harms.borrow_mut().insert(harm);
    }

    /// Its process has no more reason to end.
    pub(super) fn forgive(&self) {
        self.harms.borrow_mut().remove(&Harm::Ends);
    }

    pub(crate) fn is_harmed(&self, harm: Harm) -> bool {
        self.harms.borrow().contains(&harm)
    }

    /// Cuts the power under a process that is gone already.
    pub(super) fn power_cut(&self, chance: &Chance, seen: &Seen) {
        self.node.replace(None);
        self.exit.replace(None);
        self.restart_at_ms.set(None);
        // What was asked of the process dies with it.
        self.stop.notified().now_or_never();
        let mut bits = || chance.bits();
        let mut disk = self.disk.borrow_mut();
        disk.crash(&mut bits);
        *disk = disk.reboot();
        self.stores.borrow().crash(&mut bits);
        drop(disk);
        self.count(seen);
    }

    /// What the disk has done since the last call goes into the table of faults.
    pub(crate) fn count(&self, seen: &Seen) {
        let counts = self.disk.borrow().counts();
        crate::fault::disk::count(seen, &counts.since(&self.counted.replace(counts)));
    }

    /// What is durable now.
    pub(crate) fn image(&self) -> Image {
        Image { disk: self.disk.borrow().snapshot(), stores: self.stores.borrow().image() }
    }

    /// Puts a device with an earlier content under a machine that is down.
    pub(crate) fn restore(&self, image: &Image) {
        let mut disk = self.disk.borrow_mut();
        disk.restore(&image.disk);
        *disk = disk.reboot();
        self.stores.borrow().restore(&image.stores);
    }

    /// Puts an empty device under a machine that is down.
    pub(crate) fn empty(&self) {
        self.disk.replace(MemoryDisk::new());
        self.stores.replace(MemoryStores::new());
        self.counted.set(DiskCounts::default());
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Takes notice of a process that has ended by itself and whose tasks are gone. What it wrote and
    /// did not sync outlives it: the machine runs on.
    pub(super) fn ended(&self, now_ms: u64) -> Option<Ended> {
        let why = self.exit.take()?;
        self.node.replace(None);
        let harms = self.harms.borrow();
        let gone = ["--replace", "cannot prove its state", "an older disk"].iter().any(|part| why.contains(part));
        let has_left = why.contains("removed from the cluster") && harms.contains(&Harm::Leaves);
        let (standing, ended) = if has_left {
            (Standing::Retired(why.clone()), Ended::Retired(why))
        } else if why == STOPPED {
            self.restart_at_ms.set(Some(now_ms + 4 * RESTART_PAUSE_MS));
            (Standing::Down, Ended::Explained(why))
        } else if gone && harms.contains(&Harm::Loses) {
            (Standing::Retired(why.clone()), Ended::Retired(why))
        } else if harms.is_empty() {
            (Standing::Down, Ended::Unexplained(why))
        } else {
            self.restart_at_ms.set(Some(now_ms + RESTART_PAUSE_MS));
            (Standing::Down, Ended::Explained(why))
        };
        self.standing.replace(standing);
        Some(ended)
    }

    pub(super) fn restart_due(&self, now_ms: u64) -> bool {
        let due = self.restart_at_ms.get().is_some_and(|at| at <= now_ms);
        if due {
            self.restart_at_ms.set(None);
        }
        due
    }
}

/// What `kvd` does, without a process around it. An end by itself is left in the machine.
pub(super) async fn serve(machine: Rc<Machine>) -> turmoil::Result {
    machine.clocks.register(&machine.name);
    let Err(why) = run(&machine).await;
    tracing::info!(node = machine.name, why, "the process ends");
    machine.exit.replace(Some(why));
    // The world ends the rest of the process.
    std::future::pending().await
}

async fn run(machine: &Machine) -> Result<std::convert::Infallible, String> {
    let config = machine.config.borrow().clone();
    let (requests_in_flight_max, watch_progress) =
        (config.requests_in_flight_max, Duration::from_millis(config.watch_progress_ms));
    let env = super::env(&machine.name, &machine.network, machine.disk.borrow().clone());
    let listener = env.net.listen(&config.client_listen).await.map_err(|error| error.to_string())?;
    let stores = machine.stores.borrow().clone();
    let open = move |_: &std::path::Path| Ok(Arc::new(stores.open()) as Arc<dyn Engine>);
    let node = Box::pin(Node::start(config, env, open)).await.map_err(|error| error.to_string())?;
    machine.node.replace(Some(node.clone()));
    let api = Api {
        keyspaces: Vec::new(),
        service: Arc::new(node.clone()),
        telemetry: Arc::new(Telemetry::default()),
        requests_in_flight_max,
        watch_progress,
        tls: None,
    };
    tokio::select! {
        biased;
        reason = node.failed() => Err(reason),
        () = machine.stop.notified() => {
            node.shutdown().await;
            Err(STOPPED.to_owned())
        }
        served = api.serve(listener, std::future::pending()) => Err(format!("the client port closed: {served:?}")),
    }
}
