//! Models whose matrices are quantised as they load.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::weights::UNIT;
use crate::{DType, FormatError, Model, Result, Tensor};

/// A format that a model's matrices can be turned into as they are read, known by its name in small
/// letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization(DType);

impl Quantization {
    /// The format.
    pub fn dtype(self) -> DType {
        self.0
    }

    /// The names of all.
    pub fn names() -> &'static [&'static str] {
        static NAMES: LazyLock<Vec<&'static str>> =
            LazyLock::new(|| DType::quantizers().map(|dtype| &*dtype.name().to_lowercase().leak()).collect());
        &NAMES
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name().to_lowercase())
    }
}

impl std::str::FromStr for Quantization {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let dtype = DType::quantizers().zip(Self::names()).find(|(_, known)| **known == name);
        let unknown =
            || format!("{name:?} is no format that weights are quantised to: expected {}", Self::names().join(", "));
        dtype.map(|(dtype, _)| Self(dtype)).ok_or_else(unknown)
    }
}

impl Serialize for Quantization {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantization {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Model {
    /// Has every matrix become this format as it is read, and says in [`Model::notes`] what became
    /// of which.
    ///
    /// As in llama.cpp, the head keeps more than four bits, since logits feel its rounding most: it
    /// becomes Q8_0, as does the embedding where that is the head. Rows that are not whole blocks of
    /// 256 become Q5_0, and those that are not whole blocks of 32 stay as they are.
    ///
    /// # Errors
    /// Where matrices are quantised already.
    pub fn quantize(&mut self, to: Quantization) -> Result<()> {
        let is_matrix = |tensor: &&Tensor| tensor.shape.len() == 2;
        if let Some(tensor) = self.tensors.values().filter(is_matrix).find(|tensor| tensor.dtype.block_len() > 1) {
            return Err(FormatError::unsupported(
                self.path.display().to_string(),
                format!("quantising to {to} what is quantised already ({} is {})", tensor.name, tensor.dtype),
                "take the file as it is, or the model's F32, F16 or BF16 weights",
            ));
        }
        let head = if self.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let mut became: BTreeMap<(String, DType), usize> = BTreeMap::new();
        for tensor in self.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
            let wanted = if tensor.name == head { DType::Q8_0 } else { to.0 };
            let fits = |dtype: &DType| tensor.cols().is_multiple_of(dtype.block_len());
            let found = [wanted, DType::Q5_0].into_iter().find(fits);
            let why = match found {
                Some(found) if found == to.0 => String::new(),
                Some(found) if found == wanted => " (the head)".to_owned(),
                Some(_) => format!(" (rows of {} are not whole blocks of {})", tensor.cols(), to.0.block_len()),
                None => format!(" as before (rows of {} are not whole blocks of {})", tensor.cols(), UNIT),
            };
            if let Some(dtype) = found {
                tensor.become_blocks(dtype);
            }
            *became.entry((why, tensor.dtype)).or_default() += 1;
        }
        let became: Vec<String> =
            became.iter().map(|((why, dtype), count)| format!("{count} in {dtype}{why}")).collect();
        self.notes.push(format!("quantised as they load, the matrices are {}", became.join(", ")));
        self.quantized = Some(to.0);
        Ok(())
    }

    /// Bytes of the tensors that are made of their file's as they are read, and so are held beside
    /// its pages.
    pub fn converted_bytes(&self) -> u64 {
        self.tensors.values().filter(|tensor| tensor.is_converted()).map(|tensor| tensor.byte_len() as u64).sum()
    }
}
