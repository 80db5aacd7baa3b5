//! `kvd`, the server: reads its command line, starts a node or a development cluster, and stops it
//! when the operating system says so.

use std::convert::Infallible;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use quorate::api::{Api, KeyspacePort};
use quorate::env::Env;
use quorate::env::net::Listener;
use quorate::env::tls::ServerTls;
use quorate::env::work::Workers;
use quorate::node::dev::{DEV_NODES_MAX, DevCluster};
use quorate::node::{EngineKind, LogFormat, Node, NodeConfig, Sources, Telemetry};
use quorate::storage::engine::{Engine, EngineError, FjallConfig, FjallEngine, MemoryStores};
#[cfg(feature = "engine-sled")]
use quorate::storage::engine::{SledConfig, SledEngine};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The node, or the cluster, could not start or failed.
const EXIT_FAILED: u8 = 1;
/// The command line or the settings cannot be used.
const EXIT_USAGE: u8 = 2;
/// Pause after a failed accept, which is usually a lack of file descriptors.
const TURN_AWAY_PAUSE: Duration = Duration::from_millis(100);
/// A second signal ended the process at once.
const EXIT_AT_ONCE: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  One node, in ./quorate-data on 127.0.0.1:2379:
    kvd
  Three nodes on this machine, to try things out:
    kvd dev --nodes 3
  One node of a cluster of three:
    kvd --name n1 --data-dir /var/lib/quorate \\
        --client-addr 10.0.0.1:2379 --tls-cert server.pem --tls-key server.key \\
        --peer-addr 10.0.0.1:2380 \\
        --peer-tls-cert n1.pem --peer-tls-key n1.key --peer-tls-ca cluster-ca.pem \\
        --cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380
  A node that joins a running cluster, and one that takes the place of a lost disk:
    kvd --name n4 --join 10.0.0.1:2380 --data-dir /var/lib/quorate \\
        --client-addr 10.0.0.4:2379 --peer-addr 10.0.0.4:2380
    kvd --replace n3 --join 10.0.0.1:2380 --data-dir /var/lib/quorate \\
        --client-addr 10.0.0.3:2379 --peer-addr 10.0.0.3:2380
  The same on a network that keeps everybody else away:
    kvd … --insecure
  The same from a file, with one setting changed:
    kvd --config /etc/quorate/kvd.toml --log debug

Every setting is also a key of the TOML file (--data-dir is data_dir) and a variable
(QUORATE_DATA_DIR). Flags win over variables, variables over the file.

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong usage or settings,
130 ended at once by a second signal.";

const DEV_EXAMPLES: &str = "\
Examples:
  Three nodes on 127.0.0.1:2379, 2381 and 2383, in ./quorate-dev:
    kvd dev
  Five nodes elsewhere:
    kvd dev --nodes 5 --dir /tmp/five --port 4000
  The same five again, with what they held:
    kvd dev --dir /tmp/five

Each node's peer port is one above its client port. Ctrl-C stops all nodes.";

/// The Quorate server: a sharded, strongly consistent key-value store.
#[derive(Parser)]
#[command(name = "kvd", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    node: NodeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a whole cluster on this machine, to try things out.
    Dev(DevFlags),
}

/// Declares the flags that are settings once, so that none can be forgotten on the way to `Sources`.
macro_rules! settings {
    ($($(#[$attribute:meta])* $key:ident: $value_name:literal,)*) => {
        #[derive(Args)]
        struct NodeFlags {
            /// TOML file with settings; also QUORATE_CONFIG.
            #[arg(long, value_name = "FILE")]
            config: Option<PathBuf>,
            $($(#[$attribute])* #[arg(long, value_name = $value_name)] $key: Option<String>,)*
            /// Stop when standard input closes.
            #[arg(long, hide = true)]
            until_stdin_closes: bool,
        }

        impl NodeFlags {
            fn given(&self) -> Vec<(&'static str, String)> {
                let all = [$((stringify!($key), &self.$key),)*];
                all.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
            }
        }
    };
}

settings! {
    /// Name of the node, unique within the cluster [default: n1]
    name: "NAME",
    /// Everything the node keeps lies here [default: ./quorate-data]
    data_dir: "DIR",
    /// Address to listen on for clients [default: 127.0.0.1:2379]
    client_addr: "HOST:PORT",
    /// Address clients are told to connect to [default: client-addr]
    client_advertise: "HOST:PORT",
    /// Further addresses, where etcd's clients mean another keyspace than `default`
    etcd_addr: "KEYSPACE=HOST:PORT,…",
    /// Address to listen on for peers [default: this node's in --cluster, or 127.0.0.1:2380]
    peer_addr: "HOST:PORT",
    /// Address peers are told to connect to [default: this node's in --cluster, or peer-addr]
    peer_advertise: "HOST:PORT",
    /// Certificate for clients, in PEM form: with it and its key, clients must speak TLS
    tls_cert: "FILE",
    /// Private key of that certificate
    tls_key: "FILE",
    /// CA of clients' certificates: with it, clients must present one
    tls_ca: "FILE",
    /// Certificate for peers, which names this node: with it, its key and a CA, peers must speak TLS
    peer_tls_cert: "FILE",
    /// Private key of that certificate
    peer_tls_key: "FILE",
    /// CA of all nodes' certificates
    peer_tls_ca: "FILE",
    /// Listen without TLS where others can reach this node
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    insecure: "BOOL",
    /// The first members of the cluster and their peer addresses [default: this node alone]
    cluster: "NAME=HOST:PORT,…",
    /// Peer address of a member that takes this node into its cluster; ignored once it has joined
    join: "HOST:PORT",
    /// Name of the member, whose disk is lost, whose place this node takes; needs --join
    replace: "NAME",
    /// Labels of the node, for instance zone=a
    labels: "KEY=VALUE,…",
    /// Replicas of the keyspace default, if there are as many nodes [default: 3]
    replication_factor: "N",
    /// Which log lines there are: error, warn, info, debug, trace, or a filter [default: info,openraft=error]
    log: "FILTER",
    /// How log lines look: text or json [default: text]
    log_format: "FORMAT",
    /// Longest value [default: 1MiB]
    value_bytes_max: "BYTES",
    /// Client requests executed at a time [default: 4096]
    requests_in_flight_max: "N",
    /// How often a watch that asked for progress hears of it while nothing happens [default: 600000]
    watch_progress_ms: "MS",
    /// Time between a leader's heartbeats [default: 150]
    heartbeat_ms: "MS",
    /// Shortest silence after which a follower stands for election [default: 600]
    election_min_ms: "MS",
    /// Longest such silence [default: 1200]
    election_max_ms: "MS",
    /// Size of a segment of the Raft log [default: 64MiB]
    log_segment_bytes: "BYTES",
    /// Writes that grow are refused while less is free on the data disk [default: 64MiB]
    disk_reserve_bytes: "BYTES",
    /// Memory for blocks the engine has read [default: 256MiB]
    engine_cache_bytes: "BYTES",
    /// Memory for writes the engine has not written out [default: 256MiB]
    engine_write_buffer_bytes: "BYTES",
    /// Where replicas keep their state: fjall, or sled if it was built in [default: fjall]
    engine: "ENGINE",
}

#[derive(Args)]
#[command(after_help = DEV_EXAMPLES)]
struct DevFlags {
    /// Nodes to run [default: those in DIR, or 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(DEV_NODES_MAX)))]
    nodes: Option<u16>,
    /// Holds a directory for each node
    #[arg(long, default_value = "./quorate-dev")]
    dir: PathBuf,
    /// Client port of the first node [default: the one in DIR, or 2379]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Which log lines there are [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        None => node(&arguments.node),
        Some(Command::Dev(flags)) => dev(flags),
    }
}

/// Ends the process; the reason is the last line it prints.
fn fail(error: &anyhow::Error, code: u8) -> ! {
    // Held to the end, so that no task that still runs logs behind it.
    let mut output = std::io::stderr().lock();
    // Without a standard error nobody reads it.
    writeln!(output, "kvd: {}", in_words(error)).ok();
    std::process::exit(code.into())
}

/// An error and its causes, but for those that it names itself.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

fn node(flags: &NodeFlags) -> ExitCode {
    let (config, runtime) = match sources(flags).and_then(|sources| Ok((NodeConfig::resolve(&sources)?, runtime()?))) {
        Ok(ready) => ready,
        Err(error) => fail(&error, EXIT_USAGE),
    };
    start_logging(&config);
    let until_stdin_closes = flags.until_stdin_closes;
    let ended = runtime.block_on(async move {
        let stops = stops(until_stdin_closes)?;
        tokio::select! {
            biased;
            result = run(config, stopped(stops.clone(), 1)) => result.map(|()| ExitCode::SUCCESS),
            () = stopped(stops, 2) => Ok(ExitCode::from(EXIT_AT_ONCE)),
        }
    });
    // What still runs has nothing left to lose: a node that ended in order has flushed.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| fail(&error, EXIT_FAILED))
}

fn sources(flags: &NodeFlags) -> anyhow::Result<Sources> {
    let variables = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text)));
    let ours = variables.filter(|(name, _)| name.starts_with("QUORATE_"));
    let variables = ours.map(|(name, text)| match text.into_string() {
        Ok(text) => Ok((name, text)),
        Err(_) => anyhow::bail!("{name} is not UTF-8"),
    });
    let variables = variables.collect::<anyhow::Result<Vec<_>>>()?;
    let by_variable = variables.iter().find(|(name, text)| name == "QUORATE_CONFIG" && !text.is_empty());
    let path = flags.config.clone().or_else(|| by_variable.map(|(_, path)| PathBuf::from(path)));
    let file = path.map(|path| read_settings(&path)).transpose()?;
    Ok(Sources { flags: flags.given(), variables, file })
}

fn read_settings(path: &Path) -> anyhow::Result<(String, String)> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    Ok((shown, text))
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn start_logging(config: &NodeConfig) {
    let filter = EnvFilter::new(&config.log_filter);
    // Where nobody reads it any more, a line is lost; a complaint of that, at the same place, would be a panic.
    let logger =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => logger.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logger.json().init(),
    }
}

/// Runs one node until it is asked to stop. This is where the node and its API are put together.
async fn run(config: NodeConfig, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let env = Env::real();
    let tls = config.client_tls.clone().map(|files| ServerTls::start(&env, files)).transpose();
    let tls = tls.context("the client port's TLS files cannot be used")?;
    let listener = env.net.listen(&config.client_listen).await;
    let listener = listener.with_context(|| format!("cannot listen for clients on {}", config.client_listen))?;
    let keyspaces = keyspace_ports(&config, &env).await?;
    let settings = config.clone();
    let mut stop = std::pin::pin!(stop);
    // A node that joins may wait for long, and has nothing yet that must be ended in order.
    let node = tokio::select! {
        biased;
        node = Node::start(config, env, |dir| open_engine(&settings, dir)) => node?,
        () = stop.as_mut() => {
            tracing::info!("stopped before it had started");
            return Ok(());
        }
        never = turn_away(&*listener) => match never {},
    };
    let api = Api {
        service: Arc::new(node.clone()),
        telemetry: Arc::new(Telemetry::default()),
        requests_in_flight_max: settings.requests_in_flight_max,
        watch_progress: Duration::from_millis(settings.watch_progress_ms),
        tls,
        keyspaces,
    };
    tracing::info!(name = settings.name, clients = settings.client_advertise, "listening for clients");
    tokio::select! {
        biased;
        reason = node.failed() => anyhow::bail!("{reason}"),
        served = api.serve(listener, stop) => served?,
    }
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Ends the connections of clients as they come, for ever: they go elsewhere at once, and do not wait for a node
/// that cannot answer yet.
async fn turn_away(listener: &dyn Listener) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                tracing::debug!(%from, "a client came before this node could answer");
                drop(stream);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client's connection");
                quorate::env::time::sleep(TURN_AWAY_PAUSE).await;
            }
        }
    }
}

async fn keyspace_ports(config: &NodeConfig, env: &Env) -> anyhow::Result<Vec<KeyspacePort>> {
    let mut ports = Vec::new();
    for (keyspace, address) in &config.etcd_listen {
        let listener = env.net.listen(address).await;
        let listener = listener
            .with_context(|| format!("cannot listen for etcd's clients of the keyspace {keyspace} on {address}"))?;
        let advertise = config.etcd_advertise(address);
        ports.push(KeyspacePort { keyspace: keyspace.clone(), advertise, listener });
    }
    Ok(ports)
}

fn open_engine(config: &NodeConfig, dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(match config.engine {
        EngineKind::Fjall => {
            let settings = FjallConfig {
                cache_bytes: config.engine_cache_bytes,
                write_buffer_bytes: config.engine_write_buffer_bytes,
                journal_bytes: config.engine_write_buffer_bytes.min(FjallConfig::default().journal_bytes),
                ..FjallConfig::default()
            };
            Arc::new(FjallEngine::open(dir, settings)?)
        }
        #[cfg(feature = "engine-sled")]
        EngineKind::Sled => {
            let settings =
                SledConfig { cache_bytes: config.engine_cache_bytes, history_bytes: config.engine_write_buffer_bytes };
            Arc::new(SledEngine::open(dir, &settings)?)
        }
        EngineKind::Memory => Arc::new(MemoryStores::new().open()),
    })
}

/// Counts the reasons to stop: signals, and the end of standard input if that is watched.
fn stops(until_stdin_closes: bool) -> anyhow::Result<watch::Receiver<u32>> {
    let (count, stops) = watch::channel(0);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        let mut closed = std::pin::pin!(closed_stdin());
        let mut watching = until_stdin_closes;
        loop {
            let reason = tokio::select! {
                biased;
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                () = &mut closed, if watching => {
                    watching = false;
                    "the end of standard input"
                }
                else => return,
            };
            tracing::info!(reason, "asked to stop");
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(stops)
}

/// Waits until nobody can write to our standard input any more.
async fn closed_stdin() {
    let reader = Workers::threads().start("stdin");
    let drained = reader.run(|| {
        let mut ignored = [0; 512];
        while std::io::stdin().lock().read(&mut ignored).is_ok_and(|read| read > 0) {}
    });
    if let Err(error) = drained.await {
        tracing::error!(%error, "standard input is not watched any more");
    }
}

/// Waits for as many reasons to stop.
async fn stopped(mut stops: watch::Receiver<u32>, count: u32) {
    if stops.wait_for(|stops| *stops >= count).await.is_err() {
        // No signal can come any more, so none is waited for.
        std::future::pending::<()>().await;
    }
}

fn dev(flags: DevFlags) -> ExitCode {
    let ended = runtime().and_then(|runtime| runtime.block_on(dev_cluster(flags)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

async fn dev_cluster(flags: DevFlags) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut arguments = Vec::new();
    for (flag, value) in [("--log", flags.log), ("--log-format", flags.log_format)] {
        arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    }
    let cluster = DevCluster {
        program_shown: typed("kvd", &program),
        kvctl_shown: typed("kvctl", &program),
        program,
        // The command that starts a node again is printed, and may be run from anywhere.
        dir: std::path::absolute(flags.dir).context("cannot tell the current directory")?,
        nodes: flags.nodes,
        port: flags.port,
        arguments,
    };
    Ok(cluster.run(&Env::real(), stops(false)?).await?)
}

/// How people start one of our programs from here: by its name, if a shell finds it by that.
fn typed(name: &str, kvd: &Path) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if found { name.to_owned() } else { kvd.with_file_name(name).display().to_string() }
}
