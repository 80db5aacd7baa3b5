//! How a command ends: an exit code, and words on standard error.

use std::io;

use tokio::io::AsyncWriteExt;

use crate::client::{Error, ErrorCode, Outcome};
use crate::env::console::Console;

/// Exit codes; `docs/kvctl.md` promises them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Exit {
    /// Done.
    Ok,
    /// A key was not found, nothing was deleted, or a transaction's compares failed.
    NotFound,
    /// A command that was run ended with this status.
    Command(u8),
    /// The command, its input or its target makes no sense.
    Usage,
    /// The cluster could not do it now; nothing was changed.
    Unavailable,
    /// The caller may not do it.
    Denied,
    /// A node is unhealthy, or data is damaged.
    Unhealthy,
    /// A write may or may not have taken effect.
    Unknown,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::NotFound => 1,
            Self::Command(status) => status,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Denied => 4,
            Self::Unhealthy => 5,
            Self::Unknown => 6,
            Self::Interrupted => 130,
        }
    }
}

/// Hint where only the help of the command helps; [`Failure::of_command`] names it.
const HELP: &str = "`kvctl help` shows what is expected";

/// Why a command did not end well. Without words it ends silently.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
}

impl Failure {
    /// Ends with a code and no words: the answer has been given.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new(), hint: String::new() }
    }

    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: hint.into() }
    }

    /// The same, where it points to the help, with the help of the command that was run.
    pub(crate) fn of_command(self, name: &str) -> Self {
        if self.hint != HELP {
            return self;
        }
        Self { hint: format!("`kvctl help {name}` shows what is expected"), ..self }
    }

    /// Says it on standard error and returns the exit code.
    pub(crate) async fn tell(self, console: &mut Console) -> Exit {
        if !self.message.is_empty() {
            let mut words = format!("error: {}\n", self.message);
            if !self.hint.is_empty() {
                words.push_str(&format!("hint: {}\n", self.hint));
            }
            // When even this fails there is nobody left to tell; the exit code remains.
            console.stderr.write_all(words.as_bytes()).await.ok();
        }
        console.stderr.flush().await.ok();
        self.exit
    }

    /// The same with where it happened.
    pub(crate) fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever read our output has seen enough.
            return Self::silent(Exit::Ok);
        }
        Self::usage(error.to_string(), "check the file and the streams that the command was given")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = exit_of(&error);
        let hint = hint_of(&error);
        Self { exit, message: error.message, hint: hint.to_owned() }
    }
}

fn exit_of(error: &Error) -> Exit {
    match (error.outcome, error.code) {
        (Outcome::Unknown, _) => Exit::Unknown,
        _ if error.denied => Exit::Denied,
        (_, ErrorCode::Corrupt | ErrorCode::Internal | ErrorCode::Unspecified) | (Outcome::Applied, _) => {
            Exit::Unhealthy
        }
        _ if error.is_unavailable() => Exit::Unavailable,
        _ => Exit::Usage,
    }
}

fn hint_of(error: &Error) -> &'static str {
    if error.outcome == Outcome::Unknown {
        return "the write may or may not take effect: read the key before you send it again";
    }
    if error.outcome == Outcome::Applied {
        return "the write took effect, only its answer was lost: read the key to see it";
    }
    if error.denied {
        return "ask an administrator of the cluster for the right to do this";
    }
    if error.untrusted {
        return "check --tls-ca, --tls-cert and --tls-key here and the node's own files; docs/kvctl.md says what each means";
    }
    match error.code {
        ErrorCode::LimitExceeded => "make the request smaller; docs/limits.md lists every limit",
        ErrorCode::KeyspaceNotFound => "name an existing keyspace with --keyspace, or leave it out for `default`",
        ErrorCode::CrossShard => {
            "use a keyspace of one shard, or split the request so that each part stays within one shard"
        }
        // The message says what is taken, and by whom.
        ErrorCode::AlreadyExists | ErrorCode::LeaseNotFound | ErrorCode::KeyNotFound => "",
        ErrorCode::Compacted => "read at a newer revision, or leave --rev out",
        ErrorCode::FutureRevision => "read at an older revision, or leave --rev out",
        ErrorCode::NodeNotFound => "`kvctl member list` and `kvctl shard list` show the nodes and their replicas",
        ErrorCode::NoLeader => {
            "a shard elects a leader within seconds; if this lasts, `kvctl endpoint health` shows why"
        }
        ErrorCode::TooStale => {
            "raise --max-stale, or read with --read linearizable; without a leader only a replica that has served stale \
             reads before can prove how new it is"
        }
        ErrorCode::Overloaded => "send less at a time, or try again later",
        ErrorCode::DiskFull => "free space on the node's disk; deletes and reads still work",
        ErrorCode::Timeout | ErrorCode::Unavailable => {
            "check --endpoints and that kvd runs there (`kvctl endpoint health`), or raise --timeout"
        }
        ErrorCode::SessionNotFound | ErrorCode::SessionSequence | ErrorCode::WrongShard | ErrorCode::PageToken => {
            "nothing was changed: run the command again"
        }
        ErrorCode::Corrupt => "the node repairs itself from its peers; `kvctl endpoint status` shows its state",
        ErrorCode::Internal | ErrorCode::Unspecified => "the server's log says more; please report it",
        ErrorCode::InvalidArgument | ErrorCode::DuplicateKey => HELP,
    }
}

#[cfg(test)]
mod tests {
    use super::{Exit, Failure, hint_of};
    use crate::client::{Error, ErrorCode, Outcome};

    #[test]
    fn an_unknown_outcome_beats_every_other_code() {
        let base = Error {
            outcome: Outcome::NotApplied,
            code: ErrorCode::NoLeader,
            message: "m".into(),
            detail: Box::default(),
            denied: false,
            untrusted: false,
        };
        let exit = |error: Error| Failure::from(error).exit;
        assert_eq!(exit(base.clone()), Exit::Unavailable);
        assert_eq!(exit(Error { outcome: Outcome::Unknown, ..base.clone() }), Exit::Unknown);
        assert_eq!(exit(Error { denied: true, ..base.clone() }), Exit::Denied);
        assert_eq!(exit(Error { code: ErrorCode::Corrupt, ..base.clone() }), Exit::Unhealthy);
        assert_eq!(exit(Error { code: ErrorCode::LimitExceeded, ..base.clone() }), Exit::Usage);
        assert!(!hint_of(&base).is_empty());
        let untrusted = Error { untrusted: true, code: ErrorCode::Unavailable, ..base.clone() };
        assert!(hint_of(&untrusted).contains("--tls-ca") && !hint_of(&untrusted).contains("--timeout"));
        assert_eq!(exit(untrusted), Exit::Unavailable);
    }

    #[test]
    fn help_is_offered_for_the_command_that_was_run() {
        let hint = |code| Failure::from(Error::not_applied(code, "m")).of_command("member add").hint;
        assert_eq!(hint(ErrorCode::InvalidArgument), "`kvctl help member add` shows what is expected");
        assert_eq!(hint(ErrorCode::AlreadyExists), "");
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(failure, Failure::silent(Exit::Ok));
    }
}
