//! The head: from the residual stream to log-probabilities of the right tokens, and the loss back
//! to the stream.
//!
//! Only trained positions reach it, and their logits are made a chunk of the vocabulary at a time
//! and used up at once: `[R, V]` never exists. One sweep suffices also for the gradient, because
//! the weight of a token is a factor of its whole row: Σ_v p_v·W_v is gathered beside the sum of
//! exponentials, as attention gathers its values, and scaled when the weights are known.

use std::ops::Range;

use super::batch::{BatchViews, Capacity};
use super::weights::Weights;
use crate::device::{Device, DeviceError, Elem, Matrix, Recording, View, Weight};
use crate::loss::{LossConfig, StepTotals};
use crate::ops::anchor::{Kept, Swept};
use crate::ops::{anchor, embedding, gather, head, linear, loss_weights, rms_norm, soft_cap};

/// Elements of a chunk of logits on a GPU, where fewer calls count.
const GPU_CHUNK: usize = 4 << 20;
/// And on a CPU, where it stays in a cache.
const CPU_CHUNK: usize = 1 << 20;

/// Vocabulary rows whose logits of `trained` positions are made at once on that device, where the
/// vocabulary has as many.
#[must_use]
pub fn head_rows_at_once(device: &Device, trained: usize) -> usize {
    let elements = if device.is_gpu() { GPU_CHUNK } else { CPU_CHUNK };
    (elements / trained.max(1)).max(Weight::ROW_ALIGN)
}

/// What a head's buffers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// No gradient.
    Score,
    /// Gradients.
    Train,
    /// Gradients of losses that may be anchored to the base.
    TrainAnchored,
}

/// Buffers of the head.
#[derive(Debug)]
pub(crate) struct HeadBuffers {
    /// `[R, C]` a chunk of logits.
    logits: View,
    /// `[R, H]` trained rows of the residual stream.
    picked: View,
    /// `[R, H]` those normalised; backward, their gradient.
    hidden: View,
    /// `[R, 4]` of [`head::online_softmax`].
    state: View,
    /// `[R]`
    pub log_p: View,
    /// Only where gradients are taken.
    backward: Option<HeadBackward>,
}

#[derive(Debug)]
struct HeadBackward {
    /// `[R, H]` Σ_v e_v·W_v
    acc: View,
    /// `[R, H]` W of the right tokens; then the gradient of the picked rows.
    targets: View,
    /// `[R, C]` slopes of a chunk's logits, where they have a cap.
    slopes: Option<View>,
    /// `[R]` weight of each token's gradient.
    coefficients: View,
    /// `[S, 2]`
    sample_terms: View,
    anchor: Option<Anchor>,
}

/// What is kept of the base, and how far the tuned model is from it.
#[derive(Debug)]
struct Anchor {
    /// `[R, H]`
    mean: View,
    /// `[R]`
    entropy: View,
    /// `[R]`
    divergence: View,
}

impl Anchor {
    /// What is kept of the base in R rows of H.
    fn kept(&self, r: usize, h: usize) -> [View; 2] {
        [self.mean.first(r * h), self.entropy.first(r)]
    }
}

impl HeadBuffers {
    pub fn new(device: &Device, weights: &Weights, capacity: Capacity, purpose: Purpose) -> Result<Self, DeviceError> {
        let (r, h) = (capacity.trained.max(1), weights.config.hidden_size);
        let zeros = |label: &str, len: usize| Ok::<_, DeviceError>(device.alloc(label, Elem::F32, len)?.view());
        let chunk = whole_chunk(head_rows_at_once(device, r), weights);
        let anchor = || {
            Ok::<_, DeviceError>(Anchor {
                mean: zeros("head rows of the base", r * h)?,
                entropy: zeros("entropy of the base", r)?,
                divergence: zeros("divergence from the base", r)?,
            })
        };
        let backward = || {
            let slopes = weights.config.logits_cap.map(|_| zeros("slopes of logits", r * chunk));
            Ok::<_, DeviceError>(HeadBackward {
                slopes: slopes.transpose()?,
                acc: zeros("weighted head rows", r * h)?,
                targets: zeros("right head rows", r * h)?,
                coefficients: zeros("token weights", r)?,
                sample_terms: zeros("sample terms", capacity.samples * 2)?,
                anchor: (purpose == Purpose::TrainAnchored).then(anchor).transpose()?,
            })
        };
        Ok(Self {
            logits: zeros("logits", r * chunk)?,
            picked: zeros("trained rows", r * h)?,
            hidden: zeros("normalised trained rows", r * h)?,
            state: zeros("softmax state", r * 4)?,
            log_p: zeros("log-probabilities", r)?,
            backward: (purpose != Purpose::Score).then(backward).transpose()?,
        })
    }
}

/// Records the normalised trained rows `[R, H]` of the last block's output x `[N, H]`.
fn hidden(rec: &mut Recording, weights: &Weights, buffers: &HeadBuffers, ids: &BatchViews, x: &View) -> View {
    let (r, h) = (ids.trained.len(), weights.config.hidden_size);
    let (picked, hidden) = (buffers.picked.first(r * h), buffers.hidden.first(r * h));
    gather::forward(rec, &ids.trained, x, &picked, h);
    rms_norm::forward(rec, &picked, &weights.head_norm, &hidden, h, weights.config.rms_norm_eps);
    hidden
}

/// Records the logits of the R trained rows of the last block's output x `[N, H]`: one chunk of the
/// vocabulary after the other, `[R, rows]` each.
pub(crate) fn logits(
    rec: &mut Recording,
    weights: &Weights,
    buffers: &HeadBuffers,
    ids: &BatchViews,
    x: &View,
    logits: &View,
) {
    let (hidden, r) = (hidden(rec, weights, buffers, ids, x), ids.trained.len());
    for rows in vocabulary_chunks(weights) {
        let matrix = Matrix::rows_of(&weights.head, rows.start, rows.len());
        linear::forward(rec, &hidden, &matrix, &logits.slice(rows.start * r..rows.end * r), 1.0, false);
    }
    if let Some(cap) = weights.config.logits_cap {
        soft_cap::forward(rec, &logits.first(r * weights.head.rows()), None, cap);
    }
}

/// Rows of the head that a device can bind at once.
fn vocabulary_chunks(weights: &Weights) -> impl Iterator<Item = Range<usize>> {
    let (all, at_once) = (weights.head.rows(), weights.head_rows);
    (0..all).step_by(at_once).map(move |first| first..all.min(first + at_once))
}

/// `[R, V]` of what [`logits`] wrote.
pub(crate) fn rows_of_logits(weights: &Weights, mut written: Vec<f32>, r: usize) -> Vec<f32> {
    let vocab = weights.config.vocab_size;
    if r == 1 || (weights.head.rows() == vocab && weights.head_rows >= vocab) {
        written.truncate(r * vocab);
        return written;
    }
    let mut rows = Vec::with_capacity(r * vocab);
    for row in 0..r {
        for chunk in vocabulary_chunks(weights) {
            let first = chunk.start * r + row * chunk.len();
            // The last chunk may hold rows that only fill the matrix up.
            let len = chunk.end.min(vocab).saturating_sub(chunk.start);
            rows.extend_from_slice(&written[first..first + len]);
        }
    }
    rows
}

/// Vocabulary rows of a chunk for which there is room for `rows`: all, or as many as views may
/// begin behind.
fn whole_chunk(rows: usize, weights: &Weights) -> usize {
    let all = weights.head.rows();
    if rows >= all.min(weights.head_rows) {
        return all.min(weights.head_rows);
    }
    rows / Weight::ROW_ALIGN * Weight::ROW_ALIGN
}

/// Records log p of every trained token of the batch from the last block's output `[N, H]`. With
/// `gradient`, also what [`backward`] needs.
pub(crate) fn forward(
    rec: &mut Recording,
    weights: &Weights,
    buffers: &HeadBuffers,
    ids: &BatchViews,
    x: &View,
    gradient: bool,
) {
    let config = &weights.config;
    let (r, h) = (ids.trained.len(), config.hidden_size);
    let hidden = hidden(rec, weights, buffers, ids, x);
    let state = buffers.state.first(r * 4);
    head::begin(rec, &state);
    let acc = buffers.backward.as_ref().filter(|_| gradient).map(|backward| backward.acc.first(r * h));
    if let Some(acc) = &acc {
        rec.clear(acc);
    }
    // Buffers are planned for the largest R, whose chunk is the narrowest; fewer rows leave room
    // for wider ones.
    let chunk = whole_chunk(buffers.logits.len() / r, weights);
    for first in (0..weights.head.rows()).step_by(chunk) {
        let rows = chunk.min(weights.head.rows() - first);
        let matrix = Matrix::rows_of(&weights.head, first, rows);
        let logits = buffers.logits.first(r * rows);
        linear::forward(rec, &hidden, &matrix, &logits, 1.0, false);
        let slopes = buffers.backward.as_ref().filter(|_| gradient).and_then(|backward| backward.slopes.as_ref());
        let slopes = slopes.map(|slopes| slopes.first(logits.len()));
        if let Some(cap) = config.logits_cap {
            soft_cap::forward(rec, &logits, slopes.as_ref(), cap);
        }
        head::online_softmax(rec, &logits, &ids.labels, &state, first, config.vocab_size);
        if let Some(acc) = &acc {
            head::rescale(rec, acc, &state, h);
            if let Some(slopes) = &slopes {
                soft_cap::multiply(rec, &logits, slopes);
            }
            linear::backward(rec, &logits, &matrix, acc, 1.0, true);
        }
    }
    head::log_prob(rec, &state, &buffers.log_p.first(r));
}

/// Records what an anchored loss keeps of the base, whose last block's output `[N, H]` x is.
pub(crate) fn remember(rec: &mut Recording, weights: &Weights, buffers: &HeadBuffers, ids: &BatchViews, x: &View) {
    let Some((b, kept)) = buffers.backward.as_ref().and_then(|b| Some((b, b.anchor.as_ref()?))) else { return };
    forward(rec, weights, buffers, ids, x, true);
    let (r, h) = (ids.trained.len(), weights.config.hidden_size);
    let (state, acc, targets) = (buffers.state.first(r * 4), b.acc.first(r * h), b.targets.first(r * h));
    embedding::forward(rec, &ids.labels, &weights.head, &targets, weights.head_rows);
    let [mean, entropy] = &kept.kept(r, h);
    let swept = Swept { state: &state, acc: &acc, targets: &targets };
    anchor::remember(rec, swept, &buffers.hidden.first(r * h), Kept { mean, entropy });
}

/// Records the loss and its gradient: adds to `totals` and writes d `[N, H]`, the gradient of the
/// last block's output.
pub(crate) fn backward(
    rec: &mut Recording,
    weights: &Weights,
    buffers: &HeadBuffers,
    ids: &BatchViews,
    totals: &View,
    d: &View,
    loss: &LossConfig,
    step: StepTotals,
) {
    let Some(b) = &buffers.backward else { return };
    let config = &weights.config;
    let (r, h) = (ids.trained.len(), config.hidden_size);
    let coefficients = b.coefficients.first(r);
    let terms = b.sample_terms.first((ids.trained_segments.len() - 1) * 2);
    loss_weights::forward(
        rec,
        &buffers.log_p.first(r),
        &ids.trained_segments,
        &coefficients,
        &terms,
        totals,
        loss,
        step,
    );
    let anchor = b.anchor.as_ref().filter(|_| loss.kl_weight > 0.0).map(|anchor| (anchor, anchor.kept(r, h)));
    let (state, acc) = (buffers.state.first(r * 4), b.acc.first(r * h));
    let kl_weight = loss.kl_weight / step.tokens as f32;
    if let Some((anchor, [mean, entropy])) = &anchor {
        let (hidden, divergence) = (buffers.hidden.first(r * h), anchor.divergence.first(r));
        anchor::diverge(rec, &state, &hidden, Kept { mean, entropy }, &divergence, totals, kl_weight);
    }
    // The normalised rows have been multiplied with the last of the head.
    let (targets, d_hidden) = (b.targets.first(r * h), buffers.hidden.first(r * h));
    embedding::forward(rec, &ids.labels, &weights.head, &targets, weights.head_rows);
    if let Some(cap) = config.logits_cap {
        soft_cap::multiply_rows(rec, &targets, &buffers.state.first(r * 4), cap);
    }
    head::gradient(rec, &acc, &state, &coefficients, &targets, &d_hidden, h);
    if let Some((_, [mean, entropy])) = &anchor {
        let swept = Swept { state: &state, acc: &acc, targets: &targets };
        anchor::pull(rec, swept, Kept { mean, entropy }, &d_hidden, kl_weight);
    }
    // hidden = norm(picked), picked = x[trained]
    let (picked, d_picked) = (buffers.picked.first(r * h), targets);
    rms_norm::backward(rec, &picked, &weights.head_norm, &d_hidden, &d_picked, h, config.rms_norm_eps, false);
    rec.clear(d);
    gather::backward(rec, &ids.trained, &d_picked, d, h);
}
