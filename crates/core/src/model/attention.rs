//! The attention branch of a block: x `[N, H]` → o_proj(attention(rope(q), rope(k), v)), where q, k
//! and v are projections of norm(x), and q and k are normalised in their turn where the layer says
//! so.
//!
//! Keys and values are those of the packed samples themselves, or of a cache that the pass adds to.

use super::ModelError;
use super::adapted::{self, Linear};
use super::block::{Norms, Pass};
use super::cache::{Cache, NewTokens};
use super::parts::Parts;
use super::plan::Plan;
use crate::device::{DeviceError, Recording, View};
use crate::ops::attention::{self, Gradients, Shape, Tensors};
use crate::ops::rms_norm;
use crate::ops::rope::{self, Rotation};
use bft_formats::ModelConfig;

#[derive(Debug)]
pub(crate) struct Weights {
    norms: Norms,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Of q and k, where the layer normalises them.
    qk_norms: Option<(View, View)>,
}

impl Weights {
    pub fn take(parts: &Parts, config: &ModelConfig, layer: usize) -> Result<Self, ModelError> {
        let block = format!("model.layers.{layer}");
        let qk_norm = |which: &str| parts.vector(&format!("{block}.self_attn.{which}_norm.weight"));
        let qk_norms = || Ok::<_, ModelError>((qk_norm("q")?, qk_norm("k")?));
        Ok(Self {
            norms: Norms::take(parts, layer, config.layers[layer].attention_norms)?,
            q: Linear::take(parts, layer, 0)?,
            k: Linear::take(parts, layer, 1)?,
            v: Linear::take(parts, layer, 2)?,
            o: Linear::take(parts, layer, 3)?,
            qk_norms: config.layers[layer].qk_norm.map(|_| qk_norms()).transpose()?,
        })
    }

    /// q, k, v or o.
    pub fn linear(&self, map: usize) -> &Linear {
        [&self.q, &self.k, &self.v, &self.o][map]
    }
}

/// What the backward needs of the forward. The norm is made again: it costs a pass over memory, and
/// keeping it more room.
#[derive(Debug)]
pub(crate) struct Saved {
    /// `[N, Q·D]` after rope.
    q: View,
    /// `[N, K·D]` after rope.
    k: View,
    /// q and k before head norm and rope, where heads are normalised.
    raw: Option<(View, View)>,
    /// `[N, K·D]`
    v: View,
    /// `[N, Q·D]` output of attention.
    o: View,
    /// `[N, Q]` log-sum-exp of each query's scores.
    lse: View,
    /// `[N, H]` output of o_proj, where it is normalised.
    out: Option<View>,
    /// Of q, k, v and o.
    xa: [Option<adapted::Saved>; 4],
}

impl Saved {
    pub fn new(plan: &Plan<'_>, layer: usize) -> Result<Self, DeviceError> {
        let (q, kv) = (plan.q_dim(), plan.kv_dim());
        let normed = plan.sharing(layer).any(|layer| plan.config.layers[layer].qk_norm.is_some());
        let raw = || Ok::<_, DeviceError>((plan.rows("queries before norm", q)?, plan.rows("keys before norm", kv)?));
        let xa = |module| adapted::Saved::plan(plan, layer, module);
        Ok(Self {
            q: plan.rows("queries", q)?,
            k: plan.rows("keys", kv)?,
            raw: normed.then(raw).transpose()?,
            v: plan.rows("values", kv)?,
            o: plan.rows("attention output", q)?,
            lse: plan.rows("attention log-sum-exp", plan.config.num_attention_heads)?,
            out: Norms::plan_out(plan, layer, |spec| spec.attention_norms)?,
            xa: [xa(0)?, xa(1)?, xa(2)?, xa(3)?],
        })
    }
}

/// Scratch of the backward.
#[derive(Debug)]
pub(crate) struct Backward {
    /// `[N, Q·D]` each
    d_o: View,
    dq: View,
    /// `[N, K·D]` each
    dk: View,
    dv: View,
    /// Gradients of q and k before their norms, where heads are normalised.
    d_raw: Option<(View, View)>,
    /// `[N, Q, 2]`
    stats: View,
}

impl Backward {
    pub fn new(plan: &Plan<'_>) -> Result<Self, DeviceError> {
        let (q, kv) = (plan.q_dim(), plan.kv_dim());
        let normed = plan.config.layers.iter().any(|layer| layer.qk_norm.is_some());
        let d_raw =
            || Ok::<_, DeviceError>((plan.rows("gradient of raw queries", q)?, plan.rows("gradient of raw keys", kv)?));
        Ok(Self {
            d_o: plan.rows("gradient of attention", q)?,
            dq: plan.rows("gradient of queries", q)?,
            dk: plan.rows("gradient of keys", kv)?,
            dv: plan.rows("gradient of values", kv)?,
            d_raw: normed.then(d_raw).transpose()?,
            stats: plan.rows("attention statistics", plan.config.num_attention_heads * 2)?,
        })
    }
}

/// Where a pass finds the keys and values that its queries see.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys<'a> {
    /// The pass's own tokens, sample by sample.
    Samples,
    /// Those in a cache, to which the pass adds its own.
    Cached { cache: &'a Cache, new: &'a NewTokens },
}

impl Pass<'_> {
    fn shape(&self, layer: usize) -> Shape {
        let config = self.config();
        Shape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            causal: true,
            window: config.layers[layer].window,
            scale: config.layers[layer].score_scale,
            cap: config.layers[layer].score_cap,
        }
    }

    /// What a layer's q and k rotate by.
    fn rope(&self, layer: usize) -> Option<Rotation<'_>> {
        let config = self.config();
        config.layers[layer].rope.map(|table| Rotation {
            rows: &self.ids.rope_rows,
            cos_sin: &self.workspace.ropes[table],
            dim: config.ropes[table].dim,
            head_dim: config.head_dim,
        })
    }

    fn tensors<'b>(&'b self, saved: &'b Saved) -> Tensors<'b> {
        let Saved { q, k, v, o, lse, .. } = saved;
        Tensors { q, k, v, spans: &self.ids.spans, o, lse }
    }

    /// The set of this layer cut to N rows.
    fn attention_saved(&self, layer: usize) -> Saved {
        let Saved { q, k, raw, v, o, lse, out, xa } = &self.workspace.saved(layer).attention;
        Saved {
            q: self.rows(q),
            k: self.rows(k),
            raw: raw.as_ref().map(|(q, k)| (self.rows(q), self.rows(k))),
            v: self.rows(v),
            o: self.rows(o),
            lse: self.rows(lse),
            out: out.as_ref().map(|out| self.rows(out)),
            xa: xa.clone(),
        }
    }

    /// Writes the branch's output `[N, H]` to `branch`.
    pub(super) fn attention(&self, rec: &mut Recording, layer: usize, x: &View, branch: &View) {
        let (w, saved, shape) = (&self.weights.blocks[layer].attention, self.attention_saved(layer), self.shape(layer));
        let eps = self.config().rms_norm_eps;
        let norm = self.enter(rec, &w.norms, x);
        let (q, k) = match (&w.qk_norms, &saved.raw) {
            (Some(_), Some((q, k))) => (q, k),
            _ => (&saved.q, &saved.k),
        };
        self.linear(rec, &w.q, &saved.xa[0], &norm, q);
        self.linear(rec, &w.k, &saved.xa[1], &norm, k);
        self.linear(rec, &w.v, &saved.xa[2], &norm, &saved.v);
        if let Some((q_norm, k_norm)) = &w.qk_norms {
            rms_norm::forward(rec, q, q_norm, &saved.q, q_norm.len(), eps);
            rms_norm::forward(rec, k, k_norm, &saved.k, k_norm.len(), eps);
        }
        if let Some(by) = self.rope(layer) {
            rope::forward(rec, by, &saved.q);
            rope::forward(rec, by, &saved.k);
        }
        match self.keys {
            Keys::Samples => attention::forward(rec, self.tensors(&saved), shape),
            Keys::Cached { cache, new } => {
                cache.attend(rec, layer, new, [&saved.q, &saved.k, &saved.v, &saved.o], shape);
            }
        }
        let out = w.norms.out(saved.out.as_ref(), branch);
        self.linear(rec, &w.o, &saved.xa[3], &saved.o, out);
        self.leave(rec, &w.norms, out, branch);
    }

    /// Adds to `d` `[N, H]`, the gradient of the branch's output, that of its input x. The first
    /// block's input has no trained parameter behind it, so its gradient is not made.
    pub(super) fn attention_backward(&self, rec: &mut Recording, layer: usize, x: &View, d: &View) {
        let Some(scratch) = &self.workspace.scratch.backward else { return };
        let s = &scratch.attention;
        let (w, saved, shape) = (&self.weights.blocks[layer].attention, self.attention_saved(layer), self.shape(layer));
        let eps = self.config().rms_norm_eps;
        // branch = norm(o_proj(o))
        let d_o = self.rows(&s.d_o);
        let d_out = self.leave_backward(rec, &w.norms, saved.out.as_ref(), d);
        self.linear_backward(rec, &w.o, &saved.xa[3], &saved.o, &d_out, Some((&d_o, false)));
        // o = attention(q, k, v)
        let (mut dq, mut dk, dv, stats) = (self.rows(&s.dq), self.rows(&s.dk), self.rows(&s.dv), self.rows(&s.stats));
        let gradients = Gradients { d_o: &d_o, stats: &stats, dq: &dq, dk: &dk, dv: &dv };
        attention::backward(rec, self.tensors(&saved), gradients, shape);
        // q, k = rope(norm(q_raw), norm(k_raw))
        if let Some(by) = self.rope(layer) {
            rope::backward(rec, by, &dq);
            rope::backward(rec, by, &dk);
        }
        if let (Some((q_norm, k_norm)), Some((q, k)), Some((dq_raw, dk_raw))) = (&w.qk_norms, &saved.raw, &s.d_raw) {
            let (dq_raw, dk_raw) = (self.rows(dq_raw), self.rows(dk_raw));
            rms_norm::backward(rec, q, q_norm, &dq, &dq_raw, q_norm.len(), eps, false);
            rms_norm::backward(rec, k, k_norm, &dk, &dk_raw, k_norm.len(), eps, false);
            (dq, dk) = (dq_raw, dk_raw);
        }
        // q_raw, k_raw, v = projections of norm(x)
        let (norm, (d_norm, add)) = (self.enter(rec, &w.norms, x), self.entry_gradient(&w.norms, d));
        let wanted = |accumulate: bool| (layer > 0).then_some((&d_norm, accumulate));
        self.linear_backward(rec, &w.q, &saved.xa[0], &norm, &dq, wanted(add));
        self.linear_backward(rec, &w.k, &saved.xa[1], &norm, &dk, wanted(true));
        self.linear_backward(rec, &w.v, &saved.xa[2], &norm, &dv, wanted(true));
        if layer > 0 {
            self.enter_backward(rec, &w.norms, x, &d_norm, d);
        }
    }
}
