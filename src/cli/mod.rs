//! kvctl: commands and their output.
//!
//! Knows the client and the console seam. Knows nothing of the wire or of a node.

pub mod args;
mod batch;
mod clients;
mod cluster;
mod command_line;
mod compact;
mod contest;
mod exit;
mod export;
mod import;
mod interrupts;
mod keys;
mod keyspaces;
mod lease;
mod lines;
mod members;
mod profile;
mod program;
mod progress;
mod repl;
pub mod settings;
mod table;
mod text;
mod txn;
mod watch;
mod words;

#[cfg(test)]
mod cli_test;
#[cfg(test)]
mod hold_test;
#[cfg(test)]
mod repl_test;

use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

pub use command_line::parse;
pub use exit::{Exit, Failure};
pub use interrupts::Interrupts;

use self::args::{Cli, Command, Format, Global};
use self::clients::Clients;
use self::profile::Profiles;
use self::settings::Settings;
use crate::client::{Client, ClientConfig};
use crate::env::Env;
use crate::env::console::{Console, Input};

/// Time a command's requests may take if `--timeout` does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The same for import and export, which should outlast an election.
const TIMEOUT_BULK_DEFAULT: Duration = Duration::from_secs(60);
/// Bytes that a value, a transaction or a batch read from a stream may have.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs one command, or the REPL, and returns its exit code. `interrupts` are raised by Ctrl-C.
pub async fn run(env: &Env, cli: Cli, mut console: Console, interrupts: &Interrupts) -> Exit {
    let session = match Session::start(env, &cli, &console).await {
        Ok(session) => session,
        Err(failure) => return failure.tell(&mut console).await,
    };
    if matches!(cli.command, Command::Repl) {
        return Box::pin(repl::run(session, console, interrupts)).await;
    }
    match session.carry_out(Global::default(), cli.command, &mut console, &interrupts.current()).await {
        Ok(()) => Exit::Ok,
        Err(failure) => failure.tell(&mut console).await,
    }
}

/// What holds over all commands of a process.
struct Session<'e> {
    env: &'e Env,
    clients: Clients,
    profiles: Profiles,
    /// The profile that holds.
    profile: Option<String>,
    settings: Settings,
    /// Whether it reads its commands from standard input, which then belongs to no program that they run.
    reads_commands: bool,
}

impl<'e> Session<'e> {
    async fn start(env: &'e Env, cli: &Cli, console: &Console) -> Result<Self, Failure> {
        // What asks no cluster works with a broken file, too.
        let needs_profile = !matches!(cli.command, Command::Version | Command::Completion { .. });
        let (profiles, (profile, settings)) = if needs_profile {
            let profiles = Profiles::load(console, cli.global.profiles.as_deref()).await?;
            let held = profile::settle(&profiles, &cli.global)?;
            (profiles, held)
        } else {
            (Profiles::default(), (None, cli.global.settings.clone()))
        };
        let reads_commands = matches!(cli.command, Command::Repl);
        let clients = if reads_commands { Clients::for_many() } else { Clients::for_one() };
        Ok(Self { env, clients, profiles, profile, settings, reads_commands })
    }

    /// Carries out one command. What its own options say goes before what holds.
    async fn carry_out(
        &self,
        own: Global,
        command: Command,
        console: &mut Console,
        interrupt: &CancellationToken,
    ) -> Result<(), Failure> {
        let others = match &own.profiles {
            Some(path) => Some(Profiles::load(console, Some(path)).await?),
            None => None,
        };
        let profiles = others.as_ref().unwrap_or(&self.profiles);
        let (profile, stronger) = match &own.profile {
            Some(_) => profile::settle(profiles, &own)?,
            None => (self.profile.clone(), own.settings),
        };
        let settings = stronger.or(self.settings.clone());
        let (writes, name, ends_by_itself) = (command.writes(), command.name(), command.ends_by_itself());
        let (done, asked) = {
            let profile = profile.as_deref();
            let context = &mut Context {
                session: self,
                settings: &settings,
                profile,
                profiles,
                console: &mut *console,
                interrupt,
                asked: false,
            };
            let done = tokio::select! {
                biased;
                done = Box::pin(execute(context, command)) => Some(done),
                // Import notices by itself and says how far it came; anything else just ends.
                () = patience(interrupt), if !ends_by_itself => None,
            };
            (done, context.asked)
        };
        let done = done.unwrap_or_else(|| Err(interrupted(writes && asked)));
        let done = done.map_err(|failure| failure.of_command(name));
        let interrupted = done.as_ref().is_err_and(|failure| failure.exit == Exit::Interrupted);
        // A reader that stopped reading must not hold a command that was told to end.
        match if interrupted { Ok(()) } else { console.stdout.flush().await } {
            Err(error) if done.is_ok() => Err(error.into()),
            _ => done,
        }
    }

    async fn client(&self, settings: &Settings, timeout: Duration, watch_map: bool) -> Result<Client, Failure> {
        let config = ClientConfig::new(settings.endpoints())
            .keyspace(settings.keyspace())
            .timeout(settings.timeout.unwrap_or(timeout))
            .consistency(settings.consistency()?)
            .watch_map(watch_map);
        let config = ClientConfig { tls: settings.tls()?, zone: settings.zone.clone(), ..config };
        Ok(self.clients.get(self.env, config).await?)
    }
}

/// Time that a command has to end by itself once it was interrupted.
const INTERRUPT_PATIENCE: Duration = Duration::from_millis(200);

async fn patience(interrupt: &CancellationToken) {
    interrupt.cancelled().await;
    crate::env::time::sleep(INTERRUPT_PATIENCE).await;
}

/// Ctrl-C ended a command. A write that may have been sent is nobody's any more.
fn interrupted(in_a_write: bool) -> Failure {
    let (message, hint) = if in_a_write {
        let hint = "read what it was to change before you run it again";
        ("interrupted, outcome unknown: the write may or may not take effect", hint)
    } else {
        ("interrupted", "")
    };
    Failure { exit: Exit::Interrupted, message: message.into(), hint: hint.to_owned() }
}

/// What a command works with.
struct Context<'a> {
    session: &'a Session<'a>,
    /// All that holds for it.
    settings: &'a Settings,
    /// The profile that some of it came from.
    profile: Option<&'a str>,
    profiles: &'a Profiles,
    console: &'a mut Console,
    interrupt: &'a CancellationToken,
    /// Whether it has a client, so that something may have been sent.
    asked: bool,
}

impl Context<'_> {
    async fn client(&mut self) -> Result<Client, Failure> {
        self.client_with(TIMEOUT_DEFAULT, false).await
    }

    async fn client_with(&mut self, timeout: Duration, watch_map: bool) -> Result<Client, Failure> {
        self.asked = true;
        self.session.client(self.settings, timeout, watch_map).await
    }

    fn format(&self) -> Format {
        self.settings.output()
    }

    async fn print(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        Ok(self.console.stdout.write_all(bytes.as_ref()).await?)
    }

    async fn print_json(&mut self, value: &Value) -> Result<(), Failure> {
        self.print(format!("{value}\n")).await
    }

    async fn warn(&mut self, line: &str) -> Result<(), Failure> {
        self.console.stderr.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.console.stderr.flush().await?)
    }

    /// Opens a file, or standard input for `-` and nothing.
    async fn open(&mut self, file: Option<PathBuf>) -> Result<(Input, Option<u64>, String), Failure> {
        match file.filter(|file| file.as_os_str() != "-") {
            None => {
                let stdin = std::mem::replace(&mut self.console.stdin, Box::new(tokio::io::empty()));
                Ok((stdin, None, "standard input".to_owned()))
            }
            Some(path) => {
                let name = path.display().to_string();
                let (input, size) =
                    self.console.files.open(&path).await.map_err(|error| Failure::from(error).at(&name))?;
                Ok((input, size, name))
            }
        }
    }

    /// Reads all of a file or standard input.
    async fn read(&mut self, file: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
        let (input, _, name) = self.open(file).await?;
        let mut bytes = Vec::new();
        let read = input.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
        if read as u64 > INPUT_BYTES_MAX {
            let message = format!("{name} holds more than {INPUT_BYTES_MAX} bytes");
            return Err(Failure::usage(message, "use `kvctl import` for many records"));
        }
        Ok(bytes)
    }
}

async fn execute(context: &mut Context<'_>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Get(args) => keys::get(context, args).await,
        Command::Put(args) => keys::put(context, args).await,
        Command::Del(args) => keys::del(context, args).await,
        Command::Scan(args) => keys::scan(context, args).await,
        Command::Count(args) => keys::count(context, args).await,
        Command::Watch(args) => watch::watch(context, args).await,
        Command::Txn(args) => txn::txn(context, args).await,
        Command::Batch(args) => batch::batch(context, args).await,
        Command::Import(args) => import::import(context, args).await,
        Command::Export(args) => export::export(context, args).await,
        Command::Lease(command) => lease::lease(context, command).await,
        Command::Lock(args) => contest::lock(context, args).await,
        Command::Elect(args) => contest::elect(context, args).await,
        Command::Compact(args) => compact::compact(context, args).await,
        Command::Keyspace(command) => keyspaces::keyspace(context, command).await,
        Command::Shard(command) => cluster::shard(context, command).await,
        Command::Member(command) => members::member(context, command).await,
        Command::Operation(command) => members::operation(context, command).await,
        Command::Endpoint(command) => cluster::endpoint(context, command).await,
        Command::Profile(command) => profile::profile(context, command).await,
        Command::Repl => {
            Err(Failure::usage("the REPL is no command of a line", "`kvctl help repl` says how to start it"))
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kvctl", &mut script);
            context.print(script).await
        }
        Command::Version => version(context).await,
    }
}

async fn version(context: &mut Context<'_>) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match context.format() {
        Format::Json => context.print_json(&json!({ "version": version })).await,
        Format::Simple | Format::Table => context.print(format!("kvctl {version}\n")).await,
    }
}
