//! Qwen3.

use super::{Family, ModelConfig, Rope, qwen2};
use crate::Result;
use crate::gguf::Keys;
use crate::json::Object;

pub(super) const FAMILY: Family =
    Family { name: "qwen3", gguf: Some("qwen3"), default_head_dim: Some(128), json, metadata, ..Family::COMMON };

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    config.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    qwen2::windows(o, config)
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    config.layers.iter_mut().for_each(|layer| layer.qk_norm = true);
    qwen2::metadata(keys, config)
}
