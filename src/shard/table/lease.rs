//! `04 lease → StoredLease`.

use bytes::Bytes;

use super::{Bounds, Table};
use crate::proto::internal::v1::StoredLease;
use crate::storage::engine::{Direction, EngineError, View};

pub(crate) fn key(lease: u64) -> Bytes {
    Table::Lease.numbered(lease)
}

pub(crate) fn get(view: &dyn View, lease: u64) -> Result<Option<StoredLease>, EngineError> {
    Table::Lease.get(view, &key(lease))
}

/// Which lease of its id this is. The shard gives the id of an implicit lease only once.
pub(crate) fn serial(id: u64, lease: &StoredLease) -> u64 {
    if lease.implicit { id } else { lease.serial }
}

/// All leases, ascending.
pub(crate) fn all(view: &dyn View) -> impl Iterator<Item = Result<(u64, StoredLease), EngineError>> + '_ {
    Bounds::whole(Table::Lease).scan(view, Direction::Forward).map(|pair| {
        let (key, value) = pair?;
        let (lease, _) = Table::Lease.strip_number(&key)?;
        Ok((lease, Table::Lease.decode(&key, value)?))
    })
}
