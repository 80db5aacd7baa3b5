//! What clients notice when nodes are killed: nothing that was acknowledged is lost, and nothing comes twice.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, LockOptions, PutOptions, Txn, TxnOp, WatchOptions,
    WatchStream,
};
use tonic::Code;

use super::answers::{below, get, put, put_letters, refusal, revision, text, word};
use super::target::Target;
use crate::harness::eventually;

const LONG: i64 = 600;
/// How long a client waits for an answer before it asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Keys that the writer makes, and how many before the leader is killed.
const KEYS: usize = 300;
const KEYS_BEFORE: usize = 100;

async fn patient(endpoints: &[String]) -> Client {
    let options = ConnectOptions::new().with_timeout(PATIENCE).with_connect_timeout(PATIENCE);
    Client::connect(endpoints, Some(options)).await.unwrap()
}

/// Makes a key, and tries again until it is there. No try makes it a second time.
async fn make(client: &mut Client, key: &str) {
    let create = || {
        Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key, "x", None)])
            .or_else([TxnOp::get(key, None)])
    };
    while client.txn(create()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next events; `None` when the stream has ended.
async fn seen(watch: &mut WatchStream) -> Option<Vec<(String, i64)>> {
    let response = watch.message().await.ok()??;
    let events = response.events().iter().map(|event| event.kv().unwrap());
    Some(events.map(|kv| (text(kv.key()), kv.mod_revision())).collect())
}

/// Follows a prefix over nodes that end: at each, it goes on behind what it has seen. It first asks the node that is to
/// be killed.
async fn follow(endpoints: Vec<String>, first: usize, prefix: &str, start: i64) -> Vec<(String, i64)> {
    let (mut found, mut node, mut next) = (Vec::new(), first, start);
    while found.len() < KEYS {
        let mut client = Client::connect(&endpoints[node..=node], None).await.unwrap();
        let options = WatchOptions::new().with_prefix().with_start_revision(next);
        if let Ok(mut watch) = client.watch(prefix, Some(options)).await {
            while found.len() < KEYS
                && let Some(events) = seen(&mut watch).await
            {
                next = events.last().map_or(next, |(_, revision)| revision + 1);
                found.extend(events);
            }
        }
        node = (node + 1) % endpoints.len();
    }
    found
}

/// Writes and watches go on over the end of the leader: every key is seen once, in the order in which they were made.
pub(crate) async fn writes_and_watches(target: &Target) {
    let prefix = "failover/keys/";
    let leader = target.leader().await;
    let start = put(&mut target.client().await, "failover/start", "x").await + 1;
    let mut watching = Vec::new();
    for node in 0..target.endpoints.len() {
        watching.push(tokio::spawn(follow(target.endpoints.clone(), node, prefix, start)));
    }
    let mut client = patient(&target.endpoints).await;
    for at in 0..KEYS {
        if at == KEYS_BEFORE {
            target.kill(leader);
        }
        make(&mut client, &format!("{prefix}{at:03}")).await;
    }
    let expected: Vec<_> = (0..KEYS).map(|at| format!("{prefix}{at:03}")).collect();
    for watching in watching {
        let found = watching.await.unwrap();
        assert_eq!(found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), expected);
        assert!(found.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1), "each is one revision more");
    }
    // Another leads, and whoever was killed catches up.
    let survivor = target.leader().await;
    assert_ne!(survivor, leader);
    target.restart(&[leader]).await;
    let mut late = target.client_of(leader).await;
    assert_eq!(below(&mut late, prefix, GetOptions::new()).await.count(), i64::try_from(KEYS).unwrap());
    let members = late.member_list().await.unwrap();
    assert_eq!(members.members().len(), target.endpoints.len());
}

/// Leases outlive the leader, are kept alive by the next, and end under it when nobody keeps them.
pub(crate) async fn leases_survive(target: &Target) {
    let leader = target.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut client = target.client_of(one).await;
    let long = client.lease_grant(LONG, None).await.unwrap().id();
    let short = client.lease_grant(3, None).await.unwrap();
    for (key, lease) in [("failover/long", long), ("failover/short", short.id())] {
        client.put(key, "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    }
    let (mut keeper, mut kept) = client.lease_keep_alive(long).await.unwrap();
    let mut watch = client.watch("failover/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let since = std::time::Instant::now();
    let renewed = client.lease_keep_alive(short.id()).await.unwrap();
    target.kill(leader);
    drop(renewed);

    let ended = watch.message().await.unwrap().unwrap();
    assert_eq!(text(ended.events()[0].kv().unwrap().key()), "failover/short");
    assert!(since.elapsed() >= Duration::from_secs(3), "not before it was granted: {:?}", since.elapsed());
    // The stream of keep-alives goes on, or a new one does.
    if keeper.keep_alive().await.is_err() || kept.message().await.ok().flatten().is_none_or(|kept| kept.ttl() <= 0) {
        let (_, _) = eventually("keep-alive", || async { client.clone().lease_keep_alive(long).await.ok() }).await;
    }
    let mut client = target.client_of(other).await;
    let left = client.lease_time_to_live(long, None).await.unwrap();
    assert_eq!(left.granted_ttl(), LONG);
    assert!(left.ttl() > LONG - 60);
    assert_eq!(get(&mut client, "failover/long").await.unwrap().lease(), long);
    client.lease_revoke(long).await.unwrap();
    assert!(get(&mut client, "failover/long").await.is_none());
}

/// A lock is held over the end of the leader, and who waits for it has it next.
pub(crate) async fn locks_survive(target: &Target) {
    let name = "failover/lock";
    let leader = target.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut holder = target.client_of(one).await;
    let mut waiter = target.client_of(other).await;
    let mut leases = Vec::new();
    for client in [&mut holder, &mut waiter] {
        leases.push(client.lease_grant(LONG, None).await.unwrap().id());
    }
    let held = holder.lock(name, Some(LockOptions::new().with_lease(leases[0]))).await.unwrap();
    let options = LockOptions::new().with_lease(leases[1]);
    let waiting = tokio::spawn(async move {
        loop {
            match waiter.lock(name, Some(options.clone())).await {
                Ok(locked) => break text(locked.key()),
                // etcd sends those who wait away when its leader changes, with the code that says least.
                Err(error) => {
                    let (code, message) = refusal(Err::<(), _>(error));
                    assert!(matches!(code, Code::Unknown | Code::Unavailable), "{code:?} {message}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    eventually("second in line", || async {
        (below(&mut holder.clone(), "failover/lock/", GetOptions::new()).await.count() == 2).then_some(())
    })
    .await;
    target.kill(leader);
    make(&mut holder, "failover/after").await;
    assert!(get(&mut holder, held.key()).await.is_some());
    assert!(!waiting.is_finished(), "it is held");
    holder.unlock(held.key()).await.unwrap();
    let next = waiting.await.unwrap();
    assert_eq!(next, format!("{name}/{:x}", leases[1]));
    assert_eq!(get(&mut holder, &next).await.unwrap().lease(), leases[1]);
}

/// One node of three shows what it has when asked for no more; it takes no writes, and says that nobody leads.
pub(crate) async fn a_minority(target: &Target) {
    let prefix = "failover/minority/";
    put_letters(&mut target.client_of(0).await, prefix, "ab").await;
    get(&mut target.client_of(2).await, prefix).await;
    let mut watching =
        Client::connect(&target.endpoints[2..], Some(ConnectOptions::new().with_require_leader(true))).await.unwrap();
    let mut watch = watching.watch(prefix, None).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    target.kill(0);
    target.kill(1);
    let mut client = patient(&target.endpoints[2..]).await;
    let alone = below(&mut client, prefix, GetOptions::new().with_serializable()).await;
    assert_eq!(word(alone.kvs(), prefix), "ab");
    assert!(client.put(format!("{prefix}c"), "c", None).await.is_err());
    // Those who ask for a leader are told that there is none.
    let no_leader = (Code::Unavailable, "etcdserver: no leader".to_owned());
    let asked = refusal(watching.get(prefix, None).await);
    assert_eq!(asked, no_leader);
    assert_eq!(refusal(watch.message().await), no_leader);
    let status = client.status().await.unwrap();
    assert_eq!((status.leader(), status.errors()), (0, &["etcdserver: no leader".to_owned()][..]));

    target.restart(&[0]).await;
    let mut client = target.client_of(2).await;
    make(&mut client, &format!("{prefix}d")).await;
    assert!(word(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix).ends_with('d'));
}

/// All nodes end and start again: keys, their history, leases and members are as before.
pub(crate) async fn all_at_once(target: &Target) {
    let prefix = "failover/all/";
    let mut client = target.client_of(0).await;
    let made = put_letters(&mut client, prefix, "abc").await;
    client.compact(made[1], None).await.unwrap();
    let lease = client.lease_grant(LONG, None).await.unwrap().id();
    client.put(format!("{prefix}d"), "d", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let deleted = client.delete(format!("{prefix}a"), None).await.unwrap();
    let (last, id) = (revision(deleted.header()), deleted.header().unwrap().cluster_id());
    let members = client.member_list().await.unwrap();
    for node in 0..target.endpoints.len() {
        target.kill(node);
    }
    target.restart(&[0, 1, 2]).await;

    let mut client = target.client_of(1).await;
    let shown = below(&mut client, prefix, GetOptions::new()).await;
    assert_eq!(word(shown.kvs(), prefix), "bcd");
    assert_eq!((revision(shown.header()), shown.header().unwrap().cluster_id()), (last, id));
    let earlier = below(&mut client, prefix, GetOptions::new().with_revision(made[2])).await;
    assert_eq!(word(earlier.kvs(), prefix), "abc");
    let compacted = client.get(prefix, Some(GetOptions::new().with_revision(made[0]))).await;
    assert_eq!(refusal(compacted).0, Code::OutOfRange);
    let mut watch =
        client.watch(prefix, Some(WatchOptions::new().with_prefix().with_start_revision(made[2]))).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let mut keys = Vec::new();
    while keys.len() < 3 {
        keys.extend(seen(&mut watch).await.unwrap().into_iter().map(|(key, _)| key));
    }
    assert_eq!(keys, [format!("{prefix}c"), format!("{prefix}d"), format!("{prefix}a")]);
    let again = client.member_list().await.unwrap();
    let ids = |list: &etcd_client::MemberListResponse| -> std::collections::BTreeSet<u64> {
        list.members().iter().map(etcd_client::Member::id).collect()
    };
    assert_eq!(ids(&again), ids(&members));
    assert_eq!(client.lease_time_to_live(lease, None).await.unwrap().granted_ttl(), LONG);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(word(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix), "bc");
    assert_eq!(put(&mut client, format!("{prefix}e"), "e").await, last + 2);
}
