//! How many multiplications and additions a step cannot do without.
//!
//! Counted are the products of the linear layers, of LoRA, of attention and of the head. What is
//! computed twice to save memory (checkpointed blocks, logits) is not counted twice, so that a rate
//! in GFLOP/s compares programs.

use bft_formats::{Adapter, EmbeddingModel, EncoderLayer, FeedForward, Model};
use bft_train::Sample;

/// Multiplications and additions of the parts of one model.
#[derive(Debug, Clone, Copy)]
pub struct Flops {
    /// Values in the linear layers of all blocks.
    linear: f64,
    /// Values in the adapter's factors.
    lora: f64,
    /// Values in the head.
    head: f64,
    /// Layers times heads times head size.
    attention: f64,
    /// Whether a token is attended to by later ones alone.
    causal: bool,
}

impl Flops {
    /// Of a model with an adapter or without.
    pub fn new(model: &Model, adapter: Option<&Adapter>) -> Self {
        let config = &model.config;
        let layers = config.layers.len() as f64;
        let linear: usize = bft_formats::LINEAR_MODULES
            .iter()
            .filter_map(|module| config.linear_shape(module))
            .map(|[out, input]| out * input)
            .sum();
        let pairs = adapter.map_or(&[][..], |adapter| &adapter.pairs);
        Flops {
            linear: layers * linear as f64,
            lora: pairs.iter().map(|pair| (pair.a.len() + pair.b.len()) as f64).sum(),
            head: (config.vocab_size * config.hidden_size) as f64,
            attention: layers * (config.num_attention_heads * config.head_dim) as f64,
            causal: true,
        }
    }

    /// Of a model of either kind that embeds.
    pub fn embedder(model: &EmbeddingModel) -> Self {
        match model {
            EmbeddingModel::Decoder(model) => Self::new(model, None),
            EmbeddingModel::Encoder(model) => {
                let config = &model.config;
                let (width, layers) = (config.hidden_size as f64, config.layers.len() as f64);
                // Four square matrices of attention, two between the hidden state and the wide
                // layer, and one more where that has a gate.
                let wide = |layer: &EncoderLayer| match layer.feed_forward {
                    FeedForward::Plain(_) => 2.0,
                    FeedForward::Gated(_) => 3.0,
                };
                let wide: f64 = config.layers.iter().map(wide).sum();
                Flops {
                    linear: width * (layers * 4.0 * width + wide * config.intermediate_size as f64),
                    lora: 0.0,
                    head: 0.0,
                    attention: layers * width,
                    causal: false,
                }
            }
        }
    }

    /// Forward and backward of samples. The base has no weight gradient: forward and input gradient
    /// are two products; LoRA's factors have one, so three.
    pub fn training(&self, samples: &[Sample]) -> f64 {
        let tokens: f64 = samples.iter().map(|sample| sample.tokens.len() as f64).sum();
        let trained: f64 = samples.iter().map(|sample| sample.trained() as f64).sum();
        let lengths = samples.iter().map(|sample| sample.tokens.len());
        tokens * (2.0 * 2.0 * self.linear + 3.0 * 2.0 * self.lora)
            + trained * 2.0 * 2.0 * self.head
            // Two products forward (scores, values), four backward.
            + self.attention_products(lengths) * 3.0
    }

    /// One forward pass without the head.
    pub fn embedding(&self, lengths: impl Iterator<Item = usize> + Clone) -> f64 {
        let tokens: f64 = lengths.clone().map(|length| length as f64).sum();
        tokens * 2.0 * (self.linear + self.lora) + self.attention_products(lengths)
    }

    /// `new` tokens after a prompt, one by one.
    pub fn generation(&self, prompt: usize, new: usize) -> f64 {
        let total = (prompt + new) as f64;
        total * 2.0 * (self.linear + self.lora)
            + new as f64 * 2.0 * self.head
            + self.attention_products([prompt + new].into_iter())
    }

    /// Scores and values of attention: each token with itself and those before it, or with all of
    /// its text.
    fn attention_products(&self, lengths: impl Iterator<Item = usize>) -> f64 {
        let seen =
            |length: usize| if self.causal { (length * (length + 1)) as f64 / 2.0 } else { (length * length) as f64 };
        let pairs: f64 = lengths.map(seen).sum();
        pairs * 2.0 * 2.0 * self.attention
    }
}
