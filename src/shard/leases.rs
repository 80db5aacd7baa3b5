//! Leases: what their leader decided about their time, as entries.
//!
//! Ids are never reused, so a decision about a lease that was replaced meanwhile finds nothing.

use super::mutation::{Mutation, Scratch};
use super::table::{encode, lease, lease_key};
use crate::proto::internal::v1::{CheckpointLeases, ExpireLeases};
use crate::storage::engine::{EngineError, WriteSet};

/// Writes down how much time leases have left, for the next leader.
pub(crate) fn checkpoint(state: &mut WriteSet<'_>, checkpoint: &CheckpointLeases) -> Result<(), EngineError> {
    for entry in &checkpoint.leases {
        let Some(mut found) = lease::get(state, entry.lease)? else { continue };
        found.remaining_ms = entry.remaining_ms.min(found.ttl_ms);
        state.put(lease::key(entry.lease), encode(&found));
    }
    Ok(())
}

/// Ends leases and deletes their keys, all in one revision.
pub(crate) fn expire(
    state: &mut WriteSet<'_>,
    scratch: &mut Scratch,
    expire: &ExpireLeases,
) -> Result<(), EngineError> {
    let mut mutation = Mutation::begin(state, scratch)?;
    for &id in &expire.leases {
        if lease::get(mutation.view(), id)?.is_none() {
            continue;
        }
        for key in lease_key::attached(mutation.view(), id)? {
            mutation.delete(&key)?;
        }
        mutation.end_lease(id);
    }
    mutation.finish();
    Ok(())
}
