#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
#![allow(clippy::disallowed_types, reason = "sled's files pass no seam")]

use std::io::{self, BufRead as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::history::Views;
use super::*;
use crate::env::disk::{Disk as _, MemoryDisk};
use crate::storage::engine::conformance::{ALL, copy_dir, pairs, put, reopen_sled};
use crate::storage::engine::{Direction, FjallConfig, FjallEngine};

/// Keys of batch `n`: all carry `n` in their value, so that a store shows which batch it is at.
const BATCH_KEYS: u16 = 4;
const VALUE_BYTES: usize = 256;
/// Longer than what sled keeps in its log: it becomes a file of its own.
const BLOB_BYTES: usize = 2_000_000;

fn value(n: u32) -> Bytes {
    n.to_be_bytes().repeat(VALUE_BYTES / 4).into()
}

fn batch(store: StoreId, n: u32) -> Batch {
    let keys = (0..BATCH_KEYS).map(|key| Bytes::copy_from_slice(&key.to_be_bytes()));
    let log = (store, Bytes::copy_from_slice(&[&[0xff][..], &n.to_be_bytes()].concat()), Some(value(n)));
    Batch { writes: keys.map(|key| (store, key, Some(value(n)))).chain([log]).collect() }
}

type Pairs = Vec<(Bytes, Bytes)>;

fn all(engine: &SledEngine, store: StoreId) -> Result<Pairs, EngineError> {
    engine.view(store)?.scan(ALL, Direction::Forward).collect()
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

fn flip(path: &Path, at: u64, bit: u8) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

/// What a damaged copy did.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    RefusedAtOpen,
    RefusedAtRead,
    Panicked,
    Harmless,
    Wrong,
}

fn outcome(dir: &Path, expected: &BTreeMap<StoreId, Pairs>) -> Outcome {
    let engine = match reopen_sled(dir) {
        Ok(engine) => engine,
        Err(error) => {
            assert!(matches!(error, EngineError::Corrupt(_) | EngineError::Io(_)), "{error}");
            return Outcome::RefusedAtOpen;
        }
    };
    for (store, expected) in expected {
        match all(&engine, *store) {
            Ok(pairs) if pairs == *expected => {}
            Ok(_) => return Outcome::Wrong,
            Err(error) => {
                assert!(matches!(error, EngineError::Corrupt(_) | EngineError::NoStore(_)), "{error}");
                return Outcome::RefusedAtRead;
            }
        }
    }
    Outcome::Harmless
}

/// The same without us.
fn outcome_of_sled_alone(dir: &Path, expected: &BTreeMap<StoreId, Pairs>) -> Outcome {
    let read = || -> sled::Result<bool> {
        let database = open::sled_config(&dir.join("sled"), 1 << 20).open()?;
        for (store, expected) in expected {
            let mut found = Pairs::new();
            for pair in database.open_tree(open::tree_name(*store))?.range(vec![1]..vec![2]) {
                let (key, record) = pair?;
                found.push((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(&record[8..])));
            }
            if found != *expected {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match std::panic::catch_unwind(read) {
        Ok(Ok(true)) => Outcome::Harmless,
        Ok(Ok(false)) => Outcome::Wrong,
        Ok(Err(_)) => Outcome::RefusedAtOpen,
        Err(_) => Outcome::Panicked,
    }
}

/// Two stores over several of sled's segments, with files of all kinds.
fn written() -> (tempfile::TempDir, BTreeMap<StoreId, Pairs>) {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let stores = [engine.create_store().unwrap(), engine.create_store().unwrap()];
    for n in 0..2_000 {
        engine.commit(batch(stores[n as usize % 2], n)).unwrap();
    }
    put(&engine, stores[0], b"large", &[7; BLOB_BYTES]);
    engine.flush().unwrap();
    drop(engine);
    // Only an opening makes sled write its snapshot.
    let engine = reopen_sled(dir.path()).unwrap();
    for n in 0..200 {
        engine.commit(batch(stores[n as usize % 2], n)).unwrap();
    }
    engine.flush().unwrap();
    let expected = stores.map(|store| (store, all(&engine, store).unwrap())).into();
    (dir, expected)
}

#[test]
fn damage_is_never_served() {
    let (dir, expected) = written();
    let flips = std::env::var("QUORATE_SLED_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(48);
    let mut seen = BTreeMap::<(&str, Outcome, Outcome), u32>::new();
    let damaged = files(&dir.path().join("sled"));
    for (kind, flips) in [("conf", 4), ("db", flips), ("snap.", 6), ("blobs", 4)] {
        let named = |path: &PathBuf| path.strip_prefix(dir.path().join("sled")).unwrap().display().to_string();
        let path = damaged.iter().find(|path| named(path).starts_with(kind)).unwrap();
        let size = std::fs::metadata(path).unwrap().len();
        for flip_number in 0..flips {
            let at = (size * flip_number / flips + flip_number * 7).min(size - 1);
            let damaged = || {
                let copy = copy_dir(dir.path());
                flip(&copy.path().join(path.strip_prefix(dir.path()).unwrap()), at, (flip_number % 8) as u8);
                copy
            };
            let ours = outcome(damaged().path(), &expected);
            assert!(matches!(ours, Outcome::Harmless | Outcome::RefusedAtOpen), "{ours:?}: byte {at} of {path:?}");
            let alone = outcome_of_sled_alone(damaged().path(), &expected);
            *seen.entry((kind, alone, ours)).or_default() += 1;
        }
    }
    println!("one bit flipped: (file, sled alone, with our proof): {seen:?}");
    assert!(
        seen.keys().any(|(_, alone, ours)| (*alone, *ours) == (Outcome::Wrong, Outcome::RefusedAtOpen)),
        "{seen:?}"
    );
}

#[test]
fn state_from_before_the_last_flush_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    engine.commit(batch(store, 0)).unwrap();
    engine.flush().unwrap();
    let older = copy_dir(dir.path());
    engine.commit(batch(store, 1)).unwrap();
    engine.flush().unwrap();
    drop(engine);
    std::fs::copy(dir.path().join("marks"), older.path().join("marks")).unwrap();
    let Err(EngineError::Corrupt(what)) = reopen_sled(older.path()) else { panic!("the older state was taken") };
    assert!(what.contains("it holds batch 3, but batch 4 was flushed"), "{what}");
}

#[test]
fn missing_and_strange_files_are_named() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 5] = [
        ("marks is missing", |dir| std::fs::remove_file(dir.join("marks")).unwrap()),
        ("marks has the wrong size", |dir| std::fs::write(dir.join("marks"), b"").unwrap()),
        ("all that was flushed is gone", |dir| std::fs::remove_dir_all(dir.join("sled")).unwrap()),
        ("cannot change the io buffer size", |dir| flip(&dir.join("sled/conf"), 15, 0)),
        ("holds the state of the engine fjall", |dir| std::fs::create_dir(dir.join("fjall")).unwrap()),
    ];
    for (message, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let engine = reopen_sled(dir.path()).unwrap();
        engine.create_store().unwrap();
        engine.flush().unwrap();
        drop(engine);
        drop(reopen_sled(dir.path()).unwrap());
        damage(dir.path());
        for _ in 0..2 {
            let Err(error) = reopen_sled(dir.path()) else { panic!("opened: {message}") };
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}

#[test]
fn fjall_refuses_what_sled_has_filled() {
    let dir = tempfile::tempdir().unwrap();
    drop(reopen_sled(dir.path()).unwrap());
    let Err(error) = FjallEngine::open(dir.path(), FjallConfig::default()) else { panic!("opened") };
    assert!(error.to_string().contains("start with --engine sled"), "{error}");
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let Err(EngineError::Io(error)) = SledEngine::open(dir.path(), &SledConfig::default()) else { panic!("twice") };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    put(&engine, StoreId::CATALOG, b"k", b"v");
}

#[test]
fn a_first_opening_that_was_cut_short_is_finished() {
    for cut in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        drop(reopen_sled(dir.path()).unwrap());
        // What lacks is what comes last.
        std::fs::remove_file(dir.path().join("marks")).unwrap();
        match cut {
            0 => {}
            1 => std::fs::write(dir.path().join("sled/db"), b"").unwrap(),
            2 => std::fs::remove_file(dir.path().join("sled/db")).unwrap(),
            _ => {
                std::fs::remove_file(dir.path().join("sled/db")).unwrap();
                std::fs::write(dir.path().join("sled/conf"), b"").unwrap();
            }
        }
        for path in files(dir.path()) {
            if cut > 0 && path.display().to_string().contains("/snap.") {
                std::fs::remove_file(path).unwrap();
            }
        }
        for stores in 1..3 {
            let engine = reopen_sled(dir.path()).unwrap();
            assert_eq!(engine.stores().unwrap().len(), stores, "cut {cut}");
            put(&engine, engine.create_store().unwrap(), b"k", b"v");
            engine.flush().unwrap();
        }
    }
}

#[test]
fn a_view_that_holds_too_much_expires_and_younger_ones_stay() {
    const HISTORY_BYTES: u64 = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig { cache_bytes: 1 << 20, history_bytes: HISTORY_BYTES };
    let engine = SledEngine::open(dir.path(), &config).unwrap();
    let store = engine.create_store().unwrap();
    let write = |n: u8| (0..16u8).for_each(|key| put(&engine, store, &[key], &[n; 1024]));
    let held = || engine.shared.seen.read().history.bytes();
    write(0);
    let oldest = engine.view(store).unwrap();
    let mut scan = oldest.scan(ALL, Direction::Forward);
    assert_eq!(scan.next().unwrap().unwrap().1, vec![0; 1024]);
    // However often a key is overwritten, a view needs it once.
    (1..20).for_each(write);
    assert!((16 * 1024..24 * 1024).contains(&held()), "{}", held());
    let younger: Vec<_> = (20..23u8)
        .map(|n| {
            let view = engine.view(store).unwrap();
            write(n);
            (n - 1, view)
        })
        .collect();
    assert!(held() <= HISTORY_BYTES, "{}", held());
    let expired = |error: Option<EngineError>| matches!(error, Some(EngineError::ViewExpired { .. }));
    assert!(expired(oldest.get(&[0]).err()));
    assert!(expired(oldest.scan(ALL, Direction::Reverse).next().and_then(Result::err)));
    for (n, view) in &younger {
        assert_eq!(pairs(&**view, ALL, Direction::Forward).len(), 16);
        assert_eq!(view.get(&[3]).unwrap().unwrap(), vec![*n; 1024], "an engine that goes on");
    }
    drop(younger);
    assert_eq!(held(), 0, "nobody needs it any more");
    assert_eq!(scan.filter(Result::is_ok).count(), 15, "a page that was fetched in time");
    put(&engine, store, b"k", b"v");
}

#[test]
fn images_are_kept_as_long_as_a_view_needs_them() {
    let mut history = History::new(u64::MAX);
    let mut views = Views::default();
    let (store, key) = (StoreId(1), Bytes::from_static(b"k"));
    let image = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let save = |history: &mut History, views: &mut Views, seqno, before| {
        history.save(seqno, [(store, key.clone(), before)].into_iter(), views);
    };
    save(&mut history, &mut views, 1, None);
    assert!(history.is_empty(), "no view, no image");
    views.add(1);
    save(&mut history, &mut views, 2, image("1"));
    save(&mut history, &mut views, 3, image("2"));
    views.add(3);
    save(&mut history, &mut views, 4, image("3"));
    assert_eq!(history.get(store, &key, 1), Some(&image("1")));
    assert_eq!(history.get(store, &key, 3), Some(&image("3")));
    assert_eq!(history.get(store, &key, 4), None, "the tree has it");
    let walked: Vec<_> = history.range(store, ALL, 3, Direction::Reverse).collect();
    assert_eq!(walked, [(&key, &image("3"))]);
    views.remove(1);
    history.collect(&views);
    assert_eq!(history.get(store, &key, 3), Some(&image("3")));
    views.remove(3);
    history.collect(&views);
    assert!(history.is_empty());
    assert_eq!(history.bytes(), 0);
}

#[test]
fn a_dropped_store_gives_its_pages_back_once_no_view_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let fill = || {
        let store = engine.create_store().unwrap();
        for n in 0..2_000 {
            engine.commit(batch(store, n)).unwrap();
        }
        engine.flush().unwrap();
        store
    };
    let has = |store| engine.database.tree_names().iter().any(|name| **name == *open::tree_name(store).as_bytes());
    let first = fill();
    let size = engine.disk_bytes().unwrap();
    let view = engine.view(first).unwrap();
    engine.drop_store(first).unwrap();
    engine.flush().unwrap();
    assert!(has(first));
    assert_eq!(pairs(&*view, ALL, Direction::Forward).len(), 2_000 + usize::from(BATCH_KEYS));
    drop(view);
    engine.flush().unwrap();
    assert!(!has(first));
    for _ in 0..8 {
        engine.drop_store(fill()).unwrap();
    }
    let after = engine.disk_bytes().unwrap();
    println!("one store: {size} bytes; after nine, all dropped: {after}");
    assert!(after < 5 * size, "{size} {after}");
}

#[test]
fn what_a_killed_drop_left_goes_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let kept = engine.create_store().unwrap();
    engine.database.open_tree("store-77").unwrap().insert(b"\x01k", b"v").unwrap();
    engine.flush().unwrap();
    drop(engine);
    let engine = reopen_sled(dir.path()).unwrap();
    assert_eq!(engine.stores().unwrap(), [StoreId::CATALOG, kept]);
    assert!(!engine.database.tree_names().iter().any(|name| **name == *b"store-77"));
}

/// sled alone leaves all of this to chance.
#[test]
fn a_flush_syncs_every_file_and_every_name() {
    let disk = MemoryDisk::new();
    let files = Files::open(&disk, Path::new("/engine")).unwrap();
    let mut synced = Synced::default();
    let write = |name: &str| {
        let path = files.database().join(name);
        disk.create(&path, 4).unwrap().write_at(b"data", 0).unwrap();
        path
    };
    let paths = ["conf", "db", "snap.0000000000000001", "blobs/17", "blobs/18"].map(write);
    files.sync(&mut synced).unwrap();
    disk.open(&paths[1]).unwrap().write_at(b"more", 0).unwrap();
    files.sync(&mut synced).unwrap();
    disk.crash(&mut || 0);
    let disk = disk.reboot();
    for (path, expected) in paths.iter().zip([b"data", b"more", b"data", b"data", b"data"]) {
        let mut found = [0; 4];
        disk.open(path).unwrap().read_at(&mut found, 0).unwrap();
        assert_eq!(&found, expected, "{path:?}");
    }
}

#[test]
fn a_panic_of_sled_is_an_error_and_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let store = engine.create_store().unwrap();
    engine.commit(batch(store, 0)).unwrap();
    let view = engine.view(store).unwrap();
    // A record that we have not written.
    engine.shared.seen.read().stores[&store].inner.insert(record::pair_key(&[0, 0]), &[1; 20]).unwrap();
    assert!(matches!(view.get(&[0, 0]), Err(EngineError::Corrupt(what)) if what.contains("fails its checksum")));
    let poisoned = |error| matches!(error, EngineError::Poisoned(first) if first.contains("checksum"));
    assert!(poisoned(engine.commit(batch(store, 1)).unwrap_err()));
    assert!(poisoned(engine.flush().unwrap_err()));
    assert!(poisoned(engine.create_store().unwrap_err()));
    assert!(poisoned(engine.drop_store(store).unwrap_err()));
    assert!(engine.view(store).is_err_and(poisoned));
    let caught = guarded(|| -> sled::Result<()> { panic!("as told") });
    assert!(matches!(caught, Err(EngineError::Corrupt(what)) if what.contains("as told")));
}

#[test]
fn records_cannot_be_mixed_up() {
    let (store, other) = (StoreId(1), StoreId(2));
    let key = record::pair_key(b"key");
    let (written, _) = record::encode(store, &key, b"value");
    assert_eq!(record::decode(store, &key, &written).unwrap().1, b"value");
    for (tree, key) in [(other, key.clone()), (store, record::pair_key(b"kez")), (store, record::pair_key(b"keyv"))] {
        assert!(record::decode(tree, &key, &written).is_err());
    }
    for at in 0..written.len() * 8 {
        let mut damaged = written.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(record::decode(store, &key, &damaged).is_err());
    }
    assert!(record::decode(store, &key, &written[..7]).is_err());
}

const VICTIM_DIR: &str = "QUORATE_SLED_VICTIM";

#[test]
#[ignore = "the process that the next test kills"]
fn victim() {
    let dir = std::env::var_os(VICTIM_DIR).unwrap();
    let engine = SledEngine::open(Path::new(&dir), &SledConfig { cache_bytes: 1 << 20, ..SledConfig::default() });
    let engine = engine.unwrap();
    let stores = [StoreId(1), StoreId(2)];
    let written = all(&engine, stores[0]).unwrap().len().saturating_sub(BATCH_KEYS.into()) as u32;
    for n in written.. {
        let writes = stores.iter().flat_map(|store| batch(*store, n).writes).collect();
        engine.commit(Batch { writes }).unwrap();
        if n % 16 == 0 {
            engine.flush().unwrap();
            println!("flushed {n}");
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_flushed_and_no_half_batch() {
    let dir = tempfile::tempdir().unwrap();
    let engine = reopen_sled(dir.path()).unwrap();
    let stores = [engine.create_store().unwrap(), engine.create_store().unwrap()];
    assert_eq!(stores, [StoreId(1), StoreId(2)]);
    engine.flush().unwrap();
    drop(engine);
    for round in 0..6 {
        // The lock of the last round's engine must be gone.
        drop(reopen_sled(dir.path()).unwrap());
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::engine::sled_engine::tests::victim", "--ignored", "--nocapture"])
            .env(VICTIM_DIR, dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = io::BufReader::new(victim.stdout.take().unwrap()).lines();
        let flushed = lines.map(Result::unwrap).filter_map(|line| line.split_once("flushed ")?.1.parse::<u32>().ok());
        let flushed = flushed.take(20 + round).last().expect("the victim has flushed");
        victim.kill().unwrap();
        victim.wait().unwrap();
        let engine = reopen_sled(dir.path()).unwrap();
        let found = stores.map(|store| all(&engine, store).unwrap());
        assert_eq!(found[0], found[1], "half a batch");
        let last = u32::from_be_bytes(found[0][0].1[..4].try_into().unwrap());
        assert!(last >= flushed, "{last} {flushed}");
        assert_eq!(found[0].len(), last as usize + 1 + usize::from(BATCH_KEYS));
        let range = (Bound::Excluded([0xff].as_slice()), Bound::Unbounded);
        let log = pairs(&*engine.view(stores[0]).unwrap(), range, Direction::Forward);
        assert!(log.iter().zip(0..).all(|((_, found), n)| *found == value(n)));
    }
}
