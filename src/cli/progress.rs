//! Shows how far a long command is: a bar for who watches, else a line every few seconds.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncWriteExt;

use crate::env::console::Output;
use crate::env::time::{self, Instant};

/// Time between two lines for nobody in particular.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    next_line: Instant,
    verb: &'static str,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Progress {
    /// `size` is the whole length in bytes, when known.
    pub(crate) fn new(verb: &'static str, size: Option<u64>, terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
            let form = match size {
                Some(_) => "{bar:30} {bytes}/{total_bytes} {msg}",
                None => "{spinner} {bytes} {msg}",
            };
            bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let began = time::now();
        Self { bar, began, next_line: began + LINE_INTERVAL, verb, records: 0, bytes: 0 }
    }

    /// So many records, read from or written as so many bytes, are done.
    pub(crate) async fn advance(&mut self, records: u64, bytes: u64, stderr: &mut Output) {
        self.records += records;
        self.bytes += bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes);
            bar.set_message(format!("{} records, {}/s", self.records, self.rate()));
            return;
        }
        let now = time::now();
        if now >= self.next_line {
            self.next_line = now + LINE_INTERVAL;
            let line = format!("{} {} records so far ({}/s)\n", self.verb, self.records, self.rate());
            // A progress line that cannot be shown is no reason to stop.
            stderr.write_all(line.as_bytes()).await.ok();
            stderr.flush().await.ok();
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        time::now().saturating_duration_since(self.began).as_secs_f64()
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people; the cast saturates"
    )]
    pub(crate) fn rate(&self) -> u64 {
        (self.records as f64 / self.seconds().max(0.001)) as u64
    }

    /// One line about the whole.
    pub(crate) fn summary(&self) -> String {
        format!("{} {} records in {:.1}s ({}/s)", self.verb, self.records, self.seconds(), self.rate())
    }
}
