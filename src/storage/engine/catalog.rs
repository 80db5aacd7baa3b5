//! Which store holds which replica's state.
//!
//! Kept in the engine's store 0. Knows replicas by their ids and nothing of what is in their stores.
//! A store that no replica names was left by a snapshot transfer that was cut short; it goes at the
//! next opening.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::check::refused;
use super::{Batch, Direction, Engine, EngineError, StoreId};
use crate::types::{GroupId, ReplicaId};

/// Key of the catalog's format version.
const FORMAT_KEY: &[u8] = &[0];
/// The only format so far.
const FORMAT: u32 = 1;
/// Keys of replicas: this, group, replica, both big-endian. Value: the store, little-endian.
const REPLICA_TAG: u8 = 1;
const REPLICA_KEY_BYTES: usize = 17;

/// The catalog of one engine.
///
/// Invariants: no two replicas name one store; what `bound` says is durable.
pub struct Catalog {
    engine: Arc<dyn Engine>,
    bound: Mutex<BTreeMap<(GroupId, ReplicaId), StoreId>>,
    lost: Vec<(GroupId, ReplicaId)>,
}

impl Catalog {
    /// Reads the catalog and drops the stores that nobody names. No snapshot may be under way.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let mut bound = BTreeMap::new();
        let format = read(engine.as_ref(), &mut bound)?;
        let stores = engine.stores()?;
        let lost: Vec<_> =
            bound.iter().filter(|(_, store)| stores.binary_search(store).is_err()).map(|(key, _)| *key).collect();
        for key in &lost {
            bound.remove(key);
        }
        for store in stores {
            if store != StoreId::CATALOG && !bound.values().any(|named| *named == store) {
                engine.drop_store(store)?;
            }
        }
        if format.is_none() {
            let format = (StoreId::CATALOG, FORMAT_KEY.into(), Some(Bytes::copy_from_slice(&FORMAT.to_le_bytes())));
            engine.commit(Batch { writes: vec![format] })?;
            engine.flush()?;
        }
        Ok(Self { engine, bound: Mutex::new(bound), lost })
    }

    /// The engine under it.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Replicas that were named when the catalog was opened but whose store was gone: damage below
    /// has undone a flush. They must be rebuilt from their peers.
    pub fn lost(&self) -> &[(GroupId, ReplicaId)] {
        &self.lost
    }

    /// The store of a replica.
    pub fn get(&self, group: GroupId, replica: ReplicaId) -> Option<StoreId> {
        self.bound.lock().get(&(group, replica)).copied()
    }

    /// All replicas with their stores, in order.
    pub fn list(&self) -> Vec<(GroupId, ReplicaId, StoreId)> {
        self.bound.lock().iter().map(|((group, replica), store)| (*group, *replica, *store)).collect()
    }

    /// Makes an empty store for a new replica, durably.
    ///
    /// # Errors
    /// When the replica has one already, or the device refuses.
    pub fn create(&self, group: GroupId, replica: ReplicaId) -> Result<StoreId, EngineError> {
        let store = self.engine.create_store()?;
        match self.bind(group, replica, store) {
            Ok(()) => Ok(store),
            Err(error) => {
                self.engine.drop_store(store)?;
                Err(error)
            }
        }
    }

    /// Names the store of a replica that has none, durably, with all that the store holds.
    ///
    /// # Errors
    /// When the replica has one, the store belongs to another, or the device refuses.
    pub fn bind(&self, group: GroupId, replica: ReplicaId, store: StoreId) -> Result<(), EngineError> {
        let mut bound = self.bound.lock();
        if bound.contains_key(&(group, replica)) {
            return Err(refused("the replica has a store already"));
        }
        self.check_free(&bound, store)?;
        self.write(group, replica, Some(store))?;
        bound.insert((group, replica), store);
        Ok(())
    }

    /// Puts `staging` in the place of the replica's store: after this call it is durable with all
    /// that it holds, and the old store is gone. Killed in between, the replica has one of the two,
    /// whole. Returns the old store's id.
    ///
    /// # Errors
    /// When the replica has no store, `staging` belongs to another, or the device refuses.
    pub fn replace(&self, group: GroupId, replica: ReplicaId, staging: StoreId) -> Result<StoreId, EngineError> {
        let mut bound = self.bound.lock();
        let Some(old) = bound.get(&(group, replica)).copied() else {
            return Err(refused("the replica has no store to replace"));
        };
        self.check_free(&bound, staging)?;
        self.write(group, replica, Some(staging))?;
        bound.insert((group, replica), staging);
        self.engine.drop_store(old)?;
        Ok(old)
    }

    /// Forgets a replica, durably, and drops its store. One that does not exist is no error.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn remove(&self, group: GroupId, replica: ReplicaId) -> Result<(), EngineError> {
        let mut bound = self.bound.lock();
        let Some(store) = bound.get(&(group, replica)).copied() else { return Ok(()) };
        self.write(group, replica, None)?;
        bound.remove(&(group, replica));
        self.engine.drop_store(store)
    }

    fn check_free(&self, bound: &BTreeMap<(GroupId, ReplicaId), StoreId>, store: StoreId) -> Result<(), EngineError> {
        if store == StoreId::CATALOG || bound.values().any(|named| *named == store) {
            return Err(refused("the store belongs to another replica"));
        }
        if self.engine.stores()?.binary_search(&store).is_err() {
            return Err(EngineError::NoStore(store));
        }
        Ok(())
    }

    fn write(&self, group: GroupId, replica: ReplicaId, store: Option<StoreId>) -> Result<(), EngineError> {
        let value = store.map(|store| Bytes::copy_from_slice(&store.0.to_le_bytes()));
        self.engine.commit(Batch { writes: vec![(StoreId::CATALOG, key(group, replica), value)] })?;
        self.engine.flush()
    }
}

/// Reads all entries into `bound`, and the format if it was ever written.
fn read(engine: &dyn Engine, bound: &mut BTreeMap<(GroupId, ReplicaId), StoreId>) -> Result<Option<u32>, EngineError> {
    let mut format = None;
    let view = engine.view(StoreId::CATALOG)?;
    for pair in view.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward) {
        let (key, value) = pair?;
        if key == FORMAT_KEY {
            format = Some(decode_format(&value)?);
            continue;
        }
        let (replica, store) = decode(&key, &value)?;
        if bound.values().any(|named| *named == store) {
            return Err(EngineError::Corrupt(format!("catalog: two replicas name store {}", store.0)));
        }
        bound.insert(replica, store);
    }
    Ok(format)
}

fn decode_format(value: &[u8]) -> Result<u32, EngineError> {
    match value.try_into().map(u32::from_le_bytes) {
        Ok(FORMAT) => Ok(FORMAT),
        Ok(other) => {
            Err(EngineError::Corrupt(format!("catalog: format {other} is unknown, this program knows {FORMAT}")))
        }
        Err(_) => Err(EngineError::Corrupt("catalog: the format is no number".to_owned())),
    }
}

fn key(group: GroupId, replica: ReplicaId) -> Bytes {
    let mut key = Vec::with_capacity(REPLICA_KEY_BYTES);
    key.push(REPLICA_TAG);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.extend_from_slice(&replica.0.to_be_bytes());
    key.into()
}

fn decode(key: &[u8], value: &[u8]) -> Result<((GroupId, ReplicaId), StoreId), EngineError> {
    let parts = || {
        let (tag, rest) = key.split_first()?;
        let (group, replica) = rest.split_first_chunk::<8>()?;
        let replica = u64::from_be_bytes(replica.try_into().ok()?);
        let store = u64::from_le_bytes(value.try_into().ok()?);
        (*tag == REPLICA_TAG).then_some(((GroupId(u64::from_be_bytes(*group)), ReplicaId(replica)), StoreId(store)))
    };
    parts().ok_or_else(|| EngineError::Corrupt(format!("catalog: entry {} is malformed", key.escape_ascii())))
}

#[cfg(test)]
mod tests;
