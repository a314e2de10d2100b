//! Qwen2 and Qwen2.5.

use super::{Family, ModelConfig, Rope};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family = Family { name: "qwen2", gguf: Some("qwen2"), json, ..Family::COMMON };

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    config.attention_bias = true;
    windows(o, config)
}

/// A window is stated whether or not it is used: `layer_types` or the older `use_sliding_window`
/// say where.
pub(super) fn windows(o: &Object, config: &mut ModelConfig) -> Result<()> {
    let window = o.usize("sliding_window")?.unwrap_or(4096);
    let from = match o.bool("use_sliding_window")? {
        Some(true) => o.usize("max_window_layers")?.unwrap_or(28),
        _ => config.layers.len(),
    };
    match super::json::sliding_layers(o, config.layers.len())? {
        Some(slides) => config.set_window(o.file, Some(window), |layer| slides[layer]),
        None => config.set_window(o.file, Some(window), |layer| layer >= from),
    }
}
