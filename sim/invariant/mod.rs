//! What must hold of Raft at every moment, one module each, checked on what the replicas say they
//! did: the product emits it as `tracing` events of the target [`OBSERVE`](crate::trace::OBSERVE).

use std::fmt;

use tracing::field::{Field, Visit};

use crate::report::Seen;

/// One thing that a replica did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) at_ms: u64,
    /// What: the event's message.
    pub(crate) what: String,
    pub(crate) group: u64,
    pub(crate) replica: u64,
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// Of the entry's payload, or whatever the event compares.
    pub(crate) digest: u64,
}

impl Visit for Observed {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "group" => self.group = value,
            "replica" => self.replica = value,
            "term" => self.term = value,
            "index" => self.index = value,
            "digest" => self.digest = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.what = format!("{value:?}");
        }
    }
}

/// An invariant of a run.
pub(crate) trait Invariant {
    fn name(&self) -> &'static str;
    /// Takes an event in. Returns how many things it checked, or what is broken.
    fn observe(&mut self, event: &Observed) -> Result<u64, String>;
}

/// All invariants of a run.
pub(crate) struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    seen: Seen,
}

impl Invariants {
    pub(crate) fn new(seen: Seen) -> Self {
        Self { all: Vec::new(), seen }
    }

    pub(crate) fn observe(&mut self, events: &[Observed]) {
        for invariant in &mut self.all {
            let mut held = 0;
            for event in events {
                match invariant.observe(event) {
                    Ok(checked) => held += checked,
                    Err(broken) => self.seen.violation(invariant.name(), broken),
                }
            }
            self.seen.held(invariant.name(), held);
        }
    }
}
