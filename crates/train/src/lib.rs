//! Rows to samples to packed batches to a trainer that emits typed events.
mod batches;
mod config;
mod core_api;
mod event;
mod random;
mod rows;
mod samples;
mod schedule;
#[cfg(test)]
mod testing;
mod text;

pub use batches::{BatchBounds, BatchOptions, Cursor, Loader, StepBatches, groups, pack};
pub use config::{ConfigError, TrainConfig};
pub use event::{EvalRow, Event, Finished, Note, Started, StepRow};
#[cfg(not(target_arch = "wasm32"))]
pub use rows::read_rows;
pub use rows::{DataError, MASKED, Origin, Row, RowContent, RowError, RowFormat, RowProblem, Rows, parse_rows};
pub use samples::{DEFAULT_MAX_LENGTH, DataReport, Sample, SampleOptions, Samples, SamplesError, make_samples};
pub use schedule::{Schedule, UnknownSchedule};
pub use text::{LabelledTokens, TextEncoder, TextError};
