//! Counts stay exact, and blocks keep their invariants, while many keys come and go.

use bytes::Bytes;
use proptest::prelude::*;

use super::Interval;
use super::blocks::BLOCK_KEYS_MAX;
use super::table::block;
use super::testing::{Shard, delete, put, txn};

fn key(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Puts every `step`th of `keys` numbers from `first` on.
fn fill(shard: &mut Shard, first: u16, keys: u16, step: u16) {
    let numbers: Vec<u16> = (0..keys).map(|nth| first.wrapping_add(nth.wrapping_mul(step))).collect();
    for chunk in numbers.chunks(100) {
        let distinct: std::collections::BTreeSet<u16> = chunk.iter().copied().collect();
        shard.ok(txn(distinct.iter().map(|&number| put(&key(number), b"v")).collect()));
    }
}

fn blocks_are_sound(shard: &Shard) {
    let blocks: Vec<_> = block::starting_in(&shard.pairs, &Interval::all()).map(Result::unwrap).collect();
    let mut next = Some(Bytes::new());
    for block in &blocks {
        assert_eq!(Some(&block.interval.start), next.as_ref(), "blocks tile the key order");
        let live = super::blocks::walk(&shard.pairs, &block.interval, super::visible::At::Present).unwrap();
        assert_eq!(block.keys, live, "{:?}", block.interval);
        assert!((1..=BLOCK_KEYS_MAX).contains(&block.keys), "{block:?}");
        next = block.interval.end.clone();
    }
    assert!(blocks.is_empty() || next.is_none(), "the last block is open");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn counts_are_exact(
        steps in prop::collection::vec((any::<bool>(), any::<u16>(), 1u16..1500, prop_oneof![Just(1u16), Just(7), Just(41)]), 1..8),
        probes in prop::collection::vec((any::<u16>(), any::<u16>()), 8),
    ) {
        let mut shard = Shard::default();
        let mut model = std::collections::BTreeSet::new();
        for (fills, first, keys, step) in steps {
            if fills {
                fill(&mut shard, first, keys, step);
                model.extend((0..keys).map(|nth| key(first.wrapping_add(nth.wrapping_mul(step)))));
            } else {
                let end = key(first.saturating_add(keys.saturating_mul(4)));
                shard.ok(txn(vec![delete(&key(first), &end)]));
                model.retain(|known| *known < key(first) || *known >= end);
            }
            blocks_are_sound(&shard);
            for (one, two) in &probes {
                let (start, end) = (key(*one.min(two)), key(*one.max(two)));
                let expected = model.range(start.clone()..end.clone()).count() as u64;
                prop_assert_eq!(shard.count(&start, &end, 0), Ok(expected));
            }
            prop_assert_eq!(shard.count(b"", b"", 0), Ok(model.len() as u64));
        }
    }
}

#[test]
fn blocks_split_and_merge_back() {
    let mut shard = Shard::default();
    fill(&mut shard, 0, 5000, 1);
    let many = shard.pairs_of(0x08);
    assert!(many >= 10, "{many} blocks of 5000 keys");
    blocks_are_sound(&shard);
    for number in 0..5000u16 {
        if number % 50 != 0 {
            shard.ok(txn(vec![delete(&key(number), b"")]));
        }
    }
    blocks_are_sound(&shard);
    assert_eq!(shard.count(b"", b"", 0), Ok(100));
    assert!(shard.pairs_of(0x08) <= 2, "{} blocks of 100 keys", shard.pairs_of(0x08));
    shard.ok(txn(vec![delete(b"\0", b"\0")]));
    assert_eq!(shard.pairs_of(0x08), 0);
}
