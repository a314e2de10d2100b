//! The fixtures under `tests/fixtures`: what PyTorch and PEFT say. Their README describes every
//! field.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bft_core::Batch;
use bft_formats::{Adapter, Model};
use safetensors::SafeTensors;
use serde_json::Value;

/// Every model there is a fixture of.
pub const MODELS: &[&str] = &[
    "llama",
    "llama3_rope",
    "linear_rope",
    "mistral",
    "qwen2",
    "qwen3",
    "yarn_rope",
    "gemma2",
    "gemma3",
    "smollm3",
    "olmo2",
    "granite",
    "phi3",
    "phi3_longrope",
    "gemma3_sees",
    "mistral_window",
    "qwen3_window",
    "llama_dora",
    "phi3_dora",
];

/// The folder of the fixtures.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// One row: token ids, and labels of the same length, −100 where masked.
#[derive(Debug, Clone)]
pub struct Row {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Label i belongs to token i.
    pub labels: Vec<i64>,
}

/// One model's fixture.
#[derive(Debug)]
pub struct Fixture {
    /// Its folder's name.
    pub name: String,
    /// The model.
    pub model: Model,
    /// The adapter that PEFT saved.
    pub adapter: Adapter,
    /// The rows.
    pub rows: Vec<Row>,
    /// `expected.json`.
    pub expected: Value,
    /// `expected.safetensors`, by name.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

impl Fixture {
    /// Reads one.
    ///
    /// # Panics
    /// Where it cannot be read.
    #[must_use]
    pub fn load(name: &str) -> Self {
        let dir = folder().join(name);
        let model = Model::open(&dir).unwrap_or_else(|error| panic!("{error}"));
        let adapter = Adapter::load(&dir.join("adapter"), &model.config).unwrap_or_else(|error| panic!("{error}"));
        let rows = std::fs::read_to_string(dir.join("rows.jsonl")).unwrap();
        let rows = rows.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let numbers =
                |key: &str| row[key].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect::<Vec<_>>();
            Row { input_ids: numbers("input_ids").into_iter().map(|id| id as u32).collect(), labels: numbers("labels") }
        });
        Self {
            name: name.to_owned(),
            rows: rows.collect(),
            expected: serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap(),
            tensors: read_tensors(&dir.join("expected.safetensors")),
            model,
            adapter,
        }
    }

    /// Every model's.
    pub fn all() -> impl Iterator<Item = Self> {
        MODELS.iter().map(|name| Self::load(name))
    }

    /// An expected tensor.
    ///
    /// # Panics
    /// Where there is none of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> &[f32] {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name))
    }

    /// An adapter's factors by the names that `{prefix}{PEFT's name}` has among the expected
    /// tensors: (name, found, expected).
    #[must_use]
    pub fn compare_factors<'a>(&'a self, prefix: &str, found: &'a Adapter) -> Vec<(String, &'a [f32], &'a [f32])> {
        let factors = found.pairs.iter().flat_map(|pair| {
            pair.tensors().map(|(name, _, values)| {
                let module = found.config.peft_name(&pair.module);
                let name = format!("{prefix}base_model.model.{module}.{name}");
                let expected = self.tensor(&name);
                (name, values, expected)
            })
        });
        factors.collect()
    }
}

/// The f32 tensors of a file.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn read_tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| (name, bytemuck::pod_collect_to_vec(view.data())));
    tensors.collect()
}

/// Rows packed into one micro-batch.
#[must_use]
pub fn pack(rows: &[Row]) -> Batch {
    let mut batch = Batch { segments: vec![0], trained_segments: vec![0], ..Batch::default() };
    for row in rows {
        let start = batch.tokens.len() as u32;
        batch.tokens.extend(&row.input_ids);
        for (at, label) in row.labels.iter().enumerate().skip(1) {
            if *label >= 0 {
                batch.trained.push(start + at as u32 - 1);
                batch.labels.push(*label as u32);
            }
        }
        batch.segments.push(batch.tokens.len() as u32);
        batch.trained_segments.push(batch.trained.len() as u32);
    }
    batch
}

/// ‖found − expected‖ / ‖expected‖; NaN where a number is missing.
#[must_use]
pub fn relative_norm(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / square(&mut expected.iter().map(|value| f64::from(*value)))).sqrt()
}
