//! Everything a training run can be told: the one place where its settings are declared.

use std::path::PathBuf;

use bft_core::device::{DeviceRequest, Precision};
use bft_core::{AdamW, Checkpoint, GroupSize, LossConfig, LossKind};
use bft_formats::{Adapter, LoraPair, ModelConfig, Quantization, module_names};
use serde_json::{Map, Value};

use crate::batches::BatchOptions;
use crate::losses::{check_phase, phases};
use crate::paths::Files;
use crate::rows::{Cap, Columns, RowOptions, check_pair, check_pairs};
use crate::samples::SampleOptions;
use crate::schedule::{Rates, Schedule};
use crate::setting::{Range, Settings, settings, word_of};

const FILES: &str = "Model and data";

settings! {
    /// Settings of a training run. A field's comment is what `--help` says about it.
    pub struct TrainConfig {
        /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
        /// the hub
        #[serde(with = "crate::paths::one")]
        #[setting(heading: FILES, value_name: "PATH", may_change: true, on_page: false)]
        pub model: PathBuf = PathBuf::new(),
        /// Training rows: JSONL, JSON, CSV, TSV or Parquet, as they are or as .gz or .zst; more than
        /// once, or a pattern in quotes such as 'rows/*.csv', for several files
        #[setting(heading: FILES, value_name: "FILE", may_change: true, on_page: false)]
        pub data: Files = Files::default(),
        /// Folder for the adapter, metrics.jsonl, run.json and checkpoints/
        #[serde(with = "crate::paths::one")]
        #[setting(heading: FILES, value_name: "DIR", may_change: true, on_page: false)]
        pub output: PathBuf = PathBuf::new(),
        /// Rows to evaluate on, in training and at its end
        #[setting(heading: FILES, value_name: "FILE", may_change: true, on_page: false)]
        pub eval_data: Option<Files> = None,

        /// Hold out this share of the rows of --data, or this many, and evaluate on them; which they
        /// are depends on what each row says alone
        #[setting(heading: "Data", value_name: "SHARE|ROWS", range: Range::Part, excludes: Some("eval_data"))]
        pub val_size: Option<f64> = None,
        /// Take this many rows at most, drawn by --sample-seed
        #[setting(heading: "Data", value_name: "ROWS", range: Range::From(1))]
        pub max_samples: Option<usize> = None,
        /// Seed of the rows that --max-samples draws
        #[setting(heading: "Data", value_name: "NUMBER")]
        pub sample_seed: u64 = 0,
        /// Keys of bft's formats with the columns, or keys, of yours that stand for them, such as
        /// prompt=question,completion=answer
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[setting(heading: "Data", value_name: "KEY=COLUMN", check: check_pair, on_page: false)]
        pub columns: Vec<String> = Vec::new(),
        /// Longest sample in tokens [default: 2048, or the model's context if that is shorter]
        #[setting(heading: "Data", value_name: "TOKENS", range: Range::From(2))]
        pub max_length: Option<usize> = None,
        /// Cut samples longer than --max-length instead of stopping
        #[setting(heading: "Data")]
        pub truncate: bool = false,
        /// Leave out rows that cannot be read, and count them, instead of stopping
        #[setting(heading: "Data", on_page: false)]
        pub skip_bad_rows: bool = false,
        /// A variable of the chat template, such as enable_thinking=false; more than once for
        /// several, or all as a JSON object
        #[serde(skip_serializing_if = "Map::is_empty")]
        #[setting(heading: "Text", value_name: "NAME=VALUE", on_page: false)]
        pub template_vars: Map<String, Value> = Map::new(),

        /// Balanced (bft, bft-v3), token-weighted (dft), plain (sft) or generalised (gce)
        /// cross-entropy
        #[setting(heading: "Loss", value_name: "LOSS")]
        pub loss: LossKind = LossConfig::default().kind,
        /// Losses to begin with, each for its share of the steps, before --loss: sft:0.3,bft is sft
        /// for the first 30 % of them, then bft
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[setting(heading: "Loss", value_name: "LOSS:SHARE", check: check_phase, on_page: false)]
        pub loss_schedule: Vec<String> = Vec::new(),
        /// Tokens in a confidence window of bft and bft-v3, or a part of each sample's trained tokens
        /// such as n/4, rounded up
        #[setting(heading: "Loss", value_name: "TOKENS|n/PARTS")]
        pub group_size: GroupSize = LossConfig::default().group_size,
        /// Exponent on a sample's confidence in bft
        #[setting(heading: "Loss", value_name: "NUMBER", range: Range::NotNegative)]
        pub gamma: f32 = LossConfig::default().gamma,
        /// Least weight of a token in dft, bft and bft-v3; at 1 all tokens weigh alike
        #[setting(heading: "Loss", value_name: "WEIGHT", range: Range::Unit, on_page: false)]
        pub weight_floor: f32 = LossConfig::default().weight_floor,
        /// Exponent q of gce, whose loss is (1 - p^q) / q: near 0 it is sft, at 1 it has the gradient
        /// of dft [default: 0.5]
        #[setting(heading: "Loss", value_name: "NUMBER", range: Range::Share, on_page: false)]
        pub gce_q: Option<f32> = None,
        /// Weight of an anchor to the model without adapter: so much of KL(base || tuned), the mean
        /// over trained tokens, is added to the loss; 0 = off
        #[setting(heading: "Loss", value_name: "WEIGHT", range: Range::NotNegative, on_page: false)]
        pub kl_weight: f32 = LossConfig::default().kl_weight,

        /// Start from this adapter instead of a new one
        #[serde(with = "crate::paths::maybe")]
        #[setting(heading: "Adapter", value_name: "DIR", on_page: false)]
        pub init_adapter: Option<PathBuf> = None,
        /// Rank of the LoRA matrices
        #[setting(heading: "Adapter", value_name: "RANK", range: Range::From(1))]
        pub rank: usize = 16,
        /// LoRA's alpha; the adapter is scaled by alpha / rank [default: 2 * rank]
        #[setting(heading: "Adapter", value_name: "NUMBER", range: Range::Positive)]
        pub alpha: Option<f32> = None,
        /// Scale the adapter by alpha / sqrt(rank) (rsLoRA)
        #[setting(heading: "Adapter", on_page: false)]
        pub use_rslora: bool = false,
        /// Train the length of each row of an adapted weight apart from its direction (DoRA)
        #[setting(heading: "Adapter", on_page: false)]
        pub use_dora: bool = false,
        /// What the adapter begins as: nothing yet (default), or each adapted weight's largest
        /// singular values and vectors (pissa)
        #[setting(heading: "Adapter", value_name: "START", on_page: false)]
        pub lora_init: LoraInit = LoraInit::Default,
        /// all-linear, or a comma list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
        /// down_proj; with a Phi-3, of qkv_proj, o_proj, gate_up_proj, down_proj
        #[setting(heading: "Adapter", value_name: "MODULES", check: known_module, on_page: false)]
        pub target_modules: Vec<String> = vec![ALL_LINEAR.into()],
        /// Chance that LoRA's input is dropped in training
        #[setting(heading: "Adapter", value_name: "CHANCE", range: Range::Chance)]
        pub lora_dropout: f32 = 0.0,

        /// Learning rate at its highest
        #[setting(heading: "Optimizer", value_name: "NUMBER", range: Range::Positive)]
        pub lr: f64 = 2e-4,
        /// How the learning rate goes after the warm-up: wsd is the full rate with a fall at its end
        #[setting(heading: "Optimizer", value_name: "SCHEDULE")]
        pub schedule: Schedule = Schedule::Cosine,
        /// Steps over which the learning rate rises from 0 [default: 0]
        #[setting(heading: "Optimizer", value_name: "STEPS", range: Range::From(0), excludes: Some("warmup_ratio"))]
        pub warmup_steps: Option<u64> = None,
        /// The same as a share of all steps, rounded up
        #[setting(heading: "Optimizer", value_name: "SHARE", range: Range::Unit, on_page: false)]
        pub warmup_ratio: Option<f64> = None,
        /// Learning rate that cosine, linear and wsd fall towards [default: 0]
        #[setting(heading: "Optimizer", value_name: "NUMBER", range: Range::NotNegative)]
        pub min_lr: Option<f64> = None,
        /// Last steps, over which wsd falls [default: a tenth of all steps]
        #[setting(heading: "Optimizer", value_name: "STEPS", range: Range::From(1), on_page: false)]
        pub decay_steps: Option<u64> = None,
        /// Decoupled weight decay of AdamW
        #[setting(heading: "Optimizer", value_name: "NUMBER", range: Range::NotNegative)]
        pub weight_decay: f64 = AdamW::default().weight_decay,
        /// Longer gradients are shortened to this norm; 0 = off
        #[setting(heading: "Optimizer", value_name: "NUMBER", range: Range::NotNegative)]
        pub max_grad_norm: f64 = AdamW::default().max_grad_norm,

        /// Samples in a micro-batch
        #[setting(heading: "Length", value_name: "SAMPLES", range: Range::From(1))]
        pub batch_size: usize = 4,
        /// Micro-batches in an optimizer step
        #[setting(heading: "Length", value_name: "BATCHES", range: Range::From(1))]
        pub grad_accum: usize = 1,
        /// Optimizer steps to take
        #[setting(
            heading: "Length", value_name: "STEPS", range: Range::From(1), excludes: Some("epochs"), may_change: true
        )]
        pub steps: Option<u64> = None,
        /// Passes over the data [default: 1, unless --steps is given]
        #[setting(heading: "Length", value_name: "PASSES", range: Range::From(1), may_change: true)]
        pub epochs: Option<u64> = None,
        /// Take rows in file order
        #[setting(heading: "Length")]
        pub no_shuffle: bool = false,
        /// Seed of LoRA's start, of dropout and of the order of rows
        #[setting(heading: "Length", value_name: "NUMBER")]
        pub seed: u64 = 0,

        /// Steps between evaluations on the rows held out [default: before the first and after the last
        /// step]
        #[setting(
            heading: "Run", value_name: "STEPS", range: Range::From(1), requires: &["eval_data", "val_size"], may_change: true
        )]
        pub eval_every: Option<u64> = None,
        /// Leave the adapter whose NLL on the rows held out was the lowest, not that of the last step
        #[setting(heading: "Run", requires: &["eval_data", "val_size"])]
        pub save_best: bool = false,
        /// End the run after so many evaluations in a row that are no better than the best before
        /// them
        #[setting(
            heading: "Run", value_name: "COUNT", range: Range::From(1), requires: &["eval_every"], may_change: true
        )]
        pub patience: Option<u64> = None,
        /// Steps between checkpoints; one is always made at the end
        #[setting(heading: "Run", value_name: "STEPS", range: Range::From(1), may_change: true)]
        pub save_every: u64 = 100,
        /// What is logged beside metrics.jsonl: tensorboard writes event files that TensorBoard opens,
        /// to tensorboard/ in --output
        #[setting(heading: "Run", value_name: "KIND", may_change: true, on_page: false)]
        pub logs: Option<Logs> = None,
        /// Go on from the newest checkpoint in --output; flags left out are taken from its run.json
        #[setting(heading: "Run", may_change: true, on_page: false)]
        pub resume: bool = false,
        /// Keep few activations and compute the rest again: less memory, more time
        #[setting(heading: "Run", value_name: "WHEN", may_change: true)]
        pub checkpoint_activations: Checkpoint = Checkpoint::Auto,
        /// How exact a GPU's products are: f16 lets those of the forward pass be in half precision
        /// where that is measured to be faster
        #[setting(heading: "Run", value_name: "PRECISION")]
        pub precision: Precision = Precision::F32,
        /// Quantise the model's matrices to this format as they load, where the file has them in F32,
        /// F16, BF16 or FP8
        #[setting(heading: "Run", value_name: "FORMAT", on_page: false)]
        pub quantize: Option<Quantization> = None,
        /// auto (a real GPU if there is one, else the CPU), cpu, gpu, or gpu:N as `bft devices`
        /// counts
        #[setting(heading: "Run", value_name: "DEVICE", may_change: true, on_page: false)]
        pub device: DeviceRequest = DeviceRequest::Auto,
    }
}

/// What is logged beside `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Logs {
    /// Event files that TensorBoard opens.
    Tensorboard,
}

/// What an adapter begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraInit {
    /// A random, B zero.
    Default,
    /// The principal part of the adapted weight (PiSSA, arXiv 2404.02948).
    Pissa,
}

crate::setting::typed!(Logs: words, LoraInit: words);

/// Every linear module of a block.
const ALL_LINEAR: &str = "all-linear";

/// The linear module that a mistyped one is near to.
fn nearest_module(found: &str) -> Option<&'static str> {
    let near = module_names().map(|module| (strsim::osa_distance(found, module), module)).min();
    near.filter(|(distance, _)| *distance <= 2).map(|(_, module)| module)
}

/// Checks a name of `target-modules`.
fn known_module(name: &str) -> Result<(), String> {
    if name == ALL_LINEAR || module_names().any(|module| module == name) {
        return Ok(());
    }
    let guess = nearest_module(name).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(format!("no such module{guess} (known: {ALL_LINEAR}, {})", every_module()))
}

/// Every module's name, for messages.
fn every_module() -> String {
    module_names().collect::<Vec<_>>().join(", ")
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "a variant's sentence says what its fields are")]
pub enum ConfigError {
    /// A value outside its range.
    #[error("{setting} is {found}, expected {expected}")]
    Range { setting: String, found: String, expected: String },
    /// A rank that no adapted layer can use up.
    #[error("rank is {found}, expected 1 to {most}: no adapted layer of {model} can use a higher one")]
    Rank { found: usize, most: usize, model: String },
    /// A rank that an adapted layer has no singular values for.
    #[error(
        "rank is {found}, expected 1 to {most} with lora-init pissa: {module} of {model} has no more singular values"
    )]
    PissaRank { found: usize, most: usize, module: String, model: String },
    /// Two settings that cannot go together.
    #[error("both {one} and {other} are given: give one of them")]
    Both { one: String, other: String },
    /// Evaluations are needed, and there are no rows for them.
    #[error("{setting} goes by evaluations: give --eval-data or --val-size, too")]
    NothingToEvaluate { setting: String },
    /// A setting that another one leaves without effect.
    #[error("{setting} has no effect with --{with} {found}: leave it out, or use --{with} {instead}")]
    NoEffect { setting: String, with: String, found: String, instead: String },
    /// Losses in turn that make no run.
    #[error("loss-schedule: {0}")]
    LossSchedule(String),
    /// Two ways of holding rows out.
    #[error("val-size is given beside rows to evaluate on: leave one of them out")]
    HeldOutTwice,
    /// Columns that cannot stand for keys.
    #[error("columns: {0}")]
    Columns(String),
    /// A module that no decoder has.
    #[error("target-modules names \"{found}\"{hint}: expected all-linear or a list of {}", every_module())]
    TargetModule { found: String, hint: String },
    /// A module that other decoders have.
    #[error("target-modules names \"{found}\": a {model} model has all-linear or a list of {expected}")]
    NotThere { found: String, model: String, expected: String },
}

impl TrainConfig {
    /// Checks what makes sense without a run, too: measuring asks for the numbers of every loss.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_ranges()?;
        self.check_exclusions()?;
        check_pairs(&self.columns).map_err(ConfigError::Columns)
    }

    /// Checks every setting of a run that can be checked without a file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check()?;
        self.check_effects()?;
        if let Some(min) = self.min_lr.filter(|min| *min > self.lr) {
            return Err(ConfigError::Range {
                setting: "min-lr".into(),
                found: min.to_string(),
                expected: format!("at most lr, which is {}", self.lr),
            });
        }
        if self.starts_as_pissa() && self.use_dora {
            return Err(ConfigError::Both { one: "lora-init pissa".into(), other: "use-dora".into() });
        }
        self.check_modules()
    }

    /// Refuses settings that are given and that another one leaves without effect.
    fn check_effects(&self) -> Result<(), ConfigError> {
        let (schedule, loss) = (("schedule", word_of(&self.schedule)), ("loss", self.loss.to_string()));
        let before = phases(&self.loss_schedule, self.loss)?;
        let some = |has: fn(LossKind) -> bool| has(self.loss) || before.iter().any(|(kind, _)| has(*kind));
        let (has_floor, has_q) = (some(LossKind::has_weight_floor), some(|kind| kind == LossKind::Gce));
        for (given, has_effect, setting, (with, found), instead) in [
            (self.min_lr.is_some(), self.schedule.falls(), "min-lr", &schedule, "cosine, linear or wsd"),
            (self.decay_steps.is_some(), self.schedule == Schedule::Wsd, "decay-steps", &schedule, "wsd"),
            (self.weight_floor > 0.0, has_floor, "weight-floor", &loss, "dft, bft or bft-v3"),
            (self.gce_q.is_some(), has_q, "gce-q", &loss, "gce"),
        ] {
            if given && !has_effect {
                let [setting, with, found, instead] = [setting, *with, found, instead].map(str::to_owned);
                return Err(ConfigError::NoEffect { setting, with, found, instead });
            }
        }
        Ok(())
    }

    /// Whether the adapter begins as PiSSA has it: the second half of each pair's rank is then what
    /// the first began as, with its sign turned, and is not trained.
    pub fn starts_as_pissa(&self) -> bool {
        self.lora_init == LoraInit::Pissa
    }

    /// How many values of an adapter a run with these settings trains.
    pub fn trained_values(&self, adapter: &Adapter) -> usize {
        let all: usize = adapter.pairs.iter().map(LoraPair::parameters).sum();
        if self.starts_as_pissa() { all / 2 } else { all }
    }

    /// The learning rates of a run of `steps`.
    ///
    /// # Errors
    /// [`ConfigError::Range`] where the fall of [`Schedule::Wsd`] does not fit behind the warm-up.
    pub fn rates(&self, steps: u64) -> Result<Rates, ConfigError> {
        let warmup = match self.warmup_ratio {
            Some(ratio) => (steps as f64 * ratio).ceil() as u64,
            None => self.warmup_steps.unwrap_or(0),
        };
        let most = steps.saturating_sub(warmup);
        let decay = self.decay_steps.unwrap_or(steps.div_ceil(10).min(most));
        if decay > most {
            return Err(ConfigError::Range {
                setting: "decay-steps".into(),
                found: decay.to_string(),
                expected: format!("at most {most}, for the run has {steps} steps and {warmup} of them warm up"),
            });
        }
        Ok(Rates { schedule: self.schedule, peak: self.lr, min: self.min_lr.unwrap_or(0.0), steps, warmup, decay })
    }

    /// α, twice the rank where none is given.
    pub fn alpha(&self) -> f32 {
        self.alpha.unwrap_or(2.0 * self.rank as f32)
    }

    fn check_modules(&self) -> Result<(), ConfigError> {
        if let Some(found) = self.target_modules.iter().find(|name| known_module(name).is_err()) {
            let hint = nearest_module(found).map(|near| format!(" (did you mean {near}?)"));
            return Err(ConfigError::TargetModule { found: found.clone(), hint: hint.unwrap_or_default() });
        }
        if self.target_modules.is_empty() {
            return Err(ConfigError::Range {
                setting: "target-modules".into(),
                found: "empty".into(),
                expected: "all-linear or names of linear modules".into(),
            });
        }
        Ok(())
    }

    /// Short names of the modules of `model` to adapt, in the order of a block, each once.
    pub fn modules(&self, model: &ModelConfig) -> Result<Vec<&'static str>, ConfigError> {
        self.check_modules()?;
        let names = || model.linear_modules().iter().map(|module| module.name);
        let missing = |name: &&String| *name != ALL_LINEAR && names().all(|module| module != *name);
        if let Some(found) = self.target_modules.iter().find(missing) {
            let (found, model, expected) = (found.clone(), model.architecture.to_string(), model.module_list());
            return Err(ConfigError::NotThere { found, model, expected });
        }
        let wanted = |module: &&str| self.target_modules.iter().any(|name| name == module || name == ALL_LINEAR);
        Ok(names().filter(wanted).collect())
    }

    /// Optimizer steps of the whole run over `samples`.
    pub fn total_steps(&self, samples: usize) -> u64 {
        let epochs = self.epochs.unwrap_or(1);
        self.steps.unwrap_or_else(|| epochs.saturating_mul(self.batches().steps_per_epoch(samples)))
    }

    /// The settings with paths that mean the same from every folder.
    pub(crate) fn with_absolute_paths(&self) -> Self {
        // A tab has no folders.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let files = |files: &Files| Files(files.iter().map(absolute).collect());
        Self {
            // A name on the hub is no path.
            model: if self.model.exists() { absolute(&self.model) } else { self.model.clone() },
            data: files(&self.data),
            output: absolute(&self.output),
            eval_data: self.eval_data.as_ref().map(files),
            init_adapter: self.init_adapter.as_ref().map(absolute),
            ..self.clone()
        }
    }

    /// The loss, the last where there are several in turn, and the numbers of all.
    pub fn loss(&self) -> LossConfig {
        LossConfig {
            kind: self.loss,
            group_size: self.group_size,
            gamma: self.gamma,
            weight_floor: self.weight_floor,
            q: self.gce_q.unwrap_or(LossConfig::default().q),
            kl_weight: self.kl_weight,
        }
    }

    /// The optimizer and its numbers.
    pub fn optimizer(&self) -> AdamW {
        AdamW { weight_decay: self.weight_decay, max_grad_norm: self.max_grad_norm, ..AdamW::default() }
    }

    /// How samples are grouped and ordered.
    pub fn batches(&self) -> BatchOptions {
        let shuffle = (!self.no_shuffle).then_some(self.seed);
        BatchOptions { batch_size: self.batch_size, grad_accum: self.grad_accum, shuffle }
    }

    /// How data files to train on are read.
    pub fn rows(&self) -> RowOptions {
        let cap = self.max_samples.map(|most| Cap { most, seed: self.sample_seed, val_size: self.val_size });
        RowOptions { skip_bad_rows: self.skip_bad_rows, columns: Columns::new(&self.columns), cap }
    }

    /// How rows become samples.
    pub fn samples(&self) -> SampleOptions {
        SampleOptions {
            max_length: self.max_length,
            truncate: self.truncate,
            skip_bad_rows: self.skip_bad_rows,
            template_vars: self.template_vars.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut TrainConfig)) -> String {
        let mut config = TrainConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_make_a_run() {
        let config = TrainConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.alpha(), 32.0);
        let model = crate::testing::model(None, None).config;
        assert_eq!(config.modules(&model).unwrap(), bft_formats::LINEAR_MODULES);
        let max_length = TrainConfig::TABLE.iter().find(|setting| setting.field == "max_length").unwrap();
        assert!(max_length.help.contains(&format!("[default: {}, ", crate::samples::DEFAULT_MAX_LENGTH)));
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_what_was_found() {
        assert_eq!(refused(|c| c.rank = 0), "rank is 0, expected a whole number from 1");
        assert_eq!(refused(|c| c.lr = f64::NAN), "lr is NaN, expected a number above 0");
        assert_eq!(refused(|c| c.lora_dropout = 1.0), "lora-dropout is 1, expected 0 to below 1");
        assert_eq!(refused(|c| c.gamma = -1.0), "gamma is -1, expected a number from 0");
        assert_eq!(refused(|c| c.steps = Some(0)), "steps is 0, expected a whole number from 1");
        let both = refused(|c| (c.steps, c.epochs) = (Some(3), Some(2)));
        assert_eq!(both, "both steps (3) and epochs (2) are given: give one of them");
        let both = refused(|c| (c.warmup_steps, c.warmup_ratio) = (Some(3), Some(0.5)));
        assert_eq!(both, "both warmup-steps (3) and warmup-ratio (0.5) are given: give one of them");
    }

    #[test]
    fn a_setting_that_the_schedule_has_no_use_for_is_refused() {
        let min = refused(|c| (c.schedule, c.min_lr) = (Schedule::Constant, Some(1e-5)));
        let instead = "leave it out, or use --schedule cosine, linear or wsd";
        assert_eq!(min, format!("min-lr has no effect with --schedule constant: {instead}"));
        let above = refused(|c| c.min_lr = Some(0.5));
        assert_eq!(above, "min-lr is 0.5, expected at most lr, which is 0.0002");
        let decay = refused(|c| c.decay_steps = Some(5));
        assert_eq!(decay, "decay-steps has no effect with --schedule cosine: leave it out, or use --schedule wsd");
        let wsd = |decay_steps, warmup_steps| {
            let config = TrainConfig { schedule: Schedule::Wsd, decay_steps, warmup_steps, ..TrainConfig::default() };
            config.rates(10).map(|rates| rates.decay)
        };
        assert_eq!((wsd(None, None), wsd(None, Some(10)), wsd(Some(7), Some(3))), (Ok(1), Ok(0), Ok(7)));
        let long = wsd(Some(8), Some(3)).unwrap_err().to_string();
        let expected = "expected at most 7, for the run has 10 steps and 3 of them warm up";
        assert_eq!(long, format!("decay-steps is 8, {expected}"));
    }

    #[test]
    fn a_setting_that_the_loss_has_no_use_for_is_refused() {
        let floor = |loss| refused(|c| (c.loss, c.weight_floor) = (loss, 0.1));
        let instead = "leave it out, or use --loss dft, bft or bft-v3";
        assert_eq!(floor(LossKind::Sft), format!("weight-floor has no effect with --loss sft: {instead}"));
        assert_eq!(floor(LossKind::Gce), format!("weight-floor has no effect with --loss gce: {instead}"));
        let q = refused(|c| c.gce_q = Some(0.5));
        assert_eq!(q, "gce-q has no effect with --loss bft: leave it out, or use --loss gce");
        // Of several losses in turn one is enough.
        let turns = vec!["gce:0.3".to_owned(), "dft:0.2".to_owned()];
        let config = TrainConfig {
            loss: LossKind::Sft,
            loss_schedule: turns,
            weight_floor: 0.1,
            gce_q: Some(0.1),
            ..TrainConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
        for (loss, weight_floor, gce_q) in [
            (LossKind::Sft, 0.0, None),
            (LossKind::Dft, 0.1, None),
            (LossKind::Bft, 1.0, None),
            (LossKind::BftV3, 0.1, None),
            (LossKind::Gce, 0.0, Some(0.25)),
        ] {
            let config = TrainConfig { loss, weight_floor, gce_q, ..TrainConfig::default() };
            assert_eq!(config.validate(), Ok(()));
            let found = config.loss();
            assert_eq!((found.kind, found.weight_floor, found.q), (loss, weight_floor, gce_q.unwrap_or(0.5)));
        }
        assert_eq!(refused(|c| c.weight_floor = 1.5), "weight-floor is 1.5, expected 0 to 1");
        assert_eq!(refused(|c| c.gce_q = Some(0.0)), "gce-q is 0, expected a number above 0 and at most 1");
    }

    #[test]
    fn modules_come_in_block_order_and_a_typo_names_the_nearest() {
        let target_modules = ["down_proj", "q_proj", "q_proj"].map(String::from).to_vec();
        let config = TrainConfig { target_modules, ..TrainConfig::default() };
        let mut model = crate::testing::model(None, None).config;
        assert_eq!(config.modules(&model).unwrap(), ["q_proj", "down_proj"]);
        model.fused_projections = true;
        assert_eq!(
            config.modules(&model).unwrap_err().to_string(),
            "target-modules names \"q_proj\": a llama model has all-linear or a list of qkv_proj, o_proj, \
             gate_up_proj, down_proj"
        );
        let all = TrainConfig::default().modules(&model).unwrap();
        assert_eq!(all, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]);
        let error = refused(|c| c.target_modules = vec!["q_porj".into()]);
        assert!(error.starts_with("target-modules names \"q_porj\" (did you mean q_proj?)"), "{error}");
        assert!(refused(|c| c.target_modules.clear()).starts_with("target-modules is empty"));
    }

    #[test]
    fn json_goes_both_ways_and_an_unknown_key_is_refused() {
        let config = TrainConfig { lr: 1e-4, steps: Some(7), ..TrainConfig::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"lr\":0.0001"), "{text}");
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        let error = serde_json::from_str::<TrainConfig>("{\"lrr\": 1}").unwrap_err().to_string();
        assert!(error.contains("unknown field `lrr`"), "{error}");
    }

    #[test]
    fn epochs_become_steps_with_a_short_last_batch() {
        let mut config = TrainConfig { batch_size: 2, grad_accum: 2, ..TrainConfig::default() };
        assert_eq!(config.total_steps(9), 3);
        config.epochs = Some(2);
        assert_eq!(config.total_steps(9), 6);
        (config.epochs, config.steps) = (None, Some(5));
        assert_eq!(config.total_steps(9), 5);
    }
}
