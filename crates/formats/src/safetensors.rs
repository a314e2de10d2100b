//! Weights in safetensors files, single or sharded through `model.safetensors.index.json`.

use std::collections::BTreeMap;

use ::safetensors::tensor::Metadata;
use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;

use crate::error::listed;
use crate::json::{Object, parse_object};
use crate::{DType, FormatError, Result, Source, Tensor};

/// Longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// The wanted tensors of one file; names, shapes and data are checked, formats must be plain
/// floats, or FP8 where `fp8` says that somebody knows its scales.
pub(crate) fn read(
    file: &str,
    source: &Source,
    wanted: fn(&str) -> bool,
    fp8: bool,
) -> Result<BTreeMap<String, Tensor>> {
    let start = check_length(file, source)?;
    let header = source.head(start, file)?;
    let metadata = read_header(&header, source.len()).map_err(|e| explain(file, &header, source.len(), e))?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if !wanted(&name) {
            continue;
        }
        let stored = format!("{:?}", info.dtype);
        let (from, to) = info.data_offsets;
        let range = start + from as u64..start + to as u64;
        let data = source
            .slice(range)
            .ok_or_else(|| FormatError::malformed(file, format!("tensor {name} lies outside the file")))?;
        let tensor = match DType::plain_ones().find(|dtype| dtype.name() == stored) {
            Some(dtype) => Tensor::new(&name, dtype, info.shape.clone(), data),
            None if fp8 && stored == "F8_E4M3" => Tensor::e4m3(&name, info.shape.clone(), data),
            None => return Err(unsupported(file, &name, &stored)),
        };
        tensors.insert(name, tensor.map_err(|e| FormatError::malformed(file, e.to_string()))?);
    }
    Ok(tensors)
}

fn unsupported(file: &str, tensor: &str, dtype: &str) -> FormatError {
    let known = listed(DType::plain_ones().map(DType::name));
    let advice = format!("{known} are; save the model in one of them, or use a quantised GGUF");
    FormatError::unsupported(file, format!("tensor type {dtype} (of {tensor})"), advice)
}

/// What the first bytes of a file of `length` bytes say about it.
fn read_header(header: &[u8], length: u64) -> std::result::Result<Metadata, SafeTensorError> {
    match SafeTensors::read_metadata(header) {
        Ok((_, metadata)) if header.len() as u64 == length => Ok(metadata),
        // All is well but for the data, which are not here: their length is compared instead.
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {
            let metadata: Metadata =
                serde_json::from_slice(&header[8..]).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
            if header.len() as u64 + metadata.data_len() as u64 == length {
                Ok(metadata)
            } else {
                Err(SafeTensorError::MetadataIncompleteBuffer)
            }
        }
        Err(error) => Err(error),
    }
}

/// Where the data start. Tells the two lies a download most often tells, before anything is parsed.
fn check_length(file: &str, source: &Source) -> Result<u64> {
    let have = source.len();
    let Some(length) = source.head(8, file)?.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) else {
        let problem = format!("has {have} bytes, which is no safetensors file; download it again");
        return Err(FormatError::malformed(file, problem));
    };
    if length > MAX_HEADER {
        let problem = format!(
            "says its header has {length} bytes, more than the format allows: this is no safetensors file \
             (a Git LFS pointer, or a web page?); download it again"
        );
        return Err(FormatError::malformed(file, problem));
    }
    if length + 8 > have {
        let problem =
            format!("is truncated: the header needs {} bytes, the file has {have}; download it again", length + 8);
        return Err(FormatError::malformed(file, problem));
    }
    Ok(8 + length)
}

/// Puts the parser's errors into words that say what to do, finding the culprit where it can.
fn explain(file: &str, header: &[u8], have: u64, error: SafeTensorError) -> FormatError {
    let length = header.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let header: Option<Value> = header.get(8..).and_then(|b| serde_json::from_slice(b).ok());
    let problem = match error {
        SafeTensorError::InvalidHeaderDeserialization(e) => {
            if let Some((name, dtype)) = header.as_ref().and_then(unknown_dtype) {
                return unsupported(file, name, dtype);
            }
            format!("has a header that is no safetensors header: {e}")
        }
        SafeTensorError::InvalidHeader(_) => "has a header that is not UTF-8 text".to_string(),
        SafeTensorError::MetadataIncompleteBuffer => {
            let stated = header.as_ref().map_or(0, data_end);
            let expected = stated.saturating_add(length).saturating_add(8);
            let what = if have < expected { "is truncated" } else { "is longer than it says" };
            format!("{what}: the header describes {expected} bytes, the file has {have}")
        }
        SafeTensorError::TensorInvalidInfo => "has a tensor whose shape and data length disagree".to_string(),
        SafeTensorError::InvalidOffset(name) => {
            format!("has a tensor {name} whose data overlap another's or leave a gap")
        }
        SafeTensorError::ValidationOverflow => "has a tensor with more elements than can be counted".to_string(),
        other => format!("is no valid safetensors file: {other}"),
    };
    FormatError::malformed(file, format!("{problem}; download it again"))
}

/// The first tensor whose format the parser has never heard of.
fn unknown_dtype(header: &Value) -> Option<(&str, &str)> {
    header.as_object()?.iter().find_map(|(name, info)| {
        let dtype = info.get("dtype")?;
        let known = serde_json::from_value::<Dtype>(dtype.clone()).is_ok();
        (!known).then_some((name.as_str(), dtype.as_str().unwrap_or("of no name")))
    })
}

/// Where the last tensor's data end, counted from the end of the header.
fn data_end(header: &Value) -> u64 {
    let tensors = header.as_object().into_iter().flat_map(|map| map.values());
    tensors.filter_map(|info| info.get("data_offsets")?.get(1)?.as_u64()).max().unwrap_or(0)
}

/// Shard file of every tensor, by tensor name.
pub(crate) fn read_index(file: &str, json: &[u8]) -> Result<BTreeMap<String, String>> {
    let map = parse_object(file, json)?;
    let object = Object::new(file, &map);
    let weight_map = object.required("weight_map", object.object("weight_map")?)?;
    let mut shards = BTreeMap::new();
    for (tensor, shard) in weight_map.map {
        let name = shard.as_str().filter(|name| is_plain_file_name(name));
        let Some(name) = name else {
            return Err(FormatError::malformed(
                file,
                format!("puts tensor {tensor} in {shard}, expected the name of a file beside it"),
            ));
        };
        shards.insert(tensor.clone(), name.to_string());
    }
    Ok(shards)
}

/// True for a name that stays in its folder.
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
