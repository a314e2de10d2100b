//! `run.json`: what was run, on what, and how it ended.

use bft_core::device::DeviceInfo;
use bft_formats::{HubPlace, Model};

use crate::config::TrainConfig;
use crate::event::Finished;
use crate::paths::path_to_json;
use crate::plan::Plan;
use crate::rows::{DataFile, KeyList, RowFormat, sha256_of};
use crate::samples::DataReport;

/// The device that a run takes place on, as far as a run cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSummary {
    /// Its name and backend; a checkpoint from another one does not continue bit for bit.
    pub description: String,
    /// Memory the run will need, in bytes.
    pub memory_bytes: u64,
}

impl DeviceSummary {
    /// A device in words.
    pub fn new(info: &DeviceInfo, memory_bytes: u64) -> Self {
        let DeviceInfo { name, backend, .. } = info;
        Self { description: format!("{name} ({backend})"), memory_bytes }
    }
}

/// What a run says about itself in `run.json` and in its checkpoints.
pub(crate) struct Facts<'r> {
    pub model: &'r Model,
    pub device: &'r DeviceSummary,
    pub model_sha256: &'r str,
    /// Values that are trained.
    pub parameters: usize,
}

/// `run.json`.
#[derive(serde::Serialize)]
struct RunDescription<'a> {
    /// Version of this program.
    bft: &'static str,
    written_at_unix: u64,
    model: ModelDescription<'a>,
    data: DataDescription<'a>,
    eval_data: Option<DataDescription<'a>>,
    device: &'a str,
    seed: u64,
    /// Values that are trained.
    parameters: usize,
    /// Optimizer steps of the whole run.
    steps: u64,
    resumed_from: u64,
    settings: &'a TrainConfig,
    /// Null while the run goes on, and where it broke off.
    finished: Option<&'a Finished>,
}

#[derive(serde::Serialize)]
struct ModelDescription<'a> {
    name: &'a str,
    path: serde_json::Value,
    /// Its id on the hub, and the commit of its files, where it is from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    architecture: String,
    sha256: &'a str,
}

#[derive(serde::Serialize)]
struct DataDescription<'a> {
    file: &'a str,
    sha256: String,
    /// Each file, where there are several.
    #[serde(skip_serializing_if = "<[DataFile]>::is_empty")]
    files: &'a [DataFile],
    format: RowFormat,
    rows: usize,
    samples: usize,
    skipped: usize,
    untrained: usize,
    truncated: usize,
    /// Answers that became samples of their own.
    alone: usize,
    tokens: usize,
    trained_tokens: usize,
    ignored_keys: &'a KeyList,
    /// Keys that the chat template does not name.
    unread_keys: &'a KeyList,
}

impl<'a> DataDescription<'a> {
    fn new(report: &'a DataReport) -> Self {
        Self {
            file: &report.file,
            sha256: sha256_of(&report.files),
            files: if report.files.len() > 1 { &report.files } else { &[] },
            format: report.format,
            rows: report.rows,
            samples: report.samples,
            skipped: report.skipped.len(),
            untrained: report.untrained.len(),
            truncated: report.truncated,
            alone: report.alone,
            tokens: report.tokens,
            trained_tokens: report.trained_tokens,
            ignored_keys: &report.ignored,
            unread_keys: &report.unread,
        }
    }
}

/// The file's text. `now` is in seconds since 1970; `finished` is none while the run goes on.
pub(crate) fn describe(
    plan: &Plan,
    facts: &Facts<'_>,
    now: u64,
    resumed_from: u64,
    finished: Option<&Finished>,
) -> String {
    let (hub, commit) = HubPlace::of(&facts.model.path).map(|place| (place.id, place.commit)).unzip();
    let description = RunDescription {
        bft: env!("CARGO_PKG_VERSION"),
        written_at_unix: now,
        model: ModelDescription {
            name: &facts.model.name,
            path: path_to_json(&facts.model.path),
            hub,
            commit,
            architecture: facts.model.config.architecture.to_string(),
            sha256: facts.model_sha256,
        },
        data: DataDescription::new(&plan.train.report),
        eval_data: plan.eval.as_ref().map(|eval| DataDescription::new(&eval.report)),
        device: &facts.device.description,
        seed: plan.config.seed,
        parameters: facts.parameters,
        steps: plan.steps,
        resumed_from,
        settings: &plan.config.with_absolute_paths(),
        finished,
    };
    // Numbers, words and paths, which always serialise.
    serde_json::to_string_pretty(&description).unwrap_or_default()
}
