//! Texts to vectors by a model: a language model's hidden states, or a sentence encoder.

use std::path::Path;

use bft_core::device::Device;
use bft_core::{Runner, RunnerOptions};
use bft_formats::{Adapter, EmbeddingModel, Model};
use bft_train::{BatchBounds, EmbedEngine, EmbedOptions, Embedder, TextEncoder, embed_texts};

use super::partial::fingerprint;
use crate::error::{BioError, Result};

/// A model that embeds texts.
pub struct TextModel {
    model: EmbeddingModel,
    adapter: Option<Adapter>,
    fingerprint: String,
}

/// Longest text in tokens for a language model; longer ones are cut. Encoders say their own.
const LONGEST: usize = 1024;

impl TextModel {
    /// Opens a model and its adapter.
    pub fn open(path: &Path, adapter: Option<&Path>) -> Result<Self> {
        let model = EmbeddingModel::open(path)?;
        let path_of_adapter = adapter;
        let adapter = match (&model, adapter) {
            (EmbeddingModel::Decoder(model), Some(path)) => Some(Adapter::load(path, &model.config)?),
            (EmbeddingModel::Encoder(model), Some(_)) => {
                return Err(BioError::model(format!(
                    "{} is a sentence encoder, and adapters are for language models; leave the adapter out",
                    model.name
                )));
            }
            (_, None) => None,
        };
        let mut made_by = model.sha256()?;
        if let (EmbeddingModel::Decoder(_), Some(steps)) = (&model, model.sentence()?) {
            made_by.push_str(&bft_formats::sha256_bytes(format!("{steps:?}").as_bytes()));
        }
        Ok(Self { fingerprint: fingerprint(&made_by, path_of_adapter)?, model, adapter })
    }

    /// SHA-256 of what makes the vectors.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.model.name()
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.model.hidden_size()
    }

    /// Embeds texts in order; `sink` gets each one's number and vector.
    pub fn embed(&self, device: &Device, texts: &[String], sink: impl FnMut(usize, &[f32])) -> Result<()> {
        if let EmbeddingModel::Decoder(model) = &self.model {
            return embed(device, model, self.adapter.as_ref(), texts, sink);
        }
        let options = EmbedOptions::of(&self.model, None).map_err(BioError::model)?;
        let mut engine = EmbedEngine::new(device, &self.model, None, &options).map_err(BioError::model)?;
        in_order(&self.model, &mut engine, texts, &options, sink)
    }
}

/// Embeds texts in order by a language model's hidden states: as its files say that its vectors are
/// made, else the mean over tokens.
pub fn embed(
    device: &Device,
    model: &Model,
    adapter: Option<&Adapter>,
    texts: &[String],
    sink: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let longest = LONGEST.min(model.config.max_position_embeddings);
    let steps = model.sentence()?.cloned().unwrap_or_default();
    let prompt = steps.default_prompt.as_ref().and_then(|name| steps.prompts.get(name)).cloned();
    let options = EmbedOptions {
        batch_tokens: longest.max(2048),
        batch_rows: 64,
        max_length: longest,
        truncate: true,
        normalize: steps.normalize,
        pooling: steps.pooling,
        prompt: prompt.unwrap_or_default(),
    };
    let bounds = BatchBounds { tokens: options.batch_tokens, trained: 0, samples: options.batch_rows };
    let runner = RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
    let mut engine = Runner::new(device, model, adapter, runner).map_err(BioError::model)?;
    in_order(model, &mut engine, texts, &options, sink)
}

fn in_order<'m>(
    model: impl Into<TextEncoder<'m>>,
    engine: &mut impl Embedder,
    texts: &[String],
    options: &EmbedOptions,
    mut sink: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let words = texts.iter().map(String::as_str);
    let embedded = embed_texts(model, engine, "gene texts", words, options, |number, vector| {
        sink(number, vector);
        Ok(())
    });
    pollster::block_on(embedded).map(|_| ()).map_err(BioError::model)
}
