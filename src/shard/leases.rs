//! Leases: what their owners ask for, and what their leader decided about their time, as entries.
//!
//! An id may be given again after its lease has ended; a serial never is. So a decision about a lease that
//! was replaced meanwhile names no lease.

use super::error::{ShardError, invalid, refused};
use super::mutation::{Mutation, Scratch};
use super::table::{encode, lease, lease_key};
use super::txn::no_lease;
use crate::proto::internal::v1::{CheckpointLeases, ExpireLeases, GrantLease, RevokeLease};
use crate::proto::v1::ErrorCode;
use crate::storage::engine::{EngineError, View, WriteSet};
use crate::types::limits::TTL_MS_MAX;

/// Grants a lease of a chosen id.
///
/// # Errors
/// Refused when there is one of that id, or its numbers make no sense.
pub(crate) fn grant(state: &mut WriteSet<'_>, scratch: &mut Scratch, grant: &GrantLease) -> Result<(), ShardError> {
    if grant.lease == 0 || grant.ttl_ms == 0 || grant.ttl_ms > TTL_MS_MAX {
        return Err(invalid(format!("a lease needs an id, and a life of 1 to {TTL_MS_MAX} ms: set both")).into());
    }
    if lease::get(state, grant.lease)?.is_some() {
        let message = format!("lease {} exists: choose another id, or let the server choose", grant.lease);
        return Err(refused(ErrorCode::AlreadyExists, message).into());
    }
    Mutation::begin(state, scratch)?.grant(grant.lease, grant.ttl_ms)?;
    Ok(())
}

/// Ends a lease and deletes its keys, in one revision.
///
/// # Errors
/// Refused when there is no such lease.
pub(crate) fn revoke(state: &mut WriteSet<'_>, scratch: &mut Scratch, revoke: &RevokeLease) -> Result<(), ShardError> {
    if lease::get(state, revoke.lease)?.is_none() {
        return Err(no_lease(revoke.lease).into());
    }
    let mut mutation = Mutation::begin(state, scratch)?;
    end(&mut mutation, revoke.lease)?;
    mutation.finish()?;
    Ok(())
}

/// Writes down how much time leases have left, for the next leader.
pub(crate) fn checkpoint(state: &mut WriteSet<'_>, checkpoint: &CheckpointLeases) -> Result<(), EngineError> {
    for entry in &checkpoint.leases {
        let Some(mut found) = meant(state, entry.lease, entry.serial)? else { continue };
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
    for (at, &id) in expire.leases.iter().enumerate() {
        let serial = expire.serials.get(at).copied().unwrap_or_default();
        if meant(mutation.view(), id, serial)?.is_some() {
            end(&mut mutation, id)?;
        }
    }
    mutation.finish()?;
    Ok(())
}

/// The lease `id`, if it is the one of that serial.
fn meant(
    view: &dyn View,
    id: u64,
    serial: u64,
) -> Result<Option<crate::proto::internal::v1::StoredLease>, EngineError> {
    Ok(lease::get(view, id)?.filter(|lease| lease::serial(id, lease) == serial))
}

fn end(mutation: &mut Mutation<'_, '_>, id: u64) -> Result<(), EngineError> {
    let keys = lease_key::attached(mutation.view(), id).collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        mutation.delete(&key)?;
    }
    mutation.end_lease(id);
    Ok(())
}
