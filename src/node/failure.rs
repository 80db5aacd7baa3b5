//! Why a request failed, as clients will see it.

use crate::proto::internal::Refusal;
use crate::proto::v1::{ErrorCode, ErrorDetail, Outcome};

/// A failed request: words for people, and the detail that clients act on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What happened and what to do next.
    pub message: String,
    /// The machine-readable half.
    pub detail: ErrorDetail,
}

impl Failure {
    /// A request that changed nothing and that sending again will not mend.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code, Outcome::NotApplied, false, message)
    }

    /// A request that changed nothing and that may succeed if sent again.
    pub fn retry(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code, Outcome::NotApplied, true, message)
    }

    /// A write that may or may not take effect.
    pub fn unknown(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code, Outcome::Unknown, false, message)
    }

    /// Whether the request certainly changed nothing and may be tried again by this node.
    pub fn can_retry(&self) -> bool {
        self.detail.retryable && self.detail.outcome() == Outcome::NotApplied
    }

    /// Whether what was asked for may have been done, or may be yet.
    pub fn is_open(&self) -> bool {
        self.detail.outcome() != Outcome::NotApplied
    }

    fn new(code: ErrorCode, outcome: Outcome, retryable: bool, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { code: code.into(), outcome: outcome.into(), retryable, ..Default::default() };
        Self { message: message.into(), detail }
    }
}

impl From<Refusal> for Failure {
    /// A refusal without a detail says nothing of its outcome, so that is unknown.
    fn from(refusal: Refusal) -> Self {
        let Refusal { message, detail } = refusal;
        match detail {
            Some(detail) => Self { message, detail },
            None => Self::unknown(ErrorCode::Internal, message),
        }
    }
}

impl From<Box<Refusal>> for Failure {
    fn from(refusal: Box<Refusal>) -> Self {
        (*refusal).into()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { message: failure.message, detail: Some(failure.detail) }
    }
}
