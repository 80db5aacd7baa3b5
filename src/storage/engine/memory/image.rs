//! Durable states of the disk under the engine, to be put back later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{MemoryStores, Pairs, SeqNo, State, Store, Undo};
use crate::storage::engine::StoreId;

/// What was flushed of a whole disk.
#[derive(Clone)]
pub struct StoresImage {
    stores: BTreeMap<StoreId, Pairs>,
    next_store: u64,
    /// Not below that of any pair.
    seqno: SeqNo,
    corrupt: BTreeSet<(StoreId, Bytes)>,
}

impl MemoryStores {
    /// What a crash that loses everything since the last flush would leave.
    pub fn image(&self) -> StoresImage {
        let mut flushed = self.state.lock().copy();
        while !flushed.unflushed.is_empty() {
            flushed.undo();
        }
        let stores = flushed.stores.iter().map(|(id, store)| (*id, store.read().clone())).collect();
        StoresImage { stores, next_store: flushed.next_store, seqno: flushed.seqno, corrupt: flushed.corrupt }
    }

    /// Stops the machine and puts an earlier state under it. Engines and views opened before are dead.
    pub fn restore(&self, image: &StoresImage) {
        let mut state = self.state.lock();
        state.stop();
        state.unflushed.clear();
        state.stores = image.stores.iter().map(|(id, pairs)| (*id, store(pairs.clone()))).collect();
        state.next_store = image.next_store;
        // Sequence numbers only rise, so that a new view sees all that was put back.
        state.seqno = state.seqno.max(image.seqno);
        state.corrupt.clone_from(&image.corrupt);
    }
}

fn store(pairs: Pairs) -> Store {
    Arc::new(RwLock::new(pairs))
}

impl State {
    /// The newest versions and how to take them back, in stores of their own.
    fn copy(&self) -> Self {
        let copy_of = |original: &Store| {
            let mut pairs = original.read().clone();
            pairs.forget_history();
            store(pairs)
        };
        let undo = |undo: &Undo| match undo {
            Undo::Batch(writes) => Undo::Batch(writes.clone()),
            Undo::Created(id) => Undo::Created(*id),
            Undo::Dropped(id, pairs) => Undo::Dropped(*id, copy_of(pairs)),
        };
        Self {
            generation: self.generation,
            seqno: self.seqno,
            next_store: self.next_store,
            stores: self.stores.iter().map(|(id, pairs)| (*id, copy_of(pairs))).collect(),
            unflushed: self.unflushed.iter().map(undo).collect(),
            views: BTreeMap::new(),
            superseded: VecDeque::new(),
            fault: None,
            lying: false,
            corrupt: self.corrupt.clone(),
        }
    }
}
