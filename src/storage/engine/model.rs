//! Random steps on an engine, and on a write set over it, next to an ordered map.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::check::is_empty;
use super::{Batch, Direction, Engine, KeyRange, View, WriteSet};

/// A write: few different keys, so that they meet.
type Write = (Vec<u8>, Option<Vec<u8>>);

/// A range that may be empty or inverted.
type OwnedRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A batch straight into the engine.
    Commit(Vec<Write>),
    /// Writes through a write set, read while they are pending, then committed or thrown away.
    WriteSet { writes: Vec<Write>, ranges: Vec<OwnedRange>, commit: bool },
    /// A view is kept and must never change.
    Keep,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(0..4u8, 1..4)
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    vec((key(), proptest::option::of(vec(any::<u8>(), 0..4))), 0..12)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        vec(0..4u8, 0..4).prop_map(Bound::Included),
        vec(0..4u8, 0..4).prop_map(Bound::Excluded),
    ]
}

pub(super) fn cases() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => writes().prop_map(Step::Commit),
        4 => (writes(), vec((bound(), bound()), 1..6), any::<bool>())
            .prop_map(|(writes, ranges, commit)| Step::WriteSet { writes, ranges, commit }),
        1 => Just(Step::Keep),
    ];
    vec(step, 1..16)
}

type Model = BTreeMap<Bytes, Bytes>;

pub(super) fn run(engine: &dyn Engine, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = engine.create_store().unwrap();
    let mut model = Model::new();
    let mut kept: Vec<(Box<dyn View>, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Commit(writes) => {
                let write = |(key, value): &Write| (store, key.clone().into(), value.clone().map(Bytes::from));
                engine.commit(Batch { writes: writes.iter().map(write).collect() }).unwrap();
                apply(&mut model, &writes);
            }
            Step::WriteSet { writes, ranges, commit } => {
                let base = engine.view(store).unwrap();
                let mut pending = model.clone();
                apply(&mut pending, &writes);
                let mut set = WriteSet::new(&*base);
                for (key, value) in writes {
                    match value {
                        Some(value) => set.put(key.into(), value.into()),
                        None => set.delete(key.into()),
                    }
                }
                compare(&set, &pending, &ranges)?;
                // The base does not see what is pending.
                compare(&*base, &model, &ranges)?;
                if commit {
                    engine.commit(set.into_batch(store)).unwrap();
                    model = pending;
                }
                compare(&*engine.view(store).unwrap(), &model, &ranges)?;
            }
            Step::Keep => kept.push((engine.view(store).unwrap(), model.clone())),
        }
    }
    for (view, model) in kept {
        compare(&*view, &model, &[(Bound::Unbounded, Bound::Unbounded)])?;
    }
    engine.drop_store(store).unwrap();
    Ok(())
}

fn apply(model: &mut Model, writes: &[Write]) {
    for (key, value) in writes {
        match value {
            Some(value) => model.insert(key.clone().into(), value.clone().into()),
            None => model.remove(key.as_slice()),
        };
    }
}

fn compare(view: &dyn View, model: &Model, ranges: &[OwnedRange]) -> Result<(), TestCaseError> {
    for (start, end) in ranges {
        let range: KeyRange<'_> = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let mut expected: Vec<(Bytes, Bytes)> = match is_empty(range) {
            true => Vec::new(),
            false => model.range::<[u8], _>(range).map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        let read = |direction| view.scan(range, direction).collect::<Result<Vec<_>, _>>().unwrap();
        prop_assert_eq!(&read(Direction::Forward), &expected);
        expected.reverse();
        prop_assert_eq!(&read(Direction::Reverse), &expected);
        for bound in [start, end] {
            if let Bound::Included(key) | Bound::Excluded(key) = bound {
                prop_assert_eq!(view.get(key).unwrap(), model.get(key.as_slice()).cloned());
            }
        }
    }
    for (key, value) in model {
        prop_assert_eq!(view.get(key).unwrap(), Some(value.clone()));
    }
    Ok(())
}
