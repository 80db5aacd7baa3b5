//! A set of small numbers.

/// One bit a number.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// An empty set of numbers below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self(vec![0; bound.div_ceil(64)])
    }

    pub(super) fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// The words from the first gap on, and where they begin: all of a set whose small numbers are in.
    pub(super) fn tail(&self) -> (usize, &[u64]) {
        let gap = self.0.iter().position(|word| *word != u64::MAX).unwrap_or(self.0.len());
        let end = self.0.iter().rposition(|word| *word != 0).map_or(gap, |last| gap.max(last + 1));
        (gap, &self.0[gap..end])
    }

    /// Whether the set with these words is a part of this one.
    pub(super) fn includes(&self, words: &[u64]) -> bool {
        words.iter().zip(&self.0).all(|(part, word)| part & !word == 0)
    }
}
