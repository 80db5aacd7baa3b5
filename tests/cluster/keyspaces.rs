//! Keyspaces of many shards: made, filled, shaken and dropped while the cluster runs.

use quorate::client::{Client, Condition, ErrorCode, Op, Relation, Txn};

use super::harness::{Cluster, check_filled, eventually, fill};

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
