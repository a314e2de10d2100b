//! One run in several processes, its ranks. Each step's samples are shared out, every rank computes
//! the gradient of its share, and the sums, added in the order of ranks, are what every rank's
//! optimizer sees.
//!
//! Losses divide by the whole step's samples and tokens (`StepTotals`), so that the sum is the
//! gradient one process would have, but for rounding. All ranks hold the whole adapter and its
//! moments and apply the same update.

use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::{Batch, LossConfig, StepTotals};
use bft_formats::Adapter;
use sha2::{Digest, Sha256};

use crate::batches::{BatchBounds, push_sample};
use crate::engine::{Engine, EngineError, LogProbs, Shareable};

/// The processes of a job, as one of them sees them. Every method but the first two is called by
/// all ranks together. A rank that is lost ends the job, so that none waits for ever: no method
/// returns an error.
pub trait Ranks {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn count(&self) -> usize;
    /// Every rank's bytes, in the order of ranks.
    fn gather(&self, mine: &[u8]) -> Vec<Vec<u8>>;
    /// Sends part r of `values`, `lengths[r]` long, to rank r. Returns this rank's part from every
    /// rank, in the order of ranks, one after another.
    fn transpose(&self, values: &[f32], lengths: &[usize]) -> Vec<f32>;
    /// Joins every rank's part, `lengths[r]` long, in `whole`.
    fn join(&self, part: &[f32], lengths: &[usize], whole: &mut [f32]);

    /// Replaces `values` by their sum over all ranks, added in the order of ranks: the same bits on
    /// every rank and in every run with as many ranks. Each rank adds up one part; 2·(N − 1)/N of
    /// the bytes leave each of N ranks.
    fn sum(&self, values: &mut [f32]) {
        // Pieces bound what is held beside the values.
        for piece in values.chunks_mut(1 << 24) {
            self.sum_piece(piece);
        }
    }

    #[doc(hidden)]
    fn sum_piece(&self, values: &mut [f32]) {
        let count = self.count();
        let lengths: Vec<usize> =
            (0..count).map(|r| (r + 1) * values.len() / count - r * values.len() / count).collect();
        let own = lengths[self.rank()];
        let parts = self.transpose(values, &lengths);
        let mut sum = parts[..own].to_vec();
        for part in parts[own..].chunks_exact(own.max(1)) {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        self.join(&sum, &lengths, values);
    }
}

/// Which rank takes each piece of work: the most costly first, each to the rank with the least so
/// far.
pub fn share_out(costs: &[usize], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(costs[i]));
    let mut load = vec![0; ranks];
    let mut takes = vec![0; costs.len()];
    for i in order {
        let least = (0..ranks).min_by_key(|&r| load[r]).unwrap_or(0);
        load[least] += costs[i];
        takes[i] = least;
    }
    takes
}

/// An engine on every rank that together do a run.
pub(crate) struct Together<'r, E, R> {
    engine: E,
    ranks: &'r R,
    /// What the engine's buffers hold.
    bounds: BatchBounds,
    /// LoRA dropout draws by micro-batch: then those are shared out whole, and not their samples.
    whole: bool,
    /// The step's micro-batches.
    step: Vec<Batch>,
    loss: Option<(StepTotals, LossConfig)>,
    /// Somebody asked this rank to stop.
    asked: &'r AtomicBool,
    /// Some rank was asked to; set on all between the same two steps.
    stop: &'r AtomicBool,
}

impl<'r, E: Shareable, R: Ranks> Together<'r, E, R> {
    pub fn new(
        engine: E,
        ranks: &'r R,
        bounds: BatchBounds,
        whole: bool,
        asked: &'r AtomicBool,
        stop: &'r AtomicBool,
    ) -> Self {
        Self { engine, ranks, bounds, whole, step: Vec::new(), loss: None, asked, stop }
    }

    /// Computes this rank's share of the step.
    async fn accumulate_share(&mut self) -> Result<(), EngineError> {
        let step = std::mem::take(&mut self.step);
        let Some((totals, loss)) = self.loss.take() else {
            return Ok(());
        };
        let (rank, count) = (self.ranks.rank(), self.ranks.count());
        if !self.whole {
            for batch in share_of(&step, rank, count, self.bounds) {
                self.engine.accumulate(&batch, totals, &loss).await?;
            }
            return Ok(());
        }
        let costs: Vec<usize> = step.iter().map(|batch| batch.tokens.len()).collect();
        for (batch, taker) in step.iter().zip(share_out(&costs, count)) {
            if taker == rank {
                self.engine.accumulate(batch, totals, &loss).await?;
            } else if !batch.trained.is_empty() {
                self.engine.pass_over();
            }
        }
        Ok(())
    }
}

/// Stops where the ranks' adapters are not, or no longer, the same.
pub(crate) fn check_adapter(ranks: &impl Ranks, adapter: &Adapter) -> Result<(), EngineError> {
    let mut hash = Sha256::new();
    for pair in &adapter.pairs {
        for (_, _, values) in pair.tensors() {
            hash.update(bytemuck::cast_slice::<f32, u8>(values));
        }
    }
    check_same(ranks, "the adapter", hash.finalize().as_slice())
}

/// Stops where something that must be the same on all ranks is not.
pub(crate) fn check_same(ranks: &impl Ranks, what: &str, mine: &[u8]) -> Result<(), EngineError> {
    let all = ranks.gather(mine);
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(other) => Err(format!(
            "{what} of rank {other} is not that of rank 0: give every rank the same files and the same kind of device"
        )
        .into()),
    }
}

/// The samples of a step that one rank takes, in micro-batches as large as `bounds` allow.
fn share_of(step: &[Batch], rank: usize, count: usize, bounds: BatchBounds) -> Vec<Batch> {
    let samples: Vec<(&Batch, usize)> =
        step.iter().flat_map(|batch| (0..batch.segments.len() - 1).map(move |sample| (batch, sample))).collect();
    let size = |(batch, sample): (&Batch, usize)| BatchBounds {
        tokens: (batch.segments[sample + 1] - batch.segments[sample]) as usize,
        trained: (batch.trained_segments[sample + 1] - batch.trained_segments[sample]) as usize,
        samples: 1,
    };
    let costs: Vec<usize> = samples.iter().map(|at| size(*at).tokens).collect();
    let mut batches: Vec<Batch> = Vec::new();
    let mut last = BatchBounds::default();
    for (at, taker) in samples.into_iter().zip(share_out(&costs, count)) {
        if taker != rank {
            continue;
        }
        let with = last.plus(size(at));
        last = if with.fits(bounds) { with } else { size(at) };
        if batches.is_empty() || last != with {
            batches.push(Batch::untrained(Vec::new(), vec![0]));
        }
        if let Some(batch) = batches.last_mut() {
            push_sample(batch, at.0, at.1);
        }
    }
    batches
}

impl<E: Shareable, R: Ranks> LogProbs for Together<'_, E, R> {
    /// Each rank computes some of the samples; all get all.
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let samples = batch.segments.windows(2);
        let costs: Vec<usize> = samples.map(|s| (s[1] - s[0]) as usize).collect();
        let takers = share_out(&costs, self.ranks.count());
        let mut mine = Batch::untrained(Vec::new(), vec![0]);
        for (sample, taker) in takers.iter().enumerate() {
            if *taker == self.ranks.rank() {
                push_sample(&mut mine, batch, sample);
            }
        }
        let found = if mine.trained.is_empty() { Vec::new() } else { self.engine.log_probs(&mine).await? };
        let all = self.ranks.gather(bytemuck::cast_slice(&found));
        let mut shares: Vec<_> = all
            .iter()
            .map(|bytes| {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|word| f32::from_ne_bytes(*word))
            })
            .collect();
        let trained = batch.trained_segments.windows(2);
        Ok(trained
            .zip(takers)
            .flat_map(|(range, taker)| {
                let count = (range[1] - range[0]) as usize;
                shares[taker].by_ref().take(count).collect::<Vec<f32>>()
            })
            .collect())
    }
}

impl<E: Shareable, R: Ranks> Engine for Together<'_, E, R> {
    type Tuning = E::Tuning;

    fn tuning(&mut self) -> &mut E::Tuning {
        self.engine.tuning()
    }

    /// Keeps the micro-batch until the step's last is known, for only then can the step be shared
    /// out evenly.
    async fn accumulate(&mut self, batch: &Batch, totals: StepTotals, loss: &LossConfig) -> Result<(), EngineError> {
        self.step.push(batch.clone());
        self.loss = Some((totals, *loss));
        Ok(())
    }

    async fn complete_step(&mut self) -> Result<(), EngineError> {
        self.accumulate_share().await?;
        let mut sums = self.engine.step_sums().await?;
        sums.push(f32::from(self.asked.load(Ordering::Relaxed)));
        self.ranks.sum(&mut sums);
        if sums.pop().is_some_and(|asked| asked > 0.0) {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.engine.set_step_sums(&sums)
    }

    fn check_adapter(&self, adapter: &Adapter) -> Result<(), EngineError> {
        check_adapter(self.ranks, adapter)
    }
}

#[cfg(test)]
#[path = "ranks/tests.rs"]
mod tests;
