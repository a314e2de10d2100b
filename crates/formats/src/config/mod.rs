//! What a model is: sizes, rotary embedding, and the few switches between the architectures.

mod json;

pub(crate) use json::end_tokens;

use crate::{FormatError, Result};

/// Largest dimension accepted: element indices within a row or column fit 31 bits.
const MAX_SIZE: usize = i32::MAX as usize;
/// Widest head that a workgroup of the attention shaders holds.
const MAX_HEAD_DIM: usize = 256;
/// Far above any decoder there is.
const MAX_LAYERS: usize = 10_000;

/// A decoder family; what differs between them is spelled out in [`ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2/3, SmolLM2, TinyLlama.
    Llama,
    /// Mistral without an active sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMS norms on the q and k heads.
    Qwen3,
}

impl Architecture {
    /// The `model_type` of `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    #[default]
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a smooth ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are divided in full.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context length before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// A divisor for each frequency, as GGUF's `rope_freqs.weight` stores Llama 3's scaling.
    Divisors(
        /// `[head_dim / 2]`, all positive.
        Vec<f32>,
    ),
}

/// Hyperparameters of a decoder, from `config.json` or GGUF metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// H: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
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
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// The head is the embedding itself; `lm_head.weight` is then absent.
    pub tie_word_embeddings: bool,
    /// q, k and v have biases.
    pub attention_bias: bool,
    /// o has a bias.
    pub attention_output_bias: bool,
    /// q and k heads are RMS-normed before the rotary embedding, with weights `[head_dim]`.
    pub qk_norm: bool,
    /// Token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text or turn; the first is the one to train on.
    pub eos_token_ids: Vec<u32>,
}

/// The seven linear modules of a block, in the order in which a block uses them.
pub const LINEAR_MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

impl ModelConfig {
    /// `[out, in]` of a linear module of every block, by its short name (`q_proj` … `down_proj`).
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
            _ => return None,
        })
    }

    /// Full name of a linear module: `linear_name(0, "q_proj")` is `model.layers.0.self_attn.q_proj`.
    pub fn linear_name(layer: usize, module: &str) -> String {
        let part = match module {
            "q_proj" | "k_proj" | "v_proj" | "o_proj" => "self_attn",
            _ => "mlp",
        };
        format!("model.layers.{layer}.{part}.{module}")
    }

    /// Inverse rotary frequencies `[head_dim / 2]`, radians per position, with the scaling applied.
    ///
    /// `inv_freq[i] = rope_theta^(-2i / head_dim)`, rounded where transformers rounds.
    pub fn inv_freq(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        let plain = (0..half).map(|i| {
            let exponent = (2 * i) as f32 / self.head_dim as f32;
            1.0 / self.rope_theta.powf(f64::from(exponent)) as f32
        });
        match &self.rope_scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f32;
                let (low, high) = (original / low_freq_factor, original / high_freq_factor);
                plain
                    .map(|f| {
                        let wavelength = 2.0 * std::f32::consts::PI / f;
                        if wavelength > low {
                            f / factor
                        } else if wavelength < high {
                            f
                        } else {
                            let smooth =
                                (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - smooth) * f / factor + smooth * f
                        }
                    })
                    .collect()
            }
        }
    }

    /// Name and shape of every tensor the model must have, in the order in which it is used.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden_size;
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab_size, h])];
        for layer in 0..self.num_hidden_layers {
            let block = format!("model.layers.{layer}");
            all.push((format!("{block}.input_layernorm.weight"), vec![h]));
            for module in LINEAR_MODULES {
                if module == "gate_proj" {
                    all.push((format!("{block}.post_attention_layernorm.weight"), vec![h]));
                }
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
            if self.qk_norm {
                all.push((format!("{block}.self_attn.q_norm.weight"), vec![self.head_dim]));
                all.push((format!("{block}.self_attn.k_norm.weight"), vec![self.head_dim]));
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
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (name, size) in sizes {
            // Indices are 32-bit on the device; a layer count beyond the limit is a lie, and would
            // make a list of names as long.
            let limit = if name == "num_hidden_layers" { MAX_LAYERS } else { MAX_SIZE };
            if size == 0 || size > limit {
                return fail(format!("{name} is {size}, expected 1 to {limit}"));
            }
        }
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
        if let RopeScaling::Divisors(divisors) = &self.rope_scaling
            && (divisors.len() != d / 2 || divisors.iter().any(|&x| !(x > 0.0 && x.is_finite())))
        {
            return fail(format!("{} rope divisors, expected {} positive numbers", divisors.len(), d / 2));
        }
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
}
