//! Samples to packed micro-batches, in an order that a cursor of two numbers continues.

use bft_core::{Batch, StepTotals};

use crate::random::shuffled;
use crate::rows::MASKED;
use crate::samples::Sample;

/// How samples are grouped and ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Samples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub grad_accum: usize,
    /// Seed of the order, a new order each epoch; `None` keeps file order.
    pub shuffle: Option<u64>,
}

impl BatchOptions {
    /// Samples in an optimizer step that is not the last of its epoch.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.grad_accum)
    }

    /// Optimizer steps in an epoch of `samples`; the last may be short.
    pub fn steps_per_epoch(&self, samples: usize) -> u64 {
        samples.div_ceil(self.samples_per_step()) as u64
    }
}

/// Where in the data a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Epochs completed.
    pub epoch: u64,
    /// Samples of this epoch already used.
    pub position: u64,
}

/// The micro-batches of one optimizer step.
#[derive(Debug, Clone)]
pub struct StepBatches {
    /// Micro-batches, in order.
    pub batches: Vec<Batch>,
    /// What the losses are averaged over.
    pub totals: StepTotals,
    /// All tokens of the step, masked ones too.
    pub tokens: usize,
    /// The cursor after this step.
    pub next: Cursor,
}

/// Walks the samples, a step at a time, for ever.
#[derive(Debug)]
pub struct Loader<'s> {
    samples: &'s [Sample],
    options: BatchOptions,
    cursor: Cursor,
    /// Order of the cursor's epoch.
    order: Vec<u32>,
}

impl<'s> Loader<'s> {
    /// A loader at `cursor`. `samples` must not be empty; a position at or past its end begins the
    /// next epoch.
    pub fn new(samples: &'s [Sample], options: BatchOptions, cursor: Cursor) -> Self {
        let mut loader = Self { samples, options, cursor, order: Vec::new() };
        loader.sort();
        loader.wrap();
        loader
    }

    /// Where the next step begins.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    fn sort(&mut self) {
        let len = u32::try_from(self.samples.len()).unwrap_or(u32::MAX);
        self.order = match self.options.shuffle {
            Some(seed) => shuffled(len, seed, self.cursor.epoch),
            None => (0..len).collect(),
        };
    }

    fn wrap(&mut self) {
        if self.cursor.position >= self.order.len() as u64 {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
            if self.options.shuffle.is_some() {
                self.sort();
            }
        }
    }

    /// The next step: the next samples of this epoch, fewer where the epoch ends.
    pub fn next_step(&mut self) -> StepBatches {
        let start = self.cursor.position as usize;
        let end = start.saturating_add(self.options.samples_per_step()).min(self.order.len());
        let chosen: Vec<&Sample> = self.order[start..end].iter().map(|&i| &self.samples[i as usize]).collect();
        let batches: Vec<Batch> = chosen.chunks(self.options.batch_size).map(pack).collect();
        let totals = StepTotals { samples: chosen.len(), tokens: batches.iter().map(|b| b.trained.len()).sum() };
        self.cursor.position = end as u64;
        self.wrap();
        StepBatches { tokens: batches.iter().map(|b| b.tokens.len()).sum(), batches, totals, next: self.cursor }
    }
}

/// Lays samples end to end. Position t of a sample is trained where token t + 1 has a label.
pub fn pack(samples: &[&Sample]) -> Batch {
    let mut batch = Batch {
        tokens: Vec::with_capacity(samples.iter().map(|s| s.tokens.len()).sum()),
        segments: vec![0],
        trained: Vec::new(),
        labels: Vec::new(),
        trained_segments: vec![0],
    };
    for sample in samples {
        let start = batch.tokens.len();
        batch.tokens.extend_from_slice(&sample.tokens);
        for (t, &label) in sample.labels.iter().skip(1).enumerate() {
            if label != MASKED {
                batch.trained.push((start + t) as u32);
                batch.labels.push(label as u32);
            }
        }
        batch.segments.push(batch.tokens.len() as u32);
        batch.trained_segments.push(batch.trained.len() as u32);
    }
    batch
}

/// Appends sample `sample` of one batch to another.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn push_sample(to: &mut Batch, from: &Batch, sample: usize) {
    let range = |bounds: &[u32]| bounds[sample] as usize..bounds[sample + 1] as usize;
    let (tokens, trained) = (range(&from.segments), range(&from.trained_segments));
    let (begins, began) = (to.tokens.len() as u32, tokens.start as u32);
    to.tokens.extend_from_slice(&from.tokens[tokens]);
    let positions = &from.trained[trained.clone()];
    to.trained.extend(positions.iter().map(|t| t - began + begins));
    to.labels.extend_from_slice(&from.labels[trained]);
    to.segments.push(to.tokens.len() as u32);
    to.trained_segments.push(to.trained.len() as u32);
}

/// The largest micro-batch that can come up, which buffers are sized for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct BatchBounds {
    /// N: tokens.
    pub tokens: usize,
    /// R: trained positions.
    pub trained: usize,
    /// S: samples.
    pub samples: usize,
}

impl BatchBounds {
    /// Bounds of training: any `batch_size` samples may meet when shuffled; in file order the
    /// groups are known.
    pub fn of_training(samples: &[Sample], options: &BatchOptions) -> Self {
        let size = options.batch_size.min(samples.len());
        let largest = |measure: fn(&Sample) -> usize| -> usize {
            let mut each: Vec<usize> = samples.iter().map(measure).collect();
            if options.shuffle.is_some() {
                each.sort_unstable_by(|a, b| b.cmp(a));
                return each[..size].iter().sum();
            }
            each.chunks(options.samples_per_step())
                .flat_map(|step| step.chunks(options.batch_size))
                .map(|group| group.iter().sum())
                .max()
                .unwrap_or(0)
        };
        Self { tokens: largest(|s| s.tokens.len()), trained: largest(Sample::trained), samples: size }
    }

    /// Bounds that hold for both.
    pub fn union(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            trained: self.trained.max(other.trained),
            samples: self.samples.max(other.samples),
        }
    }

    /// Of both, one after the other.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            trained: self.trained + other.trained,
            samples: self.samples + other.samples,
        }
    }

    /// Whether a micro-batch of this size fits buffers of that.
    pub fn fits(self, buffers: Self) -> bool {
        self.union(buffers) == buffers
    }

    /// Bounds of one sample.
    pub fn of_sample(sample: &Sample) -> Self {
        Self { tokens: sample.tokens.len(), trained: sample.trained(), samples: 1 }
    }
}

/// Groups of consecutive samples, each as large as `bounds` allow; a sample that exceeds them goes
/// alone.
pub fn groups(samples: &[Sample], bounds: BatchBounds) -> impl Iterator<Item = &[Sample]> {
    groups_of(samples, bounds, BatchBounds::of_sample)
}

/// As [`groups`], of whatever has bounds.
pub(crate) fn groups_of<T>(
    items: &[T],
    bounds: BatchBounds,
    of: impl Fn(&T) -> BatchBounds,
) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = BatchBounds::default();
        let fits = |item: &&T| {
            sum = sum.plus(of(item));
            sum.fits(bounds)
        };
        let taken = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, left) = rest.split_at(taken);
        rest = left;
        (!group.is_empty()).then_some(group)
    })
}

#[cfg(test)]
#[path = "batches/tests.rs"]
mod tests;
