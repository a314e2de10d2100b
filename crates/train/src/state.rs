//! What a run must know to go on, and where it keeps it.

use std::path::PathBuf;

use bft_formats::Adapter;
use web_time::{Instant, SystemTime};

use crate::batches::Cursor;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::event::{EvalRow, MetricsRow};
use bft_core::OptimizerState;

/// What a checkpoint says about the run besides its tensors.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Version of the layout.
    pub layout: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the whole run, as planned then.
    pub steps: u64,
    /// Where in the data the next step begins.
    pub cursor: Cursor,
    /// The device, in words.
    pub device: String,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// SHA-256 of its configuration, tokenizer and chat template.
    pub model_settings_sha256: String,
    /// SHA-256 of the data file.
    pub data_sha256: String,
    /// Step of the last evaluation.
    pub evaluated: Option<u64>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Every setting.
    pub settings: TrainConfig,
}

impl RunState {
    /// Version of the layout that this crate reads and writes. The second has checksums, and the
    /// third the best evaluation. Runs of the first were also trained on tokens that this version
    /// would cut or mask otherwise, and those of the second at rates that it counts otherwise, so
    /// they are not gone on with.
    pub const LAYOUT: u32 = 3;
}

/// The best evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Optimizer steps done.
    pub step: u64,
    /// As in [`EvalRow`].
    #[serde(with = "exact")]
    pub eval_nll: f64,
    /// As in [`EvalRow`].
    #[serde(with = "exact")]
    pub eval_loss: f64,
    /// Evaluations since.
    pub since: u64,
}

/// A number as text, for what is read of JSON's numbers may be off by their last bit, and a later
/// evaluation is to be compared with what this one gave.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom(format!("\"{text}\" is no number")))
    }
}

impl Best {
    /// An evaluation that no other was better than.
    pub fn new(row: &EvalRow) -> Self {
        Self { step: row.step, eval_nll: row.eval_nll, eval_loss: row.eval_loss, since: 0 }
    }

    /// The evaluation.
    pub fn row(&self) -> EvalRow {
        EvalRow { step: self.step, eval_nll: self.eval_nll, eval_loss: self.eval_loss, best: true }
    }

    /// Whether as many evaluations have passed since as a run waits for a better one.
    pub fn is_final(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|patience| self.since >= patience)
    }
}

/// A checkpoint, read.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Step, cursor, settings.
    pub state: RunState,
    /// The adapter.
    pub adapter: Adapter,
    /// That of the best evaluation, where the run keeps it.
    pub best: Option<Adapter>,
    /// AdamW's moments.
    pub optimizer: OptimizerState,
}

/// Seconds since 1970, which never go back.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_at: f64,
}

impl Default for Clock {
    fn default() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_at: since_1970.as_secs_f64() }
    }
}

impl Clock {
    /// Now.
    pub fn seconds(&self) -> f64 {
        self.started_at + self.started.elapsed().as_secs_f64()
    }
}

/// Where a run keeps what it makes: a folder, or whatever a page has.
#[expect(async_fn_in_trait, reason = "callers are generic and never move a future to another thread")]
pub trait Store {
    /// Seconds since 1970; never goes back.
    fn seconds(&self) -> f64;
    /// Appends a row to the metrics.
    fn write_row(&mut self, row: &MetricsRow<'_>) -> Result<(), TrainError>;
    /// Replaces the description of the run, a JSON object.
    async fn write_run(&mut self, run: &str) -> Result<(), TrainError>;
    /// Keeps a checkpoint, whole or not at all, with the metrics up to its step; `best` is the
    /// adapter of the best evaluation, where it is to be kept. Returns its name.
    async fn save(
        &mut self,
        state: &RunState,
        adapter: &Adapter,
        best: Option<&Adapter>,
        optimizer: &OptimizerState,
    ) -> Result<PathBuf, TrainError>;
    /// Replaces the run's adapter, wholly or not at all.
    async fn write_adapter(&mut self, adapter: &Adapter) -> Result<(), TrainError>;
}
