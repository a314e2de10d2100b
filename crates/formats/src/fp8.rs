//! Models whose weights are FP8 numbers with scales beside them: what `quantization_config` says
//! about them, and putting the two together. Activations stay in full precision.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::json::{Object, kind, parse_object};
use crate::stored::{Scales, Stored};
use crate::{FormatError, Result, Tensor};

/// How a model's FP8 weights are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fp8 {
    /// What the scales of `NAME.weight` are called behind `NAME.`.
    scales: &'static str,
    share: Share,
}

/// Which numbers of a matrix have a scale together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Matrix,
    Row,
    /// So many rows and columns.
    Block([usize; 2]),
}

/// Scales of activations that were measured when the model was made.
const OF_ACTIVATIONS: [&str; 2] = [".input_scale", ".activation_scale"];

impl Fp8 {
    /// What `config.json` says; `None` where nothing is quantised.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Option<Self>> {
        Self::read(&Object::new(file, &parse_object(file, json)?))
    }

    /// As [`Self::from_json`], of a file that is parsed.
    ///
    /// # Errors
    /// Where weights are quantised in another way.
    pub fn read(o: &Object) -> Result<Option<Self>> {
        let Some(config) = o.object("quantization_config")? else {
            return Ok(None);
        };
        match config.str("quant_method")? {
            Some("fp8") => fine_grained(&config).map(Some),
            Some("compressed-tensors") => compressed(&config).map(Some),
            method => Err(unsupported(o.file, &format!("method {:?}", method.unwrap_or("unnamed")))),
        }
    }

    /// Gives every FP8 tensor its scales, which are no tensors of the model; says what a user may
    /// want to know. `file` names the model in messages.
    pub fn scale(self, file: &str, tensors: &mut BTreeMap<String, Tensor>) -> Result<Vec<String>> {
        let before = tensors.len();
        tensors.retain(|name, _| !OF_ACTIVATIONS.iter().any(|end| name.ends_with(end)));
        let unused = before - tensors.len();
        let is_fp8 = |tensor: &&Tensor| matches!(tensor.stored, Some(Stored::E4M3(None)));
        let names: Vec<String> = tensors.values().filter(is_fp8).map(|tensor| tensor.name.clone()).collect();
        for name in &names {
            let scales = format!("{}.{}", name.strip_suffix(".weight").unwrap_or(name), self.scales);
            let Some(scales) = tensors.remove(&scales) else {
                let advice = format!("{name} is FP8 and needs it; download the model again");
                return Err(FormatError::missing(file, format!("tensor {scales}"), advice));
            };
            if let Some(tensor) = tensors.get_mut(name) {
                let scales = self.scales_of(file, tensor, &scales)?;
                tensor.stored = Some(Stored::E4M3(Some(Arc::new(scales))));
            }
        }
        let mut notes = Vec::new();
        if !names.is_empty() {
            notes.push(format!(
                "{} matrices in FP8 become BF16 as they load, which takes twice the memory of the file",
                names.len()
            ));
        }
        if unused > 0 {
            notes.push(format!("{unused} scales of activations are not used: activations stay in full precision"));
        }
        Ok(notes)
    }

    /// The scales of a matrix, which must be as many as it has blocks.
    fn scales_of(self, file: &str, tensor: &Tensor, scales: &Tensor) -> Result<Scales> {
        let [rows, cols] = tensor.shape[..] else {
            let what = format!("tensor type F8_E4M3 of shape {:?} ({})", tensor.shape, tensor.name);
            return Err(FormatError::unsupported(file, what, "only matrices may be FP8"));
        };
        let block = match self.share {
            Share::Matrix => [rows.max(1), cols.max(1)],
            Share::Row => [1, cols.max(1)],
            Share::Block(block) => block,
        };
        let blocks = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        let fits = match (self.share, &scales.shape[..]) {
            (Share::Matrix, shape) => shape.iter().all(|&n| n == 1),
            (Share::Row, &[n]) => n == rows,
            (_, shape) => shape == blocks,
        };
        if !fits || scales.is_converted() {
            return Err(FormatError::Mismatch {
                file: file.to_string(),
                what: format!("tensor {}", scales.name),
                found: format!(
                    "{} {:?}",
                    if scales.is_converted() { "F8_E4M3" } else { scales.dtype.name() },
                    scales.shape
                ),
                expected: format!("plain floats {blocks:?}, one for {} × {} of {}", block[0], block[1], tensor.name),
                advice: "weights and config.json belong to different models".to_string(),
            });
        }
        Ok(Scales { block, across: blocks[1], values: scales.to_f32()? })
    }
}

fn unsupported(file: &str, what: &str) -> FormatError {
    FormatError::unsupported(
        file,
        format!("quantization_config ({what})"),
        "use the model's f32, f16 or bf16 weights, which can be quantised as they load, its FP8 weights, or a \
         quantised GGUF",
    )
}

/// As transformers writes it: a scale for each block, or for each matrix where blocks are null.
fn fine_grained(config: &Object) -> Result<Fp8> {
    let share = match config.get("weight_block_size") {
        // An absent key means what transformers takes.
        None if config.map.contains_key("weight_block_size") => Share::Matrix,
        None => Share::Block([128, 128]),
        Some(size) => Share::Block(block(config.file, "weight_block_size", size)?),
    };
    Ok(Fp8 { scales: "weight_scale_inv", share })
}

/// As llm-compressor writes it.
fn compressed(config: &Object) -> Result<Fp8> {
    let refuse = |what: &str| Err(unsupported(config.file, &format!("compressed-tensors, {what}")));
    let is_float = |format: Option<&str>| matches!(format, None | Some("float-quantized" | "naive-quantized"));
    let format = config.str("format")?;
    if !is_float(format) {
        return refuse(&format!("format {:?}", format.unwrap_or_default()));
    }
    for key in ["kv_cache_scheme", "transform_config", "sparsity_config"] {
        let is_empty = |value: &Value| {
            value.as_object().is_some_and(|map| map.is_empty() || map.get("format").is_some_and(|f| f == "dense"))
        };
        if config.get(key).is_some_and(|value| !is_empty(value)) {
            return refuse(key);
        }
    }
    let groups = config.required("config_groups", config.object("config_groups")?)?;
    let mut share = None;
    for name in groups.map.keys() {
        let group = groups.required(name, groups.object(name)?)?;
        let weights = group.required("weights", group.object("weights")?)?;
        let (bits, kind) = (weights.usize("num_bits")?.unwrap_or(0), weights.str("type")?.unwrap_or("int"));
        if (bits, kind) != (8, "float") || !is_float(group.str("format")?) {
            return refuse(&format!("weights of {bits} bits, {kind}"));
        }
        if weights.bool("symmetric")? == Some(false) {
            return refuse("weights that are not symmetric");
        }
        let found = match weights.str("strategy")?.unwrap_or("tensor") {
            "tensor" => Share::Matrix,
            "channel" => Share::Row,
            "block" => {
                let size = weights.required("block_structure", weights.get("block_structure"))?;
                Share::Block(block(config.file, "block_structure", size)?)
            }
            other => return refuse(&format!("strategy {other:?}")),
        };
        if share.is_some_and(|share| share != found) {
            return refuse("groups that are scaled differently");
        }
        share = Some(found);
    }
    let share = config.required("config_groups", share)?;
    Ok(Fp8 { scales: "weight_scale", share })
}

/// Rows and columns of a block.
fn block(file: &str, key: &str, size: &Value) -> Result<[usize; 2]> {
    let count = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    match size.as_array().map(|sizes| sizes.iter().map(count).collect::<Vec<_>>()).as_deref() {
        Some(&[Some(rows), Some(cols)]) => Ok([rows, cols]),
        _ => {
            Err(FormatError::malformed(file, format!("{key} is {}, expected rows and columns of a block", kind(size))))
        }
    }
}
