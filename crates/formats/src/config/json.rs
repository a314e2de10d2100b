//! `config.json` and `generation_config.json` as transformers writes them.

use serde_json::Value;

use super::{Architecture, ModelConfig, RopeScaling};
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

const SUPPORTED: &str = "supported model types are llama, mistral, qwen2 and qwen3";

/// Keys that change what a decoder computes and are not implemented, with their neutral value.
/// (Granite, Cohere, Gemma and others write them beside otherwise Llama-like settings.)
const NEUTRAL: [(&str, f64); 6] = [
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("logits_scaling", 1.0),
    ("logit_scale", 1.0),
    ("final_logit_softcapping", 0.0),
    ("attn_logit_softcapping", 0.0),
];

impl ModelConfig {
    /// Reads `config.json`; `file` names it in messages.
    ///
    /// Absent keys take the value that transformers gives them for the architecture. Whatever would
    /// make the model compute something else than what is implemented is refused by name.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = parse_object(file, json)?;
        let config = read(&Object::new(file, &map))?;
        config.validate(file)?;
        Ok(config)
    }

    /// Adds end tokens that are not there yet.
    pub fn add_end_tokens(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.eos_token_ids.contains(id) {
                self.eos_token_ids.push(*id);
            }
        }
    }

    /// Adds the end tokens that `generation_config.json` names; `file` names it in messages.
    pub fn add_generation_config(&mut self, file: &str, json: &[u8]) -> Result<()> {
        let map = parse_object(file, json)?;
        let object = Object::new(file, &map);
        self.add_end_tokens(&token_ids(&object, "eos_token_id")?);
        if self.bos_token_id.is_none() {
            self.bos_token_id = token_ids(&object, "bos_token_id")?.first().copied();
        }
        Ok(())
    }
}

/// The end tokens that a `generation_config.json` names.
pub(crate) fn end_tokens(file: &str, json: &[u8]) -> Result<Vec<u32>> {
    token_ids(&Object::new(file, &parse_object(file, json)?), "eos_token_id")
}

fn architecture(o: &Object) -> Result<Architecture> {
    let model_type = o.required("model_type", o.str("model_type")?)?;
    Ok(match model_type {
        "llama" => Architecture::Llama,
        "mistral" => Architecture::Mistral,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        "bert" => {
            return Err(FormatError::unsupported(
                o.file,
                "model type \"bert\" here",
                format!("it is an encoder, which bft embed takes; {SUPPORTED}"),
            ));
        }
        other => {
            return Err(FormatError::unsupported(o.file, format!("model type {other:?}"), SUPPORTED));
        }
    })
}

fn read(o: &Object) -> Result<ModelConfig> {
    let architecture = architecture(o)?;
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(o.file, what, advice));

    if let Some(value) = o.get("quantization_config") {
        let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return unsupported(
            format!("quantization_config (method {method:?})"),
            "use the model's f32, f16 or bf16 weights, or a quantised GGUF",
        );
    }
    let activation = o.str("hidden_act")?.unwrap_or("silu");
    if activation != "silu" && activation != "swish" {
        return unsupported(format!("hidden_act {activation:?}"), "only silu is implemented");
    }
    if architecture == Architecture::Llama && o.bool("mlp_bias")? == Some(true) {
        return unsupported("mlp_bias true".to_string(), "only feed-forward layers without biases are implemented");
    }
    // Embedding models that were made of language models may let each token see those behind it.
    if o.bool("is_causal")? == Some(false) {
        return unsupported("is_causal false".to_string(), "only causal decoders are implemented");
    }
    for (key, neutral) in NEUTRAL {
        if let Some(value) = o.f64(key)?.filter(|&v| v != neutral) {
            return unsupported(format!("{key} {value}"), "it belongs to an architecture that is not implemented");
        }
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if let Some(count) = o.usize(key)?.filter(|&n| n > 0) {
            return unsupported(format!("{key} {count}"), "mixtures of experts are not implemented");
        }
    }

    let count = |key: &str| o.usize(key).and_then(|v| o.required(key, v));
    let hidden_size = count("hidden_size")?;
    let num_hidden_layers = count("num_hidden_layers")?;
    let num_attention_heads = count("num_attention_heads")?;
    let max_position_embeddings = match o.usize("max_position_embeddings")? {
        Some(n) => n,
        None => match architecture {
            Architecture::Llama => 2048,
            Architecture::Mistral => 131_072,
            Architecture::Qwen2 | Architecture::Qwen3 => 32_768,
        },
    };
    let num_key_value_heads = match o.map.get("num_key_value_heads") {
        // Explicit null means one for each query head everywhere; an absent key only in Llama.
        Some(Value::Null) => num_attention_heads,
        None if architecture == Architecture::Llama => num_attention_heads,
        _ => count("num_key_value_heads")?,
    };
    let head_dim = match o.usize("head_dim")? {
        Some(n) => n,
        None if architecture == Architecture::Qwen3 => 128,
        None if num_attention_heads > 0 && hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
        None => {
            return Err(FormatError::malformed(
                o.file,
                format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}, and there is no head_dim"
                ),
            ));
        }
    };
    refuse_sliding_window(o, architecture, num_hidden_layers, max_position_embeddings)?;
    let (rope_theta, rope_scaling) = rope(o, max_position_embeddings)?;
    let attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    let (qkv_bias, output_bias) = match architecture {
        Architecture::Llama | Architecture::Qwen3 => (attention_bias, attention_bias),
        Architecture::Mistral => (false, false),
        Architecture::Qwen2 => (true, false),
    };
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: count("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: count("vocab_size")?,
        max_position_embeddings,
        rms_norm_eps: o.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope_theta,
        rope_scaling,
        tie_word_embeddings: o.bool("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: qkv_bias,
        attention_output_bias: output_bias,
        qk_norm: architecture == Architecture::Qwen3,
        bos_token_id: token_ids(o, "bos_token_id")?.first().copied(),
        eos_token_ids: token_ids(o, "eos_token_id")?,
    })
}

/// Refuses attention that sees less than the whole context, unless the window covers it anyway.
fn refuse_sliding_window(o: &Object, architecture: Architecture, layers: usize, context: usize) -> Result<()> {
    let window = match architecture {
        Architecture::Llama => None,
        // An absent key means 4096 to transformers, an explicit null none.
        Architecture::Mistral if !o.map.contains_key("sliding_window") => Some(4096),
        Architecture::Mistral => o.usize("sliding_window")?,
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let sliding = match o.get("layer_types") {
                Some(Value::Array(types)) => {
                    let known = ["full_attention", "sliding_attention"];
                    let is_known = |t: &&Value| t.as_str().is_some_and(|t| known.contains(&t));
                    if let Some(other) = types.iter().find(|t| !is_known(t)) {
                        let what = format!("layer type {}", kind(other));
                        let advice = "only full_attention layers are implemented";
                        return Err(FormatError::unsupported(o.file, what, advice));
                    }
                    types.iter().any(|t| t.as_str() == Some("sliding_attention"))
                }
                Some(other) => {
                    let problem = format!("layer_types is {}, expected a list of strings", kind(other));
                    return Err(FormatError::malformed(o.file, problem));
                }
                None => {
                    o.bool("use_sliding_window")? == Some(true) && o.usize("max_window_layers")?.unwrap_or(28) < layers
                }
            };
            if sliding { Some(o.usize("sliding_window")?.unwrap_or(4096)) } else { None }
        }
    };
    match window {
        Some(window) if window < context => Err(FormatError::unsupported(
            o.file,
            format!("a sliding attention window of {window} tokens (context {context})"),
            "only attention over the whole context is implemented; choose a model without a window, or set \
             max_position_embeddings to the window if shorter texts are enough",
        )),
        _ => Ok(()),
    }
}

/// Base and scaling from `rope_parameters`, or from `rope_theta` and `rope_scaling`.
fn rope(o: &Object, context: usize) -> Result<(f64, RopeScaling)> {
    let nested = o.object("rope_parameters")?;
    // transformers obeys the older key where both are there, and loses what the newer one says of theta.
    if let (Some(new), Some(old)) = (o.get("rope_parameters"), o.get("rope_scaling"))
        && new != old
    {
        return Err(FormatError::unsupported(
            o.file,
            "rope_scaling beside rope_parameters that differ from it",
            "keep one of them, with rope_theta in it",
        ));
    }
    let scaling = match &nested {
        Some(parameters) => Some(Object::new(o.file, parameters.map)),
        None => o.object("rope_scaling")?,
    };
    let mut theta = o.f64("rope_theta")?;
    let mut partial = o.f64("partial_rotary_factor")?;
    if let Some(parameters) = &scaling {
        theta = parameters.f64("rope_theta")?.or(theta);
        partial = parameters.f64("partial_rotary_factor")?.or(partial);
    }
    let theta = theta.unwrap_or(10_000.0);
    if theta <= 1.0 {
        return Err(FormatError::malformed(o.file, format!("rope_theta is {theta}, expected a number above 1")));
    }
    if let Some(factor) = partial.filter(|&f| f != 1.0) {
        return Err(FormatError::unsupported(
            o.file,
            format!("partial_rotary_factor {factor}"),
            "only heads that rotate in full are implemented",
        ));
    }
    let Some(s) = scaling else {
        return Ok((theta, RopeScaling::None));
    };
    if s.map.values().any(Value::is_object) {
        return Err(FormatError::unsupported(
            o.file,
            "rope_parameters that differ from layer to layer",
            "one set of rope parameters for all layers is expected",
        ));
    }
    if s.get("mrope_section").is_some() {
        return Err(FormatError::unsupported(o.file, "rope type \"mrope\"", ROPE_TYPES));
    }
    let factor = |key: &str| -> Result<f32> {
        let value = s.required(&format!("rope scaling's {key}"), s.f64(key)?)?;
        if value > 0.0 {
            return Ok(value as f32);
        }
        Err(FormatError::malformed(o.file, format!("rope scaling's {key} is {value}, expected a positive number")))
    };
    let rope_type = s.str("rope_type")?.or(s.str("type")?).unwrap_or("default");
    let scaling = match rope_type {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: factor("factor")? },
        "llama3" => {
            let original = match s.usize("original_max_position_embeddings")? {
                Some(n) => n,
                None => o.usize("original_max_position_embeddings")?.unwrap_or(context),
            };
            let (low, high) = (factor("low_freq_factor")?, factor("high_freq_factor")?);
            if low >= high || original == 0 {
                return Err(FormatError::malformed(
                    o.file,
                    format!(
                        "rope scaling has low_freq_factor {low}, high_freq_factor {high} and original_max_position_embeddings {original}, \
                         expected low < high and a positive length"
                    ),
                ));
            }
            RopeScaling::Llama3 {
                factor: factor("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }
        }
        other => {
            return Err(FormatError::unsupported(o.file, format!("rope type {other:?}"), ROPE_TYPES));
        }
    };
    Ok((theta, scaling))
}

const ROPE_TYPES: &str = "supported rope types are default, linear and llama3";

/// A token id, a list of them, or nothing.
fn token_ids(o: &Object, key: &str) -> Result<Vec<u32>> {
    let Some(value) = o.get(key) else {
        return Ok(Vec::new());
    };
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let ids = match value {
        Value::Array(items) => items.iter().map(id).collect(),
        single => id(single).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let problem = format!("{key} is {}, expected a token id or a list of them", kind(value));
        FormatError::malformed(o.file, problem)
    })
}
