//! What the page and the engine say to each other. `web/src/contract.ts` is written from these
//! types, and a test fails where it is another.

use bft_core::Pooling;
use bft_train::{ByLoss, EvalRow, Finish, RowFormat, StepRow};
use serde::{Deserialize, Serialize};
#[cfg(test)]
use ts_rs::TS;

/// Which device was asked for. `auto` takes a real GPU, else the CPU in WebAssembly.
#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    Auto,
    Gpu,
    Cpu,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct DeviceInfo<'a> {
    #[cfg_attr(test, ts(type = "\"gpu\" | \"cpu\""))]
    pub kind: &'a str,
    pub name: &'a str,
    pub backend: &'a str,
    /// Why this one was taken.
    pub reason: &'a str,
    /// Whether the GPU is a program on the CPU, and slower than it.
    pub software: bool,
}

/// A model, without what only the worker knows of it.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct OpenedModel<'a> {
    pub name: &'a str,
    /// `llama`, `qwen2`, …
    pub architecture: String,
    pub parameters: usize,
    pub layers: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    pub context_length: usize,
    /// Format of most of the weights: `Q4_1`, `F16`, …
    pub format: String,
    pub bytes: usize,
    pub sha256: String,
    pub has_chat_template: bool,
    /// How the model's files say that its vectors are made; null where they say nothing.
    #[cfg_attr(test, ts(type = "Pooling | null"))]
    pub pooling: Option<Pooling>,
    pub normalize: bool,
    /// What of its files is read otherwise than it stands, in a sentence each.
    pub notes: &'a [String],
}

/// What rows are for.
#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Train,
    HeldOut,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(TS))]
pub struct ReadData {
    pub role: Role,
    /// Its ending tells CSV and TSV.
    pub name: String,
    /// Keys with the columns that stand for them: `prompt=question`, several parted by commas.
    #[cfg_attr(test, ts(optional))]
    pub columns: Option<String>,
    pub max_length: Option<usize>,
    pub truncate: bool,
    pub skip_bad_rows: bool,
    /// Variables of the chat template as a person writes them: `enable_thinking=false`, several
    /// parted by semicolons.
    #[cfg_attr(test, ts(optional))]
    pub template_vars: Option<String>,
}

/// What was read from rows.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct DataReport<'a> {
    pub file: &'a str,
    #[cfg_attr(test, ts(type = "RowFormat"))]
    pub format: RowFormat,
    pub rows: usize,
    pub samples: usize,
    /// Rows without a trained token, left out.
    pub untrained: usize,
    pub truncated: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
    /// Longest sample in tokens.
    pub longest: usize,
    /// Sentences worth showing: what was left out or cut, and why.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(TS))]
pub struct PreviewOptions {
    pub index: usize,
    pub group_size: u32,
    pub gamma: f32,
}

/// One token of a previewed sample.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct PreviewToken<'a> {
    pub text: &'a str,
    pub id: u32,
    pub trained: bool,
    /// The model's probability of it; null where it is not trained.
    pub p: Option<f64>,
    /// Its weight under each loss, without the sample's; null where it is not trained.
    pub weights: Option<ByLoss>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Preview<'a> {
    pub index: usize,
    pub samples: usize,
    /// Where its row is: `line 3`.
    pub place: String,
    pub tokens: Vec<PreviewToken<'a>>,
    pub nll: f64,
    /// s_b of each loss (1 for sft, dft and gce).
    pub sample_weights: ByLoss,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Estimate {
    pub bytes: u64,
    pub steps: u64,
    pub steps_per_epoch: u64,
    pub trainable_parameters: usize,
}

/// How a run ended.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Finished {
    pub steps: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    pub skipped_steps: u64,
    pub tokens: u64,
    pub seconds: f64,
    pub nll: Option<f64>,
    pub eval: Option<EvalRow>,
    /// Whether it ended before its last step because evaluations got no better.
    pub out_of_patience: bool,
    /// The step that the adapter is of.
    pub adapter_step: u64,
}

impl From<bft_train::Finished> for Finished {
    fn from(finished: bft_train::Finished) -> Self {
        let bft_train::Finished { steps, stopped, skipped_steps, tokens, seconds, nll, eval, .. } = finished;
        let (out_of_patience, adapter_step) = (finished.out_of_patience, finished.adapter_step);
        Self { steps, stopped, skipped_steps, tokens, seconds, nll, eval, out_of_patience, adapter_step }
    }
}

/// The adapter in use: trained here, or loaded.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct AdapterInfo<'a> {
    pub name: &'a str,
    pub rank: usize,
    pub alpha: f32,
    pub modules: &'a [String],
    pub parameters: usize,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(TS))]
pub struct AskOptions {
    pub prompt: String,
    pub chat_template: bool,
    /// As of [`ReadData`].
    #[cfg_attr(test, ts(optional))]
    pub template_vars: Option<String>,
    pub max_new_tokens: usize,
    pub temperature: f32,
    pub top_p: f32,
    pub seed: u64,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Generated {
    pub text: String,
    pub tokens: usize,
    pub finish_reason: Finish,
    pub seconds: f64,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(TS))]
pub struct EmbedOptions {
    pub texts: Vec<String>,
    /// A name for each text, or its text where there is none.
    pub ids: Option<Vec<String>>,
    pub adapter: bool,
    #[cfg_attr(test, ts(type = "Pooling"))]
    pub pooling: Pooling,
    pub normalize: bool,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Neighbour {
    pub index: usize,
    pub cosine: f64,
}

/// Vectors that were made, without their map.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
pub struct Neighbours<'a> {
    pub ids: &'a [String],
    pub width: usize,
    /// Share of the variance that each axis of the map explains.
    pub explained: [f64; 2],
    /// For each text, the others by falling cosine of the centred vectors, at most ten.
    pub neighbours: Vec<Vec<Neighbour>>,
    pub tokens: usize,
    pub seconds: f64,
}

/// The format of a file of vectors.
#[derive(Clone, Copy, Deserialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum VectorFormat {
    Npy,
    Jsonl,
    Tsv,
}

/// What the page can offer after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Shown beside the field that it is about.
    Input,
    /// Another device.
    Lost,
    /// A smaller batch, or another device.
    Memory,
    /// Storage that can be freed.
    Storage,
    /// It was asked for.
    Cancelled,
    /// Nothing.
    Other,
}

/// Which of two answers a token belongs to.
#[derive(Clone, Copy, Serialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum Who {
    Base,
    Tuned,
}

/// Work of the engine that tells how far it is.
#[derive(Clone, Copy, Serialize)]
#[cfg_attr(test, derive(TS))]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Upload,
    Embed,
}

/// What the engine tells while it works.
#[derive(Serialize)]
#[cfg_attr(test, derive(TS))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EngineEvent {
    Progress { what: Work, done: u64, total: u64 },
    Started { steps: u64, resumed_from: u64, parameters: usize, memory_bytes: u64, device: String },
    Note { text: String },
    Step { row: StepRow, sample_weights: Vec<f64> },
    Skipped { step: u64, tensor: String },
    Eval { row: EvalRow },
    Checkpoint { step: u64 },
    Token { who: Who, text: String },
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use bft_core::LossKind;
    use bft_train::{Kind, Range, SamplingConfig, Setting, Settings, TrainConfig, words};
    use serde_json::json;
    use ts_rs::Config;

    use super::*;

    const HEAD: &str = "// Written from the types of crates/web/src/contract.rs and the settings of bft-train by\n\
                        // `BFT_WRITE_CONTRACT=1 cargo test -p bft-web contract`. Do not edit.\n";

    /// Bounds of a field for a number in a range, as near as a field can say them.
    fn bounds(range: Range) -> (f64, Option<f64>) {
        match range {
            Range::From(least) => (least.into(), None),
            Range::Any | Range::Positive | Range::NotNegative | Range::Part => (0.0, None),
            Range::Chance => (0.0, Some(0.999)),
            Range::Share => (0.01, Some(1.0)),
            Range::Unit => (0.0, Some(1.0)),
        }
    }

    fn union(words: &[&str]) -> String {
        words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" | ")
    }

    /// The TypeScript type of a setting's values.
    fn type_of(setting: &Setting) -> String {
        let kind = match setting.kind {
            Kind::Switch => "boolean".to_owned(),
            Kind::Whole | Kind::Number => "number".to_owned(),
            Kind::GroupSize => "number | string".to_owned(),
            Kind::Word(words) => union(words()),
            Kind::Words | Kind::Paths => "string[]".to_owned(),
            Kind::Path | Kind::Device => "string".to_owned(),
            Kind::Variables => "Record<string, unknown>".to_owned(),
        };
        if setting.optional { kind + " | null" } else { kind }
    }

    const FIELD: &str = "
/** What a field of a setting takes, and what it holds at first. `most` is null where there is no bound. */
export interface Field {
  help: string;
  default: unknown;
  optional: boolean;
  least?: number;
  most?: number | null;
  whole?: boolean;
  words?: string[];
}
";

    /// The settings of a struct that the page has: their types, and what their fields take.
    fn settings<S: Settings>(text: &mut String, about: &str, name: &str, fields: &str) {
        let table = || S::TABLE.iter().filter(|setting| setting.on_page);
        let _ = writeln!(text, "\n/** {about} */\nexport interface {name} {{");
        for setting in table() {
            let _ = writeln!(text, "  /** {} */\n  {}: {};", setting.help.trim(), setting.field, type_of(setting));
        }
        let _ = writeln!(text, "}}\n\nexport const {fields}: Record<keyof {name}, Field> = {{");
        let defaults = S::default().to_map();
        for setting in table() {
            let default = &defaults[&setting.name()];
            let mut field = json!({"help": setting.help.trim(), "default": default, "optional": setting.optional});
            let bounds = match setting.kind {
                Kind::Whole | Kind::Number => Some(bounds(setting.range)),
                // The field is for numbers alone.
                Kind::GroupSize => Some((1.0, None)),
                _ => None,
            };
            if let Some((least, most)) = bounds {
                field["least"] = least.into();
                field["most"] = most.into();
                field["whole"] = (!matches!(setting.kind, Kind::Number)).into();
            }
            if let Kind::Word(words) = setting.kind {
                field["words"] = words().into();
            }
            let _ = writeln!(text, "  {}: {field},", setting.field);
        }
        *text += "};\n";
    }

    fn written() -> String {
        let config = Config::new().with_large_int("number");
        let mut text = HEAD.to_owned();
        for (name, words) in
            [("Loss", words::<LossKind>()), ("Pooling", words::<Pooling>()), ("RowFormat", words::<RowFormat>())]
        {
            let _ = writeln!(text, "\nexport type {name} = {};", union(words));
        }
        text += FIELD;
        let run = "Settings of a run: flags of `bft train`, with underscores.";
        settings::<TrainConfig>(&mut text, run, "TrainSettings", "FIELDS");
        let sampling = "How tokens are chosen: flags of `bft generate`, with underscores.";
        settings::<SamplingConfig>(&mut text, sampling, "SamplingSettings", "SAMPLING");
        macro_rules! declare {
            ($($type:ty),+ $(,)?) => {$(
                text += "\n";
                text += <$type>::docs().unwrap_or_default().as_str();
                let _ = writeln!(text, "export {}", <$type>::decl(&config));
            )+};
        }
        declare!(
            DeviceChoice,
            DeviceInfo<'_>,
            OpenedModel<'_>,
            Role,
            ReadData,
            DataReport<'_>,
            PreviewOptions,
            ByLoss,
            PreviewToken<'_>,
            Preview<'_>,
            Estimate,
            StepRow,
            EvalRow,
            Finished,
            AdapterInfo<'_>,
            AskOptions,
            Finish,
            Generated,
            EmbedOptions,
            Neighbour,
            Neighbours<'_>,
            VectorFormat,
            FailureKind,
            Who,
            Work,
            EngineEvent,
        );
        text
    }

    #[test]
    fn the_typescript_contract_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/src/contract.ts");
        let written = written();
        if std::env::var_os("BFT_WRITE_CONTRACT").is_some() {
            std::fs::write(&path, &written).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == written,
            "web/src/contract.ts is stale: BFT_WRITE_CONTRACT=1 cargo test -p bft-web contract writes it anew"
        );
    }
}
