//! GGUF tensor data: bounds, Hugging Face names, and llama.cpp's row order of q and k.

use std::collections::BTreeMap;

use super::names::{Role, role};
use super::{Header, TensorInfo};
use crate::{Architecture, Bytes, FormatError, ModelConfig, Result, Tensor};

/// One tensor's data out of the whole file's `bytes`, as `name`.
pub(super) fn tensor(
    file: &str,
    header: &Header,
    bytes: &Bytes,
    info: &TensorInfo,
    name: &str,
) -> Result<Tensor> {
    let Some(dtype) = info.dtype() else {
        return Err(FormatError::unsupported(
            file,
            format!("tensor type {} (of {})", info.type_name(), info.name),
            "F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are; requantise the model, or use another file of it",
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
    let end = header
        .data_start
        .checked_add(info.offset)
        .and_then(|s| s.checked_add(length as u64));
    let data = end
        .filter(|&end| end <= bytes.len() as u64)
        .and_then(|end| bytes.slice(end as usize - length..end as usize));
    match data {
        Some(data) => Tensor::new(name, dtype, info.shape.clone(), data),
        None => Err(FormatError::malformed(
            file,
            format!(
                "tensor {} ends at byte {}, but the file has {}: it is truncated; download it again",
                info.name,
                end.map_or_else(|| "2^64 or later".to_string(), |e| e.to_string()),
                bytes.len()
            ),
        )),
    }
}

/// All weights of a GGUF file by Hugging Face name, q and k rows in Hugging Face order.
pub(crate) fn load_tensors(
    file: &str,
    header: &Header,
    bytes: &Bytes,
    config: &ModelConfig,
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for info in &header.tensors {
        let name = match role(&info.name) {
            Role::Weight(name) => name,
            Role::Ignored => continue,
            Role::Unknown => {
                return Err(FormatError::unsupported(
                    file,
                    format!("tensor {}", info.name),
                    format!("a {} model has no place for it", config.architecture),
                ));
            }
        };
        let tensor = tensor(file, header, bytes, info, &name)?;
        ranges.push((info.offset, tensor.data.len() as u64, &info.name));
        tensors.insert(name, tensor);
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(start, length, first), (next, _, second)] = pair else {
            continue;
        };
        // Both ends lie within the file, so the sum cannot overflow.
        if start + length > *next {
            return Err(FormatError::malformed(
                file,
                format!(
                    "the data of tensors {first} and {second} overlap; download the file again"
                ),
            ));
        }
    }
    crate::model::check_tensors(file, config, &tensors)?;
    if config.architecture == Architecture::Llama {
        for (name, tensor) in &mut tensors {
            if name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.") {
                *tensor = deinterleave(file, tensor, config.head_dim)?;
            }
        }
    }
    Ok(tensors)
}

/// Undoes llama.cpp's order of q and k rows.
///
/// Within each head of D rows, llama.cpp stores the two rotary halves interleaved: its row `2i + s`
/// is Hugging Face's row `s·D/2 + i`. Moving whole rows is exact for quantised ones too.
fn deinterleave(file: &str, tensor: &Tensor, head_dim: usize) -> Result<Tensor> {
    // A bias is a column of rows with one element each.
    let (rows, cols) = match tensor.shape[..] {
        [rows, cols] => (rows, cols),
        _ => (tensor.elements(), 1),
    };
    let Some(row_bytes) = tensor.dtype.checked_row_bytes(cols) else {
        return Err(FormatError::unsupported(
            file,
            format!("a bias in {} ({})", tensor.dtype, tensor.name),
            "biases must be F32, F16 or BF16",
        ));
    };
    let mut data = Vec::with_capacity(tensor.data.len());
    for head in 0..rows / head_dim {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let from = (head * head_dim + 2 * i + half) * row_bytes;
                data.extend_from_slice(&tensor.data[from..from + row_bytes]);
            }
        }
    }
    Tensor::new(
        tensor.name.clone(),
        tensor.dtype,
        tensor.shape.clone(),
        Bytes::from(data),
    )
}
