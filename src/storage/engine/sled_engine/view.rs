//! A view of a store: a sequence number, and what was overwritten since.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::super::check::is_empty;
use super::super::{Direction, EngineError, KeyRange, PairResult, View};
use super::Shared;
use super::history::{SeqNo, walk_order};
use super::record::pair_key;
use super::tree::{PAGE_PAIRS, Tree};

/// Registered in [`Shared::views`] for as long as it lives.
pub(super) struct SledView {
    shared: Arc<Shared>,
    tree: Arc<Tree>,
    seqno: SeqNo,
}

/// Pairs as the view sees them.
struct Page {
    pairs: VecDeque<(Bytes, Bytes)>,
    /// The last key that was looked at, if there may be more.
    last: Option<Bytes>,
}

impl SledView {
    /// A view that the caller has registered.
    pub(super) fn new(shared: Arc<Shared>, tree: Arc<Tree>, seqno: SeqNo) -> Self {
        Self { shared, tree, seqno }
    }

    /// The next pairs of a range that is not empty.
    fn page(&self, range: KeyRange<'_>, direction: Direction) -> Result<Page, EngineError> {
        let seen = self.shared.seen.read();
        seen.history.check(self.seqno)?;
        let mut current = self.shared.watch(self.tree.page(range, direction))?;
        let mut images = seen.history.range(self.tree.id, range, self.seqno, direction).peekable();
        let mut pairs = VecDeque::with_capacity(PAGE_PAIRS);
        let mut last = None;
        for _ in 0..PAGE_PAIRS {
            let order = match (current.pairs.front(), images.peek()) {
                // What comes next in the tree is not known.
                (None, _) if !current.complete => break,
                (None, None) => return Ok(Page { pairs, last: None }),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((key, _)), Some((image, _))) => walk_order(direction, key, image),
            };
            let now = if order.is_le() { current.pairs.pop_front() } else { None };
            if order.is_lt() {
                last = now.as_ref().map(|(key, _)| key.clone());
                pairs.extend(now);
            } else if let Some((key, before)) = images.next() {
                last = Some(key.clone());
                pairs.extend(before.as_ref().map(|value| (key.clone(), value.clone())));
            }
        }
        Ok(Page { pairs, last })
    }
}

impl Drop for SledView {
    fn drop(&mut self) {
        let was_oldest = {
            let mut views = self.shared.views.lock();
            let before = views.oldest();
            views.remove(self.seqno);
            before != views.oldest()
        };
        if was_oldest && !self.shared.seen.read().history.is_empty() {
            let mut seen = self.shared.seen.write();
            seen.history.collect(&self.shared.views.lock());
        }
    }
}

impl View for SledView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let seen = self.shared.seen.read();
        seen.history.check(self.seqno)?;
        if let Some(before) = seen.history.get(self.tree.id, key, self.seqno) {
            return Ok(before.clone());
        }
        let found = self.shared.watch(self.tree.get(&pair_key(key)))?;
        Ok(found.map(|(_, value)| value))
    }

    fn scan<'a>(
        &'a self,
        (start, end): KeyRange<'_>,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = PairResult> + 'a> {
        if is_empty((start, end)) {
            return Box::new(std::iter::empty());
        }
        let owned = |bound: Bound<&[u8]>| bound.map(Bytes::copy_from_slice);
        let rest = Some((owned(start), owned(end)));
        Box::new(Scan { view: self, rest, direction, page: VecDeque::new() })
    }
}

/// Holds no lock between two pages.
struct Scan<'a> {
    view: &'a SledView,
    /// What has not been fetched; `None` when nothing is left.
    rest: Option<(Bound<Bytes>, Bound<Bytes>)>,
    direction: Direction,
    page: VecDeque<(Bytes, Bytes)>,
}

impl Scan<'_> {
    fn fetch(&mut self) -> Result<(), EngineError> {
        // A page may come out empty where all of it was written after the view.
        while self.page.is_empty()
            && let Some((start, end)) = self.rest.take()
        {
            let range = (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
            let page = self.view.page(range, self.direction)?;
            self.page = page.pairs;
            self.rest = page.last.and_then(|last| {
                let rest = match self.direction {
                    Direction::Forward => (Bound::Excluded(last), end),
                    Direction::Reverse => (start, Bound::Excluded(last)),
                };
                let bounds = (rest.0.as_ref().map(Bytes::as_ref), rest.1.as_ref().map(Bytes::as_ref));
                (!is_empty(bounds)).then_some(rest)
            });
        }
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = PairResult;

    fn next(&mut self) -> Option<PairResult> {
        match self.fetch() {
            Ok(()) => self.page.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}
