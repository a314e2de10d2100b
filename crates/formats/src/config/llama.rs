//! Llama 2 and 3, SmolLM2, TinyLlama; in GGUF also Mistral.

use super::{Family, ModelConfig, Rope};
use crate::gguf::Keys;
use crate::json::Object;
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    class: "LlamaForCausalLM",
    gguf: Some("llama"),
    interleaved: true,
    default_context: 2048,
    default_kv_heads: true,
    json,
    metadata,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    biases(o, config)
}

/// Biases of all four attention projections or of none, and none in the feed-forward layers.
pub(super) fn biases(o: &Object, config: &mut ModelConfig) -> Result<()> {
    if o.bool("mlp_bias")? == Some(true) {
        let advice = "only feed-forward layers without biases are implemented";
        return Err(FormatError::unsupported(o.file, "mlp_bias true", advice));
    }
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    Ok(())
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    config.set_window(keys.file, keys.window()?, |_| true)
}
