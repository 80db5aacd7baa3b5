//! kvctl: parses the command line and hands over.

use std::process::ExitCode;

use anyhow::Context;
use quorate::cli;
use quorate::cli::Interrupts;
use quorate::env::Env;
use quorate::env::console::Console;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<ExitCode> {
    let console = Console::real();
    let cli = cli::parse(std::env::args_os(), console.is_interactive).unwrap_or_else(|said| said.exit());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let exit = runtime.block_on(async {
        let interrupts = Interrupts::default();
        let on_signal = interrupts.clone();
        // Listens before the line editor starts, which puts back what it finds.
        let mut pressed = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
        tokio::spawn(async move {
            while pressed.recv().await.is_some() {
                on_signal.raise();
            }
        });
        if cli.command.ends_by_itself() {
            // What it holds is to be given back.
            let on_signal = interrupts.clone();
            let mut told = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
            tokio::spawn(async move {
                while told.recv().await.is_some() {
                    on_signal.raise();
                }
            });
        }
        Ok::<_, anyhow::Error>(cli::run(&Env::real(), cli, console, &interrupts).await)
    })?;
    // A read of standard input that still blocks must not hold the process.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit.code()))
}
