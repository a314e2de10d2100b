//! One micro-batch of packed samples, on the host and on the device.

use super::ModelError;
use super::plan::LongTexts;
use crate::device::{Device, DeviceError, Elem, View};

/// One micro-batch: samples one after another, no padding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// `[N]` token ids of all samples.
    pub tokens: Vec<u32>,
    /// `[S + 1]` where each sample starts in `tokens`; the last entry is N.
    pub segments: Vec<u32>,
    /// `[R]` positions t whose next token is trained, ascending. For log-probabilities alone a
    /// position may be there several times, with several labels.
    pub trained: Vec<u32>,
    /// `[R]` those next tokens.
    pub labels: Vec<u32>,
    /// `[S + 1]` where each sample starts in `trained`; the last entry is R.
    pub trained_segments: Vec<u32>,
}

/// The largest micro-batch that buffers are planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Largest N.
    pub tokens: usize,
    /// Largest R.
    pub trained: usize,
    /// Largest S.
    pub samples: usize,
}

/// Tokens beyond which no device holds a pass: sizes of buffers stay far from overflowing.
pub(crate) const MOST_TOKENS: usize = 1 << 28;

impl Capacity {
    /// Checks that sizes of buffers can be counted, whatever was asked for.
    pub(crate) fn check(&self, longest: usize) -> Result<(), ModelError> {
        for (what, found) in [
            ("tokens in a micro-batch", self.tokens),
            ("trained tokens in a micro-batch", self.trained),
            ("samples in a micro-batch", self.samples),
            ("tokens in a text", longest),
        ] {
            if found > MOST_TOKENS {
                return Err(ModelError::TooMany { what, found, most: MOST_TOKENS });
            }
        }
        Ok(())
    }
}

impl Batch {
    /// A batch without trained positions, for embedding: every sample's tokens in order.
    #[must_use]
    pub fn untrained(tokens: Vec<u32>, segments: Vec<u32>) -> Self {
        let trained_segments = vec![0; segments.len()];
        Self { tokens, segments, trained_segments, ..Self::default() }
    }

    /// Checks that the parts hang together, fit the plan, and name tokens of the vocabulary.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self, capacity: Capacity, vocab_size: usize) -> Result<(), ModelError> {
        let refuse = |what: String| Err(ModelError::Batch(what));
        let (tokens, trained) = (self.tokens.len(), self.trained.len());
        for (name, bounds, last) in
            [("segments", &self.segments, tokens), ("trained_segments", &self.trained_segments, trained)]
        {
            let ordered = bounds.windows(2).all(|pair| pair[0] <= pair[1]);
            if bounds.first() != Some(&0) || bounds.last() != Some(&(last as u32)) || !ordered {
                return refuse(format!("{name} must rise from 0 to {last}"));
            }
        }
        if self.segments.len() != self.trained_segments.len() || self.labels.len() != trained {
            return refuse("tokens, segments, trained and labels disagree in length".into());
        }
        for (name, found, most) in [
            ("tokens", tokens, capacity.tokens),
            ("trained tokens", trained, capacity.trained),
            ("samples", self.segments.len() - 1, capacity.samples),
        ] {
            if found > most {
                return refuse(format!("{found} {name}, the run was planned for {most}"));
            }
        }
        if tokens == 0 {
            return refuse("it holds no tokens".into());
        }
        if let Some(id) = self.tokens.iter().chain(&self.labels).find(|id| **id as usize >= vocab_size) {
            return refuse(format!("token id {id}, the model's vocabulary has {vocab_size}"));
        }
        let samples = self.segments.windows(2).zip(self.trained_segments.windows(2));
        for (tokens, trained) in samples {
            let positions = &self.trained[trained[0] as usize..trained[1] as usize];
            let rising = positions.is_sorted();
            let inside = positions.iter().all(|position| (tokens[0]..tokens[1].saturating_sub(1)).contains(position));
            if !rising || !inside {
                return refuse("a trained position lies outside of its sample, or is its last".into());
            }
        }
        Ok(())
    }

    /// As [`Self::check`], before gradients are taken: a position's gradient is written, not added,
    /// so that none may be there twice.
    ///
    /// # Errors
    /// Says what does not hold.
    pub(crate) fn check_trained(&self, capacity: Capacity, vocab_size: usize) -> Result<(), ModelError> {
        self.check(capacity, vocab_size)?;
        match self.trained.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ModelError::Batch(format!("position {} is trained twice", pair[0]))),
            None => Ok(()),
        }
    }
}

/// Numbers of tokens, from `most` down to `least`, that meet every class of calls up to there:
/// classes are powers of two wide, and kernels may change within one, so that the first and the
/// last number of each is here.
pub(crate) fn every_class(least: usize, most: usize) -> Vec<usize> {
    let classes = (0..usize::BITS - most.leading_zeros()).rev();
    let ends = classes.flat_map(|class| [((2 << class) - 1).min(most), 1 << class]);
    let mut sizes: Vec<usize> = ends.filter(|size| *size >= least).collect();
    sizes.dedup();
    sizes
}

impl Batch {
    /// `[N]` place of each token in its sample.
    pub(crate) fn places(&self) -> Vec<u32> {
        self.segments.windows(2).flat_map(|bounds| 0..bounds[1] - bounds[0]).collect()
    }

    /// `[N]` row of each token in a table of places, of which `padding`'s own row is the first:
    /// other tokens are counted from behind it.
    pub(crate) fn places_behind(&self, padding: u32) -> Vec<u32> {
        let mut rows = Vec::with_capacity(self.tokens.len());
        for bounds in self.segments.windows(2) {
            let mut counted = 0;
            for token in &self.tokens[bounds[0] as usize..bounds[1] as usize] {
                counted += u32::from(*token != padding);
                rows.push(if *token == padding { padding } else { padding + counted });
            }
        }
        rows
    }

    /// So many tokens in samples as long as they may be, as many of them trained as there is room
    /// for.
    pub(crate) fn largest(tokens: usize, capacity: Capacity, max_length: usize) -> Self {
        let mut batch = Self::untrained(vec![0; tokens], vec![0]);
        for start in (0..tokens).step_by(max_length) {
            let end = tokens.min(start + max_length);
            let room = capacity.trained - batch.trained.len();
            let trained = (start..end - 1).take(room).map(|t| t as u32);
            batch.trained.extend(trained);
            batch.segments.push(end as u32);
            batch.trained_segments.push(batch.trained.len() as u32);
        }
        batch.labels = vec![0; batch.trained.len()];
        batch
    }

    /// Checks that every sample has a token, and so a vector.
    pub(crate) fn check_every_sample(&self) -> Result<(), ModelError> {
        if self.segments.windows(2).any(|bounds| bounds[0] == bounds[1]) {
            return Err(ModelError::Batch("a text without tokens has no vector".into()));
        }
        Ok(())
    }
}

/// A batch's ids on the device.
#[derive(Debug)]
pub(crate) struct BatchBuffers {
    tokens: View,
    positions: View,
    /// Where they differ from the positions.
    rope_rows: Option<(LongTexts, View)>,
    spans: View,
    segments: View,
    trained: View,
    labels: View,
    trained_segments: View,
}

/// Views of exactly one batch's ids.
#[derive(Debug, Clone)]
pub(crate) struct BatchViews {
    /// `[N]`
    pub tokens: View,
    /// `[N]` place of each token in its sample.
    pub positions: View,
    /// `[N]` the row of the ropes' tables for each token.
    pub rope_rows: View,
    /// `[N, 2]` first token of its sample, one past its last.
    pub spans: View,
    /// `[S + 1]`
    pub segments: View,
    /// `[R]`
    pub trained: View,
    /// `[R]`
    pub labels: View,
    /// `[S + 1]`
    pub trained_segments: View,
}

impl BatchBuffers {
    pub fn new(device: &Device, capacity: Capacity, long: Option<LongTexts>) -> Result<Self, DeviceError> {
        let ids = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::U32, len)?.view());
        Ok(Self {
            tokens: ids("tokens", capacity.tokens)?,
            positions: ids("positions", capacity.tokens)?,
            rope_rows: match long {
                Some(long) => Some((long, ids("rope rows", capacity.tokens)?)),
                None => None,
            },
            spans: ids("spans", capacity.tokens * 2)?,
            segments: ids("segments", capacity.samples + 1)?,
            trained: ids("trained", capacity.trained)?,
            labels: ids("labels", capacity.trained)?,
            trained_segments: ids("trained segments", capacity.samples + 1)?,
        })
    }

    /// The ids of some rows, for a head that sees them alone.
    pub fn trained_rows(&self, device: &Device, rows: &[u32]) -> Result<View, DeviceError> {
        let view = self.trained.first(rows.len());
        device.write_u32(&view, rows)?;
        Ok(view)
    }

    /// Gives each token its place in a text in progress: the position, and how many tokens the text
    /// has with the pass's own.
    pub fn place(&self, device: &Device, ids: &BatchViews, places: &[(u32, usize)]) -> Result<(), DeviceError> {
        let positions: Vec<u32> = places.iter().map(|(position, _)| *position).collect();
        device.write_u32(&ids.positions, &positions)?;
        if let Some((long, _)) = &self.rope_rows {
            let rows: Vec<u32> = places.iter().map(|(position, total)| long.row(*total) + position).collect();
            device.write_u32(&ids.rope_rows, &rows)?;
        }
        Ok(())
    }

    pub fn upload(&self, device: &Device, batch: &Batch) -> Result<BatchViews, DeviceError> {
        self.upload_at(device, batch, &batch.places())
    }

    /// As [`Self::upload`], with the positions `[N]` that tokens are to have.
    pub fn upload_at(&self, device: &Device, batch: &Batch, positions: &[u32]) -> Result<BatchViews, DeviceError> {
        let (mut rope_rows, mut spans) = (Vec::new(), Vec::new());
        for bounds in batch.segments.windows(2) {
            if let Some((long, _)) = &self.rope_rows {
                let tokens = bounds[1] - bounds[0];
                let first = long.row(tokens as usize);
                rope_rows.extend(first..first + tokens);
            }
            spans.extend((bounds[0]..bounds[1]).flat_map(|_| [bounds[0], bounds[1]]));
        }
        let put = |view: &View, ids: &[u32]| {
            let view = view.first(ids.len());
            device.write_u32(&view, ids)?;
            Ok::<_, DeviceError>(view)
        };
        let positions = put(&self.positions, positions)?;
        Ok(BatchViews {
            tokens: put(&self.tokens, &batch.tokens)?,
            rope_rows: match &self.rope_rows {
                Some((_, view)) => put(view, &rope_rows)?,
                None => positions.clone(),
            },
            positions,
            spans: put(&self.spans, &spans)?,
            segments: put(&self.segments, &batch.segments)?,
            trained: put(&self.trained, &batch.trained)?,
            labels: put(&self.labels, &batch.labels)?,
            trained_segments: put(&self.trained_segments, &batch.trained_segments)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Capacity, every_class};

    #[test]
    fn both_ends_of_every_class_are_met_once() {
        assert_eq!(every_class(1, 20), [20, 16, 15, 8, 7, 4, 3, 2, 1]);
        assert_eq!(every_class(2, 16), [16, 15, 8, 7, 4, 3, 2]);
        assert_eq!(every_class(1, 1), [1]);
        assert!(every_class(2, 1).is_empty());
    }

    #[test]
    fn padding_has_no_place_of_its_own() {
        let batch = Batch::untrained(vec![5, 1, 7, 8, 9, 1], vec![0, 4, 6]);
        assert_eq!(batch.places(), [0, 1, 2, 3, 0, 1]);
        assert_eq!(batch.places_behind(1), [2, 1, 3, 4, 2, 1]);
    }

    #[test]
    fn the_largest_batch_of_any_size_fits_the_plan() {
        let capacity = Capacity { tokens: 20, trained: 11, samples: 3 };
        for tokens in every_class(2, 20) {
            let batch = Batch::largest(tokens, capacity, 8);
            batch.check(capacity, 1).expect("a sound batch");
            assert_eq!(batch.tokens.len(), tokens);
        }
    }
}
