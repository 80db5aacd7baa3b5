#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::*;
use crate::storage::engine::conformance::{copy_dir, put, small_config};

fn open(dir: &Path) -> Result<FjallEngine, EngineError> {
    FjallEngine::open(dir, small_config())
}

/// Keys of batch `n`: all carry `n` as their value, so that a store shows which batch it is at.
const BATCH_KEYS: u16 = 4;

fn batch(store: StoreId, n: u32) -> Batch {
    let value = Bytes::copy_from_slice(&n.to_be_bytes());
    let keys = (0..BATCH_KEYS).map(|key| Bytes::copy_from_slice(&key.to_be_bytes()));
    let log = (store, Bytes::copy_from_slice(&[&[0xff][..], &n.to_be_bytes()].concat()), Some(value.clone()));
    Batch { writes: keys.map(|key| (store, key, Some(value.clone()))).chain([log]).collect() }
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a store that went through `batches` of [`batch`] holds.
fn state(batches: u32) -> Pairs {
    let Some(last) = batches.checked_sub(1) else { return Vec::new() };
    let keys = (0..BATCH_KEYS).map(|key| (key.to_be_bytes().to_vec(), last.to_be_bytes().to_vec()));
    let log = (0..batches).map(|n| ([&[0xff][..], &n.to_be_bytes()].concat(), n.to_be_bytes().to_vec()));
    keys.chain(log).collect()
}

fn read(engine: &FjallEngine, store: StoreId) -> Result<Pairs, EngineError> {
    let view = engine.view(store)?;
    let scan = view.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    scan.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: usize, bit: u8) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at as u64).unwrap();
}

/// What a damaged copy did.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    RefusedAtOpen,
    RefusedAtRead,
    Harmless,
    /// The store came back whole, at an older batch.
    Older,
    Wrong,
}

fn outcome(dir: &Path, store: StoreId, batches: u32) -> Outcome {
    let engine = match open(dir) {
        Ok(engine) => engine,
        Err(error) => {
            assert!(matches!(error, EngineError::Corrupt(_) | EngineError::Io(_)), "{error}");
            return Outcome::RefusedAtOpen;
        }
    };
    match read(&engine, store) {
        Err(error) => {
            assert!(matches!(error, EngineError::Corrupt(_) | EngineError::NoStore(_)), "{error}");
            Outcome::RefusedAtRead
        }
        Ok(pairs) if pairs == state(batches) => Outcome::Harmless,
        Ok(pairs) if (0..batches).any(|older| pairs == state(older)) => Outcome::Older,
        Ok(_) => Outcome::Wrong,
    }
}

/// Waits for fjall's threads, of whose work nothing else tells.
#[allow(clippy::disallowed_methods, reason = "fjall's threads pass no seam")]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{what} did not come about");
}

fn tables(engine: &FjallEngine) -> usize {
    engine.seen.read().stores.values().map(|store| store.table_count()).sum()
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

fn written_out(batches: u32) -> (tempfile::TempDir, StoreId) {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    for n in 0..batches {
        engine.commit(batch(store, n)).unwrap();
    }
    assert_eq!(engine.rotate_idle().unwrap(), 0, "it was busy until now");
    assert_eq!(engine.rotate_idle().unwrap(), 1);
    wait_until("the table", || tables(&engine) == 1);
    engine.flush().unwrap();
    drop(engine);
    (dir, store)
}

#[test]
fn damage_to_a_table_or_a_manifest_is_never_served() {
    const BATCHES: u32 = 1_000;
    let (dir, store) = written_out(BATCHES);
    let mut seen = BTreeMap::<Outcome, u32>::new();
    let damaged = files(&dir.path().join("fjall/keyspaces"));
    assert!(damaged.len() >= 6, "{damaged:?}");
    for path in damaged {
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        for part in 0..8 {
            if size == 0 {
                continue;
            }
            let copy = copy_dir(dir.path());
            let at = (size * part / 8 + part).min(size - 1);
            flip(&copy.path().join(path.strip_prefix(dir.path()).unwrap()), at, part as u8);
            let outcome = outcome(copy.path(), store, BATCHES);
            assert!(!matches!(outcome, Outcome::Wrong | Outcome::Older), "{outcome:?}: byte {at} of {path:?}");
            *seen.entry(outcome).or_default() += 1;
        }
    }
    println!("one bit flipped in tables and manifests: {seen:?}");
    assert!(seen.contains_key(&Outcome::RefusedAtOpen) && seen.contains_key(&Outcome::RefusedAtRead), "{seen:?}");
}

/// Batches before and after the last flush, all in the journal. Returns it and its flushed bytes.
fn journalled(flushed: u32, batches: u32) -> (tempfile::TempDir, StoreId, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    let journal = dir.path().join("fjall/0.jnl");
    let end = || std::fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for n in 0..flushed {
        engine.commit(batch(store, n)).unwrap();
    }
    engine.flush().unwrap();
    let flushed_bytes = end();
    for n in flushed..batches {
        engine.commit(batch(store, n)).unwrap();
    }
    // To the file, but not into the flush mark.
    engine.database.persist(PersistMode::Buffer).unwrap();
    (copy_dir(dir.path()), store, flushed_bytes, end())
}

#[test]
fn damage_to_the_flushed_part_of_the_journal_is_always_refused() {
    let (saved, store, flushed, end) = journalled(20, 30);
    assert_eq!(outcome(copy_dir(saved.path()).path(), store, 30), Outcome::Harmless);
    for bit in (0..flushed * 8).step_by(397) {
        let copy = copy_dir(saved.path());
        flip(&copy.path().join("fjall/0.jnl"), bit / 8, (bit % 8) as u8);
        let Err(error) = open(copy.path()) else { panic!("bit {bit} of {flushed} bytes was taken") };
        assert!(matches!(&error, EngineError::Corrupt(what) if what.contains("0.jnl at byte")), "{error}");
    }
    assert!(flushed < end);
    // Sequence numbers, which fjall's own checksum leaves out, up and down.
    let data = std::fs::read(saved.path().join("fjall/0.jnl")).unwrap();
    let start = data.windows(5).skip(900).position(|bytes| bytes == [1, 5, 0, 0, 0]).unwrap() + 900;
    for bit in (start + 5) * 8..(start + 13) * 8 {
        let copy = copy_dir(saved.path());
        flip(&copy.path().join("fjall/0.jnl"), bit / 8, (bit % 8) as u8);
        let outcome = outcome(copy.path(), store, 30);
        assert!(matches!(outcome, Outcome::RefusedAtOpen | Outcome::Harmless), "bit {bit}: {outcome:?}");
    }
}

#[test]
fn a_torn_tail_of_the_journal_is_cut_and_nothing_flushed_is_lost() {
    let (saved, store, flushed, end) = journalled(20, 30);
    let torn = |from: usize, to: usize, change: &dyn Fn(u8) -> u8| {
        let copy = copy_dir(saved.path());
        let journal = copy.path().join("fjall/0.jnl");
        let mut data = std::fs::read(&journal).unwrap();
        data[from..to].iter_mut().for_each(|byte| *byte = change(*byte));
        std::fs::write(&journal, data).unwrap();
        let outcome = outcome(copy.path(), store, 30);
        assert_eq!(outcome, Outcome::Older, "bytes {from}..{to} of {flushed}..{end}");
        let engine = open(copy.path()).unwrap();
        let left = read(&engine, store).unwrap();
        let batches = (20..30).find(|batches| left == state(*batches)).expect("no flushed batch is lost");
        // It goes on where it was cut.
        for n in batches..40 {
            engine.commit(batch(store, n)).unwrap();
        }
        engine.flush().unwrap();
        drop(engine);
        assert_eq!(read(&open(copy.path()).unwrap(), store).unwrap(), state(40));
    };
    for from in (flushed..end).step_by(311) {
        torn(from, from + 1, &|byte| byte ^ 4);
        torn(from, end, &|_| 0);
        torn(flushed, from + 1, &|_| 0);
    }
}

#[test]
fn sequence_numbers_ascend_although_the_last_batches_were_for_a_dropped_store() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let kept = engine.create_store().unwrap();
    put(&engine, kept, b"k", b"1");
    let dropped = engine.create_store().unwrap();
    for n in 0..100 {
        engine.commit(batch(dropped, n)).unwrap();
    }
    engine.flush().unwrap();
    engine.drop_store(dropped).unwrap();
    drop(engine);
    for round in 2..5u8 {
        let engine = open(dir.path()).unwrap();
        put(&engine, kept, b"k", &[round]);
        engine.flush().unwrap();
        drop(engine);
        let view = open(dir.path()).unwrap().view(kept).unwrap();
        assert_eq!(view.get(b"k").unwrap().as_deref(), Some([round].as_slice()));
    }
}

#[test]
fn the_space_of_what_was_removed_comes_back() {
    const ROUNDS: u8 = 24;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    // What cannot be packed.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    for round in 0..ROUNDS {
        let value: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        put(&engine, store, &[round], &value);
    }
    // What the disk says, not fjall.
    let files = engine.seen.read().stores[&store].tree.tree_config().path.clone();
    let space = || bytes_below(&files);
    let write_out = || {
        engine.rotate_idle().unwrap();
        engine.rotate_idle().unwrap();
        wait_until("the memtable's end", || engine.seen.read().stores[&store].tree.sealed_memtable_count() == 0);
    };
    write_out();
    assert!(space() > 20 << 20, "{}", space());
    engine.tidy(u64::MAX).unwrap();
    assert!(engine.left.lock().is_empty(), "nothing was removed");
    let view = engine.view(store).unwrap();
    for round in 1..ROUNDS {
        engine.commit(Batch { writes: vec![(store, Bytes::from(vec![round]), None)] }).unwrap();
    }
    write_out();
    engine.tidy(1 << 20).unwrap();
    assert!(space() > 20 << 20, "there is no room for it");
    engine.tidy(u64::MAX).unwrap();
    assert_eq!(view.get(&[7]).unwrap().unwrap().len(), 1 << 20, "a view keeps what it shows");
    let tried = engine.left.lock()[&store].seqno;
    engine.tidy(u64::MAX).unwrap();
    assert_eq!(engine.left.lock()[&store].seqno, tried, "what the view needs is not tried again and again");
    drop(view);
    engine.tidy(u64::MAX).unwrap();
    assert!(space() < 3 << 20, "nothing is in the way, and nothing more needs to happen: {}", space());
    let left = engine.view(store).unwrap();
    assert_eq!(left.get(&[0]).unwrap().unwrap().len(), 1 << 20);
    assert!(left.get(&[7]).unwrap().is_none());
}

#[test]
fn idle_stores_let_journals_go() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let idle = engine.create_store().unwrap();
    let busy = engine.create_store().unwrap();
    put(&engine, idle, b"k", b"v");
    engine.rotate_idle().unwrap();
    let value = vec![1; 1 << 20];
    let fill = |tag: u8| (0..80u8).for_each(|n| put(&engine, busy, &[tag, n], &value));
    fill(0);
    wait_until("a second journal", || engine.journal_count() > 1);
    assert_eq!(engine.rotate_idle().unwrap(), 1, "the idle one alone");
    // Now the other one is idle too, if fjall has not just rotated it by itself.
    engine.rotate_idle().unwrap();
    assert_eq!(engine.rotate_idle().unwrap(), 0);
    wait_until("the old journal's end", || engine.journal_count() == 1);
    engine.flush().unwrap();
    drop(engine);
    let engine = open(dir.path()).unwrap();
    assert_eq!(engine.view(idle).unwrap().get(b"k").unwrap().as_deref(), Some(b"v".as_slice()));
    assert_eq!(engine.view(busy).unwrap().get(&[0, 79]).unwrap().as_deref(), Some(value.as_slice()));
}

#[test]
fn memtables_of_all_stores_together_stay_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let stores: Vec<_> = (0..16).map(|_| engine.create_store().unwrap()).collect();
    let budget = small_config().write_buffer_bytes;
    for n in 0..64u8 {
        for store in &stores {
            put(&engine, *store, &[n], &[n; 16 * 1024]);
        }
        let active: u64 = engine.seen.read().stores.values().map(|store| store.tree.active_memtable().size()).sum();
        assert!(active <= budget / 2 + budget / MEASURE_SHARE + 64 * 1024, "{active} of {budget}");
    }
    assert!(stores.iter().all(|store| engine.view(*store).unwrap().get(&[63]).unwrap().is_some()));
}

#[test]
fn a_first_opening_that_was_cut_short_is_finished() {
    // fjall's files in the order in which they appear, each time without those that come later.
    for cut in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let fjall = dir.path().join("fjall");
        drop(open(dir.path()).unwrap());
        let gone = |name: &str| std::fs::remove_file(dir.path().join(name)).unwrap();
        gone("next-store");
        match cut {
            0 => std::fs::remove_dir_all(&fjall).unwrap(),
            1..=3 => {
                std::fs::remove_dir_all(fjall.join("keyspaces")).unwrap();
                match cut {
                    1 => {
                        gone("fjall/version");
                        gone("fjall/0.jnl");
                    }
                    2 => gone("fjall/version"),
                    _ => std::fs::write(fjall.join("version"), b"").unwrap(),
                }
            }
            4 => std::fs::remove_dir_all(fjall.join("keyspaces/1")).unwrap(),
            _ => {}
        }
        for _ in 0..2 {
            let engine = open(dir.path()).unwrap();
            assert_eq!(engine.stores().unwrap()[0], StoreId::CATALOG, "cut {cut}");
            let store = engine.create_store().unwrap();
            put(&engine, store, b"k", b"v");
            engine.flush().unwrap();
        }
        assert_eq!(open(dir.path()).unwrap().stores().unwrap(), [0, 1, 2].map(StoreId), "cut {cut}");
    }
}

#[test]
fn missing_and_strange_files_are_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 9] = [
        ("next-store fails its checksum", |dir| flip(&dir.join("next-store"), 0, 1)),
        ("next-store is too short", |dir| std::fs::write(dir.join("next-store"), b"1").unwrap()),
        ("next-store is too long", |dir| std::fs::write(dir.join("next-store"), [0; 13]).unwrap()),
        ("flushed is missing", |dir| std::fs::remove_file(dir.join("flushed")).unwrap()),
        ("flushed has the wrong size", |dir| std::fs::write(dir.join("flushed"), b"").unwrap()),
        ("version is missing", |dir| std::fs::remove_file(dir.join("fjall/version")).unwrap()),
        ("is no file of this database", |dir| std::fs::create_dir(dir.join("fjall/keyspaces/stray")).unwrap()),
        ("is no journal of this database", |dir| std::fs::write(dir.join("fjall/stray.jnl"), b"").unwrap()),
        ("the next id is", |dir| std::fs::remove_file(dir.join("next-store")).unwrap()),
    ];
    for (message, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path()).unwrap();
        engine.create_store().unwrap();
        drop(engine);
        damage(dir.path());
        let Err(error) = open(dir.path()) else { panic!("opened: {message}") };
        assert!(error.to_string().contains(message), "{error}");
        assert!(matches!(error, EngineError::Corrupt(_)));
    }
}

#[test]
fn one_damaged_slot_of_the_flush_mark_does_no_harm() {
    let (saved, store, ..) = journalled(20, 20);
    for offset in [0, 4096] {
        let copy = copy_dir(saved.path());
        flip(&copy.path().join("flushed"), offset, 3);
        let both_written = std::fs::read(copy.path().join("flushed")).unwrap()[4096 - offset] != 0;
        match open(copy.path()) {
            Ok(engine) => assert_eq!(read(&engine, store).unwrap(), state(20)),
            Err(error) => assert!(!both_written, "{error}"),
        }
    }
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let Err(EngineError::Io(error)) = open(dir.path()) else { panic!("opened twice") };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    put(&engine, StoreId::CATALOG, b"k", b"v");
}

#[test]
fn errors_are_told_apart() {
    let io = |kind: io::ErrorKind| fjall::Error::Storage(fjall::LsmError::Io(kind.into()));
    assert!(matches!(
        translate(io(io::ErrorKind::StorageFull)),
        EngineError::Io(error) if error.kind() == io::ErrorKind::StorageFull
    ));
    assert!(matches!(translate(io(io::ErrorKind::UnexpectedEof)), EngineError::Corrupt(_)));
    assert!(matches!(translate(fjall::Error::Poisoned), EngineError::Poisoned(_)));
    assert!(matches!(translate(fjall::Error::Unrecoverable), EngineError::Corrupt(_)));
}

/// fjall writes memtables out in the background; nobody waits for that.
#[test]
fn a_failure_in_the_background_is_found_by_the_next_flush() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    engine.commit(batch(store, 0)).unwrap();
    engine.flush().unwrap();
    let path = engine.seen.read().stores[&store].path().to_owned();
    std::fs::remove_dir_all(path.join("tables")).unwrap();
    engine.rotate_idle().unwrap();
    engine.rotate_idle().unwrap();
    let mut failed = None;
    wait_until("the failure", || {
        failed = engine.flush().err();
        failed.is_some()
    });
    assert!(matches!(failed, Some(EngineError::Poisoned(_))), "{failed:?}");
    assert!(matches!(engine.commit(batch(store, 1)), Err(EngineError::Poisoned(_))));
}

#[test]
fn after_a_failure_everything_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    engine.fail(fjall::Error::Io(io::ErrorKind::StorageFull.into()));
    let poisoned = |error| matches!(error, EngineError::Poisoned(first) if first.contains("StorageFull"));
    assert!(poisoned(engine.commit(batch(store, 0)).unwrap_err()));
    assert!(poisoned(engine.create_store().unwrap_err()));
    assert!(poisoned(engine.drop_store(store).unwrap_err()));
    assert!(poisoned(engine.flush().unwrap_err()));
    assert!(poisoned(engine.rotate_idle().unwrap_err()));
    assert!(engine.view(store).is_err_and(poisoned));
}
