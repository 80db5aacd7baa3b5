//! What the cases are run against: three processes that speak etcd's API, either of etcd or of `kvd`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::harness::{Cluster, eventually, free_port};

const ETCD: &str = "/usr/bin/etcd";
const ETCDCTL: &str = "etcdctl";
const NODES: usize = 3;

/// Whose processes a target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Etcd,
    Kvd,
}

impl Server {
    /// Whether it can be started here.
    pub(crate) fn is_installed(self) -> bool {
        self == Self::Kvd || Path::new(ETCD).exists()
    }
}

/// Whether there is an etcdctl to run.
pub(crate) fn has_etcdctl() -> bool {
    let version = Command::new(ETCDCTL).arg("version").env("ETCDCTL_API", "3").output();
    version.is_ok_and(|output| output.status.success())
}

/// Three running nodes. Cases share one, except those that kill.
pub(crate) struct Target {
    pub(crate) server: Server,
    /// `host:port` of each node, in the order of the nodes.
    pub(crate) endpoints: Vec<String>,
    processes: Mutex<Processes>,
}

enum Processes {
    Etcd(EtcdNodes),
    Kvd(Cluster),
}

impl Target {
    /// A cluster that serves.
    pub(crate) async fn start(server: Server) -> Self {
        let (endpoints, processes) = match server {
            Server::Etcd => {
                let nodes = EtcdNodes::start();
                (nodes.0.iter().map(|node| node.client.clone()).collect(), Processes::Etcd(nodes))
            }
            Server::Kvd => {
                let cluster = Cluster::start(NODES).await;
                (cluster.endpoints(), Processes::Kvd(cluster))
            }
        };
        let target = Self { server, endpoints, processes: Mutex::new(processes) };
        for node in 0..NODES {
            target.wait_serves(node).await;
        }
        target
    }

    /// A client that spreads its calls over all nodes.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.endpoints).await
    }

    /// A client of one node.
    pub(crate) async fn client_of(&self, node: usize) -> Client {
        connect(&self.endpoints[node..=node]).await
    }

    /// Index of the node that leads; waits until there is one that says so of itself.
    pub(crate) async fn leader(&self) -> usize {
        eventually("leader", || async {
            for node in 0..NODES {
                let status = self.client_of(node).await.status().await;
                if status.is_ok_and(|status| status.leader() == status.header().unwrap().member_id()) {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Index of some node that follows.
    pub(crate) async fn follower(&self) -> usize {
        (self.leader().await + 1) % NODES
    }

    /// Kills a node with SIGKILL.
    pub(crate) fn kill(&self, node: usize) {
        match &mut *self.processes.lock() {
            Processes::Etcd(nodes) => nodes.0[node].kill(),
            Processes::Kvd(cluster) => cluster.nodes[node].kill(),
        }
    }

    /// Starts killed nodes and waits until they serve.
    pub(crate) async fn restart(&self, nodes: &[usize]) {
        for &node in nodes {
            match &mut *self.processes.lock() {
                Processes::Etcd(nodes) => nodes.0[node].start(),
                Processes::Kvd(cluster) => cluster.nodes[node].start(),
            }
        }
        for &node in nodes {
            self.wait_serves(node).await;
        }
    }

    async fn wait_serves(&self, node: usize) {
        eventually("node that serves", || async {
            let mut client = self.client_of(node).await;
            client.get("ready", None).await.ok()
        })
        .await;
    }

    /// An etcdctl that knows all nodes, not started yet.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> Command {
        self.etcdctl_of(&self.endpoints, arguments)
    }

    /// An etcdctl that knows the given endpoints.
    pub(crate) fn etcdctl_of(&self, endpoints: &[String], arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        // Whoever started the tests may have ignored interrupts, and the cases send some.
        command.args(["--default-signal=INT", ETCDCTL]);
        command.args(["--endpoints", &endpoints.join(",")]).args(arguments);
        command.env("ETCDCTL_API", "3").stdin(Stdio::null());
        command
    }
}

async fn connect(endpoints: &[String]) -> Client {
    let options = ConnectOptions::new().with_connect_timeout(crate::harness::STUCK);
    Client::connect(endpoints, Some(options)).await.unwrap()
}

/// Runs a command to its end with text for its standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// What a command ended with.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

struct EtcdNodes(Vec<EtcdNode>, #[expect(dead_code, reason = "removed when dropped")] TempDir);

impl EtcdNodes {
    fn start() -> Self {
        let root = TempDir::new().unwrap();
        let address = || format!("127.0.0.1:{}", free_port());
        let addresses: Vec<_> = (1..=NODES).map(|number| (format!("n{number}"), address(), address())).collect();
        let founding: Vec<_> = addresses.iter().map(|(name, _, peer)| format!("{name}=http://{peer}")).collect();
        let founding = founding.join(",");
        let mut nodes: Vec<_> = addresses
            .into_iter()
            .map(|(name, client, peer)| {
                let dir = root.path().join(&name);
                let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
                let flags = [
                    ("--name", &*name),
                    ("--data-dir", dir.to_str().unwrap()),
                    ("--listen-client-urls", &client_url),
                    ("--advertise-client-urls", &client_url),
                    ("--listen-peer-urls", &peer_url),
                    ("--initial-advertise-peer-urls", &peer_url),
                    ("--initial-cluster", &founding),
                    ("--logger", "zap"),
                    // The shortest time to live follows from these: 15 heartbeats, rounded up to a second.
                    ("--heartbeat-interval", "50"),
                    ("--election-timeout", "500"),
                ];
                let arguments = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]);
                EtcdNode { client, log: dir.with_extension("out"), arguments: arguments.collect(), child: None }
            })
            .collect();
        nodes.iter_mut().for_each(EtcdNode::start);
        Self(nodes, root)
    }
}

struct EtcdNode {
    client: String,
    log: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl EtcdNode {
    fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let out = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(ETCD);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("not running");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for EtcdNode {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
