//! Status, alarms, hashes, defragmentation, snapshots, and who leads.

use etcd_client::{AlarmAction, AlarmType, GetOptions};

use super::answers::{below, put, put_letters, revision, word};
use super::target::Target;
use super::wire;
use crate::harness::eventually;

/// Every node tells its version and size, where its log stands, and who leads.
pub(crate) async fn status(target: &Target) {
    let members = target.client().await.member_list().await.unwrap();
    let (mut leaders, mut terms) = (Vec::new(), Vec::new());
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        put(&mut client, "maintenance/status", "x").await;
        let status = client.status().await.unwrap();
        let version = status.version().split('+').next().unwrap();
        let numbers: Vec<_> = version.split('.').map(|part| part.parse::<u32>()).collect();
        assert!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "{}", status.version());
        assert_eq!(numbers[0], Ok(3), "clients choose by it what they may ask");
        assert!(status.db_size() > 0 && status.raft_used_db_size() > 0);
        assert!(status.raft_used_db_size() <= status.db_size());
        assert!(status.raft_index() > 0 && status.raft_applied_index() > 0);
        assert!(status.raft_applied_index() <= status.raft_index());
        assert!(status.raft_term() > 0 && status.raft_term() == status.header().unwrap().raft_term());
        assert!(status.errors().is_empty() && !status.is_learner());
        assert!(members.members().iter().any(|member| member.id() == status.leader()));
        leaders.push(status.leader());
        terms.push(status.raft_term());
    }
    leaders.dedup();
    terms.dedup();
    assert_eq!((leaders.len(), terms.len()), (1, 1));
}

/// There are no alarms; none can be put out.
pub(crate) async fn alarms(target: &Target) {
    let mut client = target.client().await;
    for kind in [AlarmType::None, AlarmType::Nospace, AlarmType::Corrupt] {
        let listed = client.alarm(AlarmAction::Get, kind, None).await.unwrap();
        assert!(listed.alarms().is_empty());
    }
    let put_out = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
    assert!(put_out.alarms().is_empty());
}

/// While an alarm of space is on, puts are refused, and deletions and reads are not.
pub(crate) async fn alarm_of_space(target: &Target) {
    let mut client = target.client_of(0).await;
    put(&mut client, "maintenance/space", "x").await;
    let member = client.status().await.unwrap().header().unwrap().member_id();
    let mut of_member = etcd_client::AlarmOptions::new();
    of_member.with_member(member);
    let of_member = || Some(of_member.clone());
    let raised = client.alarm(AlarmAction::Activate, AlarmType::Nospace, of_member()).await.unwrap();
    assert_eq!(raised.alarms().len(), 1);
    assert_eq!((raised.alarms()[0].member_id(), raised.alarms()[0].alarm()), (member, AlarmType::Nospace));
    let refused = super::answers::refusal(client.put("maintenance/space", "y", None).await);
    let full = (tonic::Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
    assert_eq!(refused, full);
    assert_eq!(super::answers::refusal(client.lease_grant(600, None).await), full);
    let puts = etcd_client::Txn::new().and_then([etcd_client::TxnOp::put("maintenance/space", "y", None)]);
    assert_eq!(super::answers::refusal(client.txn(puts).await), full);
    let reads = etcd_client::Txn::new().and_then([etcd_client::TxnOp::get("maintenance/space", None)]);
    assert!(client.txn(reads).await.unwrap().succeeded());
    assert_eq!(client.get("maintenance/space", None).await.unwrap().kvs()[0].value(), b"x");
    assert_eq!(client.delete("maintenance/space", None).await.unwrap().deleted(), 1);
    let listed = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    assert_eq!(listed.alarms().len(), 1);
    assert_eq!(client.status().await.unwrap().errors().len(), 1);
    let put_out = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, of_member()).await.unwrap();
    assert_eq!(put_out.alarms().len(), 1, "it says what it put out");
    put(&mut client, "maintenance/space", "y").await;
    assert!(client.status().await.unwrap().errors().is_empty());
}

/// Nodes that have applied the same have the same hash, of now and of any revision that is not compacted.
pub(crate) async fn hashes(target: &Target) {
    let mut writer = target.client_of(0).await;
    let first = put_letters(&mut writer, "maintenance/hash/", "abc").await[0];
    let last = revision(writer.delete("maintenance/hash/a", None).await.unwrap().header());
    writer.compact(first, None).await.unwrap();
    let mut hashes = Vec::new();
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        // A linearizable read waits until this node has applied what was acknowledged.
        below(&mut client, "maintenance/hash/", GetOptions::new()).await;
        let now = client.hash_kv(0).await.unwrap();
        assert_eq!((revision(now.header()), now.compact_version()), (last, first));
        let earlier = client.hash_kv(first + 1).await.unwrap();
        assert_eq!(earlier.compact_version(), first);
        assert_ne!(now.hash(), earlier.hash());
        assert_eq!(now.hash(), client.hash_kv(last).await.unwrap().hash());
        assert!(revision(client.hash().await.unwrap().header()) >= last);
        hashes.push((now.hash(), earlier.hash()));
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "all have the same");
    put(&mut writer, "maintenance/hash/a", "x").await;
    assert_ne!(writer.hash_kv(0).await.unwrap().hash(), hashes[0].0);
}

/// Defragmentation of a node changes nothing that one can read.
pub(crate) async fn defragment(target: &Target) {
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let prefix = format!("maintenance/defragment/{node}/");
        put_letters(&mut client, &prefix, "abc").await;
        client.defragment().await.unwrap();
        assert_eq!(word(below(&mut client, &prefix, GetOptions::new()).await.kvs(), &prefix), "abc");
    }
}

/// A snapshot comes in parts that say how many bytes are left; behind the last comes its SHA-256, which they leave out.
pub(crate) async fn snapshot(target: &Target) {
    let mut client = target.client_of(0).await;
    put(&mut client, "maintenance/snapshot", "x").await;
    let mut parts = client.snapshot().await.unwrap();
    let mut seen: Vec<(u64, u64)> = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        seen.push((part.blob().len().try_into().unwrap(), part.remaining_bytes()));
    }
    assert_eq!(seen.pop(), Some((32, 0)), "the digest");
    let mut left: u64 = seen.iter().map(|(size, _)| size).sum();
    assert!(left > 0);
    for (size, remaining) in seen {
        left -= size;
        assert_eq!(remaining, left);
    }
}

/// The leader hands over to the member that it is told.
pub(crate) async fn move_leader(target: &Target) {
    for _ in 0..2 {
        let leader = target.leader().await;
        let to = (leader + 1) % target.endpoints.len();
        let id = target.client_of(to).await.status().await.unwrap().header().unwrap().member_id();
        target.client_of(leader).await.move_leader(id).await.unwrap();
        eventually("other leader", || async { (target.leader().await == to).then_some(()) }).await;
    }
    put(&mut target.client().await, "maintenance/moved", "x").await;
}

/// The leader may be told to go on leading.
pub(crate) async fn move_leader_to_itself(target: &Target) {
    let leader = target.leader().await;
    let mut client = target.client_of(leader).await;
    let id = client.status().await.unwrap().leader();
    client.move_leader(id).await.unwrap();
    assert_eq!(target.leader().await, leader);
}

/// The standard health service says that a node serves.
pub(crate) async fn health(target: &Target) {
    for node in 0..target.endpoints.len() {
        let asked = wire::Answer::default();
        let health: wire::Health = wire::call(target, node, "/grpc.health.v1.Health/Check", asked).await.unwrap();
        assert_eq!(health.status, 1);
    }
}
