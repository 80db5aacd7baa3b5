#![allow(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

use proptest::prelude::*;

use super::*;
use crate::storage::engine::memory::{MemoryEngine, MemoryStores};

fn engine() -> Arc<MemoryEngine> {
    Arc::new(MemoryStores::new().open())
}

fn filled(engine: &MemoryEngine, pairs: &[(Vec<u8>, Vec<u8>)]) -> StoreId {
    let store = engine.create_store().unwrap();
    for (key, value) in pairs {
        let write = (store, key.clone().into(), Some(value.clone().into()));
        engine.commit(Batch { writes: vec![write] }).unwrap();
    }
    store
}

fn content(engine: &MemoryEngine, store: StoreId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let view = engine.view(store).unwrap();
    let scan = view.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    scan.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
}

fn send(engine: &MemoryEngine, store: StoreId) -> (Vec<SnapshotChunk>, SnapshotFooter) {
    let mut sender = Sender::new(engine.view(store).unwrap(), CHUNK_BYTES_TARGET);
    let chunks: Vec<_> = sender.by_ref().collect::<Result<_, _>>().unwrap();
    (chunks, sender.footer())
}

fn receive(
    engine: &Arc<MemoryEngine>,
    chunks: Vec<SnapshotChunk>,
    footer: &SnapshotFooter,
) -> Result<StoreId, StreamError> {
    let mut receiver = Receiver::new(engine.clone())?;
    for chunk in chunks {
        receiver.chunk(chunk)?;
    }
    receiver.finish(footer)
}

/// Enough pairs for several chunks.
fn sample() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..2_000u32).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; 500])).collect()
}

fn chunk(sequence: u64, data: Vec<u8>) -> SnapshotChunk {
    SnapshotChunk { sequence, checksum: checksum(&data, sequence), data: data.into() }
}

fn raw_pair(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend_from_slice(&(key.len() as u32).to_le_bytes());
    data.extend_from_slice(&(value.len() as u32).to_le_bytes());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    data
}

#[test]
fn carries_a_store_over_in_chunks_of_the_target_size() {
    let (from, to) = (engine(), engine());
    let store = filled(&from, &sample());
    let (chunks, footer) = send(&from, store);
    assert_eq!(chunks.len() as u64, footer.chunks);
    assert_eq!(footer.pairs, 2_000);
    assert_eq!(chunks.len(), 4);
    assert!(chunks.iter().all(|chunk| chunk.data.len() <= CHUNK_BYTES_TARGET));
    assert!(chunks[..3].iter().all(|chunk| chunk.data.len() > CHUNK_BYTES_TARGET - 512));
    let received = receive(&to, chunks, &footer).unwrap();
    assert_eq!(content(&to, received), sample());
}

#[test]
fn an_empty_store_is_a_footer_alone() {
    let (from, to) = (engine(), engine());
    let store = filled(&from, &[]);
    let (chunks, footer) = send(&from, store);
    assert!(chunks.is_empty());
    let received = receive(&to, chunks, &footer).unwrap();
    assert!(content(&to, received).is_empty());
}

#[test]
fn the_largest_pair_goes_in_a_chunk_of_its_own() {
    let (from, to) = (engine(), engine());
    let large = (vec![5; STORE_KEY_BYTES_MAX], vec![9; STORE_VALUE_BYTES_MAX]);
    let pairs = vec![(vec![1], vec![1]), large, (vec![6], vec![])];
    let store = filled(&from, &pairs);
    let (chunks, footer) = send(&from, store);
    let sizes: Vec<_> = chunks.iter().map(|chunk| chunk.data.len()).collect();
    assert_eq!(sizes, [10, CHUNK_BYTES_MAX, 9]);
    let received = receive(&to, chunks, &footer).unwrap();
    assert!(content(&to, received) == pairs);
}

#[test]
fn the_sender_sees_no_later_write() {
    let from = engine();
    let store = filled(&from, &sample());
    let mut sender = Sender::new(from.view(store).unwrap(), CHUNK_BYTES_TARGET);
    let mut chunks = vec![sender.next().unwrap().unwrap()];
    for (key, _) in sample() {
        from.commit(Batch { writes: vec![(store, key.into(), None)] }).unwrap();
    }
    from.drop_store(store).unwrap();
    chunks.extend(sender.by_ref().map(Result::unwrap));
    let to = engine();
    let received = receive(&to, chunks, &sender.footer()).unwrap();
    assert_eq!(content(&to, received), sample());
}

/// The layout as in `docs/format.md`, to the byte.
#[test]
fn the_layout_never_changes() {
    let from = engine();
    let store = filled(&from, &[(b"a".to_vec(), b"one".to_vec()), (b"bc".to_vec(), vec![])]);
    let (chunks, footer) = send(&from, store);
    let data = b"\x01\0\0\0\x03\0\0\0aone\x02\0\0\0\0\0\0\0bc";
    assert_eq!(chunks, [SnapshotChunk { sequence: 0, checksum: 0xfa53_23d4, data: data.to_vec().into() }]);
    assert_eq!(footer, SnapshotFooter { chunks: 1, pairs: 2, hash: crate::types::hash::slot(data) });
    assert_eq!(footer.hash, 11_353_290_540_685_054_533);
}

#[test]
fn every_flipped_byte_is_noticed_and_leaves_nothing() {
    let (from, to) = (engine(), engine());
    let store = filled(&from, &[(b"a".to_vec(), b"one".to_vec()), (b"b".to_vec(), b"two".to_vec())]);
    let (chunks, footer) = send(&from, store);
    for at in 0..chunks[0].data.len() {
        let mut damaged = chunks.clone();
        let mut data = damaged[0].data.to_vec();
        data[at] ^= 0x10;
        damaged[0].data = data.into();
        assert!(matches!(receive(&to, damaged, &footer), Err(StreamError::Checksum(0))));
    }
    for damaged in [
        SnapshotFooter { chunks: footer.chunks + 1, ..footer },
        SnapshotFooter { pairs: footer.pairs - 1, ..footer },
        SnapshotFooter { hash: footer.hash ^ 1, ..footer },
    ] {
        assert!(matches!(receive(&to, chunks.clone(), &damaged), Err(StreamError::Footer { .. })));
    }
    assert_eq!(to.stores().unwrap(), [StoreId::CATALOG]);
}

#[test]
fn missing_repeated_and_swapped_chunks_are_noticed() {
    let (from, to) = (engine(), engine());
    let store = filled(&from, &sample());
    let (chunks, footer) = send(&from, store);
    let pick = |order: &[usize]| order.iter().map(|at| chunks[*at].clone()).collect::<Vec<_>>();
    for order in [vec![1, 2, 3], vec![0, 0, 1, 2, 3], vec![0, 2, 1, 3], vec![0, 1, 3]] {
        let error = receive(&to, pick(&order), &footer).unwrap_err();
        assert!(matches!(error, StreamError::Sequence { .. }), "{order:?}: {error}");
    }
    assert!(matches!(receive(&to, pick(&[0, 1, 2]), &footer), Err(StreamError::Footer { what: "chunks", .. })));
    // A chunk under another's number: its checksum covers the number.
    let mut renumbered = pick(&[0, 2]);
    renumbered[1].sequence = 1;
    assert!(matches!(receive(&to, renumbered, &footer), Err(StreamError::Checksum(1))));
    assert_eq!(to.stores().unwrap(), [StoreId::CATALOG]);
}

#[test]
fn chunks_that_no_sender_makes_are_refused() {
    let long = |key: u32, value: u32| [key.to_le_bytes(), value.to_le_bytes()].concat();
    let two = |first: &[u8], second: &[u8]| [raw_pair(first, b""), raw_pair(second, b"")].concat();
    let cases = [
        vec![],
        vec![1],
        vec![1, 0, 0, 0, 0, 0, 0],
        long(1, 0),
        long(u32::MAX, u32::MAX),
        long(STORE_KEY_BYTES_MAX as u32 + 1, 0),
        long(1, STORE_VALUE_BYTES_MAX as u32 + 1),
        raw_pair(b"", b"value"),
        two(b"b", b"a"),
        two(b"a", b"a"),
        [raw_pair(b"a", b"1"), vec![0]].concat(),
        [raw_pair(&[1; STORE_KEY_BYTES_MAX], &vec![1; STORE_VALUE_BYTES_MAX]), vec![0]].concat(),
    ];
    let to = engine();
    for data in cases {
        let mut receiver = Receiver::new(to.clone()).unwrap();
        let error = receiver.chunk(chunk(0, data)).unwrap_err();
        assert!(matches!(error, StreamError::Malformed { sequence: 0, .. }), "{error}");
        // Nothing mends it.
        assert!(receiver.chunk(chunk(0, raw_pair(b"a", b"1"))).is_err());
        assert!(receiver.finish(&Tally::default().footer()).is_err());
        assert_eq!(to.stores().unwrap(), [StoreId::CATALOG]);
    }
    // Keys ascend over chunks too.
    let mut receiver = Receiver::new(to.clone()).unwrap();
    receiver.chunk(chunk(0, raw_pair(b"b", b""))).unwrap();
    assert!(matches!(receiver.chunk(chunk(1, raw_pair(b"b", b""))), Err(StreamError::Malformed { sequence: 1, .. })));
}

#[test]
fn a_dropped_receiver_leaves_nothing() {
    let to = engine();
    let mut receiver = Receiver::new(to.clone()).unwrap();
    receiver.chunk(chunk(0, raw_pair(b"a", b""))).unwrap();
    assert_eq!(to.stores().unwrap().len(), 2);
    drop(receiver);
    assert_eq!(to.stores().unwrap(), [StoreId::CATALOG]);
}

#[test]
fn a_full_disk_voids_the_snapshot() {
    let stores = MemoryStores::new();
    let to: Arc<MemoryEngine> = Arc::new(stores.open());
    let mut receiver = Receiver::new(to.clone()).unwrap();
    stores.set_fault(Some(std::io::ErrorKind::StorageFull));
    let error = receiver.chunk(chunk(0, raw_pair(b"a", b""))).unwrap_err();
    assert!(matches!(error, StreamError::Engine(EngineError::Io(_))), "{error}");
    stores.set_fault(None);
    assert!(receiver.chunk(chunk(0, raw_pair(b"a", b""))).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_chunks_never_panic(data in proptest::collection::vec(prop_oneof![4 => 0..3u8, 1 => any::<u8>()], 0..64)) {
        let to = engine();
        let mut receiver = Receiver::new(to.clone()).unwrap();
        let taken = receiver.chunk(chunk(0, data)).is_ok();
        prop_assert_eq!(to.stores().unwrap().len(), if taken { 2 } else { 1 });
    }

    #[test]
    fn any_store_comes_over_whole(pairs in proptest::collection::btree_map(
        proptest::collection::vec(any::<u8>(), 1..20),
        proptest::collection::vec(any::<u8>(), 0..40_000),
        0..40,
    )) {
        let (from, to) = (engine(), engine());
        let pairs: Vec<_> = pairs.into_iter().collect();
        let store = filled(&from, &pairs);
        let (chunks, footer) = send(&from, store);
        let received = receive(&to, chunks, &footer).unwrap();
        prop_assert_eq!(content(&to, received), pairs);
    }
}
