//! Members that join, leave and take each other's place while the cluster serves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate::client::{Client, Keys, NodeStanding, ScanOptions};
use quorate::proto::internal::peer_client::PeerClient;
use quorate::proto::internal::{HelloRequest, Incarnation};
use quorate::types::NodeId;
use quorate::types::map::{ShardMap, Standing};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use super::harness::{Cluster, check_filled, eventually, fill};

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;
/// Writers of each keyspace.
const WRITERS: usize = 4;

/// Writes unique keys to keyspaces until it is stopped, and remembers which were acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(client: &Client, keyspaces: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::<String, Vec<String>>::new()));
        let mut tasks = Vec::new();
        for (keyspace, writer) in
            keyspaces.iter().flat_map(|keyspace| (0..WRITERS).map(move |writer| (keyspace, writer)))
        {
            let (keyspace, stop, acknowledged) = ((*keyspace).to_owned(), stop.clone(), acknowledged.clone());
            let session = client.with_keyspace(&keyspace).session();
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{}{writer}/{number:06}", char::from(b'a' + (number % 26) as u8));
                    if session.put(key.clone(), "x").await.is_ok() {
                        acknowledged.lock().entry(keyspace.clone()).or_default().push(key);
                    }
                }
            }));
        }
        Self { stop, acknowledged, tasks }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().values().map(Vec::len).sum()
    }

    /// Stops, and finds every acknowledged write. Returns how many there were.
    async fn check(self, client: &Client) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let acknowledged = std::mem::take(&mut *self.acknowledged.lock());
        for (keyspace, keys) in &acknowledged {
            let mut scan = client.with_keyspace(keyspace).scan(Keys::all(), ScanOptions::default());
            let mut present = std::collections::BTreeSet::new();
            while let Some(page) = scan.next_page().await.unwrap() {
                present.extend(page.into_iter().map(|record| record.key));
            }
            let lost: Vec<_> = keys.iter().filter(|key| !present.contains(key.as_bytes())).collect();
            assert!(lost.is_empty(), "{} acknowledged writes of {keyspace} are lost: {lost:?}", lost.len());
        }
        acknowledged.values().map(Vec::len).sum()
    }
}

/// Waits until nothing moves any more and the map is as it should be: replicas where they are wanted,
/// on members that stay, as many on each.
async fn settled(client: &Client, members: usize) -> ShardMap {
    eventually("the replicas are spread", || async {
        let map = client.map().await.ok()?;
        let calm = client.operations().await.ok()?.is_empty() && map.nodes.len() == members;
        let stays = |node: &NodeId| map.nodes.get(node).is_some_and(|node| node.standing == Standing::Member);
        let placed = map.shards.values().all(|shard| {
            let wanted = map.keyspaces[&shard.keyspace].replication_factor as usize;
            shard.replicas.len() == wanted.min(members)
                && shard.replicas.iter().all(|replica| replica.voter && stays(&replica.node))
        });
        (calm && placed && is_even(&map)).then_some(map)
    })
    .await
}

fn is_even(map: &ShardMap) -> bool {
    let held = |node: &NodeId| map.shards.values().filter(|shard| shard.replica_on(*node).is_some()).count();
    let loads: Vec<_> = map.nodes.keys().map(held).collect();
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1
}

/// Waits until a node has written this.
async fn said_by(cluster: &Cluster, at: usize, words: &str) {
    eventually(words, || async { cluster.nodes[at].output().contains(words).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_founded_has_no_list_of_members() {
    let mut cluster = Cluster::new(3, &[]);
    cluster.nodes[0].start();
    let said = eventually("answer of the node", || async {
        let (code, out, said) = cluster.kvctl(&["--timeout", "2s", "member", "list"]);
        assert_eq!((code, out.as_str()), (3, ""));
        said.contains("not founded").then_some(said)
    });
    assert!(said.await.contains("start all nodes that --cluster names"));
    for node in &mut cluster.nodes[1..] {
        node.start();
    }
    cluster.wait_ready().await;
    let (code, out, said) = cluster.kvctl(&["member", "list"]);
    assert_eq!((code, out.lines().count()), (0, 3), "{out}{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_under_load() {
    let mut cluster = Cluster::start(5).await;
    let client = cluster.client().await;
    for arguments in [&["create", "events", "--hash", "16"][..], &["create", "users", "--range", "g,n,t"]] {
        let (code, _, said) = cluster.kvctl(&[&["keyspace"], arguments].concat());
        assert_eq!(code, 0, "{said}");
    }
    let load = Load::start(&client, &["events", "users", "default"]);
    let mut took = Vec::new();

    let began = Instant::now();
    for name in ["n6", "n7"] {
        let at = cluster.add(name, 0, &[]);
        cluster.nodes[at].start();
    }
    cluster.wait_ready().await;
    settled(&client, 7).await;
    took.push(("two nodes joined", began.elapsed()));

    let began = Instant::now();
    let (code, _, said) = cluster.kvctl(&["member", "remove", "n2"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("replicas left"), "{said}");
    assert_eq!(cluster.nodes[1].wait_exit(), Some(1));
    assert!(cluster.nodes[1].output().contains("removed from the cluster"), "{}", cluster.nodes[1].output());
    settled(&client, 6).await;
    took.push(("one was removed", began.elapsed()));

    // Not while it runs; and without being asked again once it does not.
    let at = cluster.add("n3", 0, &["--replace", "n3"]);
    cluster.nodes[at].start();
    said_by(&cluster, at, "node `n3` is still there: stop it").await;
    assert!(client.map().await.unwrap().nodes.values().all(|node| node.standing == Standing::Member));
    let began = Instant::now();
    cluster.nodes[2].kill();
    cluster.wait_ready().await;
    settled(&client, 6).await;
    took.push(("a dead one was replaced", began.elapsed()));

    let before = load.acknowledged();
    eventually("writes go on", || async { (load.acknowledged() > before + 100).then_some(()) }).await;
    let acknowledged = load.check(&client).await;
    println!("{acknowledged} acknowledged writes, none lost; {took:?}");

    // The old disk is of no more use, and says so; what was removed does not come back either.
    for at in [1, 2] {
        let said = cluster.nodes[at].start_in_vain();
        assert!(said.contains("was removed from the cluster"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_node_and_survives_the_first() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..200, 50).await;
    // Made when there are nodes for one replica only: the others come with the nodes.
    let (code, _, said) = cluster.kvctl(&["keyspace", "create", "events", "--hash", "2"]);
    assert_eq!(code, 0, "{said}");
    for name in ["n2", "n3"] {
        let at = cluster.add(name, 0, &[]);
        cluster.nodes[at].start();
    }
    cluster.wait_ready().await;
    let map = settled(&client, 3).await;
    assert!(map.shards.values().all(|shard| shard.replicas.len() == 3));
    eventually("three vote on metadata", || async {
        let shards = client.shards(true).await.ok()?.shards;
        let meta = shards.into_iter().filter_map(|entry| entry.shard).find(|shard| shard.id == 1)?;
        (meta.replicas.iter().filter(|replica| replica.voter).count() == 3).then_some(())
    })
    .await;
    let client = cluster.client().await;
    cluster.nodes[0].kill();
    check_filled(&client, "k", 0..200, 50).await;
    fill(&client, "k", 200..250, 50).await;
    cluster.nodes[0].start();
    cluster.wait_ready().await;
    // A node that joined starts again from what it knows, with --join or without.
    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    cluster.wait_ready().await;
    check_filled(&client, "k", 0..250, 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_members_that_make_no_sense_are_refused() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let before = client.map().await.unwrap();
    let refused = |cluster: &Cluster, arguments: &[&str], words: &str| {
        let (code, _, said) = cluster.kvctl(arguments);
        assert_ne!(code, 0, "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    for (arguments, words) in [
        (&["member", "remove", "n9"][..], "no member n9; there are n1, n2, n3"),
        (&["member", "add", "n1", "127.0.0.1:1"], "n1"),
        (&["member", "add", "with space", "127.0.0.1:1"], "characters"),
        (&["member", "add", "n4", "nowhere"], "host:port"),
        (&["shard", "add-replica", "2", "n1"], "already"),
        (&["shard", "add-replica", "99", "n1"], "does not exist"),
        (&["shard", "add-replica", "1", "n1"], "replicas follow the members by themselves"),
        (&["shard", "remove-replica", "1", "n1"], "replicas follow the members by themselves"),
        (&["member", "add", "n4", "nowhere"], "hint: `kvctl help member add`"),
        (&["keyspace", "drop", "nope"], "hint: `kvctl keyspace list` shows them"),
        (&["keyspace", "create", "default"], "hint: `kvctl keyspace list` shows which names are taken"),
        (&["shard", "add-replica", "x", "n1"], "no shard id"),
        (&["shard", "remove-replica", "2", "n1"], "add one elsewhere first"),
        (&["operation", "cancel", "7"], "does not run"),
    ] {
        refused(&cluster, arguments, words);
    }
    // The address of another; it is named.
    let (peer, client_address) = (cluster.nodes[1].peer.clone(), cluster.nodes[1].client.clone());
    refused(&cluster, &["member", "add", "n4", &peer], "is that of member `n2`");
    let at = cluster.add("n4", 0, &["--client-advertise", &client_address]);
    assert!(cluster.nodes[at].start_in_vain().contains("is that of member `n2`"));
    // A used name; a port that is none of peers; a directory of a founding node.
    let at = cluster.add("n2", 0, &[]);
    assert!(cluster.nodes[at].start_in_vain().contains("--replace n2"));
    let at = cluster.add("n9", 0, &[]);
    let client_port = cluster.nodes[0].client.clone();
    cluster.nodes[at].set_flag("--join", &client_port);
    assert!(cluster.nodes[at].start_in_vain().contains("no peer port"));
    let at = cluster.add("n1", 1, &["--replace", "n7"]);
    assert!(cluster.nodes[at].start_in_vain().contains("no member is called `n7`"));
    cluster.nodes[2].kill();
    let at = cluster.add("n3", 0, &[]);
    let dir = cluster.nodes[2].dir.to_str().unwrap().to_owned();
    cluster.nodes[at].set_flag("--data-dir", &dir);
    assert!(cluster.nodes[at].start_in_vain().contains("needs no --join"));
    cluster.nodes[2].start();
    let after = cluster.client().await.map().await.unwrap();
    assert_eq!((after.nodes, after.shards), (before.nodes, before.shards), "nothing has changed");
    // One that is announced waits; its name is taken, and free again when it is not wanted.
    let (code, said, _) = cluster.kvctl(&["member", "add", "n4", "127.0.0.1:9"]);
    assert_eq!((code, said.contains("--join")), (0, true), "{said}");
    let members = client.members().await.unwrap().members;
    assert!(members.iter().any(|node| node.name == "n4" && node.standing() == NodeStanding::Awaited));
    assert_eq!(cluster.kvctl(&["member", "remove", "n4"]).0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_of_a_shard_moves_and_moves_again() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let (code, _, said) = cluster.kvctl(&["keyspace", "create", "cache", "--hash", "4", "--replicas", "1"]);
    assert_eq!(code, 0, "{said}");
    let cache = client.with_keyspace("cache");
    fill(&cache, "k", 0..100, 20).await;
    for name in ["n2", "n3"] {
        let at = cluster.add(name, 0, &[]);
        cluster.nodes[at].start();
    }
    cluster.wait_ready().await;
    let spread = || async {
        let map = client.map().await.ok()?;
        let cache = map.keyspace("cache")?.id;
        let homes: Vec<_> = map.shards_of(cache).map(|shard| shard.replicas.clone()).collect();
        let nodes: BTreeSet<_> = homes.iter().flatten().map(|replica| replica.node).collect();
        (nodes.len() > 1 && map.operations.is_empty() && homes.iter().all(|home| home.len() == 1)).then_some(())
    };
    eventually("the shards are spread", spread).await;
    cluster.wait_ready().await;
    check_filled(&cache, "k", 0..100, 20).await;
    fill(&cache, "k", 100..150, 20).await;
    // The node that all began on goes, and so does what it still had.
    let (code, _, said) = cluster.kvctl(&["member", "remove", "n1"]);
    assert_eq!(code, 0, "{said}");
    check_filled(&cache, "k", 0..150, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_to_join_stops_when_it_is_told_to() {
    let mut cluster = Cluster::new(1, &[]);
    // The member that it asks does not run.
    let at = cluster.add("n2", 0, &[]);
    cluster.nodes[at].start();
    said_by(&cluster, at, "not a member of the cluster yet").await;
    // Who asks it is not kept waiting.
    let mut stream = tokio::net::TcpStream::connect(&cluster.nodes[at].client).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0])).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let began = Instant::now();
    assert_eq!(cluster.nodes[at].terminate(), Some(0), "{}", cluster.nodes[at].output());
    assert!(began.elapsed().as_secs() < 5, "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_has_no_room_is_no_member_yet() {
    let mut cluster = Cluster::start(1).await;
    let at = cluster.add("n2", 0, &["--disk-reserve-bytes", "1048576GiB"]);
    cluster.nodes[at].start();
    said_by(&cluster, at, "the disk of this node is full").await;
    let members = || cluster.kvctl(&["member", "list"]).1;
    assert!(!members().contains("n2"), "{}", members());
    assert_eq!(cluster.nodes[at].terminate(), Some(0), "{}", cluster.nodes[at].output());
    // With room it is taken in.
    cluster.nodes[at].set_flag("--disk-reserve-bytes", "16MiB");
    cluster.nodes[at].start();
    let members = || cluster.kvctl(&["member", "list"]).1;
    eventually("a second member", || async { members().contains("n2").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_refused_leaves_nothing_large_behind() {
    let mut cluster = Cluster::start(1).await;
    let at = cluster.add("n1", 0, &[]);
    let said = cluster.nodes[at].start_in_vain();
    assert!(said.contains("cannot join: the name"), "{said}");
    assert!(!cluster.nodes[at].dir.join("BALLAST").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_the_majority_says_so() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    // The one that led stays, and goes on in its belief; so does one that has only followed.
    for beside in [0, 1] {
        let stays = (cluster.leader(SHARD).await + beside) % 3;
        let others: Vec<_> = (0..3).filter(|node| *node != stays).collect();
        others.iter().for_each(|node| cluster.nodes[*node].kill());
        let address = cluster.nodes[stays].client.clone();
        eventually("word of it", || async {
            let status = client.status(&address).await.ok()?;
            (!status.ready && status.reason.contains("has no leader")).then_some(())
        })
        .await;
        let (code, _, said) = cluster.kvctl(&["endpoint", "health"]);
        assert_eq!(code, 5, "{said}");
        eventually("a list without leaders", || async {
            let (_, shards, _) = cluster.kvctl(&["shard", "list", "-w", "json"]);
            let shards: serde_json::Value = serde_json::from_str(&shards).ok()?;
            let shards = shards["shards"].as_array()?;
            shards.iter().all(|shard| shard["leader_node_id"] == 0).then_some(())
        })
        .await;
        others.iter().for_each(|node| cluster.nodes[*node].start());
        cluster.wait_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_looks_for_another_node_is_told_of_once() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let channel = Endpoint::from_shared(format!("http://{}", node.peer)).unwrap().connect().await.unwrap();
    for from in [4, 5, 4, 5, 4, 5] {
        let from = Some(Incarnation { node_id: from, boot: 1, nonce: 7 });
        let request = HelloRequest { from, to_node_id: 9, protocol: 1, ..HelloRequest::default() };
        PeerClient::new(channel.clone()).hello(request).await.unwrap_err();
    }
    let output = node.output();
    let lines: Vec<_> = output.lines().filter(|line| line.contains("this is node n1, not n9")).collect();
    assert_eq!(lines.len(), 2, "once for each peer:\n{}", lines.join("\n"));
}
