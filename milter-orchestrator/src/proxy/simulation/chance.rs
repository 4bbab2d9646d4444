//! Chance from a seed: the same numbers in the same order, everywhere and always.

/// A source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`.
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.next() % sides.max(1)
    }

    /// The same for places in a list.
    pub(super) fn place(&mut self, sides: usize) -> usize {
        usize::try_from(self.below(sides as u64)).unwrap_or(0)
    }

    /// True once in so many times; never for 0.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// Each of the flags, with one chance in so many.
    pub(super) fn some_of<F: FromIterator<F>>(
        &mut self,
        flags: impl Iterator<Item = F>,
        times: u64,
    ) -> F {
        flags.filter(|_| self.once_in(times)).collect()
    }
}
