//! The compute shaders of bft as text, one WGSL file per operation.
//!
//! A line `//!include shared/NAME.wgsl` is replaced by that fragment. `{KEY}` in an include line is
//! replaced first, from the variant's definitions: `//!include shared/weight_{WEIGHT}.wgsl` with
//! `("WEIGHT", "q4_1")` pulls in the loader of that weight format. Elsewhere `{{KEY}}` is replaced by its value.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file of this crate: path below `shaders/` and text.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!($name))),*];
    };
}

files![
    "activation.wgsl",
    "adamw.wgsl",
    "add.wgsl",
    "attention.wgsl",
    "attention_backward.wgsl",
    "attention_decode.wgsl",
    "dropout.wgsl",
    "embedding.wgsl",
    "gather.wgsl",
    "head.wgsl",
    "layer_norm.wgsl",
    "linear_nn.wgsl",
    "linear_nn_matrix.wgsl",
    "linear_nn_narrow.wgsl",
    "linear_nn_tile.wgsl",
    "linear_nt.wgsl",
    "linear_nt_matrix.wgsl",
    "linear_nt_narrow.wgsl",
    "linear_nt_tile.wgsl",
    "linear_nt_vector.wgsl",
    "linear_tn.wgsl",
    "linear_tn_narrow.wgsl",
    "loss_weights.wgsl",
    "pool.wgsl",
    "rms_norm.wgsl",
    "rope.wgsl",
    "swiglu.wgsl",
    "shared/attention.wgsl",
    "shared/eight_rows.wgsl",
    "shared/elements.wgsl",
    "shared/grid.wgsl",
    "shared/matrices.wgsl",
    "shared/norm.wgsl",
    "shared/philox.wgsl",
    "shared/precise.wgsl",
    "shared/product.wgsl",
    "shared/reduce.wgsl",
    "shared/row_lanes.wgsl",
    "shared/row_subgroups.wgsl",
    "shared/sigmoid.wgsl",
    "shared/slices.wgsl",
    "shared/step_f16.wgsl",
    "shared/step_f32.wgsl",
    "shared/sum_lanes.wgsl",
    "shared/sum_subgroups.wgsl",
    "shared/weight_bf16.wgsl",
    "shared/weight_f16.wgsl",
    "shared/weight_f32.wgsl",
    "shared/weight_q4_0.wgsl",
    "shared/weight_q4_1.wgsl",
    "shared/weight_q8_0.wgsl",
];

/// Text of one file, or `None` where no such file is listed in [`FILES`].
#[must_use]
pub fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// A shader or fragment that is not in [`FILES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile(pub String);

impl std::fmt::Display for MissingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shader file {} is not listed in shaders/lib.rs", self.0)
    }
}

impl std::error::Error for MissingFile {}

/// WGSL of shader `name` (without `.wgsl`), includes expanded and definitions substituted.
///
/// # Errors
/// Where the shader or one of its includes does not exist.
pub fn source(name: &str, defines: &[(&str, &str)]) -> Result<String, MissingFile> {
    let path = format!("{name}.wgsl");
    let text = file(&path).ok_or(MissingFile(path))?;
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        if let Some(include) = line.trim().strip_prefix("//!include ") {
            let mut path = include.trim().to_owned();
            for (key, value) in defines {
                path = path.replace(&format!("{{{key}}}"), value);
            }
            out.push_str(file(&path).ok_or(MissingFile(path))?);
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    for (key, value) in defines {
        out = out.replace(&format!("{{{{{key}}}}}"), value);
    }
    Ok(out)
}
