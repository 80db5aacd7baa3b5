use super::*;
use crate::storage::engine::memory::MemoryStores;

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);
const R1: ReplicaId = ReplicaId(11);
const R2: ReplicaId = ReplicaId(12);

fn open(stores: &MemoryStores) -> Catalog {
    Catalog::open(Arc::new(stores.open())).unwrap()
}

fn put(catalog: &Catalog, store: StoreId, value: &'static str) {
    let write = (store, Bytes::from_static(b"k"), Some(Bytes::from_static(value.as_bytes())));
    catalog.engine().commit(Batch { writes: vec![write] }).unwrap();
}

fn value(catalog: &Catalog, store: StoreId) -> Option<Bytes> {
    catalog.engine().view(store).unwrap().get(b"k").unwrap()
}

#[test]
fn names_survive_a_power_cut_in_order() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let first = catalog.create(G2, R1).unwrap();
    let second = catalog.create(G1, R2).unwrap();
    let third = catalog.create(G1, R1).unwrap();
    assert_eq!(catalog.get(G2, R1), Some(first));
    assert_eq!(catalog.get(G2, R2), None);
    stores.crash(&mut || 0);
    let catalog = open(&stores);
    assert_eq!(catalog.list(), [(G1, R1, third), (G1, R2, second), (G2, R1, first)]);
    assert!(catalog.lost().is_empty());
}

#[test]
fn refuses_a_second_store_and_a_foreign_one() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let first = catalog.create(G1, R1).unwrap();
    let before = catalog.engine().stores().unwrap();
    assert!(catalog.create(G1, R1).is_err());
    assert_eq!(catalog.engine().stores().unwrap(), before, "the store it made must go again");
    assert!(catalog.bind(G2, R1, first).is_err());
    assert!(catalog.bind(G2, R1, StoreId::CATALOG).is_err());
    assert!(matches!(catalog.bind(G2, R1, StoreId(99)), Err(EngineError::NoStore(StoreId(99)))));
    assert!(catalog.replace(G1, R1, first).is_err());
    assert!(catalog.replace(G2, R1, first).is_err());
    assert_eq!(catalog.list(), [(G1, R1, first)]);
}

#[test]
fn remove_drops_the_store_for_good() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let store = catalog.create(G1, R1).unwrap();
    catalog.remove(G1, R1).unwrap();
    catalog.remove(G1, R1).unwrap();
    stores.crash(&mut || 0);
    let catalog = open(&stores);
    assert!(catalog.list().is_empty());
    assert!(catalog.engine().view(store).is_err());
}

#[test]
fn opening_drops_what_nobody_names() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let named = catalog.create(G1, R1).unwrap();
    let staging = catalog.engine().create_store().unwrap();
    put(&catalog, staging, "half a snapshot");
    drop(catalog);
    let catalog = open(&stores);
    assert_eq!(catalog.engine().stores().unwrap(), [StoreId::CATALOG, named]);
}

/// Power is cut at every boundary around a replace: the replica has the old state or the new one,
/// whole, and no other store remains.
#[test]
fn replace_is_atomic_at_every_power_cut() {
    let mut outcomes = BTreeMap::new();
    for step in 0..5 {
        for kept in 0..4 {
            let stores = MemoryStores::new();
            let catalog = open(&stores);
            let old = catalog.create(G1, R1).unwrap();
            put(&catalog, old, "old");
            catalog.engine().flush().unwrap();
            let staging = catalog.engine().create_store().unwrap();
            if step > 0 {
                put(&catalog, staging, "new");
            }
            match step {
                // The same operations as in `replace`, cut off after one, two or all of them.
                2 => catalog
                    .engine()
                    .commit(Batch {
                        writes: vec![(
                            StoreId::CATALOG,
                            key(G1, R1),
                            Some(Bytes::copy_from_slice(&staging.0.to_le_bytes())),
                        )],
                    })
                    .unwrap(),
                3 => catalog.write(G1, R1, Some(staging)).unwrap(),
                4 => assert_eq!(catalog.replace(G1, R1, staging).unwrap(), old),
                _ => {}
            }
            stores.crash(&mut || kept);
            let catalog = open(&stores);
            let store = catalog.get(G1, R1).unwrap();
            assert!(catalog.lost().is_empty());
            assert_eq!(catalog.engine().stores().unwrap(), [StoreId::CATALOG, store]);
            let value = value(&catalog, store).unwrap();
            assert_eq!(value, if store == old { "old" } else { "new" });
            if step >= 3 {
                assert_eq!(value, "new", "replace has returned or flushed");
            }
            *outcomes.entry(value).or_insert(0) += 1;
        }
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
}

#[test]
fn a_named_store_that_is_gone_is_reported() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let store = catalog.create(G1, R1).unwrap();
    let kept = catalog.create(G1, R2).unwrap();
    catalog.engine().drop_store(store).unwrap();
    let catalog = open(&stores);
    assert_eq!(catalog.lost(), [(G1, R1)]);
    assert_eq!(catalog.list(), [(G1, R2, kept)]);
    // It can be made anew, and is then no longer lost.
    catalog.create(G1, R1).unwrap();
    assert!(open(&stores).lost().is_empty());
}

#[test]
fn damage_is_named() {
    let cases: [(&[u8], &[u8]); 6] = [
        (&[REPLICA_TAG, 1, 2], &[0; 8]),
        (&[9; REPLICA_KEY_BYTES], &[0; 8]),
        (&[REPLICA_TAG; REPLICA_KEY_BYTES + 1], &[0; 8]),
        (&[REPLICA_TAG; REPLICA_KEY_BYTES], &[0; 7]),
        (FORMAT_KEY, &[2, 0, 0, 0]),
        (FORMAT_KEY, &[1]),
    ];
    for (key, value) in cases {
        let stores = MemoryStores::new();
        let engine = Arc::new(stores.open());
        let write = (StoreId::CATALOG, Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
        engine.commit(Batch { writes: vec![write] }).unwrap();
        let Err(EngineError::Corrupt(what)) = Catalog::open(engine) else { panic!("{key:?} was taken") };
        assert!(what.starts_with("catalog: "), "{what}");
    }
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let store = catalog.create(G1, R1).unwrap();
    catalog.write(G2, R1, Some(store)).unwrap();
    assert!(matches!(Catalog::open(Arc::new(stores.open())), Err(EngineError::Corrupt(_))));
}

#[test]
fn a_full_disk_changes_no_name() {
    let stores = MemoryStores::new();
    let catalog = open(&stores);
    let store = catalog.create(G1, R1).unwrap();
    let staging = catalog.engine().create_store().unwrap();
    stores.set_fault(Some(std::io::ErrorKind::StorageFull));
    for result in [catalog.replace(G1, R1, staging).map(drop), catalog.create(G2, R1).map(drop), catalog.remove(G1, R1)]
    {
        assert!(matches!(result, Err(EngineError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull));
    }
    assert_eq!(catalog.list(), [(G1, R1, store)]);
    stores.set_fault(None);
    assert_eq!(catalog.replace(G1, R1, staging).unwrap(), store);
}
