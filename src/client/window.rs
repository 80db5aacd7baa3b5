//! The sequences of one session on one shard. Pure.
//!
//! Invariants: a sequence is given once; the lowest unacknowledged never falls; no sequence is given
//! that lies a window or more above it.

use std::collections::BTreeSet;

use crate::proto::v1::SessionStamp;
use crate::types::limits::SESSION_WINDOW;

#[derive(Debug)]
pub(crate) struct Window {
    session_id: u64,
    next: u64,
    in_flight: BTreeSet<u64>,
}

impl Window {
    pub(crate) fn new(session_id: u64) -> Self {
        Self { session_id, next: 1, in_flight: BTreeSet::new() }
    }

    fn lowest_unacknowledged(&self) -> u64 {
        self.in_flight.first().copied().unwrap_or(self.next)
    }

    /// The stamp of a new write; `None` while the window is full.
    pub(crate) fn take(&mut self) -> Option<SessionStamp> {
        let lowest = self.lowest_unacknowledged();
        if self.next - lowest >= SESSION_WINDOW {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.in_flight.insert(sequence);
        Some(SessionStamp { session_id: self.session_id, sequence, lowest_unacknowledged: lowest })
    }

    /// The write was answered, or nobody will ask for its answer again.
    pub(crate) fn release(&mut self, sequence: u64) {
        self.in_flight.remove(&sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::{SESSION_WINDOW, Window};

    #[test]
    fn the_lowest_unacknowledged_holds_the_window() {
        let mut window = Window::new(7);
        let stamps: Vec<_> = std::iter::from_fn(|| window.take()).collect();
        assert_eq!(stamps.len() as u64, SESSION_WINDOW);
        assert!(stamps.iter().enumerate().all(|(i, stamp)| stamp.sequence == i as u64 + 1));
        assert!(stamps.iter().all(|stamp| stamp.lowest_unacknowledged == 1 && stamp.session_id == 7));
        window.release(2);
        assert_eq!(window.take(), None, "sequence 1 is still out");
        window.release(1);
        let next = window.take().unwrap();
        assert_eq!((next.sequence, next.lowest_unacknowledged), (SESSION_WINDOW + 1, 3));
    }

    #[test]
    fn an_idle_session_acknowledges_everything() {
        let mut window = Window::new(1);
        let first = window.take().unwrap().sequence;
        window.release(first);
        assert_eq!(window.take().unwrap().lowest_unacknowledged, 2);
    }
}
