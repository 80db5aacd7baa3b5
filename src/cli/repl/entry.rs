//! What a line of the REPL asks for: the command line's own definition, with a few commands more.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, Command, FromArgMatches};

use crate::cli::args::Cli;
use crate::cli::command_line;

/// A line that was understood.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A command of kvctl.
    Run(Box<Cli>),
    /// Works on another keyspace from here on.
    Use(String),
    /// Ends the REPL.
    Exit,
}

/// The definition of a line. Variables do not count here: they were read at the start, and what was
/// said on the command line then goes before them.
pub(crate) fn definition() -> Command {
    command_line::definition()
        .no_binary_name(true)
        .mut_args(|arg| arg.env(Resettable::Reset))
        .mut_subcommand("repl", |repl| repl.hide(true))
        .subcommand(
            Command::new("use")
                .about("Works on another keyspace from here on")
                .arg(Arg::new("keyspace_to_use").value_name("KEYSPACE").required(true).help("Its name"))
                .after_help("Examples:\n  use events"),
        )
        .subcommand(Command::new("exit").alias("quit").about("Ends; so does Ctrl-D"))
}

/// Understands the words of a line.
pub(crate) fn parse(definition: &Command, mut words: Vec<OsString>) -> Result<Entry, clap::Error> {
    // Examples are pasted as they stand in the help.
    if words.len() > 1 && words.first().is_some_and(|word| word == "kvctl") {
        words.remove(0);
    }
    let matches = definition.clone().try_get_matches_from(words)?;
    match matches.subcommand() {
        Some(("use", matches)) => {
            Ok(Entry::Use(matches.get_one::<String>("keyspace_to_use").cloned().unwrap_or_default()))
        }
        Some(("exit", _)) => Ok(Entry::Exit),
        _ => Ok(Entry::Run(Box::new(Cli::from_arg_matches(&matches)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, definition, parse};
    use crate::cli::args;

    fn entry(line: &str) -> Result<Entry, clap::Error> {
        parse(&definition(), line.split(' ').map(Into::into).collect())
    }

    #[test]
    fn lines_are_the_command_line_and_a_few_commands_more() {
        definition().debug_assert();
        let Entry::Run(cli) = entry("put a 1 -w json --keyspace k").unwrap() else { panic!("no command") };
        assert!(matches!(cli.command, args::Command::Put(_)));
        assert_eq!(cli.global.settings.keyspace.as_deref(), Some("k"));
        assert!(matches!(entry("kvctl get a").unwrap(), Entry::Run(_)));
        assert!(matches!(entry("use events").unwrap(), Entry::Use(name) if name == "events"));
        assert!(matches!(entry("exit").unwrap(), Entry::Exit));
        assert!(matches!(entry("quit").unwrap(), Entry::Exit));
    }

    #[test]
    fn help_and_mistakes_are_said_as_on_the_command_line() {
        let help = entry("help put").unwrap_err();
        assert!(!help.use_stderr() && help.to_string().contains("--ttl"), "{help}");
        let help = entry("help").unwrap_err().to_string();
        assert!(help.contains("use") && help.contains("scan") && !help.contains("repl  "), "{help}");
        assert!(entry("--help").is_err_and(|help| !help.use_stderr()));
        let mistake = entry("gte a").unwrap_err();
        assert!(mistake.use_stderr() && mistake.to_string().contains("gte"), "{mistake}");
        assert!(entry("kvctl").is_err() && entry("--keyspace k").is_err() && entry("use").is_err());
    }
}
