//! Phi-3, Phi-3.5 and Phi-4-mini: Llama with q, k and v in one module and gate and up in another,
//! and with heads of which a part may rotate.

use serde_json::{Map, Value};

use super::{Family, ModelConfig, Rope, RopeScaling};
use crate::gguf::Keys;
use crate::json::Object;
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    class: "Phi3ForCausalLM",
    gguf: Some("phi3"),
    default_context: 4096,
    default_original_context: Some(4096),
    // As Microsoft's own code called it first.
    rope_aliases: &[("su", "longrope")],
    default_kv_heads: true,
    obeys: &["partial_rotary_factor", "rope.dimension_count"],
    json,
    metadata,
    write_json,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    let scaling = &config.ropes[0].scaling;
    if !matches!(scaling, RopeScaling::None | RopeScaling::LongRope { .. }) {
        let what = format!("a rope of a phi3 model with {}", scaling.to_string().trim_start_matches(", "));
        return Err(FormatError::unsupported(o.file, what, "default and longrope are what transformers takes there"));
    }
    config.rms_norm_eps = o.f64("rms_norm_eps")?.unwrap_or(1e-5) as f32;
    config.fused_projections = true;
    // transformers masks every layer alike, whatever layer_types says.
    config.set_window(o.file, o.usize("sliding_window")?, |_| true)
}

fn metadata(keys: &Keys, config: &mut ModelConfig) -> Result<()> {
    // llama.cpp does without the windows that the file states, the model's own code does not.
    config.fused_projections = true;
    config.set_window(keys.file, keys.window()?, |_| true)
}

fn write_json(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("sliding_window".to_owned(), config.layers[0].window.into());
    if let RopeScaling::LongRope { original_max_position_embeddings: original, .. } = config.ropes[0].scaling {
        map.insert("original_max_position_embeddings".to_owned(), original.into());
    }
}
