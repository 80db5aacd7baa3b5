//! Other programs that a command-line tool runs.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::net::BoxFuture;

/// What to run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// Its name, looked for as a shell does, and its arguments.
    pub words: Vec<OsString>,
    /// Variables of its environment beside those of this process; `None` takes one away.
    pub variables: Vec<(String, Option<OsString>)>,
    /// What it reads as standard input; without it, what this process would read.
    pub input: Option<Bytes>,
}

/// Runs programs, which share the output streams of this process.
pub trait Programs: Send + Sync + 'static {
    /// Starts one. It ends when what is returned is dropped.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be started.
    fn start(&self, program: Program) -> io::Result<Box<dyn Running>>;
}

/// A program that was started.
pub trait Running: Send {
    /// Waits until it has ended. Returns its exit status, for a signal 128 and its number, as shells do.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<u8>>;
    /// Asks it to end (SIGTERM).
    fn ask_to_end(&mut self);
    /// Ends it (SIGKILL).
    fn end(&mut self);
}

/// Processes of the system.
pub struct RealPrograms;

impl Programs for RealPrograms {
    fn start(&self, program: Program) -> io::Result<Box<dyn Running>> {
        let Program { words, variables, input } = program;
        let mut words = words.into_iter();
        let name = words.next().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(name);
        command.args(words).kill_on_drop(true);
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A program that does not read is none the worse for it.
            tokio::spawn(async move { stdin.write_all(&input).await.ok() });
        }
        Ok(Box::new(Process(child)))
    }
}

struct Process(Child);

impl Running for Process {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<u8>> {
        Box::pin(async { self.0.wait().await.map(status) })
    }

    fn ask_to_end(&mut self) {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has just ended by itself needs no asking.
            kill_process(pid, Signal::TERM).ok();
        }
    }

    fn end(&mut self) {
        self.0.start_kill().ok();
    }
}

fn status(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| Some(128 + ended.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Program, Programs, RealPrograms};

    fn shell(script: &str) -> Program {
        let words = ["sh", "-c", script].map(Into::into).to_vec();
        Program { words, variables: vec![("GREETING".into(), Some("hello".into()))], input: Some("text".into()) }
    }

    #[tokio::test]
    async fn a_program_gets_its_variables_and_input_and_ends_with_its_status() {
        let run = async |script| RealPrograms.start(shell(script)).unwrap().wait().await.unwrap();
        assert_eq!(run("test \"$GREETING\" = hello && test \"$(cat)\" = text").await, 0);
        assert_eq!(run("exit 7").await, 7);
        assert_eq!(run("kill -9 $$").await, 137);
        let nothing = Program { words: vec!["/no/such/program".into()], ..Program::default() };
        assert!(RealPrograms.start(nothing).is_err());
        assert!(RealPrograms.start(Program::default()).is_err());
    }

    #[tokio::test]
    async fn a_program_can_be_asked_to_end_and_made_to() {
        let mut asked = RealPrograms.start(shell("exec sleep 100")).unwrap();
        asked.ask_to_end();
        assert_eq!(asked.wait().await.unwrap(), 143);
        asked.ask_to_end();
        let mut made = RealPrograms.start(shell("exec sleep 100")).unwrap();
        made.end();
        assert_eq!(made.wait().await.unwrap(), 137);
    }
}
