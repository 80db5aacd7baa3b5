//! `kvctl lock`, `elect` and `lease`: one holds, the next follows, and nothing is left behind.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::stream;
use quorate::proto::etcd::etcdserverpb::LeaseKeepAliveRequest;
use quorate::proto::etcd::etcdserverpb::lease_client::LeaseClient;
use quorate::proto::etcd::v3lockpb::lock_client::LockClient;
use quorate::proto::etcd::v3lockpb::{LockRequest, UnlockRequest};
use rustix::process::Signal;
use tonic::Code;
use tonic::transport::Endpoint;

use super::harness::{Cluster, eventually};
use super::watch::Follower;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_under_a_lock_run_one_after_the_other_and_pass_their_status_on() {
    let cluster = Cluster::start(3).await;
    let file = cluster.root.path().join("counter");
    fs::write(&file, "0").unwrap();
    // Whoever reads while another writes loses a count.
    let script = format!("n=$(cat {0}); sleep 0.2; echo $((n + 1)) > {0}; exit 7", file.display());
    let held: Vec<_> = (0..6)
        .map(|_| {
            let mut command = cluster.kvctl_command(&["lock", "counter", "--", "sh", "-c", &script]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in held {
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(7), "{ended:?}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "6");
    assert_eq!(cluster.kvctl(&["count", "--prefix", "counter/"]).1, "0\n", "no key is left");
    assert_eq!(cluster.kvctl(&["lease", "list"]).1, "", "and no lease");

    let variables = "echo \"$KVCTL_LOCK_KEY $KVCTL_LOCK_REVISION $KVCTL_LOCK_LEASE\"";
    let (code, out, _) = cluster.kvctl(&["lock", "l", "--", "sh", "-c", variables]);
    let words: Vec<_> = out.split_whitespace().collect();
    assert_eq!((code, words.len()), (0, 3), "{out}");
    assert_eq!(words[0], format!("l/{:x}", words[2].parse::<u64>().unwrap()));
    let (code, _, said) = cluster.kvctl(&["lock", "l", "--", "/no/such/program"]);
    assert!(code == 2 && said.contains("cannot run"), "{code}: {said}");
    assert_eq!(cluster.kvctl(&["lease", "list"]).1, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_released_by_signals_and_lost_with_its_lease() {
    let cluster = Cluster::start(1).await;
    let long = ["lock", "l", "--ttl", "10m"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut holder = Follower::start(&cluster, &long);
        assert!(holder.line().starts_with("l/"));
        let mut next = Follower::start(&cluster, &long);
        in_line(&cluster, 2).await;
        holder.signal(signal);
        assert_eq!(holder.end(), (130, String::new()));
        assert!(next.line().starts_with("l/"));
        next.signal(signal);
        assert_eq!(next.end().0, 130);
    }

    // An interrupt ends the command first, which may still have something to do.
    let file = cluster.root.path().join("ended");
    let script =
        format!("trap 'sleep 1; echo done > {}; exit 0' TERM; echo begun; while :; do sleep 0.1; done", file.display());
    let mut holder = Follower::start(&cluster, &["lock", "l", "--", "sh", "-c", &script]);
    assert_eq!(holder.line(), "begun");
    holder.signal(Signal::TERM);
    let (code, out, _) = cluster.kvctl(&["lock", "l", "--", "cat", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, "done\n"), "the lock came after the end");
    assert_eq!(holder.end().0, 130);

    let mut holder =
        Follower::start(&cluster, &["lock", "l", "--", "sh", "-c", "echo $KVCTL_LOCK_LEASE; exec sleep 1000"]);
    let lease = holder.line();
    let began = Instant::now();
    assert_eq!(cluster.kvctl(&["lease", "revoke", &lease]).0, 0);
    let (code, said) = holder.end();
    assert!(code == 3 && said.contains("error: lost the lock"), "{code}: {said}");
    assert!(began.elapsed() < Duration::from_secs(60), "the command was killed");

    let mut killed = Follower::start(&cluster, &["lock", "l", "--ttl", "2s"]);
    killed.line();
    killed.signal(Signal::KILL);
    assert_eq!(cluster.kvctl(&["lock", "l", "--", "true"]).0, 0, "once its time is over");
    killed.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_outlasts_a_new_leader_and_ends_when_it_is_cut_off() {
    let mut cluster = Cluster::start(3).await;
    let mut holder =
        Follower::start(&cluster, &["lock", "l", "--ttl", "15s", "--", "sh", "-c", "echo begun; exec sleep 1000"]);
    assert_eq!(holder.line(), "begun");
    let leader = cluster.leader(2).await;
    cluster.nodes[leader].kill();
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert!(holder.child.try_wait().unwrap().is_none(), "it still holds the lock");
    for node in 0..3 {
        if node != leader {
            cluster.nodes[node].kill();
        }
    }
    let began = Instant::now();
    let (code, said) = holder.end();
    assert!(code == 3 && said.contains("error: lost the lock"), "{code}: {said}");
    assert!(began.elapsed() < Duration::from_secs(16), "before anybody else can hold it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_etcds_api_are_the_same_and_elections_are_heard() {
    let cluster = Cluster::start(1).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].client)).unwrap();
    let mut etcd = LockClient::new(endpoint.connect_lazy());
    let lock = LockRequest { name: "l".into(), lease: 0 };
    let theirs = etcd.lock(lock.clone()).await.unwrap().into_inner();
    let mut ours = Follower::start(&cluster, &["lock", "l"]);
    in_line(&cluster, 2).await;
    let mut waiting = etcd.clone();
    let next = tokio::spawn(async move { waiting.lock(lock).await });
    etcd.unlock(UnlockRequest { key: theirs.key }).await.unwrap();
    assert!(ours.line().starts_with("l/"));
    assert!(!next.is_finished());
    ours.signal(Signal::INT);
    next.await.unwrap().unwrap();
    ours.end();

    let mut heard = Follower::start(&cluster, &["elect", "e", "--listen", "-w", "json"]);
    let mut first = Follower::start(&cluster, &["elect", "e", "one"]);
    assert!(first.line().ends_with("\tone"));
    assert!(heard.line().contains("\"value\":\"one\""));
    let mut second = Follower::start(&cluster, &["elect", "e", "two"]);
    first.signal(Signal::INT);
    assert!(second.line().ends_with("\ttwo"));
    assert!(heard.line().contains("\"value\":\"two\""));
    second.signal(Signal::TERM);
    heard.signal(Signal::INT);
    for follower in [first, second, heard] {
        assert_eq!(follower.end(), (130, String::new()));
    }
    let (code, _, said) = cluster.kvctl(&["elect", "e"]);
    assert_eq!(code, 2, "{said}");
}

/// Waits until so many stand in line for the lock `l`, its holder included.
async fn in_line(cluster: &Cluster, count: u64) {
    let count = format!("{count}\n");
    eventually("line for the lock", || async {
        (cluster.kvctl(&["count", "--prefix", "l/"]).1 == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_given_up_takes_nothing_from_the_next_call_of_its_session() {
    let cluster = Cluster::start(2).await;
    let etcd = |node: usize| {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[node].client)).unwrap();
        LockClient::new(endpoint.connect_lazy())
    };
    let call = |node: usize, lease: &str| {
        let (mut client, lock) = (etcd(node), LockRequest { name: "l".into(), lease: lease.parse().unwrap() });
        tokio::spawn(async move { client.lock(lock).await.map(|held| held.into_inner().key) })
    };
    let grant = || cluster.kvctl(&["lease", "grant", "10m"]).1.trim().to_owned();
    let held = call(0, &grant()).await.unwrap().unwrap();
    let session = grant();
    let version = || cluster.kvctl(&["get", &format!("l/{:x}", session.parse::<u64>().unwrap()), "-w", "json"]).1;
    let given_up = call(0, &session);
    in_line(&cluster, 2).await;
    let first = version();
    let next = call(1, &session);
    eventually("place of the second call", || async { (version() != first).then_some(()) }).await;
    given_up.abort();
    // What comes and goes by the same node after it shows that the first call's going is over.
    let other = call(0, &grant());
    in_line(&cluster, 3).await;
    other.abort();
    in_line(&cluster, 2).await;
    etcd(0).unlock(UnlockRequest { key: held }).await.unwrap();
    let key = next.await.unwrap().expect("the lock");
    assert_eq!(cluster.kvctl(&["count", "--prefix", "l/"]).1, "1\n", "it stands there still");
    etcd(1).unlock(UnlockRequest { key }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_lock_hears_that_the_node_stops_and_leaves_the_line() {
    let mut cluster = Cluster::start(1).await;
    let mut holder = Follower::start(&cluster, &["lock", "l", "--ttl", "10m"]);
    holder.line();
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].client)).unwrap();
    let mut etcd = LockClient::new(endpoint.connect_lazy());
    let waiting = tokio::spawn(async move { etcd.lock(LockRequest { name: "l".into(), lease: 0 }).await });
    in_line(&cluster, 2).await;
    let began = Instant::now();
    cluster.nodes[0].signal(Signal::TERM);
    let refused = waiting.await.unwrap().expect_err("it has no lock");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: server stopped"));
    assert_eq!(cluster.nodes[0].wait_exit(), Some(0));
    println!("stopped within {:?}", began.elapsed());
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    in_line(&cluster, 1).await;
    holder.signal(Signal::TERM);
    holder.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_with_their_keys_unless_they_are_kept_alive() {
    let cluster = Cluster::start(1).await;
    let granted = |ttl: &str| cluster.kvctl(&["lease", "grant", ttl]).1.trim().to_owned();
    let (kept, left) = (granted("3s"), granted("3s"));
    assert_eq!(cluster.kvctl(&["put", "kept", "v", "--lease", &kept]).0, 0);
    assert_eq!(cluster.kvctl(&["put", "left", "v", "--lease", &left]).0, 0);
    assert_eq!(cluster.kvctl(&["lease", "time-to-live", &kept, "--keys"]).1.lines().nth(1), Some("kept"));
    // Of seconds that are not whole an owner hears the next: nobody is told that a lease has none left.
    let id = granted("61500ms").parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.nodes[0].client)).unwrap();
    let renewals = stream::iter([LeaseKeepAliveRequest { id }]);
    let renewed = LeaseClient::new(endpoint.connect_lazy()).lease_keep_alive(renewals).await.unwrap();
    assert_eq!(renewed.into_inner().message().await.unwrap().unwrap().ttl, 62);
    let alive = Follower::start(&cluster, &["lease", "keep-alive", &kept]);
    eventually("end of the other", || async { (cluster.kvctl(&["get", "left"]).0 == 1).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.kvctl(&["get", "kept"]).1, "v\n");
    alive.signal(Signal::INT);
    assert_eq!(alive.end().0, 130);
    let (code, _, said) = cluster.kvctl(&["lease", "revoke", &left]);
    assert!(code == 2 && said.contains("does not exist"), "{code}: {said}");
    assert_eq!(cluster.kvctl(&["lease", "revoke", &kept]).1, "OK\n");
    assert_eq!(cluster.kvctl(&["keyspace", "create", "many", "--hash", "2"]).0, 0);
    for line in [&["lease", "grant", "3s"][..], &["lock", "l"]] {
        let (code, _, said) = cluster.kvctl(&[&["--keyspace", "many"], line].concat());
        assert!(code == 2 && said.contains("2 shards"), "{code}: {said}");
    }
}
