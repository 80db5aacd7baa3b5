//! Calls that must fail, and how: the gRPC code and the message, by which clients tell errors apart.

use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions,
    Permission, ProclaimOptions, PutOptions, ResignOptions, Txn, TxnOp,
};
use tonic::{Code, Status};

use super::answers::{get, put, refusal, revision};
use super::target::{Server, Target};
use super::txn::OPERATIONS_MAX;
use super::wire;
use crate::harness::eventually;

const EMPTY_KEY: Refusal = (Code::InvalidArgument, "etcdserver: key is not provided");
const KEY_NOT_FOUND: Refusal = (Code::InvalidArgument, "etcdserver: key not found");
const VALUE_PROVIDED: Refusal = (Code::InvalidArgument, "etcdserver: value is provided");
const LEASE_PROVIDED: Refusal = (Code::InvalidArgument, "etcdserver: lease is provided");
const TOO_MANY_OPERATIONS: Refusal = (Code::InvalidArgument, "etcdserver: too many operations in txn request");
const DUPLICATE_KEY: Refusal = (Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
const TOO_LARGE: Refusal = (Code::InvalidArgument, "etcdserver: request is too large");
const FUTURE: Refusal = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
const LEASE_NOT_FOUND: Refusal = (Code::NotFound, "etcdserver: requested lease not found");
const LEASE_EXISTS: Refusal = (Code::FailedPrecondition, "etcdserver: lease already exists");
const TTL_TOO_LARGE: Refusal = (Code::OutOfRange, "etcdserver: too large lease TTL");
const MEMBER_NOT_FOUND: Refusal = (Code::NotFound, "etcdserver: member not found");
const NOT_A_LEARNER: Refusal = (Code::FailedPrecondition, "etcdserver: can only promote a learner member");
const URL_EXISTS: Refusal = (Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
const BAD_URL: Refusal = (Code::InvalidArgument, "etcdserver: given member URLs are invalid");
const NOT_LEADER: Refusal = (Code::FailedPrecondition, "etcdserver: not leader");
const BAD_TRANSFEREE: Refusal = (Code::FailedPrecondition, "etcdserver: bad leader transferee");
const AUTH_OFF: Refusal = (Code::FailedPrecondition, "etcdserver: authentication is not enabled");
const NO_ROOT: Refusal = (Code::FailedPrecondition, "etcdserver: root user does not exist");
const ROOT_WITHOUT_ROLE: Refusal = (Code::FailedPrecondition, "etcdserver: root user does not have root role");
const USER_EMPTY: Refusal = (Code::InvalidArgument, "etcdserver: user name is empty");
const USER_EXISTS: Refusal = (Code::FailedPrecondition, "etcdserver: user name already exists");
const USER_NOT_FOUND: Refusal = (Code::FailedPrecondition, "etcdserver: user name not found");
const ROLE_EMPTY: Refusal = (Code::InvalidArgument, "etcdserver: role name is empty");
const ROLE_EXISTS: Refusal = (Code::FailedPrecondition, "etcdserver: role name already exists");
const ROLE_NOT_FOUND: Refusal = (Code::FailedPrecondition, "etcdserver: role name not found");
const ROLE_NOT_GRANTED: Refusal = (Code::FailedPrecondition, "etcdserver: role is not granted to the user");
const PERMISSION_NOT_GRANTED: Refusal = (Code::FailedPrecondition, "etcdserver: permission is not granted to the role");

type Refusal = (Code, &'static str);

/// Calls and what is wrong with how they were answered: all of them are told at once.
#[derive(Default)]
struct Refusals {
    wrong: Vec<String>,
}

impl Refusals {
    fn expect<T>(&mut self, what: &str, result: Result<T, Error>, expected: Refusal) {
        let (code, message) = refusal(result);
        if (code, &*message) != expected {
            self.wrong.push(format!("{what}: {code:?} {message:?} instead of {:?} {:?}", expected.0, expected.1));
        }
    }

    fn expect_status<T>(&mut self, what: &str, result: Result<T, Status>, expected: Refusal) {
        self.expect(what, result.map_err(Error::GRpcStatus), expected);
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "{} of them:\n  {}", self.wrong.len(), self.wrong.join("\n  "));
        }
    }
}

async fn now(client: &mut Client) -> i64 {
    revision(client.get("errors/now", None).await.unwrap().header())
}

/// Range, Put and DeleteRange.
pub(crate) async fn keys(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let new = PutOptions::new;
    refused.expect("range of no key", client.get("", None).await, EMPTY_KEY);
    let options = GetOptions::new().with_range("x");
    refused.expect("range from no key", client.get("", Some(options)).await, EMPTY_KEY);
    refused.expect("put of no key", client.put("", "x", None).await, EMPTY_KEY);
    refused.expect("deletion of no key", client.delete("", None).await, EMPTY_KEY);
    let options = DeleteOptions::new().with_range("x");
    refused.expect("deletion from no key", client.delete("", Some(options)).await, EMPTY_KEY);

    put(&mut client, "errors/there", "x").await;
    for key in ["errors/there", "errors/none"] {
        let put = client.put(key, "y", Some(new().with_ignore_value())).await;
        refused.expect("ignore_value with a value", put, VALUE_PROVIDED);
        let put = client.put(key, "y", Some(new().with_ignore_lease().with_lease(1))).await;
        refused.expect("ignore_lease with a lease", put, LEASE_PROVIDED);
    }
    let both = new().with_ignore_value().with_ignore_lease().with_lease(1);
    refused.expect("both wrong", client.put("errors/there", "y", Some(both)).await, VALUE_PROVIDED);
    let keep = client.put("errors/none", "", Some(new().with_ignore_value())).await;
    refused.expect("ignore_value of no key", keep, KEY_NOT_FOUND);
    let keep = client.put("errors/none", "x", Some(new().with_ignore_lease())).await;
    refused.expect("ignore_lease of no key", keep, KEY_NOT_FOUND);
    for lease in [4_711_777, -1] {
        let leased = client.put("errors/there", "y", Some(new().with_lease(lease))).await;
        refused.expect("put with a lease that is not", leased, LEASE_NOT_FOUND);
    }
    let future = GetOptions::new().with_revision(now(&mut client).await + 1_000_000);
    refused.expect("range of the future", client.get("errors/there", Some(future.clone())).await, FUTURE);
    let serializable = future.with_serializable();
    refused.expect("the same, serializable", client.get("errors/there", Some(serializable)).await, FUTURE);
    assert_eq!(get(&mut client, "errors/there").await.unwrap().version(), 1, "nothing was done");
    assert!(get(&mut client, "errors/none").await.is_none());
}

/// Requests above 1.5 MiB are refused by what they are; those above 2 MiB by their transport.
pub(crate) async fn large_requests(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let large = vec![b'x'; (3 << 19) + 1];
    refused.expect("a large put", client.put("errors/large", large.clone(), None).await, TOO_LARGE);
    let txn = Txn::new().and_then([TxnOp::put("errors/large", large, None)]);
    refused.expect("a large transaction", client.txn(txn).await, TOO_LARGE);
    let halves = ["a", "b"].map(|name| TxnOp::put(format!("errors/large/{name}"), vec![b'x'; 800_000], None));
    refused.expect("two halves", client.txn(Txn::new().and_then(halves)).await, TOO_LARGE);
    let (code, message) = refusal(client.put("errors/large", vec![b'x'; 4 << 20], None).await);
    // Whose words these are depends on the server's gRPC library.
    assert!(matches!(code, Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument), "{code:?} {message}");
    assert!(get(&mut client, "errors/large").await.is_none());
    // What is just below is taken.
    put(&mut client, "errors/large", vec![b'x'; (3 << 19) - 100]).await;
    client.delete("errors/large", None).await.unwrap();
}

/// Transactions with too much in them, or with the wrong things.
pub(crate) async fn transactions(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let key = "errors/txn";
    let many = |count| -> Vec<TxnOp> { (0..count).map(|at| TxnOp::get(format!("{key}/{at}"), None)).collect() };
    let compares = |count| vec![Compare::version(key, CompareOp::Equal, 0); count];
    let txn = Txn::new;
    for (what, txn) in [
        ("129 operations", txn().and_then(many(OPERATIONS_MAX + 1))),
        ("129 operations in the other branch", txn().or_else(many(OPERATIONS_MAX + 1))),
        ("129 comparisons", txn().when(compares(OPERATIONS_MAX + 1))),
        ("128 in 1", txn().and_then([TxnOp::txn(txn().and_then(many(OPERATIONS_MAX)))])),
        ("1 in 128", txn().and_then([many(OPERATIONS_MAX - 1), vec![TxnOp::txn(txn().and_then(many(1)))]].concat())),
    ] {
        refused.expect(what, client.txn(txn).await, TOO_MANY_OPERATIONS);
    }
    // The largest of the three counts, not their sum; nested ones add to those above them.
    let full = txn().when(compares(128)).and_then(many(128)).or_else(many(128));
    client.txn(full).await.unwrap();
    let nested = txn().and_then([many(63), vec![TxnOp::txn(txn().and_then(many(64)))]].concat());
    client.txn(nested).await.unwrap();

    let put_of = |name: &str| TxnOp::put(format!("{key}/{name}"), "x", None);
    let delete_of = |name: &str| TxnOp::delete(format!("{key}/{name}"), None);
    let delete_all = || TxnOp::delete(key, Some(DeleteOptions::new().with_prefix()));
    let nested = |operation| TxnOp::txn(Txn::new().and_then([operation]));
    let nested_else = |operation| TxnOp::txn(Txn::new().or_else([operation]));
    for (what, operations) in [
        ("put twice", vec![put_of("a"), put_of("a")]),
        ("put, then deleted", vec![put_of("a"), delete_of("a")]),
        ("deleted, then put", vec![delete_of("a"), put_of("a")]),
        ("put within what is deleted", vec![put_of("a"), delete_all()]),
        ("put, and put further in", vec![put_of("a"), nested(put_of("a"))]),
        ("put further in, and put", vec![nested(put_of("a")), put_of("a")]),
        ("put, and put in the other branch further in", vec![put_of("a"), nested_else(put_of("a"))]),
        ("put in two of them", vec![nested(put_of("a")), nested(put_of("a"))]),
        ("put in two of them that cannot both be taken", vec![nested(put_of("a")), nested_else(put_of("a"))]),
        ("put, and deleted further in", vec![put_of("a"), nested(delete_all())]),
        ("deleted, and put further in", vec![delete_all(), nested(put_of("a"))]),
        ("deleted in one, put in another", vec![nested(delete_all()), nested(put_of("a"))]),
    ] {
        let then = client.txn(txn().and_then(operations.clone())).await;
        refused.expect(what, then, DUPLICATE_KEY);
        let never = client.txn(txn().or_else(operations)).await;
        refused.expect(&format!("{what}, in the branch not taken"), never, DUPLICATE_KEY);
    }
    // Deletions may overlap; so may puts of two branches.
    let overlapping = [delete_of("a"), delete_all(), nested(delete_of("a")), nested(delete_all())];
    client.txn(txn().and_then(overlapping)).await.unwrap();
    client.txn(txn().and_then([put_of("a")]).or_else([put_of("a"), put_of("b")])).await.unwrap();
}

/// What stands in a transaction is held to the same as what stands alone.
pub(crate) async fn within_transactions(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let key = "errors/within";
    let new = PutOptions::new;
    let future = GetOptions::new().with_revision(now(&mut client).await + 1_000_000);
    for (what, operation, expected) in [
        ("range of no key", TxnOp::get("", None), EMPTY_KEY),
        ("put of no key", TxnOp::put("", "x", None), EMPTY_KEY),
        ("deletion of no key", TxnOp::delete("", None), EMPTY_KEY),
        ("ignore_value with a value", TxnOp::put(key, "x", Some(new().with_ignore_value())), VALUE_PROVIDED),
        (
            "ignore_lease with a lease",
            TxnOp::put(key, "x", Some(new().with_ignore_lease().with_lease(1))),
            LEASE_PROVIDED,
        ),
        ("ignore_value of no key", TxnOp::put(key, "", Some(new().with_ignore_value())), KEY_NOT_FOUND),
        ("ignore_lease of no key", TxnOp::put(key, "", Some(new().with_ignore_lease())), KEY_NOT_FOUND),
        ("a lease that is not", TxnOp::put(key, "x", Some(new().with_lease(4_711_776))), LEASE_NOT_FOUND),
        ("range of the future", TxnOp::get(key, Some(future)), FUTURE),
    ] {
        let alone = client.txn(Txn::new().and_then([operation.clone()])).await;
        refused.expect(what, alone, expected);
        let nested = TxnOp::txn(Txn::new().and_then([operation]));
        refused.expect(&format!("{what}, nested"), client.txn(Txn::new().and_then([nested])).await, expected);
    }
    let compare = Compare::version("", CompareOp::Equal, 0);
    refused.expect("comparison of no key", client.txn(Txn::new().when([compare])).await, EMPTY_KEY);
    // A key that an earlier operation makes is not there yet when the transaction is looked at.
    let keep = Some(new().with_ignore_value());
    let txn = Txn::new().and_then([TxnOp::put("errors/within/2", "x", None), TxnOp::put(key, "", keep)]);
    refused.expect("after a put", client.txn(txn).await, KEY_NOT_FOUND);
    assert!(get(&mut client, "errors/within/2").await.is_none());
    // An operation that is none.
    let none = wire::TxnRequest { success: vec![wire::RequestOp::default()], ..wire::TxnRequest::default() };
    let answer = wire::call::<_, wire::TxnResponse>(target, 0, "/etcdserverpb.KV/Txn", none).await;
    refused.expect_status("no operation at all", answer, KEY_NOT_FOUND);
}

/// Leases.
pub(crate) async fn leases(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    refused.expect("the longest and 1 s", client.lease_grant(9_000_000_001, None).await, TTL_TOO_LARGE);
    refused.expect("for ever", client.lease_grant(i64::MAX, None).await, TTL_TOO_LARGE);
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let again = || Some(LeaseGrantOptions::new().with_id(lease));
    refused.expect("an id that is taken", client.lease_grant(600, again()).await, LEASE_EXISTS);
    refused.expect("taken, and too long", client.lease_grant(i64::MAX, again()).await, TTL_TOO_LARGE);
    client.lease_revoke(lease).await.unwrap();
    refused.expect("revoked twice", client.lease_revoke(lease).await, LEASE_NOT_FOUND);
    refused.expect("revoked, no id", client.lease_revoke(0).await, LEASE_NOT_FOUND);
    // No time, and less than none, are the shortest there is.
    for ttl in [0, -1, i64::MIN] {
        let lease = client.lease_grant(ttl, None).await.unwrap();
        assert!(lease.ttl() > 0, "{ttl} became {}", lease.ttl());
        client.lease_revoke(lease.id()).await.unwrap();
    }
}

/// Members.
pub(crate) async fn members(target: &Target) {
    let mut client = target.client_of(target.leader().await).await;
    let mut refused = Refusals::default();
    let members = client.member_list().await.unwrap();
    let (member, url) = (members.members()[0].id(), members.members()[0].peer_urls()[0].clone());
    let removed = answered(|| async { client.clone().member_remove(4711).await }).await;
    refused.expect("removal of none", removed, MEMBER_NOT_FOUND);
    let urls = ["http://127.0.0.1:1".to_owned()];
    let updated = answered(|| async { client.clone().member_update(4711, urls.clone()).await }).await;
    refused.expect("update of none", updated, MEMBER_NOT_FOUND);
    for (id, expected) in [(4711, MEMBER_NOT_FOUND), (member, NOT_A_LEARNER)] {
        let promoted = answered(|| async { client.clone().member_promote(id).await }).await;
        // The leader may change under way, and etcd's other nodes let a promotion that cannot be run out of time.
        if !is_unavailable(&promoted, "etcdserver: request timed out") {
            refused.expect("promotion", promoted, expected);
        }
    }
    // Until its members have been connected for some seconds, etcd calls the cluster unhealthy.
    let added = client.member_add([url], None).await;
    if !is_unavailable(&added, "etcdserver: unhealthy cluster") {
        refused.expect("one that is there", added, URL_EXISTS);
    }
    for bad in ["nonsense", "http://nowhere", "ftp://127.0.0.1:1", "http://127.0.0.1:1/path", ""] {
        refused.expect(&format!("added at {bad:?}"), client.member_add([bad], None).await, BAD_URL);
    }
    refused.expect("added nowhere", client.member_add::<&str, [&str; 0]>([], None).await, BAD_URL);
    assert_eq!(client.member_list().await.unwrap().members().len(), target.endpoints.len());
}

/// What a call is answered when it is made again and again. etcd drops a change of its members that comes before the last
/// one is applied, and never answers it.
async fn answered<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    eventually("answer", || async { tokio::time::timeout(Duration::from_secs(8), call()).await.ok() }).await
}

fn is_unavailable<T>(answer: &Result<T, Error>, message: &str) -> bool {
    matches!(answer, Err(Error::GRpcStatus(status)) if (status.code(), status.message()) == (Code::Unavailable, message))
}

/// Maintenance.
pub(crate) async fn maintenance(target: &Target) {
    let (leader, follower) = (target.leader().await, target.follower().await);
    let mut refused = Refusals::default();
    let mut leading = target.client_of(leader).await;
    let mut following = target.client_of(follower).await;
    let other = following.status().await.unwrap().header().unwrap().member_id();
    refused.expect("asked of a follower", following.move_leader(other).await, NOT_LEADER);
    refused.expect("to no member, of a follower", following.move_leader(4711).await, NOT_LEADER);
    refused.expect("to no member", leading.move_leader(4711).await, BAD_TRANSFEREE);
    let future = now(&mut leading).await + 1_000_000;
    refused.expect("hash of the future", leading.hash_kv(future).await, FUTURE);
    let listed = leading.alarm(AlarmAction::Deactivate, AlarmType::None, None).await;
    assert!(listed.unwrap().alarms().is_empty());
}

/// Authentication, while it is off.
pub(crate) async fn authentication(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    refused.expect("turned on without root", client.auth_enable().await, NO_ROOT);
    client.user_add("root", "secret", None).await.unwrap();
    refused.expect("turned on, root without role", client.auth_enable().await, ROOT_WITHOUT_ROLE);
    client.user_delete("root").await.unwrap();
    let token = client.auth_client().authenticate("root".to_owned(), "secret".to_owned()).await;
    refused.expect("a token", token, AUTH_OFF);
}

/// Users and roles.
pub(crate) async fn users_and_roles(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let (user, role, none) = ("errors-user", "errors-role", "errors-none");
    client.user_add(user, "secret", None).await.unwrap();
    client.role_add(role).await.unwrap();
    refused.expect("user without name", client.user_add("", "secret", None).await, USER_EMPTY);
    refused.expect("user, again", client.user_add(user, "secret", None).await, USER_EXISTS);
    refused.expect("role without name", client.role_add("").await, ROLE_EMPTY);
    refused.expect("role, again", client.role_add(role).await, ROLE_EXISTS);
    refused.expect("user get", client.user_get(none).await, USER_NOT_FOUND);
    refused.expect("user delete", client.user_delete(none).await, USER_NOT_FOUND);
    refused.expect("password", client.user_change_password(none, "secret").await, USER_NOT_FOUND);
    refused.expect("role get", client.role_get(none).await, ROLE_NOT_FOUND);
    refused.expect("role delete", client.role_delete(none).await, ROLE_NOT_FOUND);
    refused.expect("grant to none", client.user_grant_role(none, role).await, USER_NOT_FOUND);
    refused.expect("grant of none", client.user_grant_role(user, none).await, ROLE_NOT_FOUND);
    refused.expect("revoke from none", client.user_revoke_role(none, role).await, USER_NOT_FOUND);
    refused.expect("revoke, not granted", client.user_revoke_role(user, role).await, ROLE_NOT_GRANTED);
    let permission = || Permission::read("x");
    refused.expect("allow none", client.role_grant_permission(none, permission()).await, ROLE_NOT_FOUND);
    let revoked = client.role_revoke_permission(none, "x", None).await;
    refused.expect("disallow none", revoked, ROLE_NOT_FOUND);
    let revoked = client.role_revoke_permission(role, "x", None).await;
    refused.expect("disallow what is not allowed", revoked, PERMISSION_NOT_GRANTED);
    client.user_delete(user).await.unwrap();
    client.role_delete(role).await.unwrap();
}

/// Elections whose leader is not said.
pub(crate) async fn elections(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut refused = Refusals::default();
    let missing: Refusal = (Code::Unknown, "\"leader\" field must be provided");
    refused.expect("proclaim", client.proclaim("x", Some(ProclaimOptions::new())).await, missing);
    refused.expect("resign", client.resign(Some(ResignOptions::new())).await, missing);
}

/// Methods and services that there are not.
pub(crate) async fn unknown_methods(target: &Target) {
    for method in ["/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Range"] {
        let answer = wire::call::<_, wire::Answer>(target, 0, method, wire::Answer::default()).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{method}");
    }
}

/// Sorts of an unknown kind: refused as in later versions of etcd. Debian's 3.4 ends when it is asked.
pub(crate) async fn unknown_sorts(target: &Target) {
    if target.server == Server::Etcd {
        return;
    }
    let mut refused = Refusals::default();
    for key in ["a", "b"] {
        put(&mut target.client_of(0).await, format!("errors/sort/{key}"), "x").await;
    }
    let invalid: Refusal = (Code::InvalidArgument, "etcdserver: invalid sort option");
    for (sort_order, sort_target) in [(3, 0), (-1, 0), (1, 5), (0, 5), (1, -1)] {
        let request = wire::RangeRequest {
            key: b"errors/sort/".to_vec(),
            range_end: b"errors/sort0".to_vec(),
            sort_order,
            sort_target,
            ..wire::RangeRequest::default()
        };
        let answer = wire::call::<_, wire::RangeResponse>(target, 0, "/etcdserverpb.KV/Range", request).await;
        refused.expect_status(&format!("order {sort_order} of target {sort_target}"), answer, invalid);
    }
}
