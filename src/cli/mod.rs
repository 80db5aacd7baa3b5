//! kvctl: commands and their output.
//!
//! Knows the client and the console seam. Knows nothing of the wire or of a node.

pub mod args;
mod batch;
mod cluster;
mod exit;
mod export;
mod import;
mod keys;
mod keyspaces;
mod lines;
mod members;
mod progress;
mod table;
mod text;
mod txn;
mod words;

#[cfg(test)]
mod cli_test;

use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

pub use exit::{Exit, Failure};

use self::args::{Cli, Command, Format, Global};
use crate::client::{Client, ClientConfig};
use crate::env::Env;
use crate::env::console::{Console, Input};

/// Time a command's requests may take if `--timeout` does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The same for import and export, which should outlast an election.
const TIMEOUT_BULK_DEFAULT: Duration = Duration::from_secs(60);
/// Bytes that a value, a transaction or a batch read from a stream may have.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Runs one command and returns its exit code. `interrupt` is cancelled by Ctrl-C.
pub async fn run(env: &Env, cli: Cli, mut console: Console, interrupt: &CancellationToken) -> Exit {
    let done = {
        let context = &mut Context { env, global: &cli.global, console: &mut console, interrupt };
        let command = Box::pin(execute(context, cli.command));
        tokio::select! {
            biased;
            done = command => done,
            // Import notices by itself and says how far it came; anything else just ends.
            () = patience(interrupt) => Err(interrupted()),
        }
    };
    let interrupted = done.as_ref().is_err_and(|failure| failure.exit == Exit::Interrupted);
    // A reader that stopped reading must not hold a command that was told to end.
    let done = match if interrupted { Ok(()) } else { console.stdout.flush().await } {
        Err(error) if done.is_ok() => Err(error.into()),
        _ => done,
    };
    let Err(failure) = done else { return Exit::Ok };
    if !failure.message.is_empty() {
        let mut words = format!("error: {}\n", failure.message);
        if !failure.hint.is_empty() {
            words.push_str(&format!("hint: {}\n", failure.hint));
        }
        // When even this fails there is nobody left to tell; the exit code remains.
        console.stderr.write_all(words.as_bytes()).await.ok();
    }
    console.stderr.flush().await.ok();
    failure.exit
}

/// Time that a command has to end by itself once it was interrupted.
const INTERRUPT_PATIENCE: Duration = Duration::from_millis(200);

async fn patience(interrupt: &CancellationToken) {
    interrupt.cancelled().await;
    crate::env::time::sleep(INTERRUPT_PATIENCE).await;
}

fn interrupted() -> Failure {
    Failure { exit: Exit::Interrupted, message: "interrupted".into(), hint: String::new() }
}

/// What a command works with.
struct Context<'a> {
    env: &'a Env,
    global: &'a Global,
    console: &'a mut Console,
    interrupt: &'a CancellationToken,
}

impl Context<'_> {
    async fn client(&self) -> Result<Client, Failure> {
        self.client_with(TIMEOUT_DEFAULT, false).await
    }

    async fn client_with(&self, timeout: Duration, watch_map: bool) -> Result<Client, Failure> {
        let config = ClientConfig::new(self.global.endpoints.iter().filter(|endpoint| !endpoint.trim().is_empty()))
            .keyspace(&self.global.keyspace)
            .timeout(self.global.timeout.unwrap_or(timeout))
            .watch_map(watch_map);
        Ok(Client::connect(self.env, config).await?)
    }

    fn format(&self) -> Format {
        self.global.output
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
        Command::Txn(args) => txn::txn(context, args).await,
        Command::Batch(args) => batch::batch(context, args).await,
        Command::Import(args) => import::import(context, args).await,
        Command::Export(args) => export::export(context, args).await,
        Command::Keyspace(command) => keyspaces::keyspace(context, command).await,
        Command::Shard(command) => cluster::shard(context, command).await,
        Command::Member(command) => members::member(context, command).await,
        Command::Operation(command) => members::operation(context, command).await,
        Command::Endpoint(command) => cluster::endpoint(context, command).await,
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
