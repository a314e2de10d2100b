//! Rows to samples to packed batches to a trainer that emits typed events.
//!
//! | step | module |
//! |---|---|
//! | files' bytes to rows, which of them are held out or drawn | `rows` |
//! | rows to token ids with labels | `text`, `samples` |
//! | samples to packed micro-batches, in an order that a cursor continues | `batches`, `random` |
//! | what a setting is, and those of a run | `setting`, `config`, `schedule`, `losses` |
//! | settings and data to a run with known sizes | `plan` |
//! | a run: steps, metrics, evaluations, checkpoints | `trainer`, `run`, `description`, `state` |
//! | its folder on disk, and going on from it | `folder`, `checkpoint`, `paths`, `resume` |
//! | one run in several processes | `ranks` |
//! | what the device side must offer, what it will need | `engine`, `memory` |
//! | NLL and the losses of a file | `evaluate` |
//! | likelihoods of the answers that a question offers | `choices` |
//! | each token's rank, confidence and log-probability by temperature | `scores` |
//! | each token with its label and weights | `inspect` |
//! | texts to vectors, by a language model or an encoder | `embed`, `embedder` |
//! | which vectors are alike | `similar`, `pca` |
//! | a prompt to more text, many prompts to a text each | `writer`, `answers` |
//! | rows to questions whose answers are compared with a model's | `references` |
//! | who may end or hold up any of it | `control` |
//!
//! Nothing here names a device or a terminal. What touches files is left out on wasm32, where a
//! page hands over bytes.

mod adapter;
mod answers;
mod batches;
#[cfg(not(target_arch = "wasm32"))]
mod checkpoint;
mod checkpoint_files;
mod choices;
mod config;
mod control;
mod description;
mod embed;
mod embedder;
mod engine;
mod error;
mod evaluate;
mod event;
#[cfg(not(target_arch = "wasm32"))]
mod folder;
mod inspect;
mod losses;
mod memory;
mod paths;
mod pca;
mod pissa;
mod plan;
mod random;
#[cfg(not(target_arch = "wasm32"))]
mod ranks;
mod references;
#[cfg(not(target_arch = "wasm32"))]
mod resume;
mod rows;
mod run;
mod samples;
mod schedule;
mod scores;
mod setting;
pub mod similar;
mod state;
#[cfg(not(target_arch = "wasm32"))]
mod tensorboard;
#[cfg(test)]
mod testing;
mod text;
mod trainer;
mod writer;

pub use adapter::new_adapter;
pub use answers::{BatchWriter, write_answers};
pub use batches::{BatchBounds, BatchOptions, Cursor, Loader, StepBatches, groups, pack};
#[cfg(not(target_arch = "wasm32"))]
pub use checkpoint::Checkpoints;
pub use checkpoint_files::{NamedFile, adapter_files, checkpoint_files};
pub use choices::{Continuation, Continuations, log_likelihoods};
pub use config::{ConfigError, Logs, LoraInit, TrainConfig};
pub use control::Control;
pub use description::DeviceSummary;
pub use embed::{
    EmbedContent, EmbedError, EmbedInput, EmbedOptions, EmbedReport, EmbedRow, Embedder, check_rows, embed_rows,
};
pub use embedder::{EmbedEngine, embed_texts};
pub use engine::{Engine, EngineError, LogProbs, Logits, Shareable, Tuning};
pub use error::TrainError;
pub use evaluate::{ByLoss, EvalReport, Tally, evaluate};
pub use event::{EvalRow, Event, Finished, MetricsRow, Note, SkippedRow, Started, StepRow};
pub use inspect::{InspectedSample, InspectedToken, SampleWeights, TokenScores, inspect_sample, inspect_tokens};
pub use losses::Losses;
pub use memory::{MemoryEstimate, estimate_memory};
pub use paths::{Files, os_string, path_to_json};
pub use pca::Pca;
pub use plan::Plan;
#[cfg(not(target_arch = "wasm32"))]
pub use ranks::{Ranks, share_out};
pub use references::{Reference, ReferenceError, references};
#[cfg(not(target_arch = "wasm32"))]
pub use rows::read_rows;
pub use rows::{
    Cap, Chat, Columns, DataError, DataFile, KeyList, MASKED, ObjectRow, Origin, Place, Prompt, PromptRow, Row,
    RowContent, RowError, RowFormat, RowOptions, RowProblem, Rows, RowsError, excerpt, parse_objects, parse_prompts,
    parse_rows,
};
pub use run::MAX_SKIPPED;
pub use samples::{
    DEFAULT_MAX_LENGTH, DataReport, Sample, SampleOptions, Samples, SamplesError, labelled_tokens, make_samples,
};
pub use schedule::{Rates, Schedule};
pub use scores::{TEMPERATURES, TokenScore, UNTEMPERED, score};
pub use setting::{Kind, Range, Setting, Settings, word, word_of, words};
pub use state::{Best, Checkpoint, Clock, RunState, Store};
pub use text::{ChatSamples, LabelledTokens, TextEncoder, TextError};
pub use trainer::Trainer;
pub use writer::{Finish, SamplingConfig, TextWriter, WriteError, Written};
