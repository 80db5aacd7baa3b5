//! A whole cluster on one machine for trying things out: `kvd dev`.
//!
//! Starts one child process a node, shows their logs, and stops them together. A node that is killed
//! stays down until somebody starts it again, since watching the others go on is the point of it.
//! Knows processes and the command line of `kvd`; the one room beside the binaries that may.

mod child;
mod plan;
mod print;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::child::UNTIL_STDIN_CLOSES;
pub use self::plan::{DEV_NODES_DEFAULT, DEV_NODES_MAX, DEV_PORT_DEFAULT};

use self::child::{Running, Wish};
use self::plan::{DevNode, Layout};
use self::print::Printer;
use crate::env::disk::{Disk, read_file, replace_file};
use crate::env::{Env, time};

/// Remembers the cluster's layout within its directory.
const LAYOUT_FILE: &str = "dev.toml";
/// Largest such file.
const LAYOUT_BYTES_MAX: usize = 4 * 1024;
/// How often the supervisor says for whom it still waits.
const WAITING_INTERVAL: Duration = Duration::from_secs(10);
/// Time that the last log lines get to come through.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a development cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Too many nodes or too high a port.
    #[error("{nodes} nodes from port {port}: there must be 1 to 9 nodes, with two ports each from 1 to 65535")]
    BadLayout {
        /// Asked for.
        nodes: u16,
        /// Asked for.
        port: u16,
    },
    /// The directory holds another cluster.
    #[error(
        "{dir} holds a cluster started with --nodes {nodes} --port {port}: start it with these, or choose another --dir"
    )]
    OtherLayout {
        /// The directory.
        dir: String,
        /// Of the cluster it holds.
        nodes: u16,
        /// Of the cluster it holds.
        port: u16,
    },
    /// The file that remembers the layout cannot be read or written.
    #[error("{path}: {why}")]
    LayoutFile {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Somebody listens on a port that is needed.
    #[error(
        "cannot listen on {address}, {node}'s {role} address: {error}; stop what uses it, or choose another --port"
    )]
    Port {
        /// The address.
        address: String,
        /// The node that needs it.
        node: String,
        /// client or peer.
        role: &'static str,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The operating system refuses a process.
    #[error("cannot start {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A node ended before the cluster was ready.
    #[error("{node} ended before the cluster was ready ({status}); its log is above")]
    Ended {
        /// The node.
        node: String,
        /// How it ended.
        status: String,
    },
}

/// A development cluster.
#[derive(Clone, Debug)]
pub struct DevCluster {
    /// The `kvd` to run.
    pub program: PathBuf,
    /// The same as people type it.
    pub program_shown: String,
    /// `kvctl` as people type it.
    pub kvctl_shown: String,
    /// Holds a directory a node.
    pub dir: PathBuf,
    /// Nodes; else those that `dir` holds.
    pub nodes: Option<u16>,
    /// Client port of the first node; else the one that `dir` remembers.
    pub port: Option<u16>,
    /// More arguments for every node.
    pub arguments: Vec<String>,
}

impl DevCluster {
    /// Runs the cluster until `stops` rises above 0, which stops it; above 1 kills it.
    ///
    /// # Errors
    /// When it cannot be started as asked. Then no node is left running.
    pub async fn run(self, env: &Env, mut stops: watch::Receiver<u32>) -> Result<(), DevError> {
        let layout = self.layout(env).await?;
        let nodes = plan::nodes(layout, &self.dir, &self.arguments);
        free_ports(env, &nodes).await?;
        let mut supervisor = Supervisor::start(&self, nodes, env)?;
        let result = supervisor.supervise(&mut stops).await;
        supervisor.stop(stops).await;
        result
    }

    async fn layout(&self, env: &Env) -> Result<Layout, DevError> {
        let (disk, dir) = (Arc::clone(&env.disk), self.dir.clone());
        let (nodes, port) = (self.nodes, self.port);
        let path = self.dir.join(LAYOUT_FILE).display().to_string();
        let chosen = env.workers.start("dev").run(move || remembered(&*disk, &dir, nodes, port)).await;
        chosen.map_err(|error| DevError::LayoutFile { path, why: error.to_string() })?
    }
}

fn remembered(disk: &dyn Disk, dir: &Path, nodes: Option<u16>, port: Option<u16>) -> Result<Layout, DevError> {
    let path = dir.join(LAYOUT_FILE);
    let failed = |why: String| DevError::LayoutFile { path: path.display().to_string(), why };
    let found = match read_file(disk, &path, LAYOUT_BYTES_MAX) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?;
            Some(toml::from_str::<Layout>(&text).map_err(|error| failed(error.to_string()))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error.to_string())),
    };
    let layout = Layout::choose(found, nodes, port, dir)?;
    if found.is_none() {
        let text = format!("nodes = {}\nport = {}\n", layout.nodes, layout.port);
        let written = disk.create_dir(dir).and_then(|()| replace_file(disk, &path, text.as_bytes()));
        written.map_err(|error| failed(error.to_string()))?;
    }
    Ok(layout)
}

/// Refuses to start when one port is taken: half a cluster helps nobody.
async fn free_ports(env: &Env, nodes: &[DevNode]) -> Result<(), DevError> {
    for node in nodes {
        for (role, address) in [("client", &node.client), ("peer", &node.peer)] {
            if let Err(error) = env.net.listen(address).await {
                return Err(DevError::Port { address: address.clone(), node: node.name.clone(), role, error });
            }
        }
    }
    Ok(())
}

/// What a supervisor knows of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Starting,
    Ready,
    Down,
    /// Started by hand after it went down.
    Foreign,
}

struct Supervised {
    node: DevNode,
    pid: u32,
    state: State,
}

struct Supervisor {
    program_shown: String,
    kvctl_shown: String,
    nodes: Vec<Supervised>,
    env: Env,
    printer: Printer,
    wish: watch::Sender<Wish>,
    ends: JoinSet<(usize, std::io::Result<ExitStatus>)>,
    probes: JoinSet<usize>,
    logs: JoinSet<()>,
}

impl Supervisor {
    fn start(cluster: &DevCluster, nodes: Vec<DevNode>, env: &Env) -> Result<Self, DevError> {
        let mut supervisor = Self {
            program_shown: cluster.program_shown.clone(),
            kvctl_shown: cluster.kvctl_shown.clone(),
            nodes: Vec::new(),
            env: env.clone(),
            printer: Printer::new(),
            wish: watch::Sender::new(Wish::Run),
            ends: JoinSet::new(),
            probes: JoinSet::new(),
            logs: JoinSet::new(),
        };
        for node in nodes {
            let running = Running::start(&cluster.program, &node);
            // Those already started end with the pipe that is dropped with this.
            let running =
                running.map_err(|error| DevError::Start { program: cluster.program.display().to_string(), error })?;
            supervisor.adopt(node, running);
        }
        Ok(supervisor)
    }

    fn adopt(&mut self, node: DevNode, mut running: Running) {
        let index = self.nodes.len();
        for output in running.outputs() {
            self.logs.spawn(child::forward(output, index, node.name.clone(), self.printer));
        }
        let pid = running.pid();
        let ended = running.ended(node.name.clone(), self.wish.subscribe(), self.printer);
        self.ends.spawn(async move { (index, ended.await) });
        self.probe(index, &node);
        self.nodes.push(Supervised { node, pid, state: State::Starting });
    }

    fn probe(&mut self, index: usize, node: &DevNode) {
        let (network, address) = (Arc::clone(&self.env.net), node.client.clone());
        self.probes.spawn(async move {
            child::ready(&*network, &address).await;
            index
        });
    }

    /// Runs until a stop is asked for, or a node fails before all were ready.
    async fn supervise(&mut self, stops: &mut watch::Receiver<u32>) -> Result<(), DevError> {
        let mut complete = false;
        loop {
            tokio::select! {
                biased;
                // An error means that nobody can ask any more.
                _ = stops.wait_for(|stops| *stops > 0) => return Ok(()),
                Some(ended) = self.ends.join_next() => {
                    // A task that panicked has dropped its child's pipe: the child ends as well.
                    let Ok((index, status)) = ended else { continue };
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    if !complete {
                        let node = self.nodes.get(index).map(|known| known.node.name.clone()).unwrap_or_default();
                        return Err(DevError::Ended { node, status });
                    }
                    self.went_down(index, &status);
                }
                Some(Ok(index)) = self.probes.join_next() => {
                    self.became_ready(index);
                    if !complete && self.nodes.iter().all(|known| known.state == State::Ready) {
                        complete = true;
                        self.welcome();
                    }
                }
                () = time::sleep(WAITING_INTERVAL), if !complete => self.waiting(),
            }
        }
    }

    fn went_down(&mut self, index: usize, status: &str) {
        let Some(known) = self.nodes.get_mut(index) else { return };
        known.state = State::Down;
        let node = known.node.clone();
        let command = plan::command_line(&self.program_shown, &node.arguments);
        let name = &node.name;
        self.printer.say(&format!("{name} ended ({status}); the others go on. Start it again with:\n  {command}"));
        self.probe(index, &node);
    }

    fn became_ready(&mut self, index: usize) {
        let Some(known) = self.nodes.get_mut(index) else { return };
        if known.state == State::Down {
            known.state = State::Foreign;
            self.printer.say(&format!("{} is ready again", known.node.name));
        } else {
            known.state = State::Ready;
        }
    }

    fn waiting(&self) {
        let late = self.nodes.iter().filter(|known| known.state != State::Ready);
        let late: Vec<_> = late.map(|known| known.node.name.as_str()).collect();
        self.printer.say(&format!("waiting for {} to be ready", late.join(", ")));
    }

    fn welcome(&self) {
        let say = |words: String| self.printer.say(&words);
        for Supervised { node, pid, .. } in &self.nodes {
            say(format!(
                "{}  client {}  peer {}  pid {pid}  {}",
                node.name,
                node.client,
                node.peer,
                node.data_dir.display()
            ));
        }
        let endpoints: Vec<_> = self.nodes.iter().map(|known| known.node.client.as_str()).collect();
        let endpoints = endpoints.join(",");
        say(format!("ready; endpoints {endpoints}"));
        say(format!("try: {} --endpoints {endpoints} put hello world", self.kvctl_shown));
    }

    /// Stops every child, and returns when all have ended and their last lines are shown.
    async fn stop(mut self, mut stops: watch::Receiver<u32>) {
        self.probes.abort_all();
        for known in self.nodes.iter().filter(|known| known.state == State::Foreign) {
            self.printer.say(&format!("{} was started by hand and goes on", known.node.name));
        }
        self.wish.send_replace(Wish::Stop);
        loop {
            let killing = *self.wish.borrow() == Wish::Kill;
            tokio::select! {
                biased;
                ended = self.ends.join_next() => if ended.is_none() { break },
                Ok(_) = stops.wait_for(|stops| *stops > 1), if !killing => {
                    self.wish.send_replace(Wish::Kill);
                }
            }
        }
        let shown = async { while self.logs.join_next().await.is_some() {} };
        if time::timeout(LAST_LINES_TIMEOUT, shown).await.is_err() {
            self.printer.say("some log lines did not come through");
        }
        self.printer.say("stopped");
    }
}
