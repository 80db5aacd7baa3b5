//! kvctl: parses the command line and hands over.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use quorate::cli;
use quorate::cli::args::Cli;
use quorate::env::Env;
use quorate::env::console::Console;
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let exit = runtime.block_on(async {
        let interrupt = CancellationToken::new();
        let on_signal = interrupt.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                on_signal.cancel();
            }
        });
        cli::run(&Env::real(), cli, Console::real(), &interrupt).await
    });
    // A read of standard input that still blocks must not hold the process.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit as u8))
}
