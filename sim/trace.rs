//! What happened in a run, with simulated time: the text that two runs of a seed must share.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// openraft writes clock readings into its lines, so it is left out.
const FILTER: &str = "info,quorate=debug,openraft=off";

/// Collects a run's lines.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    text: Arc<Mutex<Vec<u8>>>,
    aloud: bool,
}

impl Trace {
    /// A trace that is also printed if `QUORATE_SIM_TRACE` is set.
    pub(crate) fn new() -> Self {
        Self { text: Arc::default(), aloud: std::env::var_os("QUORATE_SIM_TRACE").is_some() }
    }

    /// Runs `scenario` with every event of this thread going here.
    pub(crate) fn collect<T>(&self, scenario: impl FnOnce() -> T) -> T {
        let collector = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_timer(SimTime)
            .with_writer(self.clone())
            .with_env_filter(EnvFilter::new(FILTER))
            .finish();
        tracing::subscriber::with_default(collector, scenario)
    }

    /// All lines so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:>12?}", turmoil::sim_elapsed().unwrap_or_default())
    }
}

impl io::Write for Trace {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.aloud {
            io::stderr().write_all(line)?;
        }
        self.text.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Trace {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
