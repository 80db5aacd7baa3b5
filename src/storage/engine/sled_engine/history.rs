//! What batches have overwritten, for as long as a view needs it: sled's iteration is no snapshot.
//!
//! Knows sequence numbers, keys and values; no tree and no lock.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::super::{Direction, EngineError, KeyRange, StoreId};

/// Counts batches.
pub(super) type SeqNo = u64;

/// What the bookkeeping of one image takes beyond its key, twice, and its value.
const IMAGE_OVERHEAD_BYTES: u64 = 160;

/// The open views: how many there are at each sequence number.
#[derive(Default)]
pub(super) struct Views(BTreeMap<SeqNo, usize>);

impl Views {
    pub(super) fn add(&mut self, seqno: SeqNo) {
        *self.0.entry(seqno).or_default() += 1;
    }

    /// A view that has expired is not there any more.
    pub(super) fn remove(&mut self, seqno: SeqNo) {
        if let Some(count) = self.0.get_mut(&seqno) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&seqno);
            }
        }
    }

    pub(super) fn oldest(&self) -> Option<SeqNo> {
        self.0.first_key_value().map(|(seqno, _)| *seqno)
    }

    pub(super) fn newest(&self) -> Option<SeqNo> {
        self.0.last_key_value().map(|(seqno, _)| *seqno)
    }
}

/// The value of a key before the batch with this number; `None` when it had none.
type Image = (SeqNo, Option<Bytes>);

/// Images of keys that were overwritten while there were views.
///
/// Invariants: the images of a key ascend; `order` names each image once, ascending; `bytes` is
/// what they take, at most `bytes_max` between two calls.
pub(super) struct History {
    stores: BTreeMap<StoreId, BTreeMap<Bytes, VecDeque<Image>>>,
    order: VecDeque<(SeqNo, StoreId, Bytes)>,
    bytes: u64,
    bytes_max: u64,
    /// Views at or below this number have expired.
    expired: Option<SeqNo>,
}

impl History {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { stores: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max, expired: None }
    }

    /// Remembers what the batch `seqno` is about to overwrite, as far as one of `views` needs it.
    pub(super) fn save(
        &mut self,
        seqno: SeqNo,
        overwritten: impl Iterator<Item = (StoreId, Bytes, Option<Bytes>)>,
        views: &mut Views,
    ) {
        let Some(newest) = views.newest() else { return };
        for (store, key, before) in overwritten {
            let images = self.stores.entry(store).or_default().entry(key.clone()).or_default();
            if images.back().is_some_and(|(at, _)| *at > newest) {
                // All views see an older image.
                continue;
            }
            self.bytes += image_bytes(&key, before.as_ref());
            images.push_back((seqno, before));
            self.order.push_back((seqno, store, key));
        }
        while self.bytes > self.bytes_max
            && let Some(oldest) = views.oldest()
        {
            views.0.remove(&oldest);
            self.expired = Some(oldest);
            self.collect(views);
        }
    }

    /// Drops what none of the views can see.
    pub(super) fn collect(&mut self, views: &Views) {
        let oldest = views.oldest().unwrap_or(SeqNo::MAX);
        while self.order.front().is_some_and(|(seqno, ..)| *seqno <= oldest) {
            let Some((_, store, key)) = self.order.pop_front() else { return };
            let Some(keys) = self.stores.get_mut(&store) else { continue };
            let Some(images) = keys.get_mut(&key) else { continue };
            if let Some((_, before)) = images.pop_front() {
                self.bytes -= image_bytes(&key, before.as_ref());
            }
            if images.is_empty() {
                keys.remove(&key);
            }
            if keys.is_empty() {
                self.stores.remove(&store);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Refuses a view whose images are gone.
    pub(super) fn check(&self, view: SeqNo) -> Result<(), EngineError> {
        if self.expired.is_some_and(|expired| view <= expired) {
            return Err(EngineError::ViewExpired { bytes_max: self.bytes_max });
        }
        Ok(())
    }

    /// What `key` was at `view`, if it was overwritten since.
    pub(super) fn get(&self, store: StoreId, key: &[u8], view: SeqNo) -> Option<&Option<Bytes>> {
        image_at(self.stores.get(&store)?.get(key)?, view)
    }

    /// What keys of a range that is not empty were at `view`, of those overwritten since.
    pub(super) fn range<'a>(
        &'a self,
        store: StoreId,
        range: KeyRange<'_>,
        view: SeqNo,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a> {
        let Some(keys) = self.stores.get(&store) else { return Box::new(std::iter::empty()) };
        let at_view = move |(key, images): (&'a Bytes, &'a VecDeque<Image>)| Some((key, image_at(images, view)?));
        let images = keys.range::<[u8], _>(range);
        match direction {
            Direction::Forward => Box::new(images.filter_map(at_view)),
            Direction::Reverse => Box::new(images.rev().filter_map(at_view)),
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The first batch after the view found what the view sees.
fn image_at(images: &VecDeque<Image>, view: SeqNo) -> Option<&Option<Bytes>> {
    let first_after = images.partition_point(|(seqno, _)| *seqno <= view);
    images.get(first_after).map(|(_, before)| before)
}

fn image_bytes(key: &Bytes, before: Option<&Bytes>) -> u64 {
    (2 * key.len() + before.map_or(0, Bytes::len)) as u64 + IMAGE_OVERHEAD_BYTES
}

/// Which of two keys a walk meets first.
pub(super) fn walk_order(direction: Direction, left: &Bytes, right: &Bytes) -> Ordering {
    match direction {
        Direction::Forward => left.cmp(right),
        Direction::Reverse => right.cmp(left),
    }
}
