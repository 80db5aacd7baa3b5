//! The arguments of `watch`.

use std::ffi::OsString;

use clap::Args;

pub(crate) const HELP: &str =
    "One line for each change: PUT, KEY and VALUE, or DELETE and KEY, with tabulators between. The watch goes on over
new leaders, restarts and broken connections, shows every change once, and ends with Ctrl-C (exit code 130).

With a COMMAND nothing is printed: it runs for one change after the other, with the variables KVCTL_WATCH_REVISION,
KVCTL_WATCH_EVENT_TYPE (PUT or DELETE), KVCTL_WATCH_KEY and KVCTL_WATCH_VALUE, and gets the change as a line of JSON
on its standard input. If it fails, the watch ends with its exit status.

Examples:
  kvctl watch greeting
  kvctl watch --prefix config/ -w json
  kvctl watch --prefix config/ --rev 42 --prev
  kvctl watch --from a --to b
  kvctl watch greeting -- sh -c 'echo \"now $KVCTL_WATCH_VALUE\"'";

/// `watch`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("watched").required(true).multiple(true).args(["key", "from", "to"]))]
pub struct WatchArgs {
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
    /// From this revision on, of the past or the future [default: what is still to come].
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub rev: u64,
    /// Shows what a change took the place of, too.
    #[arg(long)]
    pub prev: bool,
    /// Runs this for each change.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
