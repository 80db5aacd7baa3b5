//! Which path leads to which method.

use http::uri::PathAndQuery;

/// A path of the gateway.
pub(super) struct Path {
    pub(super) http: &'static str,
    /// `/package.Service/Method`.
    pub(super) method: &'static str,
    /// Whether the call's requests stay open as long as its answers, though the body has ended.
    pub(super) held: bool,
}

impl Path {
    pub(super) fn grpc(&self) -> PathAndQuery {
        PathAndQuery::from_static(self.method)
    }
}

const fn path(http: &'static str, method: &'static str) -> Path {
    Path { http, method, held: false }
}

const fn held(http: &'static str, method: &'static str) -> Path {
    Path { http, method, held: true }
}

pub(super) const PATHS: [Path; 51] = [
    path("/v3/kv/range", "/etcdserverpb.KV/Range"),
    path("/v3/kv/put", "/etcdserverpb.KV/Put"),
    path("/v3/kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    path("/v3/kv/txn", "/etcdserverpb.KV/Txn"),
    path("/v3/kv/compaction", "/etcdserverpb.KV/Compact"),
    held("/v3/watch", "/etcdserverpb.Watch/Watch"),
    path("/v3/lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    path("/v3/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    path("/v3/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    path("/v3/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    path("/v3/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    path("/v3/kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    path("/v3/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    path("/v3/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    path("/v3/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    path("/v3/cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    path("/v3/cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    path("/v3/cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    path("/v3/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    path("/v3/maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    path("/v3/maintenance/status", "/etcdserverpb.Maintenance/Status"),
    path("/v3/maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    path("/v3/maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    path("/v3/maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    path("/v3/maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    path("/v3/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    path("/v3/maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    path("/v3/auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    path("/v3/auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    path("/v3/auth/status", "/etcdserverpb.Auth/AuthStatus"),
    path("/v3/auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    path("/v3/auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    path("/v3/auth/user/get", "/etcdserverpb.Auth/UserGet"),
    path("/v3/auth/user/list", "/etcdserverpb.Auth/UserList"),
    path("/v3/auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    path("/v3/auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    path("/v3/auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    path("/v3/auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    path("/v3/auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    path("/v3/auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    path("/v3/auth/role/list", "/etcdserverpb.Auth/RoleList"),
    path("/v3/auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    path("/v3/auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    path("/v3/auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    path("/v3/lock/lock", "/v3lockpb.Lock/Lock"),
    path("/v3/lock/unlock", "/v3lockpb.Lock/Unlock"),
    path("/v3/election/campaign", "/v3electionpb.Election/Campaign"),
    path("/v3/election/proclaim", "/v3electionpb.Election/Proclaim"),
    path("/v3/election/leader", "/v3electionpb.Election/Leader"),
    path("/v3/election/observe", "/v3electionpb.Election/Observe"),
    path("/v3/election/resign", "/v3electionpb.Election/Resign"),
];
