//! Random numbers of a run. Every purpose has a source of its own, so that leaving one fault or one
//! operation out changes no other draw.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A seeded source. Clones draw from the same one.
#[derive(Clone)]
pub(crate) struct Chance(Rc<RefCell<SmallRng>>);

impl Chance {
    /// The source of `purpose` in the run of `seed`.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        });
        Self(Rc::new(RefCell::new(SmallRng::seed_from_u64(mixed))))
    }

    /// 64 random bits.
    pub(crate) fn bits(&self) -> u64 {
        self.0.borrow_mut().next_u64()
    }

    /// A number below `bound`, which is above 0.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// A number of `from..to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    /// True `percent` times in a hundred.
    pub(crate) fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration of `from..to` milliseconds.
    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    /// One of `items`, of which there are some.
    pub(crate) fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(items.len() as u64)).unwrap_or(0);
        &items[at]
    }

    /// The same, to be changed.
    pub(crate) fn pick_mut<'a, T>(&self, items: &'a mut [T]) -> &'a mut T {
        let at = usize::try_from(self.below(items.len() as u64)).unwrap_or(0);
        &mut items[at]
    }

    /// A part of `items` with `count` of them, in random order.
    pub(crate) fn sample<T: Clone>(&self, items: &[T], count: usize) -> Vec<T> {
        let mut left = items.to_vec();
        let mut taken = Vec::new();
        while taken.len() < count && !left.is_empty() {
            let at = usize::try_from(self.below(left.len() as u64)).unwrap_or(0);
            taken.push(left.swap_remove(at));
        }
        taken
    }
}
