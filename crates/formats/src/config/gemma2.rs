//! Gemma 2, and what Gemma 3 has of it.

use serde_json::{Map, Value, json};

use super::{BranchNorms, Family, Gate, ModelConfig, Rope};
use crate::gguf::Keys;
use crate::json::{Object, shortest};
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "gemma2",
    class: "Gemma2ForCausalLM",
    gguf: Some("gemma2"),
    default_context: 8192,
    default_head_dim: Some(256),
    gate: ("hidden_activation", Gate::GeluTanh),
    obeys: &["attn_logit_softcapping", "final_logit_softcapping"],
    json,
    metadata,
    write_json,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    let scalar = common(o, config)?;
    spell_out(config, scalar);
    // An absent key means a cap to transformers, an explicit null none.
    let caps = |key: &str, default: f64| {
        if o.map.contains_key(key) { o.f64(key) } else { Ok(Some(default)) }
    };
    let caps = [caps("attn_logit_softcapping", 50.0)?, caps("final_logit_softcapping", 30.0)?];
    cap(o.file, config, caps)?;
    windows(o, config, |layer| layer.is_multiple_of(2)).map(drop)
}

/// As [`super::json::windows`], of which some layer always has one.
pub(super) fn windows(o: &Object, config: &mut ModelConfig, slides: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    if o.map.contains_key("sliding_window") && o.get("sliding_window").is_none() {
        return Err(FormatError::malformed(o.file, "sliding_window is null, expected a number of tokens"));
    }
    super::json::windows(o, config, Some(4096), true, slides)
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    // llama.cpp knows the largest model, whose scores are scaled otherwise, by its layers.
    let largest = config.layers.len() == 46;
    let scalar = if largest { config.hidden_size / config.num_attention_heads.max(1) } else { config.head_dim };
    spell_out(config, scalar as f64);
    let caps = |key: &str, default: f64| keys.f64(key).map(|cap| Some(cap.unwrap_or(default)));
    let caps = [caps("attn_logit_softcapping", 50.0)?, caps("final_logit_softcapping", 30.0)?];
    cap(keys.file, config, caps)?;
    let window = keys.usize("attention.sliding_window")?.unwrap_or(4096);
    config.set_window(keys.file, Some(window), |layer| layer.is_multiple_of(2))
}

fn cap(file: &str, config: &mut ModelConfig, [scores, logits]: [Option<f64>; 2]) -> Result<()> {
    for (key, cap) in [("attn_logit_softcapping", scores), ("final_logit_softcapping", logits)] {
        // What f32 rounds to 0 would be no cap at all.
        if let Some(cap) = cap.filter(|&cap| cap as f32 <= 0.0) {
            return Err(FormatError::malformed(file, format!("{key} is {cap}, expected a positive number")));
        }
    }
    config.layers.iter_mut().for_each(|layer| layer.score_cap = scores.map(|cap| cap as f32));
    config.logits_cap = logits.map(|cap| cap as f32);
    Ok(())
}

/// What Gemma 2 and 3 have in common in `config.json`; the inverse square of the scale of scores.
pub(super) fn common(o: &Object, config: &mut ModelConfig) -> Result<f64> {
    if o.bool("use_bidirectional_attention")? == Some(true) {
        let advice = "only causal decoders are implemented";
        return Err(FormatError::unsupported(o.file, "use_bidirectional_attention true", advice));
    }
    config.norm_offset = 1.0;
    config.tie_word_embeddings = o.bool("tie_word_embeddings")?.unwrap_or(true);
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    let scalar = o.f64("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scalar <= 0.0 {
        let problem = format!("query_pre_attn_scalar is {scalar}, expected a positive number");
        return Err(FormatError::malformed(o.file, problem));
    }
    Ok(scalar)
}

/// What Gemma 2 and 3 have in common and both kinds of file leave unsaid.
pub(super) fn spell_out(config: &mut ModelConfig, scalar: f64) {
    config.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    for layer in &mut config.layers {
        layer.score_scale = Some((1.0 / scalar.sqrt()) as f32);
        layer.attention_norms.after = Some("post_attention_layernorm");
        layer.mlp_norms =
            BranchNorms { before: Some("pre_feedforward_layernorm"), after: Some("post_feedforward_layernorm") };
    }
}

/// What Gemma 2 and 3 have in common; where a cap is null there is none.
pub(super) fn write_json(config: &ModelConfig, map: &mut Map<String, Value>) {
    let layer = &config.layers[0];
    let scale = layer.score_scale.unwrap_or(1.0 / (config.head_dim as f32).sqrt());
    for (key, value) in [
        ("query_pre_attn_scalar", shortest(1.0 / (scale * scale)).as_f64().map(|scalar| json!(scalar.round()))),
        ("attn_logit_softcapping", layer.score_cap.map(shortest)),
        ("final_logit_softcapping", config.logits_cap.map(shortest)),
    ] {
        map.insert(key.to_owned(), value.unwrap_or_default());
    }
    super::write::windows(config, map);
    // A window as wide as the context is none, but transformers wants one to be named.
    if config.layers.iter().all(|layer| layer.window.is_none()) {
        map.insert("sliding_window".to_owned(), config.max_position_embeddings.into());
    }
}
