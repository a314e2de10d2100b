//! Qwen2 and Qwen2.5.

use serde_json::{Map, Value};

use super::{Family, ModelConfig, Rope};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "qwen2",
    class: "Qwen2ForCausalLM",
    gguf: Some("qwen2"),
    json,
    write_json: write_windows,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    config.attention_bias = true;
    windows(o, config)
}

/// As [`windows`] reads them.
pub(super) fn write_windows(config: &ModelConfig, map: &mut Map<String, Value>) {
    super::write::windows(config, map);
    map.insert("use_sliding_window".to_owned(), config.layers.iter().any(|layer| layer.window.is_some()).into());
}

/// A window is stated whether or not it is used: `layer_types` or the older `use_sliding_window`
/// say where.
pub(super) fn windows(o: &Object, config: &mut ModelConfig) -> Result<()> {
    let used = o.bool("use_sliding_window")? == Some(true);
    let from = o.usize("max_window_layers")?.unwrap_or(28);
    super::json::windows(o, config, Some(4096), used, |layer| layer >= from).map(drop)
}
