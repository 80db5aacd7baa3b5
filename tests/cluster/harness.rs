//! A cluster of real `kvd` processes on loopback, to be killed, restarted and damaged.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use quorate::client::{Client, ClientConfig, ClientFiles, Keys, ReplicaStatus, ScanOptions};
use quorate::env::Env;
use quorate::types::{GroupId, NodeId};
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
    /// What starts the process in its place; see [`Node::set_launcher`].
    launcher: Vec<String>,
    variables: Vec<(String, String)>,
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
        let out = File::options().create(true).append(true).open(self.log_path()).unwrap();
        self.launch(out.try_clone().unwrap().into(), out.into());
    }

    /// Starts the process, with an output that nobody reads: the other end is closed.
    pub(crate) fn start_unread(&mut self) {
        self.launch(Stdio::null(), Stdio::piped());
        drop(self.child.as_mut().and_then(|child| child.stderr.take()));
    }

    fn launch(&mut self, stdout: Stdio, stderr: Stdio) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut words = self.launcher.clone();
        words.push(env!("CARGO_BIN_EXE_kvd").to_owned());
        words.extend(self.arguments.iter().cloned());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Lets another program start `kvd` from now on, for instance in another namespace.
    pub(crate) fn set_launcher(&mut self, launcher: &[&str]) {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Sets a variable of the process's environment from the next start on.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Gives a flag another value from the next start on.
    pub(crate) fn set_flag(&mut self, flag: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == flag) {
            Some(at) => value.clone_into(&mut self.arguments[at + 1]),
            None => self.arguments.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// Starts the process, which must end by itself with exit code 1. Returns what it said.
    pub(crate) fn start_in_vain(&mut self) -> String {
        let before = self.output().len();
        self.start();
        let code = self.wait_exit();
        let said = self.output()[before..].to_owned();
        assert_eq!(code, Some(1), "{} said:\n{said}", self.name);
        said
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

/// What a node is told beside its place: `extra`, and to keep its log in small files where that says nothing
/// else. Three of them lie ready from the start, and a dozen nodes share one disk.
fn settings(extra: &[&str]) -> Vec<String> {
    let flag = "--log-segment-bytes";
    let small = (!extra.contains(&flag)).then_some([flag, "16MiB"]);
    small.iter().flatten().chain(extra).map(|argument| (*argument).to_owned()).collect()
}

/// Some nodes and the directory they live in.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: TempDir,
    /// What clients and kvctl use, if the nodes speak TLS.
    pub(crate) tls: Option<ClientFiles>,
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
            arguments.extend(settings(extra));
            Node { name, client, peer, dir, child: None, arguments, launcher: Vec::new(), variables: Vec::new() }
        });
        Self { nodes: nodes.collect(), root, tls: None }
    }

    /// A node that is to join through the peer port of one that runs; not started yet. `extra` goes to
    /// its command line. Returns its index.
    pub(crate) fn add(&mut self, name: &str, through: usize, extra: &[&str]) -> usize {
        let (client, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        // A name may be used again; a directory is not.
        let dir = self.root.path().join(format!("{}-{name}", self.nodes.len() + 1));
        let member = self.nodes[through].peer.clone();
        let mut arguments: Vec<String> = ["--name", name, "--data-dir", dir.to_str().unwrap()].map(Into::into).into();
        arguments.extend(["--client-addr", &client, "--peer-addr", &peer, "--join", &member].map(Into::into));
        arguments.extend(settings(extra));
        let name = name.to_owned();
        self.nodes.push(Node {
            name,
            client,
            peer,
            dir,
            child: None,
            arguments,
            launcher: Vec::new(),
            variables: Vec::new(),
        });
        self.nodes.len() - 1
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
        let config = ClientConfig { tls: self.tls.clone(), ..ClientConfig::new(self.endpoints()) };
        Client::connect(&Env::real(), config).await.unwrap()
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
        command.args(["--endpoints", &self.endpoints().join(",")]);
        if let Some(files) = &self.tls {
            command.arg("--tls-ca").arg(&files.ca);
            if let Some(identity) = &files.identity {
                command.arg("--tls-cert").arg(&identity.cert).arg("--tls-key").arg(&identity.key);
            }
        }
        command.args(arguments);
        // Not the profiles of whoever runs the tests.
        command.env("XDG_CONFIG_HOME", self.root.path()).env_remove("QUORATE_PROFILE").env_remove("QUORATE_PROFILES");
        command
    }

    /// Lets a node lead a shard.
    pub(crate) async fn move_leader(&self, shard: u64, to: usize) {
        let (client, node) = (self.client().await, NodeId(to as u64 + 1));
        eventually("leadership", || async { client.move_leader(GroupId(shard), node).await.ok() }).await;
        assert_eq!(self.leader(shard).await, to);
    }

    /// What a node reports of its replica of a shard.
    pub(crate) async fn replica(&self, node: usize, shard: u64) -> Option<ReplicaStatus> {
        let status = self.client().await.status(&self.nodes[node].client).await.ok()?;
        status.replicas.into_iter().find(|replica| replica.shard_id == shard)
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
                let output = node.output();
                let lines: Vec<_> = output.lines().filter(|line| !line.contains(" openraft::")).collect();
                eprintln!("--- end of the output of {} ---", node.name);
                lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| eprintln!("{line}"));
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

/// A value that tells which key it belongs to, and is as long as asked.
pub(crate) fn value_of(key: &str, bytes: usize) -> String {
    let mut value = String::with_capacity(bytes + key.len() + 1);
    while value.len() < bytes.max(1) {
        value.push_str(key);
        value.push('/');
    }
    value
}

/// Puts `prefix` + number → [`value_of`] it, many at a time, until all are acknowledged.
pub(crate) async fn fill(client: &Client, prefix: &str, numbers: Range<usize>, bytes: usize) {
    const AT_A_TIME: usize = 64;
    let puts = numbers.map(|number| async move {
        let key = format!("{prefix}{number:08}");
        let value = value_of(&key, bytes);
        // Putting the same again is harmless, whatever became of the first.
        eventually("acknowledgement", || async { client.put(key.clone(), value.clone()).await.ok() }).await;
    });
    futures_util::stream::iter(puts).buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
}

/// Checks that a prefix holds what [`fill`] wrote and nothing else.
pub(crate) async fn check_filled(client: &Client, prefix: &str, numbers: Range<usize>, bytes: usize) {
    let (first, mut expected) = (numbers.start, numbers);
    let mut scan = client.scan(Keys::prefix(prefix.to_owned()), ScanOptions::default());
    while let Some(record) = scan.next().await.unwrap() {
        let number = expected.next().unwrap_or_else(|| panic!("{:?} was never written", record.key));
        let key = format!("{prefix}{number:08}");
        assert_eq!(record.key, key);
        assert_eq!(record.value, value_of(&key, bytes), "{key}");
    }
    assert!(expected.is_empty(), "{prefix}{:08} and later are lost (of {first}..)", expected.start);
}

/// A file system of its own, in memory, for a directory: it can be filled without harm to others.
///
/// It lives in a mount namespace, held by a process that ends with its standard input.
pub(crate) struct SmallDisk {
    holder: Child,
    inside: String,
    /// The mount as seen from here.
    pub(crate) root: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB; why not, where the system does not let us.
    pub(crate) fn mount(dir: &Path, mib: u64) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        let inside = dir.to_str().unwrap().to_owned();
        let script = format!("mount -t tmpfs -o size={mib}m tmpfs '{inside}' && echo mounted && exec cat");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said.trim() == "mounted" {
            let root = PathBuf::from(format!("/proc/{}/root{inside}", holder.id()));
            return Ok(Self { holder, inside, root });
        }
        let refused = holder.wait_with_output().unwrap();
        Err(String::from_utf8_lossy(&refused.stderr).into_owned())
    }

    /// Moves a node onto it.
    pub(crate) fn hold(&self, node: &mut Node) {
        let pid = self.holder.id().to_string();
        node.set_launcher(&["nsenter", "--preserve-credentials", "--user", "--mount", "--target", &pid, "--"]);
        node.set_flag("--data-dir", &format!("{}/data", self.inside));
    }

    /// Takes all space but so many bytes, as another program might.
    pub(crate) fn take_all_but(&self, left: u64) {
        let filler = File::options().create(true).append(true).open(self.root.join("filler")).unwrap();
        loop {
            let free = self.free();
            if free <= left {
                return;
            }
            let size = filler.metadata().unwrap().len();
            match rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), size, free - left) {
                Ok(()) | Err(rustix::io::Errno::NOSPC) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self) {
        fs::remove_file(self.root.join("filler")).unwrap();
    }

    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.root).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().ok();
    }
}
