//! Why a run cannot start, or stopped.

use std::path::PathBuf;

use bft_formats::FormatError;

use crate::config::ConfigError;
use crate::engine::EngineError;
use crate::rows::DataError;
use crate::samples::SamplesError;
use crate::text::TextError;

/// Whatever can stop a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum TrainError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// The tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A model or adapter file.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// The device, before the first step.
    #[error(transparent)]
    Engine(EngineError),
    /// The device, in the middle of a run.
    #[error("step {step} failed: {source}; {}", last_checkpoint(checkpoint.as_ref()))]
    Step { step: u64, source: EngineError, checkpoint: Option<PathBuf> },
    /// Step after step without a finite gradient.
    #[error(
        "{count} steps in a row, {first} to {last}, had a gradient that is not finite, at first in {tensor}: lower --lr, or check the model and the data; {}",
        last_checkpoint(checkpoint.as_ref())
    )]
    NotFinite { count: u64, first: u64, last: u64, tensor: String, checkpoint: Option<PathBuf> },
    /// The adapter or its moments hold what is no number, which no step can mend.
    #[error(
        "after step {step} the adapter is of no use: {what}: start again with a lower --lr, or check the model and the data; {}",
        match checkpoint {
            Some(path) => format!("the last good one is {}", path.display()),
            None => "no checkpoint was made yet".into(),
        }
    )]
    Diverged { step: u64, what: String, checkpoint: Option<PathBuf> },
    /// The output folder cannot be written.
    #[error("cannot {action} {path}: {source}{}", after(checkpoint.as_ref()))]
    Write { action: &'static str, path: PathBuf, source: std::io::Error, checkpoint: Option<PathBuf> },
    /// The output folder belongs to another run.
    #[error("{output} already holds {what}: go on with --resume, or choose another --output")]
    Occupied { output: PathBuf, what: String },
    /// Another process writes to the output folder.
    #[error("another run is writing to {output}: wait for it, or choose another --output")]
    Busy { output: PathBuf },
    /// `--resume` where an adapter is left of a run, and no checkpoint.
    #[error("{output} holds an adapter, but no checkpoint to resume from: choose another --output")]
    CheckpointsGone { output: PathBuf },
    /// A checkpoint that cannot be read.
    #[error("checkpoint {path}: {problem}")]
    BadCheckpoint { path: PathBuf, problem: String },
    /// The newest checkpoint cannot be read.
    #[error("{source}; {}", match whole {
        Some(whole) => format!("{} is whole: remove {} to go on from it with --resume", whole.display(), newest.display()),
        None => "no older checkpoint is whole".into(),
    })]
    Damaged { source: Box<TrainError>, newest: PathBuf, whole: Option<PathBuf> },
    /// `--resume` with other settings.
    #[error("cannot resume from {path}: {differences}; give what that run was given, or choose another --output")]
    Differs { path: PathBuf, differences: String },
    /// `--resume` with fewer steps than are done.
    #[error(
        "cannot resume from {path}: it holds step {done}, but the run is to have {steps}: raise --steps or --epochs"
    )]
    AlreadyPast { path: PathBuf, done: u64, steps: u64 },
}

impl From<FormatError> for TrainError {
    fn from(error: FormatError) -> Self {
        Self::Format(Box::new(error))
    }
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Samples(error.into())
    }
}

impl TrainError {
    /// An error of core before the first step.
    pub(crate) fn model(error: bft_core::ModelError) -> Self {
        Self::Engine(error.into())
    }

    /// Tells an error of a running run which checkpoint is left.
    pub(crate) fn with_checkpoint(mut self, last: Option<PathBuf>) -> Self {
        if let Self::Step { checkpoint, .. }
        | Self::NotFinite { checkpoint, .. }
        | Self::Diverged { checkpoint, .. }
        | Self::Write { checkpoint, .. } = &mut self
        {
            *checkpoint = last;
        }
        self
    }
}

fn last_checkpoint(checkpoint: Option<&PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last checkpoint is {}: go on from it with --resume", path.display()),
        None => "no checkpoint was made yet".into(),
    }
}

fn after(checkpoint: Option<&PathBuf>) -> String {
    checkpoint.map(|_| format!("; {}", last_checkpoint(checkpoint))).unwrap_or_default()
}
