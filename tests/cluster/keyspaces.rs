//! Keyspaces of many shards: made, filled, shaken and dropped while the cluster runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quorate::client::{Client, Condition, ErrorCode, Keys, Op, Relation, Txn};
use quorate::proto::etcd::etcdserverpb as etcd;
use tonic::transport::Endpoint;

use super::harness::{Cluster, check_filled, eventually, fill, free_port};

/// Runs kvctl, which must succeed. Returns what it printed.
fn kvctl(cluster: &Cluster, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = cluster.kvctl(arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

/// Runs kvctl, which must refuse with code 2 and say this.
fn refused(cluster: &Cluster, arguments: &[&str], words: &str) {
    let (code, _, stderr) = cluster.kvctl(arguments);
    assert_eq!(code, 2, "{arguments:?}: {stderr}");
    assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    assert!(stderr.contains("hint: "), "{arguments:?}: {stderr}");
}

/// Ids of the shards that a node runs, besides the metadata group.
async fn running(cluster: &Cluster, client: &Client, node: usize) -> Vec<u64> {
    let status = eventually("status", || async { client.status(&cluster.nodes[node].client).await.ok() }).await;
    status.replicas.iter().map(|replica| replica.shard_id).filter(|id| *id != 1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sharded_keyspaces_hold_what_they_are_given_and_go() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    kvctl(&cluster, &["keyspace", "create", "events", "--hash", "8"]);
    kvctl(&cluster, &["keyspace", "create", "users", "--range", "g,n"]);
    kvctl(&cluster, &["keyspace", "create", "alone", "--replicas", "1"]);
    let names = ["events", "users", "alone"];
    for name in names {
        let within = client.with_keyspace(name);
        fill(&within, "k", 0..300, 20).await;
        fill(&within, "g", 0..50, 20).await;
        check_filled(&within, "k", 0..300, 20).await;
        assert_eq!(kvctl(&cluster, &["--keyspace", name, "count"]).trim(), "350");
    }
    assert_eq!(kvctl(&cluster, &["count"]).trim(), "0", "keyspaces are apart");
    let listed = kvctl(&cluster, &["keyspace", "list"]);
    assert!(listed.contains("events\t2\thash\t8\t3\tall\tserving\n"), "{listed}");
    assert!(listed.contains("users\t3\trange\t3\t3\tall\tserving\n"), "{listed}");

    // A transaction stays within a shard, and says so.
    let across =
        Txn::new().when(Condition::version("a", Relation::Equal, 0)).then(Op::put("a", "1")).then(Op::put("z", "1"));
    let error = client.with_keyspace("users").txn(across).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CrossShard, "{error}");
    let within = Txn::new().when(Condition::version("h", Relation::Equal, 0)).then(Op::put("h", "1"));
    assert!(client.with_keyspace("users").txn(within).await.unwrap().succeeded);
    client.with_keyspace("users").delete("h").await.unwrap();

    // A node falls and comes back; all of them do.
    cluster.nodes[0].kill();
    for name in ["events", "users"] {
        fill(&client.with_keyspace(name), "k", 300..400, 20).await;
    }
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    for name in ["events", "users"] {
        check_filled(&client.with_keyspace(name), "k", 0..400, 20).await;
    }
    check_filled(&client.with_keyspace("alone"), "k", 0..300, 20).await;

    // Dropped, while a node is away, and made again: empty.
    refused(&cluster, &["keyspace", "drop", "events"], "all its 450 keys");
    cluster.nodes[2].kill();
    // What is passed on to a leader that dies has an unknown outcome: only one that lives is asked.
    for node in [0, 1] {
        eventually("a leader that lives", || async {
            let leader = cluster.replica(node, 1).await?.leader_node_id;
            (1..=2).contains(&leader).then_some(())
        })
        .await;
    }
    kvctl(&cluster, &["keyspace", "drop", "events", "--yes"]);
    let error = client.with_keyspace("events").put("k", "late").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::KeyspaceNotFound, "{error}");
    cluster.nodes[2].start();
    cluster.wait_ready().await;
    eventually("end of the keyspace", || async {
        let map = cluster.client().await.map().await.ok()?;
        (!map.keyspaces.values().any(|keyspace| keyspace.name == "events")).then_some(())
    })
    .await;
    for node in 0..3 {
        eventually("removal of the shards", || async {
            (running(&cluster, &client, node).await.len() <= 5).then_some(())
        })
        .await;
    }
    kvctl(&cluster, &["keyspace", "create", "events", "--hash", "2"]);
    assert_eq!(kvctl(&cluster, &["--keyspace", "events", "count"]).trim(), "0");
    fill(&client.with_keyspace("events"), "k", 0..100, 20).await;
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready().await;
    check_filled(&cluster.client().await.with_keyspace("events"), "k", 0..100, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_makes_no_keyspace() {
    let cluster = Cluster::start(3).await;
    for (arguments, words) in [
        (&["keyspace", "create", "Events"][..], "is no name for a keyspace"),
        (&["keyspace", "create", ""], "is no name for a keyspace"),
        (&["keyspace", "create", "default"], "exists already"),
        (&["keyspace", "create", "h", "--hash", "0"], "at least one shard"),
        (&["keyspace", "create", "h", "--hash", "1025"], "keyspace_shards_max"),
        (&["keyspace", "create", "r", "--range", "b,a"], "split keys must rise"),
        (&["keyspace", "create", "r", "--range", "a,a"], "split keys must rise"),
        (&["keyspace", "create", "r", "--range", "a,,b"], "split key must not be empty"),
        (&["keyspace", "create", "f", "--replicas", "4"], "this cluster has 3"),
        (&["keyspace", "describe", "none"], "there is no keyspace"),
        (&["keyspace", "drop", "none", "--yes"], "there is no keyspace"),
        (&["keyspace", "drop", "default", "--yes"], "`default` stays"),
    ] {
        refused(&cluster, arguments, words);
    }
    let listed = kvctl(&cluster, &["keyspace", "list"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_when_it_is_no_longer_to_be_kept() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..200, 20).await;
    let first = client.get("k00000000").await.unwrap().expect("a record").mod_revision.to_string();
    let then = ["get", "k00000000", "--rev", &first];
    kvctl(&cluster, &then);
    let compacted = || async {
        let (code, _, stderr) = cluster.kvctl(&then);
        (code != 0).then(|| assert!(stderr.contains("compacted"), "{stderr}"))
    };
    kvctl(&cluster, &["keyspace", "set", "default", "--history", "50"]);
    eventually("compaction by number", compacted).await;
    kvctl(&cluster, &["keyspace", "set", "default", "--history", "all", "--history-age", "1s"]);
    let listed = kvctl(&cluster, &["keyspace", "list"]);
    assert!(listed.contains("default\t1\tsingle\t1\t3\t1s\tserving\n"), "{listed}");
    let last = client.put("k00000000", "last").await.unwrap().revision - 1;
    eventually("compaction by age", || async {
        let (code, _, stderr) = cluster.kvctl(&["get", "k00000001", "--rev", &last.to_string()]);
        (code != 0).then(|| assert!(stderr.contains("compacted"), "{stderr}"))
    })
    .await;
    assert_eq!(kvctl(&cluster, &["get", "k00000000"]).trim(), "last");
    assert_eq!(kvctl(&cluster, &["count"]).trim(), "200", "no key goes");

    refused(&cluster, &["keyspace", "set", "default", "--history-age", "10ms"], "1000 ms is the least");
    let (code, _, stderr) = cluster.kvctl(&["keyspace", "set", "default", "--history", "0"]);
    assert!(code == 2 && stderr.contains("write 1 or more, or all"), "{stderr}");
    refused(&cluster, &["keyspace", "set", "nowhere", "--history", "9"], "does not exist");
    let (code, _, stderr) = cluster.kvctl(&["keyspace", "set", "default"]);
    assert!(code == 2 && stderr.contains("--history <N>"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_gets_back_what_was_compacted_and_deleted() {
    const VALUE_BYTES: usize = 256 << 10;
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    // Besides these the engine has a journal of at most 64 MiB, which it writes anew from time to time.
    let tables = cluster.nodes[0].dir.join("engine/fjall/keyspaces");
    for _ in 0..5 {
        fill(&client, "stays", 0..20, VALUE_BYTES).await;
    }
    fill(&client, "goes", 0..80, VALUE_BYTES).await;
    client.delete_range(&Keys::prefix("goes")).await.unwrap();
    let last = client.put("last", "").await.unwrap().revision;
    eventually("end of the memtables", || async { (taken(&tables) > 44 << 20).then_some(()) }).await;
    kvctl(&cluster, &["compact", &last.to_string()]);
    // By itself: nobody writes, merges or starts anew.
    eventually("space", || async { (taken(&tables) < 12 << 20).then_some(()) }).await;
    check_filled(&client, "stays", 0..20, VALUE_BYTES).await;
    check_filled(&client, "goes", 0..0, VALUE_BYTES).await;
}

/// Bytes of the disk that all below a directory takes. Files may go meanwhile.
fn taken(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let each = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_over_many_shards_is_deleted_piece_by_piece() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    kvctl(&cluster, &["keyspace", "create", "events", "--hash", "4"]);
    kvctl(&cluster, &["keyspace", "create", "users", "--range", "g,p5"]);
    for name in ["events", "users"] {
        let del = |arguments: &[&str]| kvctl(&cluster, &[&["--keyspace", name, "del"], arguments].concat());
        let within = client.with_keyspace(name);
        fill(&within, "k", 0..50, 20).await;
        fill(&within, "p", 0..300, 20).await;
        fill(&within, "a", 0..10, 20).await;
        fill(&within, "z", 0..10, 20).await;
        assert_eq!(del(&["--prefix", "p"]).trim(), "300", "{name}");
        assert_eq!(del(&["--from", "z"]).trim(), "10", "{name}");
        assert_eq!(del(&["--to", "b"]).trim(), "10", "{name}");
        let (code, said, _) = cluster.kvctl(&["--keyspace", name, "del", "--prefix", "p"]);
        assert_eq!((code, said.as_str()), (1, "0\n"), "{name}");
        check_filled(&within, "k", 0..50, 20).await;
        assert_eq!(kvctl(&cluster, &["--keyspace", name, "count"]).trim(), "50");
    }
}

/// What etcd's clients see on a port: the value of a key, and the client URLs of all members.
async fn seen_by_etcd(address: &str) -> (Option<String>, Vec<String>) {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let range = etcd::RangeRequest { key: "who".into(), ..Default::default() };
    let found = etcd::kv_client::KvClient::new(channel.clone()).range(range).await.unwrap().into_inner();
    let value = found.kvs.first().map(|record| String::from_utf8(record.value.to_vec()).unwrap());
    let mut members = etcd::cluster_client::ClusterClient::new(channel);
    let list = members.member_list(etcd::MemberListRequest::default()).await.unwrap().into_inner();
    (value, list.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_has_a_port_for_clients_of_etcd() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut cluster = Cluster::new(2, &[]);
    cluster.nodes[0].set_flag("--etcd-addr", &format!("users={address}"));
    cluster.start_all();
    cluster.wait_ready().await;
    // The keyspace comes after its port.
    kvctl(&cluster, &["keyspace", "create", "users"]);
    kvctl(&cluster, &["put", "who", "in default"]);
    kvctl(&cluster, &["--keyspace", "users", "put", "who", "in users"]);
    let both = cluster.endpoints().iter().map(|endpoint| format!("http://{endpoint}")).collect();
    assert_eq!(seen_by_etcd(&cluster.nodes[0].client).await, (Some("in default".to_owned()), both));
    // Who follows the list of members stays in this keyspace.
    let own = vec![format!("http://{address}")];
    assert_eq!(seen_by_etcd(&address).await, (Some("in users".to_owned()), own));
    assert_eq!(cluster.nodes[0].terminate(), Some(0), "{}", cluster.nodes[0].output());

    cluster.nodes[0].set_flag("--etcd-addr", "users=0.0.0.0:3379");
    cluster.nodes[0].start();
    assert_eq!(cluster.nodes[0].wait_exit(), Some(2));
    let said = cluster.nodes[0].output();
    assert!(said.contains("etcd_addr is 0.0.0.0:3379, where others can reach this node"), "{said}");
}
