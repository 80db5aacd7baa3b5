//! How the command line is read, and what is known of a command before it runs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use super::args::{
    Cli, Command, EndpointCommand, KeyspaceCommand, LeaseCommand, MemberCommand, OperationCommand, ProfileCommand,
    ShardCommand,
};

/// The definition of the command line. A variable that is empty counts as not set.
pub(crate) fn definition() -> clap::Command {
    Cli::command().mut_args(|arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(Resettable::Reset) } else { arg }
    })
}

/// Reads the command line. On a terminal, one without a command asks for the REPL.
///
/// # Errors
/// What clap has to say, which may also be the help that was asked for.
pub fn parse(words: impl IntoIterator<Item = OsString>, terminal: bool) -> Result<Cli, clap::Error> {
    let mut words: Vec<_> = words.into_iter().collect();
    let read = |words: &[OsString]| Cli::from_arg_matches(&definition().try_get_matches_from(words)?);
    let error = match read(&words) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let missing = [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand];
    if terminal && missing.contains(&error.kind()) {
        words.push("repl".into());
        // `kvctl keyspace` lacks a command too, but of another kind.
        if let Ok(cli @ Cli { command: Command::Repl, .. }) = read(&words) {
            return Ok(cli);
        }
    }
    Err(error)
}

impl Command {
    /// Whether it may change something, so that its end matters when nobody heard of it.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Put(_) | Self::Del(_) | Self::Txn(_) | Self::Batch(_) | Self::Import(_) | Self::Compact(_) => true,
            Self::Lease(LeaseCommand::Grant { .. } | LeaseCommand::Revoke(_)) => true,
            Self::Lease(LeaseCommand::KeepAlive { .. } | LeaseCommand::TimeToLive { .. } | LeaseCommand::List) => false,
            // They see to it themselves that nothing is left.
            Self::Lock(_) | Self::Elect(_) | Self::Watch(_) => false,
            Self::Keyspace(KeyspaceCommand::Create(_) | KeyspaceCommand::Set(_) | KeyspaceCommand::Drop { .. }) => true,
            Self::Shard(
                ShardCommand::MoveLeader { .. } | ShardCommand::AddReplica { .. } | ShardCommand::RemoveReplica { .. },
            ) => true,
            Self::Member(MemberCommand::Add { .. } | MemberCommand::Remove { .. }) => true,
            Self::Operation(OperationCommand::Cancel { .. }) => true,
            Self::Keyspace(KeyspaceCommand::List | KeyspaceCommand::Describe { .. }) => false,
            Self::Shard(ShardCommand::List) | Self::Member(MemberCommand::List) => false,
            Self::Operation(OperationCommand::List) | Self::Endpoint(_) => false,
            Self::Get(_) | Self::Scan(_) | Self::Count(_) | Self::Export(_) => false,
            Self::Profile(_) | Self::Repl | Self::Completion { .. } | Self::Version => false,
        }
    }

    /// Whether it sees to its own end once it is interrupted, however long that takes: it holds something.
    pub fn ends_by_itself(&self) -> bool {
        matches!(self, Self::Watch(_) | Self::Lock(_) | Self::Elect(_))
    }

    /// Its words, as its help is asked for.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Get(_) => "get",
            Self::Put(_) => "put",
            Self::Del(_) => "del",
            Self::Scan(_) => "scan",
            Self::Count(_) => "count",
            Self::Txn(_) => "txn",
            Self::Batch(_) => "batch",
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Watch(_) => "watch",
            Self::Lease(LeaseCommand::Grant { .. }) => "lease grant",
            Self::Lease(LeaseCommand::Revoke(_)) => "lease revoke",
            Self::Lease(LeaseCommand::KeepAlive { .. }) => "lease keep-alive",
            Self::Lease(LeaseCommand::TimeToLive { .. }) => "lease time-to-live",
            Self::Lease(LeaseCommand::List) => "lease list",
            Self::Lock(_) => "lock",
            Self::Elect(_) => "elect",
            Self::Compact(_) => "compact",
            Self::Keyspace(KeyspaceCommand::Create(_)) => "keyspace create",
            Self::Keyspace(KeyspaceCommand::List) => "keyspace list",
            Self::Keyspace(KeyspaceCommand::Describe { .. }) => "keyspace describe",
            Self::Keyspace(KeyspaceCommand::Set(_)) => "keyspace set",
            Self::Keyspace(KeyspaceCommand::Drop { .. }) => "keyspace drop",
            Self::Shard(ShardCommand::List) => "shard list",
            Self::Shard(ShardCommand::MoveLeader { .. }) => "shard move-leader",
            Self::Shard(ShardCommand::AddReplica { .. }) => "shard add-replica",
            Self::Shard(ShardCommand::RemoveReplica { .. }) => "shard remove-replica",
            Self::Member(MemberCommand::List) => "member list",
            Self::Member(MemberCommand::Add { .. }) => "member add",
            Self::Member(MemberCommand::Remove { .. }) => "member remove",
            Self::Operation(OperationCommand::List) => "operation list",
            Self::Operation(OperationCommand::Cancel { .. }) => "operation cancel",
            Self::Endpoint(EndpointCommand::Status(_)) => "endpoint status",
            Self::Endpoint(EndpointCommand::Health(_)) => "endpoint health",
            Self::Profile(ProfileCommand::List) => "profile list",
            Self::Profile(ProfileCommand::Show) => "profile show",
            Self::Repl => "repl",
            Self::Completion { .. } => "completion",
            Self::Version => "version",
        }
    }

    /// Whether it will read standard input.
    pub(crate) fn reads_stdin(&self) -> bool {
        let is_stdin = |file: &Option<PathBuf>| file.as_ref().is_none_or(|file| file.as_os_str() == "-");
        match self {
            Self::Put(put) => put.value == "-",
            Self::Txn(input) | Self::Batch(input) => is_stdin(&input.file),
            Self::Import(import) => import.etcd.from_etcd.is_empty() && is_stdin(&import.file),
            Self::Get(_) | Self::Del(_) | Self::Scan(_) | Self::Count(_) | Self::Export(_) => false,
            // A command that they run reads on by itself.
            Self::Watch(_) | Self::Lease(_) | Self::Lock(_) | Self::Elect(_) | Self::Compact(_) => false,
            Self::Keyspace(_) | Self::Shard(_) | Self::Member(_) | Self::Operation(_) | Self::Endpoint(_) => false,
            Self::Profile(_) | Self::Repl | Self::Completion { .. } | Self::Version => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Cli, Command};

    #[test]
    fn only_a_terminal_without_a_command_opens_the_repl() {
        let parse = |line: &str, terminal| super::parse(line.split(' ').map(Into::into), terminal);
        assert!(matches!(parse("kvctl", true).unwrap().command, Command::Repl));
        let cli = parse("kvctl --keyspace k", true).unwrap();
        assert!(matches!(cli.command, Command::Repl) && cli.global.settings.keyspace.as_deref() == Some("k"));
        for (line, terminal) in [("kvctl", false), ("kvctl --keyspace k", false), ("kvctl keyspace", true)] {
            assert_eq!(parse(line, terminal).unwrap_err().exit_code(), 2, "{line}");
        }
        assert!(matches!(parse("kvctl repl", false).unwrap().command, Command::Repl));
    }

    #[test]
    fn a_command_knows_the_words_that_it_was_called_with() {
        for line in [
            "get k",
            "put k v",
            "del k",
            "scan",
            "count",
            "txn",
            "batch",
            "import",
            "export",
            "keyspace create k",
            "keyspace list",
            "keyspace describe k",
            "keyspace drop k",
            "shard list",
            "shard move-leader 2 n1",
            "shard add-replica 2 n1",
            "shard remove-replica 2 n1",
            "member list",
            "member add n1 a:1",
            "member remove n1",
            "operation list",
            "operation cancel 7",
            "endpoint status",
            "endpoint health",
            "profile list",
            "profile show",
            "watch k",
            "lease grant 5s",
            "lease revoke 1",
            "lease keep-alive 1",
            "lease time-to-live 1",
            "lease list",
            "lock l",
            "elect e v",
            "compact 1",
            "repl",
            "completion bash",
            "version",
        ] {
            let cli = Cli::try_parse_from(["kvctl"].into_iter().chain(line.split(' '))).unwrap();
            let name = cli.command.name();
            assert!(line == name || line.starts_with(&format!("{name} ")), "{line}: {name}");
        }
    }

    #[test]
    fn what_reads_standard_input_is_known_beforehand() {
        let reads = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command.reads_stdin();
        for line in ["kvctl put k -", "kvctl txn", "kvctl batch -", "kvctl import"] {
            assert!(reads(line), "{line}");
        }
        for line in [
            "kvctl put k v",
            "kvctl txn file",
            "kvctl import file",
            "kvctl export -",
            "kvctl get -- -",
            "kvctl import --from-etcd a:1",
        ] {
            assert!(!reads(line), "{line}");
        }
    }
}
