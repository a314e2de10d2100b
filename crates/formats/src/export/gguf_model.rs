//! A tuned model as one GGUF file.

use std::collections::BTreeMap;

use super::folder::{is_gguf, whole};
use super::merge::patches;
use super::outgoing::Outgoing;
use super::{Content, File};
use crate::gguf::{Gguf, Header, Metadata, gguf_name, interleaved_head, tensor};
use crate::{Adapter, DType, FormatError, Model, Result};

/// Metadata that is of the base's file and not of the model: how it was split, laid out and
/// quantised.
const OF_THE_FILE: [&str; 4] = ["split.", "general.alignment", "general.file_type", "quantize."];

/// A model that came in a GGUF file, with its adapter worked in: the adapted matrices in `dtype`,
/// every other tensor with the bytes that it has, and the base's metadata.
///
/// Rows that are not whole blocks of `dtype` become Q5_0, as with [`Model::quantize`], else F16.
///
/// # Errors
/// Where the base came from elsewhere, the adapter does not fit, or it ends texts with more tokens
/// than a GGUF file can name.
pub fn gguf_model<'a>(model: &Model, adapter: &'a Adapter, dtype: DType, name: &str) -> Result<File<'a>> {
    let shown = model.path.display().to_string();
    if !is_gguf(model)? {
        let advice = "write a folder instead, and convert that with llama.cpp's convert_hf_to_gguf.py";
        return Err(FormatError::unsupported(shown, "a GGUF file of a base that is none", advice));
    }
    let patches = patches(model, Some(adapter))?;
    let files: BTreeMap<_, _> = model.weight_files().iter().cloned().collect();
    let (first, source) = &model.weight_files()[0];
    let base = Gguf::open(first, first, source.clone(), |part| Ok(files.get(part).cloned()))?;
    let adapted = whole(model, &patches).into_iter().filter(|(_, parts)| parts.iter().any(|(_, p)| p.is_some()));
    let mut adapted: BTreeMap<String, _> =
        adapted.filter_map(|(name, parts)| Some((gguf_name(&name, &model.config)?, (name, parts)))).collect();
    let mut tensors = Vec::new();
    for part in base.parts() {
        for info in &part.header.tensors {
            let made = match adapted.remove(&info.name) {
                Some((full, parts)) => {
                    let cols = parts.first().map_or(1, |(tensor, _)| tensor.cols());
                    let fits = |dtype: &DType| cols.is_multiple_of(dtype.block_len());
                    let dtype = [dtype, DType::Q5_0].into_iter().find(fits).unwrap_or(DType::F16);
                    let mut made = Outgoing::new(info.name.clone(), dtype, parts);
                    made.interleaved = interleaved_head(&full, &model.config);
                    made
                }
                None => {
                    let tensor = tensor(part, info, &info.name)?;
                    Outgoing::new(info.name.clone(), tensor.dtype, vec![(tensor, None)])
                }
            };
            tensors.push(made);
        }
    }
    if let Some(name) = adapted.keys().next() {
        return Err(FormatError::missing(
            shown,
            format!("tensor {name}"),
            "an adapted matrix has no place in the file",
        ));
    }
    let metadata = metadata(model, adapter, &base)?;
    Ok(File { name: name.to_owned(), content: Content::Gguf(metadata, tensors) })
}

/// The base's metadata, with the tokens that end a text of the tuned model.
fn metadata(model: &Model, adapter: &Adapter, base: &Gguf) -> Result<Metadata> {
    let (header, (name, source)) = (base.header(), &model.weight_files()[0]);
    let bytes = source.head(header.data_start, name)?;
    let entries = Header::raw_metadata(&bytes).map_err(|e| FormatError::malformed(base.file(), e.to_string()))?;
    let is_kept = |key: &str| !OF_THE_FILE.iter().any(|start| key.starts_with(start));
    let mut metadata = Metadata(entries.into_iter().filter(|(key, _)| is_kept(key)).collect());
    metadata.u32("general.quantization_version", 2);
    let known = &model.config.eos_token_ids;
    let mut free = ["eot_token_id", "eom_token_id"].into_iter().map(|key| format!("tokenizer.ggml.{key}"));
    for id in adapter.config.end_token_ids.iter().filter(|id| !known.contains(id)) {
        let Some(key) = free.find(|key| header.get(key).is_none()) else {
            let what = format!("token {id}, which ends texts of the adapter, beside those of the base");
            let advice = "a GGUF file names three end tokens; write a folder instead";
            return Err(FormatError::unsupported(base.file(), what, advice));
        };
        metadata.u32(&key, *id);
    }
    Ok(metadata)
}
