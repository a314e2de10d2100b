//! LoRA adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod read;
mod sum;
mod write;

use std::collections::BTreeMap;

/// File names of PEFT's layout.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Where transformers keeps what ends a text; PEFT has no place of its own for it.
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

/// What stands before the module's own name in PEFT's tensor names.
const PREFIX: &str = "base_model.model.";

/// PEFT's name of DoRA's magnitudes.
const MAGNITUDE: &str = "lora_magnitude_vector";

/// What PEFT's `adapter_config.json` says, as far as it is supported.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// r: rank where `rank_pattern` does not say otherwise.
    pub rank: usize,
    /// α where `alpha_pattern` does not say otherwise.
    pub alpha: f32,
    /// Short names (`q_proj`) or, for modules not adapted in every layer, full names.
    pub target_modules: Vec<String>,
    /// Dropout probability on the input of A, in training.
    pub dropout: f32,
    /// Scale by α/√r instead of α/r.
    pub use_rslora: bool,
    /// Every pair has a magnitude (DoRA).
    pub use_dora: bool,
    /// Rank of the modules whose names end with the key (a regular expression).
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of the modules whose names end with the key (a regular expression).
    pub alpha_pattern: BTreeMap<String, f32>,
    /// The base model's name or path, as recorded.
    pub base_model: Option<String>,
    /// Which revision of it on the hub, where it is recorded by its name there.
    pub base_revision: Option<String>,
    /// The base is the language part of a model that also sees: see [`Self::peft_name`].
    pub sees: bool,
    /// Every token that ends a text of the tuned model, where these are more than the base model
    /// names; kept in `generation_config.json` beside the adapter.
    pub end_token_ids: Vec<u32>,
}

impl AdapterConfig {
    /// A plain LoRA configuration: one rank, one α, no rsLoRA.
    pub fn new(rank: usize, alpha: f32, target_modules: Vec<String>, dropout: f32) -> Self {
        Self {
            rank,
            alpha,
            target_modules,
            dropout,
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            base_model: None,
            base_revision: None,
            sees: false,
            end_token_ids: Vec::new(),
        }
    }

    /// A module's name in the model that transformers loads the base as: that of a language model,
    /// or, inside of one that also sees, with `language_model` before `layers`.
    pub fn peft_name(&self, module: &str) -> String {
        match module.strip_prefix("model.") {
            Some(inner) if self.sees => format!("model.language_model.{inner}"),
            _ => module.to_string(),
        }
    }

    /// α/r, or α/√r with rsLoRA.
    pub fn scaling(&self, rank: usize, alpha: f32) -> f32 {
        if self.use_rslora { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
    }
}

/// The two factors that adapt one linear module, `W + scaling · B·A`, and with DoRA (arXiv
/// 2402.09353) the length that each of its rows is brought to.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// Full module name, such as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// r: rows of A, columns of B.
    pub rank: usize,
    /// α/r or α/√r.
    pub scaling: f32,
    /// Columns of A and of the base weight.
    pub in_features: usize,
    /// Rows of B and of the base weight.
    pub out_features: usize,
    /// A, row-major `[rank, in_features]`.
    pub a: Vec<f32>,
    /// B, row-major `[out_features, rank]`.
    pub b: Vec<f32>,
    /// Length of each row of the adapted weight, `[out_features]`, where [`AdapterConfig::use_dora`].
    pub magnitude: Option<Vec<f32>>,
}

impl LoraPair {
    /// Name, as PEFT has it behind the module's, shape and values of each trained tensor.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, Vec<usize>, &[f32])> {
        let factors = [
            ("lora_A.weight", vec![self.rank, self.in_features], self.a.as_slice()),
            ("lora_B.weight", vec![self.out_features, self.rank], self.b.as_slice()),
        ];
        let magnitude = self.magnitude.iter().map(|m| (MAGNITUDE, vec![self.out_features], m.as_slice()));
        factors.into_iter().chain(magnitude)
    }

    /// How many values are trained.
    pub fn parameters(&self) -> usize {
        self.tensors().map(|(_, _, values)| values.len()).sum()
    }

    /// The first tensor that is not as long as its shape says, in words; `None` where all fit.
    pub fn misfit(&self) -> Option<String> {
        let misfit = self.tensors().find(|(_, shape, values)| values.len() != shape.iter().product::<usize>());
        misfit.map(|(name, shape, values)| format!("{name} of {} is {shape:?} in {} values", self.module, values.len()))
    }
}

/// A LoRA adapter: its configuration and its pairs, in layer order and then in the order of the
/// model's [`linear_modules`](crate::ModelConfig::linear_modules).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The configuration.
    pub config: AdapterConfig,
    /// One pair for each adapted module.
    pub pairs: Vec<LoraPair>,
}

impl Adapter {
    /// Short names of the modules that are adapted in any layer, in the order of a block.
    pub fn modules(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for short in self.pairs.iter().filter_map(|pair| pair.module.rsplit('.').next()) {
            if names.iter().all(|name| name != short) {
                names.push(short.to_owned());
            }
        }
        names
    }

    /// What makes the adapter useless, in words: the first value that is NaN or infinite, or the
    /// first pair whose product no f32 can hold. `None` where there is no such thing.
    pub fn not_finite(&self) -> Option<String> {
        let largest = |values: &[f32]| values.iter().fold(0f32, |most, value| most.max(value.abs()));
        self.pairs.iter().find_map(|pair| {
            for (name, _, values) in pair.tensors() {
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    let name = name.trim_end_matches(".weight");
                    return Some(format!("{name} of {} holds {} at element {at}", pair.module, values[at]));
                }
            }
            let (a, b) = (largest(&pair.a), largest(&pair.b));
            let fits = (a * b * pair.scaling).is_finite();
            (!fits).then(|| format!("lora_B · lora_A of {} overflows: they hold {b:e} and {a:e}", pair.module))
        })
    }
}
