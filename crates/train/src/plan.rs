//! A run before it touches a device: settings checked, rows read, samples made, sizes and steps
//! known.

use bft_core::LossKind;
use bft_formats::Model;

use crate::batches::{BatchBounds, BatchOptions, groups};
use crate::config::{ConfigError, TrainConfig};
use crate::error::TrainError;
use crate::event::Note;
use crate::losses::Losses;
use crate::rows::Rows;
use crate::samples::{Sample, Samples, make_samples};
use crate::schedule::Rates;

/// Everything about a run that the device does not decide.
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub config: TrainConfig,
    /// Training samples.
    pub train: Samples,
    /// Held-out samples.
    pub eval: Option<Samples>,
    /// SHA-256 of the files that training rows were read from.
    pub data_sha256: String,
    /// Rows to train on before some were sampled, where some were.
    pub sampled_of: Option<usize>,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// The largest micro-batch, of training or evaluation.
    pub bounds: BatchBounds,
    /// The losses, in the order of the steps.
    pub losses: Losses,
    /// The learning rates.
    rates: Rates,
}

impl Plan {
    /// Plans a run over rows already read, of which some may be held out and some sampled.
    pub fn new(config: TrainConfig, model: &Model, train: Rows, eval: Option<Rows>) -> Result<Self, TrainError> {
        config.validate()?;
        let data_sha256 = train.sha256();
        let (mut train, eval) = match (config.val_size, eval) {
            (Some(_), Some(_)) => return Err(ConfigError::HeldOutTwice.into()),
            (Some(size), None) => train.hold_out(size).map(|(train, held)| (train, Some(held)))?,
            (None, eval) => (train, eval),
        };
        if eval.is_none() && (config.save_best || config.patience.is_some()) {
            let setting = if config.save_best { "save-best" } else { "patience" }.to_owned();
            return Err(ConfigError::NothingToEvaluate { setting }.into());
        }
        let before = train.rows.len() + train.left_out;
        train.sample(config.max_samples.unwrap_or(before), config.sample_seed);
        let sampled_of = (train.rows.len() < before).then_some(before);
        let options = config.samples();
        let train = make_samples(model, train, &options)?;
        let eval = eval.map(|rows| make_samples(model, rows, &options)).transpose()?;
        let mut bounds = BatchBounds::of_training(&train.samples, &config.batches());
        for sample in eval.iter().flat_map(|e| &e.samples) {
            bounds = bounds.union(BatchBounds::of_sample(sample));
        }
        let steps = config.total_steps(train.samples.len());
        let rates = config.rates(steps)?;
        let losses = Losses::new(&config.loss_schedule, config.loss(), steps)?;
        Ok(Self { config, train, eval, data_sha256, sampled_of, steps, bounds, losses, rates })
    }

    /// Reads the files that the settings name, each once, and plans a run.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(config: TrainConfig, model: &Model) -> Result<Self, TrainError> {
        use crate::rows::read_rows;
        config.validate()?;
        let mut options = config.rows();
        let train = read_rows(&config.data, &options)?;
        options.cap = None;
        let eval = config.eval_data.as_deref().map(|paths| read_rows(paths, &options)).transpose()?;
        Self::new(config, model, train, eval)
    }

    /// How samples are grouped and ordered.
    pub fn batches(&self) -> BatchOptions {
        self.config.batches()
    }

    /// Learning rate of `step`, from 1.
    pub fn rate(&self, step: u64) -> f64 {
        self.rates.at(step)
    }

    /// Whether the rate of a step depends on how many steps there are.
    pub fn rates_depend_on_steps(&self) -> bool {
        self.config.schedule.falls() || self.config.warmup_ratio.is_some()
    }

    /// Held-out samples in groups that the buffers of training hold.
    pub fn eval_groups(&self) -> impl Iterator<Item = &[Sample]> {
        groups(self.eval.as_ref().map_or(&[], |e| &e.samples), self.bounds)
    }

    /// Every token that ends a text of the tuned model, where these are more than `model` names:
    /// its own, those of the adapter that is tuned on, and what trained answers end with. Else
    /// none.
    pub fn end_token_ids(&self, model: &Model, adapter: &[u32]) -> Vec<u32> {
        let mut config = model.config.clone();
        config.add_end_tokens(adapter);
        let trained: Vec<u32> = self.train.report.new_ends.iter().map(|(id, _)| *id).collect();
        config.add_end_tokens(&trained);
        if config.eos_token_ids.len() > model.config.eos_token_ids.len() { config.eos_token_ids } else { Vec::new() }
    }

    /// What the user should know before the first step.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for report in std::iter::once(&self.train.report).chain(self.eval.as_ref().map(|e| &e.report)) {
            notes.extend(report.notes());
        }
        let config = &self.config;
        if let Some(of) = self.sampled_of {
            let rows = config.max_samples.unwrap_or(of);
            notes.push(Note::Sampled { rows, of, seed: config.sample_seed });
        }
        if config.max_samples.is_none() && config.sample_seed != TrainConfig::default().sample_seed {
            notes.push(Note::SeedUnused);
        }
        if self.losses.change() {
            notes.push(Note::LossesInTurn { losses: self.losses.to_string() });
        }
        if self.losses.kinds().any(LossKind::has_windows) {
            let of = self.train.samples.len();
            let whole = |trained: usize| trained <= config.group_size.of(trained);
            let samples = self.train.samples.iter().filter(|s| whole(s.trained())).count();
            if samples * 2 > of {
                notes.push(Note::WholeAnswerWindow { group_size: config.group_size, samples, of });
            }
        }
        if self.losses.kinds().any(|kind| kind == LossKind::Bft) && config.gamma == 0.0 {
            notes.push(Note::GammaZero);
        }
        if self.steps == 1 && self.rate(1) == 0.0 {
            notes.push(Note::RateAlwaysZero);
        } else if self.rates.warmup >= self.steps {
            notes.push(Note::WarmupUnfinished { warmup: self.rates.warmup, steps: self.steps });
        }
        if config.val_size == Some(1.0) {
            notes.push(Note::OneHeldOut);
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use bft_core::GroupSize;

    use super::*;
    use crate::rows::{RowOptions, parse_rows};
    use crate::testing::model;

    fn rows(text: &str) -> Rows {
        parse_rows("d", text.as_bytes(), &RowOptions { skip_bad_rows: true, ..RowOptions::default() }).unwrap()
    }

    const ROWS: &str = "{\"input_ids\": [1, 2, 3], \"labels\": [1, 2, 3]}\n{\"text\": 1}\n\
                        {\"input_ids\": [4, 5, 6, 7], \"labels\": [4, 5, 6, 7]}\n\
                        {\"input_ids\": [4, 5], \"labels\": [4, -100]}\n";

    /// Rows each of which can be trained on.
    const GOOD: &str = "{\"input_ids\": [1, 2], \"labels\": [1, 2]}\n{\"input_ids\": [3, 4], \"labels\": [3, 4]}\n";

    fn notes(config: TrainConfig) -> String {
        notes_on(ROWS, config)
    }

    fn notes_on(text: &str, config: TrainConfig) -> String {
        let plan = Plan::new(config, &model(None, None), rows(text), None).unwrap();
        plan.notes().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_was_left_out_or_is_surely_a_mistake_is_said() {
        let usual = notes(TrainConfig { steps: Some(5), ..TrainConfig::default() });
        assert!(usual.contains("1 bad rows left out, the first: d:2: text is a number"), "{usual}");
        assert!(usual.contains("1 rows with nothing to train on left out: d:4"), "{usual}");
        assert!(usual.contains("at g = 256 the window is the whole answer for 2 of 2 samples"), "{usual}");
        let cut = notes(TrainConfig {
            group_size: GroupSize::Tokens(1),
            max_length: Some(2),
            truncate: true,
            ..TrainConfig::default()
        });
        assert!(cut.contains("2 of 2 samples cut to max-length"), "{cut}");
        let odd = notes(TrainConfig {
            gamma: 0.0,
            group_size: GroupSize::Tokens(1),
            steps: Some(1),
            ..TrainConfig::default()
        });
        assert!(odd.contains("gamma = 0 weighs every sample 0"), "{odd}");
        assert!(!odd.contains("warm-up") && !odd.contains("window"), "{odd}");
        let part = |parts| notes(TrainConfig { group_size: GroupSize::PartOf(parts), ..TrainConfig::default() });
        assert!(
            part(1).contains("at g = n/1 the window is the whole answer for 2 of 2") && !part(2).contains("window")
        );
        let turns = |loss| {
            let loss_schedule = vec!["bft:0.5".to_owned()];
            notes(TrainConfig { loss, loss_schedule, gamma: 0.0, steps: Some(5), ..TrainConfig::default() })
        };
        let turns = turns(LossKind::Sft);
        assert!(turns.contains("losses in turn: bft to step 3, then sft"), "{turns}");
        assert!(turns.contains("the window is the whole answer") && turns.contains("gamma = 0"), "{turns}");
        let one = notes(TrainConfig { steps: Some(1), warmup_steps: Some(1), ..TrainConfig::default() });
        assert!(one.contains("a warm-up begins at a rate of 0, and this run has no other step"), "{one}");
        let long = notes(TrainConfig { steps: Some(5), warmup_steps: Some(5), ..TrainConfig::default() });
        assert!(long.contains("the warm-up takes 5 steps and the run has 5: the learning rate never"), "{long}");
        assert!(
            !notes(TrainConfig { steps: Some(5), warmup_steps: Some(4), ..TrainConfig::default() }).contains("warm")
        );
        let held = notes_on(GOOD, TrainConfig { val_size: Some(1.0), ..TrainConfig::default() });
        assert!(held.contains("val-size 1 holds out one row"), "{held}");
        let seed = |max_samples| notes_on(GOOD, TrainConfig { max_samples, sample_seed: 3, ..TrainConfig::default() });
        assert!(
            seed(None).contains("sample-seed does nothing without max-samples") && !seed(Some(1)).contains("seed does")
        );
        assert!(!notes(TrainConfig { warmup_ratio: Some(0.0), ..TrainConfig::default() }).contains("warm"));
    }

    #[test]
    fn the_largest_batch_of_training_or_evaluation_is_known() {
        let held = rows("{\"input_ids\": [1, 1, 1, 1, 1, 1, 1, 1, 1], \"labels\": [1, 1, -100, 1, 1, 1, 1, 1, 1]}");
        let plan = |batch_size| {
            let config = TrainConfig { batch_size, ..TrainConfig::default() };
            Plan::new(config, &model(None, None), rows(ROWS), Some(held.clone())).unwrap()
        };
        assert_eq!(plan(2).bounds, BatchBounds { tokens: 9, trained: 7, samples: 2 });
        assert_eq!(plan(1).bounds, BatchBounds { tokens: 9, trained: 7, samples: 1 });
        assert_eq!(plan(2).eval_groups().count(), 1);
        assert_eq!((plan(2).steps, plan(1).steps), (1, 2));
        let best = TrainConfig { save_best: true, ..TrainConfig::default() };
        let error = Plan::new(best, &model(None, None), rows(ROWS), None).unwrap_err().to_string();
        assert_eq!(error, "save-best goes by evaluations: give --eval-data or --val-size, too");
    }
}
