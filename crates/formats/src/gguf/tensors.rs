//! GGUF tensor data: bounds, Hugging Face names, and llama.cpp's row order of q and k.

use std::collections::BTreeMap;

use super::TensorInfo;
use super::file::{Gguf, Part};
use super::names::{ROPE_DIVISORS, Role, SHORT_AND_LONG_DIVISORS, interleaved_head, role};
use crate::config::Divisors;
use crate::error::listed;
use crate::model::{check_tensors, split_modules};
use crate::tensor::Interleaved;
use crate::{DType, FormatError, ModelConfig, Result, Tensor};

/// One tensor's data out of its whole file, as `name`.
pub(crate) fn tensor(part: &Part, info: &TensorInfo, name: &str) -> Result<Tensor> {
    let Part { file, header, source, .. } = part;
    let Some(dtype) = info.dtype() else {
        return Err(FormatError::unsupported(
            file,
            format!("tensor type {} (of {})", info.type_name(), info.name),
            format!(
                "{} are; requantise the model, or use another file of it",
                listed(DType::ALL.iter().map(|dtype| dtype.name()))
            ),
        ));
    };
    let Some(length) = info.byte_len() else {
        return Err(FormatError::malformed(
            file,
            format!(
                "tensor {} has shape {:?}, whose rows are not whole {dtype} blocks of {}",
                info.name,
                info.shape,
                dtype.block_len()
            ),
        ));
    };
    let end = header.data_start.checked_add(info.offset).and_then(|s| s.checked_add(length as u64));
    let data = end.and_then(|end| source.slice(end - length as u64..end));
    match data {
        Some(data) => Tensor::new(name, dtype, info.shape.clone(), data),
        None => Err(FormatError::malformed(
            file,
            format!(
                "tensor {} ends at byte {}, but the file has {}: it is truncated; download it again",
                info.name,
                end.map_or_else(|| "2^64 or later".to_string(), |e| e.to_string()),
                source.len()
            ),
        )),
    }
}

/// What rotary frequencies are divided by, where the file says so.
pub(crate) fn rope_divisors(gguf: &Gguf) -> Result<Divisors> {
    let read = |name: &str| gguf.find(name).map(|(part, info)| tensor(part, info, name)?.to_f32()).transpose();
    let [short, long] = SHORT_AND_LONG_DIVISORS;
    let short_and_long = match (read(short)?, read(long)?) {
        (None, None) => None,
        (Some(short), Some(long)) => Some((short, long)),
        (found, _) => {
            let missing = if found.is_some() { long } else { short };
            let advice = "convert the model again with a current llama.cpp";
            return Err(FormatError::missing(gguf.file(), format!("tensor {missing}"), advice));
        }
    };
    Ok(Divisors { plain: read(ROPE_DIVISORS)?, short_and_long })
}

/// All weights of a GGUF file by Hugging Face name, q and k rows in Hugging Face order.
pub(crate) fn load_tensors(gguf: &Gguf, config: &ModelConfig) -> Result<BTreeMap<String, Tensor>> {
    let file = gguf.file();
    let mut tensors = BTreeMap::new();
    for part in gguf.parts() {
        let mut ranges = Vec::new();
        for info in &part.header.tensors {
            let name = match role(&info.name, config) {
                Role::Weight(name) => name,
                Role::Ignored => continue,
                Role::Unknown => {
                    return Err(FormatError::unsupported(
                        &part.file,
                        format!("tensor {}", info.name),
                        format!("a {} model has no place for it", config.architecture),
                    ));
                }
            };
            let tensor = tensor(part, info, &name)?;
            ranges.push((info.offset, tensor.byte_len() as u64, info.name.as_str()));
            tensors.insert(name, tensor);
        }
        check_apart(&part.file, ranges)?;
    }
    split_modules(file, config, &mut tensors)?;
    check_tensors(file, config, &tensors)?;
    for (name, tensor) in &mut tensors {
        if let Some(head_dim) = interleaved_head(name, config) {
            tensor.interleaved = Some(rotary_halves(file, tensor, head_dim)?);
        }
    }
    Ok(tensors)
}

/// Checks that no two of a file's tensors, each an offset, a length and a name, share bytes.
fn check_apart(file: &str, mut ranges: Vec<(u64, u64, &str)>) -> Result<()> {
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(start, length, first), (next, _, second)] = pair else {
            continue;
        };
        // Both ends lie within the file, so the sum cannot overflow.
        if start + length > *next {
            return Err(FormatError::malformed(
                file,
                format!("the data of tensors {first} and {second} overlap; download the file again"),
            ));
        }
    }
    Ok(())
}

/// How llama.cpp ordered q and k rows.
fn rotary_halves(file: &str, tensor: &Tensor, head_dim: usize) -> Result<Interleaved> {
    // A bias is a column of rows with one element each.
    let row_elements = if tensor.shape.len() == 2 { tensor.cols() } else { 1 };
    match tensor.dtype.checked_row_bytes(row_elements) {
        Some(row_bytes) => Ok(Interleaved { head_dim, row_bytes }),
        None => Err(FormatError::unsupported(
            file,
            format!("a bias in {} ({})", tensor.dtype, tensor.name),
            "biases must be F32, F16 or BF16",
        )),
    }
}
