//! One node as a child process: started, watched, asked to stop, and killed when it does not.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::plan::DevNode;
use super::print::Printer;
use crate::env::net::Network;
use crate::env::time;

/// Ends a child when the other end of its standard input closes: no child outlives its supervisor.
pub const UNTIL_STDIN_CLOSES: &str = "--until-stdin-closes";

/// Time a child gets to hand over and flush before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest piece of a log line that is forwarded at once.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Pause between two looks at a node that is not ready, and the most one look may take.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes read of an answer: its first line is enough.
const PROBE_BYTES_MAX: u64 = 4 * 1024;

/// Variables that name one node or all its settings, which the command line says for each child, and those of
/// TLS: a development cluster stays on loopback, in the clear.
const NOT_INHERITED: [&str; 15] = [
    "QUORATE_CONFIG",
    "QUORATE_NAME",
    "QUORATE_DATA_DIR",
    "QUORATE_CLIENT_ADDR",
    "QUORATE_CLIENT_ADVERTISE",
    "QUORATE_PEER_ADDR",
    "QUORATE_PEER_ADVERTISE",
    "QUORATE_CLUSTER",
    "QUORATE_LABELS",
    "QUORATE_TLS_CERT",
    "QUORATE_TLS_KEY",
    "QUORATE_TLS_CA",
    "QUORATE_PEER_TLS_CERT",
    "QUORATE_PEER_TLS_KEY",
    "QUORATE_PEER_TLS_CA",
];

/// What the supervisor wants of its children.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Wish {
    Run,
    Stop,
    Kill,
}

/// A started child and the pipe that keeps it alive.
pub(super) struct Running {
    child: Child,
    _alive: Option<ChildStdin>,
}

impl Running {
    /// Starts a node.
    pub(super) fn start(program: &std::path::Path, node: &DevNode) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.args(&node.arguments).arg(UNTIL_STDIN_CLOSES);
        for variable in NOT_INHERITED {
            command.env_remove(variable);
        }
        // A group of its own: Ctrl-C reaches the supervisor alone, which stops the children in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let alive = child.stdin.take();
        Ok(Self { child, _alive: alive })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Both of its outputs.
    pub(super) fn outputs(&mut self) -> Vec<Box<dyn AsyncRead + Send + Unpin>> {
        let mut outputs: Vec<Box<dyn AsyncRead + Send + Unpin>> = Vec::new();
        outputs.extend(self.child.stdout.take().map(|out| Box::new(out) as _));
        outputs.extend(self.child.stderr.take().map(|out| Box::new(out) as _));
        outputs
    }

    /// Waits for the child's end, and brings it about when that is wished.
    pub(super) async fn ended(
        mut self,
        name: String,
        mut wish: watch::Receiver<Wish>,
        printer: Printer,
    ) -> std::io::Result<ExitStatus> {
        tokio::select! {
            biased;
            status = self.child.wait() => return status,
            // An error means that the supervisor is gone, and with it the reason to run.
            _ = wish.wait_for(|wish| *wish > Wish::Run) => {}
        }
        self.signal(Signal::TERM);
        tokio::select! {
            biased;
            status = self.child.wait() => return status,
            _ = wish.wait_for(|wish| *wish > Wish::Stop) => {}
            () = time::sleep(STOP_TIMEOUT) => {
                printer.say(&format!("{name} has not stopped after {} s: killing it", STOP_TIMEOUT.as_secs()));
            }
        }
        self.signal(Signal::KILL);
        self.child.wait().await
    }

    /// The id is only known while the process is not reaped, so this never hits another one.
    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            kill_process(pid, signal).ok();
        }
    }
}

/// Forwards a child's output line by line until it closes.
pub(super) async fn forward(output: impl AsyncRead + Unpin, node: usize, name: String, printer: Printer) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => printer.forward(node, &name, String::from_utf8_lossy(&line).trim_end()),
        }
    }
}

/// Waits until a node says that it is ready.
pub(super) async fn ready(network: &dyn Network, address: &str) {
    loop {
        let answer = time::timeout(PROBE_TIMEOUT, probe(network, address)).await;
        if matches!(answer, Ok(Ok(true))) {
            return;
        }
        time::sleep(PROBE_INTERVAL).await;
    }
}

async fn probe(network: &dyn Network, address: &str) -> std::io::Result<bool> {
    let mut stream = network.connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PROBE_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
