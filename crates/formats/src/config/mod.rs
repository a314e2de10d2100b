//! What a model is: sizes, rotary embedding, and what each of its layers computes.
//!
//! [`json`] and [`metadata`] read what all families have; a family's own file adds what only it
//! has.

mod family;
mod gemma2;
mod gemma3;
mod granite;
mod json;
mod llama;
mod metadata;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod smollm3;
mod write;

pub use family::Architecture;
use family::Family;
pub(crate) use json::end_tokens;
pub(crate) use metadata::model_config;
pub(crate) use rope::Divisors;
pub use rope::{Rope, RopeScaling};

use std::ops::Range;

use crate::{FormatError, Result};

/// Largest dimension accepted: element indices within a row or column fit 31 bits.
const MAX_SIZE: usize = i32::MAX as usize;
/// Widest head that a workgroup of the attention shaders holds.
pub const MAX_HEAD_DIM: usize = 256;
/// Far above any decoder there is.
const MAX_LAYERS: usize = 10_000;

/// What one block computes. Families set it layer by layer; nothing else tells layers apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    /// Keys that a query sees at most, its own and those just before it; all before it where it is
    /// `None`.
    pub window: Option<usize>,
    /// Table of [`ModelConfig::ropes`] by which q and k rotate; they do not where it is `None`.
    pub rope: Option<usize>,
    /// RMS norms of q and k before they rotate.
    pub qk_norm: Option<QkNorm>,
    /// What scores are multiplied by; 1/√head_dim where it is `None`.
    pub score_scale: Option<f32>,
    /// Scores s become cap·tanh(s / cap).
    pub score_cap: Option<f32>,
    /// Norms around attention.
    pub attention_norms: BranchNorms,
    /// The function of the feed-forward gate.
    pub gate: Gate,
    /// Norms around the feed-forward branch.
    pub mlp_norms: BranchNorms,
    /// What each branch is multiplied by as it joins the residual stream.
    pub residual_scale: f32,
}

/// What an RMS norm of q and k spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, with weights `[head_dim]`.
    Heads,
    /// All heads of a token together, with weights as wide as they are.
    Tokens,
}

/// The RMS norms of a branch, by their tensors' names within the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchNorms {
    /// Of what the branch reads.
    pub before: Option<&'static str>,
    /// Of what the branch adds to the residual stream.
    pub after: Option<&'static str>,
}

/// The function of the gate in a feed-forward layer down(f(gate)·up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// x·σ(x)
    Silu,
    /// x·Φ(x), Φ by the error function.
    Gelu,
    /// x·Φ(x) with Φ by the hyperbolic tangent.
    GeluTanh,
}

impl Default for LayerSpec {
    /// As Llama has it.
    fn default() -> Self {
        Self {
            window: None,
            rope: Some(0),
            qk_norm: None,
            score_scale: None,
            score_cap: None,
            attention_norms: BranchNorms { before: Some("input_layernorm"), after: None },
            gate: Gate::Silu,
            mlp_norms: BranchNorms { before: Some("post_attention_layernorm"), after: None },
            residual_scale: 1.0,
        }
    }
}

/// Hyperparameters of a decoder, from `config.json` or GGUF metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// The model is the language part of one that also sees, whose folder it came in.
    pub sees: bool,
    /// H: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Q: query heads.
    pub num_attention_heads: usize,
    /// K: key and value heads; divides Q.
    pub num_key_value_heads: usize,
    /// D: width of a head, even; `Q·D` need not be H.
    pub head_dim: usize,
    /// V: rows of the embedding.
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// ε of every RMS norm.
    pub rms_norm_eps: f32,
    /// Tables of rotary frequencies that layers name.
    pub ropes: Vec<Rope>,
    /// Each block.
    pub layers: Vec<LayerSpec>,
    /// What rows of the embedding are multiplied by on their way into the first block.
    pub embedding_scale: f32,
    /// What logits are multiplied by.
    pub logits_scale: f32,
    /// Logits l become cap·tanh(l / cap).
    pub logits_cap: Option<f32>,
    /// What is added to the weights of every norm: 1 where they are stored as differences from 1.
    pub norm_offset: f32,
    /// The head is the embedding itself; `lm_head.weight` is then absent.
    pub tie_word_embeddings: bool,
    /// q, k and v have biases.
    pub attention_bias: bool,
    /// o has a bias.
    pub attention_output_bias: bool,
    /// Files and adapters have q, k and v as one module, `qkv_proj`, and gate and up as another,
    /// `gate_up_proj`: see [`Self::linear_modules`].
    pub fused_projections: bool,
    /// Token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or turn; the first is the one to train on.
    pub eos_token_ids: Vec<u32>,
}

/// The seven linear maps of a block, in the order in which a block uses them.
pub const LINEAR_MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// A linear module as a model's files and adapters have it: one of [`LINEAR_MODULES`], or several
/// with their rows one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearModule {
    /// The module's short name.
    pub name: &'static str,
    /// The places of its maps in [`LINEAR_MODULES`].
    pub maps: Range<usize>,
}

const fn module(name: &'static str, maps: Range<usize>) -> LinearModule {
    LinearModule { name, maps }
}

/// Where each map is a module of its own.
const SEPARATE: [LinearModule; 7] = [
    module(LINEAR_MODULES[0], 0..1),
    module(LINEAR_MODULES[1], 1..2),
    module(LINEAR_MODULES[2], 2..3),
    module(LINEAR_MODULES[3], 3..4),
    module(LINEAR_MODULES[4], 4..5),
    module(LINEAR_MODULES[5], 5..6),
    module(LINEAR_MODULES[6], 6..7),
];

/// Where the maps that read the same input are one module.
const FUSED: [LinearModule; 4] =
    [module("qkv_proj", 0..3), module("o_proj", 3..4), module("gate_up_proj", 4..6), module("down_proj", 6..7)];

/// The short name of every linear module that some family has.
pub fn module_names() -> impl Iterator<Item = &'static str> {
    let fused = FUSED.iter().filter(|module| module.maps.len() > 1);
    SEPARATE.iter().chain(fused).map(|module| module.name)
}

impl ModelConfig {
    /// The linear modules of a block, in the order in which a block uses them.
    pub fn linear_modules(&self) -> &'static [LinearModule] {
        if self.fused_projections { &FUSED } else { &SEPARATE }
    }

    /// The short name of one of them: this one, or the first where they have none of it.
    pub(crate) fn module_like(&self, short: &str) -> &'static str {
        let modules = self.linear_modules();
        modules.iter().find(|module| module.name == short).unwrap_or(&modules[0]).name
    }

    /// Their short names, for messages.
    pub fn module_list(&self) -> String {
        let names: Vec<&str> = self.linear_modules().iter().map(|module| module.name).collect();
        names.join(", ")
    }

    /// `[out, in]` of a linear module of every block, by its short name: one of
    /// [`module_names`].
    pub fn linear_shape(&self, module: &str) -> Option<[usize; 2]> {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        Some(match module {
            "q_proj" => [q, h],
            "k_proj" | "v_proj" => [kv, h],
            "o_proj" => [h, q],
            "gate_proj" | "up_proj" => [f, h],
            "down_proj" => [h, f],
            "qkv_proj" => [q + 2 * kv, h],
            "gate_up_proj" => [2 * f, h],
            _ => return None,
        })
    }

    /// Full name of a linear module: `linear_name(0, "q_proj")` is
    /// `model.layers.0.self_attn.q_proj`.
    pub fn linear_name(layer: usize, module: &str) -> String {
        let part = match module {
            "q_proj" | "k_proj" | "v_proj" | "o_proj" | "qkv_proj" => "self_attn",
            _ => "mlp",
        };
        format!("model.layers.{layer}.{part}.{module}")
    }

    /// Numbers that a norm of q or k with so many heads spans.
    pub fn qk_norm_width(&self, norm: QkNorm, heads: usize) -> usize {
        match norm {
            QkNorm::Heads => self.head_dim,
            QkNorm::Tokens => heads * self.head_dim,
        }
    }

    /// Name and shape of every tensor the model must have, in the order in which it is used.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden_size;
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, h])];
        for (layer, spec) in self.layers.iter().enumerate() {
            let block = format!("model.layers.{layer}");
            let (a, m) = (spec.attention_norms, spec.mlp_norms);
            let norms = [a.before, a.after, m.before, m.after].into_iter().flatten();
            all.extend(norms.map(|name| (format!("{block}.{name}.weight"), vec![h])));
            for module in LINEAR_MODULES {
                let Some([rows, cols]) = self.linear_shape(module) else {
                    continue;
                };
                let name = Self::linear_name(layer, module);
                let biased = match module {
                    "q_proj" | "k_proj" | "v_proj" => self.attention_bias,
                    "o_proj" => self.attention_output_bias,
                    _ => false,
                };
                all.push((format!("{name}.weight"), vec![rows, cols]));
                if biased {
                    all.push((format!("{name}.bias"), vec![rows]));
                }
            }
            if let Some(norm) = spec.qk_norm {
                for (name, heads) in [("q", self.num_attention_heads), ("k", self.num_key_value_heads)] {
                    let width = self.qk_norm_width(norm, heads);
                    all.push((format!("{block}.self_attn.{name}_norm.weight"), vec![width]));
                }
            }
        }
        all.push(("model.norm.weight".to_string(), vec![h]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".to_string(), vec![self.vocab_size, h]));
        }
        all
    }

    /// Checks that the sizes make sense together and fit what the products need; `file` names the
    /// configuration in messages.
    pub fn validate(&self, file: &str) -> Result<()> {
        let fail = |problem: String| Err(FormatError::malformed(file, problem));
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (name, size) in sizes {
            // Indices are 32-bit on the device.
            if size == 0 || size > MAX_SIZE {
                return fail(format!("{name} is {size}, expected 1 to {MAX_SIZE}"));
            }
        }
        check_layers(file, self.layers.len())?;
        let (q, k, d) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        if !q.is_multiple_of(k) {
            return fail(format!("num_attention_heads {q} is not a multiple of num_key_value_heads {k}"));
        }
        if !d.is_multiple_of(2) {
            return fail(format!("head_dim {d} is odd, expected pairs to rotate"));
        }
        let widths = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads × head_dim", q.saturating_mul(d)),
            ("num_key_value_heads × head_dim", k.saturating_mul(d)),
            // What is fused is counted as one.
            (
                "(num_attention_heads + 2 num_key_value_heads) × head_dim",
                k.saturating_mul(2).saturating_add(q).saturating_mul(d),
            ),
            ("twice intermediate_size", self.intermediate_size.saturating_mul(2)),
        ];
        for (name, width) in widths {
            if width > MAX_SIZE {
                return fail(format!("{name} is {width}, expected at most {MAX_SIZE}"));
            }
            if !width.is_multiple_of(4) {
                return Err(FormatError::unsupported(
                    file,
                    format!("{name} {width}"),
                    "products take four weights at a time: a multiple of 4 is needed",
                ));
            }
        }
        if !d.is_multiple_of(4) || d > MAX_HEAD_DIM {
            return Err(FormatError::unsupported(
                file,
                format!("head_dim {d}"),
                format!("attention takes multiples of 4 up to {MAX_HEAD_DIM}"),
            ));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps < 1.0) {
            return fail(format!("rms_norm_eps is {}, expected 0 to 1", self.rms_norm_eps));
        }
        self.validate_layers(file)?;
        for &id in self.eos_token_ids.iter().chain(&self.bos_token_id) {
            if id as usize >= self.vocab_size {
                return fail(format!(
                    "token id {id} (beginning or end of text) is outside the vocabulary of {}",
                    self.vocab_size
                ));
            }
        }
        Ok(())
    }

    /// Checks what layers say, and the ropes that they name.
    fn validate_layers(&self, file: &str) -> Result<()> {
        let fail = |problem: String| Err(FormatError::malformed(file, problem));
        self.ropes.iter().try_for_each(|rope| rope.validate(file))?;
        let (tables, d) = (self.ropes.len(), self.head_dim);
        if let Some(table) = self.layers.iter().filter_map(|layer| layer.rope).find(|&table| table >= tables) {
            return fail(format!("a layer names rope table {table} of {tables}"));
        }
        if self.layers.iter().any(|layer| layer.window == Some(0)) {
            return fail("a layer has a window of 0, expected a number of tokens".to_string());
        }
        if let Some(rope) = self.ropes.iter().find(|rope| rope.dim > d || rope.dim == 0 || rope.dim % 2 != 0) {
            return fail(format!("rope spans {} numbers of a head of {d}, expected an even number of them", rope.dim));
        }
        let beyond: Vec<usize> = self.ropes.iter().filter_map(|rope| rope.beyond()).map(|(tokens, _)| tokens).collect();
        if let Some(pair) = beyond.windows(2).find(|pair| pair[0] != pair[1]) {
            return fail(format!("ropes change beyond {} tokens and beyond {}, expected one number", pair[0], pair[1]));
        }
        Ok(())
    }
}

impl ModelConfig {
    /// Gives a window to the layers that `slides` names. One as wide as the context is none.
    fn set_window(&mut self, file: &str, window: Option<usize>, slides: impl Fn(usize) -> bool) -> Result<()> {
        if window == Some(0) && (0..self.layers.len()).any(&slides) {
            return Err(FormatError::malformed(file, "sliding_window is 0, expected a number of tokens"));
        }
        let window = window.filter(|&window| window < self.max_position_embeddings);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.window = window.filter(|_| slides(index));
        }
        Ok(())
    }
}

/// Checks a number of layers before anything is as long as it says.
fn check_layers(file: &str, layers: usize) -> Result<()> {
    if (1..=MAX_LAYERS).contains(&layers) {
        return Ok(());
    }
    Err(FormatError::malformed(file, format!("num_hidden_layers is {layers}, expected 1 to {MAX_LAYERS}")))
}
