//! Numbers by their place: each is a function of (seed, stream, index), so nothing needs to be
//! saved to go on after a checkpoint, and every machine draws the same.
//!
//! Each is three rounds of SplitMix64, one for each coordinate.

use bft_formats::Random;

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

/// The generator of number `index` of a stream.
pub(crate) fn numbered(seed: u64, stream: Stream, index: u64) -> Random {
    let (kind, of_kind) = match stream {
        Stream::Shuffle { epoch } => (1, epoch),
        Stream::LoraInit { pair } => (2, pair),
    };
    let mix = |x| Random::new(x).bits();
    Random::new(mix(mix(seed ^ (kind << 56)).wrapping_add(of_kind)).wrapping_add(index))
}

/// The order of `len` samples in an epoch: Fisher and Yates from the end.
pub(crate) fn shuffled(len: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, numbered(seed, Stream::Shuffle { epoch }, i as u64).below(i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn streams_draw_what_they_always_drew() {
        assert_eq!(shuffled(10, 7, 0), [6, 5, 0, 4, 8, 9, 7, 3, 2, 1]);
        assert_eq!(numbered(7, Stream::LoraInit { pair: 3 }, 5).bits(), 16_926_830_471_957_923_192);
    }
}
