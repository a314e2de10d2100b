//! [`ModelConfig`] to `config.json`, for models that came without one.

use serde_json::{Map, Value, json};

use super::{Gate, ModelConfig, Rope, RopeScaling};
use crate::json::shortest;
use crate::{FormatError, Result};

impl ModelConfig {
    /// A `config.json` of which transformers makes the same model, but for the norms: where their
    /// weights must be stored otherwise, the second value is what has to be added to each. `file`
    /// names the model in messages.
    ///
    /// # Errors
    /// Where what this model computes cannot be said there.
    pub(crate) fn to_json(&self, file: &str) -> Result<(Map<String, Value>, f32)> {
        let family = self.architecture.family();
        let (key, gate) = (family.gate.0, self.layers[0].gate);
        let gate = if gate == Gate::Silu { "silu" } else { "gelu_pytorch_tanh" };
        let value = json!({
            "architectures": [family.class],
            "model_type": family.name,
            (key): gate,
            "attention_bias": self.attention_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "head_dim": self.head_dim,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.layers.len(),
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": null,
            "rms_norm_eps": shortest(self.rms_norm_eps),
            "rope_scaling": self.ropes[0].scaling_json(),
            "rope_theta": self.ropes[0].theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "vocab_size": self.vocab_size,
        });
        let mut map = value.as_object().cloned().unwrap_or_default();
        if self.ropes[0].dim != self.head_dim {
            map.insert("partial_rotary_factor".to_owned(), (self.ropes[0].dim as f64 / self.head_dim as f64).into());
        }
        (family.write_json)(self, &mut map);
        let shift = self.check_json(file, &map)?;
        Ok((map, shift))
    }

    /// Reads what was written, which must be this model; what is to be added to the norms' weights.
    fn check_json(&self, file: &str, map: &Map<String, Value>) -> Result<f32> {
        let refuse = |what: String| {
            let advice = "give the folder of safetensors that the base was made of";
            FormatError::unsupported(file, format!("{what} in a config.json that is made of a GGUF file"), advice)
        };
        let text = Value::Object(map.clone()).to_string();
        let mut read =
            Self::from_json(file, text.as_bytes()).map_err(|error| refuse(format!("this model ({error})")))?;
        if !(read.ropes.len() == self.ropes.len() && read.ropes.iter().zip(&self.ropes).all(|(a, b)| a.turns_like(b))) {
            let scaling = self.ropes[0].scaling.to_string();
            return Err(refuse(format!("rope{}", if scaling.is_empty() { " of this kind" } else { &scaling })));
        }
        let shift = self.norm_offset - read.norm_offset;
        // A file may leave the usual scale of scores unsaid.
        let usual = Some(1.0 / (self.head_dim as f32).sqrt());
        for (read, own) in read.layers.iter_mut().zip(&self.layers) {
            read.score_scale = read.score_scale.filter(|_| own.score_scale.is_some() || read.score_scale != usual);
        }
        (read.ropes, read.norm_offset) = (self.ropes.clone(), self.norm_offset);
        read.eos_token_ids.clone_from(&self.eos_token_ids);
        if read != *self {
            return Err(refuse(format!("a {} model with what this one has of its own", self.architecture)));
        }
        Ok(shift)
    }
}

/// The window that layers have, and which have it.
pub(super) fn windows(config: &ModelConfig, map: &mut Map<String, Value>) {
    let window = config.layers.iter().find_map(|layer| layer.window);
    let kind = |layer: &super::LayerSpec| {
        if layer.window.is_some() { "sliding_attention" } else { "full_attention" }
    };
    map.insert("sliding_window".to_owned(), window.into());
    if window.is_some() {
        map.insert("layer_types".to_owned(), config.layers.iter().map(kind).collect::<Vec<_>>().into());
    }
}

/// Settings of llama3 scaling that released models have: stretch and original context. Their GGUF
/// files hold the divisors that follow from these.
const LLAMA3: [(f32, usize); 2] = [(8.0, 8192), (32.0, 8192)];

impl Rope {
    /// `rope_scaling` as transformers reads it.
    fn scaling_json(&self) -> Value {
        match &self.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": shortest(*factor)}),
            RopeScaling::Dynamic { factor } => json!({"rope_type": "dynamic", "factor": shortest(*factor)}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": shortest(*factor),
                    "low_freq_factor": shortest(*low_freq_factor),
                    "high_freq_factor": shortest(*high_freq_factor),
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "yarn",
                "factor": shortest(*factor),
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => json!({
                "rope_type": "longrope",
                "short_factor": short.iter().copied().map(shortest).collect::<Vec<_>>(),
                "long_factor": long.iter().copied().map(shortest).collect::<Vec<_>>(),
                "attention_factor": attention_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            RopeScaling::Divisors(_) => {
                let known = LLAMA3.into_iter().map(|(factor, original)| RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: original,
                });
                let known = known.map(|scaling| Self { scaling, ..*self }).find(|rope| rope.turns_like(self));
                known.map_or(Value::Null, |rope| rope.scaling_json())
            }
        }
    }

    /// Whether another table turns every pair alike, but for the rounding of a divisor.
    fn turns_like(&self, other: &Self) -> bool {
        let alike = |a: &[f32], b: &[f32]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 4.0 * f32::EPSILON * a.abs())
        };
        let beyond = match (self.beyond(), other.beyond()) {
            (Some((from, a)), Some((other, b))) => from == other && alike(&a, &b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let factors = (self.attention_factor() as f32, other.attention_factor() as f32);
        beyond && alike(&self.inv_freq(), &other.inv_freq()) && alike(&[factors.0], &[factors.1])
    }
}
