//! What a failed call means to the caller: above all, what became of the write.

use std::fmt;

use prost::Message;
use tonic::{Code, Status};

use crate::proto::rpc;
use crate::proto::v1;
use crate::proto::v1::{ErrorCode, ErrorDetail};

/// Type of the detail that every refusal of a server carries.
const DETAIL_TYPE: &str = "type.googleapis.com/quorate.v1.ErrorDetail";

/// What became of a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// It changed nothing and never will. Safe to send again.
    NotApplied,
    /// It took effect; only its answer was lost.
    Applied,
    /// It may or may not take effect, now or later.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotApplied => "not applied",
            Self::Applied => "applied",
            Self::Unknown => "outcome unknown",
        })
    }
}

/// A failed call. Reads always have the outcome [`Outcome::NotApplied`].
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What became of the request.
    pub outcome: Outcome,
    /// Why it failed. Match on this, never on the message.
    pub code: ErrorCode,
    /// For people: what happened.
    pub message: String,
    /// What the server said, or the client in its place.
    pub detail: Box<ErrorDetail>,
    /// Whether the server denied the caller the right to do this.
    pub denied: bool,
    /// Whether the two ends of a connection did not believe each other, or only one of them speaks TLS.
    pub untrusted: bool,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A request that was refused without being sent, or that surely changed nothing.
    pub(crate) fn not_applied(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(Outcome::NotApplied, code, false, message)
    }

    /// The same, but trying again may help.
    pub(crate) fn retryable(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(Outcome::NotApplied, code, true, message)
    }

    fn new(outcome: Outcome, code: ErrorCode, retryable: bool, message: impl Into<String>) -> Self {
        let detail = ErrorDetail {
            code: code.into(),
            outcome: match outcome {
                Outcome::NotApplied => v1::Outcome::NotApplied,
                Outcome::Applied => v1::Outcome::Applied,
                Outcome::Unknown => v1::Outcome::Unknown,
            }
            .into(),
            retryable,
            ..Default::default()
        };
        Self { outcome, code, message: message.into(), detail: detail.into(), denied: false, untrusted: false }
    }

    /// Nothing was sent: the two ends did not believe each other.
    pub(crate) fn untrusted(message: impl Into<String>) -> Self {
        Self { untrusted: true, ..Self::retryable(ErrorCode::Unavailable, message) }
    }

    /// A named limit of the API that the client checks before it sends.
    pub(crate) fn limit(name: &str, limit: usize, actual: usize) -> Self {
        let message = format!("{actual} exceeds the limit {name} of {limit}");
        let mut error = Self::not_applied(ErrorCode::LimitExceeded, message);
        error.detail.limit = name.to_owned();
        error.detail.limit_value = limit as u64;
        error.detail.actual_value = actual as u64;
        error
    }

    /// Nobody answered in time. A write that was sent may still happen.
    pub(crate) fn timed_out(mutating: bool, message: impl Into<String>) -> Self {
        let outcome = if mutating { Outcome::Unknown } else { Outcome::NotApplied };
        Self::new(outcome, ErrorCode::Timeout, true, message)
    }

    /// The connection broke after a request may have been sent on it.
    pub(crate) fn broken(mutating: bool, message: impl Into<String>) -> Self {
        let outcome = if mutating { Outcome::Unknown } else { Outcome::NotApplied };
        Self::new(outcome, ErrorCode::Unavailable, true, message)
    }

    /// What a server answered.
    pub(crate) fn from_status(status: &Status, mutating: bool) -> Self {
        match detail_of(status.details()) {
            Some(detail) => Self::from_detail(detail, status.message(), mutating),
            None => Self::without_detail(status, mutating),
        }
    }

    /// What a server says in an [`ErrorDetail`].
    pub(crate) fn from_detail(detail: ErrorDetail, message: &str, mutating: bool) -> Self {
        let outcome = match detail.outcome() {
            _ if !mutating => Outcome::NotApplied,
            v1::Outcome::NotApplied => Outcome::NotApplied,
            v1::Outcome::Applied => Outcome::Applied,
            // A server that does not say leaves it open.
            v1::Outcome::Unknown | v1::Outcome::Unspecified => Outcome::Unknown,
        };
        let said = detail.code();
        let code = if said == ErrorCode::Unspecified { ErrorCode::Internal } else { said };
        Self { outcome, code, message: message.to_owned(), detail: detail.into(), denied: false, untrusted: false }
    }

    /// A status that did not come from Quorate's own code: gRPC itself, or a proxy.
    fn without_detail(status: &Status, mutating: bool) -> Self {
        let message = format!("the server answered {:?}: {}", status.code(), status.message());
        let open = if mutating { Outcome::Unknown } else { Outcome::NotApplied };
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
                Self::not_applied(ErrorCode::InvalidArgument, message)
            }
            Code::Unimplemented if status.message().is_empty() => {
                let message = "the server does not know this call: this is no client port of kvd, or an older kvd's; \
                               endpoints are the addresses of --client-addr, port 2379 unless set";
                Self::not_applied(ErrorCode::InvalidArgument, message)
            }
            Code::Unimplemented => Self::not_applied(ErrorCode::InvalidArgument, message),
            Code::PermissionDenied | Code::Unauthenticated => {
                Self { denied: true, ..Self::not_applied(ErrorCode::InvalidArgument, message) }
            }
            Code::DeadlineExceeded | Code::Cancelled => Self::timed_out(mutating, message),
            Code::Unavailable => Self::broken(mutating, message),
            Code::ResourceExhausted => Self::new(open, ErrorCode::Overloaded, true, message),
            Code::Ok
            | Code::Unknown
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss => Self::new(open, ErrorCode::Internal, false, message),
        }
    }

    /// The same failure, of which more of the same will not help.
    pub(crate) fn for_good(mut self) -> Self {
        self.detail.retryable = false;
        self
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.detail.retryable
    }

    /// Whether the cluster could not serve the request at the moment.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::NoLeader
                | ErrorCode::Timeout
                | ErrorCode::Overloaded
                | ErrorCode::Unavailable
                | ErrorCode::WrongShard
                | ErrorCode::TooStale
                | ErrorCode::DiskFull
                | ErrorCode::SessionNotFound
                | ErrorCode::SessionSequence
        )
    }

    /// The same failure when an earlier attempt of the request may have taken effect.
    pub(crate) fn after_ambiguity(mut self, earlier: &Self) -> Self {
        if self.outcome == Outcome::NotApplied {
            self.outcome = Outcome::Unknown;
            self.detail.outcome = v1::Outcome::Unknown.into();
            self.message = format!("{}; an earlier attempt may have been applied ({earlier})", self.message);
        }
        self
    }
}

/// The first detail of `google.rpc.Status`, when it is ours. Bytes from the network: anything goes.
fn detail_of(details: &[u8]) -> Option<ErrorDetail> {
    let status = rpc::Status::decode(details).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url == DETAIL_TYPE)?;
    ErrorDetail::decode(detail.value.as_ref()).ok()
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::{Error, ErrorCode, Outcome};
    use crate::client::fake;
    use crate::proto::v1::{self, ErrorDetail};

    #[test]
    fn detail_decides_over_the_grpc_code() {
        let detail = ErrorDetail {
            code: ErrorCode::Timeout.into(),
            outcome: v1::Outcome::Unknown.into(),
            leader_address: "a:1".into(),
            ..Default::default()
        };
        let status = fake::status(Code::InvalidArgument, "late", detail);
        let error = Error::from_status(&status, true);
        assert_eq!((error.outcome, error.code, error.message.as_str()), (Outcome::Unknown, ErrorCode::Timeout, "late"));
        assert_eq!(error.detail.leader_address, "a:1");
        assert_eq!(Error::from_status(&status, false).outcome, Outcome::NotApplied, "a read changes nothing");
    }

    #[test]
    fn a_status_without_detail_leaves_a_write_open_unless_it_was_surely_refused() {
        let outcome = |code| Error::from_status(&Status::new(code, ""), true).outcome;
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::DeadlineExceeded, Code::OutOfRange] {
            assert_eq!(outcome(code), Outcome::Unknown, "{code:?}");
        }
        for code in [Code::Unimplemented, Code::PermissionDenied, Code::InvalidArgument] {
            assert_eq!(outcome(code), Outcome::NotApplied, "{code:?}");
        }
        assert!(Error::from_status(&Status::new(Code::PermissionDenied, ""), true).denied);
    }

    #[test]
    fn garbage_details_are_no_detail() {
        let status = Status::with_details(Code::Unavailable, "", vec![0xff, 0x07, 0x80].into());
        assert_eq!(Error::from_status(&status, true).outcome, Outcome::Unknown);
    }

    #[test]
    fn a_detail_that_does_not_say_the_outcome_leaves_it_open() {
        let status = fake::status(Code::Internal, "", ErrorDetail::default());
        let error = Error::from_status(&status, true);
        assert_eq!((error.outcome, error.code), (Outcome::Unknown, ErrorCode::Internal));
    }
}
