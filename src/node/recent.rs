//! The newest changes of a shard, read from its history once for all watches that wait for them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::proto::v1::{Event, EventsResponse};
use crate::types::limits::{PAGE_RECORDS_MAX, RECENT_BYTES_MAX, RECENT_PAGES_MAX};

use super::Failure;

/// What an event costs in memory besides its keys and values.
const EVENT_BYTES: usize = size_of::<Event>() + 64;

/// Pages of changes without a gap between them.
///
/// Invariants: each page holds whole revisions, and all changes of them; a page begins where the one before it
/// ends; pages never go back, so that who is behind them reads the history by itself and catches up.
#[derive(Default)]
pub(super) struct Recent {
    kept: Mutex<Kept>,
    /// Held while the next page is read: the others wait for that one.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    pages: VecDeque<Page>,
    bytes: usize,
    /// Somebody wants to see what was replaced.
    previous: bool,
}

#[derive(Clone)]
struct Page {
    from: u64,
    has_previous: bool,
    bytes: usize,
    changes: Arc<EventsResponse>,
}

/// What is kept of the changes from a revision on.
enum Found {
    Pages(Vec<Arc<EventsResponse>>),
    /// Not read yet; whether to read what was replaced as well.
    Next {
        previous: bool,
    },
    /// No more, or never was.
    Gone,
}

impl Recent {
    /// The changes from a revision on, of the whole shard: pages without a gap, the first of which may begin earlier.
    /// `None` when they are not kept: the history has them. `read` reads a page from a revision on, of the whole
    /// shard, with what was replaced if that is asked for.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn pages(
        &self,
        from: u64,
        previous: bool,
        read: impl AsyncFnOnce(bool) -> Result<EventsResponse, Failure>,
    ) -> Result<Option<Vec<Arc<EventsResponse>>>, Failure> {
        let find = || self.kept.lock().find(from, previous);
        if let Some(found) = find().told() {
            return Ok(found);
        }
        let reading = self.reading.lock().await;
        // Who read meanwhile read this as well.
        let previous = match find() {
            Found::Next { previous } => previous,
            Found::Pages(pages) => return Ok(Some(pages)),
            Found::Gone => return Ok(None),
        };
        let changes = Arc::new(read(previous).await?);
        self.kept.lock().add(from, previous, changes.clone());
        drop(reading);
        Ok(Some(vec![changes]))
    }
}

impl Found {
    fn told(self) -> Option<Option<Vec<Arc<EventsResponse>>>> {
        match self {
            Self::Pages(pages) => Some(Some(pages)),
            Self::Gone => Some(None),
            Self::Next { .. } => None,
        }
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.pages.back().map_or(0, |page| page.changes.next_revision)
    }

    fn find(&mut self, from: u64, previous: bool) -> Found {
        self.previous |= previous;
        if from >= self.next() {
            return Found::Next { previous: self.previous };
        }
        let at = self.pages.partition_point(|page| page.changes.next_revision <= from);
        let mut events = 0;
        let wanted = self.pages.range(at..).take_while(|page| {
            let is_wanted = events < PAGE_RECORDS_MAX && (page.has_previous || !previous);
            events += page.changes.events.len();
            is_wanted
        });
        let pages: Vec<_> = wanted.map(|page| page.changes.clone()).collect();
        let begins = self.pages.get(at).is_some_and(|page| page.from <= from);
        if begins && !pages.is_empty() { Found::Pages(pages) } else { Found::Gone }
    }

    fn add(&mut self, from: u64, has_previous: bool, changes: Arc<EventsResponse>) {
        if changes.next_revision <= from {
            return;
        }
        if from > self.next() {
            // Nobody waited for what lies between.
            *self = Self { previous: has_previous, ..Self::default() };
        }
        let bytes = changes.events.iter().map(cost).sum();
        self.bytes += bytes;
        self.pages.push_back(Page { from, has_previous, bytes, changes });
        while self.pages.len() > RECENT_PAGES_MAX || (self.bytes > RECENT_BYTES_MAX && self.pages.len() > 1) {
            self.bytes -= self.pages.pop_front().map_or(0, |page| page.bytes);
        }
    }
}

/// What an event costs in memory.
pub(in crate::node) fn cost(event: &Event) -> usize {
    let records = event.record.iter().chain(&event.previous);
    EVENT_BYTES + records.map(|record| record.key.len() + record.value.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use crate::proto::v1::{ErrorCode, Record};

    use super::*;

    /// A history with one change of `bytes` in each revision up to `present`, and what was read of it.
    struct History {
        present: u64,
        bytes: usize,
        page: u64,
        reads: RefCell<Vec<(u64, bool)>>,
    }

    impl History {
        fn new(present: u64) -> Self {
            Self { present, bytes: 10, page: 10, reads: RefCell::default() }
        }

        async fn read(&self, from: u64, previous: bool) -> Result<EventsResponse, Failure> {
            self.reads.borrow_mut().push((from, previous));
            let next_revision = (from + self.page).min(self.present + 1).max(from);
            let event = |mod_revision| {
                let record = Record { mod_revision, value: vec![0; self.bytes].into(), ..Record::default() };
                Event { record: Some(record.clone()), previous: previous.then_some(record), ..Event::default() }
            };
            Ok(EventsResponse { events: (from..next_revision).map(event).collect(), next_revision, header: None })
        }

        /// First and last revision that is shown, at least those from `from` on.
        async fn ask(&self, recent: &Recent, from: u64, previous: bool) -> Option<(u64, u64)> {
            let pages = recent.pages(from, previous, |previous| self.read(from, previous)).await.unwrap()?;
            let events = || pages.iter().flat_map(|page| &page.events);
            assert!(!previous || events().all(|event| event.previous.is_some()), "what was replaced is there");
            let revisions: Vec<_> = events().map(|event| event.record.as_ref().unwrap().mod_revision).collect();
            assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "without a gap: {revisions:?}");
            assert!(revisions.first().is_none_or(|first| *first <= from), "{from} is among {revisions:?}");
            let last = pages.last().map_or(0, |page| page.next_revision.saturating_sub(1));
            Some((revisions.first().copied().unwrap_or(from), last))
        }
    }

    #[tokio::test]
    async fn what_one_has_read_the_others_need_not() {
        let recent = Recent::default();
        let mut history = History::new(25);
        assert_eq!(history.ask(&recent, 11, false).await, Some((11, 20)));
        assert_eq!(history.ask(&recent, 15, false).await, Some((11, 20)));
        assert_eq!(history.ask(&recent, 21, false).await, Some((21, 25)));
        assert_eq!(history.ask(&recent, 12, false).await, Some((11, 25)), "pages that follow come along");
        assert_eq!(history.ask(&recent, 26, false).await, Some((26, 25)), "nothing yet");
        history.present = 26;
        assert_eq!(history.ask(&recent, 26, false).await, Some((26, 26)));
        assert_eq!(*history.reads.borrow(), [(11, false), (21, false), (26, false), (26, false)]);
    }

    #[tokio::test]
    async fn who_is_behind_reads_by_itself() {
        let recent = Recent::default();
        let history = History::new(100);
        assert_eq!(history.ask(&recent, 50, false).await, Some((50, 59)));
        assert_eq!(history.ask(&recent, 49, false).await, None);
        // Who comes far ahead leaves those behind on their own, until they catch up.
        assert_eq!(history.ask(&recent, 90, false).await, Some((90, 99)));
        assert_eq!(history.ask(&recent, 60, false).await, None);
        assert_eq!(history.ask(&recent, 95, false).await, Some((90, 99)));
    }

    #[tokio::test]
    async fn what_was_replaced_is_read_once_somebody_wants_it() {
        let recent = Recent::default();
        let history = History::new(30);
        assert_eq!(history.ask(&recent, 1, false).await, Some((1, 10)));
        assert_eq!(history.ask(&recent, 5, true).await, None, "read without");
        assert_eq!(history.ask(&recent, 11, false).await, Some((11, 20)));
        assert_eq!(history.ask(&recent, 12, true).await, Some((11, 20)));
        assert_eq!(*history.reads.borrow(), [(1, false), (11, true)]);
    }

    #[tokio::test]
    async fn the_oldest_go_when_there_is_too_much() {
        let recent = Recent::default();
        let large = History { bytes: RECENT_BYTES_MAX / 3, page: 1, ..History::new(10) };
        for revision in 1..=4 {
            large.ask(&recent, revision, false).await.unwrap();
        }
        assert_eq!(large.ask(&recent, 1, false).await, None);
        assert_eq!(large.ask(&recent, 3, false).await, Some((3, 4)));
        assert!(recent.kept.lock().bytes <= RECENT_BYTES_MAX);
        let small = History { page: 1, ..History::new(u64::MAX - 1) };
        for revision in 5..=5 + RECENT_PAGES_MAX as u64 {
            small.ask(&recent, revision, false).await.unwrap();
        }
        assert_eq!(recent.kept.lock().pages.len(), RECENT_PAGES_MAX);
    }

    #[tokio::test]
    async fn a_read_that_fails_leaves_the_next_one_to_try() {
        let recent = Recent::default();
        let failed = recent.pages(3, false, async |_| Err(Failure::retry(ErrorCode::Unavailable, "away"))).await;
        assert!(failed.is_err());
        assert_eq!(History::new(5).ask(&recent, 3, false).await, Some((3, 5)));
    }
}
