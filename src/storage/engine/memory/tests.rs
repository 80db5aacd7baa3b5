use std::collections::BTreeSet;
use std::ops::Bound;

use super::*;
use crate::storage::engine::Direction;

fn write(store: StoreId, key: &str, value: Option<&str>) -> Batch {
    let owned = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Batch { writes: vec![(store, owned(key), value.map(owned))] }
}

type Content = Vec<(StoreId, Vec<(Bytes, Bytes)>)>;

/// Everything on the disk.
fn content(engine: &dyn Engine) -> Content {
    let read = |store| {
        let view = engine.view(store).unwrap();
        view.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward).collect::<Result<_, _>>().unwrap()
    };
    engine.stores().unwrap().into_iter().map(|store| (store, read(store))).collect()
}

/// Does the operations of one scenario and returns the content after each, from the flush on.
fn scenario(stores: &MemoryStores) -> Vec<Content> {
    let engine = stores.open();
    let first = engine.create_store().unwrap();
    let second = engine.create_store().unwrap();
    engine.commit(write(first, "a", Some("1"))).unwrap();
    engine.commit(write(first, "b", Some("1"))).unwrap();
    engine.flush().unwrap();
    let mut boundaries = vec![content(&engine)];
    let third = StoreId(second.0 + 1);
    let steps: Vec<Box<dyn Fn()>> = vec![
        Box::new(|| engine.commit(write(first, "a", Some("2"))).unwrap()),
        Box::new(|| engine.commit(write(first, "b", None)).unwrap()),
        Box::new(|| assert_eq!(engine.create_store().unwrap(), third)),
        Box::new(|| engine.commit(write(third, "x", Some("1"))).unwrap()),
        Box::new(|| {
            let writes = [write(first, "b", Some("3")), write(third, "x", None), write(second, "y", Some("1"))];
            engine.commit(Batch { writes: writes.into_iter().flat_map(|batch| batch.writes).collect() }).unwrap();
        }),
        Box::new(|| engine.drop_store(first).unwrap()),
        Box::new(|| engine.commit(write(third, "x", Some("4"))).unwrap()),
        Box::new(|| engine.drop_store(third).unwrap()),
    ];
    for step in steps {
        step();
        boundaries.push(content(&engine));
    }
    boundaries
}

#[test]
fn a_crash_falls_back_to_every_boundary_since_the_flush_and_to_nothing_else() {
    let boundaries = scenario(&MemoryStores::new()).len() as u64;
    let mut seen = BTreeSet::new();
    for chance in 0..boundaries {
        let stores = MemoryStores::new();
        let expected = scenario(&stores);
        stores.crash(&mut || chance);
        let after = content(&stores.open());
        assert_eq!(after, expected[usize::try_from(chance).unwrap()]);
        seen.insert(format!("{after:?}"));
        // A second crash without new writes changes nothing.
        stores.crash(&mut || u64::MAX);
        assert_eq!(content(&stores.open()), after);
        // No id comes twice, whether its store was undone or dropped.
        assert_eq!(stores.open().create_store().unwrap(), StoreId(4));
    }
    assert_eq!(seen.len() as u64, boundaries, "all boundaries differ");
}

#[test]
fn history_before_a_crash_is_not_seen_by_views_after_it() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    engine.commit(write(store, "a", Some("1"))).unwrap();
    engine.flush().unwrap();
    let old = engine.view(store).unwrap();
    engine.commit(write(store, "a", None)).unwrap();
    engine.commit(write(store, "b", Some("2"))).unwrap();
    stores.crash(&mut || 1);
    let engine = stores.open();
    let view = engine.view(store).unwrap();
    engine.commit(write(store, "a", Some("3"))).unwrap();
    drop(old);
    assert_eq!(view.get(b"a").unwrap(), None);
    assert_eq!(view.get(b"b").unwrap(), None);
    assert_eq!(engine.view(store).unwrap().get(b"a").unwrap().as_deref(), Some(b"3".as_slice()));
}

#[test]
fn engines_and_views_from_before_a_crash_are_dead() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    for n in 0..200 {
        engine.commit(write(store, &format!("{n:03}"), Some("v"))).unwrap();
    }
    engine.flush().unwrap();
    let view = engine.view(store).unwrap();
    let mut scan = view.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    assert!(scan.next().unwrap().is_ok());
    stores.crash(&mut || 0);
    let poisoned = |error| matches!(error, EngineError::Poisoned(_));
    assert!(poisoned(engine.create_store().unwrap_err()));
    assert!(poisoned(engine.stores().unwrap_err()));
    assert!(poisoned(engine.drop_store(store).unwrap_err()));
    assert!(poisoned(engine.commit(write(store, "a", None)).unwrap_err()));
    assert!(poisoned(engine.commit(Batch::default()).unwrap_err()));
    assert!(engine.view(store).is_err_and(poisoned));
    assert!(poisoned(engine.flush().unwrap_err()));
    assert!(poisoned(engine.disk_bytes().unwrap_err()));
    assert!(poisoned(view.get(b"000").unwrap_err()));
    let rest: Vec<_> = scan.collect();
    assert!(rest.into_iter().next_back().unwrap().is_err_and(poisoned), "a scan never ends as if it were complete");
    assert_eq!(content(&stores.open())[1].1.len(), 200);
}

#[test]
fn versions_go_once_no_view_can_see_them() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    let versions = || engine.state.lock().stores[&store].read().versions();
    for _ in 0..100 {
        engine.commit(write(store, "a", Some("v"))).unwrap();
    }
    assert_eq!(versions(), 1, "nobody looks");
    let views: Vec<_> = (0..10)
        .map(|_| {
            engine.commit(write(store, "a", Some("v"))).unwrap();
            engine.view(store).unwrap()
        })
        .collect();
    for _ in 0..100 {
        engine.commit(write(store, "a", Some("v"))).unwrap();
    }
    assert_eq!(versions(), 11, "one for each view and the newest");
    engine.commit(write(store, "a", None)).unwrap();
    drop(views);
    for _ in 0..5 {
        engine.commit(write(store, "other", Some("v"))).unwrap();
    }
    assert_eq!(versions(), 1, "the tombstone and all before it are gone");
    assert!(engine.state.lock().superseded.is_empty());
    assert!(engine.state.lock().views.is_empty());
}

#[test]
fn counts_its_bytes() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    let _view = engine.view(store).unwrap();
    engine.commit(write(store, "ab", Some("cde"))).unwrap();
    assert_eq!(engine.disk_bytes().unwrap(), 5);
    engine.commit(write(store, "ab", Some("c"))).unwrap();
    assert_eq!(engine.disk_bytes().unwrap(), 3);
    engine.commit(write(store, "ab", None)).unwrap();
    assert_eq!(engine.disk_bytes().unwrap(), 0);
    engine.commit(write(store, "ab", Some("x"))).unwrap();
    assert_eq!(engine.disk_bytes().unwrap(), 3);
    stores.crash(&mut || 3);
    assert_eq!(stores.open().disk_bytes().unwrap(), 3);
}

#[test]
fn a_damaged_value_is_never_served() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    for key in ["a", "b", "c"] {
        engine.commit(write(store, key, Some("v"))).unwrap();
    }
    stores.corrupt(store, b"b");
    let view = engine.view(store).unwrap();
    assert!(matches!(view.get(b"b"), Err(EngineError::Corrupt(what)) if what.contains("key b")));
    assert!(view.get(b"a").unwrap().is_some());
    for direction in [Direction::Forward, Direction::Reverse] {
        let scan: Vec<_> =
            view.scan((Bound::Unbounded, Bound::Unbounded), direction).map(|pair| pair.is_ok()).collect();
        assert_eq!(scan, [true, false, true]);
    }
    engine.commit(write(store, "b", Some("w"))).unwrap();
    assert_eq!(engine.view(store).unwrap().get(b"b").unwrap().as_deref(), Some(b"w".as_slice()));
}

#[test]
fn an_image_holds_what_was_flushed_and_is_put_back_whole() {
    let stores = MemoryStores::new();
    let flushed = scenario(&stores).remove(0);
    let image = stores.image();
    let engine = stores.open();
    let latest = content(&engine);
    assert_ne!(latest, flushed, "taking an image changes nothing");
    engine.flush().unwrap();
    stores.restore(&image);
    assert!(engine.flush().is_err(), "what was opened before is dead");
    assert_eq!(content(&stores.open()), flushed);
    stores.crash(&mut || 0);
    assert_eq!(content(&stores.open()), flushed, "what was put back is durable");
    stores.open().commit(write(flushed[1].0, "a", Some("other"))).unwrap();
    stores.restore(&image);
    assert_eq!(content(&stores.open()), flushed, "an image is not what became of it");
}

#[test]
fn a_feigned_flush_may_lose() {
    let stores = MemoryStores::new();
    let engine = stores.open();
    let store = engine.create_store().unwrap();
    engine.flush().unwrap();
    stores.lie_about_flushes(true);
    engine.commit(write(store, "a", Some("1"))).unwrap();
    engine.flush().unwrap();
    stores.crash(&mut || 0);
    assert_eq!(stores.open().view(store).unwrap().get(b"a").unwrap(), None);
    stores.lie_about_flushes(false);
    stores.open().commit(write(store, "a", Some("2"))).unwrap();
    stores.open().flush().unwrap();
    stores.crash(&mut || 0);
    assert!(stores.open().view(store).unwrap().get(b"a").unwrap().is_some());
}
