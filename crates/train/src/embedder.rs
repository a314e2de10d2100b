//! One engine for either kind of model that embeds, and vectors of texts that are at hand.

use bft_core::device::Device;
use bft_core::{Batch, EncoderRunner, ModelError, Pooling, Runner, RunnerOptions};
use bft_formats::{Adapter, EmbeddingModel, FormatError, SentenceSteps};

use crate::batches::BatchBounds;
use crate::embed::{EmbedContent, EmbedError, EmbedOptions, EmbedReport, EmbedRow, Embedder, embed_rows};
use crate::engine::EngineError;
use crate::rows::Origin;
use crate::samples::{SampleOptions, SamplesError};
use crate::text::TextEncoder;

/// Tokens in a batch of a language model: large enough that products are efficient, small enough
/// that memory stays modest.
const DECODER_TOKENS: usize = 2048;
/// Texts in a batch of a language model.
const DECODER_ROWS: usize = 16;
/// Tokens in a batch of an encoder, whose texts are short and many.
const ENCODER_TOKENS: usize = 1024;

impl EmbedOptions {
    /// As the model's authors made vectors, where its files say: pooling, scaling, prompt and
    /// longest text, at which texts are cut. Of any other language model the mean, up to its
    /// context, where longer texts are refused.
    ///
    /// # Errors
    /// Where `max_length` tokens are more than the model takes, or the model's files name a step
    /// that is not implemented.
    pub fn of(model: &EmbeddingModel, max_length: Option<usize>) -> Result<Self, SamplesError> {
        let steps = model.sentence().map_err(SamplesError::Format)?.cloned().unwrap_or_default();
        Self::by_steps(model, steps, max_length)
    }

    /// As [`Self::of`] where the model's files say nothing, whatever they say.
    ///
    /// # Errors
    /// Where `max_length` tokens are more than the model takes.
    pub fn whatever_files_say(model: &EmbeddingModel, max_length: Option<usize>) -> Result<Self, SamplesError> {
        Self::by_steps(model, SentenceSteps::default(), max_length)
    }

    fn by_steps(model: &EmbeddingModel, steps: SentenceSteps, max_length: Option<usize>) -> Result<Self, SamplesError> {
        let prompt = steps.default_prompt.as_ref().and_then(|name| steps.prompts.get(name)).cloned();
        let prompt = prompt.unwrap_or_default();
        match model {
            EmbeddingModel::Decoder(model) => {
                let options = SampleOptions { max_length, ..SampleOptions::default() };
                let limit = options.limit(model)?;
                let cut = steps.max_length.filter(|longest| *longest <= limit && max_length.is_none());
                let max_length = cut.unwrap_or(limit);
                Ok(Self {
                    batch_tokens: DECODER_TOKENS.max(max_length),
                    batch_rows: DECODER_ROWS,
                    max_length,
                    truncate: cut.is_some(),
                    pooling: steps.pooling,
                    normalize: steps.normalize,
                    prompt,
                })
            }
            EmbeddingModel::Encoder(model) => {
                let most = model.config.max_position_embeddings;
                if let Some(found) = max_length.filter(|found| !(2..=most).contains(found)) {
                    let context = most;
                    return Err(SamplesError::MaxLength { found, context });
                }
                let max_length = max_length.unwrap_or(model.max_length);
                let batch_tokens = ENCODER_TOKENS.max(max_length);
                Ok(Self {
                    batch_tokens,
                    // Every text has a token.
                    batch_rows: batch_tokens,
                    max_length,
                    truncate: true,
                    pooling: steps.pooling,
                    normalize: steps.normalize,
                    prompt,
                })
            }
        }
    }

    /// The largest batch.
    fn bounds(&self) -> BatchBounds {
        let tokens = self.batch_tokens.min(self.batch_rows.saturating_mul(self.max_length));
        BatchBounds { tokens, trained: 0, samples: self.batch_rows.min(tokens) }
    }
}

/// A model of either kind on a device.
#[derive(Debug)]
pub enum EmbedEngine<'d> {
    /// A language model.
    Decoder(Box<Runner<'d>>),
    /// A sentence encoder.
    Encoder(Box<EncoderRunner<'d>>),
}

impl<'d> EmbedEngine<'d> {
    /// Takes a model to the device, planned for the options' batches. An adapter belongs to a
    /// language model.
    ///
    /// # Errors
    /// Where the device has no room, or there is an adapter for an encoder.
    pub fn new(
        device: &'d Device,
        model: &EmbeddingModel,
        adapter: Option<&Adapter>,
        options: &EmbedOptions,
    ) -> Result<Self, ModelError> {
        let bounds = options.bounds();
        match model {
            EmbeddingModel::Decoder(model) => {
                let options = RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
                let runner = Runner::new(device, model, adapter, options)?;
                Ok(Self::Decoder(runner.into()))
            }
            EmbeddingModel::Encoder(model) if adapter.is_none() => {
                let runner = EncoderRunner::new(device, model, bounds.into())?;
                Ok(Self::Encoder(runner.into()))
            }
            EmbeddingModel::Encoder(model) => Err(FormatError::Unsupported {
                file: model.path.display().to_string(),
                what: "a LoRA adapter on an encoder".into(),
                advice: "leave the adapter out, or name the language model it belongs to".into(),
            }
            .into()),
        }
    }

    /// Before the first batch: where the device is to measure (see
    /// [`Device::measure_when_preparing`]), finds the fastest kernels for batches of every size up
    /// to the planned one.
    ///
    /// # Errors
    /// Where the device fails.
    pub async fn prepare(&mut self) -> Result<(), ModelError> {
        match self {
            Self::Decoder(runner) => runner.prepare_vectors().await,
            Self::Encoder(runner) => runner.prepare().await,
        }
    }
}

impl Embedder for EmbedEngine<'_> {
    async fn embed(&mut self, batch: &Batch, pooling: Pooling) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Decoder(runner) => Embedder::embed(&mut **runner, batch, pooling).await,
            Self::Encoder(runner) => Embedder::embed(&mut **runner, batch, pooling).await,
        }
    }
}

/// Embeds texts in order; `sink` gets each one's number from 0 on and its vector, `[H]`. Messages
/// name a text as line number + 1 of `what`.
///
/// # Errors
/// A text that is empty or too long, the device, or what `sink` says.
pub async fn embed_texts<'m, 't>(
    model: impl Into<TextEncoder<'m>>,
    engine: &mut impl Embedder,
    what: &str,
    texts: impl IntoIterator<Item = &'t str>,
    options: &EmbedOptions,
    mut sink: impl FnMut(usize, &[f32]) -> std::io::Result<()>,
) -> Result<EmbedReport, EmbedError> {
    let file: std::sync::Arc<str> = what.into();
    let rows = texts.into_iter().enumerate().map(|(number, text)| {
        Ok(EmbedRow { content: EmbedContent::Text(text.to_owned()), id: None, origin: Origin::line(&file, number + 1) })
    });
    let mut next = 0;
    let sink = |_: &EmbedRow, vector: &[f32]| {
        sink(next, vector)?;
        next += 1;
        Ok(())
    };
    embed_rows(model, engine, rows, options, sink).await
}
