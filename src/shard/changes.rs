//! What commands changed about leases and sessions, for the leader that counts their time.
//!
//! Invariant: merging the same changes twice is merging them once, since serials are never reused; so a
//! follower may begin to collect first and look at a view after.

use std::collections::BTreeMap;

/// Leases and sessions in one [`Changes`] before it gives up and asks for a reload.
pub const CHANGES_MAX: usize = 65_536;

/// A lease's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTerms {
    /// Whole life, in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it.
    pub remaining_ms: u64,
    /// Which lease of its id this is.
    pub serial: u64,
}

/// A session's terms, as of its last write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionTerms {
    /// Life without a write, in milliseconds.
    pub ttl_ms: u64,
    /// The highest sequence applied.
    pub highest: u64,
}

/// The last that happened to each lease and session; `None` means that it ended.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// By lease.
    pub leases: BTreeMap<u64, Option<LeaseTerms>>,
    /// By session. A write to a session is a change of it.
    pub sessions: BTreeMap<u64, Option<SessionTerms>>,
    /// There was more than could be kept: what is here is empty, load the state anew.
    pub lost: bool,
}

impl Changes {
    /// Whether there is nothing to learn.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.sessions.is_empty() && !self.lost
    }

    /// Lays later changes over these.
    pub(crate) fn merge(&mut self, later: Self) {
        if self.lost {
            return;
        }
        self.leases.extend(later.leases);
        self.sessions.extend(later.sessions);
        if later.lost || self.leases.len() + self.sessions.len() > CHANGES_MAX {
            *self = Self { lost: true, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CHANGES_MAX, Changes, LeaseTerms};

    #[test]
    fn too_many_changes_turn_into_a_reload_and_stay_small() {
        let terms = Some(LeaseTerms { ttl_ms: 1, remaining_ms: 1, serial: 1 });
        let of = |lease: usize| Changes { leases: [(lease as u64, terms)].into(), ..Changes::default() };
        let mut changes = Changes::default();
        for lease in 0..CHANGES_MAX {
            changes.merge(of(lease));
        }
        assert!(!changes.lost && changes.leases.len() == CHANGES_MAX);
        changes.merge(of(7));
        assert!(!changes.lost, "a change of a lease that is known already takes no more room");
        changes.merge(of(CHANGES_MAX));
        assert_eq!(changes, Changes { lost: true, ..Changes::default() });
        changes.merge(of(1));
        assert!(changes.lost && changes.leases.is_empty() && !changes.is_empty());
    }
}
