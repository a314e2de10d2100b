//! Gemma 3: the language model (`gemma3_text`), be it inside of one that sees, too (`gemma3`), as
//! Gemma 3 from 4B on and MedGemma are.

use serde_json::{Map, Value};

use super::json::interval;
use super::{Family, Gate, LayerSpec, ModelConfig, QkNorm, Rope, RopeScaling, gemma2};
use crate::gguf::Keys;
use crate::json::Object;
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "gemma3_text",
    class: "Gemma3ForCausalLM",
    inside: Some("gemma3"),
    gguf: Some("gemma3"),
    // Google's own files leave most of them out.
    default_sizes: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
    ],
    default_context: 131_072,
    default_head_dim: Some(256),
    gate: ("hidden_activation", Gate::GeluTanh),
    obeys: &["attention.sliding_window_pattern", "rope.freq_base_swa"],
    json,
    metadata,
    write_json,
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
    Rope::refuse_both(o)?;
    let rope = |kind: &str, theta: &str, default: f64| {
        let scaling = match o.object("rope_parameters")? {
            Some(all) => all.object(kind)?,
            None if kind == "full_attention" => o.object("rope_scaling")?,
            None => None,
        };
        let mut base = o.f64(theta)?.unwrap_or(default);
        if let Some(scaling) = &scaling {
            // transformers takes these from other places than those where they stand here.
            let elsewhere = [
                ("rope_theta", o.get("rope_parameters").is_none() && scaling.get("rope_theta").is_some()),
                ("type", scaling.get("rope_type").is_none() && scaling.get("type").is_some()),
                ("truncate", scaling.get("truncate").is_some()),
            ];
            if let Some((key, _)) = elsewhere.into_iter().find(|(_, there)| *there) {
                let what = format!("{key} in the scaling of rope");
                let advice = "write rope_parameters with a rope_theta and a rope_type for each kind of layer";
                return Err(FormatError::unsupported(o.file, what, advice));
            }
            base = scaling.f64("rope_theta")?.unwrap_or(base);
        }
        Rope::from_parameters(o, scaling.as_ref(), base, None, config)
    };
    config.ropes = vec![
        rope("full_attention", "rope_theta", 1_000_000.0)?,
        rope("sliding_attention", "rope_local_base_freq", LOCAL_THETA)?,
    ];
    let pattern = interval(o, "sliding_window_pattern", PATTERN)?;
    let slides = gemma2::windows(o, config, |layer| !(layer + 1).is_multiple_of(pattern))?;
    spell_out(config, scalar, |layer| slides[layer]);
    Ok(())
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

fn write_json(config: &ModelConfig, map: &mut Map<String, Value>) {
    gemma2::write_json(config, map);
    let kind = |layer: &LayerSpec| if layer.rope == Some(LOCAL) { "sliding_attention" } else { "full_attention" };
    map.insert("layer_types".to_owned(), config.layers.iter().map(kind).collect::<Vec<_>>().into());
    map.insert("rope_local_base_freq".to_owned(), config.ropes[LOCAL].theta.into());
}
