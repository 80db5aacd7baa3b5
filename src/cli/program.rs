//! Programs that a command runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Context;
use super::exit::Failure;
use crate::env::program::{Program, Running};
use crate::env::time;

/// How long a program that was asked to end may take until it is ended.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Starts a program, after what was printed so far.
pub(crate) async fn start(context: &mut Context<'_>, program: Program) -> Result<Box<dyn Running>, Failure> {
    tokio::io::AsyncWriteExt::flush(&mut context.console.stdout).await?;
    let name = program.words.first().map(|word| word.display().to_string()).unwrap_or_default();
    context.console.programs.start(program).map_err(|error| {
        let hint = "name a program that can be run, as a path or from $PATH";
        Failure::usage(format!("cannot run `{name}`: {error}"), hint)
    })
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: u8,
    /// Whether it was interrupted before.
    pub(crate) interrupted: bool,
}

/// Waits until a program has ended; once interrupted, sees to it that it does.
pub(crate) async fn see_through(running: &mut dyn Running, interrupt: &CancellationToken) -> Result<Ended, Failure> {
    tokio::select! {
        biased;
        status = running.wait() => return Ok(Ended { status: status?, interrupted: interrupt.is_cancelled() }),
        () = interrupt.cancelled() => {}
    }
    running.ask_to_end();
    if let Ok(status) = time::timeout(END_PATIENCE, running.wait()).await {
        return Ok(Ended { status: status?, interrupted: true });
    }
    running.end();
    Ok(Ended { status: running.wait().await?, interrupted: true })
}
