//! The one place where a [`Failure`] becomes what a gRPC client sees.
//!
//! The detail travels as the first detail of a `google.rpc.Status` in `grpc-status-details-bin`, as
//! `proto/quorate/v1/error.proto` describes. `docs/kvd.md` shows the table of codes.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::node::Failure;
use crate::proto::rpc;
use crate::proto::v1::{ErrorCode, ErrorDetail, Outcome};
use crate::types::limits;

/// The type of the detail, as `google.protobuf.Any` names it.
const DETAIL_TYPE: &str = "type.googleapis.com/quorate.v1.ErrorDetail";

/// A failure as a gRPC status.
pub fn status(failure: &Failure) -> Status {
    let code = code(&failure.detail);
    let message = clipped(&failure.message, limits::ERROR_MESSAGE_BYTES_MAX);
    let detail = prost_types::Any { type_url: DETAIL_TYPE.to_owned(), value: failure.detail.encode_to_vec() };
    let details = rpc::Status { code: code.into(), message: message.to_owned(), details: vec![detail] };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}

/// The gRPC code of a failure.
///
/// Clients and proxies send a call again by themselves when its code says "try again", so a write
/// that may have been applied never carries such a code: it is `UNKNOWN`.
pub fn code(detail: &ErrorDetail) -> Code {
    let code = usual_code(detail);
    let again = matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted);
    let may_be_applied = matches!(detail.outcome(), Outcome::Applied | Outcome::Unknown);
    if again && may_be_applied { Code::Unknown } else { code }
}

fn usual_code(detail: &ErrorDetail) -> Code {
    match detail.code() {
        ErrorCode::InvalidArgument | ErrorCode::PageToken => Code::InvalidArgument,
        // What waiting may mend is a resource; what it cannot is the caller's request.
        ErrorCode::LimitExceeded if detail.retryable => Code::ResourceExhausted,
        ErrorCode::LimitExceeded => Code::InvalidArgument,
        ErrorCode::KeyspaceNotFound | ErrorCode::NodeNotFound | ErrorCode::LeaseNotFound | ErrorCode::KeyNotFound => {
            Code::NotFound
        }
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::WrongShard => Code::Aborted,
        ErrorCode::CrossShard | ErrorCode::SessionNotFound | ErrorCode::SessionSequence => Code::FailedPrecondition,
        ErrorCode::NoLeader | ErrorCode::Unavailable | ErrorCode::TooStale => Code::Unavailable,
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::Overloaded | ErrorCode::DiskFull => Code::ResourceExhausted,
        ErrorCode::Compacted | ErrorCode::FutureRevision => Code::OutOfRange,
        ErrorCode::Corrupt => Code::DataLoss,
        ErrorCode::Unspecified | ErrorCode::Internal => Code::Internal,
    }
}

/// The code's name in metrics and logs.
pub fn label(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unspecified => "unspecified",
        ErrorCode::InvalidArgument => "invalid_argument",
        ErrorCode::LimitExceeded => "limit_exceeded",
        ErrorCode::KeyspaceNotFound => "keyspace_not_found",
        ErrorCode::WrongShard => "wrong_shard",
        ErrorCode::CrossShard => "cross_shard",
        ErrorCode::NoLeader => "no_leader",
        ErrorCode::Timeout => "timeout",
        ErrorCode::Overloaded => "overloaded",
        ErrorCode::Compacted => "compacted",
        ErrorCode::FutureRevision => "future_revision",
        ErrorCode::SessionNotFound => "session_not_found",
        ErrorCode::SessionSequence => "session_sequence",
        ErrorCode::PageToken => "page_token",
        ErrorCode::DiskFull => "disk_full",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Corrupt => "corrupt",
        ErrorCode::Internal => "internal",
        ErrorCode::NodeNotFound => "node_not_found",
        ErrorCode::LeaseNotFound => "lease_not_found",
        ErrorCode::AlreadyExists => "already_exists",
        ErrorCode::TooStale => "too_stale",
        ErrorCode::KeyNotFound => "key_not_found",
    }
}

/// A failure that changed nothing and names the limit that was hit.
pub fn limit(code: ErrorCode, limit: &str, value: u64, actual: u64, message: String) -> Failure {
    let passing = code == ErrorCode::Overloaded;
    let mut failure = if passing { Failure::retry(code, message) } else { Failure::refused(code, message) };
    failure.detail.limit = limit.to_owned();
    failure.detail.limit_value = value;
    failure.detail.actual_value = actual;
    failure
}

fn clipped(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tonic::Code;

    use super::{clipped, code, label, status};
    use crate::node::Failure;
    use crate::proto::rpc;
    use crate::proto::v1::{ErrorCode, ErrorDetail};

    const CODES: [(ErrorCode, Code); 23] = [
        (ErrorCode::Unspecified, Code::Internal),
        (ErrorCode::InvalidArgument, Code::InvalidArgument),
        (ErrorCode::LimitExceeded, Code::InvalidArgument),
        (ErrorCode::KeyspaceNotFound, Code::NotFound),
        (ErrorCode::WrongShard, Code::Aborted),
        (ErrorCode::CrossShard, Code::FailedPrecondition),
        (ErrorCode::NoLeader, Code::Unavailable),
        (ErrorCode::Timeout, Code::DeadlineExceeded),
        (ErrorCode::Overloaded, Code::ResourceExhausted),
        (ErrorCode::Compacted, Code::OutOfRange),
        (ErrorCode::FutureRevision, Code::OutOfRange),
        (ErrorCode::SessionNotFound, Code::FailedPrecondition),
        (ErrorCode::SessionSequence, Code::FailedPrecondition),
        (ErrorCode::PageToken, Code::InvalidArgument),
        (ErrorCode::DiskFull, Code::ResourceExhausted),
        (ErrorCode::Unavailable, Code::Unavailable),
        (ErrorCode::Corrupt, Code::DataLoss),
        (ErrorCode::Internal, Code::Internal),
        (ErrorCode::NodeNotFound, Code::NotFound),
        (ErrorCode::LeaseNotFound, Code::NotFound),
        (ErrorCode::AlreadyExists, Code::AlreadyExists),
        (ErrorCode::TooStale, Code::Unavailable),
        (ErrorCode::KeyNotFound, Code::NotFound),
    ];

    #[test]
    fn every_code_has_its_grpc_code_and_its_label() {
        for (number, (ours, grpc)) in CODES.into_iter().enumerate() {
            assert_eq!(ours as usize, number, "the table lists every code");
            assert_eq!(code(&Failure::refused(ours, "").detail), grpc, "{ours:?}");
            let name = ours.as_str_name().trim_start_matches("ERROR_CODE_").to_lowercase();
            assert_eq!(label(ours), name);
        }
        assert!(ErrorCode::try_from(i32::try_from(CODES.len()).expect("small")).is_err(), "a code is missing here");
        let newer = ErrorDetail { code: 999, ..Default::default() };
        assert_eq!(code(&newer), Code::Internal);
    }

    #[test]
    fn a_limit_that_time_may_lift_is_a_resource() {
        assert_eq!(code(&Failure::retry(ErrorCode::LimitExceeded, "").detail), Code::ResourceExhausted);
    }

    #[test]
    fn what_may_be_applied_never_invites_a_blind_retry() {
        for (ours, _) in CODES {
            let grpc = code(&Failure::unknown(ours, "").detail);
            assert!(!matches!(grpc, Code::Unavailable | Code::ResourceExhausted | Code::Aborted), "{ours:?}");
        }
        assert_eq!(code(&Failure::unknown(ErrorCode::NoLeader, "").detail), Code::Unknown);
        assert_eq!(code(&Failure::unknown(ErrorCode::Timeout, "").detail), Code::DeadlineExceeded);
    }

    #[test]
    fn the_detail_round_trips() {
        let mut failure = Failure::retry(ErrorCode::NoLeader, "shard g2 has no leader");
        failure.detail.leader_address = "127.0.0.1:2381".to_owned();
        failure.detail.shard_id = 2;
        let status = status(&failure);
        let details = rpc::Status::decode(status.details()).expect("a google.rpc.Status");
        assert_eq!(details.code, Code::Unavailable as i32);
        assert_eq!(details.message, "shard g2 has no leader");
        let any = details.details.first().expect("one detail");
        assert_eq!(any.type_url, "type.googleapis.com/quorate.v1.ErrorDetail");
        assert_eq!(ErrorDetail::decode(any.value.as_slice()).expect("an ErrorDetail"), failure.detail);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(clipped("short", 5), "short");
        assert_eq!(clipped("aéé", 4), "aé");
        let failure = Failure::refused(ErrorCode::Internal, "é".repeat(10_000));
        assert_eq!(status(&failure).message().len(), crate::types::limits::ERROR_MESSAGE_BYTES_MAX);
    }
}
