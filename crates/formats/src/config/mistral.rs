//! Mistral. Its GGUF files are of llama.cpp's architecture `llama`.

use super::{Family, ModelConfig, Rope};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family =
    Family { name: "mistral", interleaved: true, default_context: 131_072, json, ..Family::COMMON };

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    // An absent key means 4096 to transformers, an explicit null none.
    let window = if o.map.contains_key("sliding_window") { o.usize("sliding_window")? } else { Some(4096) };
    config.set_window(o.file, window, |_| true)
}
