//! Failures as etcd words them: its clients match on code and text.

use tonic::{Code, Status};

use crate::node::Failure;
use crate::proto::v1::{ErrorCode, Outcome};

/// A code and text of etcd's.
pub(super) type Known = (Code, &'static str);

pub(super) const EMPTY_KEY: Known = (Code::InvalidArgument, "etcdserver: key is not provided");
pub(super) const KEY_NOT_FOUND: Known = (Code::InvalidArgument, "etcdserver: key not found");
pub(super) const VALUE_PROVIDED: Known = (Code::InvalidArgument, "etcdserver: value is provided");
pub(super) const LEASE_PROVIDED: Known = (Code::InvalidArgument, "etcdserver: lease is provided");
pub(super) const TOO_MANY_OPERATIONS: Known = (Code::InvalidArgument, "etcdserver: too many operations in txn request");
/// etcd has no such bound.
pub(super) const TOO_DEEP: Known =
    (Code::InvalidArgument, "quorate: transactions are nested at most 16 deep; nest them less deeply");
pub(super) const DUPLICATE_KEY: Known = (Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
pub(super) const BAD_SORT: Known = (Code::InvalidArgument, "etcdserver: invalid sort option");
pub(super) const COMPACTED: Known = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub(super) const FUTURE_REVISION: Known =
    (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
pub(super) const NO_SPACE: Known = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub(super) const LEASE_NOT_FOUND: Known = (Code::NotFound, "etcdserver: requested lease not found");
pub(super) const LEASE_EXISTS: Known = (Code::FailedPrecondition, "etcdserver: lease already exists");
pub(super) const LEASE_TTL_TOO_LARGE: Known = (Code::OutOfRange, "etcdserver: too large lease TTL");
pub(super) const MEMBER_NOT_FOUND: Known = (Code::NotFound, "etcdserver: member not found");
pub(super) const REQUEST_TOO_LARGE: Known = (Code::InvalidArgument, "etcdserver: request is too large");
pub(super) const TOO_MANY_REQUESTS: Known = (Code::ResourceExhausted, "etcdserver: too many requests");
pub(super) const NO_LEADER: Known = (Code::Unavailable, "etcdserver: no leader");
pub(super) const BAD_TRANSFEREE: Known = (Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub(super) const BAD_URLS: Known = (Code::InvalidArgument, "etcdserver: given member URLs are invalid");
pub(super) const URLS_EXIST: Known = (Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
pub(super) const NOT_LEARNER: Known = (Code::FailedPrecondition, "etcdserver: can only promote a learner member");
pub(super) const LEARNER_NOT_READY: Known =
    (Code::FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader");
pub(super) const NOT_LEADER: Known = (Code::FailedPrecondition, "etcdserver: not leader");
pub(super) const TIMEOUT: Known = (Code::Unavailable, "etcdserver: request timed out");
pub(super) const TIMEOUT_LEADER_FAILURE: Known =
    (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure");
pub(super) const AUTH_NOT_ENABLED: Known = (Code::FailedPrecondition, "etcdserver: authentication is not enabled");
pub(super) const USER_NOT_FOUND: Known = (Code::FailedPrecondition, "etcdserver: user name not found");
pub(super) const ROLE_NOT_FOUND: Known = (Code::FailedPrecondition, "etcdserver: role name not found");

pub(super) fn known((code, text): Known) -> Status {
    Status::new(code, text)
}

/// What etcd says where we say `failure`; where it has no word for it, our own behind `quorate: `.
pub(crate) fn status(failure: &Failure) -> Status {
    let detail = &failure.detail;
    if detail.outcome() == Outcome::Unknown {
        return known(TIMEOUT_LEADER_FAILURE);
    }
    let own = |code: Code| Status::new(code, format!("quorate: {}", failure.message));
    match detail.code() {
        ErrorCode::LimitExceeded => match detail.limit.as_str() {
            "txn_operations_max" => known(TOO_MANY_OPERATIONS),
            "key_bytes_max" | "value_bytes_max" | "request_bytes_max" => known(REQUEST_TOO_LARGE),
            _ => own(Code::InvalidArgument),
        },
        ErrorCode::DuplicateKey => known(DUPLICATE_KEY),
        ErrorCode::Compacted => known(COMPACTED),
        ErrorCode::FutureRevision => known(FUTURE_REVISION),
        ErrorCode::KeyNotFound => known(KEY_NOT_FOUND),
        ErrorCode::LeaseNotFound => known(LEASE_NOT_FOUND),
        ErrorCode::AlreadyExists => known(LEASE_EXISTS),
        ErrorCode::NodeNotFound => known(MEMBER_NOT_FOUND),
        ErrorCode::DiskFull => known(NO_SPACE),
        ErrorCode::Overloaded => known(TOO_MANY_REQUESTS),
        ErrorCode::NoLeader => known(NO_LEADER),
        ErrorCode::Timeout => known(TIMEOUT),
        ErrorCode::Unavailable | ErrorCode::WrongShard | ErrorCode::TooStale => own(Code::Unavailable),
        ErrorCode::KeyspaceNotFound => own(Code::NotFound),
        ErrorCode::CrossShard | ErrorCode::SessionNotFound | ErrorCode::SessionSequence => {
            own(Code::FailedPrecondition)
        }
        ErrorCode::InvalidArgument | ErrorCode::PageToken => own(Code::InvalidArgument),
        ErrorCode::Corrupt => own(Code::DataLoss),
        ErrorCode::Unspecified | ErrorCode::Internal => own(Code::Internal),
    }
}
