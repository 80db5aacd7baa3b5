//! What the replicas of this process do, said as `tracing` events for whoever checks that Raft holds.
//!
//! An event is its message and numbers: group, replica, term, index, digest, part. Nobody but a
//! simulation listens; without a listener nothing is computed.

use openraft::EntryPayload;

use tokio::sync::watch;

use super::codec;
use super::types::{Entry, LogId, Vote};
use crate::storage::log::GroupLog;
use crate::types::{GroupId, ReplicaId};

const TARGET: &str = "quorate::raft::observe";

/// Speaks for one replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observer {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
}

/// `say!(observer, "message", field = number, …)`
macro_rules! say {
    ($of:expr, $what:literal $(, $field:ident = $value:expr)*) => {
        tracing::trace!(target: TARGET, group = $of.group.0, replica = $of.replica.0 $(, $field = $value)*, $what)
    };
}

fn is_heard() -> bool {
    tracing::event_enabled!(target: TARGET, tracing::Level::TRACE)
}

impl Observer {
    /// A replica was opened: all that it stands on, and then that it starts.
    pub(super) fn started(self, log: &GroupLog, applied: Option<&LogId>, vote: Option<&Vote>) {
        if !is_heard() {
            return;
        }
        say!(self, "opened");
        if let Some(purged) = log.state().purged {
            say!(self, "purged", term = purged.term, index = purged.index);
        }
        for run in log.runs() {
            say!(self, "holds", term = run.term, index = run.index);
        }
        self.durable(Some(&log.durable()));
        if let Some(id) = applied {
            say!(self, "restored", term = id.leader_id.term, index = id.index);
        }
        if let Some(vote) = vote {
            let committed = u64::from(vote.committed);
            say!(self, "remembers", term = vote.leader_id.term, digest = vote.leader_id.voted_for, part = committed);
        }
        say!(self, "started");
    }

    /// A replica that has nothing is being given its group's first entry.
    pub(super) fn begins(self) {
        say!(self, "opened");
    }

    /// An entry is being given to the log; `payload` is what the log holds of it.
    pub(super) fn appended(self, entry: &Entry, payload: &[u8]) {
        if !is_heard() {
            return;
        }
        let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
        if let EntryPayload::Membership(membership) = &entry.payload {
            for (part, config) in (0u64..).zip(membership.get_joint_config()) {
                for voter in config {
                    say!(self, "voter", term = term, index = index, digest = *voter, part = part);
                }
            }
        }
        say!(self, "appended", term = term, index = index, digest = xxhash_rust::xxh3::xxh3_64(payload));
    }

    /// What [`Observer::durable`] needs, if anybody listens. Not the log itself: an operation that
    /// waits in the log must not keep it alive.
    pub(super) fn watch(self, log: &GroupLog) -> Option<watch::Receiver<Option<u64>>> {
        is_heard().then(|| log.durable())
    }

    /// An append has reached the disk: every entry up to what the log calls durable has.
    pub(super) fn durable(self, durable: Option<&watch::Receiver<Option<u64>>>) {
        if let Some(index) = durable.and_then(|durable| *durable.borrow()) {
            say!(self, "durable", index = index);
        }
    }

    /// The entries after `last` are being dropped.
    pub(super) fn truncated(self, last: Option<&LogId>) {
        // The first that goes.
        say!(self, "truncated", index = last.map_or(0, |last| last.index.saturating_add(1)));
    }

    /// The entries up to `upto` are gone.
    pub(super) fn purged(self, upto: &LogId) {
        say!(self, "purged", term = upto.leader_id.term, index = upto.index);
    }

    /// A vote is on disk. A leader's vote for itself makes it lead.
    pub(super) fn voted(self, vote: &Vote) {
        let (term, candidate) = (vote.leader_id.term, vote.leader_id.voted_for);
        say!(self, "voted", term = term, digest = candidate, part = u64::from(vote.committed));
        if vote.committed && candidate == self.replica.0 {
            say!(self, "leads", term = term);
        }
    }

    /// The replica knows that everything up to `upto` is committed.
    pub(super) fn committed(self, upto: &LogId) {
        say!(self, "committed", term = upto.leader_id.term, index = upto.index);
    }

    /// Entries became visible in the state.
    pub(super) fn applied(self, entries: &[Entry]) {
        if !is_heard() {
            return;
        }
        for entry in entries {
            let digest = xxhash_rust::xxh3::xxh3_64(&codec::payload_to_bytes(&entry.payload));
            say!(self, "applied", term = entry.log_id.leader_id.term, index = entry.log_id.index, digest = digest);
        }
    }

    /// A snapshot is beginning to come.
    pub(super) fn receiving(self) {
        say!(self, "receiving");
    }

    /// A received snapshot took the state's place.
    pub(super) fn installed(self, last: &LogId) {
        say!(self, "installed", term = last.leader_id.term, index = last.index);
    }

    /// A leader counts on this replica holding its log up to `matched`.
    pub(super) fn acknowledged(self, matched: &LogId) {
        say!(self, "acknowledged", term = matched.leader_id.term, index = matched.index);
    }

    /// The candidate that asked for `vote` counts on this replica's.
    pub(super) fn granted(self, vote: &Vote) {
        say!(self, "granted", term = vote.leader_id.term, digest = vote.leader_id.voted_for);
    }
}
