//! GGUF metadata to [`ModelConfig`].

use super::{Architecture, Family, LayerSpec, ModelConfig, Rope, check_layers};
use crate::gguf::{Gguf, Keys, Value};
use crate::{FormatError, Result};

/// Keys below the architecture's prefix that change what a decoder computes, with the value at
/// which they do not. Anything else there is refused.
const NEUTRAL: [(&str, f64); 10] = [
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
];

/// End-of-turn tokens that llama.cpp also knows by name, for files that do not list them.
const END_TOKENS: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"];

/// Hyperparameters of the model in a GGUF file.
pub(crate) fn model_config(gguf: &Gguf) -> Result<ModelConfig> {
    let (file, header) = (gguf.file(), gguf.header());
    let name = header.get("general.architecture").and_then(Value::as_str).ok_or_else(|| {
        FormatError::missing(
            file,
            "metadata general.architecture",
            "the file is no language model; convert it again with a current llama.cpp",
        )
    })?;
    let Some(architecture) = Architecture::of_gguf(name) else {
        let what = format!("architecture {name:?}");
        return Err(FormatError::unsupported(file, what, Architecture::supported_in_gguf(name)));
    };
    let keys = Keys { file, header, prefix: name };
    refuse_unimplemented(&keys, architecture.family())?;

    let hidden_size = keys.required("embedding_length")?;
    let num_attention_heads = keys.required("attention.head_count")?;
    let num_key_value_heads = keys.usize("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let max_position_embeddings = keys.required("context_length")?;
    let head_dim = head_dim(&keys, architecture, hidden_size, num_attention_heads)?;
    let has = |tensor: &str| gguf.find(tensor).is_some();
    let vocab_size = vocabulary(gguf, &keys)?;
    let rms_norm_eps = keys.f64("attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
        FormatError::missing(
            file,
            format!("metadata {name}.attention.layer_norm_rms_epsilon"),
            "convert the model again with a current llama.cpp",
        )
    })?;
    let layers = keys.required("block_count")?;
    check_layers(file, layers)?;
    let divisors = crate::gguf::rope_divisors(gguf)?;
    let mut config = ModelConfig {
        architecture,
        sees: false,
        hidden_size,
        intermediate_size: keys.required("feed_forward_length")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps: rms_norm_eps as f32,
        ropes: vec![Rope::from_gguf(&keys, keys.usize("rope.dimension_count")?.unwrap_or(head_dim), divisors)?],
        layers: vec![LayerSpec { gate: architecture.family().gate.1, ..LayerSpec::default() }; layers],
        embedding_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        norm_offset: 0.0,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        attention_output_bias: has("blk.0.attn_output.bias"),
        fused_projections: false,
        bos_token_id: token_id(&keys, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: end_tokens(&keys)?,
    };
    (architecture.family().metadata)(&keys, &mut config)?;
    let window = keys.window()?.filter(|&window| window < max_position_embeddings);
    if let Some(window) = window.filter(|_| config.layers.iter().all(|layer| layer.window.is_none())) {
        return Err(FormatError::unsupported(
            file,
            format!("a sliding attention window of {window} tokens (context {max_position_embeddings})"),
            "the file does not say which layers have it; take the model's folder of safetensors",
        ));
    }
    config.validate(file)?;
    Ok(config)
}

/// Elements of a head of queries, keys and values alike.
fn head_dim(keys: &Keys, architecture: Architecture, hidden_size: usize, heads: usize) -> Result<usize> {
    let head_dim = match keys.usize("attention.key_length")? {
        Some(n) => n,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        let whole = !architecture.family().obeys.contains(&key);
        if let Some(other) = keys.usize(key)?.filter(|&n| n != head_dim && head_dim > 0 && whole) {
            return Err(FormatError::unsupported(
                keys.file,
                format!("{}.{key} {other} with heads of {head_dim}", keys.prefix),
                "keys, values and rotary embedding must span the same head",
            ));
        }
    }
    Ok(head_dim)
}

/// Rows of the embedding.
fn vocabulary(gguf: &Gguf, keys: &Keys) -> Result<usize> {
    let Some((_, embedding)) = gguf.find("token_embd.weight") else {
        return Err(FormatError::missing(
            keys.file,
            "tensor token_embd.weight",
            "the file holds no whole model (a vocabulary?)",
        ));
    };
    let vocab_size = embedding.shape.first().copied().unwrap_or(0);
    if let Some(stated) = keys.usize("vocab_size")?.filter(|&n| n != vocab_size) {
        return Err(FormatError::Mismatch {
            file: keys.file.to_string(),
            what: "rows of token_embd.weight".to_string(),
            found: vocab_size.to_string(),
            expected: format!("{stated} ({}.vocab_size)", keys.prefix),
            advice: "convert the model again".to_string(),
        });
    }
    Ok(vocab_size)
}

fn refuse_unimplemented(keys: &Keys, family: &Family) -> Result<()> {
    for (key, neutral) in NEUTRAL.into_iter().filter(|(key, _)| !family.obeys.contains(key)) {
        keys.neutral(key, neutral)?;
    }
    // Keys of layers with a window, which newer converters have more of.
    let prefix = format!("{}.", keys.prefix);
    for (key, value) in &keys.header.metadata {
        let Some(key) = key.strip_prefix(&prefix).filter(|key| key.contains("swa") || key.contains("sliding_window"))
        else {
            continue;
        };
        if key != "attention.sliding_window" && !family.obeys.contains(&key) {
            return Err(FormatError::unsupported(
                keys.file,
                format!("{prefix}{key} {value}"),
                "it changes layers with a window in a way that is not implemented for this architecture",
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
    Ok(())
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
