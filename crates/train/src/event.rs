//! What a run reports while it runs.

use std::fmt;
use std::path::PathBuf;

use bft_core::{GroupSize, LossKind};

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
    /// Which loss that is, in a run that has several in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "ts", ts(optional, type = "Loss"))]
    pub loss_kind: Option<LossKind>,
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
#[expect(missing_docs, reason = "as in StepRow")]
pub struct SkippedRow<'a> {
    pub step: u64,
    /// True.
    pub skipped: bool,
    /// The first tensor whose gradient was not finite.
    pub tensor: &'a str,
    pub lr: f64,
    pub tokens: usize,
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the variants are the lines")]
pub enum MetricsRow<'a> {
    Step(&'a StepRow),
    Skipped(SkippedRow<'a>),
    Eval(EvalRow),
}

impl MetricsRow<'_> {
    /// The line, without its end. Numbers that are not finite become null.
    pub fn line(&self) -> String {
        // Structs of numbers and words always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Its numbers by their names in charts.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn scalars(&self) -> (u64, Vec<(&'static str, f64)>) {
        match self {
            Self::Step(row) => {
                let numbers = [
                    ("train/loss", row.loss),
                    ("train/nll", row.nll),
                    ("train/lr", row.lr),
                    ("train/grad_norm", row.grad_norm),
                    ("train/tokens_per_second", row.tokens_per_second),
                ];
                (row.step, numbers.to_vec())
            }
            Self::Skipped(row) => (row.step, vec![("train/lr", row.lr)]),
            Self::Eval(row) => (row.step, vec![("eval/loss", row.eval_loss), ("eval/nll", row.eval_nll)]),
        }
    }
}

/// One evaluation, as a line of `metrics.jsonl`.
#[cfg_attr(feature = "ts", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EvalRow {
    /// Optimizer steps done; 0 is before the first.
    pub step: u64,
    /// Mean −log p of the held-out trained tokens.
    pub eval_nll: f64,
    /// The loss that is optimised, the last of several in turn, over the held-out rows as one batch.
    pub eval_loss: f64,
    /// Whether no evaluation of the run before it had so low an NLL.
    pub best: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Finished {
    /// Optimizer steps done, those of earlier runs included.
    pub steps: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// Whether it ended before its last step because evaluations got no better.
    pub out_of_patience: bool,
    /// Steps left out in this run because their gradient was not finite.
    pub skipped_steps: u64,
    /// Trained tokens of this run.
    pub tokens: u64,
    /// Wall-clock seconds of this run.
    pub seconds: f64,
    /// NLL of the last step that counted.
    pub nll: Option<f64>,
    /// The last evaluation of this run.
    pub eval: Option<EvalRow>,
    /// The best evaluation, those of earlier runs included.
    pub best: Option<EvalRow>,
    /// The step that the adapter is of.
    pub adapter_step: u64,
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
    WholeAnswerWindow { group_size: GroupSize, samples: usize, of: usize },
    /// `bft` with γ = 0.
    GammaZero,
    /// Not all steps have the same loss.
    LossesInTurn { losses: String },
    /// A resumed run has another number of steps, and its losses go by shares of them.
    LossesMoved { from: u64, to: u64 },
    /// The only step has a rate of 0.
    RateAlwaysZero,
    /// The warm-up is no shorter than the run.
    WarmupUnfinished { warmup: u64, steps: u64 },
    /// `sample-seed` is given, and nothing is sampled.
    SeedUnused,
    /// `val-size` is 1, which may be meant as a share.
    OneHeldOut,
    /// A resumed run has another number of steps, and its schedule depends on it.
    ScheduleStretched { from: u64, to: u64 },
    /// A resumed run is on another device, so it does not continue bit for bit.
    DeviceChanged { from: String, to: String },
    /// A given adapter's shape holds, not the settings'.
    InitAdapter { rank: usize, alpha: f32, modules: Vec<String> },
    /// A run that was to be gone on with ended before its first checkpoint.
    FromTheStart,
    /// A resumed run had nothing left to do.
    AlreadyDone { steps: u64 },
    /// A resumed run has had all the evaluations that it was to wait for a better one.
    PatienceOver { best: u64, since: u64 },
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
            Self::LossesInTurn { losses } => write!(f, "losses in turn: {losses}"),
            Self::LossesMoved { from, to } => {
                write!(f, "the losses now share {to} steps instead of {from}: they change at other steps than before")
            }
            Self::RateAlwaysZero => f.write_str(
                "a warm-up begins at a rate of 0, and this run has no other step: do without it, or nothing is learnt",
            ),
            Self::WarmupUnfinished { warmup, steps } => write!(
                f,
                "the warm-up takes {warmup} steps and the run has {steps}: the learning rate never gets to lr"
            ),
            Self::SeedUnused => f.write_str("sample-seed does nothing without max-samples"),
            Self::OneHeldOut => {
                f.write_str("val-size 1 holds out one row: give a share below 1, such as 0.1, if a share is meant")
            }
            Self::ScheduleStretched { from, to } => {
                write!(f, "the schedule now runs to step {to} instead of {from}: the rate jumps here")
            }
            Self::DeviceChanged { from, to } => {
                write!(f, "the checkpoint was made on {from}, this is {to}: results differ by rounding")
            }
            Self::InitAdapter { rank, alpha, modules } => {
                write!(f, "the given adapter's shape holds: rank {rank}, alpha {alpha}, modules {}", modules.join(", "))
            }
            Self::FromTheStart => f.write_str("the run has no complete checkpoint yet: it begins at step 0"),
            Self::AlreadyDone { steps } => {
                let done = if *steps == 1 { "the 1 step is".into() } else { format!("all {steps} steps are") };
                write!(f, "{done} done: raise --steps or --epochs to go on")
            }
            Self::PatienceOver { best, since } => {
                let evaluations = if *since == 1 { "evaluation" } else { "evaluations" };
                let verb = if *since == 1 { "was" } else { "were" };
                write!(f, "{since} {evaluations} since step {best} {verb} no better: raise --patience to go on")
            }
        }
    }
}
