//! A counter-based generator: a number is a function of (seed, stream, index), so nothing needs to be saved to go on
//! after a checkpoint, and every machine draws the same.
//!
//! Each number is three rounds of SplitMix64's finaliser (Steele, Lea and Flood 2014), one for each coordinate.

/// Streams that must not share numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    /// Order of the samples in an epoch.
    Shuffle {
        /// The epoch, from 0.
        epoch: u64,
    },
    /// Initial values of one LoRA matrix.
    LoraInit {
        /// Index of the pair.
        pair: u64,
    },
}

/// A stream of numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random {
    key: u64,
}

impl Random {
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let (kind, index) = match stream {
            Stream::Shuffle { epoch } => (1, epoch),
            Stream::LoraInit { pair } => (2, pair),
        };
        Self { key: mix(mix(seed ^ (kind << 56)).wrapping_add(index)) }
    }

    /// 64 random bits.
    pub(crate) fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index))
    }

    /// A whole number below `bound`, by multiplication; the bias is below bound / 2⁶⁴.
    pub(crate) fn below(self, index: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [−1, 1), a multiple of 2⁻²³, so that f32 holds it exactly.
    pub(crate) fn symmetric(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The order of `len` samples in an epoch: Fisher and Yates from the end.
pub(crate) fn shuffled(len: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let random = Random::new(seed, Stream::Shuffle { epoch });
    let mut order: Vec<u32> = (0..len).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64, i as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // The first outputs of the reference implementation from seed 1234567.
        let outputs: Vec<u64> =
            (0..3u64).map(|i| mix(1234567u64.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))).collect();
        assert_eq!(outputs, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn orders_are_permutations_that_differ_by_seed_and_epoch_and_never_change() {
        let order = shuffled(10, 7, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert_ne!(order, shuffled(10, 7, 1));
        assert_ne!(order, shuffled(10, 8, 0));
        assert_eq!(order, shuffled(10, 7, 0));
    }

    #[test]
    fn every_place_is_as_likely() {
        // 4,000 epochs of 4: a place is hit 1,000 times, give or take six standard deviations.
        let mut hits = [[0u32; 4]; 4];
        for epoch in 0..4000 {
            for (place, sample) in shuffled(4, 1, epoch).into_iter().enumerate() {
                hits[place][sample as usize] += 1;
            }
        }
        assert!(hits.iter().flatten().all(|h| (835..=1165).contains(h)), "{hits:?}");
    }

    #[test]
    fn symmetric_numbers_fill_their_range_evenly() {
        let random = Random::new(3, Stream::LoraInit { pair: 0 });
        let drawn: Vec<f32> = (0..20_000).map(|i| random.symmetric(i)).collect();
        assert!(drawn.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = drawn.iter().sum::<f32>() / 20_000.0;
        let square = drawn.iter().map(|x| x * x).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.025 && (square - 1.0 / 3.0).abs() < 0.02, "{mean} {square}");
    }
}
