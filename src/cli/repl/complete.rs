//! What may follow in a line: candidates for the word at the cursor, and the usage of the command
//! being typed. Pure: what only the cluster knows is named here and looked up elsewhere.

use clap::{Arg, Command};

use super::words::{Tail, lex, quote};

/// Longest usage shown behind the cursor: `help` could be followed by every command.
const USAGE_BYTES_MAX: usize = 60;

/// What the word at the cursor may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// Anything: nothing can be offered.
    Anything,
    /// One of these.
    These(Vec<String>),
    /// The name of a keyspace.
    Keyspace,
    /// The name of a node.
    Node,
    /// A key, or the beginning of keys.
    Key,
    /// The name of a profile.
    Profile,
}

/// The word at the cursor.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    /// Where it begins in the line, quotes included.
    pub(crate) start: usize,
    /// What it says so far, without quotes.
    pub(crate) word: String,
    pub(crate) wanted: Wanted,
    /// The keyspace that the line names by an option.
    pub(crate) keyspace: Option<String>,
}

/// Finds out what the word at the end of `line` may be. `definition` must be built.
pub(crate) fn spot(definition: &Command, line: &str) -> Spot {
    let lexed = lex(line.as_bytes());
    let mut words = lexed.commands.into_iter().next_back().unwrap_or_default();
    let current = match lexed.tail {
        Tail::Comment => {
            let nothing = Wanted::Anything;
            return Spot { start: line.len(), word: String::new(), wanted: nothing, keyspace: None };
        }
        Tail::Between => None,
        Tail::Word | Tail::Open(_) => words.pop(),
    };
    let walk = Walk::over(definition, words.iter().map(|word| text(&word.bytes)));
    let (start, word) = current.map_or((line.len(), String::new()), |word| (word.start, text(&word.bytes)));
    let wanted = walk.wanted(&word);
    Spot { start, word, wanted, keyspace: walk.keyspace }
}

/// The candidates that fit the word, quoted as needed. A single one that is whole takes a blank.
pub(crate) fn fitting(spot: &Spot, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let fits = |name: &String| name.starts_with(&spot.word) && (spot.word.starts_with('-') || !is_option(spot, name));
    let mut fitting: Vec<_> = names.into_iter().filter(fits).map(|name| quote(&name)).collect();
    fitting.sort();
    fitting.dedup();
    if let [one] = fitting.as_mut_slice()
        && spot.wanted != Wanted::Key
    {
        one.push(' ');
    }
    fitting
}

/// A name from the cluster that would be read as an option.
fn is_option(spot: &Spot, name: &str) -> bool {
    !matches!(spot.wanted, Wanted::These(_)) && name.starts_with('-')
}

/// What the command at the end of `line` still takes, for a line that ends between words.
pub(crate) fn usage(definition: &Command, line: &str) -> Option<String> {
    let lexed = lex(line.as_bytes());
    let words = lexed.commands.last().filter(|words| lexed.tail == Tail::Between && !words.is_empty())?;
    let walk = Walk::over(definition, words.iter().map(|word| text(&word.bytes)));
    let parts: Vec<_> = if let Some(option) = walk.awaits {
        vec![value_name(option)]
    } else if walk.positionals == 0 && walk.command.has_subcommands() {
        vec![subcommands(walk.command).filter(|name| *name != "help").collect::<Vec<_>>().join(" | ")]
    } else {
        walk.command.get_positionals().skip(walk.positionals).map(placeholder).collect()
    };
    Some(parts.join(" ")).filter(|usage| !usage.is_empty() && usage.len() <= USAGE_BYTES_MAX)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value_name(arg: &Arg) -> String {
    let given = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    given.unwrap_or_else(|| arg.get_id().as_str().to_uppercase())
}

fn placeholder(arg: &Arg) -> String {
    let name = value_name(arg);
    if arg.is_required_set() { name } else { format!("[{name}]") }
}

fn subcommands(command: &Command) -> impl Iterator<Item = &str> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(Command::get_name)
}

/// The place in the definition that the words before the cursor lead to.
struct Walk<'d> {
    command: &'d Command,
    /// Positional arguments that were given.
    positionals: usize,
    /// The option whose value comes next.
    awaits: Option<&'d Arg>,
    /// After `--`.
    options_ended: bool,
    keyspace: Option<String>,
}

impl<'d> Walk<'d> {
    fn over(definition: &'d Command, words: impl Iterator<Item = String>) -> Self {
        let mut walk = Self { command: definition, positionals: 0, awaits: None, options_ended: false, keyspace: None };
        let mut words = words.peekable();
        words.next_if(|word| word == "kvctl");
        words.for_each(|word| walk.take(&word));
        walk
    }

    fn take(&mut self, word: &str) {
        if let Some(option) = self.awaits.take() {
            if option.get_id() == "keyspace" {
                self.keyspace = Some(word.to_owned());
            }
            return;
        }
        let is_option = word.len() > 1 && word.starts_with('-') && !self.options_ended;
        if is_option {
            self.options_ended = word == "--";
            self.awaits = self.option(word).filter(|arg| arg.get_action().takes_values());
        } else if let Some(sub) = self.command.find_subcommand(word).filter(|_| self.positionals == 0) {
            self.command = sub;
        } else {
            self.positionals += 1;
        }
    }

    /// The option that `word` names, when its value is not in the same word.
    fn option(&self, word: &str) -> Option<&'d Arg> {
        let named = |arg: &&Arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => word.chars().nth(1) == arg.get_short() && word.chars().count() == 2,
        };
        self.command.get_arguments().filter(|arg| !arg.is_positional()).find(named)
    }

    fn wanted(&self, word: &str) -> Wanted {
        if let Some(option) = self.awaits {
            return self.value(option);
        }
        if word.starts_with('-') && !self.options_ended {
            let options = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            return Wanted::These(options.filter_map(Arg::get_long).map(|long| format!("--{long}")).collect());
        }
        if self.positionals == 0 && self.command.has_subcommands() {
            return Wanted::These(subcommands(self.command).map(str::to_owned).collect());
        }
        match self.command.get_positionals().nth(self.positionals) {
            Some(argument) => self.value(argument),
            None => Wanted::Anything,
        }
    }

    fn value(&self, arg: &Arg) -> Wanted {
        let possible = arg.get_possible_values();
        if !possible.is_empty() {
            return Wanted::These(possible.iter().map(|value| value.get_name().to_owned()).collect());
        }
        match (arg.get_id().as_str(), self.command.get_name()) {
            ("key" | "prefix" | "from" | "to", _) => Wanted::Key,
            ("keyspace" | "keyspace_to_use", _) | ("name", "describe" | "drop") => Wanted::Keyspace,
            ("node", _) => Wanted::Node,
            ("profile", _) => Wanted::Profile,
            _ => Wanted::Anything,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, fitting, spot, usage};
    use crate::cli::repl::entry;

    fn definition() -> clap::Command {
        let mut definition = entry::definition();
        definition.build();
        definition
    }

    fn offered(line: &str, known: &[&str]) -> Vec<String> {
        let spot = spot(&definition(), line);
        match &spot.wanted {
            Wanted::These(words) => fitting(&spot, words.clone()),
            Wanted::Anything | Wanted::Keyspace | Wanted::Node | Wanted::Key | Wanted::Profile => {
                fitting(&spot, known.iter().map(|name| (*name).to_owned()))
            }
        }
    }

    #[test]
    fn commands_and_options_are_offered_where_they_may_stand() {
        assert_eq!(offered("sc", &[]), ["scan "]);
        assert_eq!(offered("-w json ex", &[]), ["exit", "export"]);
        assert_eq!(offered("keyspace d", &[]), ["describe", "drop"]);
        assert_eq!(offered("get --pre", &[]), ["--prefix "]);
        assert_eq!(offered("get a --keys", &[]), ["--keys-only", "--keyspace"]);
        assert_eq!(offered("shard list -w ta", &[]), ["table "]);
        assert_eq!(offered("export --format ", &[]), ["json", "tsv"]);
        assert_eq!(offered("help sh", &[]), ["shard "]);
        assert_eq!(offered("us", &[]), ["use "]);
        assert_eq!(offered("rep", &[]), Vec::<String>::new());
        assert_eq!(offered("kvctl ve", &[]), ["version "]);
        assert_eq!(offered("get a # sc", &[]), Vec::<String>::new());
        assert_eq!(offered("put a 1\nsc", &[]), ["scan "]);
    }

    #[test]
    fn names_are_asked_for_where_the_cluster_knows_them() {
        let wanted = |line: &str| spot(&definition(), line).wanted;
        for line in ["get ", "get us", "put ", "del --prefix a", "scan --prefix ", "count --from x", "get -- -"] {
            assert_eq!(wanted(line), Wanted::Key, "{line}");
        }
        for line in ["use ", "get a --keyspace e", "keyspace describe ", "keyspace drop --yes "] {
            assert_eq!(wanted(line), Wanted::Keyspace, "{line}");
        }
        assert_eq!(wanted("shard move-leader 2 "), Wanted::Node);
        assert_eq!(wanted("get a --profile "), Wanted::Profile);
        assert_eq!(spot(&definition(), "get --keyspace k ").keyspace.as_deref(), Some("k"));
        for line in ["put a ", "keyspace create ", "get a --limit ", "get a b", "import "] {
            assert_eq!(wanted(line), Wanted::Anything, "{line}");
        }
    }

    #[test]
    fn candidates_are_quoted_and_replace_the_whole_word() {
        let keys = ["user/1", "user/it's", "--odd", "two words"];
        assert_eq!(offered("get user/", &keys), ["'user/it'\\''s'", "user/1"]);
        assert_eq!(offered("get 'two", &keys), ["'two words'"]);
        assert_eq!(spot(&definition(), "get 'two").start, 4);
        assert_eq!(offered("get ", &keys).len(), 3, "what reads as an option is not offered");
        assert_eq!(offered("use ev", &["events"]), ["events "]);
    }

    #[test]
    fn the_usage_says_what_is_still_to_come() {
        let usage = |line: &str| usage(&definition(), line);
        assert_eq!(usage("put ").as_deref(), Some("KEY VALUE"));
        assert_eq!(usage("put a ").as_deref(), Some("VALUE"));
        assert_eq!(usage("import ").as_deref(), Some("[FILE]"));
        assert_eq!(usage("put a 1 --ttl ").as_deref(), Some("TTL"));
        assert_eq!(usage("operation ").as_deref(), Some("list | cancel"));
        assert_eq!(usage("use ").as_deref(), Some("KEYSPACE"));
        for line in ["", "put", "put a", "put a 1 ", "scan ", "nonsense x ", "help "] {
            assert_eq!(usage(line), None, "{line}");
        }
    }
}
