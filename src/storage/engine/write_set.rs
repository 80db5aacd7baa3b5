//! Pending writes over a view: what apply reads and writes before one batch makes it visible.

use std::collections::BTreeMap;
use std::iter::Peekable;

use bytes::Bytes;

use super::check::is_empty;
use super::{Batch, Direction, EngineError, KeyRange, PairResult, StoreId, View};

/// A view with pending writes laid over it. Reads see the writes.
pub struct WriteSet<'v> {
    base: &'v dyn View,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl<'v> WriteSet<'v> {
    /// No writes yet over `base`.
    pub fn new(base: &'v dyn View) -> Self {
        Self { base, writes: BTreeMap::new(), bytes: 0 }
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.writes.insert(key, Some(value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.writes.insert(key, None);
    }

    /// Bytes written so far, overwritten ones included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The writes as a batch on `store`.
    pub fn into_batch(self, store: StoreId) -> Batch {
        Batch { writes: self.writes.into_iter().map(|(key, value)| (store, key, value)).collect() }
    }
}

impl View for WriteSet<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(&'a self, range: KeyRange<'_>, direction: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a> {
        if is_empty(range) {
            return Box::new(std::iter::empty());
        }
        let base = self.base.scan(range, direction).peekable();
        let written = self.writes.range::<[u8], _>(range).map(|(key, value)| (key.clone(), value.clone()));
        let written: Box<dyn Iterator<Item = (Bytes, Option<Bytes>)> + 'a> = match direction {
            Direction::Forward => Box::new(written),
            Direction::Reverse => Box::new(written.rev()),
        };
        Box::new(Merge { base, written: written.peekable(), direction })
    }
}

struct Merge<B: Iterator<Item = PairResult>, W: Iterator<Item = (Bytes, Option<Bytes>)>> {
    base: Peekable<B>,
    written: Peekable<W>,
    direction: Direction,
}

impl<B: Iterator<Item = PairResult>, W: Iterator<Item = (Bytes, Option<Bytes>)>> Iterator for Merge<B, W> {
    type Item = PairResult;

    fn next(&mut self) -> Option<PairResult> {
        loop {
            let Some((written, _)) = self.written.peek() else { return self.base.next() };
            if let Some(base) = self.base.peek() {
                let Ok((key, _)) = base else { return self.base.next() };
                let order = match self.direction {
                    Direction::Forward => key.cmp(written),
                    Direction::Reverse => written.cmp(key),
                };
                if order.is_lt() {
                    return self.base.next();
                }
                if order.is_eq() {
                    self.base.next();
                }
            }
            if let Some((key, Some(value))) = self.written.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}
