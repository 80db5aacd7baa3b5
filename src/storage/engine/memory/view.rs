//! A view of a memory store: a sequence number that keeps its versions alive.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::super::check::is_empty;
use super::super::{Direction, EngineError, KeyRange, PairResult, StoreId, View};
use super::versions::SeqNo;
use super::{State, Store, dead};

/// Pairs that a scan takes from the store at once: it holds the store's lock for no longer.
const PAGE_PAIRS: usize = 64;

/// Registered in [`State::views`] for as long as it lives.
pub(super) struct MemoryView {
    state: Arc<Mutex<State>>,
    generation: u64,
    id: StoreId,
    store: Store,
    seqno: SeqNo,
}

impl MemoryView {
    /// A view that the caller has registered.
    pub(super) fn new(state: Arc<Mutex<State>>, generation: u64, id: StoreId, store: Store, seqno: SeqNo) -> Self {
        Self { state, generation, id, store, seqno }
    }

    fn live(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.state.lock();
        if state.generation == self.generation { Ok(state) } else { Err(dead()) }
    }
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return;
        }
        if let Some(count) = state.views.get_mut(&self.seqno) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.seqno);
            }
        }
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.live()?.check_pair(self.id, key)?;
        Ok(self.store.read().get(key, self.seqno))
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

struct Scan<'a> {
    view: &'a MemoryView,
    /// What has not been fetched; `None` when nothing is left.
    rest: Option<(Bound<Bytes>, Bound<Bytes>)>,
    direction: Direction,
    page: VecDeque<PairResult>,
}

impl Scan<'_> {
    fn fetch(&mut self) -> Result<(), EngineError> {
        let Some((start, end)) = self.rest.take() else { return Ok(()) };
        let state = self.view.live()?;
        let range = (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
        let (pairs, last) = self.view.store.read().page(range, self.direction, self.view.seqno, PAGE_PAIRS);
        let check = |pair: (Bytes, Bytes)| state.check_pair(self.view.id, &pair.0).map(|()| pair);
        self.page = pairs.into_iter().map(check).collect();
        self.rest = last.and_then(|last| {
            let rest = match self.direction {
                Direction::Forward => (Bound::Excluded(last), end),
                Direction::Reverse => (start, Bound::Excluded(last)),
            };
            let bounds = (rest.0.as_ref().map(Bytes::as_ref), rest.1.as_ref().map(Bytes::as_ref));
            (!is_empty(bounds)).then_some(rest)
        });
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = PairResult;

    fn next(&mut self) -> Option<PairResult> {
        if self.page.is_empty()
            && let Err(error) = self.fetch()
        {
            return Some(Err(error));
        }
        self.page.pop_front()
    }
}
