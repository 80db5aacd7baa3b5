//! The README's main job, with the leader killed in the middle.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate::client::Keys;
use rustix::process::Signal;

use super::harness::{Cluster, eventually};
use super::writers::{SHARD, every_replica, records};

const RECORDS: usize = 50_000;
/// How much of the data must be there when the trouble begins, and what is held back until then.
const BEFORE_TROUBLE: usize = RECORDS / 10;
const HELD_BACK: usize = RECORDS / 5;
/// Records that an import has on their way at most.
const IN_FLIGHT_MAX: u64 = 16 * 128;
/// Longest time a node may take to end when it is asked to.
const GOODBYE_MAX: Duration = Duration::from_secs(4);

/// A data set by key.
type Data = BTreeMap<String, String>;

/// The packages of this machine, again and again under new names, until there are enough; made up
/// where there is no `dpkg-query`.
fn data() -> Data {
    let packages = Command::new("dpkg-query").args(["-W", r"-f=${Package}\t${Version}\n"]).output();
    let listed = packages.map(|output| String::from_utf8(output.stdout).unwrap()).unwrap_or_default();
    let mut packages: Vec<_> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    println!("{} packages", packages.len());
    if packages.is_empty() {
        packages.push(("package", "1.0-1"));
    }
    let named = |at: usize| {
        let (name, version) = packages[at % packages.len()];
        let turn = at / packages.len();
        (if turn == 0 { name.to_owned() } else { format!("{name}/{turn}") }, format!("{version}+{turn}"))
    };
    let data: Data = (0..RECORDS).map(named).collect();
    assert_eq!(data.len(), RECORDS);
    data
}

fn tsv<'a>(records: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    records.into_iter().fold(String::new(), |text, (key, value)| text + key + "\t" + value + "\n")
}

/// A running `kvctl import -` that is fed all records but the last ones, and those when it is told.
struct Import {
    child: Child,
    feeder: JoinHandle<()>,
    rest: Sender<()>,
}

impl Import {
    fn start(cluster: &Cluster, data: &Data) -> Self {
        let mut command = cluster.kvctl_command(&["import", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let first = tsv(data.iter().take(data.len() - HELD_BACK));
        let last = tsv(data.iter().skip(data.len() - HELD_BACK));
        let mut stdin = child.stdin.take().unwrap();
        let (rest, told) = channel();
        // An import that ended early shows in its exit code.
        let feeder = std::thread::spawn(move || {
            if stdin.write_all(first.as_bytes()).is_ok() && told.recv().is_ok() {
                stdin.write_all(last.as_bytes()).ok();
            }
        });
        Self { child, feeder, rest }
    }

    /// Waits until the cluster holds a part of the data.
    async fn is_under_way(&mut self, cluster: &Cluster) {
        let client = cluster.client().await;
        eventually("import under way", || async {
            client.count(Keys::all()).await.is_ok_and(|count| count >= BEFORE_TROUBLE as u64).then_some(())
        })
        .await;
        assert!(self.child.try_wait().unwrap().is_none(), "the import ended without its last records");
    }

    /// Feeds it the last records and waits for its end.
    fn finish(self) {
        self.rest.send(()).unwrap();
        let output = self.child.wait_with_output().unwrap();
        self.feeder.join().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{}", said.trim());
        assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        assert!(said.starts_with(&format!("imported {RECORDS} records")), "{said}");
    }
}

/// Compares every record with what `kvctl` exports.
fn compare(cluster: &Cluster, data: &Data, when: &str) {
    let (code, exported, complaint) = cluster.kvctl(&["export", "--format", "tsv"]);
    assert_eq!(code, 0, "{when}: {complaint}");
    for ((number, found), expected) in exported.lines().enumerate().zip(tsv(data).lines()) {
        assert_eq!(found, expected, "{when}: line {}", number + 1);
    }
    assert_eq!(exported.len(), tsv(data).len(), "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_its_leader_and_the_data_survives_the_cluster() {
    let data = data();
    let mut cluster = Cluster::start(3).await;
    let mut import = Import::start(&cluster, &data);
    import.is_under_way(&cluster).await;
    let leader = cluster.leader(SHARD).await;
    cluster.nodes[leader].kill();
    import.finish();
    compare(&cluster, &data, "without the killed node");
    cluster.nodes[leader].start();
    cluster.wait_ready().await;
    for (node, replica) in every_replica(&cluster).await.iter().enumerate() {
        assert_eq!(replica.len(), RECORDS, "on n{}", node + 1);
        let twice = replica.iter().find(|record| record.version != 1);
        assert_eq!(twice, None, "written twice");
    }

    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready().await;
    compare(&cluster, &data, "after a kill of all nodes");

    let file = cluster.root.path().join("again.tsv");
    std::fs::write(&file, tsv(&data)).unwrap();
    let (code, said, complaint) = cluster.kvctl(&["import", file.to_str().unwrap()]);
    assert_eq!((code, said.split(" in ").next()), (0, Some("imported 50000 records")), "{complaint}");
    compare(&cluster, &data, "after a second import");
    let (code, value, complaint) = cluster.kvctl(&["-w", "json", "get", data.keys().next().unwrap()]);
    assert_eq!(code, 0, "{complaint}");
    assert!(value.contains("\"version\":2"), "{value}");

    for node in &mut cluster.nodes {
        let asked = Instant::now();
        assert_eq!(node.terminate(), Some(0), "{} ends in order:\n{}", node.name, node.output());
        println!("{} ended after {:.2?}", node.name, asked.elapsed());
        assert!(asked.elapsed() < GOODBYE_MAX, "{} took {:?}", node.name, asked.elapsed());
    }
    cluster.start_all();
    cluster.wait_ready().await;
    compare(&cluster, &data, "after an orderly restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_a_leader_that_freezes_and_comes_back() {
    let data = data();
    let cluster = Cluster::start(3).await;
    let mut import = Import::start(&cluster, &data);
    import.is_under_way(&cluster).await;
    let leader = cluster.leader(SHARD).await;
    let client = cluster.client().await;
    let before = client.count(Keys::all()).await.unwrap();
    cluster.nodes[leader].signal(Signal::STOP);
    let frozen = Instant::now();
    let next = cluster.leader_but(SHARD, Some(leader)).await;
    println!("n{} leads {:.2?} after n{} froze", next + 1, frozen.elapsed(), leader + 1);
    eventually("write under the next leader", || async {
        client.count(Keys::all()).await.is_ok_and(|count| count > before + IN_FLIGHT_MAX).then_some(())
    })
    .await;
    println!("the import goes on {:.2?} after the freeze", frozen.elapsed());
    // What the old leader still holds reaches it, and must not be written a second time.
    cluster.nodes[leader].signal(Signal::CONT);
    import.finish();
    compare(&cluster, &data, "after the leader came back");
    let twice = records(&client).await.into_iter().find(|record| record.version != 1);
    assert_eq!(twice, None, "written twice");
}
