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
    Scenario {
        name: "write-to-a-dropped-keyspace",
        about: "A keyspace was called dropped as soon as the map said so: a node whose map was old acknowledged a \
            write in it afterwards.",
        plan: || Plan {
            topology: Topology {
                nodes: (1..=7).map(|number| format!("n{number}")).collect(),
                frail: Vec::new(),
                spares: vec!["s1".to_owned()],
                log_entries_kept: 100,
                snapshot_chunk_bytes: 256,
                ..three_nodes()
            },
            workloads: vec![
                "register",
                "sets of unique adds",
                "counters by session",
                "bank transfers",
                "keys with a time to live",
                "metadata",
                "keyspaces",
            ],
            faults_until: Duration::from_secs(12),
            think_ms: 80,
            ..calm(510_006)
        },
    },
    Scenario {
        name: "answer-to-join-lost",
        about: "A member lost the answer to its request that a new node be taken in, and said so: the new node took \
            that for a refusal and ended, where it had only to ask again.",
        plan: || Plan {
            topology: Topology {
                frail: Vec::new(),
                spares: vec!["s1".to_owned(), "s2".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(2)),
                log_segment_bytes: 256 << 10,
                log_entries_kept: 100,
                snapshot_chunk_bytes: 256,
                ..three_nodes()
            },
            workloads: vec![
                "sets of unique adds",
                "scans under a pinned revision",
                "keys with a time to live",
                "metadata",
            ],
            faults: vec![
                fault("router with an old map", 4_160, 9_893, 0x0875_0f16_ca94_6638),
                fault("old disk", 6_366, 8_615, 0xd7e5_0d1e_f03b_1555),
                fault("join", 6_585, 10_586, 0xe05b_8a6a_3fbb_9658),
            ],
            think_ms: 1_500,
            ..calm(510_201)
        },
    },
    Scenario {
        name: "replica-that-never-heard-of-its-end",
        about: "A replica lost its vote and its node did not hear of it, leading the metadata group: it waited for \
            its own replica to know the leader, for ever, and a dropped keyspace never went.",
        plan: || Plan {
            topology: Topology {
                nodes: (1..=5).map(|number| format!("n{number}")).collect(),
                frail: Vec::new(),
                spares: vec!["s1".to_owned(), "s2".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(50)),
                log_entries_kept: 64,
                ..three_nodes()
            },
            workloads: vec![
                "register",
                "counters by session",
                "bank transfers",
                "scans under a pinned revision",
                "keys with a time to live",
                "metadata",
                "keyspaces",
            ],
            faults: vec![
                fault("operate", 642, 1_799, 0xa34d_f5e1_5a8a_6280),
                fault("full disk", 4_879, 6_199, 0xfae7_0df7_ae02_d0f2),
                fault("graceful restart", 5_693, 8_255, 0xed4e_a622_afd1_b7fd),
                fault("half-open connections", 13_137, 18_173, 0x378c_a529_38d8_d039),
                fault("reordering", 13_483, 20_786, 0x6599_5ec5_7e0b_edfa),
                fault("operate", 16_318, 18_787, 0x923b_0f5a_10ee_70bc),
                fault("one-way partition", 16_694, 17_294, 0x1edf_abb6_b258_284a),
                fault("router with an old map", 19_184, 23_366, 0xed9e_52c9_2050_9256),
                fault("misdirected write", 20_762, 22_041, 0x18d5_e268_2bb1_8506),
                fault("one-way partition", 23_427, 24_062, 0xe941_1b16_6f80_e22a),
            ],
            faults_until: Duration::from_millis(24_062),
            think_ms: 80,
            ..calm(510_208)
        },
    },
    Scenario {
        name: "removed-node-that-hears-nothing",
        about: "A node that had no vote was removed before it had heard so: nobody spoke to it any more, and it served \
            its old map for ever.",
        plan: || Plan {
            topology: Topology {
                nodes: (1..=7).map(|number| format!("n{number}")).collect(),
                frail: Vec::new(),
                spares: vec!["s1".to_owned()],
                log_segment_bytes: 128 << 10,
                snapshot_chunk_bytes: 1 << 10,
                ..three_nodes()
            },
            workloads: vec!["scans under a pinned revision"],
            faults: vec![
                fault("power cut at a moment", 395, 10_596, 0xea76_5756_bda3_b590),
                fault("symmetric partition", 3_445, 10_898, 0x52af_6648_d94e_2fc6),
                fault("full disk", 8_371, 11_249, 0x20d0_e499_f303_c82b),
                fault("symmetric partition", 9_111, 9_531, 0x9de1_3e04_c4ec_f5c7),
                fault("half-open connections", 12_064, 20_317, 0x8d6e_ddbf_7892_59ab),
                fault("wall clock drift", 13_953, 20_008, 0x33b5_ddc9_2a29_64bf),
                fault("metadata leader loss", 15_636, 20_745, 0xce50_d7f3_b74e_3a87),
                fault("join", 23_146, 27_007, 0xa8bb_0acb_e681_6331),
                fault("remove", 23_540, 27_016, 0x439f_a113_7062_596b),
            ],
            faults_until: Duration::from_millis(27_016),
            think_ms: 250,
            ..calm(512_276)
        },
    },
    Scenario {
        name: "founder-lost-after-its-election",
        about: "The first replica of a new shard was elected and lost for good before it had sent the first entry to \
            the others: these had voted, so they could not begin anew, and the shard had no leader for ever.",
        plan: || Plan {
            topology: Topology {
                frail: Vec::new(),
                spares: vec!["s1".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(20)),
                log_segment_bytes: 128 << 10,
                log_entries_kept: 100,
                snapshot_chunk_bytes: 1 << 10,
                ..three_nodes()
            },
            workloads: vec!["bank transfers", "metadata", "keyspaces"],
            faults: vec![
                fault("pause", 1_197, 4_440, 0x291f_5c0b_83b5_a4c5),
                fault("leader transfer", 2_008, 2_655, 0x4ab0_f141_607e_48a7),
                fault("power cut at a moment", 2_958, 16_281, 0xeb7f_a8cc_29e9_5e66),
                fault("kill", 3_697, 4_476, 0xf5aa_dc11_45d8_bab1),
                fault("snapshot", 5_996, 13_666, 0x909d_aa5e_fa1f_81e4),
                fault("graceful restart", 8_747, 11_960, 0x35a8_6fd5_f186_bd2c),
                fault("failed sync", 9_531, 12_298, 0xd607_e023_3f12_4f0d),
                fault("kill all", 14_851, 15_971, 0x6a74_436a_53f2_e4c6),
                fault("slow syncs", 19_874, 23_293, 0x9388_4a13_ed06_3167),
                fault("replace", 21_460, 23_293, 0xff6c_af26_257f_04de),
            ],
            faults_until: Duration::from_millis(23_293),
            think_ms: 250,
            ..calm(511_177)
        },
    },
    Scenario {
        name: "progress-without-a-replica",
        about: "A node without a replica of the shard told its watches of progress up to revision 0, which was long \
            past: who waited there for a revision waited for ever.",
        plan: || Plan {
            topology: Topology { nodes: (1..=5).map(|number| format!("n{number}")).collect(), ..three_nodes() },
            workloads: vec!["watches"],
            faults_until: Duration::from_secs(10),
            think_ms: 80,
            ..calm(2)
        },
    },
    Scenario {
        name: "progress-at-a-node-that-lags",
        about: "After all nodes had been killed a node that had not caught up yet, and could not ask a leader, told a \
            watch that came from another node of progress up to a revision long before what it had been shown.",
        plan: || Plan {
            topology: Topology {
                nodes: (1..=4).map(|number| format!("n{number}")).collect(),
                spares: vec!["s1".to_owned()],
                frail: Vec::new(),
                log_segment_bytes: 256 << 10,
                log_entries_kept: 64,
                snapshot_chunk_bytes: 256,
                ..three_nodes()
            },
            workloads: vec!["register", "keys with a time to live", "watches of a short history", "leases"],
            faults: vec![
                fault("snapshot", 1_080, 11_498, 0xe498_c8ea_9465_9208),
                fault("kill all", 4_181, 5_264, 0xa191_43d9_3831_f9da),
            ],
            faults_until: Duration::from_millis(10_029),
            operations_max: 5,
            think_ms: 80,
            ..calm(660_001)
        },
    },
    Scenario {
        name: "operation-to-a-node-that-leaves",
        about: "A replica was on its way to a node that had gone for good, and another took that one's place: the \
            operation waited for ever for a node that nobody expected back.",
        plan: || Plan {
            topology: Topology {
                nodes: (1..=7).map(|number| format!("n{number}")).collect(),
                spares: vec!["s1".to_owned()],
                frail: Vec::new(),
                latency: (Duration::from_micros(200), Duration::from_millis(20)),
                log_segment_bytes: 256 << 10,
                log_entries_kept: 64,
                snapshot_chunk_bytes: 256 << 10,
            },
            workloads: vec!["register"],
            faults: vec![
                fault("power cut in mid-write", 1_636, 4_715, 0xccb3_bd2a_8edd_ac94),
                fault("replace", 19_134, 25_197, 0x6a9b_d65b_3fdf_b556),
                fault("power cut in mid-write", 19_724, 21_975, 0xef85_e9f6_be67_bfc0),
                fault("operate", 21_736, 25_331, 0xe7da_0153_5c6c_5e82),
            ],
            faults_until: Duration::from_millis(73_439),
            operations_max: 2,
            think_ms: 80,
            ..calm(670_101)
        },
    },
    Scenario {
        name: "disk-full-before-it-joined",
        about: "Others filled the disk of a node that waited to be taken in, and had held nothing back: once it was a \
            member it found no room for its log, and ended.",
        plan: || Plan {
            topology: Topology {
                frail: Vec::new(),
                spares: vec!["s1".to_owned(), "s2".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(20)),
                log_segment_bytes: 1 << 20,
                log_entries_kept: 64,
                snapshot_chunk_bytes: 1 << 10,
                ..three_nodes()
            },
            workloads: vec!["leases"],
            faults: vec![
                fault("replace", 2_959, 7_061, 0x03ce_8a70_5530_9113),
                fault("full disk", 3_900, 7_930, 0x41af_5e87_d8f6_f3c4),
            ],
            faults_until: Duration::from_millis(9_000),
            operations_max: 2,
            think_ms: 250,
            ..calm(7_001_676_456_667)
        },
    },
    Scenario {
        name: "records-before-in-a-full-page",
        about: "A page of changes that was filled by other revisions left out what the last one had replaced: a watch \
            with prev_kv got events without it.",
        plan: || Plan {
            topology: Topology {
                frail: Vec::new(),
                spares: vec!["s1".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(2)),
                log_segment_bytes: 4 << 20,
                log_entries_kept: 200,
                ..three_nodes()
            },
            workloads: vec!["watches"],
            faults_until: Duration::from_millis(25_265),
            operations_max: 50,
            think_ms: 80,
            ..calm(720_092)
        },
    },
    Scenario {
        name: "progress-while-a-page-is-shown",
        about: "A page was shown to one watch of a stream after the other, and progress was told in between: of less \
            than the first had been shown.",
        plan: || Plan {
            topology: Topology {
                frail: vec!["n2".to_owned()],
                latency: (Duration::from_micros(200), Duration::from_millis(50)),
                log_entries_kept: 200,
                snapshot_chunk_bytes: 256,
                ..three_nodes()
            },
            workloads: vec!["watches"],
            faults_until: Duration::from_millis(25_000),
            operations_max: 50,
            think_ms: 250,
            ..calm(910_001)
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
        spares: Vec::new(),
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
