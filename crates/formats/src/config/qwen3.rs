//! Qwen3.

use super::{Family, ModelConfig, QkNorm, Rope, qwen2};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    gguf: Some("qwen3"),
    default_head_dim: Some(128),
    json,
    metadata: |_, config| {
        norms(config);
        Ok(())
    },
    write_json: qwen2::write_windows,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    norms(config);
    qwen2::windows(o, config)
}

fn norms(config: &mut ModelConfig) {
    config.layers.iter_mut().for_each(|layer| layer.qk_norm = Some(QkNorm::Heads));
}
