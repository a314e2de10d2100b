//! One transformer block, forward and, in reverse, backward.
//!
//! x `[N, H]` → x + o_proj(attention(rope(q, k), v)) → + down_proj(silu(gate)·up), each branch behind an RMSNorm.

use bft_formats::ModelConfig;

use super::batch::BatchViews;
use super::lora::{Lora, Slot};
use super::weights::{BlockWeights, Linear, Weights, module};
use super::workspace::{BackwardScratch, Saved, Workspace};
use crate::device::{Matrix, Recording, View};
use crate::ops::{add, attention, dropout, gather, linear, rms_norm, rope, swiglu};

/// LoRA dropout of one forward pass; its backward pass draws the same numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    pub p: f32,
    pub seed: u64,
    /// Counts the run's micro-batches, so that no two draw alike.
    pub pass: u32,
}

/// Keys and values of every token so far, of one block: `[capacity, K·D]` each.
#[derive(Debug)]
pub(crate) struct Cache {
    pub keys: View,
    pub values: View,
}

/// What a pass over the blocks reads and writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub weights: &'a Weights,
    pub lora: Option<&'a Lora>,
    /// Flat, like the adapter's parameters; adds up over micro-batches.
    pub gradients: Option<&'a View>,
    pub workspace: &'a Workspace,
    pub ids: &'a BatchViews,
    pub dropout: Option<Dropout>,
}

/// One adapted or plain linear module of one block, with its tensors of this pass.
struct Module<'a> {
    linear: &'a Linear,
    slot: Option<&'a Slot>,
    xa: Option<View>,
    key: [u32; 4],
}

impl<'a> Pass<'a> {
    fn config(&self) -> &'a ModelConfig {
        &self.weights.config
    }

    fn tokens(&self) -> usize {
        self.ids.tokens.len()
    }

    /// The first N rows of a planned `[capacity, cols]` buffer.
    fn rows(&self, planned: &View, cols: usize) -> View {
        planned.first(self.tokens() * cols)
    }

    fn q_dim(&self) -> usize {
        self.config().num_attention_heads * self.config().head_dim
    }

    fn kv_dim(&self) -> usize {
        self.config().num_key_value_heads * self.config().head_dim
    }

    fn shape(&self) -> attention::Shape {
        let config = self.config();
        attention::Shape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            causal: true,
        }
    }

    /// The set of this layer cut to N rows.
    fn saved(&self, layer: usize) -> Saved {
        let planned = self.workspace.saved(layer);
        let (h, f) = (self.config().hidden_size, self.config().intermediate_size);
        let (q, kv) = (self.q_dim(), self.kv_dim());
        let xa = std::array::from_fn(|module| {
            let rank = self.lora?.slot(layer, module)?.padded;
            planned.xa[module].as_ref().map(|xa| self.rows(xa, rank))
        });
        Saved {
            q: self.rows(&planned.q, q),
            q_raw: planned.q_raw.as_ref().map(|view| self.rows(view, q)),
            k: self.rows(&planned.k, kv),
            k_raw: planned.k_raw.as_ref().map(|view| self.rows(view, kv)),
            v: self.rows(&planned.v, kv),
            o: self.rows(&planned.o, q),
            lse: self.rows(&planned.lse, self.config().num_attention_heads),
            mid: self.rows(&planned.mid, h),
            gate: self.rows(&planned.gate, f),
            up: self.rows(&planned.up, f),
            xa,
        }
    }

    fn module(&self, layer: usize, saved: &Saved, index: usize) -> Module<'a> {
        let dropout = self.dropout.unwrap_or(Dropout { p: 0.0, seed: 0, pass: 0 });
        Module {
            linear: &self.weights.blocks[layer].linears[index],
            slot: self.lora.and_then(|lora| lora.slot(layer, index)),
            xa: saved.xa[index].clone(),
            key: [dropout.seed as u32, (dropout.seed >> 32) as u32, (layer * 7 + index) as u32, dropout.pass],
        }
    }

    /// x after LoRA dropout, `[N, in]`: x itself where there is none.
    fn dropped(&self, rec: &mut Recording, module: &Module<'_>, x: &View) -> View {
        match (self.dropout, &self.workspace.scratch.dropped) {
            (Some(Dropout { p, .. }), Some(buffer)) if p > 0.0 => {
                let dropped = buffer.first(x.len());
                dropout::apply(rec, x, &dropped, p, module.key);
                dropped
            }
            _ => x.clone(),
        }
    }

    /// y `[N, out]` = x·Wᵀ + bias + s·(dropout(x)·Aᵀ)·Bᵀ.
    fn linear(&self, rec: &mut Recording, module: &Module<'_>, x: &View, y: &View) {
        linear::forward(rec, x, &Matrix::frozen(&module.linear.weight), y, 1.0, false);
        if let Some(bias) = &module.linear.bias {
            add::add_bias(rec, bias, y);
        }
        if let (Some(lora), Some(slot), Some(xa)) = (self.lora, module.slot, &module.xa) {
            let x = self.dropped(rec, module, x);
            linear::forward(rec, &x, &slot.a_matrix(&lora.parameters), xa, 1.0, false);
            linear::forward(rec, xa, &slot.b_matrix(&lora.parameters), y, slot.scaling, true);
        }
    }

    /// From dy `[N, out]`: adds the gradients of A and B, and writes (or adds to) dx `[N, in]` where it is wanted.
    fn linear_backward(
        &self,
        rec: &mut Recording,
        module: &Module<'_>,
        x: &View,
        dy: &View,
        dx: Option<(&View, bool)>,
    ) {
        // y = x·Wᵀ: dx = dy·W
        if let Some((dx, accumulate)) = dx {
            linear::backward(rec, dy, &Matrix::frozen(&module.linear.weight), dx, 1.0, accumulate);
        }
        let (Some(lora), Some(gradients), Some(slot), Some(xa)) = (self.lora, self.gradients, module.slot, &module.xa)
        else {
            return;
        };
        let Some(scratch) = &self.workspace.scratch.backward else {
            return;
        };
        // y += s·xa·Bᵀ: dB += s·dyᵀ·xa, dxa = s·dy·B
        let dxa = self.rows(&scratch.dxa, slot.padded);
        linear::backward(rec, dy, &slot.b_matrix(&lora.parameters), &dxa, slot.scaling, false);
        linear::gradient(rec, dy, xa, &slot.b(gradients), slot.out_features, slot.padded, slot.scaling, true);
        // xa = dropout(x)·Aᵀ: dA += dxaᵀ·dropout(x), dx += dropout'(dxa·A)
        let dropped = self.dropped(rec, module, x);
        linear::gradient(rec, &dxa, &dropped, &slot.a(gradients), slot.padded, slot.in_features, 1.0, true);
        let Some((dx, _)) = dx else { return };
        let a = slot.a_matrix(&lora.parameters);
        match (self.dropout, &scratch.d_dropped) {
            (Some(Dropout { p, .. }), Some(buffer)) if p > 0.0 => {
                let d_dropped = buffer.first(dx.len());
                linear::backward(rec, &dxa, &a, &d_dropped, 1.0, false);
                dropout::accumulate(rec, &d_dropped, dx, p, module.key);
            }
            _ => linear::backward(rec, &dxa, &a, dx, 1.0, true),
        }
    }

    fn norm(&self, rec: &mut Recording, x: &View, weight: &View, y: &View) {
        rms_norm::forward(rec, x, weight, y, self.config().hidden_size, self.config().rms_norm_eps);
    }

    fn norm_backward(&self, rec: &mut Recording, x: &View, weight: &View, dy: &View, dx: &View) {
        rms_norm::backward(rec, x, weight, dy, dx, self.config().hidden_size, self.config().rms_norm_eps, true);
    }

    /// Queries, keys and values of the normalised input, heads normalised and rotated.
    fn project(&self, rec: &mut Recording, layer: usize, saved: &Saved, norm: &View) {
        let config = self.config();
        let (q, k) = (saved.q_raw.as_ref().unwrap_or(&saved.q), saved.k_raw.as_ref().unwrap_or(&saved.k));
        self.linear(rec, &self.module(layer, saved, module::Q), norm, q);
        self.linear(rec, &self.module(layer, saved, module::K), norm, k);
        self.linear(rec, &self.module(layer, saved, module::V), norm, &saved.v);
        if let Some((q_norm, k_norm)) = &self.weights.blocks[layer].qk_norm {
            rms_norm::forward(rec, q, q_norm, &saved.q, config.head_dim, config.rms_norm_eps);
            rms_norm::forward(rec, k, k_norm, &saved.k, config.head_dim, config.rms_norm_eps);
        }
        let table = &self.workspace.cos_sin;
        rope::forward(rec, &self.ids.positions, table, &saved.q, config.head_dim);
        rope::forward(rec, &self.ids.positions, table, &saved.k, config.head_dim);
    }

    /// The residual stream after attention and after the MLP.
    fn branches(&self, rec: &mut Recording, layer: usize, saved: &Saved, x: &View, out: &View) {
        let block = &self.weights.blocks[layer];
        let scratch = &self.workspace.scratch;
        let (h, f) = (self.config().hidden_size, self.config().intermediate_size);
        let (norm, branch, act) =
            (self.rows(&scratch.norm, h), self.rows(&scratch.branch, h), self.rows(&scratch.act, f));
        self.linear(rec, &self.module(layer, saved, module::O), &saved.o, &branch);
        add::residual(rec, x, &branch, &saved.mid);

        self.norm(rec, &saved.mid, &block.post_attention_norm, &norm);
        self.linear(rec, &self.module(layer, saved, module::GATE), &norm, &saved.gate);
        self.linear(rec, &self.module(layer, saved, module::UP), &norm, &saved.up);
        swiglu::forward(rec, &saved.gate, &saved.up, &act);
        self.linear(rec, &self.module(layer, saved, module::DOWN), &act, &branch);
        add::residual(rec, &saved.mid, &branch, out);
    }

    /// Records a block over packed samples: reads its input, writes its saved set and the next block's input.
    pub fn forward(&self, rec: &mut Recording, layer: usize) {
        let h = self.config().hidden_size;
        let (x, out) = (self.rows(self.workspace.input(layer), h), self.rows(self.workspace.input(layer + 1), h));
        let saved = self.saved(layer);
        let norm = self.rows(&self.workspace.scratch.norm, h);
        self.norm(rec, &x, &self.weights.blocks[layer].input_norm, &norm);
        self.project(rec, layer, &saved, &norm);
        attention::forward(rec, &saved.q, &saved.k, &saved.v, &self.ids.spans, &saved.o, &saved.lse, self.shape());
        self.branches(rec, layer, &saved, &x, &out);
    }

    /// Records a block over the next tokens of one text, after `past` cached ones.
    pub fn forward_cached(&self, rec: &mut Recording, layer: usize, cache: &Cache, past: usize) {
        let h = self.config().hidden_size;
        let (x, out) = (self.rows(self.workspace.input(layer), h), self.rows(self.workspace.input(layer + 1), h));
        let saved = self.saved(layer);
        let norm = self.rows(&self.workspace.scratch.norm, h);
        self.norm(rec, &x, &self.weights.blocks[layer].input_norm, &norm);
        self.project(rec, layer, &saved, &norm);
        gather::backward(rec, &self.ids.positions, &saved.k, &cache.keys, self.kv_dim());
        gather::backward(rec, &self.ids.positions, &saved.v, &cache.values, self.kv_dim());
        attention::cached(rec, &saved.q, &cache.keys, &cache.values, &saved.o, past, self.shape());
        self.branches(rec, layer, &saved, &x, &out);
    }

    /// Records a block's gradient: `scratch.d` holds that of its output and receives that of its input. The first
    /// block's input has no trained parameter behind it, so its gradient is not finished.
    pub fn backward(&self, rec: &mut Recording, layer: usize) {
        let Some(s) = &self.workspace.scratch.backward else {
            return;
        };
        let block: &BlockWeights = &self.weights.blocks[layer];
        let config = self.config();
        let (h, f, q_dim, kv_dim) = (config.hidden_size, config.intermediate_size, self.q_dim(), self.kv_dim());
        let saved = self.saved(layer);
        let x = self.rows(self.workspace.input(layer), h);
        let (norm, act) = (self.rows(&self.workspace.scratch.norm, h), self.rows(&self.workspace.scratch.act, f));
        let (d, d_norm) = (self.rows(&s.d, h), self.rows(&self.workspace.scratch.branch, h));
        let (d_act, d_up) = (self.rows(&s.d_act, f), self.rows(&s.d_up, f));

        // out = mid + down(silu(gate)·up)
        swiglu::forward(rec, &saved.gate, &saved.up, &act);
        self.linear_backward(rec, &self.module(layer, &saved, module::DOWN), &act, &d, Some((&d_act, false)));
        let d_gate = act;
        swiglu::backward(rec, &saved.gate, &saved.up, &d_act, &d_gate, &d_up);
        // gate, up = projections of norm(mid)
        self.norm(rec, &saved.mid, &block.post_attention_norm, &norm);
        self.linear_backward(rec, &self.module(layer, &saved, module::GATE), &norm, &d_gate, Some((&d_norm, false)));
        self.linear_backward(rec, &self.module(layer, &saved, module::UP), &norm, &d_up, Some((&d_norm, true)));
        self.norm_backward(rec, &saved.mid, &block.post_attention_norm, &d_norm, &d);

        // mid = x + o_proj(o)
        let d_o = self.rows(&s.d_o, q_dim);
        self.linear_backward(rec, &self.module(layer, &saved, module::O), &saved.o, &d, Some((&d_o, false)));
        // o = attention(q, k, v)
        let (dq, dk, dv) = (self.rows(&s.dq, q_dim), self.rows(&s.dk, kv_dim), self.rows(&s.dv, kv_dim));
        let stats = self.rows(&s.stats, config.num_attention_heads * 2);
        let Saved { q, k, v, o, lse, .. } = &saved;
        attention::backward(rec, q, k, v, &self.ids.spans, o, lse, &d_o, &stats, &dq, &dk, &dv, self.shape());
        // q, k = rope(norm(q_raw), norm(k_raw))
        rope::backward(rec, &self.ids.positions, &self.workspace.cos_sin, &dq, config.head_dim);
        rope::backward(rec, &self.ids.positions, &self.workspace.cos_sin, &dk, config.head_dim);
        let (dq, dk) = self.head_norm_backward(rec, block, &saved, s, dq, dk);
        // q_raw, k_raw, v = projections of norm(x)
        self.norm(rec, &x, &block.input_norm, &norm);
        let wanted = |accumulate: bool| (layer > 0).then_some((&d_norm, accumulate));
        self.linear_backward(rec, &self.module(layer, &saved, module::Q), &norm, &dq, wanted(false));
        self.linear_backward(rec, &self.module(layer, &saved, module::K), &norm, &dk, wanted(true));
        self.linear_backward(rec, &self.module(layer, &saved, module::V), &norm, &dv, wanted(true));
        if layer > 0 {
            self.norm_backward(rec, &x, &block.input_norm, &d_norm, &d);
        }
    }

    /// Gradients of queries and keys before their head norms, where the architecture has them.
    fn head_norm_backward(
        &self,
        rec: &mut Recording,
        block: &BlockWeights,
        saved: &Saved,
        scratch: &BackwardScratch,
        dq: View,
        dk: View,
    ) -> (View, View) {
        let config = self.config();
        let (Some((q_norm, k_norm)), Some(q_raw), Some(k_raw), Some(dq_raw), Some(dk_raw)) =
            (&block.qk_norm, &saved.q_raw, &saved.k_raw, &scratch.dq_raw, &scratch.dk_raw)
        else {
            return (dq, dk);
        };
        let (dq_raw, dk_raw) = (dq_raw.first(dq.len()), dk_raw.first(dk.len()));
        rms_norm::backward(rec, q_raw, q_norm, &dq, &dq_raw, config.head_dim, config.rms_norm_eps, false);
        rms_norm::backward(rec, k_raw, k_norm, &dk, &dk_raw, config.head_dim, config.rms_norm_eps, false);
        (dq_raw, dk_raw)
    }
}
