//! The steps that `bft bench` times: training, embedding, generation.

use bft_core::device::Device;
use bft_core::sample::{Sampler, Sampling};
use bft_core::{AdamW, Batch, Capacity, LossConfig, Pooling, Runner, StepTotals, Tuner, TunerOptions};
use bft_formats::{EmbeddingModel, Model};
use bft_train::{BatchBounds, EmbedEngine, EmbedOptions, Embedder, Sample, new_adapter};

use super::flags::{BenchFlags, Task};
use super::flops::Flops;
use super::text;
use crate::error::CliError;
use crate::open;

/// What one step did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Tokens, masked ones included; for generation, new ones.
    pub tokens: usize,
    /// Trained tokens.
    pub trained_tokens: Option<usize>,
    /// The loss before the update.
    pub loss: Option<f64>,
    /// Multiplications and additions.
    pub flops: f64,
}

/// Something that can be done again and again.
pub enum Work<'d> {
    /// Optimizer steps.
    Train(Box<Training<'d>>),
    /// One packed batch to vectors.
    Embed { engine: Box<EmbedEngine<'d>>, batch: Batch, flops: f64 },
    /// Texts, greedily and together, each of so many new tokens.
    Generate { runner: Box<Runner<'d>>, prompt: Vec<u32>, lengths: Vec<usize>, flops: f64 },
}

/// Optimizer steps over groups of samples, taken in turn.
pub struct Training<'d> {
    tuner: Tuner<'d>,
    steps: Vec<Step>,
    next: usize,
    loss: LossConfig,
}

struct Step {
    batch: Batch,
    totals: StepTotals,
    tokens: usize,
    flops: f64,
}

impl<'d> Work<'d> {
    /// Takes the model to the device and makes everything ready for the first step.
    pub fn prepare(
        device: &'d Device,
        model: &EmbeddingModel,
        rows: Option<&[Sample]>,
        flags: &BenchFlags,
    ) -> Result<Self, CliError> {
        match (flags.task, model) {
            (Task::Embed, model) => Self::embed(device, model, &flags.lengths()),
            (Task::Train, EmbeddingModel::Decoder(decoder)) => {
                let made;
                let samples = match rows {
                    Some(rows) => rows,
                    None => {
                        made = text::samples(model, &flags.lengths(), flags.trained_share)?;
                        &made
                    }
                };
                Ok(Work::Train(Box::new(Training::prepare(device, decoder, samples, flags)?)))
            }
            (_, EmbeddingModel::Decoder(decoder)) => Self::generate(device, model, decoder, flags.lengths()),
            (_, EmbeddingModel::Encoder(encoder)) => Err(CliError::failed(format!(
                "--model: {} is a sentence encoder, which can only embed; use --task embed",
                encoder.name
            ))),
        }
    }

    fn generate(
        device: &'d Device,
        model: &EmbeddingModel,
        decoder: &Model,
        lengths: Vec<usize>,
    ) -> Result<Self, CliError> {
        let prompt = text::samples(model, &[PROMPT_TOKENS], 1.0)?.remove(0).tokens;
        let longest = prompt.len() + lengths.iter().copied().max().unwrap_or(1);
        let options = open::generation(prompt.len(), longest, lengths.len());
        let runner = Runner::new(device, decoder, None, options).map_err(CliError::failed)?;
        if device.is_gpu() {
            let texts = runner.slots(lengths.len()).map_err(CliError::failed)?;
            pollster::block_on(texts.prepare()).map_err(CliError::failed)?;
        }
        let flops = Flops::new(decoder, None);
        let flops = lengths.iter().map(|new| flops.generation(prompt.len(), *new)).sum();
        Ok(Work::Generate { runner: Box::new(runner), prompt, lengths, flops })
    }

    fn embed(device: &'d Device, model: &EmbeddingModel, lengths: &[usize]) -> Result<Self, CliError> {
        let packed = text::batch(&text::samples(model, lengths, 1.0)?);
        let batch = Batch::untrained(packed.tokens, packed.segments);
        // An encoder has positions for so many tokens and no more.
        let longest = lengths.iter().copied().max().filter(|_| matches!(model, EmbeddingModel::Encoder(_)));
        let options = EmbedOptions {
            batch_tokens: batch.tokens.len(),
            batch_rows: lengths.len(),
            max_length: batch.tokens.len(),
            ..EmbedOptions::whatever_files_say(model, longest).map_err(CliError::failed)?
        };
        let mut engine = EmbedEngine::new(device, model, None, &options).map_err(CliError::failed)?;
        pollster::block_on(engine.prepare()).map_err(CliError::failed)?;
        let flops = Flops::embedder(model).embedding(lengths.iter().copied());
        Ok(Work::Embed { engine: Box::new(engine), batch, flops })
    }

    /// Bytes that it takes from a device: the same preparation, on a device that only counts.
    pub fn planned_bytes(model: &EmbeddingModel, rows: Option<&[Sample]>, flags: &BenchFlags) -> Result<u64, CliError> {
        let counting = Device::planning();
        if let Work::Generate { runner, lengths, .. } = Work::prepare(&counting, model, rows, flags)? {
            // The cache of keys and values comes with the texts.
            runner.slots(lengths.len()).map_err(CliError::failed)?;
        }
        Ok(counting.allocated_bytes())
    }

    /// Does it once, and waits until it is done.
    pub fn step(&mut self) -> Result<Done, CliError> {
        match self {
            Work::Train(training) => training.step(),
            Work::Embed { engine, batch, flops } => {
                pollster::block_on(engine.embed(batch, Pooling::Mean)).map_err(CliError::failed)?;
                Ok(Done { tokens: batch.tokens.len(), trained_tokens: None, loss: None, flops: *flops })
            }
            Work::Generate { runner, prompt, lengths, flops } => {
                generate(runner, prompt, lengths)?;
                Ok(Done { tokens: lengths.iter().sum(), trained_tokens: None, loss: None, flops: *flops })
            }
        }
    }
}

/// Writes texts after one prompt, so many new tokens each.
fn generate(runner: &Runner<'_>, prompt: &[u32], lengths: &[usize]) -> Result<(), CliError> {
    let mut greedy = Sampler::new(Sampling::default());
    let mut texts = runner.slots(lengths.len()).map_err(CliError::failed)?;
    let mut next = Vec::new();
    for slot in 0..lengths.len() {
        let logits = pollster::block_on(texts.read(slot, prompt)).map_err(CliError::failed)?;
        next.push((slot, greedy.pick(&logits).map_err(CliError::failed)?));
    }
    for made in 1.. {
        next.retain(|(slot, _)| made < lengths[*slot]);
        if next.is_empty() {
            break;
        }
        let logits = pollster::block_on(texts.step(&next)).map_err(CliError::failed)?;
        let each = logits.chunks_exact(logits.len() / next.len());
        for ((_, token), logits) in next.iter_mut().zip(each) {
            *token = greedy.pick(logits).map_err(CliError::failed)?;
        }
    }
    Ok(())
}

/// As short as "The gene TP53 encodes": new tokens are what is measured.
const PROMPT_TOKENS: usize = 6;

impl<'d> Training<'d> {
    fn prepare(device: &'d Device, model: &Model, samples: &[Sample], flags: &BenchFlags) -> Result<Self, CliError> {
        let settings = &flags.settings;
        let adapter = new_adapter(&model.config, &model.name, settings).map_err(CliError::failed)?;
        let flops = Flops::new(model, Some(&adapter));
        let a_step = flags.lengths().len();
        let mut bounds = BatchBounds::default();
        let mut steps = Vec::new();
        for group in samples.chunks(a_step) {
            let tokens = group.iter().map(|sample| sample.tokens.len()).sum();
            let trained = group.iter().map(Sample::trained).sum();
            bounds = bounds.union(BatchBounds { tokens, trained, samples: group.len() });
            steps.push(Step {
                batch: text::batch(group),
                totals: StepTotals { samples: group.len(), tokens: trained },
                tokens,
                flops: flops.training(group),
            });
        }
        let options = TunerOptions {
            capacity: Capacity { tokens: bounds.tokens, trained: bounds.trained, samples: bounds.samples },
            max_length: samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(1),
            checkpoint: settings.checkpoint_activations,
            seed: 0,
            frozen_half: false,
            anchored: false,
        };
        let mut tuner = Tuner::new(device, model, &adapter, options).map_err(CliError::failed)?;
        pollster::block_on(tuner.prepare()).map_err(CliError::failed)?;
        Ok(Training { tuner, steps, next: 0, loss: settings.loss() })
    }

    fn step(&mut self) -> Result<Done, CliError> {
        let step = &self.steps[self.next % self.steps.len()];
        self.next += 1;
        self.tuner
            .accumulate(&step.batch, step.totals, &self.loss)
            .and_then(|()| self.tuner.apply(2e-4, &AdamW::default()))
            .map_err(CliError::failed)?;
        // The one look at the device: it also waits for the step to end.
        let metrics = pollster::block_on(self.tuner.drain_metrics()).map_err(CliError::failed)?;
        Ok(Done {
            tokens: step.tokens,
            trained_tokens: Some(step.totals.tokens),
            loss: metrics.last().map(|metrics| metrics.loss),
            flops: step.flops,
        })
    }
}
