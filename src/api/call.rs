//! One client request on its way: its method, its deadline, and what is known of its fate.
//!
//! The gate makes a [`Call`] and hands it to the service's face in the request's extensions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::error;
use crate::env::time::{self, Instant};
use crate::node::Failure;
use crate::proto::v1::ErrorCode;
use crate::types::limits;

/// The header in which a client says how long it will wait.
const TIMEOUT_HEADER: &str = "grpc-timeout";
/// Digits in that header, as gRPC limits them.
const TIMEOUT_DIGITS_MAX: usize = 8;
/// A client stops listening when its own clock says so: we answer this much of its timeout earlier,
/// so that it learns the outcome.
const ANSWER_MARGIN_FRACTION: u32 = 10;
/// The most of that.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// How long a call may wait that sets no limit: for ever, as far as a clock can tell.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A method of our API.
#[derive(Debug)]
pub(super) struct Method {
    /// Path of the request.
    path: &'static str,
    /// Name in metrics and logs.
    pub(super) label: &'static str,
    /// Whether it changes anything, so that losing its answer loses its outcome.
    pub(super) write: bool,
    /// Whether it takes one of the node's places for requests in flight. What operators need to see
    /// into an overloaded node, and clients to leave it, does not.
    pub(super) placed: bool,
    /// Whether its clients are etcd's, and its failures said in etcd's words.
    pub(super) etcd: bool,
    /// Whether it may wait for others as long as its client does.
    pub(super) waits: bool,
}

const fn read(path: &'static str, label: &'static str) -> Method {
    Method { path, label, write: false, placed: true, etcd: false, waits: false }
}

const fn write(path: &'static str, label: &'static str) -> Method {
    Method { path, label, write: true, placed: true, etcd: false, waits: false }
}

const fn look(path: &'static str, label: &'static str) -> Method {
    Method { path, label, write: false, placed: false, etcd: false, waits: false }
}

const METHODS: [Method; 79] = [
    read("/quorate.v1.Kv/Get", "Kv.Get"),
    write("/quorate.v1.Kv/Put", "Kv.Put"),
    write("/quorate.v1.Kv/Delete", "Kv.Delete"),
    read("/quorate.v1.Kv/Scan", "Kv.Scan"),
    read("/quorate.v1.Kv/Count", "Kv.Count"),
    write("/quorate.v1.Kv/Txn", "Kv.Txn"),
    write("/quorate.v1.Kv/Batch", "Kv.Batch"),
    read("/quorate.v1.Kv/Events", "Kv.Events"),
    look("/quorate.v1.Kv/Watch", "Kv.Watch").that_waits(),
    write("/quorate.v1.Kv/Compact", "Kv.Compact"),
    write("/quorate.v1.Lease/Grant", "Lease.Grant"),
    write("/quorate.v1.Lease/Revoke", "Lease.Revoke"),
    read("/quorate.v1.Lease/Renew", "Lease.Renew"),
    read("/quorate.v1.Lease/Time", "Lease.Time"),
    read("/quorate.v1.Lease/List", "Lease.List"),
    write("/quorate.v1.Kv/OpenSession", "Kv.OpenSession"),
    write("/quorate.v1.Kv/CloseSession", "Kv.CloseSession"),
    look("/quorate.v1.Cluster/Members", "Cluster.Members"),
    look("/quorate.v1.Cluster/Map", "Cluster.Map"),
    look("/quorate.v1.Cluster/WatchMap", "Cluster.WatchMap"),
    look("/quorate.v1.Admin/Status", "Admin.Status"),
    look("/quorate.v1.Admin/Shards", "Admin.Shards"),
    write("/quorate.v1.Admin/MoveLeader", "Admin.MoveLeader"),
    write("/quorate.v1.Admin/ChangeReplicas", "Admin.ChangeReplicas"),
    look("/quorate.v1.Admin/Operations", "Admin.Operations"),
    write("/quorate.v1.Admin/CancelOperation", "Admin.CancelOperation"),
    write("/quorate.v1.Admin/AddMember", "Admin.AddMember"),
    write("/quorate.v1.Admin/RemoveMember", "Admin.RemoveMember"),
    write("/quorate.v1.Admin/CreateKeyspace", "Admin.CreateKeyspace"),
    write("/quorate.v1.Admin/UpdateKeyspace", "Admin.UpdateKeyspace"),
    write("/quorate.v1.Admin/DropKeyspace", "Admin.DropKeyspace"),
    read("/etcdserverpb.KV/Range", "etcd.KV.Range").for_etcd(),
    write("/etcdserverpb.KV/Put", "etcd.KV.Put").for_etcd(),
    write("/etcdserverpb.KV/DeleteRange", "etcd.KV.DeleteRange").for_etcd(),
    write("/etcdserverpb.KV/Txn", "etcd.KV.Txn").for_etcd(),
    write("/etcdserverpb.KV/Compact", "etcd.KV.Compact").for_etcd(),
    look("/etcdserverpb.Watch/Watch", "etcd.Watch.Watch").for_etcd(),
    write("/etcdserverpb.Lease/LeaseGrant", "etcd.Lease.LeaseGrant").for_etcd(),
    write("/etcdserverpb.Lease/LeaseRevoke", "etcd.Lease.LeaseRevoke").for_etcd(),
    look("/etcdserverpb.Lease/LeaseKeepAlive", "etcd.Lease.LeaseKeepAlive").for_etcd(),
    read("/etcdserverpb.Lease/LeaseTimeToLive", "etcd.Lease.LeaseTimeToLive").for_etcd(),
    read("/etcdserverpb.Lease/LeaseLeases", "etcd.Lease.LeaseLeases").for_etcd(),
    write("/etcdserverpb.Cluster/MemberAdd", "etcd.Cluster.MemberAdd").for_etcd(),
    write("/etcdserverpb.Cluster/MemberRemove", "etcd.Cluster.MemberRemove").for_etcd(),
    write("/etcdserverpb.Cluster/MemberUpdate", "etcd.Cluster.MemberUpdate").for_etcd(),
    look("/etcdserverpb.Cluster/MemberList", "etcd.Cluster.MemberList").for_etcd(),
    look("/etcdserverpb.Cluster/MemberPromote", "etcd.Cluster.MemberPromote").for_etcd(),
    look("/etcdserverpb.Maintenance/Alarm", "etcd.Maintenance.Alarm").for_etcd(),
    look("/etcdserverpb.Maintenance/Status", "etcd.Maintenance.Status").for_etcd(),
    look("/etcdserverpb.Maintenance/Defragment", "etcd.Maintenance.Defragment").for_etcd(),
    look("/etcdserverpb.Maintenance/Hash", "etcd.Maintenance.Hash").for_etcd(),
    look("/etcdserverpb.Maintenance/HashKV", "etcd.Maintenance.HashKV").for_etcd(),
    look("/etcdserverpb.Maintenance/Snapshot", "etcd.Maintenance.Snapshot").for_etcd(),
    write("/etcdserverpb.Maintenance/MoveLeader", "etcd.Maintenance.MoveLeader").for_etcd(),
    look("/etcdserverpb.Maintenance/Downgrade", "etcd.Maintenance.Downgrade").for_etcd(),
    look("/etcdserverpb.Auth/AuthEnable", "etcd.Auth.AuthEnable").for_etcd(),
    look("/etcdserverpb.Auth/AuthDisable", "etcd.Auth.AuthDisable").for_etcd(),
    look("/etcdserverpb.Auth/AuthStatus", "etcd.Auth.AuthStatus").for_etcd(),
    look("/etcdserverpb.Auth/Authenticate", "etcd.Auth.Authenticate").for_etcd(),
    look("/etcdserverpb.Auth/UserAdd", "etcd.Auth.UserAdd").for_etcd(),
    look("/etcdserverpb.Auth/UserGet", "etcd.Auth.UserGet").for_etcd(),
    look("/etcdserverpb.Auth/UserList", "etcd.Auth.UserList").for_etcd(),
    look("/etcdserverpb.Auth/UserDelete", "etcd.Auth.UserDelete").for_etcd(),
    look("/etcdserverpb.Auth/UserChangePassword", "etcd.Auth.UserChangePassword").for_etcd(),
    look("/etcdserverpb.Auth/UserGrantRole", "etcd.Auth.UserGrantRole").for_etcd(),
    look("/etcdserverpb.Auth/UserRevokeRole", "etcd.Auth.UserRevokeRole").for_etcd(),
    look("/etcdserverpb.Auth/RoleAdd", "etcd.Auth.RoleAdd").for_etcd(),
    look("/etcdserverpb.Auth/RoleGet", "etcd.Auth.RoleGet").for_etcd(),
    look("/etcdserverpb.Auth/RoleList", "etcd.Auth.RoleList").for_etcd(),
    look("/etcdserverpb.Auth/RoleDelete", "etcd.Auth.RoleDelete").for_etcd(),
    look("/etcdserverpb.Auth/RoleGrantPermission", "etcd.Auth.RoleGrantPermission").for_etcd(),
    look("/etcdserverpb.Auth/RoleRevokePermission", "etcd.Auth.RoleRevokePermission").for_etcd(),
    write("/v3lockpb.Lock/Lock", "etcd.Lock.Lock").for_etcd().that_waits(),
    write("/v3lockpb.Lock/Unlock", "etcd.Lock.Unlock").for_etcd(),
    write("/v3electionpb.Election/Campaign", "etcd.Election.Campaign").for_etcd().that_waits(),
    write("/v3electionpb.Election/Proclaim", "etcd.Election.Proclaim").for_etcd(),
    read("/v3electionpb.Election/Leader", "etcd.Election.Leader").for_etcd(),
    look("/v3electionpb.Election/Observe", "etcd.Election.Observe").for_etcd(),
    write("/v3electionpb.Election/Resign", "etcd.Election.Resign").for_etcd(),
];

impl Method {
    /// It takes no place while it waits.
    const fn that_waits(self) -> Self {
        Self { waits: true, placed: false, ..self }
    }

    const fn for_etcd(self) -> Self {
        Self { etcd: true, ..self }
    }

    /// The method under `path`; `None` when there is none.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.path == path)
    }
}

/// A request that was admitted.
#[derive(Debug)]
pub(super) struct Call {
    method: &'static Method,
    deadline: Instant,
    /// Whether the service has seen the request. Until then nothing can have changed.
    entered: AtomicBool,
    /// Length of the message as its sender declared it, when too long; else 0.
    oversize: AtomicU64,
    /// Why the service failed it.
    failed: OnceLock<ErrorCode>,
}

impl Call {
    pub(super) fn new(method: &'static Method, deadline: Instant) -> Self {
        let (entered, oversize) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { method, deadline, entered, oversize, failed: OnceLock::new() }
    }

    pub(super) fn method(&self) -> &'static Method {
        self.method
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Notes that the service gets the request now.
    ///
    /// # Errors
    /// When the deadline has passed while the request came in; then the service never sees it.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        if time::now() >= self.deadline {
            return Err(self.overdue());
        }
        self.entered.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn entered(&self) -> bool {
        self.entered.load(Ordering::Relaxed)
    }

    /// Notes the declared length of the message.
    pub(super) fn declare(&self, bytes: u64) {
        if bytes > limits::REQUEST_BYTES_MAX as u64 {
            self.oversize.store(bytes, Ordering::Relaxed);
        }
    }

    /// The refusal of a message that is too long.
    pub(super) fn oversize(&self) -> Option<Failure> {
        let (actual, max) = (self.oversize.load(Ordering::Relaxed), limits::REQUEST_BYTES_MAX as u64);
        let message = format!("the request has {actual} bytes, but request_bytes_max is {max}: split it");
        (actual > 0).then(|| error::limit(ErrorCode::LimitExceeded, "request_bytes_max", max, actual, message))
    }

    pub(super) fn fail(&self, code: ErrorCode) {
        // Only the first failure is this call's; there is no second.
        self.failed.set(code).ok();
    }

    pub(super) fn failed(&self) -> Option<ErrorCode> {
        self.failed.get().copied()
    }

    /// The failure of a call whose time is over.
    pub(super) fn overdue(&self) -> Failure {
        let name = self.method.label;
        if self.method.write && self.entered() {
            return Failure::unknown(
                ErrorCode::Timeout,
                format!("{name} was not answered before its deadline; it may or may not take effect"),
            );
        }
        Failure::retry(ErrorCode::Timeout, format!("the deadline passed before {name} was done; it changed nothing"))
    }
}

/// When a request that arrived at `arrival` must be answered.
///
/// # Errors
/// When the header is malformed.
pub(super) fn deadline(method: &Method, headers: &HeaderMap, arrival: Instant) -> Result<Instant, Failure> {
    let unbounded = if method.waits { WAIT_MAX } else { limits::REQUEST_TIMEOUT_DEFAULT };
    let Some(header) = headers.get(TIMEOUT_HEADER) else { return Ok(arrival + unbounded) };
    let timeout = header.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
        let message = format!("{TIMEOUT_HEADER} must be 1 to 8 digits and one of H M S m u n, but is {header:?}");
        Failure::refused(ErrorCode::InvalidArgument, message)
    })?;
    let timeout = timeout.min(if method.waits { WAIT_MAX } else { limits::REQUEST_TIMEOUT_MAX });
    Ok(arrival + timeout.saturating_sub(ANSWER_MARGIN_MAX.min(timeout / ANSWER_MARGIN_FRACTION)))
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::{Call, METHODS, Method, WAIT_MAX, deadline, parse_timeout};
    use crate::env::time;
    use crate::proto::v1::{ErrorCode, Outcome};
    use crate::types::limits;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, wanted) in [
            ("1S", Some(Duration::from_secs(1))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("0n", Some(Duration::ZERO)),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("1é", None),
            ("é", None),
        ] {
            assert_eq!(parse_timeout(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn deadlines_default_are_capped_and_leave_time_to_answer() {
        let now = time::now();
        let get = Method::find("/quorate.v1.Kv/Get").expect("a method");
        let lock = Method::find("/v3lockpb.Lock/Lock").expect("a method");
        assert_eq!(deadline(lock, &HeaderMap::new(), now), Ok(now + WAIT_MAX));
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), value(text))]);
            deadline(get, &headers, now).map(|deadline| deadline - now)
        };
        assert_eq!(deadline(get, &HeaderMap::new(), now), Ok(now + limits::REQUEST_TIMEOUT_DEFAULT));
        assert_eq!(of("5S"), Ok(Duration::from_millis(4_900)));
        assert_eq!(of("100m"), Ok(Duration::from_millis(90)));
        assert_eq!(of("99999999H"), Ok(limits::REQUEST_TIMEOUT_MAX - Duration::from_millis(100)));
        let failure = of("soon").expect_err("no timeout");
        assert_eq!(failure.detail.code(), ErrorCode::InvalidArgument);
    }

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).expect("a header")
    }

    #[test]
    fn an_overdue_call_knows_its_outcome() {
        let later = time::now() + Duration::from_secs(60);
        let outcome = |path: &str, enter: bool| {
            let call = Call::new(Method::find(path).expect("a method"), later);
            if enter {
                call.enter().expect("in time");
            }
            call.overdue().detail.outcome()
        };
        assert_eq!(outcome("/quorate.v1.Kv/Put", true), Outcome::Unknown);
        assert_eq!(outcome("/quorate.v1.Kv/Put", false), Outcome::NotApplied);
        assert_eq!(outcome("/quorate.v1.Kv/Get", true), Outcome::NotApplied);
        let late = Call::new(Method::find("/quorate.v1.Kv/Put").expect("a method"), time::now());
        assert_eq!(late.enter().expect_err("too late").detail.outcome(), Outcome::NotApplied);
        assert!(!late.entered());
    }

    #[test]
    fn the_table_holds_every_method_of_the_api() {
        use prost::Message as _;
        let files = prost_types::FileDescriptorSet::decode(crate::proto::REFLECTION).expect("descriptors");
        let mut paths = Vec::new();
        for file in files.file.iter().filter(|file| file.package() == "quorate.v1") {
            for service in &file.service {
                let method = |name: &str| format!("/quorate.v1.{}/{name}", service.name());
                paths.extend(service.method.iter().map(|found| method(found.name())));
            }
        }
        paths.sort();
        let ours = METHODS.iter().filter(|method| !method.etcd);
        let mut known: Vec<_> = ours.map(|method| method.path.to_owned()).collect();
        known.sort();
        assert_eq!(paths, known);
    }
}
