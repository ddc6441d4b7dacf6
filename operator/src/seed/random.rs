//! Numbers that look random and always are the same: SplitMix64, keyed by what they are for.
//!
//! Each row has a generator of its own, so that row 7 is the same whether or not row 6 was made, and no row needs to be kept.

use uuid::{Builder, Uuid};

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of one row: `kind` keeps the streams of different tables apart.
    pub fn new(tenant: &str, kind: &str, row: u64) -> Self {
        // FNV-1a over the names, then one step of the generator to spread neighbouring rows.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in tenant.bytes().chain([0]).chain(kind.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut stream = Self(hash ^ row.wrapping_mul(0xd6e8_feb8_6659_fd93));
        stream.0 = stream.next();
        stream
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is far below 2^32.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((self.next() >> 32) * bound) >> 32
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// The index of a weight, drawn in proportion to the weights.
    pub fn weighted(&mut self, weights: impl Iterator<Item = u64> + Clone) -> usize {
        let mut left = self.below(weights.clone().sum());
        for (index, weight) in weights.enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        0
    }

    /// An element.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        &from[usize::try_from(index).unwrap_or(0)]
    }

    /// An identifier in the form of a random UUID.
    pub fn uuid(&mut self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_fixed_and_differ() {
        let id = |kind: &str, row| Stream::new("zava", kind, row).uuid();
        assert_eq!(id("order", 1), id("order", 1));
        assert_ne!(id("order", 1), id("order", 2));
        assert_ne!(id("order", 1), id("item", 1));
    }

    #[test]
    fn draws_stay_in_bounds_and_follow_the_weights() {
        let mut counts = [0_u32; 3];
        for row in 0..10_000 {
            let mut stream = Stream::new("t", "weights", row);
            assert!(stream.below(7) < 7);
            counts[stream.weighted([1, 0, 3].into_iter())] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_300..2_700).contains(&counts[0]), "{counts:?}");
    }
}
