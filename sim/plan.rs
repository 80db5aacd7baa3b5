//! What a seed says: the shape of the cluster, what its clients do, and what goes wrong when.

use std::time::Duration;

use crate::chance::Chance;
use crate::fault::{KINDS, Kind};
use crate::workload;

/// Runs that have a given workload, in percent. With more of them a run shows more and takes longer.
const WORKLOAD_PERCENT: u64 = 35;

/// The shape of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    /// Names of the nodes.
    pub(crate) nodes: Vec<String>,
    /// A minority whose disks may lose what they promised to keep.
    pub(crate) frail: Vec<String>,
    /// Machines that may join later.
    pub(crate) spares: Vec<String>,
    /// Of a message on a healthy link, shortest and longest.
    pub(crate) latency: (Duration, Duration),
    pub(crate) log_segment_bytes: u64,
    pub(crate) log_entries_kept: u64,
    pub(crate) snapshot_chunk_bytes: usize,
}

/// One fault of a plan.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) kind: &'static Kind,
    pub(crate) at_ms: u64,
    pub(crate) ends_ms: u64,
    /// Seeds its own choices.
    pub(crate) seed: u64,
}

/// A whole run.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) topology: Topology,
    /// Names of the workloads that run.
    pub(crate) workloads: Vec<&'static str>,
    pub(crate) faults: Vec<Planned>,
    /// Faults and new operations until then.
    pub(crate) faults_until: Duration,
    pub(crate) think_ms: u64,
    /// Operations that one client may begin.
    pub(crate) operations_max: u64,
}

/// What a run leaves out of its plan, to make a failure smaller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Less {
    /// Numbers of the faults that stay; all if absent.
    pub(crate) faults: Option<Vec<usize>>,
    pub(crate) workloads: Option<Vec<String>>,
    pub(crate) operations_max: Option<u64>,
    pub(crate) faults_until_ms: Option<u64>,
}

impl Less {
    /// Whether all that it names is there.
    pub(crate) fn fits(&self, plan: &Plan) -> Result<(), String> {
        let known = |name: &&String| workload::ALL.iter().any(|(known, _)| known == name);
        if let Some(unknown) = self.workloads.iter().flatten().find(|name| !known(name)) {
            return Err(format!("there is no workload {unknown:?}; --list names them"));
        }
        let count = plan.faults.len();
        match self.faults.iter().flatten().find(|number| !(1..=count).contains(*number)) {
            Some(number) => Err(format!("there is no fault {number}: the plan has {count}; --trace shows them")),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// The plan of `seed`.
    pub(crate) fn draw(seed: u64) -> Self {
        let chance = Chance::new(seed, "plan");
        let mut topology = Topology::draw(&chance);
        let faults_until =
            if chance.percent(2) { chance.millis(60_000, 180_000) } else { chance.millis(22_000, 32_000) };
        let workloads = draw_workloads(&chance);
        let makes_some = ["keyspaces", "watches of a short history"].iter().any(|name| workloads.contains(name));
        if makes_some && topology.nodes.len() > 3 {
            // Replicas of keyspaces move when some are made or dropped.
            topology.frail.clear();
        }
        let think_ms = *chance.pick(&[80, 250, 600, 1_500]);
        let faults = draw_faults(seed, &chance, faults_until);
        Self { seed, topology, workloads, faults, faults_until, think_ms, operations_max: u64::MAX }
    }

    /// The same without what `less` leaves out, and with the workloads that it names.
    pub(crate) fn without(mut self, less: &Less) -> Self {
        if let Some(kept) = &less.faults {
            let mut number = 0;
            self.faults.retain(|_| {
                number += 1;
                kept.contains(&number)
            });
        }
        if let Some(kept) = &less.workloads {
            let named = workload::ALL.iter().map(|(name, _)| *name).filter(|name| kept.iter().any(|kept| kept == name));
            self.workloads = named.collect();
        }
        self.operations_max = less.operations_max.unwrap_or(self.operations_max);
        if let Some(until) = less.faults_until_ms {
            self.faults_until = self.faults_until.min(Duration::from_millis(until));
        }
        self
    }

    /// One line a fault, with the numbers that [`Less::faults`] means.
    pub(crate) fn describe(&self) -> Vec<String> {
        let shape = format!(
            "{} nodes, frail {:?}, spare {:?}, latency {:?}, segments of {} bytes, {} entries kept, snapshots in {} bytes, thinking {} ms",
            self.topology.nodes.len(),
            self.topology.frail,
            self.topology.spares,
            self.topology.latency,
            self.topology.log_segment_bytes,
            self.topology.log_entries_kept,
            self.topology.snapshot_chunk_bytes,
            self.think_ms,
        );
        let clients = format!("workloads: {}", self.workloads.join(", "));
        let faults = (1..).zip(&self.faults).map(|(number, fault)| {
            let Planned { kind, at_ms, ends_ms, seed } = fault;
            format!("fault {number}: {} from {at_ms} ms to {ends_ms} ms, seed {seed:#x}", kind.name)
        });
        [shape, clients].into_iter().chain(faults).collect()
    }
}

impl Topology {
    fn draw(chance: &Chance) -> Self {
        let count = *chance.pick(&[3, 3, 3, 3, 3, 5, 5, 4, 7]);
        let nodes: Vec<_> = (1..=count).map(|number| format!("n{number}")).collect();
        // Whose disk forgets while replicas move could be a majority before anybody knows.
        let changes = chance.percent(35);
        let frail = if changes { Vec::new() } else { chance.sample(&nodes, (count - 1) / 2) };
        let spares = if changes { chance.between(1, 3) } else { 0 };
        let spares = (1..=spares).map(|number| format!("s{number}")).collect();
        let slowest = *chance.pick(&[2, 5, 5, 20, 50]);
        let latency = (Duration::from_micros(200), Duration::from_millis(slowest));
        let log_segment_bytes = *chance.pick(&[128 << 10, 256 << 10, 1 << 20, 4 << 20]);
        let log_entries_kept = *chance.pick(&[64, 64, 100, 200, 8_192]);
        let snapshot_chunk_bytes = *chance.pick(&[256, 1 << 10, 256 << 10]);
        Self { nodes, frail, spares, latency, log_segment_bytes, log_entries_kept, snapshot_chunk_bytes }
    }
}

/// Most runs have several workloads: each leaves some room for the others.
fn draw_workloads(chance: &Chance) -> Vec<&'static str> {
    let mut drawn: Vec<_> =
        workload::ALL.iter().map(|(name, _)| *name).filter(|_| chance.percent(WORKLOAD_PERCENT)).collect();
    if drawn.is_empty() {
        drawn = vec![chance.pick(workload::ALL).0];
    }
    drawn
}

fn draw_faults(seed: u64, chance: &Chance, until: Duration) -> Vec<Planned> {
    let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    // One run in sixteen is calm: what it finds needs no fault.
    let count = if chance.percent(6) { 0 } else { chance.between(2, 14) * until_ms / 30_000 };
    let whole: u64 = KINDS.iter().map(|kind| kind.weight).sum();
    // Some runs have few kinds of faults, much of each.
    let favourites = chance.percent(30).then(|| chance.sample(KINDS, 3));
    let mut faults: Vec<_> = (0..count)
        .map(|number| {
            let kind: &'static Kind =
                favourites.as_ref().map_or_else(|| weighted(chance.below(whole)), |some| *chance.pick(some));
            let at_ms = chance.between(300, until_ms);
            let lasts_ms = chance.between(kind.lasts_ms.0, kind.lasts_ms.1);
            let seed = Chance::new(seed, &format!("fault {number}")).bits();
            Planned { kind, at_ms, ends_ms: (at_ms + lasts_ms).min(until_ms), seed }
        })
        .collect();
    faults.sort_by_key(|fault| (fault.at_ms, fault.ends_ms, fault.seed));
    faults
}

fn weighted(mut at: u64) -> &'static Kind {
    for kind in KINDS {
        if at < kind.weight {
            return kind;
        }
        at -= kind.weight;
    }
    KINDS[0]
}
