//! The command line.

mod contest;
mod etcd;
mod lease;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

pub use self::contest::{ElectArgs, LockArgs};
pub use self::etcd::{EtcdArgs, Leases};
pub use self::lease::{LeaseArgs, LeaseCommand};
pub use self::watch::WatchArgs;
use super::settings::Settings;

/// Talks to a Quorate cluster.
#[derive(Parser, Debug)]
#[command(
    name = "kvctl",
    version,
    about = "Talks to a Quorate cluster",
    after_help = "Without a command on a terminal, kvctl reads commands line by line: see `kvctl help repl`.\n\nExamples:\n  kvctl put greeting hello\n  kvctl get greeting\n  kvctl --endpoints 10.0.0.1:2379,10.0.0.2:2379 endpoint health\n  kvctl --endpoints db.example.org --tls-ca ca.pem get greeting\n  kvctl --profile prod member list\n  kvctl\n\nExit codes: 0 ok, 1 not found or compare failed, 2 usage, 3 unavailable, 4 denied,\n5 unhealthy, 6 outcome unknown, 130 interrupted; those of the command that watch and lock run.",
    disable_help_subcommand = false,
    propagate_version = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Clone, Default)]
pub struct Global {
    /// Profile whose settings hold where no option and no variable says otherwise.
    #[arg(long, env = "QUORATE_PROFILE", value_name = "NAME", global = true)]
    pub profile: Option<String>,
    /// File with the profiles [default: ~/.config/quorate/kvctl.toml]
    #[arg(long, env = "QUORATE_PROFILES", value_name = "FILE", global = true)]
    pub profiles: Option<PathBuf>,
    /// What a profile may hold, too.
    #[command(flatten)]
    pub settings: Settings,
}

/// Who serves reads.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum ReadFrom {
    /// The leader: shows every write acknowledged before.
    Linearizable,
    /// The nearest replica, as new as the leader.
    Follower,
    /// The nearest replica at once, if it can prove that it is not older than --max-stale.
    Stale,
}

/// How results are printed.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people and shells.
    #[default]
    Simple,
    /// Aligned columns with a header.
    Table,
    /// Stable and documented, for programs.
    Json,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Prints the value of a key.
    #[command(
        after_help = "Examples:\n  kvctl get greeting\n  kvctl get --prefix user/ --limit 10\n  kvctl get greeting --rev 42 -w json\n  kvctl get greeting --read follower --zone a\n  kvctl get greeting --max-stale 5s"
    )]
    Get(GetArgs),
    /// Writes a key.
    #[command(
        after_help = "Examples:\n  kvctl put greeting hello\n  kvctl put session/9 active --ttl 30s\n  kvctl put node/3 up --lease 17\n  kvctl put photo - < photo.jpg"
    )]
    Put(PutArgs),
    /// Deletes keys and prints how many.
    #[command(
        after_help = "In a keyspace of many shards, a range is deleted piece by piece: others may see a part of it gone, and\nan interruption leaves the rest. In a keyspace of one shard it goes in one step.\n\nExamples:\n  kvctl del greeting\n  kvctl del --prefix user/\n  kvctl del --from a --to b"
    )]
    Del(DelArgs),
    /// Prints keys and values in key order.
    #[command(
        after_help = "Examples:\n  kvctl scan\n  kvctl scan --prefix user/ --keys-only\n  kvctl scan --from a --to b --reverse --limit 5\n  kvctl scan --prefix user/ --read follower"
    )]
    Scan(ScanArgs),
    /// Prints how many keys there are.
    #[command(after_help = "Examples:\n  kvctl count\n  kvctl count --prefix user/\n  kvctl count --max-stale 5s")]
    Count(RangeArgs),
    /// Shows changes of keys as they come, or runs a command for each.
    #[command(after_help = watch::HELP)]
    Watch(WatchArgs),
    /// Carries out a transaction read from a file or standard input.
    #[command(after_help = TXN_HELP)]
    Txn(InputArgs),
    /// Carries out puts and deletes in one step per shard; at most 128, no key twice.
    #[command(
        after_help = "Lines are `put KEY VALUE` and `del KEY` (with quotes where needed), or JSON:\n  {\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n  {\"op\":\"delete\",\"key\":\"b\"}\n\nExamples:\n  printf 'put a 1\\ndel b\\n' | kvctl batch\n  kvctl batch changes.txt"
    )]
    Batch(InputArgs),
    /// Writes the records of a file or of standard input, each exactly once.
    #[command(
        after_help = "Reads JSON lines {\"key\":…,\"value\":…} (key_base64 and value_base64 for bytes that are no text)\nor lines KEY<TAB>VALUE.\n\nWith --from-etcd, reads all keys of an etcd as of one revision instead. Each is written with its value alone; what\nbecomes of those with a lease says --leases. Records that are too large are named, and the exit code is 2.\n\nExamples:\n  kvctl import backup.json\n  kvctl import --from-etcd 10.0.0.9:2379 --prefix config/\n  dpkg-query -W -f='${Package}\\t${Version}\\n' | kvctl import"
    )]
    Import(ImportArgs),
    /// Writes all records in the form that import reads, each shard's as of one revision.
    #[command(
        after_help = "A keyspace of one shard is written as it was at one moment; one of many, shard by shard as each was\nwhen the export began, not all at the same moment.\n\nExamples:\n  kvctl export backup.json\n  kvctl export --prefix user/ > users.json\n  kvctl export --format tsv | wc -l"
    )]
    Export(ExportArgs),
    /// Grants leases, keeps them alive, ends and shows them.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Holds a lock until it is interrupted, or while a command runs.
    #[command(after_help = contest::LOCK_HELP)]
    Lock(LockArgs),
    /// Takes part in an election, or shows who leads.
    #[command(after_help = contest::ELECT_HELP)]
    Elect(ElectArgs),
    /// Forgets what only revisions before one could show.
    #[command(
        after_help = "Reads and watches of older revisions are refused from then on; the space comes back soon after, or has come\nback with --wait. `kvctl put -w json` and `kvctl get -w json` show revisions.\n\nExamples:\n  kvctl compact 4711\n  kvctl compact 4711 --wait\n  kvctl compact 4711 --shard 7 --keyspace events"
    )]
    Compact(CompactArgs),
    /// Makes, shows and drops keyspaces.
    #[command(subcommand)]
    Keyspace(KeyspaceCommand),
    /// Shows shards, moves their leaders and replicas.
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Shows the members of the cluster, announces new ones, takes some out.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Shows and cancels the operations that move replicas.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Asks nodes how they are.
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Shows the profiles and what holds.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Reads commands line by line: from a terminal with history and completion, or from a pipe.
    #[command(after_help = REPL_HELP)]
    Repl,
    /// Prints a completion script for a shell.
    #[command(
        after_help = "Examples:\n  kvctl completion bash > /etc/bash_completion.d/kvctl\n  kvctl completion zsh > ~/.zfunc/_kvctl"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the version.
    #[command(after_help = "Examples:\n  kvctl version\n  kvctl version -w json")]
    Version,
}

const REPL_HELP: &str =
    "Lines are commands without `kvctl`, in words as a shell splits them: quotes, backslashes, and # before a
comment. Options given here hold for every line, unless the line says otherwise. Further commands:
  use KEYSPACE   works on another keyspace from here on
  exit, quit     ends; so does Ctrl-D

Tab completes commands, options, keyspaces, nodes and keys; the right arrow takes a suggestion; Ctrl-C
interrupts the running command. A line that begins with a space is not kept in the history.
Where a command reads standard input, it gets the lines that follow, up to one that is only a dot.

From a pipe every line is carried out, and the exit code is the worst of all lines.

Examples:
  kvctl
  kvctl --profile prod --keyspace events
  printf 'put a 1\\nget a\\n' | kvctl repl";

const TXN_HELP: &str = "Three parts, separated by empty lines: compares, operations if all hold, operations if not.
  value(\"lock\") = \"me\"        value, version, create, mod, lease, exists; = != > <

  put lock you                 put KEY VALUE, get KEY, del KEY (--prefix)

  get lock
Or as JSON:
  {\"compares\":[{\"key\":\"lock\",\"relation\":\"=\",\"exists\":false}],
   \"success\":[{\"put\":{\"key\":\"lock\",\"value\":\"me\"}}],\"failure\":[{\"get\":{\"key\":\"lock\"}}]}

Exit code 1 when a compare failed.

Examples:
  printf 'version(\"a\") = 0\\n\\nput a 1\\n\\nget a\\n' | kvctl txn
  kvctl txn change.json";

/// Which part of the keys.
#[derive(Args, Debug, Clone, Default)]
pub struct RangeArgs {
    /// Only keys that begin with this.
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Only keys from here on, inclusive.
    #[arg(long)]
    pub from: Option<OsString>,
    /// Only keys before this.
    #[arg(long)]
    pub to: Option<OsString>,
}

/// How to list records.
#[derive(Args, Debug, Clone, Default)]
pub struct ListArgs {
    /// At most so many records.
    #[arg(long)]
    pub limit: Option<u64>,
    /// From the end to the start.
    #[arg(long)]
    pub reverse: bool,
    /// Without values.
    #[arg(long)]
    pub keys_only: bool,
    /// At a revision of the past.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub rev: u64,
}

/// `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The key, or with --prefix what keys begin with.
    pub key: OsString,
    /// All keys that begin with KEY.
    #[arg(long)]
    pub prefix: bool,
    /// How to list records.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `put`.
#[derive(Args, Debug)]
pub struct PutArgs {
    /// The key.
    pub key: OsString,
    /// The value; - reads it from standard input, byte for byte.
    #[arg(allow_hyphen_values = true)]
    pub value: OsString,
    /// Lets the key expire: 30s, 5m, 12h.
    #[arg(long, value_parser = duration)]
    pub ttl: Option<Duration>,
    /// Attaches the key to a lease, with which it goes.
    #[arg(long, value_name = "ID", value_parser = lease::lease_id, conflicts_with = "ttl")]
    pub lease: Option<u64>,
    /// Prints the value that was replaced, too.
    #[arg(long)]
    pub prev: bool,
}

/// `del`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["key", "from", "to"]))]
pub struct DelArgs {
    /// The key, or with --prefix what keys begin with.
    #[arg(conflicts_with_all = ["from", "to"])]
    pub key: Option<OsString>,
    /// All keys that begin with KEY.
    #[arg(long, requires = "key")]
    pub prefix: bool,
    /// All keys from here on, inclusive.
    #[arg(long)]
    pub from: Option<OsString>,
    /// All keys before this.
    #[arg(long)]
    pub to: Option<OsString>,
}

/// `scan`.
#[derive(Args, Debug)]
pub struct ScanArgs {
    /// Which keys.
    #[command(flatten)]
    pub range: RangeArgs,
    /// How to list them.
    #[command(flatten)]
    pub list: ListArgs,
}

/// A file or standard input.
#[derive(Args, Debug)]
pub struct InputArgs {
    /// The file; - or nothing is standard input.
    pub file: Option<PathBuf>,
}

/// How a record is written on a line.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineFormat {
    /// One JSON object a line; takes every key and value.
    Json,
    /// KEY, a tabulator, VALUE, verbatim.
    Tsv,
}

/// `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The file; - or nothing is standard input.
    pub file: Option<PathBuf>,
    /// Form of the lines; found out by the first line if not given.
    #[arg(long, value_enum)]
    pub format: Option<LineFormat>,
    /// Counts lines that make no sense instead of stopping at the first; with --from-etcd accepts that records
    /// which are too large are left out.
    #[arg(long)]
    pub skip_invalid: bool,
    /// Another source than a file.
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// `compact`.
#[derive(Args, Debug)]
pub struct CompactArgs {
    /// The oldest revision that can still be read then.
    #[arg(value_name = "REV", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: u64,
    /// The shard, 2 or g2, where the keyspace has several.
    #[arg(long)]
    pub shard: Option<String>,
    /// Returns only when all of it is forgotten.
    #[arg(long)]
    pub wait: bool,
}

/// `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The file, which appears when it is complete; - or nothing is standard output.
    pub file: Option<PathBuf>,
    /// Form of the lines.
    #[arg(long, value_enum, default_value_t = LineFormat::Json)]
    pub format: LineFormat,
    /// Which keys.
    #[command(flatten)]
    pub range: RangeArgs,
    /// At a revision of the past.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub rev: u64,
}

/// `keyspace`.
#[derive(Subcommand, Debug)]
pub enum KeyspaceCommand {
    /// Makes a keyspace: of one shard, or of many with --hash or --range.
    #[command(
        after_help = "A keyspace of one shard has one order of writes, and transactions over all its keys. One of many\nshards grows with the nodes: by --hash keys are spread evenly, by --range each shard holds the keys\nbetween two split keys, in order. Atomic is then what stays within one shard.\n\nExamples:\n  kvctl keyspace create settings\n  kvctl keyspace create events --hash 16\n  kvctl keyspace create users --range g,n,t\n  kvctl keyspace create cache --hash 4 --replicas 1"
    )]
    Create(KeyspaceCreateArgs),
    /// Lists the keyspaces.
    #[command(after_help = "Examples:\n  kvctl keyspace list\n  kvctl keyspace list -w table")]
    List,
    /// Shows a keyspace and its shards.
    #[command(after_help = "Examples:\n  kvctl keyspace describe events -w table")]
    Describe {
        /// Its name.
        name: String,
    },
    /// Changes what a keyspace keeps of its history.
    #[command(
        after_help = "History is what watches from the past and reads of earlier revisions need. With --history and\n--history-age, what either keeps is kept; with neither, all until `kvctl compact`.\n\nExamples:\n  kvctl keyspace set default --history-age 1h\n  kvctl keyspace set events --history 10000\n  kvctl keyspace set events --history all --history-age all"
    )]
    Set(KeyspaceSetArgs),
    /// Drops a keyspace with all its keys, for good.
    #[command(after_help = "Examples:\n  kvctl keyspace drop events --yes")]
    Drop {
        /// Its name.
        name: String,
        /// Does it without asking.
        #[arg(long)]
        yes: bool,
    },
}

/// `keyspace create`.
#[derive(Args, Debug)]
pub struct KeyspaceCreateArgs {
    /// 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
    pub name: String,
    /// Spreads keys over so many shards by their hash.
    #[arg(long, value_name = "SHARDS", conflicts_with = "range")]
    pub hash: Option<u32>,
    /// Cuts the key order at these keys, separated by commas; a split key that holds a comma needs
    /// --split instead.
    #[arg(long, value_name = "KEY,KEY,…", value_delimiter = ',', num_args = 0..)]
    pub range: Option<Vec<OsString>>,
    /// Cuts the key order at this key, too; may be given often.
    #[arg(long, value_name = "KEY", conflicts_with = "hash")]
    pub split: Vec<OsString>,
    /// Replicas of each shard [default: 3; where there are fewer nodes, the others are made when nodes join]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub replicas: u32,
    /// Newest revisions whose history is kept [default: all until compacted]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub history: u64,
    /// How long history is kept at least: 90s, 5m, 12h, 7d [default: until compacted]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub history_age: Option<Duration>,
}

/// `keyspace set`.
#[derive(Args, Debug)]
pub struct KeyspaceSetArgs {
    /// Its name.
    pub name: String,
    /// Newest revisions whose history is kept, or `all` to set no number.
    #[arg(long, value_name = "N", value_parser = revisions_kept, required_unless_present = "history_age")]
    pub history: Option<u64>,
    /// How long history is kept at least (90s, 5m, 12h, 7d), or `all` to set no time.
    #[arg(long, value_name = "TIME", value_parser = time_kept)]
    pub history_age: Option<Duration>,
}

/// `shard`.
#[derive(Subcommand, Debug)]
pub enum ShardCommand {
    /// Lists the shards of all keyspaces.
    #[command(after_help = "Examples:\n  kvctl shard list\n  kvctl shard list -w table")]
    List,
    /// Hands the leadership of a shard to another node.
    #[command(after_help = "Examples:\n  kvctl shard move-leader 2 n3")]
    MoveLeader {
        /// The shard's id: 2 or g2.
        shard: String,
        /// The node's name, or its id as a bare number.
        node: String,
    },
    /// Makes a replica of a shard on another node, and waits until it votes.
    #[command(
        after_help = "Examples:\n  kvctl shard add-replica 2 n4\n  kvctl shard add-replica 2 n4 --instead-of n1\n  kvctl shard add-replica 2 n4 --no-wait"
    )]
    AddReplica {
        /// The shard's id: 2 or g2.
        shard: String,
        /// The node's name, or its id as a bare number.
        node: String,
        /// Takes the replica on this node away in the same step.
        #[arg(long, value_name = "NODE")]
        instead_of: Option<String>,
        /// Returns as soon as the operation is on record.
        #[arg(long)]
        no_wait: bool,
    },
    /// Takes a replica of a shard away, and waits until it is gone.
    #[command(after_help = "Examples:\n  kvctl shard remove-replica 2 n4")]
    RemoveReplica {
        /// The shard's id: 2 or g2.
        shard: String,
        /// The node's name, or its id as a bare number.
        node: String,
        /// Returns as soon as the operation is on record.
        #[arg(long)]
        no_wait: bool,
    },
}

/// `operation`.
#[derive(Subcommand, Debug)]
pub enum OperationCommand {
    /// Lists the operations that run, and how far they are.
    #[command(after_help = "Examples:\n  kvctl operation list\n  kvctl operation list -w table")]
    List,
    /// Has an operation undone, unless its new replica votes already.
    #[command(after_help = "Examples:\n  kvctl operation cancel 7")]
    Cancel {
        /// The operation's id.
        id: u64,
    },
}

/// `member`.
#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// Lists the members.
    #[command(after_help = "Examples:\n  kvctl member list -w table")]
    List,
    /// Announces a node: its name is taken, and it gets replicas once it has joined.
    #[command(
        after_help = "Nothing has to be announced: `kvd --join` adds a node by itself.\n\nExamples:\n  kvctl member add n4 10.0.0.4:2380"
    )]
    Add {
        /// The node's name.
        name: String,
        /// Where its peers will reach it.
        #[arg(value_name = "HOST:PORT")]
        peer_address: String,
    },
    /// Takes a node out: makes its replicas again elsewhere, and waits until it is gone.
    #[command(
        after_help = "The node may be dead. To give its place to a new one, start that with `kvd --join HOST:PORT\n--replace NAME` instead. When this is interrupted, the removal goes on by itself.\n\nExamples:\n  kvctl member remove n3\n  kvctl member remove n3 --no-wait"
    )]
    Remove {
        /// The node's name, or its id as a bare number.
        node: String,
        /// Returns as soon as the removal is on record.
        #[arg(long)]
        no_wait: bool,
    },
}

/// `profile`.
#[derive(Subcommand, Debug)]
pub enum ProfileCommand {
    /// Lists the profiles of the file.
    #[command(after_help = "Examples:\n  kvctl profile list\n  kvctl profile list -w table")]
    List,
    /// Shows what holds for a command: options, variables, profile and defaults taken together.
    #[command(after_help = "Examples:\n  kvctl profile show\n  kvctl --profile prod profile show -w json")]
    Show,
}

/// `endpoint`.
#[derive(Subcommand, Debug)]
pub enum EndpointCommand {
    /// Shows the state of each endpoint.
    #[command(after_help = "Examples:\n  kvctl endpoint status -w table\n  kvctl endpoint status --cluster")]
    Status(EndpointArgs),
    /// Says whether each endpoint is ready; exit code 5 if one is not.
    #[command(after_help = "Examples:\n  kvctl endpoint health\n  kvctl endpoint health --cluster")]
    Health(EndpointArgs),
}

/// Which endpoints.
#[derive(Args, Debug)]
pub struct EndpointArgs {
    /// Asks every member of the cluster, not only the given endpoints.
    #[arg(long)]
    pub cluster: bool,
}

/// Reads a number of revisions; 0 for `all`.
fn revisions_kept(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no number of revisions: write 1 or more, or all");
    if text == "all" { Ok(0) } else { text.parse().ok().filter(|number| *number > 0).ok_or_else(wrong) }
}

/// Reads a duration; zero for `all`.
fn time_kept(text: &str) -> Result<Duration, String> {
    let or_all = |wrong| format!("{wrong}; `all` sets no time");
    if text == "all" { Ok(Duration::ZERO) } else { duration(text).map_err(or_all) }
}

/// Reads `500ms`, `30s`, `5m`, `12h`, `7d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write 500ms, 30s, 5m, 12h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(0) => Err(format!("`{text}` is too short: write at least 1ms")),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(format!("`{text}` is too long")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{CommandFactory, Parser};

    use super::{Cli, Command, duration};

    #[test]
    fn the_definition_is_sound_and_every_command_shows_examples() {
        Cli::command().debug_assert();
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                if sub.has_subcommands() {
                    walk(sub);
                } else {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains("Examples:"), "{}", sub.get_name());
                }
            }
        }
        walk(&Cli::command());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        for bad in ["", "s", "0s", "-1s", "1.5s", "1y", "99999999999999999999s", "18446744073709551615d", "1é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("0s"), Err("`0s` is too short: write at least 1ms".to_owned()));
    }

    #[test]
    fn ranges_read_naturally() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(matches!(parse("kvctl del --prefix a").unwrap().command, Command::Del(del) if del.prefix));
        assert!(matches!(parse("kvctl get --prefix a").unwrap().command, Command::Get(get) if get.prefix));
        assert!(parse("kvctl del").is_err());
        assert!(parse("kvctl del a --from b").is_err());
        assert!(parse("kvctl del --from b").is_ok());
        assert!(parse("kvctl put k -").is_ok());
        assert!(parse("kvctl put k -1").is_ok());
        let endpoints = parse("kvctl get k --endpoints a,b").unwrap().global.settings.endpoints;
        assert_eq!(endpoints.unwrap(), ["a", "b"]);
    }
}
