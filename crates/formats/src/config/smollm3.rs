//! SmolLM3: Llama with layers whose q and k do not rotate.

use serde_json::Value;

use super::json::{interval, windows};
use super::{Family, ModelConfig, Rope, llama, qwen2};
use crate::json::{Object, kind};
use crate::{FormatError, Result};

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    class: "SmolLM3ForCausalLM",
    gguf: Some("smollm3"),
    interleaved: true,
    json,
    metadata: |_, config| {
        rotate(config, |layer| (layer + 1) % INTERVAL != 0);
        Ok(())
    },
    write_json: |config, map| {
        let rotates = config.layers.iter().map(|layer| u8::from(layer.rope.is_some())).collect::<Vec<_>>();
        map.insert("no_rope_layers".to_owned(), rotates.into());
        qwen2::write_windows(config, map);
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
            let interval = interval(o, "no_rope_layer_interval", INTERVAL)?;
            (0..config.layers.len()).map(|layer| (layer + 1) % interval != 0).collect()
        }
        // 1 where a layer rotates, in spite of the key's name.
        Some(Value::Array(flags)) if flags.len() >= config.layers.len() && flags.iter().all(is_flag) => {
            flags.iter().map(|flag| flag.as_u64() == Some(1)).collect::<Vec<bool>>()
        }
        Some(other) => {
            let problem = format!("no_rope_layers is {}, expected a list of 0 or 1 for each layer", kind(other));
            return Err(FormatError::malformed(o.file, problem));
        }
    };
    rotate(config, |layer| rotates[layer]);
    let used = o.bool("use_sliding_window")? == Some(true);
    windows(o, config, None, used, |layer| !rotates[layer]).map(drop)
}

fn is_flag(flag: &Value) -> bool {
    matches!(flag.as_u64(), Some(0 | 1))
}

fn rotate(config: &mut ModelConfig, rotates: impl Fn(usize) -> bool) {
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.rope = rotates(index).then_some(0);
    }
}
