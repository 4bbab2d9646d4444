//! Chance from the bytes of one input. When they are used up every roll is 0, which always stands
//! for the plain case: so a shortened input is a simpler session.

/// A source of rolls.
pub(in crate::proxy::tests) struct Dice {
    bytes: Vec<u8>,
    at: usize,
}

impl Dice {
    pub(in crate::proxy::tests) fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            at: 0,
        }
    }

    /// A number below `sides`.
    pub(in crate::proxy::tests) fn roll(&mut self, sides: u8) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte % sides
    }

    /// True once in so many times, and never for 0.
    pub(in crate::proxy::tests) fn once_in(&mut self, times: u8) -> bool {
        times > 0 && self.roll(times) == times - 1
    }

    /// Each of the flags, with one chance in so many.
    pub(in crate::proxy::tests) fn some_of<F: FromIterator<F>>(
        &mut self,
        flags: impl Iterator<Item = F>,
        times: u8,
    ) -> F {
        flags.filter(|_| self.once_in(times)).collect()
    }
}
