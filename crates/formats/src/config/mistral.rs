//! Mistral. Its GGUF files are of llama.cpp's architecture `llama`.

use super::{Family, ModelConfig, Rope};
use crate::Result;
use crate::json::Object;

pub(super) const FAMILY: Family = Family {
    name: "mistral",
    class: "MistralForCausalLM",
    interleaved: true,
    default_context: 131_072,
    json,
    write_json: super::write::windows,
    ..Family::COMMON
};

fn json(o: &Object, config: &mut ModelConfig) -> Result<()> {
    config.ropes = vec![Rope::from_json(o, 10_000.0, config)?];
    super::json::windows(o, config, Some(4096), true, |_| true).map(drop)
}
