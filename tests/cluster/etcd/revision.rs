//! Headers, how the revision steps, and compaction. Nobody else writes while these run.

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions,
};
use tonic::Code;

use super::answers::{below, get, put, put_letters, refusal, revision, text, word};
use super::target::Target;

/// The revision that a read tells.
async fn now(client: &mut Client) -> i64 {
    revision(client.get("revision/none", None).await.unwrap().header())
}

/// Every node names the cluster by one id and itself by the id that the member list has for it.
pub(crate) async fn headers(target: &Target) {
    let members = target.client().await.member_list().await.unwrap();
    let cluster_id = members.header().unwrap().cluster_id();
    assert_ne!(cluster_id, 0);
    let mut seen = Vec::new();
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let answer = client.put(format!("revision/headers/{node}"), "x", None).await.unwrap();
        let header = answer.header().unwrap().clone();
        assert_eq!(header.cluster_id(), cluster_id);
        assert!(header.raft_term() > 0);
        let url = format!("http://{}", target.endpoints[node]);
        let member = members.members().iter().find(|member| member.client_urls().contains(&url)).unwrap();
        assert_eq!(header.member_id(), member.id());
        let read = client.get("revision/headers", None).await.unwrap().take_header().unwrap();
        assert_eq!(
            (read.cluster_id(), read.member_id(), read.revision()),
            (cluster_id, member.id(), header.revision())
        );
        let lease = client.lease_grant(600, None).await.unwrap();
        let granted = lease.header().unwrap();
        assert_eq!((granted.cluster_id(), granted.member_id()), (cluster_id, member.id()));
        client.lease_revoke(lease.id()).await.unwrap();
        seen.push(member.id());
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), target.endpoints.len());
}

/// Each transaction that changes something is one revision more, however much it changes.
pub(crate) async fn changes_step_by_one(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "revision/steps/";
    let key = |name: &str| format!("{prefix}{name}");
    let mut at = now(&mut client).await;
    let mut stepped = |header: Option<&etcd_client::ResponseHeader>, what: &str| {
        at += 1;
        assert_eq!(revision(header), at, "{what}");
    };
    stepped(client.put(key("a"), "1", None).await.unwrap().header(), "a new key");
    stepped(client.put(key("a"), "1", None).await.unwrap().header(), "the same value again");
    let ignore = || Some(PutOptions::new().with_ignore_value());
    stepped(client.put(key("a"), "", ignore()).await.unwrap().header(), "not even a value");
    let puts = Txn::new().and_then(["b", "c", "d", "e"].map(|name| TxnOp::put(key(name), name, None)));
    stepped(client.txn(puts).await.unwrap().header(), "four keys at once");
    stepped(client.delete(key("a"), None).await.unwrap().header(), "a deletion");
    let range = DeleteOptions::new().with_range(key("d"));
    stepped(client.delete(key("b"), Some(range)).await.unwrap().header(), "a deletion of two");
    let mixed = Txn::new().and_then([TxnOp::put(key("f"), "f", None), TxnOp::delete(key("e"), None)]);
    stepped(client.txn(mixed).await.unwrap().header(), "a put and a deletion");
    let lease = client.lease_grant(600, None).await.unwrap().id();
    for name in ["g", "h"] {
        let leased = Some(PutOptions::new().with_lease(lease));
        stepped(client.put(key(name), name, leased).await.unwrap().header(), "a leased key");
    }
    stepped(client.lease_revoke(lease).await.unwrap().header(), "the end of a lease with two keys");
    assert_eq!(now(&mut client).await, at);
    assert_eq!(word(below(&mut client, prefix, GetOptions::new()).await.kvs(), prefix), "df");
}

/// What changes no key is no revision.
pub(crate) async fn no_changes_do_not_step(target: &Target) {
    let mut client = target.client_of(0).await;
    put(&mut client, "revision/still", "x").await;
    let at = now(&mut client).await;
    let none = "revision/none";
    assert_eq!(revision(client.delete(none, None).await.unwrap().header()), at, "a deletion of nothing");
    let prefix = DeleteOptions::new().with_prefix();
    assert_eq!(revision(client.delete(none, Some(prefix)).await.unwrap().header()), at);
    assert_eq!(revision(client.txn(Txn::new()).await.unwrap().header()), at, "an empty transaction");
    let reads = Txn::new().and_then([TxnOp::get("revision/still", None)]);
    assert_eq!(revision(client.txn(reads).await.unwrap().header()), at);
    let deletes = Txn::new().and_then([TxnOp::delete(none, None), TxnOp::delete(none, None)]);
    assert_eq!(revision(client.txn(deletes).await.unwrap().header()), at);
    let not_taken = Txn::new().when([Compare::version("revision/still", CompareOp::Equal, 99)]).and_then([TxnOp::put(
        "revision/still",
        "y",
        None,
    )]);
    assert_eq!(revision(client.txn(not_taken).await.unwrap().header()), at);
    let lease = client.lease_grant(600, None).await.unwrap();
    assert_eq!(revision(lease.header()), at, "a lease");
    assert_eq!(revision(client.lease_revoke(lease.id()).await.unwrap().header()), at, "its end");
    let refused = client.put(none, "", Some(PutOptions::new().with_ignore_value())).await;
    assert_eq!(refusal(refused).0, Code::InvalidArgument);
    assert_eq!(now(&mut client).await, at);
}

/// The answers within a transaction's answer name the revision, too, and nothing else of a header.
pub(crate) async fn headers_within_a_transaction(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "revision/within";
    let at = put(&mut client, key, "x").await;
    let txn = Txn::new().and_then([
        TxnOp::get(key, None),
        TxnOp::put(key, "y", None),
        TxnOp::get(key, None),
        TxnOp::delete("revision/none", None),
    ]);
    let answer = client.txn(txn).await.unwrap();
    assert_eq!(revision(answer.header()), at + 1);
    let headers: Vec<_> = answer
        .op_responses()
        .into_iter()
        .map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_header(),
            TxnOpResponse::Put(mut put) => put.take_header(),
            TxnOpResponse::Delete(mut delete) => delete.take_header(),
            TxnOpResponse::Txn(mut txn) => txn.take_header(),
        })
        .map(|header| header.map(|header| (header.cluster_id(), header.member_id(), header.revision() - at)))
        .collect();
    let of = |after| Some((0, 0, after));
    assert_eq!(headers, [of(0), of(1), of(1), of(1)]);
}

fn compacted() -> (Code, String) {
    (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned())
}

fn future() -> (Code, String) {
    (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned())
}

/// Below the compacted revision nothing can be read; at it, and above, all is as before.
pub(crate) async fn compaction(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "revision/compact/";
    let made = put_letters(&mut client, prefix, "abc").await;
    let key = |name: &str| format!("{prefix}{name}");
    client.delete(key("a"), None).await.unwrap();
    let last = put(&mut client, key("c"), "again").await;
    let at = made[2];
    let answer = client.compact(at, None).await.unwrap();
    assert_eq!(revision(answer.header()), last, "compaction is no revision");

    let read = |at| GetOptions::new().with_revision(at);
    assert_eq!(word(below(&mut client, prefix, read(at)).await.kvs(), prefix), "abc");
    assert_eq!(word(below(&mut client, prefix, read(last)).await.kvs(), prefix), "bc");
    for below in [made[0], at - 1, 1] {
        assert_eq!(refusal(client.get(key("b"), Some(read(below))).await), compacted(), "at {below}");
        let txn = Txn::new().and_then([TxnOp::get(key("b"), Some(read(below)))]);
        assert_eq!(refusal(client.txn(txn).await), compacted(), "within a transaction at {below}");
        assert_eq!(refusal(client.compact(below, None).await), compacted());
    }
    // What was made below it still tells so.
    let kv = get(&mut client, key("b")).await.unwrap();
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (made[1], made[1], 1));
    assert_eq!(refusal(client.compact(at, None).await), compacted(), "the same again");
    assert_eq!(refusal(client.compact(last + 1, None).await), future());
    assert_eq!(refusal(client.get(key("b"), Some(read(last + 1))).await), future());
}

/// A physical compaction answers when it is done; it may be of the newest revision.
pub(crate) async fn physical_compaction(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "revision/physical/";
    put_letters(&mut client, prefix, "ab").await;
    client.delete(format!("{prefix}a"), None).await.unwrap();
    let at = now(&mut client).await;
    let physical = || Some(CompactionOptions::new().with_physical());
    client.compact(at, physical()).await.unwrap();
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let shown = below(&mut client, prefix, GetOptions::new().with_revision(at)).await;
        assert_eq!(word(shown.kvs(), prefix), "b");
        let refused = client.get(prefix, Some(GetOptions::new().with_revision(at - 1))).await;
        assert_eq!(refusal(refused), compacted());
    }
    assert_eq!(refusal(client.compact(at, physical()).await), compacted());
    assert_eq!(now(&mut client).await, at);
    assert_eq!(put(&mut client, format!("{prefix}a"), "anew").await, at + 1);
    assert_eq!(get(&mut client, format!("{prefix}a")).await.unwrap().version(), 1);
}

/// Compacting at no revision, or below zero, is refused as compacted; so it is before any compaction.
pub(crate) async fn compaction_of_nothing(target: &Target) {
    let mut client = target.client_of(0).await;
    for at in [0, -1] {
        assert_eq!(refusal(client.compact(at, None).await), compacted(), "at {at}");
    }
}

/// A transaction that fails on its read of a compacted revision has changed nothing.
///
/// That is so where it was asked. etcd 3.4 leaves needless reads out on the other nodes, so there it does not fail, and
/// its nodes part: the case has a cluster for itself.
pub(crate) async fn transaction_with_a_compacted_read(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "revision/half";
    let first = put(&mut client, key, "1").await;
    let at = put(&mut client, key, "2").await;
    client.compact(at, None).await.unwrap();
    let options = Some(GetOptions::new().with_revision(first));
    let txn = Txn::new().and_then([TxnOp::put(key, "3", None), TxnOp::get(key, options)]);
    assert_eq!(refusal(client.txn(txn).await), compacted());
    assert_eq!(get(&mut client, key).await.unwrap().value(), b"2");
    assert_eq!(now(&mut client).await, at);
    let options = Some(GetOptions::new().with_revision(at + 5));
    let txn = Txn::new().and_then([TxnOp::put(key, "3", None), TxnOp::get(key, options)]);
    assert_eq!(refusal(client.txn(txn).await), future());
    assert_eq!(now(&mut client).await, at);
}

/// Puts that come at once through all nodes have a revision each, and leave none out.
pub(crate) async fn concurrent_puts(target: &Target) {
    let mut client = target.client_of(0).await;
    let before = now(&mut client).await;
    let mut putting = tokio::task::JoinSet::new();
    for at in 0..60 {
        let mut client = target.client_of(at % target.endpoints.len()).await;
        putting.spawn(async move { put(&mut client, format!("revision/at-once/{at}"), "x").await });
    }
    let mut made = putting.join_all().await;
    made.sort_unstable();
    assert_eq!(made, (before + 1..=before + 60).collect::<Vec<_>>());
}

/// Who watches from the compacted revision on is shown what came later. etcd has compacted a deletion at that revision
/// itself, and does not show it; to show it is no worse.
pub(crate) async fn deletion_at_the_compacted_revision(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "revision/tombstone/";
    put_letters(&mut client, prefix, "ab").await;
    let deleted = revision(client.delete(format!("{prefix}a"), None).await.unwrap().header());
    client.compact(deleted, Some(CompactionOptions::new().with_physical())).await.unwrap();
    put_letters(&mut client, prefix, "c").await;
    let options = WatchOptions::new().with_prefix().with_start_revision(deleted);
    let mut watch = client.watch(prefix, Some(options)).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let seen = watch.message().await.unwrap().unwrap();
    let seen: Vec<_> = seen.events().iter().map(|event| event.kv().unwrap()).collect();
    assert_eq!(text(seen.last().unwrap().key()), format!("{prefix}c"));
    assert!(seen[..seen.len() - 1].iter().all(|kv| kv.mod_revision() == deleted));
}
