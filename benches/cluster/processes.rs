//! Server processes: started, looked at from outside, killed at the end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The unit of CPU times in `/proc`, which Linux fixes at a hundredth of a second.
const TICK: Duration = Duration::from_millis(10);
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// The processes of one cluster.
pub(crate) struct Processes {
    nodes: Vec<Node>,
}

struct Node {
    child: Child,
    /// Client address, `host:port`.
    client: String,
    output: PathBuf,
}

/// Where one node of a cluster lives.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) dir: PathBuf,
}

/// Three places below `root`.
pub(crate) fn places(root: &Path, store: &str) -> Vec<Place> {
    // Bound together, so that they differ.
    let bound: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let address = |at: usize| bound[at].local_addr().expect("an address").to_string();
    let place = |number: usize| {
        let name = format!("n{number}");
        let dir = root.join(format!("{store}-{name}"));
        Place { name, client: address(2 * number - 2), peer: address(2 * number - 1), dir }
    };
    (1..=3).map(place).collect()
}

impl Processes {
    /// Starts one process for each place.
    pub(crate) fn start(places: &[Place], command: impl Fn(&Place) -> Command) -> Self {
        let start = |place: &Place| {
            let output = place.dir.with_extension("out");
            let out = File::create(&output).expect("a file for the output");
            let mut command = command(place);
            command.stdin(Stdio::null()).stdout(out.try_clone().expect("a handle")).stderr(out);
            let child = command.spawn().expect("a process");
            Node { child, client: place.client.clone(), output }
        };
        Self { nodes: places.iter().map(start).collect() }
    }

    /// Client addresses.
    pub(crate) fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// Process ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// CPU time of all processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.nodes.iter().map(|node| cpu(node.child.id())).sum()
    }

    /// Resident memory of all processes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| memory_bytes(node.child.id())).sum()
    }

    /// Sum of a Prometheus metric without labels over all processes.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let value = |node: &Node| {
            let text = http_get(&node.client, "/metrics").expect("metrics");
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
            line.and_then(|value| value.trim().parse::<f64>().ok()).expect("the metric")
        };
        self.nodes.iter().map(value).sum()
    }

    /// Waits until every node passes `ready`.
    pub(crate) async fn wait(&self, ready: impl AsyncFn(&str) -> bool) {
        let since = Instant::now();
        for node in &self.nodes {
            while !ready(&node.client).await {
                let output = || fs::read_to_string(&node.output).unwrap_or_default();
                assert!(since.elapsed() < STARTED_WITHIN, "{} is not ready:\n{}", node.client, output());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself.
            node.child.kill().ok();
            node.child.wait().ok();
        }
    }
}

fn cpu(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("a number"));
    TICK * ticks.sum::<u32>()
}

fn memory_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: u64 = line.trim_end_matches("kB").trim().parse().expect("a number");
    kib * 1024
}

fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    // HTTP/1.0: the answer is one piece, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
