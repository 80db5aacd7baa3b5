//! Why a command or read of a shard has no result: it was refused, or the engine failed.

use crate::proto::internal::v1::Refusal;
use crate::proto::v1::{ErrorCode, ErrorDetail, Outcome};
use crate::storage::engine::EngineError;

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Deterministic: every replica refuses alike, nothing was changed, and the client is told.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// This replica alone cannot go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<Box<Refusal>> for ShardError {
    fn from(refusal: Box<Refusal>) -> Self {
        Self::Refused(refusal)
    }
}

/// A request that changed nothing and that sending again will not mend.
pub(crate) fn refused(code: ErrorCode, message: impl Into<String>) -> Box<Refusal> {
    let detail = ErrorDetail { code: code.into(), outcome: Outcome::NotApplied.into(), ..Default::default() };
    Box::new(Refusal { message: message.into(), detail: Some(detail) })
}

/// A malformed request.
pub(crate) fn invalid(message: impl Into<String>) -> Box<Refusal> {
    refused(ErrorCode::InvalidArgument, message)
}

/// A request beyond the limit `name`. `remedy` says what to do instead.
pub(crate) fn beyond(name: &str, limit: u64, actual: u64, remedy: &str) -> Box<Refusal> {
    let mut refusal =
        refused(ErrorCode::LimitExceeded, format!("{actual} is more than {name}, which is {limit}: {remedy}"));
    if let Some(detail) = &mut refusal.detail {
        detail.limit = name.to_owned();
        detail.limit_value = limit;
        detail.actual_value = actual;
    }
    refusal
}

/// A revision that was compacted; `oldest` is the oldest that can still be read.
pub(crate) fn compacted(revision: u64, oldest: u64) -> Box<Refusal> {
    let mut refusal = refused(
        ErrorCode::Compacted,
        format!("revision {revision} was compacted: ask for {oldest} or later, or start again at the present"),
    );
    if let Some(detail) = &mut refusal.detail {
        detail.compacted_revision = oldest;
    }
    refusal
}

/// A compaction up to a revision before `oldest`, or up to it once more.
pub(crate) fn compacted_before(oldest: u64) -> Box<Refusal> {
    let mut refusal =
        refused(ErrorCode::Compacted, format!("everything before revision {oldest} is compacted already"));
    if let Some(detail) = &mut refusal.detail {
        detail.compacted_revision = oldest;
    }
    refusal
}

/// A revision the shard has not reached.
pub(crate) fn future(revision: u64, present: u64) -> Box<Refusal> {
    refused(
        ErrorCode::FutureRevision,
        format!("revision {revision} lies in the future: the shard is at {present}; ask for that or earlier"),
    )
}
