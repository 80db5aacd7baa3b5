//! How fast is each engine at loading, overwriting, reading at random and scanning?
//!
//! 16-byte keys, 256-byte values, batches of 64. Small by default, so that it runs as a test;
//! `QUORATE_BENCH_KEYS=1000000 cargo bench --bench engine` measures.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has nothing to say")]

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use quorate::storage::engine::fjall_engine::{FjallConfig, FjallEngine};
use quorate::storage::engine::memory::MemoryStores;
use quorate::storage::engine::{Batch, Direction, Engine, StoreId};
#[cfg(feature = "engine-sled")]
use quorate::storage::engine::{SledConfig, SledEngine};

const BATCH: u64 = 64;
const VALUE_BYTES: usize = 256;
const SCAN_PAIRS: usize = 100;
/// Reads for each sample.
const READS: u64 = 1_000;

fn main() {
    divan::main();
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Fjall,
    Memory,
    #[cfg(feature = "engine-sled")]
    Sled,
}

#[cfg(not(feature = "engine-sled"))]
const KINDS: [Kind; 2] = [Kind::Fjall, Kind::Memory];
#[cfg(feature = "engine-sled")]
const KINDS: [Kind; 3] = [Kind::Fjall, Kind::Memory, Kind::Sled];

/// An engine with one store, and the directory under it.
struct Rig {
    engine: Arc<dyn Engine>,
    store: StoreId,
    _dir: Option<tempfile::TempDir>,
}

impl Rig {
    fn new(kind: Kind) -> Self {
        let (engine, dir): (Arc<dyn Engine>, _) = match kind {
            Kind::Memory => (Arc::new(MemoryStores::new().open()), None),
            Kind::Fjall => {
                let dir = tempfile::tempdir().expect("a directory");
                let engine = FjallEngine::open(dir.path(), FjallConfig::default()).expect("an engine");
                (Arc::new(engine), Some(dir))
            }
            #[cfg(feature = "engine-sled")]
            Kind::Sled => {
                let dir = tempfile::tempdir().expect("a directory");
                let engine = SledEngine::open(dir.path(), &SledConfig::default()).expect("an engine");
                (Arc::new(engine), Some(dir))
            }
        };
        let store = engine.create_store().expect("a store");
        Self { engine, store, _dir: dir }
    }

    fn loaded(kind: Kind) -> Self {
        let rig = Self::new(kind);
        rig.write_all(1);
        rig
    }

    /// Writes every key once, in an order without a pattern.
    fn write_all(&self, round: u64) {
        let keys = keys();
        for first in (0..keys).step_by(usize::try_from(BATCH).expect("small")) {
            let writes = (first..keys.min(first + BATCH)).map(|n| (self.store, key(n), Some(value(n, round))));
            self.engine.commit(Batch { writes: writes.collect() }).expect("a commit");
        }
        self.engine.flush().expect("a flush");
    }
}

fn keys() -> u64 {
    std::env::var("QUORATE_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(2_000)
}

/// A bijection that scatters counters (the finalizer of SplitMix64).
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn key(n: u64) -> Bytes {
    Bytes::from([scatter(n).to_be_bytes(), n.to_be_bytes()].concat())
}

/// Bytes that do not compress.
fn value(n: u64, round: u64) -> Bytes {
    let words = (0..VALUE_BYTES as u64 / 8).flat_map(|word| scatter(n ^ (round << 40) ^ (word << 52)).to_le_bytes());
    words.collect::<Vec<_>>().into()
}

#[divan::bench(args = KINDS, sample_count = 3, sample_size = 1)]
fn load(bencher: Bencher<'_, '_>, kind: Kind) {
    bencher.counter(ItemsCount::new(keys())).with_inputs(|| Rig::new(kind)).bench_local_refs(|rig| rig.write_all(1));
}

#[divan::bench(args = KINDS, sample_count = 3, sample_size = 1)]
fn overwrite(bencher: Bencher<'_, '_>, kind: Kind) {
    let rig = Rig::loaded(kind);
    let mut round = 1;
    bencher.counter(ItemsCount::new(keys())).bench_local(|| {
        round += 1;
        rig.write_all(round);
    });
}

#[divan::bench(args = KINDS, sample_count = 10, sample_size = 1)]
fn random_get(bencher: Bencher<'_, '_>, kind: Kind) {
    let rig = Rig::loaded(kind);
    let mut at = 0;
    bencher.counter(ItemsCount::new(READS)).bench_local(|| {
        for _ in 0..READS {
            at += 1;
            let view = rig.engine.view(rig.store).expect("a view");
            let value = view.get(&key(scatter(at) % keys())).expect("a read");
            assert_eq!(black_box(value).map(|value| value.len()), Some(VALUE_BYTES));
        }
    });
}

#[divan::bench(args = KINDS, sample_count = 10, sample_size = 1)]
fn scan_of_100(bencher: Bencher<'_, '_>, kind: Kind) {
    let rig = Rig::loaded(kind);
    let mut at = 0;
    bencher.counter(ItemsCount::new(READS)).bench_local(|| {
        for _ in 0..READS {
            at += 1;
            let view = rig.engine.view(rig.store).expect("a view");
            let start = key(scatter(at) % keys());
            let range = (Bound::Included(start.as_ref()), Bound::Unbounded);
            let pairs = view.scan(range, Direction::Forward).take(SCAN_PAIRS);
            assert!(black_box(pairs.filter(Result::is_ok).count()) > 0);
        }
    });
}
