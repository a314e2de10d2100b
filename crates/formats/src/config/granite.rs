//! Granite 3, dense: Llama with multipliers of the embedding, the scores, the branches and the
//! logits.

use serde_json::{Map, Value};

use super::{Family, ModelConfig, Rope, llama};
use crate::gguf::Keys;
use crate::json::{Object, shortest};
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "granite",
    class: "GraniteForCausalLM",
    gguf: Some("granite"),
    interleaved: true,
    default_context: 2048,
    default_kv_heads: true,
    obeys: &[
        "embedding_multiplier",
        "attention_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "embedding_scale",
        "attention.scale",
        "residual_scale",
        "logit_scale",
    ],
    json,
    metadata,
    write_json,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    llama::biases(o, config)?;
    let scales = ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"];
    multiply(o.file, config, scales, |key| o.f64(key))
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    let scales = ["embedding_scale", "attention.scale", "residual_scale", "logit_scale"];
    multiply(keys.file, config, scales, |key| keys.f64(key))?;
    // llama.cpp scales scores as usual where the file says nothing.
    if keys.get("attention.scale").is_none() {
        config.layers.iter_mut().for_each(|layer| layer.score_scale = None);
    }
    Ok(())
}

/// Sets the multipliers of embedding, scores and branches, and the divisor of logits; each is 1
/// where it is absent.
fn multiply(
    file: &str,
    config: &mut ModelConfig,
    keys: [&str; 4],
    get: impl Fn(&str) -> Result<Option<f64>>,
) -> Result<()> {
    let mut values = [1.0; 4];
    for (value, key) in values.iter_mut().zip(keys) {
        *value = get(key)?.unwrap_or(1.0);
        if *value <= 0.0 {
            return Err(FormatError::malformed(file, format!("{key} is {value}, expected a positive number")));
        }
    }
    let [embedding, scores, branches, logits] = values;
    if config.attention_output_bias && branches != 1.0 {
        let advice = "only output projections without biases are implemented where branches have a multiplier";
        return Err(FormatError::unsupported(file, "a bias of o_proj", advice));
    }
    config.embedding_scale = embedding as f32;
    config.logits_scale = (1.0 / logits) as f32;
    for layer in &mut config.layers {
        layer.score_scale = Some(scores as f32);
        layer.residual_scale = branches as f32;
    }
    Ok(())
}

fn write_json(config: &ModelConfig, map: &mut Map<String, Value>) {
    let layer = &config.layers[0];
    let scores = layer.score_scale.unwrap_or(1.0 / (config.head_dim as f32).sqrt());
    for (key, value) in [
        ("embedding_multiplier", config.embedding_scale),
        ("attention_multiplier", scores),
        ("residual_multiplier", layer.residual_scale),
        ("logits_scaling", 1.0 / config.logits_scale),
    ] {
        map.insert(key.to_owned(), shortest(value));
    }
}
