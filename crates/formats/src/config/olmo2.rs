//! OLMo 2: norms behind the branches, not before them, and of all heads of q and k together.

use super::{BranchNorms, Family, ModelConfig, QkNorm, Rope};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "olmo2",
    class: "Olmo2ForCausalLM",
    gguf: Some("olmo2"),
    default_context: 2048,
    default_kv_heads: true,
    json,
    metadata: |_, config| {
        norms(config);
        Ok(())
    },
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    config.rms_norm_eps = o.f64("rms_norm_eps")?.unwrap_or(1e-5) as f32;
    config.attention_bias = o.bool("attention_bias")?.unwrap_or(false);
    config.attention_output_bias = config.attention_bias;
    norms(config);
    Ok(())
}

fn norms(config: &mut ModelConfig) {
    let behind = |name| BranchNorms { before: None, after: Some(name) };
    for layer in &mut config.layers {
        layer.qk_norm = Some(QkNorm::Tokens);
        layer.attention_norms = behind("post_attention_layernorm");
        layer.mlp_norms = behind("post_feedforward_layernorm");
    }
}
