//! What a run reports while it runs.

use std::fmt;
use std::path::PathBuf;

use crate::samples::DataReport;

/// Something that happened in a training run.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum Event {
    /// Everything is loaded and the first step is about to run.
    Started(Box<Started>),
    /// Something the user should know; comes right after `Started`, or later.
    Note(Note),
    /// An optimizer step is done.
    Step(StepRow),
    /// s_b of each sample of a step (counted from 1), where the engine tells; comes before the step
    /// itself.
    SampleWeights { step: u64, weights: Vec<f64> },
    /// An optimizer step was left out because its gradient was not finite.
    Skipped { step: u64, tensor: String },
    /// The held-out rows were evaluated.
    Eval(EvalRow),
    /// A checkpoint is complete on disk.
    Checkpoint { step: u64, path: PathBuf },
    /// The run is over.
    Finished(Finished),
}

/// What a run is about to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// The model's name.
    pub model: String,
    /// The device in words, and why it was chosen.
    pub device: String,
    /// The training rows.
    pub data: DataReport,
    /// The held-out rows.
    pub eval: Option<DataReport>,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Optimizer steps already done by an earlier run.
    pub resumed_from: u64,
    /// Optimizer steps in one pass over the data.
    pub steps_per_epoch: u64,
    /// Values that are trained.
    pub parameters: usize,
    /// Memory the run needs, in bytes, as estimated before it.
    pub memory_bytes: u64,
}

/// One optimizer step, as a line of `metrics.jsonl`.
#[cfg_attr(feature = "ts", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepRow {
    /// The step, from 1.
    pub step: u64,
    /// The loss that is optimised, before this step's update.
    #[serde(serialize_with = "as_f32")]
    pub loss: f64,
    /// Mean −log p of the trained tokens.
    #[serde(serialize_with = "as_f32")]
    pub nll: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    #[serde(serialize_with = "as_f32")]
    pub grad_norm: f64,
    /// Trained tokens, the N of the losses.
    pub tokens: usize,
    /// All tokens of the steps since the last report, masked ones too, by the time they took.
    pub tokens_per_second: f64,
}

/// Devices count in f32: more digits than it holds would only be noise.
fn as_f32<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f32(*value as f32)
}

/// A step that was left out, as a line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct SkippedRow<'a> {
    pub step: u64,
    pub skipped: bool,
    pub tensor: &'a str,
    pub lr: f64,
    pub tokens: usize,
}

/// One evaluation, as a line of `metrics.jsonl`.
#[cfg_attr(feature = "ts", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EvalRow {
    /// Optimizer steps done; 0 is before the first.
    pub step: u64,
    /// Mean −log p of the held-out trained tokens.
    pub eval_nll: f64,
    /// The loss that is optimised, over the held-out rows as one batch.
    pub eval_loss: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Finished {
    /// Optimizer steps done, those of earlier runs included.
    pub steps: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// Steps left out in this run because their gradient was not finite.
    pub skipped_steps: u64,
    /// Trained tokens of this run.
    pub tokens: u64,
    /// Wall-clock seconds of this run.
    pub seconds: f64,
    /// NLL of the last step that counted.
    pub nll: Option<f64>,
    /// The last evaluation.
    pub eval: Option<EvalRow>,
    /// Folder of the adapter.
    #[serde(serialize_with = "crate::paths::one::serialize")]
    pub adapter: PathBuf,
    /// The last checkpoint.
    #[serde(serialize_with = "crate::paths::maybe::serialize")]
    pub checkpoint: Option<PathBuf>,
}

/// Something worth knowing that is no error.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum Note {
    /// Rows were sampled.
    Sampled { rows: usize, of: usize, seed: u64 },
    /// Bad rows were left out.
    RowsSkipped { count: usize, first: String },
    /// Rows without a trained token were left out.
    RowsUntrained { count: usize, cut: usize, first: String },
    /// Keys of rows were read past.
    KeysIgnored { keys: Vec<String> },
    /// Keys of rows were given to a chat template that does not name them.
    KeysUnread { keys: Vec<String> },
    /// The template's own marks say what is trained.
    MarkedAnswers,
    /// Answers became samples of their own.
    AnswersAlone { count: usize },
    /// Answers are trained with what the template writes before them.
    HeadersTrained { count: usize },
    /// Trained answers end without a token that ends a turn.
    Endless { count: usize },
    /// Trained answers end with tokens that the model does not name as end tokens.
    NewEnds { tokens: Vec<String> },
    /// Samples were cut.
    Truncated { count: usize, of: usize },
    /// The confidence window is the whole answer.
    WholeAnswerWindow { group_size: usize, samples: usize, of: usize },
    /// `bft` with γ = 0.
    GammaZero,
    /// The schedule gives a rate of 0 at every step.
    RateAlwaysZero,
    /// A resumed run has another number of steps, and its schedule depends on it.
    ScheduleStretched { from: u64, to: u64 },
    /// A resumed run is on another device, so it does not continue bit for bit.
    DeviceChanged { from: String, to: String },
    /// A given adapter's shape holds, not the settings'.
    InitAdapter { rank: usize, alpha: f32, modules: Vec<String> },
    /// A resumed run had nothing left to do.
    AlreadyDone { steps: u64 },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sampled { rows, of, seed } => write!(f, "{rows} of {of} rows drawn by seed {seed}"),
            Self::RowsSkipped { count, first } => write!(f, "{count} bad rows left out, the first: {first}"),
            Self::RowsUntrained { count, cut, first } => {
                let because = if *cut > 0 { format!(" ({cut} of them because they are cut)") } else { String::new() };
                write!(f, "{count} rows with nothing to train on left out{because}: {first}")
            }
            Self::KeysIgnored { keys } => write!(f, "ignored keys: {}", keys.join(", ")),
            Self::KeysUnread { keys } => {
                write!(f, "the chat template names no {}: what the rows say there is in no sample", keys.join(", "))
            }
            Self::MarkedAnswers => f.write_str(
                "the chat template marks its answers with {% generation %}: what it marks is trained, and nothing else",
            ),
            Self::AnswersAlone { count } => write!(
                f,
                "{count} answers became samples of their own: the chat template renders an earlier turn otherwise than the last one"
            ),
            Self::HeadersTrained { count } => write!(
                f,
                "{count} answers are trained with what the chat template writes before them, for it has no generation prompt"
            ),
            Self::Endless { count } => {
                write!(
                    f,
                    "{count} trained answers end without an end-of-turn token: the tuned model may not stop after one"
                )
            }
            Self::NewEnds { tokens } => write!(
                f,
                "trained answers end with {}, which the model does not name as an end token: it is one of the tuned model, \
                 kept in generation_config.json beside the adapter",
                tokens.join(", ")
            ),
            Self::Truncated { count, of } => write!(f, "{count} of {of} samples cut to max-length"),
            Self::WholeAnswerWindow { group_size, samples, of } => write!(
                f,
                "at g = {group_size} the window is the whole answer for {samples} of {of} samples: see --group-size"
            ),
            Self::GammaZero => {
                f.write_str("gamma = 0 weighs every sample 0, so nothing is learnt: nearly surely a mistake")
            }
            Self::RateAlwaysZero => f.write_str(
                "the schedule reaches 0 at the last step, and this run has no other: use --schedule constant",
            ),
            Self::ScheduleStretched { from, to } => {
                write!(f, "the schedule now runs to step {to} instead of {from}: the rate jumps here")
            }
            Self::DeviceChanged { from, to } => {
                write!(f, "the checkpoint was made on {from}, this is {to}: results differ by rounding")
            }
            Self::InitAdapter { rank, alpha, modules } => {
                write!(f, "the given adapter's shape holds: rank {rank}, alpha {alpha}, modules {}", modules.join(", "))
            }
            Self::AlreadyDone { steps } => {
                write!(f, "all {steps} steps are done: raise --steps or --epochs to go on")
            }
        }
    }
}
