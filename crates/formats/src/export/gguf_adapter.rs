//! An adapter as llama.cpp loads it: GGUF of type `adapter`.

use super::outgoing::Outgoing;
use super::{Content, File};
use crate::gguf::{Metadata, gguf_name, interleaved_head};
use crate::{Adapter, DType, FormatError, LoraPair, Model, Result, Tensor};

/// The adapter as one GGUF file, every number in F32: `NAME.lora_a` `[rank, in]` and `NAME.lora_b`
/// `[out, rank]` for every adapted tensor NAME, and α.
///
/// llama.cpp multiplies B·A by α over the rank, with one α for all. Where pairs differ in their
/// scaling times their rank, B takes the difference in.
///
/// # Errors
/// Where the adapter has DoRA's magnitudes, which llama.cpp does not know, or numbers that are not
/// finite.
pub fn gguf_adapter(model: &Model, adapter: &Adapter, name: &str) -> Result<File<'static>> {
    if adapter.config.use_dora {
        let advice = "llama.cpp knows no magnitudes; write base and adapter as one model";
        return Err(FormatError::unsupported("adapter", "DoRA (use_dora true) in a GGUF adapter", advice));
    }
    if let Some(what) = adapter.not_finite() {
        return Err(FormatError::malformed("adapter", what));
    }
    let alpha = |pair: &LoraPair| pair.scaling * pair.rank as f32;
    // An α of 0 means to llama.cpp that there is none.
    let common = adapter.pairs.iter().map(alpha).find(|alpha| *alpha != 0.0).unwrap_or(1.0);
    let mut tensors = Vec::new();
    for pair in &adapter.pairs {
        if let Some(misfit) = pair.misfit() {
            return Err(FormatError::malformed("adapter", misfit));
        }
        let full = format!("{}.weight", pair.module);
        let Some(base) = gguf_name(&full, &model.config) else {
            let advice = "llama.cpp has no place for it; write base and adapter as one model";
            return Err(FormatError::unsupported("adapter", format!("{} in a GGUF adapter", pair.module), advice));
        };
        let factor = alpha(pair) / common;
        let b: Vec<f32> = pair.b.iter().map(|b| b * factor).collect();
        let a = Tensor::from_f32(format!("{base}.lora_a"), vec![pair.rank, pair.in_features], &pair.a)?;
        let b = Tensor::from_f32(format!("{base}.lora_b"), vec![pair.out_features, pair.rank], &b)?;
        let mut outgoing = [a, b].map(|tensor| Outgoing::new(tensor.name.clone(), DType::F32, vec![(tensor, None)]));
        outgoing[1].interleaved = interleaved_head(&full, &model.config);
        tensors.extend(outgoing);
    }
    let mut metadata = Metadata::default();
    metadata.string("general.architecture", model.config.architecture.gguf_name());
    metadata.string("general.type", "adapter");
    metadata.string("adapter.type", "lora");
    metadata.f32("adapter.lora.alpha", common);
    // All in F32.
    metadata.u32("general.file_type", 0);
    metadata.string("general.name", &format!("adapter of {}", model.name));
    Ok(File { name: name.to_owned(), content: Content::Gguf(metadata, tensors) })
}
