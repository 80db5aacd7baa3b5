//! What invariants are checked on: events of replicas, and samples of the running nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use quorate::types::GroupId;
use quorate::types::map::ShardMap;
use tracing::field::{Field, Visit};

/// One thing that a replica did; `docs/testing.md` lists them.
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
    /// Which part of something: 1 of a vote that is a leader's, the number of a voter's config.
    pub(crate) part: u64,
}

impl Observed {
    /// Which replica of which group.
    pub(crate) fn who(&self) -> (u64, u64) {
        (self.group, self.replica)
    }

    /// Where the entry stands: index, term.
    pub(crate) fn at(&self) -> (u64, u64) {
        (self.index, self.term)
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} replica {} {} at {} ms", self.group, self.replica, self.what, self.at_ms)
    }
}

impl Visit for Observed {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "group" => self.group = value,
            "replica" => self.replica = value,
            "term" => self.term = value,
            "index" => self.index = value,
            "digest" => self.digest = value,
            "part" => self.part = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.what = format!("{value:?}");
        }
    }
}

/// A running node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct NodeSample {
    pub(crate) node: u64,
    pub(crate) map: Arc<ShardMap>,
    /// The groups that it believes to lead, and in which term.
    pub(crate) leads: Vec<(u64, u64)>,
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) nodes: Vec<NodeSample>,
    /// Nodes whose disk was made to lose what it had promised to keep, at any time so far.
    pub(crate) robbed: BTreeSet<u64>,
}

impl Sample {
    /// The node that a replica lives on, as far as somebody's map tells.
    pub(crate) fn home_of(&self, group: u64, replica: u64) -> Option<u64> {
        if group == GroupId::META.0 {
            // Its replicas have their nodes' numbers.
            return Some(replica);
        }
        let shards = self.nodes.iter().filter_map(|node| node.map.shards.get(&GroupId(group)));
        shards.flat_map(|shard| &shard.replicas).find(|found| found.id.0 == replica).map(|found| found.node.0)
    }
}

/// An invariant of a run.
pub(crate) trait Invariant {
    fn name(&self) -> &'static str;
    /// Takes an event in. Returns how many things it checked, or what is broken.
    fn observe(&mut self, event: &Observed) -> Result<u64, String>;
    /// Takes a sample in, every now and then; the same.
    fn sample(&mut self, _sample: &Sample) -> Result<u64, String> {
        Ok(0)
    }
}
