//! Qwen3.

use super::{Family, ModelConfig, qwen2};
use crate::Result;
use crate::gguf::Keys;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    gguf: Some("qwen3"),
    interleaved: false,
    default_context: 32_768,
    default_head_dim: Some(128),
    default_kv_heads: false,
    json,
    metadata,
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    config.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    qwen2::windows(o, config)
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    config.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    qwen2::metadata(keys, config)
}
