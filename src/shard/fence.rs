//! The fence: below its epoch a shard serves nothing any more, whatever a node's map says.
//!
//! It stands in the state and is raised by an entry, so that every command that comes after it in the
//! log meets it, also one that was proposed before.

use super::error::{ShardError, refused};
use super::table::meta::{self, Field};
use crate::proto::internal::v1::Fence;
use crate::proto::v1::ErrorCode;
use crate::storage::engine::{EngineError, View, WriteSet};

/// The epoch of no descriptor: a shard that is fenced here serves nobody ever again.
pub const RETIRED: u64 = u64::MAX;

/// Whether what believes in `epoch` may be executed.
///
/// # Errors
/// Refused when the shard is fenced above it.
pub fn check(view: &dyn View, epoch: u64) -> Result<(), ShardError> {
    let fenced = meta::fenced(view)?;
    if epoch >= fenced {
        return Ok(());
    }
    let message = if fenced == RETIRED {
        "the shard was dropped with its keyspace; refresh the map".to_owned()
    } else {
        format!("the shard is at epoch {fenced}, not {epoch}; refresh the map")
    };
    let mut refusal = refused(ErrorCode::WrongShard, message);
    if let Some(detail) = &mut refusal.detail {
        detail.retryable = true;
    }
    Err(refusal.into())
}

/// Raises the fence; it never falls.
pub(crate) fn raise(state: &mut WriteSet<'_>, fence: &Fence) -> Result<(), EngineError> {
    let epoch = meta::fenced(state)?.max(fence.epoch);
    meta::set(state, Field::Fenced, epoch);
    Ok(())
}
