use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::*;
use crate::env::net::BoxFuture;
use crate::proto::internal::join_response::{Joined, Kind};
use crate::raft::group::{ProposeError, ReadError, Role};
use crate::raft::members::ChangeError;
use crate::raft::test_bed::{Chain, Disk, command};
use crate::raft::test_cluster::{Cluster, GROUP, soon, until};
use crate::storage::engine::memory::MemoryStores;
use crate::types::Epoch;
use crate::types::limits::COMMAND_BYTES_MAX;

const KEPT: u64 = LOG_ENTRIES_KEPT;
/// Entries kept where a test wants logs to be cut.
const FEW_KEPT: u64 = 16;

fn large(n: usize) -> String {
    format!("{n:08}").repeat(1_024)
}

/// Kills node 2 and writes until the others have cut their logs beyond what it has.
async fn left_behind(cluster: &mut Cluster) {
    cluster.put("before").await;
    cluster.agree(1).await;
    cluster.nodes[2].kill();
    for n in 0..300 {
        cluster.put(large(n)).await;
    }
    until("the logs are cut", || cluster.running().all(|(_, process)| process.group().status().purged > Some(100)))
        .await;
}

/// Checks that a replica took a snapshot: it holds what was cut from all logs, and did not apply it.
fn took_a_snapshot(cluster: &Cluster, at: usize) {
    let process = cluster.nodes[at].process();
    let (group, applied) = (process.group(), process.chain.applied.load(Ordering::SeqCst));
    let all = group.status().applied.unwrap();
    assert!(applied + 100 <= all, "{applied} of {all} entries were applied one by one");
    assert!((2..=all).any(|index| command(&*group.view().unwrap(), index).is_some_and(|command| command == large(50))));
    let catalog = cluster.nodes[at].disk.catalog();
    assert_eq!(catalog.engine().stores().unwrap().len(), 2, "catalog and replica, no staging");
}

#[tokio::test]
async fn three_hosts_elect_and_replicate() {
    let cluster = Cluster::founded(KEPT).await;
    let mut last = 0;
    for n in 0..20 {
        let applied = cluster.put(format!("command {n}")).await;
        assert!(applied.at.index > last);
        last = applied.at.index;
    }
    cluster.agree(last).await;
    let view = cluster.nodes[2].process().group().view().unwrap();
    assert_eq!(command(&*view, last).unwrap(), "command 19");
}

#[tokio::test]
async fn leadership_is_handed_over() {
    let cluster = Cluster::founded(KEPT).await;
    cluster.put("before").await;
    let old = cluster.leader().await;
    let new = (old + 1) % 3;
    let (group, to) = (cluster.nodes[old].process().group().clone(), cluster.nodes[new].replica);
    let handed = {
        let group = group.clone();
        async move { group.transfer_leader(to, soon()).await }
    };
    cluster.nodes[old].process().run(handed).await.unwrap();
    until("the other leads", || cluster.nodes[new].process().group().status().role == Role::Leader).await;
    let refused = cluster.nodes[old].process().run(async move { group.propose("x".into(), soon()).await }).await;
    let leader = Some((to, cluster.nodes[new].id));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader }), "trap 7: not applied, and where to go");
    let after = cluster.put("after").await;
    cluster.agree(after.at.index).await;
}

#[tokio::test]
async fn a_command_for_one_term_enters_the_log_in_no_other() {
    let cluster = Cluster::founded(KEPT).await;
    cluster.put("before").await;
    let first = cluster.leader().await;
    let process = cluster.nodes[first].process();
    let (group, term) = (process.group().clone(), process.group().term());
    let proposed = {
        let group = group.clone();
        process.run(async move { group.propose_in(term, "in time".into(), soon()).await }).await.unwrap()
    };
    cluster.agree(proposed.at.index).await;
    // There and back: it leads again, in a later term.
    for (from, to) in [(first, (first + 1) % 3), ((first + 1) % 3, first)] {
        let replica = cluster.nodes[to].replica;
        let from = cluster.nodes[from].process();
        let group = from.group().clone();
        from.run(async move { group.transfer_leader(replica, soon()).await }).await.unwrap();
        until("the other leads", || cluster.nodes[to].process().group().status().role == Role::Leader).await;
    }
    let refused = process.run(async move { group.propose_in(term, "too late".into(), soon()).await }).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    let last = cluster.put("after").await.at.index;
    cluster.agree(last).await;
    let view = process.group().view().unwrap();
    assert!(!(1..=last).any(|index| command(&*view, index).is_some_and(|command| command == "too late")));
}

#[tokio::test]
async fn trap_7_a_group_without_a_leader_refuses_and_applies_nothing() {
    let mut cluster = Cluster::new(1, KEPT);
    cluster.start(0).await;
    let process = cluster.nodes[0].process();
    let group = process.group().clone();
    let refused = process.run(async move { group.propose("x".into(), soon()).await }).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    assert_eq!(process.chain.applied.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_command_that_no_log_holds_is_refused_and_harms_nobody() {
    let cluster = Cluster::founded(KEPT).await;
    let largest = cluster.put(vec![1; COMMAND_BYTES_MAX]).await.at.index;
    let leader = cluster.nodes[cluster.leader().await].process();
    let group = leader.group().clone();
    let refused = leader.run(async move { group.propose(vec![1; COMMAND_BYTES_MAX + 1].into(), soon()).await }).await;
    assert_eq!(refused, Err(ProposeError::TooLarge(COMMAND_BYTES_MAX + 1)));
    let after = cluster.put("x").await.at.index;
    assert_eq!(after, largest + 1);
    cluster.agree(after).await;
}

#[tokio::test]
async fn a_group_is_initialised_once() {
    let cluster = Cluster::founded(KEPT).await;
    let leader = cluster.leader().await;
    let process = cluster.nodes[leader].process();
    let group = process.group().clone();
    let voters = group.status().voters;
    assert_eq!(voters.len(), 3);
    let again = process.run(async move { group.initialize(voters).await }).await;
    assert_eq!(again, Err(ChangeError::AlreadyInitialized));
}

#[tokio::test]
async fn reads_are_confirmed_by_a_majority_or_refused() {
    let mut cluster = Cluster::founded(KEPT).await;
    let written = cluster.put("x").await.at.index;
    let leader = cluster.leader().await;
    let read = |at: usize, cluster: &Cluster| {
        let process = cluster.nodes[at].process();
        let group = process.group().clone();
        process.run(async move { group.read_index(soon()).await.map(|_| group.status().applied) })
    };
    assert!(read(leader, &cluster).await.unwrap() >= Some(written));
    let follower = (leader + 1) % 3;
    let at_leader = Some((cluster.nodes[leader].replica, cluster.nodes[leader].id));
    assert_eq!(read(follower, &cluster).await, Err(ReadError::NotLeader { leader: at_leader }));
    for at in [follower, (leader + 2) % 3] {
        cluster.nodes[at].kill();
    }
    let refused = read(leader, &cluster).await.unwrap_err();
    assert!(matches!(refused, ReadError::NoQuorum(_) | ReadError::NotLeader { leader: None }), "{refused:?}");
}

#[tokio::test]
async fn killed_hosts_come_back_with_all_they_acknowledged() {
    let mut cluster = Cluster::founded(KEPT).await;
    let mut last = 0;
    for round in 0..3 {
        for n in 0..10 {
            last = cluster.put(format!("{round}.{n}")).await.at.index;
        }
        for node in &mut cluster.nodes {
            node.kill();
            // What the engine had not flushed comes again from the log.
            node.disk.stores.crash(&mut || round);
        }
        for at in 0..3 {
            cluster.start(at).await;
        }
    }
    let after = cluster.put("after").await.at.index;
    cluster.agree(after).await;
    let view = cluster.nodes[0].process().group().view().unwrap();
    assert_eq!(command(&*view, last).unwrap(), "2.9");
}

#[tokio::test]
async fn logs_are_cut_only_behind_what_the_engine_has_flushed() {
    let mut cluster = Cluster::founded(FEW_KEPT).await;
    let mut last = 0;
    for n in 0..400 {
        last = cluster.put(format!("{n}")).await.at.index;
        for (_, process) in cluster.running() {
            let status = process.group().status();
            let far = status.purged.map(|purged| purged + FEW_KEPT) <= status.durable_applied;
            assert!(status.purged.is_none() || far, "{status:?}");
        }
    }
    until("the logs are cut", || cluster.running().all(|(_, process)| process.group().status().purged > Some(64)))
        .await;
    for node in &mut cluster.nodes {
        node.kill();
        node.disk.stores.crash(&mut || 0);
    }
    for at in 0..3 {
        cluster.start(at).await;
    }
    let after = cluster.put("after").await.at.index;
    cluster.agree(after).await;
    let view = cluster.nodes[1].process().group().view().unwrap();
    assert_eq!(command(&*view, last).unwrap(), "399");
    assert_eq!(command(&*view, last - 399).unwrap(), "0");
}

#[tokio::test]
async fn a_host_that_was_left_behind_catches_up_by_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::founded(FEW_KEPT).await;
    left_behind(&mut cluster).await;
    cluster.start(2).await;
    let mut last = 0;
    while cluster.nodes[2].process().group().status().applied < Some(last.max(300)) {
        last = cluster.put("more").await.at.index;
    }
    cluster.agree(last).await;
    took_a_snapshot(&cluster, 2);
}

/// Lets a transfer to node 2 begin and stops it half way.
async fn half_way(cluster: &mut Cluster) -> usize {
    left_behind(cluster).await;
    let leader = cluster.leader().await;
    cluster.boot(2).await;
    let port = cluster.nodes[2].process().host.listening().unwrap().port();
    *cluster.nodes[leader].wire.hold.lock() = Some((port, 600_000));
    cluster.nodes[2].open().await;
    let wire = cluster.nodes[leader].wire.clone();
    until("the snapshot is half way", || wire.held.load(Ordering::SeqCst)).await;
    leader
}

#[tokio::test]
async fn a_receiver_killed_half_way_through_a_snapshot_loses_nothing() {
    let mut cluster = Cluster::founded(FEW_KEPT).await;
    let leader = half_way(&mut cluster).await;
    cluster.nodes[2].kill();
    *cluster.nodes[leader].wire.hold.lock() = None;
    cluster.start(2).await;
    let last = cluster.put("after").await.at.index;
    cluster.agree(last).await;
    took_a_snapshot(&cluster, 2);
}

#[tokio::test]
async fn a_sender_killed_half_way_through_a_snapshot_loses_nothing() {
    let mut cluster = Cluster::founded(FEW_KEPT).await;
    let leader = half_way(&mut cluster).await;
    cluster.nodes[leader].kill();
    *cluster.nodes[leader].wire.hold.lock() = None;
    let last = cluster.put("without it").await.at.index;
    cluster.agree(last).await;
    cluster.start(leader).await;
    let last = cluster.put("after").await.at.index;
    cluster.agree(last).await;
    took_a_snapshot(&cluster, 2);
}

#[tokio::test]
async fn trap_9_a_wiped_host_is_refused_and_told_what_to_do() {
    let mut cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    cluster.agree(1).await;
    cluster.nodes[2].kill();
    cluster.nodes[2].disk = Disk::new();
    cluster.start(2).await;
    let refused = cluster.nodes[2].process().host.clone();
    let message = cluster.nodes[2].process().run(async move { refused.refused().await }).await;
    assert!(message.contains("kvd --join HOST:PORT --replace node-3"), "{message}");
    // The other two go on, and nothing reaches the wiped one.
    let last = cluster.put("y").await.at.index;
    until("both have it", || {
        cluster.running().filter(|(at, _)| *at != 2).all(|(_, process)| process.group().status().applied >= Some(last))
    })
    .await;
    let status = cluster.nodes[2].process().group().status();
    assert_eq!((status.last, status.voters.len(), status.term), (None, 0, 0), "it neither voted nor followed");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn trap_9_an_older_copy_of_a_disk_is_refused() {
    let mut cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    cluster.agree(1).await;
    cluster.nodes[2].kill();
    let older = Disk::new();
    copy(cluster.nodes[2].disk.dir.path(), older.dir.path());
    cluster.start(2).await;
    let last = cluster.put("acknowledged after the copy").await.at.index;
    cluster.agree(last).await;
    cluster.nodes[2].kill();
    cluster.nodes[2].disk = older;
    // The first start repeats a boot counter that was seen; the second has a new one, and tells of a
    // start before it that nobody saw.
    for start in ["repeated", "new"] {
        cluster.boot(2).await;
        let host = cluster.nodes[2].process().host.clone();
        let message = cluster.nodes[2].process().run(async move { host.refused().await }).await;
        assert!(message.contains("from another disk") && message.contains("--replace node-3"), "{start}: {message}");
        cluster.nodes[2].kill();
    }
}

#[tokio::test]
async fn a_restarted_host_is_welcome() {
    let mut cluster = Cluster::founded(KEPT).await;
    for _ in 0..3 {
        cluster.put("x").await;
        cluster.nodes[2].kill();
        cluster.put("y").await;
        cluster.start(2).await;
        let last = cluster.put("z").await.at.index;
        cluster.agree(last).await;
    }
}

#[tokio::test]
async fn a_state_that_is_gone_is_never_served_and_is_rebuilt_under_a_new_id() {
    let mut cluster = Cluster::founded(FEW_KEPT).await;
    left_behind(&mut cluster).await;
    cluster.start(2).await;
    let last = cluster.put("x").await.at.index;
    cluster.agree(last).await;
    cluster.nodes[2].kill();
    cluster.nodes[2].disk.stores = MemoryStores::new();
    cluster.boot(2).await;
    let process = cluster.nodes[2].process();
    let spec = |replica| GroupSpec { group: GROUP, replica: ReplicaId(replica), epoch: Epoch(1) };
    let host = process.host.clone();
    let old = process.run(async move { host.start_group(spec(30), Arc::<Chain>::default()).await.map(|_| ()) }).await;
    assert!(matches!(old, Err(GroupError::NeedsRebuild { .. })), "{old:?}");

    let host = process.host.clone();
    process.run(async move { host.remove_group(GROUP).await }).await.unwrap();
    cluster.nodes[2].replica = ReplicaId(31);
    cluster.nodes[2].open().await;
    let leader = cluster.nodes[cluster.leader().await].process();
    let group = leader.group().clone();
    let (node, voters) = (cluster.nodes[2].id, [10, 20, 31].map(ReplicaId));
    let changed = leader.run(async move {
        group.add_learner(ReplicaId(31), node, soon()).await?;
        group.change_voters(BTreeSet::from(voters), soon()).await
    });
    changed.await.unwrap();
    let last = cluster.put("y").await.at.index;
    cluster.agree(last).await;
    let status = cluster.nodes[2].process().group().status();
    assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), voters);
    assert_eq!(cluster.nodes[2].process().host.local_replicas(), [(GROUP, ReplicaId(31))]);
}

#[tokio::test]
async fn trap_4_a_failed_replica_takes_the_host_down() {
    let cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    let leader = cluster.nodes[cluster.leader().await].process();
    leader.chain.fail.store(true, Ordering::SeqCst);
    let group = leader.group().clone();
    let outcome = leader.run(async move { group.propose("y".into(), soon()).await }).await;
    assert!(matches!(outcome, Err(ProposeError::Stopped(_) | ProposeError::Unknown(_))), "{outcome:?}");
    let host = leader.host.clone();
    let why = leader.run(async move { host.failed().await }).await;
    assert!(why.contains("group g7") && why.contains("as told"), "{why}");
    assert_eq!(leader.group().status().role, Role::Stopped);
}

#[tokio::test]
async fn a_stopped_replica_is_no_failure() {
    let cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    let process = cluster.nodes[2].process();
    let host = process.host.clone();
    process.run(async move { host.stop_group(GROUP).await }).await;
    until("it has stopped", || process.group().watch().borrow().role == Role::Stopped).await;
    assert_eq!(*process.host.inner.ground.failed.borrow(), None);
    let host = process.host.clone();
    process.run(async move { host.shutdown().await }).await;
    assert_eq!(*process.host.inner.ground.failed.borrow(), None);
}

#[tokio::test]
async fn trap_5_a_host_that_reaches_nobody_raises_no_term() {
    let mut cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    let leader = cluster.leader().await;
    let (alone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let term = cluster.nodes[alone].process().group().status().term;
    cluster.nodes[leader].kill();
    cluster.nodes[other].kill();
    let wire = cluster.nodes[alone].wire.clone();
    let before = wire.attempts.load(Ordering::SeqCst);
    until("it has asked for votes again and again", || wire.attempts.load(Ordering::SeqCst) > before + 6).await;
    assert_eq!(cluster.nodes[alone].process().group().status().term, term, "an unreachable peer grants nothing");
}

#[tokio::test]
async fn trap_5_a_leader_that_hears_no_answer_is_replaced() {
    let cluster = Cluster::founded(KEPT).await;
    cluster.put("x").await;
    let deaf = cluster.leader().await;
    cluster.nodes[deaf].wire.deaf.store(true, Ordering::SeqCst);
    until("another leads", || {
        cluster.running().any(|(at, process)| at != deaf && process.group().status().role == Role::Leader)
    })
    .await;
    cluster.nodes[deaf].wire.deaf.store(false, Ordering::SeqCst);
    let last = cluster.put("y").await.at.index;
    cluster.agree(last).await;
}

#[tokio::test]
async fn introductions_tell_who_is_who() {
    let mut cluster = Cluster::new(2, KEPT);
    cluster.boot(0).await;
    cluster.boot(1).await;
    let (one, two) = (cluster.nodes[0].process(), cluster.nodes[1].process());
    let address = two.host.listening().unwrap().to_string();
    let hello = |address: String| {
        let host = one.host.clone();
        one.run(async move { host.hello(&address, Duration::from_secs(60)).await })
    };
    let info = hello(address.clone()).await.unwrap();
    assert_eq!((info.node, info.name.as_str(), info.founded), (NodeId(2), "node-2", false));
    let (a, b) = (ClusterId([1; 16]), ClusterId([2; 16]));
    two.host.set_cluster_id(a).unwrap();
    assert_eq!(hello(address.clone()).await.unwrap().cluster_id, Some(a));
    one.host.set_cluster_id(b).unwrap();
    assert!(matches!(hello(address).await, Err(HelloError::Refused(_))));
    let own = one.host.listening().unwrap().to_string();
    assert!(matches!(hello(own).await, Err(HelloError::Refused(_))));
    assert!(matches!(hello("127.0.0.1:1".into()).await, Err(HelloError::Unreachable(_))));
}

struct Echo;

impl PeerHandler for Echo {
    fn forward(&self, group: GroupId, request: Bytes, _deadline: time::Instant) -> BoxFuture<'_, Bytes> {
        Box::pin(async move { format!("{group}:{}", request.escape_ascii()).into() })
    }

    fn join(&self, request: wire::JoinRequest, _deadline: time::Instant) -> BoxFuture<'_, wire::JoinResponse> {
        let joined = Joined { cluster_id: vec![7; 16].into(), node_id: request.token };
        Box::pin(async move { wire::JoinResponse { kind: Some(Kind::Joined(joined)) } })
    }
}

#[tokio::test]
async fn requests_are_forwarded_or_certainly_not_sent() {
    let mut cluster = Cluster::new(2, KEPT);
    cluster.boot(0).await;
    cluster.boot(1).await;
    let forward = |cluster: &Cluster, request: Bytes| {
        let process = cluster.nodes[0].process();
        let host = process.host.clone();
        process.run(async move { host.forward(NodeId(2), GROUP, request, soon()).await })
    };
    let starting = forward(&cluster, "x".into()).await;
    assert!(matches!(starting, Err(ForwardError::NotSent(_))), "{starting:?}");
    cluster.nodes[1].process().host.set_peer_handler(Arc::new(Echo));
    assert_eq!(forward(&cluster, "x".into()).await.unwrap(), "g7:x");
    let huge = forward(&cluster, vec![0; PEER_FRAME_BYTES_MAX].into()).await;
    assert!(matches!(huge, Err(ForwardError::NotSent(_))));
    cluster.nodes[1].kill();
    let mut outcome = forward(&cluster, "x".into()).await;
    while matches!(outcome, Err(ForwardError::Unknown(_))) {
        // The connection broke under the first ones.
        outcome = forward(&cluster, "x".into()).await;
    }
    assert!(matches!(outcome, Err(ForwardError::NotSent(_))), "{outcome:?}");
}
