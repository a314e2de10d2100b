//! What a run must know to go on, and where it keeps it.

use std::path::PathBuf;

use bft_formats::Adapter;
use web_time::{Instant, SystemTime};

use crate::batches::Cursor;
use crate::config::TrainConfig;
use crate::error::TrainError;
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
    /// Every setting.
    pub settings: TrainConfig,
}

impl RunState {
    /// Version of the layout that this crate reads and writes. The second has checksums; runs of
    /// the first were also trained on tokens that this version would cut or mask otherwise, so they
    /// are not gone on with.
    pub const LAYOUT: u32 = 2;
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
    /// Appends one line, a JSON object, to the metrics.
    fn write_row(&mut self, row: &str) -> Result<(), TrainError>;
    /// Replaces the description of the run, a JSON object.
    async fn write_run(&mut self, run: &str) -> Result<(), TrainError>;
    /// Keeps a checkpoint, whole or not at all, with the metrics up to its step. Returns its name.
    async fn save(
        &mut self,
        state: &RunState,
        adapter: &Adapter,
        optimizer: &OptimizerState,
    ) -> Result<PathBuf, TrainError>;
    /// Replaces the run's adapter, wholly or not at all.
    async fn write_adapter(&mut self, adapter: &Adapter) -> Result<(), TrainError>;
}
