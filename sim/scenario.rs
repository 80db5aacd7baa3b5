//! Named runs that stay: one for every bug that a simulation has found, written as an explicit plan
//! so that it means the same when the drawing of plans changes.

use std::time::Duration;

use crate::fault::KINDS;
use crate::plan::{Plan, Planned, Topology};

/// A named run.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What went wrong, and when it was mended.
    pub(crate) about: &'static str,
    pub(crate) plan: fn() -> Plan,
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "carrying-without-gain",
        about: "Old log segments were emptied for ever when frames were mostly padding: the node wrote the same \
            entries again and again without a pause.",
        plan: || Plan {
            topology: Topology { log_segment_bytes: 256 << 10, ..three_nodes() },
            workloads: vec!["sets of unique adds", "counters by session", "bank transfers"],
            faults_until: Duration::from_secs(30),
            ..calm(2)
        },
    },
    Scenario {
        name: "all-segment-headers-damaged",
        about: "A disk that lied took the headers of all log segments with it: the node refused to start, but did not \
            say that it must be replaced.",
        plan: || Plan {
            topology: Topology { log_segment_bytes: 128 << 10, log_entries_kept: 64, ..three_nodes() },
            workloads: vec!["register", "sets of unique adds"],
            faults: vec![fault("lying syncs", 10_637, 14_736, 0x20bf_ae21_e69f_1ed6)],
            think_ms: 200,
            ..calm(777_047)
        },
    },
    Scenario {
        name: "first-replica-lost-before-founding",
        about: "The node whose replica was to found a new shard's group went down before it had: the shard had no \
            leader until that node came back, although a majority was there.",
        plan: || Plan {
            topology: Topology {
                frail: vec!["n1".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(20)),
                log_segment_bytes: 256 << 10,
                log_entries_kept: 200,
                ..three_nodes()
            },
            workloads: vec!["register", "keys with a time to live"],
            faults: vec![fault("misdirected write", 783, 3_134, 0x8ab9_5ccc_f950_49ee)],
            faults_until: Duration::from_secs(30),
            think_ms: 1_500,
            operations_max: 2,
            ..calm(200_594)
        },
    },
    Scenario {
        name: "full-disk-at-start",
        about: "Others had filled the disk while a node was down, or its power went before its ballast was surely \
            gone: the start needed space for the identity before it gave up what is held back for it.",
        plan: || Plan {
            topology: Topology {
                frail: vec!["n1".to_owned()],
                log_entries_kept: 100,
                snapshot_chunk_bytes: 256,
                ..three_nodes()
            },
            workloads: vec!["counters by session"],
            faults: vec![
                fault("full disk", 2_053, 8_802, 0x7875_35b0_bc63_7a92),
                fault("power cut at a moment", 4_385, 12_992, 0x36ec_c53d_dc8d_f55a),
            ],
            think_ms: 80,
            ..calm(300_558)
        },
    },
];

/// A fault of a kind, with the seed of its own choices.
fn fault(kind: &str, at_ms: u64, ends_ms: u64, seed: u64) -> Planned {
    let kind = KINDS.iter().find(|known| known.name == kind).expect("a kind of fault");
    Planned { kind, at_ms, ends_ms, seed }
}

/// Three nodes near each other, which keep all of their logs.
fn three_nodes() -> Topology {
    Topology {
        nodes: vec!["n1".to_owned(), "n2".to_owned(), "n3".to_owned()],
        frail: vec!["n3".to_owned()],
        latency: (Duration::from_micros(200), Duration::from_millis(5)),
        log_segment_bytes: 1 << 20,
        log_entries_kept: 8_192,
        snapshot_chunk_bytes: 256 << 10,
    }
}

/// Busy clients and no faults, from one seed.
fn calm(seed: u64) -> Plan {
    Plan {
        seed,
        topology: three_nodes(),
        workloads: Vec::new(),
        faults: Vec::new(),
        faults_until: Duration::from_secs(20),
        think_ms: 0,
        operations_max: u64::MAX,
    }
}

/// The scenario of a name.
pub(crate) fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
