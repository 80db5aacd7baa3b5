//! One suite for every engine: what the trait promises, tried on each implementation.

#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
#![allow(clippy::disallowed_methods, reason = "readers and writers of an engine are threads")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::fjall_engine::{FjallConfig, FjallEngine};
use super::memory::MemoryStores;
use super::{
    Batch, Direction, Engine, EngineError, KeyRange, STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX, StoreId, View,
};

/// An engine on a disk that can lose its power.
pub(super) trait Rig {
    fn new() -> Self;
    fn engine(&self) -> Arc<dyn Engine>;
    /// Opens the disk again; everything that was done is there.
    fn restart(&mut self);
    /// Cuts the power and opens again: at least what was flushed is there.
    fn power_cut(&mut self);
}

pub(super) struct MemoryRig {
    stores: MemoryStores,
    engine: Arc<dyn Engine>,
}

impl Rig for MemoryRig {
    fn new() -> Self {
        let stores = MemoryStores::new();
        Self { engine: Arc::new(stores.open()), stores }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    fn restart(&mut self) {
        self.engine = Arc::new(self.stores.open());
    }

    fn power_cut(&mut self) {
        self.stores.crash(&mut || 0);
        self.restart();
    }
}

pub(super) struct FjallRig {
    dir: tempfile::TempDir,
    engine: Option<Arc<FjallEngine>>,
}

/// Small enough that ordinary tests meet rotations.
pub(super) fn small_config() -> FjallConfig {
    FjallConfig { cache_bytes: 1 << 20, write_buffer_bytes: 4 << 20, worker_threads: 2, ..FjallConfig::default() }
}

impl Rig for FjallRig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = FjallEngine::open(dir.path(), small_config()).unwrap();
        Self { dir, engine: Some(Arc::new(engine)) }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone().unwrap()
    }

    fn restart(&mut self) {
        self.engine = None;
        self.engine = Some(Arc::new(FjallEngine::open(self.dir.path(), small_config()).unwrap()));
    }

    /// The files as they are, without what the process still holds in its buffers.
    fn power_cut(&mut self) {
        let copy = copy_dir(self.dir.path());
        self.engine = None;
        self.dir = copy;
        self.restart();
    }
}

#[cfg(feature = "engine-sled")]
pub(super) struct SledRig {
    dir: tempfile::TempDir,
    engine: Option<Arc<super::SledEngine>>,
}

#[cfg(feature = "engine-sled")]
impl SledRig {
    fn open(dir: &std::path::Path) -> Option<Arc<super::SledEngine>> {
        Some(Arc::new(reopen_sled(dir).unwrap()))
    }
}

/// sled's threads hold its lock for a moment after the engine is gone.
#[cfg(feature = "engine-sled")]
pub(super) fn reopen_sled(dir: &std::path::Path) -> Result<super::SledEngine, EngineError> {
    let config = super::SledConfig { cache_bytes: 1 << 20, ..super::SledConfig::default() };
    for _ in 0..1_000 {
        match super::SledEngine::open(dir, &config) {
            Err(EngineError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
    panic!("sled never lets go of {dir:?}");
}

#[cfg(feature = "engine-sled")]
impl Rig for SledRig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { engine: Self::open(dir.path()), dir }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone().unwrap()
    }

    fn restart(&mut self) {
        self.engine = None;
        self.engine = Self::open(self.dir.path());
    }

    /// The files as they are, without what the process still holds in its buffers.
    fn power_cut(&mut self) {
        let copy = copy_dir(self.dir.path());
        self.engine = None;
        self.dir = copy;
        self.restart();
    }
}

#[allow(clippy::disallowed_types, reason = "the engines' files pass no seam")]
pub(super) fn copy_dir(from: &std::path::Path) -> tempfile::TempDir {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;
    const PREFIX: u64 = 1 << 20;
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else if entry.metadata().unwrap().blocks() * 512 < PREFIX && to.extension() == Some("jnl".as_ref()) {
                // A journal is reserved far beyond its end; what is written begins it.
                let mut data = Vec::new();
                std::fs::File::open(entry.path()).unwrap().take(PREFIX).read_to_end(&mut data).unwrap();
                std::fs::write(&to, data).unwrap();
                let size = entry.metadata().unwrap().len();
                std::fs::OpenOptions::new().write(true).open(&to).unwrap().set_len(size).unwrap();
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

pub(super) const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

pub(super) fn put(engine: &dyn Engine, store: StoreId, key: &[u8], value: &[u8]) {
    let write = (store, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
    engine.commit(Batch { writes: vec![write] }).unwrap();
}

fn delete(engine: &dyn Engine, store: StoreId, key: &[u8]) {
    engine.commit(Batch { writes: vec![(store, Bytes::copy_from_slice(key), None)] }).unwrap();
}

pub(super) fn pairs(view: &dyn View, range: KeyRange<'_>, direction: Direction) -> Vec<(Bytes, Bytes)> {
    view.scan(range, direction).collect::<Result<_, _>>().unwrap()
}

fn keys(view: &dyn View, range: KeyRange<'_>, direction: Direction) -> Vec<Bytes> {
    pairs(view, range, direction).into_iter().map(|(key, _)| key).collect()
}

fn get(engine: &dyn Engine, store: StoreId, key: &[u8]) -> Option<Bytes> {
    engine.view(store).unwrap().get(key).unwrap()
}

macro_rules! suite {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod memory {
            $($(#[$attribute])* #[test] fn $name() { super::$name::<super::MemoryRig>(); })*
        }
        mod fjall {
            $($(#[$attribute])* #[test] fn $name() { super::$name::<super::FjallRig>(); })*
        }
        #[cfg(feature = "engine-sled")]
        mod sled {
            $($(#[$attribute])* #[test] fn $name() { super::$name::<super::SledRig>(); })*
        }
    };
}

suite!(
    reads_what_was_written,
    later_write_in_a_batch_wins,
    view_does_not_change,
    batch_over_stores_is_seen_whole,
    half_a_batch_is_never_seen_while_memtables_are_written_out,
    batch_with_a_missing_store_changes_nothing,
    scans_both_ways_within_all_bounds,
    scan_sees_no_write_that_came_after_its_view,
    empty_and_inverted_ranges_hold_nothing,
    pairs_beyond_the_limits_are_refused,
    largest_key_and_value_and_empty_values,
    view_outlives_its_store,
    dropped_store_is_gone_for_good,
    ids_are_never_reused,
    catalog_store_is_always_there,
    flushed_state_survives_a_power_cut,
    everything_survives_a_restart,
    sixty_four_stores_keep_apart,
    random_operations_match_a_model,
);

fn reads_what_was_written<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    put(&*engine, store, b"a", b"1");
    put(&*engine, store, b"b", b"2");
    put(&*engine, store, b"a", b"3");
    delete(&*engine, store, b"b");
    delete(&*engine, store, b"never written");
    assert_eq!(get(&*engine, store, b"a").as_deref(), Some(b"3".as_slice()));
    assert_eq!(get(&*engine, store, b"b"), None);
    assert_eq!(get(&*engine, store, b""), None);
    assert_eq!(keys(&*engine.view(store).unwrap(), ALL, Direction::Forward), ["a"]);
    assert!(engine.disk_bytes().unwrap() > 0);
    engine.commit(Batch::default()).unwrap();
}

fn later_write_in_a_batch_wins<R: Rig>() {
    let mut rig = R::new();
    let store = rig.engine().create_store().unwrap();
    let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
    let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let writes = vec![
        (store, b.clone(), value("put")),
        (store, a.clone(), value("old")),
        (store, b.clone(), None),
        (store, a.clone(), None),
        (store, a.clone(), value("new")),
    ];
    rig.engine().commit(Batch { writes }).unwrap();
    rig.engine().flush().unwrap();
    for _ in 0..2 {
        assert_eq!(get(&*rig.engine(), store, b"a"), value("new"));
        assert_eq!(get(&*rig.engine(), store, b"b"), None);
        rig.power_cut();
    }
}

fn view_does_not_change<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    put(&*engine, store, b"kept", b"1");
    put(&*engine, store, b"gone", b"1");
    let old = engine.view(store).unwrap();
    let again = engine.view(store).unwrap();
    for round in 0..100u8 {
        put(&*engine, store, b"kept", &[round]);
        put(&*engine, store, &[b'n', round], b"new");
        delete(&*engine, store, b"gone");
        put(&*engine, store, b"back", b"x");
        delete(&*engine, store, b"back");
    }
    for view in [&old, &again] {
        assert_eq!(view.get(b"kept").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(view.get(b"back").unwrap(), None);
        assert_eq!(keys(&**view, ALL, Direction::Forward), ["gone", "kept"]);
        assert_eq!(keys(&**view, ALL, Direction::Reverse), ["kept", "gone"]);
    }
    assert_eq!(keys(&*engine.view(store).unwrap(), ALL, Direction::Forward).len(), 101);
}

fn batch_over_stores_is_seen_whole<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let stores = [engine.create_store().unwrap(), engine.create_store().unwrap()];
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (engine, stop) = (engine.clone(), stop.clone());
        std::thread::spawn(move || {
            for round in 0..1_000u64 {
                let value = Bytes::copy_from_slice(&round.to_be_bytes());
                let write = |store, key: u8| (store, Bytes::copy_from_slice(&[key]), Some(value.clone()));
                let writes = stores.iter().flat_map(|store| (0..32).map(move |key| (*store, key)));
                engine.commit(Batch { writes: writes.map(|(store, key)| write(store, key)).collect() }).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        })
    };
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        // The first view is no newer than the second.
        let seen: Vec<_> = stores
            .iter()
            .map(|store| {
                let view = engine.view(*store).unwrap();
                let values: BTreeSet<_> =
                    pairs(&*view, ALL, Direction::Forward).into_iter().map(|pair| pair.1).collect();
                assert!(values.len() <= 1, "half a batch: {values:?}");
                values.first().cloned()
            })
            .collect();
        assert!(last <= seen[0] && seen[0] <= seen[1], "{last:?} {seen:?}");
        last = seen[1].clone();
    }
    writer.join().unwrap();
}

/// fjall raises its visible sequence number whenever it finishes a table, in the midst of a batch.
fn half_a_batch_is_never_seen_while_memtables_are_written_out<R: Rig>() {
    const KEYS: u16 = 256;
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (engine, stop) = (engine.clone(), stop.clone());
        std::thread::spawn(move || {
            for round in 0..300u64 {
                let mut value = vec![0; 512];
                value[..8].copy_from_slice(&round.to_be_bytes());
                let value = Bytes::from(value);
                let keys = (0..KEYS).map(|key| Bytes::copy_from_slice(&key.to_be_bytes()));
                engine.commit(Batch { writes: keys.map(|key| (store, key, Some(value.clone()))).collect() }).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        })
    };
    while !stop.load(Ordering::Relaxed) {
        let view = engine.view(store).unwrap();
        let (first, last) = (view.get(&0u16.to_be_bytes()).unwrap(), view.get(&(KEYS - 1).to_be_bytes()).unwrap());
        assert_eq!(first, last, "half a batch");
        assert_eq!(view.get(&0u16.to_be_bytes()).unwrap(), first, "the view changed");
    }
    writer.join().unwrap();
}

fn batch_with_a_missing_store_changes_nothing<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    let missing = StoreId(store.0 + 1);
    let write = |store| (store, Bytes::from_static(b"k"), Some(Bytes::from_static(b"v")));
    let error = engine.commit(Batch { writes: vec![write(store), write(missing)] }).unwrap_err();
    assert!(matches!(error, EngineError::NoStore(id) if id == missing), "{error}");
    assert_eq!(get(&*engine, store, b"k"), None);
    assert!(matches!(engine.view(missing), Err(EngineError::NoStore(_))));
    put(&*engine, store, b"k", b"the engine still works");
}

fn scans_both_ways_within_all_bounds<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    let present: Vec<[u8; 2]> = (0..200u16).map(|n| (2 * n + 2).to_be_bytes()).collect();
    for key in &present {
        put(&*engine, store, key, key);
    }
    let view = engine.view(store).unwrap();
    let model: BTreeMap<Bytes, ()> = present.iter().map(|key| (Bytes::copy_from_slice(key), ())).collect();
    let edges: Vec<[u8; 2]> = [0u16, 1, 2, 3, 4, 130, 131, 399, 400, 401, 60_000].map(u16::to_be_bytes).to_vec();
    let bounds = |key: &'_ [u8; 2]| [Bound::Included(key.to_vec()), Bound::Excluded(key.to_vec()), Bound::Unbounded];
    for (start, end) in edges.iter().flat_map(|start| edges.iter().map(move |end| (start, end))) {
        for (start, end) in bounds(start).iter().flat_map(|start| bounds(end).map(|end| (start.clone(), end))) {
            let range = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            let mut expected: Vec<Bytes> = match super::check::is_empty(range) {
                true => Vec::new(),
                false => model.range::<[u8], _>(range).map(|(key, ())| key.clone()).collect(),
            };
            assert_eq!(keys(&*view, range, Direction::Forward), expected, "{range:?}");
            expected.reverse();
            assert_eq!(keys(&*view, range, Direction::Reverse), expected, "{range:?}");
        }
    }
}

fn scan_sees_no_write_that_came_after_its_view<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    for n in 0..1000u16 {
        put(&*engine, store, &(n * 2).to_be_bytes(), b"old");
    }
    for direction in [Direction::Forward, Direction::Reverse] {
        let view = engine.view(store).unwrap();
        let before = pairs(&*view, ALL, direction);
        let mut scan = view.scan(ALL, direction);
        let mut seen: Vec<_> = scan.by_ref().take(10).map(Result::unwrap).collect();
        for n in 0..1000u16 {
            put(&*engine, store, &(n * 2 + 1).to_be_bytes(), b"new");
            if n % 3 == 0 {
                delete(&*engine, store, &(n * 2).to_be_bytes());
            } else {
                put(&*engine, store, &(n * 2).to_be_bytes(), b"newer");
            }
        }
        seen.extend(scan.map(Result::unwrap));
        assert_eq!(seen, before);
    }
}

fn empty_and_inverted_ranges_hold_nothing<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    put(&*engine, store, b"b", b"1");
    let view = engine.view(store).unwrap();
    let (a, b, c): (&[u8], &[u8], &[u8]) = (b"a", b"b", b"c");
    let nothing = [
        (Bound::Included(c), Bound::Included(a)),
        (Bound::Included(c), Bound::Excluded(a)),
        (Bound::Excluded(c), Bound::Excluded(a)),
        (Bound::Included(b), Bound::Excluded(b)),
        (Bound::Excluded(b), Bound::Excluded(b)),
        (Bound::Excluded(b), Bound::Included(b)),
        (Bound::Unbounded, Bound::Excluded(b"")),
        (Bound::Unbounded, Bound::Included(b"")),
        (Bound::Included(b""), Bound::Included(b"")),
    ];
    let one = [
        (Bound::Included(b), Bound::Included(b)),
        (Bound::Included(b""), Bound::Unbounded),
        (Bound::Excluded(b""), Bound::Excluded(c)),
    ];
    for direction in [Direction::Forward, Direction::Reverse] {
        for range in nothing {
            assert!(keys(&*view, range, direction).is_empty(), "{range:?}");
        }
        for range in one {
            assert_eq!(keys(&*view, range, direction), ["b"], "{range:?}");
        }
    }
}

fn pairs_beyond_the_limits_are_refused<R: Rig>() {
    let rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    let good = (store, Bytes::from_static(b"good"), Some(Bytes::new()));
    let bad = [
        (Bytes::new(), Some(Bytes::new())),
        (Bytes::new(), None),
        (vec![1; STORE_KEY_BYTES_MAX + 1].into(), Some(Bytes::new())),
        (Bytes::from_static(b"k"), Some(vec![1; STORE_VALUE_BYTES_MAX + 1].into())),
    ];
    for (key, value) in bad {
        let error = engine.commit(Batch { writes: vec![good.clone(), (store, key, value)] }).unwrap_err();
        assert!(
            matches!(&error, EngineError::Io(error) if error.kind() == std::io::ErrorKind::InvalidInput),
            "{error}"
        );
    }
    assert!(keys(&*engine.view(store).unwrap(), ALL, Direction::Forward).is_empty());
}

fn largest_key_and_value_and_empty_values<R: Rig>() {
    let mut rig = R::new();
    let store = rig.engine().create_store().unwrap();
    let key = vec![7; STORE_KEY_BYTES_MAX];
    let value: Vec<u8> = (0..STORE_VALUE_BYTES_MAX).map(|n| (n % 251) as u8).collect();
    put(&*rig.engine(), store, &key, &value);
    put(&*rig.engine(), store, b"empty", b"");
    rig.engine().flush().unwrap();
    for _ in 0..2 {
        assert!(get(&*rig.engine(), store, &key).as_deref() == Some(&value));
        assert_eq!(get(&*rig.engine(), store, b"empty"), Some(Bytes::new()));
        assert_eq!(
            keys(&*rig.engine().view(store).unwrap(), ALL, Direction::Reverse),
            [b"empty".to_vec(), key.clone()]
        );
        rig.power_cut();
    }
}

fn view_outlives_its_store<R: Rig>() {
    let mut rig = R::new();
    let engine = rig.engine();
    let store = engine.create_store().unwrap();
    for n in 0..300u16 {
        put(&*engine, store, &n.to_be_bytes(), b"value");
    }
    let view = engine.view(store).unwrap();
    let mut scan = view.scan(ALL, Direction::Forward);
    scan.next().unwrap().unwrap();
    engine.drop_store(store).unwrap();
    let other = engine.create_store().unwrap();
    put(&*engine, other, b"other", b"");
    assert_eq!(scan.count(), 299);
    assert_eq!(view.get(&7u16.to_be_bytes()).unwrap().as_deref(), Some(b"value".as_slice()));
    assert_eq!(keys(&*view, ALL, Direction::Reverse).len(), 300);
    drop((view, engine));
    rig.restart();
    assert_eq!(rig.engine().stores().unwrap(), [StoreId::CATALOG, other]);
}

fn dropped_store_is_gone_for_good<R: Rig>() {
    let mut rig = R::new();
    let (kept, dropped) = (rig.engine().create_store().unwrap(), rig.engine().create_store().unwrap());
    put(&*rig.engine(), dropped, b"k", b"v");
    put(&*rig.engine(), kept, b"k", b"v");
    rig.engine().drop_store(dropped).unwrap();
    rig.engine().drop_store(dropped).unwrap();
    rig.engine().flush().unwrap();
    for _ in 0..2 {
        let engine = rig.engine();
        assert_eq!(engine.stores().unwrap(), [StoreId::CATALOG, kept]);
        assert!(matches!(engine.view(dropped), Err(EngineError::NoStore(id)) if id == dropped));
        let late = Batch { writes: vec![(dropped, Bytes::from_static(b"k"), None)] };
        assert!(matches!(engine.commit(late), Err(EngineError::NoStore(id)) if id == dropped));
        assert_eq!(get(&*engine, kept, b"k").as_deref(), Some(b"v".as_slice()));
        drop(engine);
        rig.power_cut();
    }
}

fn ids_are_never_reused<R: Rig>() {
    let mut rig = R::new();
    let mut given = BTreeSet::from([StoreId::CATALOG]);
    for round in 0..6 {
        for n in 0..3 {
            let store = rig.engine().create_store().unwrap();
            assert!(given.insert(store), "store {} came twice", store.0);
            if n != round % 3 {
                rig.engine().drop_store(store).unwrap();
            }
        }
        if round % 2 == 0 {
            rig.power_cut();
        } else {
            rig.restart();
        }
    }
}

fn catalog_store_is_always_there<R: Rig>() {
    let mut rig = R::new();
    assert_eq!(rig.engine().stores().unwrap(), [StoreId::CATALOG]);
    assert!(rig.engine().drop_store(StoreId::CATALOG).is_err());
    put(&*rig.engine(), StoreId::CATALOG, b"k", b"v");
    rig.engine().flush().unwrap();
    rig.power_cut();
    assert_eq!(get(&*rig.engine(), StoreId::CATALOG, b"k").as_deref(), Some(b"v".as_slice()));
}

fn flushed_state_survives_a_power_cut<R: Rig>() {
    let mut rig = R::new();
    let engine = rig.engine();
    let (first, second) = (engine.create_store().unwrap(), engine.create_store().unwrap());
    for n in 0..500u16 {
        put(&*engine, first, &n.to_be_bytes(), b"flushed");
        put(&*engine, second, &n.to_be_bytes(), b"flushed");
    }
    delete(&*engine, first, &3u16.to_be_bytes());
    engine.flush().unwrap();
    let late = [first, second].map(|store| (store, Bytes::from_static(b"late"), Some(Bytes::from_static(b"x"))));
    engine.commit(Batch { writes: late.to_vec() }).unwrap();
    delete(&*engine, second, &4u16.to_be_bytes());
    drop(engine);
    rig.power_cut();
    let engine = rig.engine();
    assert_eq!(engine.stores().unwrap(), [StoreId::CATALOG, first, second]);
    for n in (0..500u16).filter(|n| *n != 3 && *n != 4) {
        assert_eq!(get(&*engine, first, &n.to_be_bytes()).as_deref(), Some(b"flushed".as_slice()), "{n}");
        assert_eq!(get(&*engine, second, &n.to_be_bytes()).as_deref(), Some(b"flushed".as_slice()), "{n}");
    }
    assert_eq!(get(&*engine, first, &3u16.to_be_bytes()), None);
    // What was not flushed came back whole or not at all, and in order.
    let late = [first, second].map(|store| get(&*engine, store, b"late").is_some());
    assert_eq!(late[0], late[1]);
    let deleted = get(&*engine, second, &4u16.to_be_bytes()).is_none();
    assert!(!deleted || late[0]);
}

fn everything_survives_a_restart<R: Rig>() {
    let mut rig = R::new();
    let store = rig.engine().create_store().unwrap();
    for round in 0..4u8 {
        put(&*rig.engine(), store, &[round], &[round]);
        rig.engine().flush().unwrap();
        rig.restart();
        let view = rig.engine().view(store).unwrap();
        let expected: Vec<Vec<u8>> = (0..=round).map(|n| vec![n]).collect();
        assert_eq!(keys(&*view, ALL, Direction::Forward), expected);
    }
}

fn sixty_four_stores_keep_apart<R: Rig>() {
    let mut rig = R::new();
    let stores: Vec<_> = (0..64).map(|_| rig.engine().create_store().unwrap()).collect();
    let write =
        |store: &StoreId| (*store, Bytes::from_static(b"k"), Some(Bytes::copy_from_slice(&store.0.to_be_bytes())));
    rig.engine().commit(Batch { writes: stores.iter().map(write).collect() }).unwrap();
    for store in stores.iter().step_by(2) {
        rig.engine().drop_store(*store).unwrap();
    }
    rig.engine().flush().unwrap();
    rig.power_cut();
    let left: Vec<_> = stores.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(rig.engine().stores().unwrap()[1..], left);
    for store in left {
        assert_eq!(get(&*rig.engine(), store, b"k").as_deref(), Some(store.0.to_be_bytes().as_slice()));
    }
}

fn random_operations_match_a_model<R: Rig>() {
    use super::model::{cases, run};
    let rig = R::new();
    let engine = rig.engine();
    proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    })
    .run(&cases(), |steps| run(&*engine, steps))
    .unwrap();
}
