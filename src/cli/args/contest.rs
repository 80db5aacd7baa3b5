//! The arguments of `lock` and `elect`.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::duration;

pub(crate) const LOCK_HELP: &str =
    "Without a COMMAND, prints the lock's key and revision once it is held, and holds it until Ctrl-C or SIGTERM
(exit code 130). With one, runs it while the lock is held, with the variables KVCTL_LOCK_KEY, KVCTL_LOCK_REVISION and
KVCTL_LOCK_LEASE, and ends with its exit status; an interrupt asks it to end (SIGTERM, after ten seconds SIGKILL), and
the lock is released when it has.

If the lock is lost, or may be because the cluster cannot be reached for --ttl, the command is killed and the exit
code is 3. A command that starts others should take them with it, or be one itself (`exec`). Revisions of later
holders are higher: whatever the lock protects can turn away lower ones than it has seen.

etcdctl and etcd's clients take the same locks.

Examples:
  kvctl lock deploy
  kvctl lock deploy -- ./deploy.sh
  kvctl lock deploy --ttl 30s -- sh -c 'exec ./deploy --fence \"$KVCTL_LOCK_REVISION\"'";

pub(crate) const ELECT_HELP: &str = "Waits until this candidate leads, prints its key and value, and leads until Ctrl-C or SIGTERM (exit code 130). If the
leadership is lost, or may be because the cluster cannot be reached for --ttl, it ends with exit code 3.

With --listen, prints who leads, now and from then on.

etcdctl and etcd's clients take part in the same elections.

Examples:
  kvctl elect scheduler host-1
  kvctl elect scheduler --listen";

/// `lock`.
#[derive(Args, Debug)]
pub struct LockArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub lock: OsString,
    /// How long it outlives a kvctl that was killed or is cut off: 5s, 1m.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub ttl: Duration,
    /// Runs this while the lock is held.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `elect`.
#[derive(Args, Debug)]
pub struct ElectArgs {
    /// Its name.
    #[arg(value_name = "NAME")]
    pub election: OsString,
    /// What others shall know of this candidate.
    #[arg(required_unless_present = "listen", conflicts_with = "listen", allow_hyphen_values = true)]
    pub value: Option<OsString>,
    /// Shows who leads instead.
    #[arg(long)]
    pub listen: bool,
    /// How long the leadership outlives a kvctl that was killed or is cut off: 5s, 1m.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub ttl: Duration,
}
