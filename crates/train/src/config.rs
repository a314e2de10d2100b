//! Everything a training run can be told, with the defaults of the command line.

use std::path::PathBuf;

use bft_core::device::Precision;
use bft_core::{AdamW, Checkpoint, LossConfig, LossKind};
use bft_formats::LINEAR_MODULES;
use serde_json::{Map, Value};

use crate::batches::BatchOptions;
use crate::samples::SampleOptions;
use crate::schedule::Schedule;

/// Settings of a training run; names are those of the command line's flags.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Model folder or GGUF file.
    #[serde(with = "crate::paths::one")]
    pub model: PathBuf,
    /// Training rows.
    #[serde(with = "crate::paths::one")]
    pub data: PathBuf,
    /// Folder that the run writes to.
    #[serde(with = "crate::paths::one")]
    pub output: PathBuf,
    /// `auto`, `cpu`, `gpu` or `gpu:N`.
    pub device: String,
    /// How exact a GPU's kernels are to be.
    pub precision: Precision,
    /// What is optimised.
    pub loss: LossKind,
    /// g: tokens in a confidence window.
    pub group_size: usize,
    /// γ: exponent on a sample's confidence.
    pub gamma: f32,
    /// Adapter to start from; its rank, alpha and modules hold.
    #[serde(with = "crate::paths::maybe")]
    pub init_adapter: Option<PathBuf>,
    /// r of a new adapter.
    pub rank: usize,
    /// α of a new adapter; `None` is twice the rank.
    pub alpha: Option<f32>,
    /// Modules of a new adapter: `all-linear` or short names.
    pub target_modules: Vec<String>,
    /// Chance that an input of A is dropped, in training.
    pub lora_dropout: f32,
    /// Peak learning rate.
    pub lr: f64,
    /// How it goes after the warmup.
    pub schedule: Schedule,
    /// Steps over which it rises.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this norm; 0 is off.
    pub max_grad_norm: f64,
    /// Samples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub grad_accum: usize,
    /// Optimizer steps; not together with `epochs`.
    pub steps: Option<u64>,
    /// Passes over the data; 1 where neither is given.
    pub epochs: Option<u64>,
    /// Longest sample in tokens; see [`SampleOptions::max_length`].
    pub max_length: Option<usize>,
    /// Cut longer samples instead of stopping.
    pub truncate: bool,
    /// Leave out and count bad rows instead of stopping.
    pub skip_bad_rows: bool,
    /// Variables that the chat template is given, such as `enable_thinking`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub template_vars: Map<String, Value>,
    /// Take rows in file order.
    pub no_shuffle: bool,
    /// Seed of the order, the adapter's first values and dropout.
    pub seed: u64,
    /// Held-out rows.
    #[serde(with = "crate::paths::maybe")]
    pub eval_data: Option<PathBuf>,
    /// Optimizer steps between evaluations; `None` evaluates before the first and after the last step only.
    pub eval_every: Option<u64>,
    /// Optimizer steps between checkpoints; one is always made at the end.
    pub save_every: u64,
    /// Go on from the last checkpoint in `output`.
    pub resume: bool,
    /// Recompute activations in the backward pass instead of keeping them.
    pub checkpoint_activations: Checkpoint,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            data: PathBuf::new(),
            output: PathBuf::new(),
            device: "auto".into(),
            precision: Precision::F32,
            loss: LossKind::Bft,
            group_size: 256,
            gamma: 1.0,
            init_adapter: None,
            rank: 16,
            alpha: None,
            target_modules: vec!["all-linear".into()],
            lora_dropout: 0.0,
            lr: 2e-4,
            schedule: Schedule::Cosine,
            warmup_steps: 0,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            batch_size: 4,
            grad_accum: 1,
            steps: None,
            epochs: None,
            max_length: None,
            truncate: false,
            skip_bad_rows: false,
            template_vars: Map::new(),
            no_shuffle: false,
            seed: 0,
            eval_data: None,
            eval_every: None,
            save_every: 100,
            resume: false,
            checkpoint_activations: Checkpoint::Auto,
        }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A value outside its range.
    #[error("{setting} is {found}, expected {expected}")]
    Range {
        /// The setting, as its flag is called.
        setting: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A rank that no adapted layer can use up.
    #[error("rank is {found}, expected 1 to {most}: no adapted layer of {model} can use a higher one")]
    Rank {
        /// The rank.
        found: usize,
        /// Largest of the smaller sides of the adapted layers.
        most: usize,
        /// The model's name.
        model: String,
    },
    /// Two settings that say the same thing differently.
    #[error("both steps ({steps}) and epochs ({epochs}) are given: give one of them")]
    StepsAndEpochs {
        /// Steps.
        steps: u64,
        /// Epochs.
        epochs: u64,
    },
    /// A module that no decoder has.
    #[error("target-modules names \"{found}\"{hint}: expected all-linear or a list of {}", LINEAR_MODULES.join(", "))]
    TargetModule {
        /// The name.
        found: String,
        /// A nearest name, ready to read, or nothing.
        hint: String,
    },
}

impl TrainConfig {
    /// Checks every setting that can be checked without a file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let range = |ok: bool, setting, found: &dyn std::fmt::Display, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Range { setting, found: found.to_string(), expected }) }
        };
        let at_least_1 = "a whole number from 1";
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let not_negative = |x: f64| x >= 0.0 && x.is_finite();
        range(self.group_size >= 1, "group-size", &self.group_size, at_least_1)?;
        range(not_negative(self.gamma.into()), "gamma", &self.gamma, "a number from 0")?;
        range(self.rank >= 1, "rank", &self.rank, at_least_1)?;
        range(positive(self.alpha().into()), "alpha", &self.alpha(), "a number above 0")?;
        range((0.0..1.0).contains(&self.lora_dropout), "lora-dropout", &self.lora_dropout, "0 to below 1")?;
        range(positive(self.lr), "lr", &self.lr, "a number above 0")?;
        range(not_negative(self.weight_decay), "weight-decay", &self.weight_decay, "a number from 0")?;
        range(not_negative(self.max_grad_norm), "max-grad-norm", &self.max_grad_norm, "a number from 0")?;
        range(self.batch_size >= 1, "batch-size", &self.batch_size, at_least_1)?;
        range(self.grad_accum >= 1, "grad-accum", &self.grad_accum, at_least_1)?;
        range(self.steps != Some(0), "steps", &0, at_least_1)?;
        range(self.epochs != Some(0), "epochs", &0, at_least_1)?;
        range(self.eval_every != Some(0), "eval-every", &0, at_least_1)?;
        range(self.save_every >= 1, "save-every", &0, at_least_1)?;
        if let (Some(steps), Some(epochs)) = (self.steps, self.epochs) {
            return Err(ConfigError::StepsAndEpochs { steps, epochs });
        }
        self.modules().map(|_| ())
    }

    /// α, twice the rank where none is given.
    pub fn alpha(&self) -> f32 {
        self.alpha.unwrap_or(2.0 * self.rank as f32)
    }

    /// Short names of the modules to adapt, in the order of a block, each once.
    pub fn modules(&self) -> Result<Vec<String>, ConfigError> {
        let known = |name: &str| name == "all-linear" || LINEAR_MODULES.contains(&name);
        if let Some(found) = self.target_modules.iter().find(|name| !known(name)) {
            let near = LINEAR_MODULES.iter().map(|m| (strsim::osa_distance(found, m), m)).min();
            let hint = near.filter(|(d, _)| *d <= 2).map(|(_, m)| format!(" (did you mean {m}?)"));
            return Err(ConfigError::TargetModule { found: found.clone(), hint: hint.unwrap_or_default() });
        }
        let wanted = |m: &str| self.target_modules.iter().any(|name| name == m || name == "all-linear");
        let modules: Vec<String> = LINEAR_MODULES.iter().filter(|m| wanted(m)).map(|m| (*m).to_owned()).collect();
        if modules.is_empty() {
            return Err(ConfigError::Range {
                setting: "target-modules",
                found: "empty".into(),
                expected: "all-linear or names of linear modules",
            });
        }
        Ok(modules)
    }

    /// Optimizer steps of the whole run over `samples`.
    pub fn total_steps(&self, samples: usize) -> u64 {
        let epochs = self.epochs.unwrap_or(1);
        self.steps.unwrap_or_else(|| epochs.saturating_mul(self.batches().steps_per_epoch(samples)))
    }

    /// The loss and its numbers.
    pub fn loss(&self) -> LossConfig {
        LossConfig { kind: self.loss, group_size: self.group_size, gamma: self.gamma }
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
    fn the_defaults_are_those_of_the_command_line() {
        let config = TrainConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!((config.loss, config.group_size, config.gamma), (LossKind::Bft, 256, 1.0));
        assert_eq!((config.rank, config.alpha(), config.lora_dropout), (16, 32.0, 0.0));
        assert_eq!(config.modules().unwrap(), LINEAR_MODULES);
        assert_eq!((config.lr, config.weight_decay, config.max_grad_norm), (2e-4, 0.01, 1.0));
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
    }

    #[test]
    fn modules_come_in_block_order_and_a_typo_names_the_nearest() {
        let target_modules = ["down_proj", "q_proj", "q_proj"].map(String::from).to_vec();
        let config = TrainConfig { target_modules, ..TrainConfig::default() };
        assert_eq!(config.modules().unwrap(), ["q_proj", "down_proj"]);
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
