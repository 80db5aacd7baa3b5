//! What happened in a run, in simulated time: lines for people, a hash for comparing two runs, and
//! the events that the invariants are checked on.
//!
//! A line is the time, the host, the level, the place, and what happened. openraft writes clock
//! readings into its lines, so they are left out.

use std::fmt::{self, Write as _};
use std::hash::Hasher;
use std::io::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use xxhash_rust::xxh3::Xxh3;

use crate::invariant::Observed;

/// Where the product says what its replicas do, for invariants.
pub(crate) const OBSERVE: &str = "quorate::raft::observe";

/// Targets that make no lines: events have their own flag, and every answer says no more than that.
const UNWANTED: [&str; 2] = [OBSERVE, "quorate::api::gate"];

/// What becomes of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lines {
    /// Not even made.
    Off,
    /// Into the hash.
    Hashed,
    /// Into the hash, and printed.
    Printed,
    /// The same, and with them what the replicas do.
    PrintedWithEvents,
}

/// The subscriber of a run.
#[derive(Clone)]
pub(crate) struct Trace {
    lines: Lines,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hash: Xxh3,
    observed: Vec<Observed>,
    file: Option<std::io::BufWriter<Box<dyn std::io::Write + Send>>>,
    /// Hosts, in the order in which they first ran.
    hosts: Vec<String>,
    /// The one that runs now, as an index.
    running: Option<usize>,
}

impl Trace {
    /// Prints to `out` if lines are to be printed.
    pub(crate) fn new(lines: Lines, out: Box<dyn std::io::Write + Send>) -> Self {
        let file = matches!(lines, Lines::Printed | Lines::PrintedWithEvents).then(|| std::io::BufWriter::new(out));
        Self { lines, state: Arc::new(Mutex::new(State { file, ..State::default() })) }
    }

    /// The hash of all lines so far.
    pub(crate) fn hash(&self) -> Option<u64> {
        (self.lines != Lines::Off).then(|| self.state.lock().hash.finish())
    }

    /// What the replicas did since the last call.
    pub(crate) fn take_observed(&self) -> Vec<Observed> {
        std::mem::take(&mut self.state.lock().observed)
    }

    pub(crate) fn flush(&self) {
        if let Some(file) = &mut self.state.lock().file {
            // A reader who has gone away misses lines, nothing else.
            file.flush().ok();
        }
    }

    fn wants_line(&self, metadata: &Metadata<'_>) -> bool {
        if self.lines == Lines::Off {
            return false;
        }
        let target = metadata.target();
        let level = *metadata.level();
        let is_ours = target.starts_with("quorate") || target.starts_with("sim");
        is_ours && !UNWANTED.contains(&target) && level <= Level::DEBUG
    }
}

impl Subscriber for Trace {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_host = metadata.is_span() && metadata.name() == "node" && metadata.target().starts_with("turmoil");
        let is_wanted = metadata.is_event() && (metadata.target() == OBSERVE || self.wants_line(metadata));
        is_wanted || (is_host && self.lines != Lines::Off)
    }

    /// turmoil runs each host in a span that names it.
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut name = Host(String::new());
        span.record(&mut name);
        let hosts = &mut self.state.lock().hosts;
        let at = hosts.iter().position(|host| *host == name.0).unwrap_or_else(|| {
            hosts.push(name.0);
            hosts.len() - 1
        });
        Id::from_u64(at as u64 + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target() == OBSERVE {
            let mut observed = Observed { at_ms: crate::now_ms(), ..Observed::default() };
            event.record(&mut observed);
            self.state.lock().observed.push(observed);
            if self.lines != Lines::PrintedWithEvents {
                return;
            }
        }
        let mut line = String::new();
        let metadata = event.metadata();
        let mut state = self.state.lock();
        let host = state.running.and_then(|at| state.hosts.get(at)).map_or("", String::as_str);
        let (now_ms, level, place) = (crate::now_ms(), metadata.level(), metadata.target());
        let written = write!(line, "{now_ms:>8} ms {host:<9} {level:<5} {place}");
        debug_assert!(written.is_ok());
        event.record(&mut Fields(&mut line));
        line.push('\n');
        state.hash.write(line.as_bytes());
        if let Some(file) = &mut state.file {
            file.write_all(line.as_bytes()).ok();
        }
    }

    fn enter(&self, span: &Id) {
        self.state.lock().running = usize::try_from(span.into_u64() - 1).ok();
    }

    fn exit(&self, _: &Id) {
        self.state.lock().running = None;
    }
}

struct Host(String);

impl Visit for Host {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = value.to_owned();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok());
    }
}
