//! The REPL: lines from a terminal or a pipe, each carried out as the command line would, over
//! clients that are kept.

mod complete;
mod editor;
mod entry;
mod history;
mod piped;
mod terminal;
mod words;

use std::ffi::OsString;
use std::io::Cursor;
use std::time::Duration;

use clap::error::ErrorKind;
use tokio::io::AsyncWriteExt;

use self::complete::Wanted;
use self::entry::Entry;
use self::piped::Piped;
use self::terminal::Terminal;
use super::args::Command;
use super::exit::{Exit, Failure};
use super::settings::Settings;
use super::{Interrupts, Session, TIMEOUT_DEFAULT, interrupted};
use crate::client::{Client, ErrorCode, Keys, ScanOptions};
use crate::env::console::Console;
use crate::env::time;

/// Time that the editor waits for names from the cluster.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(300);
/// Keys offered at most.
const COMPLETION_KEYS_MAX: u64 = 50;
/// Longest key offered.
const COMPLETION_KEY_BYTES_MAX: usize = 256;
/// How often, and after which pause, `use` asks for a keyspace that was perhaps made just now.
const USE_TRIES: u32 = 3;
const USE_PAUSE: Duration = Duration::from_millis(100);
/// The line that ends a command's input.
const INPUT_END: &[u8] = b".";

/// Where lines come from.
trait Lines {
    /// The next line, with those that belong to it where a quote spans lines; `None` at the end.
    async fn entry(&mut self, session: &Session<'_>) -> Result<Option<Vec<u8>>, Failure>;

    /// What a command gets in place of standard input: the lines up to one that is only a dot.
    async fn input(&mut self, session: &Session<'_>) -> Result<Vec<u8>, Failure>;

    /// Names the entry in errors, where nobody has just typed it.
    fn place(&self) -> Option<String>;
}

/// Reads and carries out lines until they end. From a terminal that is always a success; from
/// elsewhere it ends with the worst of all lines.
pub(super) async fn run(session: Session<'_>, mut console: Console, interrupts: &Interrupts) -> Exit {
    let definition = entry::definition();
    if !console.is_interactive {
        let input = std::mem::replace(&mut console.stdin, Box::new(tokio::io::empty()));
        let lines = Piped::new(input, interrupts.current());
        return Box::pin(Repl { session, console, interrupts, definition, lines, worst: Exit::Ok }.converse()).await;
    }
    let (lines, trouble) = match Terminal::open(session.env, &console, definition.clone()) {
        Ok(opened) => opened,
        Err(failure) => return failure.tell(&mut console).await,
    };
    let mut greeting =
        format!("kvctl {}: `help` lists commands, Tab completes, Ctrl-D ends\n", env!("CARGO_PKG_VERSION"));
    if let Some(trouble) = trouble {
        greeting.push_str(&format!("warning: no history is kept: {trouble}\n"));
    }
    // A terminal that takes no greeting shows that at the first line, too.
    console.stderr.write_all(greeting.as_bytes()).await.ok();
    console.stderr.flush().await.ok();
    Box::pin(Repl { session, console, interrupts, definition, lines, worst: Exit::Ok }.converse()).await
}

/// What stands before a line: where it goes and which keyspace it works on.
fn prompt(profile: Option<&str>, settings: &Settings) -> String {
    let endpoints = settings.endpoints();
    let at = match (profile, endpoints.as_slice()) {
        (Some(profile), _) => profile.to_owned(),
        (None, []) => "?".to_owned(),
        (None, [one]) => (*one).to_owned(),
        (None, [first, others @ ..]) => format!("{first}+{}", others.len()),
    };
    let shown = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    format!("{}/{}> ", shown(&at), shown(settings.keyspace()))
}

fn too_long() -> Failure {
    let message = format!("the input holds more than {} bytes", super::INPUT_BYTES_MAX);
    Failure::usage(message, "name a file, and use `import` for many records")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoesOn,
    Ends,
}

struct Repl<'a, L> {
    session: Session<'a>,
    console: Console,
    interrupts: &'a Interrupts,
    definition: clap::Command,
    lines: L,
    /// Of all lines so far; stays `Ok` on a terminal.
    worst: Exit,
}

impl<L: Lines> Repl<'_, L> {
    async fn converse(mut self) -> Exit {
        loop {
            let text = match self.lines.entry(&self.session).await {
                Ok(Some(text)) => text,
                Ok(None) => return self.worst,
                Err(failure) => return failure.tell(&mut self.console).await.max(self.worst),
            };
            if self.carry_out(&text).await == Flow::Ends {
                return self.worst;
            }
        }
    }

    /// Carries out the commands of one entry, and tells of those that fail.
    async fn carry_out(&mut self, text: &[u8]) -> Flow {
        let commands = match words::split(text) {
            Ok(commands) => commands,
            Err(open) => {
                let message = format!("`{open}` is never closed");
                return self.tell(Failure::usage(message, "write \\ before it, or close it")).await;
            }
        };
        for command in commands {
            let flow = match Box::pin(self.command(command)).await {
                Ok(flow) => flow,
                Err(failure) => self.tell(failure).await,
            };
            if flow == Flow::Ends {
                return flow;
            }
        }
        Flow::GoesOn
    }

    async fn tell(&mut self, failure: Failure) -> Flow {
        let place = self.lines.place();
        let failure = match &place {
            Some(place) if !failure.message.is_empty() => failure.at(place),
            Some(_) | None => failure,
        };
        let exit = failure.tell(&mut self.console).await;
        if place.is_none() {
            return Flow::GoesOn;
        }
        self.worst = self.worst.max(exit);
        // Ctrl-C on a script is meant for all of it.
        if exit == Exit::Interrupted { Flow::Ends } else { Flow::GoesOn }
    }

    async fn command(&mut self, words: Vec<OsString>) -> Result<Flow, Failure> {
        match entry::parse(&self.definition, words) {
            Err(said) => self.say(&said).await?,
            Ok(Entry::Exit) => return Ok(Flow::Ends),
            Ok(Entry::Use(keyspace)) => self.use_keyspace(keyspace).await?,
            Ok(Entry::Run(cli)) if matches!(cli.command, Command::Repl) => {
                return Err(Failure::usage("the lines are read already", "`use` switches the keyspace"));
            }
            Ok(Entry::Run(cli)) => {
                self.console.stdin = if cli.command.reads_stdin() {
                    Box::new(Cursor::new(self.lines.input(&self.session).await?))
                } else {
                    Box::new(tokio::io::empty())
                };
                let interrupt = self.interrupt();
                self.session.carry_out(cli.global, cli.command, &mut self.console, &interrupt).await?;
            }
        }
        Ok(Flow::GoesOn)
    }

    /// Ends the next command: on a terminal only that one.
    fn interrupt(&self) -> tokio_util::sync::CancellationToken {
        if self.lines.place().is_none() { self.interrupts.renew() } else { self.interrupts.current() }
    }

    /// Help that was asked for goes to standard output, a complaint is a failure.
    async fn say(&mut self, said: &clap::Error) -> Result<(), Failure> {
        let text = said.render().to_string();
        if !said.use_stderr() {
            self.console.stdout.write_all(text.as_bytes()).await?;
            return Ok(self.console.stdout.flush().await?);
        }
        if said.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            self.console.stderr.write_all(text.as_bytes()).await?;
            return Err(Failure::silent(Exit::Usage));
        }
        Err(Failure::usage(text.trim_start_matches("error: ").trim_end(), ""))
    }

    async fn use_keyspace(&mut self, name: String) -> Result<(), Failure> {
        let client = self.session.client(&self.session.settings, TIMEOUT_DEFAULT, false).await?;
        let interrupt = self.interrupt();
        tokio::select! {
            biased;
            () = interrupt.cancelled() => return Err(interrupted(false)),
            known = must_exist(&client, &name) => known?,
        }
        self.session.settings.keyspace = Some(name);
        Ok(())
    }
}

/// Fails unless there is a keyspace of this name. The node that is asked may not have heard yet of one
/// that was made a moment ago.
async fn must_exist(client: &Client, name: &str) -> Result<(), Failure> {
    let mut tries = 1;
    loop {
        match client.with_keyspace(name).shards(false).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code == ErrorCode::KeyspaceNotFound && tries < USE_TRIES => tries += 1,
            Err(error) if error.code == ErrorCode::KeyspaceNotFound => {
                let hint = "`keyspace list` shows them, `keyspace create` makes one";
                return Err(Failure::usage(format!("there is no keyspace `{name}`"), hint));
            }
            Err(error) => return Err(error.into()),
        }
        time::sleep(USE_PAUSE).await;
    }
}

impl Session<'_> {
    /// The names that may stand at the cursor, as far as they are known within a short time.
    async fn names(&self, wanted: &Wanted, word: &str, keyspace: Option<&str>) -> Vec<String> {
        let asked = time::timeout(COMPLETION_TIMEOUT, self.ask_names(wanted, word, keyspace)).await;
        // No names are no failure: the line can be typed all the same.
        asked.map(Result::unwrap_or_default).unwrap_or_default()
    }

    async fn ask_names(&self, wanted: &Wanted, word: &str, keyspace: Option<&str>) -> Result<Vec<String>, Failure> {
        if *wanted == Wanted::Profile {
            return Ok(self.profiles.names().map(str::to_owned).collect());
        }
        let settings = Settings { keyspace: keyspace.map(str::to_owned), ..Settings::default() };
        let settings = settings.or(self.settings.clone());
        let client = self.client(&settings, TIMEOUT_DEFAULT, false).await?.with_timeout(COMPLETION_TIMEOUT);
        match wanted {
            Wanted::Keyspace => Ok(client.map().await?.keyspaces.into_values().map(|one| one.name).collect()),
            Wanted::Node => Ok(client.map().await?.nodes.into_values().map(|one| one.name).collect()),
            Wanted::Key => {
                let options = ScanOptions::new().keys_only().limit(COMPLETION_KEYS_MAX);
                let page = client.scan(Keys::prefix(word.to_owned()), options).next_page().await?;
                Ok(page.unwrap_or_default().iter().filter_map(|record| typeable(&record.key)).collect())
            }
            Wanted::Profile | Wanted::Anything | Wanted::These(_) => Ok(Vec::new()),
        }
    }
}

/// A key that can be shown and typed: a stranger's key must not speak to the terminal.
fn typeable(key: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(key).ok().filter(|text| text.len() <= COMPLETION_KEY_BYTES_MAX)?;
    text.chars().all(|c| !c.is_control()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Settings, prompt, typeable};

    #[test]
    fn the_prompt_says_where_lines_go() {
        let settings = |endpoints: &[&str], keyspace: Option<&str>| Settings {
            endpoints: Some(endpoints.iter().map(|one| (*one).to_owned()).collect()),
            keyspace: keyspace.map(str::to_owned),
            ..Settings::default()
        };
        assert_eq!(prompt(None, &Settings::default()), "127.0.0.1:2379/default> ");
        assert_eq!(prompt(None, &settings(&["a:1", "b:1", "c:1"], Some("events"))), "a:1+2/events> ");
        assert_eq!(prompt(Some("prod"), &settings(&["a:1"], Some("\x1b[2Jevents"))), "prod/[2Jevents> ");
    }

    #[test]
    fn only_keys_that_can_be_typed_are_offered() {
        assert_eq!(typeable("grün".as_bytes()).as_deref(), Some("grün"));
        for key in [b"\xff".as_slice(), b"a\x1b[2J", b"a\nb", &[b'x'; 300]] {
            assert_eq!(typeable(key), None);
        }
    }
}
