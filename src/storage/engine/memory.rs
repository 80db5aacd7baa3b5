//! The engine in memory, with the durability contract of one on disk.
//!
//! [`MemoryStores`] is the disk: it outlives the node that uses it, and a [`crash`] takes it back
//! to a boundary between two operations, at or after the last flush. [`MemoryEngine`] is one
//! opening of it. Knows nothing of time or files. Keys carry versions, so that a view costs the
//! same whether the store is small or large; versions that no view can see are dropped as later
//! batches come.
//!
//! [`crash`]: MemoryStores::crash

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::check::{distinct, refused};
use super::{Batch, Engine, EngineError, StoreId, View, Write};

mod image;
mod versions;
mod view;

pub use image::StoresImage;
use versions::{Pairs, SeqNo};
use view::MemoryView;

/// Superseded versions that a batch drops besides as many as it made.
const COLLECTED_PER_BATCH: usize = 64;

/// The disk under [`MemoryEngine`]: clones are the same disk.
#[derive(Clone)]
pub struct MemoryStores {
    state: Arc<Mutex<State>>,
}

/// Invariants: `stores` always holds [`StoreId::CATALOG`]; `next_store` only rises, crash or not;
/// undoing `unflushed` from its end leads back to the last flush.
struct State {
    /// Raised by every crash: engines and views of an earlier one are dead.
    generation: u64,
    /// Of the last batch.
    seqno: SeqNo,
    next_store: u64,
    stores: BTreeMap<StoreId, Store>,
    unflushed: Vec<Undo>,
    /// How many views there are at each sequence number.
    views: BTreeMap<SeqNo, usize>,
    /// Keys with versions or tombstones to drop, by the batch that made them superfluous.
    superseded: VecDeque<(SeqNo, Store, Bytes)>,
    fault: Option<io::ErrorKind>,
    /// Flushes say that they did, and did not.
    lying: bool,
    /// Keys whose values fail their checksum until they are written again.
    corrupt: BTreeSet<(StoreId, Bytes)>,
}

type Store = Arc<RwLock<Pairs>>;

/// How to take one operation back.
enum Undo {
    Batch(Vec<Write>),
    Created(StoreId),
    Dropped(StoreId, Store),
}

impl Default for MemoryStores {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStores {
    /// An empty disk.
    pub fn new() -> Self {
        let state = State {
            generation: 0,
            seqno: 0,
            next_store: StoreId::CATALOG.0 + 1,
            stores: BTreeMap::from([(StoreId::CATALOG, Store::default())]),
            unflushed: Vec::new(),
            views: BTreeMap::new(),
            superseded: VecDeque::new(),
            fault: None,
            lying: false,
            corrupt: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Opens the disk. Dropping the engine writes nothing and loses nothing.
    pub fn open(&self) -> MemoryEngine {
        MemoryEngine { generation: self.state.lock().generation, state: self.state.clone() }
    }

    /// Cuts the power: of the operations since the last flush a prefix remains, whose length
    /// `chance` decides. Engines and views opened before are dead.
    pub fn crash(&self, chance: &mut impl FnMut() -> u64) {
        let mut state = self.state.lock();
        state.stop();
        for store in state.stores.values() {
            store.write().forget_history();
        }
        let boundaries = state.unflushed.len() as u64 + 1;
        let kept = usize::try_from(chance() % boundaries).unwrap_or(0);
        while state.unflushed.len() > kept {
            state.undo();
        }
        state.unflushed.clear();
    }

    /// Lets every write fail from now on, as a full or broken device would; `None` mends it.
    pub fn set_fault(&self, fault: Option<io::ErrorKind>) {
        self.state.lock().fault = fault;
    }

    /// While set, flushes say that they did, and did not.
    pub fn lie_about_flushes(&self, lie: bool) {
        self.state.lock().lying = lie;
    }

    /// Damages the value of a key: reads that meet it fail until it is written again.
    pub fn corrupt(&self, store: StoreId, key: &[u8]) {
        self.state.lock().corrupt.insert((store, Bytes::copy_from_slice(key)));
    }
}

impl State {
    /// What was opened before is dead.
    fn stop(&mut self) {
        self.generation += 1;
        self.views.clear();
        self.superseded.clear();
        self.fault = None;
    }

    fn check_pair(&self, store: StoreId, key: &[u8]) -> Result<(), EngineError> {
        if !self.corrupt.is_empty() && self.corrupt.contains(&(store, Bytes::copy_from_slice(key))) {
            return Err(EngineError::Corrupt(format!(
                "store {}: key {} fails its checksum",
                store.0,
                key.escape_ascii()
            )));
        }
        Ok(())
    }

    fn undo(&mut self) {
        match self.unflushed.pop() {
            Some(Undo::Batch(writes)) => {
                self.seqno += 1;
                for (id, key, before) in writes {
                    if let Some(store) = self.stores.get(&id) {
                        store.write().set(key, before, self.seqno, None);
                    }
                }
            }
            Some(Undo::Created(store)) => {
                self.stores.remove(&store);
            }
            Some(Undo::Dropped(id, store)) => {
                store.write().forget_history();
                self.stores.insert(id, store);
            }
            None => {}
        }
    }

    fn check_device(&self) -> Result<(), EngineError> {
        self.fault.map_or(Ok(()), |kind| Err(EngineError::Io(kind.into())))
    }

    /// Drops versions that only views of the past could see.
    fn collect(&mut self, limit: usize) {
        let oldest = self.views.keys().next().copied().unwrap_or(self.seqno);
        for _ in 0..limit {
            if self.superseded.front().is_none_or(|(seqno, ..)| *seqno > oldest) {
                return;
            }
            if let Some((_, store, key)) = self.superseded.pop_front() {
                store.write().collect(&key, oldest);
            }
        }
    }
}

/// One opening of a [`MemoryStores`].
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl MemoryEngine {
    fn live(&self) -> Result<parking_lot::MutexGuard<'_, State>, EngineError> {
        let state = self.state.lock();
        if state.generation == self.generation { Ok(state) } else { Err(dead()) }
    }
}

fn dead() -> EngineError {
    EngineError::Poisoned("its disk has crashed since it was opened".to_owned())
}

impl Engine for MemoryEngine {
    fn create_store(&self) -> Result<StoreId, EngineError> {
        let mut state = self.live()?;
        state.check_device()?;
        let id = StoreId(state.next_store);
        state.next_store += 1;
        state.stores.insert(id, Store::default());
        state.unflushed.push(Undo::Created(id));
        Ok(id)
    }

    fn stores(&self) -> Result<Vec<StoreId>, EngineError> {
        Ok(self.live()?.stores.keys().copied().collect())
    }

    fn drop_store(&self, store: StoreId) -> Result<(), EngineError> {
        let mut state = self.live()?;
        state.check_device()?;
        if store == StoreId::CATALOG {
            return Err(refused("the catalog's store cannot be dropped"));
        }
        if let Some(pairs) = state.stores.remove(&store) {
            state.unflushed.push(Undo::Dropped(store, pairs));
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let writes = distinct(batch)?;
        let mut state = self.live()?;
        state.check_device()?;
        let missing = writes.iter().find(|(store, ..)| !state.stores.contains_key(store));
        if let Some((store, ..)) = missing {
            return Err(EngineError::NoStore(*store));
        }
        let seqno = state.seqno + 1;
        let newest_view = state.views.keys().next_back().copied();
        let mut undo = Vec::with_capacity(writes.len());
        for (id, key, value) in writes {
            let Some(store) = state.stores.get(&id).cloned() else { continue };
            let set = store.write().set(key.clone(), value, seqno, newest_view);
            if set.leaves_garbage {
                state.superseded.push_back((seqno, store, key.clone()));
            }
            if !state.corrupt.is_empty() {
                state.corrupt.remove(&(id, key.clone()));
            }
            undo.push((id, key, set.before));
        }
        let written = undo.len();
        state.unflushed.push(Undo::Batch(undo));
        state.seqno = seqno;
        state.collect(2 * written + COLLECTED_PER_BATCH);
        Ok(())
    }

    fn view(&self, store: StoreId) -> Result<Box<dyn View>, EngineError> {
        let mut state = self.live()?;
        let pairs = state.stores.get(&store).cloned().ok_or(EngineError::NoStore(store))?;
        let seqno = state.seqno;
        *state.views.entry(seqno).or_default() += 1;
        Ok(Box::new(MemoryView::new(self.state.clone(), self.generation, store, pairs, seqno)))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.live()?;
        state.check_device()?;
        if !state.lying {
            state.unflushed.clear();
        }
        Ok(())
    }

    fn tidy(&self, _: u64) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        let state = self.live()?;
        Ok(state.stores.values().map(|store| store.read().bytes()).sum())
    }
}

#[cfg(test)]
mod tests;
