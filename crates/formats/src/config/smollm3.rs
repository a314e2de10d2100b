//! SmolLM3: Llama with layers whose q and k do not rotate.

use serde_json::Value;

use super::json::sliding_layers;
use super::{Family, ModelConfig, Rope, llama};
use crate::json::{Object, kind};
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    gguf: Some("smollm3"),
    interleaved: true,
    json,
    metadata: |_, config| {
        rotate(config, |layer| (layer + 1) % INTERVAL != 0);
        Ok(())
    },
    ..Family::COMMON
};

/// Every so many layers, one does not rotate.
const INTERVAL: usize = 4;

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 2_000_000.0, config)?];
    config.tie_word_embeddings = o.bool("tie_word_embeddings")?.unwrap_or(true);
    llama::biases(o, config)?;
    let rotates = match o.get("no_rope_layers") {
        None => {
            let interval = o.usize("no_rope_layer_interval")?.unwrap_or(INTERVAL).max(1);
            (0..config.layers.len()).map(|layer| (layer + 1) % interval != 0).collect()
        }
        // 1 where a layer rotates, in spite of the key's name.
        Some(Value::Array(flags)) if flags.len() >= config.layers.len() => {
            flags.iter().map(|flag| flag.as_u64() != Some(0)).collect::<Vec<bool>>()
        }
        Some(other) => {
            let problem = format!("no_rope_layers is {}, expected a list of 0 or 1 for each layer", kind(other));
            return Err(FormatError::malformed(o.file, problem));
        }
    };
    rotate(config, |layer| rotates[layer]);
    if o.bool("use_sliding_window")? == Some(true) {
        let slides = sliding_layers(o, config.layers.len())?;
        let slides = |layer: usize| slides.as_ref().map_or(!rotates[layer], |slides| slides[layer]);
        config.set_window(o.file, o.usize("sliding_window")?, slides)?;
    }
    Ok(())
}

fn rotate(config: &mut ModelConfig, rotates: impl Fn(usize) -> bool) {
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.rope = rotates(index).then_some(0);
    }
}
