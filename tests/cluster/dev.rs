//! `kvd` and `kvd dev` as real processes: exit codes, and a supervisor that neither loses children
//! nor is lost with them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const KVD: &str = env!("CARGO_BIN_EXE_kvd");
const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose outputs are read line by line. Killed when dropped.
struct Process {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let out = lines(child.stdout.take().expect("piped"));
        let err = lines(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    fn kvd(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(KVD);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUORATE_")) {
            command.env_remove(name);
        }
        command.current_dir(dir).args(arguments).stdin(Stdio::null());
        Self::start(command)
    }

    /// The next line of standard output that contains `text`.
    fn says(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.out.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(text) {
                return line;
            }
        }
        let logs: Vec<_> = self.err.try_iter().collect();
        panic!("{text:?} was never said; standard error: {}", logs.join("\n"));
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    fn ended(&mut self) -> ExitStatus {
        until("the process ends", || self.child.try_wait().expect("a child"))
    }

    fn complaint(&mut self) -> (Option<i32>, String) {
        let status = self.ended();
        (status.code(), self.err.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("it runs");
}

/// A port with five free ones behind it, below those that the system hands out by itself.
fn ports() -> u16 {
    let start = 10_000 + u16::try_from(std::process::id() % 997).expect("small") * 20;
    let free = |port: &u16| (*port..port + 6).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    (start..start + 2_000).step_by(6).find(free).expect("six free ports")
}

fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn pid_of(line: &str) -> u32 {
    let mut words = line.split_whitespace().skip_while(|word| *word != "pid");
    words.nth(1).and_then(|pid| pid.parse().ok()).expect("a process id")
}

#[test]
fn a_development_cluster_survives_its_nodes_and_not_the_other_way_round() {
    let home = tempfile::tempdir().expect("a directory");
    let port = ports();
    let first = port.to_string();
    let mut dev = Process::kvd(home.path(), &["dev", "--nodes", "3", "--dir", "d d", "--port", &first]);
    let pids: Vec<_> = ["n1 ", "n2 ", "n3 "].map(|name| pid_of(&dev.says(name))).into();
    let endpoints = format!("127.0.0.1:{port},127.0.0.1:{},127.0.0.1:{}", port + 2, port + 4);
    assert_eq!(dev.says("endpoints"), format!("ready; endpoints {endpoints}"));
    assert!(dev.says("try: ").ends_with(&format!("--endpoints {endpoints} put hello world")));
    assert!([port, port + 2, port + 4].into_iter().all(is_ready));
    assert!(dev.err.recv_timeout(PATIENCE).expect("a log line").starts_with('n'), "logs carry the node's name");

    kill(pids[1], Signal::KILL);
    assert!(dev.says("n2 ended").contains("the others go on"));
    let again = dev.says("--name n2");
    assert!(is_ready(port) && is_ready(port + 4) && !is_ready(port + 2));
    let mut shell = Command::new("sh");
    shell.current_dir(home.path()).args(["-c", &format!("exec {}", again.trim())]).stdin(Stdio::null());
    let mut by_hand = Process::start(shell);
    dev.says("n2 is ready again");

    dev.signal(Signal::TERM);
    dev.says("n2 was started by hand and goes on");
    dev.says("stopped");
    assert_eq!(dev.ended().code(), Some(0));
    // Alone it is soon not ready any more, but it runs.
    assert!(!listens(port) && listens(port + 2) && !listens(port + 4));

    let mut blocked = Process::kvd(home.path(), &["dev", "--dir", "d d"]);
    let (code, complaint) = blocked.complaint();
    assert_eq!(code, Some(1));
    assert!(
        complaint.contains(&format!("cannot listen on 127.0.0.1:{}, n2's client address", port + 2)),
        "{complaint}"
    );
    assert!(!is_ready(port), "nothing was started");
    by_hand.signal(Signal::TERM);
    assert_eq!(by_hand.ended().code(), Some(0));

    let (code, complaint) = Process::kvd(home.path(), &["dev", "--dir", "d d", "--nodes", "5"]).complaint();
    assert_eq!(code, Some(1));
    assert!(complaint.contains(&format!("--nodes 3 --port {port}")), "{complaint}");

    let mut resumed = Process::kvd(home.path(), &["dev", "--dir", "d d"]);
    assert_eq!(resumed.says("endpoints"), format!("ready; endpoints {endpoints}"));
    resumed.signal(Signal::KILL);
    resumed.ended();
    until("the children are gone", || {
        (0..6).all(|step| TcpListener::bind(("127.0.0.1", port + step)).is_ok()).then_some(())
    });
}

#[test]
fn settings_that_cannot_be_used_end_with_2_and_a_reason() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("bad.toml"), "hartbeat_ms = 1\n").expect("written");
    for (arguments, why) in [
        (["--config", "bad.toml"], "unknown setting hartbeat_ms in bad.toml; did you mean heartbeat_ms?"),
        (["--config", "none.toml"], "cannot read none.toml"),
        (["--name", "a b"], "--name: \"a b\" must be"),
        (["--cluster", "n2=127.0.0.1:1"], "not this node: name is n1"),
        (["--nmae", "x"], "--name"),
        (["dev", "--nodes=10"], "1..=9"),
    ] {
        let (code, complaint) = Process::kvd(home.path(), &arguments).complaint();
        assert_eq!(code, Some(2), "{arguments:?}: {complaint}");
        assert!(complaint.contains(why), "{arguments:?}: {complaint}");
    }
}
