//! Leases: granted, kept alive, revoked, left to expire, and the keys that hang on them.
//!
//! A watch from now on begins at what its node has seen, so a case that watches writes through the same node.

use std::time::{Duration, Instant};

use etcd_client::{
    Client, EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp, WatchOptions,
};
use tonic::Code;

use super::answers::{below, get, names, put, refusal, refused_at_last, text, word};
use super::target::Target;
use super::wire;

/// Long enough that it ends in no test.
const LONG: i64 = 600;
/// As short as it may be.
const SHORT: i64 = 1;

async fn grant(client: &mut Client, ttl: i64) -> i64 {
    client.lease_grant(ttl, None).await.unwrap().id()
}

async fn put_on(client: &mut Client, key: impl AsRef<[u8]>, lease: i64) {
    client.put(key.as_ref(), "leased", Some(PutOptions::new().with_lease(lease))).await.unwrap();
}

/// The keys that hang on a lease, sorted.
async fn keys_of(client: &mut Client, lease: i64) -> Vec<String> {
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let answer = client.lease_time_to_live(lease, Some(options)).await.unwrap();
    let mut keys: Vec<_> = answer.keys().iter().map(|key| text(key)).collect();
    keys.sort();
    keys
}

fn not_found() -> (Code, String) {
    (Code::NotFound, "etcdserver: requested lease not found".to_owned())
}

/// A lease has the id that was asked for, or one that the server chooses.
pub(crate) async fn grants(target: &Target) {
    let mut client = target.client().await;
    let (one, other) = (client.lease_grant(LONG, None).await.unwrap(), client.lease_grant(LONG, None).await.unwrap());
    assert!(one.id() > 0 && other.id() > 0 && one.id() != other.id());
    assert_eq!((one.ttl(), one.error()), (LONG, ""));
    for id in [4_711_001, i64::MAX, -4_711_002] {
        let chosen = client.lease_grant(LONG, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap();
        assert_eq!((chosen.id(), chosen.ttl()), (id, LONG));
        let again = client.lease_grant(LONG, Some(LeaseGrantOptions::new().with_id(id))).await;
        assert_eq!(refusal(again), (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned()));
        client.lease_revoke(id).await.unwrap();
        assert_eq!(refusal(client.lease_revoke(id).await), not_found());
        // It can be had again.
        client.lease_grant(LONG, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap();
        client.lease_revoke(id).await.unwrap();
    }
    client.lease_revoke(one.id()).await.unwrap();
    client.lease_revoke(other.id()).await.unwrap();
}

/// The longest time to live there is.
pub(crate) async fn longest(target: &Target) {
    let mut client = target.client().await;
    let ttl = 9_000_000_000;
    let lease = client.lease_grant(ttl, None).await.unwrap();
    assert_eq!(lease.ttl(), ttl);
    let left = client.lease_time_to_live(lease.id(), None).await.unwrap();
    assert_eq!(left.granted_ttl(), ttl);
    assert!(left.ttl() <= ttl && left.ttl() > ttl - 60);
    client.lease_revoke(lease.id()).await.unwrap();
}

/// Revoking takes all keys of the lease, at one revision, and no others.
pub(crate) async fn revoke_deletes_keys(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "lease/revoke/";
    let (lease, other) = (grant(&mut client, LONG).await, grant(&mut client, LONG).await);
    put_on(&mut client, format!("{prefix}a"), lease).await;
    put_on(&mut client, format!("{prefix}b"), other).await;
    put(&mut client, format!("{prefix}c"), "free").await;
    put_on(&mut client, format!("{prefix}d"), lease).await;
    let mut watch = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());

    client.lease_revoke(lease).await.unwrap();
    assert_eq!(word(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix), "bc");
    let seen = watch.message().await.unwrap().unwrap();
    let deleted: Vec<_> = seen.events().iter().map(|event| (event.event_type(), event.kv().unwrap())).collect();
    assert!(
        deleted.iter().all(|(kind, kv)| *kind == EventType::Delete && kv.mod_revision() == deleted[0].1.mod_revision())
    );
    let mut keys: Vec<_> = deleted.iter().map(|(_, kv)| text(kv.key())).collect();
    keys.sort();
    assert_eq!(keys, [format!("{prefix}a"), format!("{prefix}d")]);
    assert_eq!(refusal(client.lease_revoke(lease).await), not_found());
    client.lease_revoke(other).await.unwrap();
    assert_eq!(word(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix), "c");
}

/// A lease tells what is left of it, what it was granted, and its keys, in no order, when asked.
pub(crate) async fn time_to_live(target: &Target) {
    let mut client = target.client().await;
    let lease = grant(&mut client, LONG).await;
    assert!(keys_of(&mut client, lease).await.is_empty());
    for name in ["b", "a", "c"] {
        put_on(&mut client, format!("lease/ttl/{name}"), lease).await;
    }
    let left = client.lease_time_to_live(lease, None).await.unwrap();
    assert_eq!((left.id(), left.granted_ttl()), (lease, LONG));
    assert!(left.ttl() <= LONG && left.ttl() > LONG - 60);
    assert!(left.keys().is_empty(), "not asked for");
    assert_eq!(keys_of(&mut client, lease).await, ["lease/ttl/a", "lease/ttl/b", "lease/ttl/c"]);
    // Every node can tell.
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let left = client.lease_time_to_live(lease, None).await.unwrap();
        assert_eq!((left.id(), left.granted_ttl()), (lease, LONG));
    }
    client.lease_revoke(lease).await.unwrap();
}

/// A lease that is not there, or no longer, lives for -1 s; that is no error.
pub(crate) async fn time_to_live_of_none(target: &Target) {
    let mut client = target.client().await;
    let gone = grant(&mut client, LONG).await;
    client.lease_revoke(gone).await.unwrap();
    for lease in [gone, 4_711_999] {
        for node in 0..target.endpoints.len() {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let mut client = target.client_of(node).await;
            let answer = client.lease_time_to_live(lease, Some(options)).await.unwrap();
            assert_eq!((answer.id(), answer.ttl(), answer.granted_ttl()), (lease, -1, 0));
            assert!(answer.keys().is_empty() && answer.header().is_some());
        }
    }
}

/// The list has every lease until it ends. etcd's nodes tell what they know themselves, so one is asked.
pub(crate) async fn list(target: &Target) {
    let mut client = target.client_of(0).await;
    let leases = [grant(&mut client, LONG).await, grant(&mut client, LONG).await];
    let listed = |answer: etcd_client::LeaseLeasesResponse| -> Vec<i64> {
        answer.leases().iter().map(etcd_client::LeaseStatus::id).collect()
    };
    let all = listed(client.leases().await.unwrap());
    assert!(leases.iter().all(|lease| all.contains(lease)));
    client.lease_revoke(leases[0]).await.unwrap();
    let all = listed(client.leases().await.unwrap());
    assert!(!all.contains(&leases[0]) && all.contains(&leases[1]));
    client.lease_revoke(leases[1]).await.unwrap();
}

/// A put with another lease moves the key there; one without takes it off its lease.
pub(crate) async fn keys_move(target: &Target) {
    let mut client = target.client().await;
    let key = "lease/moves";
    let (one, other) = (grant(&mut client, LONG).await, grant(&mut client, LONG).await);
    put_on(&mut client, key, one).await;
    put_on(&mut client, key, other).await;
    assert_eq!(get(&mut client, key).await.unwrap().lease(), other);
    assert!(keys_of(&mut client, one).await.is_empty());
    assert_eq!(keys_of(&mut client, other).await, [key]);
    client.lease_revoke(one).await.unwrap();
    assert!(get(&mut client, key).await.is_some());

    put(&mut client, key, "free").await;
    assert!(keys_of(&mut client, other).await.is_empty());
    client.lease_revoke(other).await.unwrap();
    assert!(get(&mut client, key).await.is_some());

    // A deleted key hangs on nothing, and neither does what is put in its place.
    let third = grant(&mut client, LONG).await;
    put_on(&mut client, key, third).await;
    client.delete(key, None).await.unwrap();
    assert!(keys_of(&mut client, third).await.is_empty());
    put(&mut client, key, "anew").await;
    client.lease_revoke(third).await.unwrap();
    assert!(get(&mut client, key).await.is_some());
}

/// Keys are put on leases within transactions, too.
pub(crate) async fn within_a_transaction(target: &Target) {
    let mut client = target.client().await;
    let lease = grant(&mut client, LONG).await;
    let leased = || Some(PutOptions::new().with_lease(lease));
    let txn = Txn::new().and_then([
        TxnOp::put("lease/txn/a", "", leased()),
        TxnOp::txn(Txn::new().and_then([TxnOp::put("lease/txn/b", "", leased())])),
    ]);
    client.txn(txn).await.unwrap();
    assert_eq!(keys_of(&mut client, lease).await, ["lease/txn/a", "lease/txn/b"]);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(below(&mut client, "lease/txn/", GetOptions::new()).await.count(), 0);
}

/// A keep-alive answers with the time that was granted; one stream serves many leases.
pub(crate) async fn keep_alive(target: &Target) {
    // Not every node leads: any passes it on.
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let lease = grant(&mut client, LONG).await;
        let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
        for _ in 0..3 {
            keeper.keep_alive().await.unwrap();
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!((answer.id(), answer.ttl()), (lease, LONG));
            assert!(answer.header().unwrap().revision() > 0);
        }
        client.lease_revoke(lease).await.unwrap();
        keeper.keep_alive().await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id(), answer.ttl()), (lease, 0), "there is nothing left to keep");
    }
}

/// Keep-alives of leases that there are and of those that there are not, on one stream: the stream goes on.
pub(crate) async fn keep_alive_of_many(target: &Target) {
    let mut client = target.client().await;
    let (one, other) = (grant(&mut client, LONG).await, grant(&mut client, LONG + 1).await);
    let ids = [one, 4_711_998, other, one];
    let requests = ids.map(|id| wire::LeaseRequest { id }).to_vec();
    let mut answers = wire::keep_alive(target, requests).await.unwrap();
    for (id, ttl) in [(one, LONG), (4_711_998, 0), (other, LONG + 1), (one, LONG)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    client.lease_revoke(one).await.unwrap();
    client.lease_revoke(other).await.unwrap();
}

/// A lease that nobody keeps ends, not earlier than granted, and takes its keys; watchers see them go at one revision.
pub(crate) async fn expiry(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "lease/expiry/";
    let since = Instant::now();
    let lease = client.lease_grant(SHORT, None).await.unwrap();
    assert!(lease.ttl() >= SHORT);
    let granted = Duration::from_secs(u64::try_from(lease.ttl()).unwrap());
    for name in ["a", "b"] {
        put_on(&mut client, format!("{prefix}{name}"), lease.id()).await;
    }
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut watch = client.watch(prefix, Some(options)).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let seen = watch.message().await.unwrap().unwrap();
    assert!(since.elapsed() >= granted, "it ended after {:?}", since.elapsed());
    assert_eq!(seen.events().len(), 2);
    for event in seen.events() {
        assert_eq!(event.event_type(), EventType::Delete);
        assert_eq!(event.kv().unwrap().mod_revision(), seen.events()[0].kv().unwrap().mod_revision());
        assert_eq!(event.prev_kv().unwrap().lease(), lease.id());
    }
    assert_eq!(below(&mut client, prefix, GetOptions::new()).await.count(), 0);
    assert_eq!(client.lease_time_to_live(lease.id(), None).await.unwrap().ttl(), -1);
    assert_eq!(refusal(client.lease_revoke(lease.id()).await), not_found());
    let late = client.put(format!("{prefix}c"), "", Some(PutOptions::new().with_lease(lease.id()))).await;
    assert_eq!(refusal(late), not_found());
}

/// A lease lives while it is kept: another of the same length, not kept, ends before it.
pub(crate) async fn kept_alive_past_its_time(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "lease/kept/";
    let kept = client.lease_grant(SHORT, None).await.unwrap();
    put_on(&mut client, format!("{prefix}kept"), kept.id()).await;
    let mut watch = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let (mut keeper, mut answers) = client.lease_keep_alive(kept.id()).await.unwrap();
    let keeping = tokio::spawn(async move {
        loop {
            keeper.keep_alive().await.unwrap();
            assert!(answers.message().await.unwrap().unwrap().ttl() > 0, "it ended though it was kept");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    // Two that end one after the other show that the kept one has outlived its time.
    for name in ["first", "second"] {
        let lease = grant(&mut client, SHORT).await;
        put_on(&mut client, format!("{prefix}{name}"), lease).await;
        let mut ended = false;
        while !ended {
            let seen = watch.message().await.unwrap().unwrap();
            for event in seen.events().iter().filter(|event| event.event_type() == EventType::Delete) {
                assert_eq!(text(event.kv().unwrap().key()), format!("{prefix}{name}"));
                ended = true;
            }
        }
    }
    assert_eq!(names(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix), ["kept"]);
    assert!(!keeping.is_finished());
    keeping.abort();
    let seen = watch.message().await.unwrap().unwrap();
    assert_eq!(seen.events()[0].event_type(), EventType::Delete, "left alone, it ends, too");
}

/// Putting a key on a lease again does not make it live longer.
pub(crate) async fn puts_do_not_keep_alive(target: &Target) {
    let mut client = target.client().await;
    let key = "lease/puts";
    let lease = grant(&mut client, SHORT).await;
    let refused = refused_at_last(|| {
        let mut client = client.clone();
        async move { client.put(key, "", Some(PutOptions::new().with_lease(lease))).await }
    })
    .await;
    assert_eq!(refused, not_found());
    assert!(get(&mut client, key).await.is_none());
}
