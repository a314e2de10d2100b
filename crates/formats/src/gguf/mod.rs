//! GGUF, llama.cpp's single-file format: header parsing apart from data access.
//!
//! [`Header::parse`] works from the first bytes of a file and says when it needs more, so that a
//! file can be read as a stream. Every count and length is checked against the bytes at hand before
//! anything is allocated for it, so that a header never costs more than a few times its own size.

mod file;
mod keys;
mod names;
mod tensors;
mod value;
mod write;

use std::collections::BTreeMap;

pub(crate) use file::Gguf;
pub(crate) use keys::{Keys, sentence};
pub(crate) use names::{gguf_name, interleaved_head};
pub(crate) use tensors::{load_tensors, rope_divisors, tensor};
use value::Reader;
pub use value::{Array, Scalars, Value};
pub(crate) use write::{Listed, Metadata};

use crate::DType;
use crate::tensor::byte_len;

/// Why a header could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes so far are fine but end too early. A file shorter than `total` is truncated or
    /// lies.
    #[error("the header goes on to byte {total} at least")]
    NeedMoreBytes {
        /// Bytes from the start of the file that are needed for the next step, at least.
        total: u64,
    },
    /// The header cannot be right, or is of a kind that is not supported.
    #[error("{0}")]
    Invalid(String),
}

/// One entry of the tensor directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// llama.cpp's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape, the reverse of GGUF's own order.
    pub shape: Vec<usize>,
    /// ggml's number of the storage format.
    pub type_id: u32,
    /// Start of the data, counted from [`Header::data_start`].
    pub offset: u64,
}

impl TensorInfo {
    /// The storage format, where it is a supported one.
    pub fn dtype(&self) -> Option<DType> {
        DType::from_ggml(self.type_id)
    }

    /// ggml's name of the storage format, supported or not.
    pub fn type_name(&self) -> String {
        let known = self.dtype().map(DType::name);
        let other = || OTHER_TYPES.iter().find(|(id, _)| *id == self.type_id).map(|(_, name)| *name);
        known.or_else(other).map_or_else(|| format!("number {}", self.type_id), str::to_owned)
    }

    /// Length of the data in bytes, where the format is supported and the shape fits it.
    pub fn byte_len(&self) -> Option<usize> {
        byte_len(self.dtype()?, &self.shape)
    }
}

/// ggml's names of what is not in the list of formats, for messages.
const OTHER_TYPES: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
];

/// Everything in a GGUF file but the tensors' data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensor directory, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Every tensor starts at a multiple of this, in bytes.
    pub alignment: u64,
    /// Byte of the file at which tensor data starts.
    pub data_start: u64,
}

/// Smallest entries there can be: an empty name and one byte, an empty name and no dimensions.
const MIN_METADATA_BYTES: u64 = 8 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;

fn invalid<T>(problem: impl Into<String>) -> Result<T, HeaderError> {
    Err(HeaderError::Invalid(problem.into()))
}

impl Header {
    /// Parses the header from the first bytes of a file, which may go on into the data.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.take(4)?;
        if magic != b"GGUF" {
            return invalid(format!(
                "starts with {:?}, not with \"GGUF\": this is no GGUF file",
                String::from_utf8_lossy(magic)
            ));
        }
        let version = reader.u32()?;
        match version {
            2 | 3 => {}
            1 => {
                return invalid("GGUF version 1 is not supported; convert it with a current llama.cpp");
            }
            v if v.swap_bytes() <= 3 => {
                return invalid("big-endian GGUF is not supported; convert it to little-endian");
            }
            v => {
                return invalid(format!("GGUF version {v} is not supported; versions 2 and 3 are"));
            }
        }
        let tensor_count = reader.u64()?;
        let metadata_count = reader.u64()?;
        reader.expect_room(metadata_count, MIN_METADATA_BYTES)?;
        reader.expect_room(tensor_count, MIN_TENSOR_BYTES)?;

        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.string("a metadata key")?;
            let value = reader.value(&key)?;
            if metadata.contains_key(&key) {
                return invalid(format!("metadata key {key:?} is there twice"));
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => match value.as_u64() {
                Some(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => a,
                _ => {
                    return invalid(format!(
                        "general.alignment is {value}, expected a power of two up to {MAX_ALIGNMENT}"
                    ));
                }
            },
        };
        reader.expect_room(tensor_count, MIN_TENSOR_BYTES)?;
        let mut tensors = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..tensor_count {
            let tensor = tensor_info(&mut reader, alignment)?;
            if !names.insert(tensor.name.clone()) {
                return invalid(format!("tensor {} is there twice", tensor.name));
            }
            tensors.push(tensor);
        }
        let data_start = reader.position().next_multiple_of(alignment);
        Ok(Self { version, metadata, tensors, alignment, data_start })
    }

    /// Every metadata entry of a header that was parsed, in the file's order: its key, and the type
    /// number and value as they lie in the file.
    pub(crate) fn raw_metadata(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, HeaderError> {
        let mut reader = Reader::new(bytes);
        // Magic, version and the number of tensors.
        reader.take(4 + 4 + 8)?;
        let count = reader.u64()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let key = reader.string("a metadata key")?;
            let start = reader.position() as usize;
            reader.value(&key)?;
            entries.push((key, bytes[start..reader.position() as usize].to_vec()));
        }
        Ok(entries)
    }

    /// The metadata under `key`, where it is there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// True for a file whose first bytes are GGUF's.
    pub fn is_gguf(bytes: &[u8]) -> bool {
        bytes.starts_with(b"GGUF")
    }
}

fn tensor_info(reader: &mut Reader, alignment: u64) -> Result<TensorInfo, HeaderError> {
    let name = reader.string("a tensor name")?;
    let dimensions = reader.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return invalid(format!("tensor {name} has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = reader.u64()?;
        match usize::try_from(size) {
            Ok(size) => shape.push(size),
            Err(_) => return invalid(format!("tensor {name} has a dimension of {size}")),
        }
    }
    shape.reverse();
    if shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).is_none() {
        return invalid(format!("tensor {name} has shape {shape:?}: more elements than can be counted"));
    }
    let type_id = reader.u32()?;
    let offset = reader.u64()?;
    if !offset.is_multiple_of(alignment) {
        return invalid(format!(
            "tensor {name} starts at {offset}, which is not a multiple of the alignment {alignment}"
        ));
    }
    Ok(TensorInfo { name, shape, type_id, offset })
}
