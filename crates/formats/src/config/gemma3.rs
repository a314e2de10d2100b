//! Gemma 3, the language model alone (`gemma3_text`).

use super::json::sliding_layers;
use super::{Family, Gate, ModelConfig, QkNorm, Rope, RopeScaling, gemma2};
use crate::Result;
use crate::gguf::Keys;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "gemma3_text",
    gguf: Some("gemma3"),
    default_context: 131_072,
    default_head_dim: Some(256),
    gate: ("hidden_activation", Gate::GeluTanh),
    json,
    metadata,
    ..Family::COMMON
};

/// Tables of [`ModelConfig::ropes`]: of layers that see the whole context, and of those with a
/// window.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;
/// Every so many layers, one sees the whole context.
const PATTERN: usize = 6;
const LOCAL_THETA: f64 = 10_000.0;

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    let scalar = gemma2::common(o, config)?;
    let rope = |kind: &str, theta: &str, default: f64| match o.object("rope_parameters")? {
        Some(all) => {
            let own = all.object(kind)?;
            let theta = own.as_ref().map_or(Ok(None), |own| own.f64("rope_theta"))?.unwrap_or(default);
            Rope::from_parameters(o, own.as_ref(), theta, None, config)
        }
        None => {
            let scaling = if kind == "full_attention" { o.object("rope_scaling")? } else { None };
            Rope::from_parameters(o, scaling.as_ref(), o.f64(theta)?.unwrap_or(default), None, config)
        }
    };
    config.ropes = vec![
        rope("full_attention", "rope_theta", 1_000_000.0)?,
        rope("sliding_attention", "rope_local_base_freq", LOCAL_THETA)?,
    ];
    let pattern = o.usize("sliding_window_pattern")?.unwrap_or(PATTERN);
    let slides = sliding_layers(o, config.layers.len())?;
    let slides =
        |layer: usize| slides.as_ref().map_or(!(layer + 1).is_multiple_of(pattern.max(1)), |slides| slides[layer]);
    spell_out(config, scalar, slides);
    config.set_window(o.file, Some(o.usize("sliding_window")?.unwrap_or(4096)), slides)
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    let pattern = keys.usize("attention.sliding_window_pattern")?.unwrap_or(PATTERN).max(1);
    let theta = keys.f64("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    config.ropes.push(Rope { theta, dim: config.head_dim, scaling: RopeScaling::None });
    // llama.cpp knows the largest model, whose scores are scaled otherwise, by its layers.
    let largest = config.layers.len() == 62;
    let scalar = if largest { config.hidden_size / config.num_attention_heads.max(1) } else { config.head_dim };
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    spell_out(config, scalar as f64, slides);
    config.set_window(keys.file, Some(keys.required("attention.sliding_window")?), slides)
}

/// What both kinds of file leave unsaid.
fn spell_out(config: &mut ModelConfig, scalar: f64, slides: impl Fn(usize) -> bool) {
    gemma2::spell_out(config, scalar);
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.rope = Some(if slides(index) { LOCAL } else { GLOBAL });
        layer.qk_norm = Some(QkNorm::Heads);
    }
}
