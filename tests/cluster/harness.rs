//! A cluster of real `kvd` processes on loopback, to be killed, restarted and damaged.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before a test calls it stuck. Tests wait for conditions, not for time.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// Below the range from which the system takes ports for outgoing connections.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let base = 10_000 + u16::try_from(std::process::id() % 400).unwrap() * 50;
    loop {
        let port = base + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One node: where it lives, and its process when it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) dir: PathBuf,
    pub(crate) child: Option<Child>,
    arguments: Vec<String>,
}

impl Node {
    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("out")
    }

    /// What the process wrote so far, of all its starts.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the process.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let out = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kvd"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Kills the process with SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("not running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal to the running process.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("not running");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks the process to end with SIGTERM; returns its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("not running");
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        wait_exit(&mut child)
    }

    /// Waits until the process ends by itself; returns its exit code.
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("not running");
        wait_exit(&mut child)
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

fn wait_exit(child: &mut Child) -> Option<i32> {
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if since.elapsed() > STUCK {
            child.kill().unwrap();
            panic!("the process did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Some nodes and the directory they live in.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: TempDir,
}

impl Cluster {
    /// Nodes that are not started yet. `extra` goes to every command line.
    pub(crate) fn new(count: usize, extra: &[&str]) -> Self {
        let root = TempDir::new().unwrap();
        let addresses: Vec<_> = (1..=count)
            .map(|number| {
                (format!("n{number}"), format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()))
            })
            .collect();
        let founding: Vec<_> = addresses.iter().map(|(name, _, peer)| format!("{name}={peer}")).collect();
        let founding = founding.join(",");
        let nodes = addresses.into_iter().map(|(name, client, peer)| {
            let dir = root.path().join(&name);
            let mut arguments: Vec<String> =
                ["--name", &name, "--data-dir", dir.to_str().unwrap()].map(Into::into).into();
            arguments.extend(["--client-addr", &client, "--peer-addr", &peer, "--cluster", &founding].map(Into::into));
            arguments.extend(extra.iter().map(|argument| (*argument).to_owned()));
            Node { name, client, peer, dir, child: None, arguments }
        });
        Self { nodes: nodes.collect(), root }
    }

    /// A running cluster that serves.
    pub(crate) async fn start(count: usize) -> Self {
        let mut cluster = Self::new(count, &[]);
        cluster.start_all();
        cluster.wait_ready().await;
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        self.nodes.iter_mut().filter(|node| node.child.is_none()).for_each(Node::start);
    }

    /// Kills all running nodes with SIGKILL, none later than the others.
    pub(crate) fn kill_all(&mut self) {
        let mut children: Vec<_> = self.nodes.iter_mut().filter_map(|node| node.child.take()).collect();
        children.iter_mut().for_each(|child| child.kill().unwrap());
        for child in &mut children {
            child.wait().unwrap();
        }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// A client that knows all nodes.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&Env::real(), ClientConfig::new(self.endpoints())).await.unwrap()
    }

    /// Waits until all running nodes say that they are ready.
    pub(crate) async fn wait_ready(&mut self) {
        let client = self.client().await;
        for at in 0..self.nodes.len() {
            if self.nodes[at].child.is_none() {
                continue;
            }
            let endpoint = self.nodes[at].client.clone();
            let since = Instant::now();
            loop {
                let status = client.status(&endpoint).await;
                if status.as_ref().is_ok_and(|status| status.ready) {
                    break;
                }
                let node = &mut self.nodes[at];
                assert!(node.is_running(), "{} ended:\n{}", node.name, node.output());
                assert!(since.elapsed() < STUCK, "{} is not ready: {status:?}\n{}", node.name, node.output());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Index of the node that leads a shard; waits until there is one.
    pub(crate) async fn leader(&self, shard: u64) -> usize {
        self.leader_but(shard, None).await
    }

    /// The same, without asking one of the nodes.
    pub(crate) async fn leader_but(&self, shard: u64, except: Option<usize>) -> usize {
        let client = self.client().await;
        eventually("a leader", || async {
            for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| Some(*at) != except) {
                if let Ok(status) = client.status(&node.client).await {
                    let leads =
                        status.replicas.iter().any(|replica| replica.shard_id == shard && replica.role == "leader");
                    if leads {
                        return Some(at);
                    }
                }
            }
            None
        })
        .await
    }

    /// A kvctl against all nodes, not started yet.
    pub(crate) fn kvctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
        command.args(["--endpoints", &self.endpoints().join(",")]).args(arguments);
        command
    }

    /// Runs kvctl against all nodes; returns exit code, standard output and standard error.
    pub(crate) fn kvctl(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.kvctl_command(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                child.kill().ok();
                child.wait().ok();
            }
            if std::thread::panicking() {
                eprintln!("--- output of {} ---\n{}", node.name, node.output());
            }
        }
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(since.elapsed() < STUCK, "there is still no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Copies a directory tree.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
