//! GGUF metadata to [`ModelConfig`].

use super::names::ROPE_DIVISORS;
use super::{Header, Value};
use crate::{Architecture, FormatError, ModelConfig, Pooling, Result, RopeScaling, SentenceSteps, Source};

/// Keys below the architecture's prefix that change what a decoder computes, with the value at
/// which they do not. Anything else there is refused.
const NEUTRAL: [(&str, f64); 11] = [
    ("expert_count", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("attention.temperature_length", 0.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// End-of-turn tokens that llama.cpp also knows by name, for files that do not list them.
const END_TOKENS: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"];

struct Keys<'a> {
    file: &'a str,
    header: &'a Header,
    prefix: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.header.get(&format!("{}.{key}", self.prefix))
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> FormatError {
        FormatError::malformed(self.file, format!("{}.{key} is {value}, expected {expected}", self.prefix))
    }

    fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, v, "a number")))
            .transpose()
    }

    /// A whole number, or a list of one number repeated, as files with per-layer settings write it.
    fn usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let single = match value.as_scalars() {
            None => value.as_u64(),
            Some(list) => {
                let mut items = list.iter();
                let first = items.next();
                if items.any(|item| Some(item) != first) {
                    return Err(FormatError::unsupported(
                        self.file,
                        format!("{}.{key} that differs from layer to layer", self.prefix),
                        "layers must be alike",
                    ));
                }
                first.and_then(|v| v.as_u64())
            }
        };
        match single.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, value, "a whole number, zero or more")),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.usize(key)?.ok_or_else(|| {
            FormatError::missing(
                self.file,
                format!("metadata {}.{key}", self.prefix),
                "convert the model again with a current llama.cpp",
            )
        })
    }
}

/// Hyperparameters of the model in a GGUF file in the file `source`.
pub(crate) fn model_config(file: &str, header: &Header, source: &Source) -> Result<ModelConfig> {
    let name = header.get("general.architecture").and_then(Value::as_str).ok_or_else(|| {
        FormatError::missing(
            file,
            "metadata general.architecture",
            "the file is no language model; convert it again with a current llama.cpp",
        )
    })?;
    let architecture = match name {
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        other => {
            return Err(FormatError::unsupported(
                file,
                format!("architecture {other:?}"),
                "supported GGUF architectures are llama (Llama and Mistral), qwen2 and qwen3",
            ));
        }
    };
    let keys = Keys { file, header, prefix: name };
    refuse_unimplemented(&keys)?;

    let hidden_size = keys.required("embedding_length")?;
    let num_attention_heads = keys.required("attention.head_count")?;
    let num_key_value_heads = keys.usize("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let max_position_embeddings = keys.required("context_length")?;
    let head_dim = match keys.usize("attention.key_length")? {
        Some(n) => n,
        None => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.usize(key)?.filter(|&n| n != head_dim && head_dim > 0) {
            return Err(FormatError::unsupported(
                file,
                format!("{name}.{key} {other} with heads of {head_dim}"),
                "keys, values and rotary embedding must span the same head",
            ));
        }
    }
    if let Some(window) = keys.usize("attention.sliding_window")?.filter(|&w| w > 0 && w < max_position_embeddings) {
        return Err(FormatError::unsupported(
            file,
            format!("a sliding attention window of {window} tokens (context {max_position_embeddings})"),
            "only attention over the whole context is implemented; choose a model without a window",
        ));
    }
    let has = |tensor: &str| header.tensors.iter().any(|t| t.name == tensor);
    let Some(embedding) = header.tensors.iter().find(|t| t.name == "token_embd.weight") else {
        return Err(FormatError::missing(
            file,
            "tensor token_embd.weight",
            "the file holds no whole model (a vocabulary or one part of a split file?); \
             merge split files with llama.cpp's llama-gguf-split --merge",
        ));
    };
    let vocab_size = embedding.shape.first().copied().unwrap_or(0);
    if let Some(stated) = keys.usize("vocab_size")?.filter(|&n| n != vocab_size) {
        return Err(FormatError::Mismatch {
            file: file.to_string(),
            what: "rows of token_embd.weight".to_string(),
            found: vocab_size.to_string(),
            expected: format!("{stated} ({name}.vocab_size)"),
            advice: "convert the model again".to_string(),
        });
    }
    let rms_norm_eps = keys.f64("attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
        FormatError::missing(
            file,
            format!("metadata {name}.attention.layer_norm_rms_epsilon"),
            "convert the model again with a current llama.cpp",
        )
    })?;
    let rope_theta = keys.f64("rope.freq_base")?.unwrap_or(10_000.0);
    if rope_theta <= 1.0 {
        return Err(FormatError::malformed(
            file,
            format!("{name}.rope.freq_base is {rope_theta}, expected a number above 1"),
        ));
    }
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: keys.required("feed_forward_length")?,
        num_hidden_layers: keys.required("block_count")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps: rms_norm_eps as f32,
        rope_theta,
        rope_scaling: rope_scaling(&keys, source)?,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        attention_output_bias: has("blk.0.attn_output.bias"),
        qk_norm: architecture == Architecture::Qwen3,
        bos_token_id: token_id(&keys, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: end_tokens(&keys)?,
    };
    config.validate(file)?;
    Ok(config)
}

fn refuse_unimplemented(keys: &Keys) -> Result<()> {
    for (key, neutral) in NEUTRAL {
        if let Some(value) = keys.f64(key)?.filter(|&v| v != neutral) {
            return Err(FormatError::unsupported(
                keys.file,
                format!("{}.{key} {value}", keys.prefix),
                "a model without it is needed",
            ));
        }
    }
    if keys.get("attention.causal").and_then(Value::as_bool) == Some(false) {
        return Err(FormatError::unsupported(
            keys.file,
            format!("{}.attention.causal false", keys.prefix),
            "only causal decoders are implemented",
        ));
    }
    if keys.get("rope.dimension_sections").is_some() {
        return Err(FormatError::unsupported(keys.file, "rope type \"mrope\"", ROPE_TYPES));
    }
    Ok(())
}

/// How vectors are made, where the metadata says that the model was made for it.
pub(crate) fn sentence(file: &str, header: &Header) -> Result<Option<SentenceSteps>> {
    let prefix = header.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let keys = Keys { file, header, prefix };
    let pooling = match keys.usize("pooling_type")? {
        None | Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(3) => Pooling::Last,
        Some(other) => {
            let name = ["", "", " (the first token)", "", " (a ranking head)"].get(other).copied().unwrap_or_default();
            return Err(FormatError::unsupported(
                file,
                format!("{prefix}.pooling_type {other}{name}"),
                "1 (mean) and 3 (last token) are; name another --pooling",
            ));
        }
    };
    Ok(Some(SentenceSteps { pooling, source: format!("{prefix}.pooling_type"), ..SentenceSteps::default() }))
}

const ROPE_TYPES: &str = "supported rope types are none, linear and Llama 3's rope_freqs.weight";

fn rope_scaling(keys: &Keys, source: &Source) -> Result<RopeScaling> {
    let factor = keys.f64("rope.scaling.factor")?.or(keys.f64("rope.scale_linear")?);
    let linear = match keys.get("rope.scaling.type").map(|v| (v, v.as_str())) {
        // Before types had names, the factor alone meant linear.
        None => factor,
        Some((_, Some("none"))) => None,
        Some((_, Some("linear"))) => Some(factor.unwrap_or(1.0)),
        Some((_, Some(other))) => {
            return Err(FormatError::unsupported(keys.file, format!("rope type {other:?}"), ROPE_TYPES));
        }
        Some((value, None)) => return Err(keys.wrong("rope.scaling.type", value, "a string")),
    };
    let linear = linear.filter(|&f| f != 1.0 && f != 0.0);
    if let Some(factor) = linear.filter(|&f| f < 0.0) {
        return Err(FormatError::malformed(
            keys.file,
            format!("{}.rope.scaling.factor is {factor}, expected a positive number", keys.prefix),
        ));
    }
    let divisors = keys.header.tensors.iter().find(|t| t.name == ROPE_DIVISORS);
    match (linear, divisors) {
        (None, None) => Ok(RopeScaling::None),
        (Some(factor), None) => Ok(RopeScaling::Linear { factor: factor as f32 }),
        (None, Some(info)) => {
            let tensor = super::tensors::tensor(keys.file, keys.header, source, info, ROPE_DIVISORS)?;
            let divisors = tensor.to_f32()?;
            if divisors.iter().all(|&d| d == 1.0) {
                return Ok(RopeScaling::None);
            }
            Ok(RopeScaling::Divisors(divisors))
        }
        (Some(factor), Some(_)) => Err(FormatError::unsupported(
            keys.file,
            format!("linear rope scaling by {factor} together with {ROPE_DIVISORS}"),
            ROPE_TYPES,
        )),
    }
}

fn token_id(keys: &Keys, key: &str) -> Result<Option<u32>> {
    let Some(value) = keys.header.get(key) else {
        return Ok(None);
    };
    match value.as_u64() {
        // Converters write 0xFFFFFFFF for "none".
        Some(n) if n == u64::from(u32::MAX) => Ok(None),
        Some(n) if n < u64::from(u32::MAX) => Ok(Some(n as u32)),
        _ => Err(FormatError::malformed(keys.file, format!("{key} is {value}, expected a token id"))),
    }
}

/// The file's own end token first, then those of turns and messages.
fn end_tokens(keys: &Keys) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(token_id(keys, &format!("tokenizer.ggml.{key}"))?);
    }
    if let Some(tokens) = keys.header.get("tokenizer.ggml.tokens").and_then(Value::as_strings) {
        let known = tokens.iter().enumerate().filter(|(_, t)| END_TOKENS.contains(&t.as_str()));
        ids.extend(known.map(|(id, _)| id as u32));
    }
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|&id| seen.insert(id));
    Ok(ids)
}
