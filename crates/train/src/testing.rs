//! What the tests share, all made here: a byte-level tokenizer, a ChatML template, a tiny model,
//! and an engine that fails on purpose.

use std::collections::BTreeMap;

use bft_formats::{
    Adapter, Architecture, ChatTemplate, LayerSpec, Message, Model, ModelConfig, Rope, RopeScaling, Tensor, Tokenizer,
};
use serde_json::{Value, json};

use crate::engine::{Engine, EngineError, LogProbs, Tuning};
use crate::rows::Chat;
use bft_core::{AdamW, Batch, LossConfig, OptimizerState, StepMetrics, StepTotals};

pub(crate) const CHATML: &str = "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + \
                                 '<|im_end|>' + '\n' }}{%- endfor -%}{%- if add_generation_prompt -%}\
                                 {{ '<|im_start|>assistant\n' }}{%- endif -%}";

/// Tokens after the 256 bytes: merges, then these.
const MERGES: [(&str, &str); 5] = [("Ċ", "Ċ"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "P")];
pub(crate) const SPECIALS: [&str; 4] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|bos|>"];
pub(crate) const END_OF_TEXT: u32 = 261;
pub(crate) const IM_END: u32 = 263;
pub(crate) const BOS: u32 = 264;
pub(crate) const VOCAB: usize = 265;

/// What the tokenizer itself puts around a text.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Around {
    Nothing,
    Bos,
    BosAndEnd,
}

pub(crate) fn tokenizer(around: Around) -> Tokenizer {
    let mut vocab: Vec<String> = (0..=255u8).map(|b| byte_char(b).to_string()).collect();
    vocab.extend(MERGES.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: BTreeMap<String, usize> = vocab.into_iter().enumerate().map(|(i, t)| (t, i)).collect();
    let special = |(i, content): (usize, &&str)| {
        json!({"id": 261 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = SPECIALS.iter().enumerate().map(special).collect();
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    if around != Around::Nothing {
        single.insert(0, json!({"SpecialToken": {"id": "<|bos|>", "type_id": 0}}));
    }
    if around == Around::BosAndEnd {
        single.push(json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}));
    }
    let post = json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {
        "<|bos|>": {"id": "<|bos|>", "ids": [BOS], "tokens": ["<|bos|>"]},
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [END_OF_TEXT], "tokens": ["<|endoftext|>"]},
    }});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let merges: Vec<String> = MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": if around == Around::Nothing { Value::Null } else { post },
        "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes()).unwrap()
}

/// A tokenizer in the manner of Llama 2: a mark in place of every space, and one before every text.
pub(crate) fn marked_tokenizer() -> Tokenizer {
    let letters = "▁abcdefghijklmnopqrstuvwxyz[]/:";
    let vocab: BTreeMap<String, usize> = letters.chars().enumerate().map(|(i, c)| (c.to_string(), i)).collect();
    let mark = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false});
    let end = json!({"id": 31, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                     "normalized": false, "special": true});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": mark, "post_processor": null, "decoder": mark,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": Vec::<String>::new()},
    });
    Tokenizer::from_json("tokenizer.json", file.to_string().as_bytes()).unwrap()
}

/// The printable stand-in that byte-level tokenizers use for a byte.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|b| !printable(*b)).count();
    char::from_u32(256 + before as u32).unwrap()
}

pub(crate) fn template(source: &str) -> ChatTemplate {
    let tokens = [("bos_token", "<|bos|>"), ("eos_token", "<|im_end|>")];
    ChatTemplate::new(source, &tokens.map(|(name, token)| (name.into(), token.into())).into()).unwrap()
}

/// One block of width 8, with small weights that depend on nothing but their place.
pub(crate) fn model(tokenizer: Option<Tokenizer>, template: Option<ChatTemplate>) -> Model {
    model_with(tokenizer, template, |_| {})
}

pub(crate) fn model_with(
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    change: impl FnOnce(&mut ModelConfig),
) -> Model {
    let mut config = ModelConfig {
        architecture: Architecture::Llama,
        sees: false,
        hidden_size: 8,
        intermediate_size: 12,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        vocab_size: VOCAB,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        ropes: vec![Rope { theta: 10_000.0, dim: 4, scaling: RopeScaling::None }],
        layers: vec![LayerSpec::default()],
        embedding_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        norm_offset: 0.0,
        tie_word_embeddings: true,
        attention_bias: false,
        attention_output_bias: false,
        fused_projections: false,
        bos_token_id: None,
        eos_token_ids: vec![END_OF_TEXT, IM_END],
    };
    change(&mut config);
    let weight = |i: usize| (((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5) * 0.8;
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let norm = name.contains("norm");
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| if norm { 1.0 } else { weight(i) }).collect();
        (name.clone(), Tensor::from_f32(name, shape, &values).unwrap())
    };
    let tensors = config.tensor_shapes().into_iter().map(tensor).collect();
    Model::from_parts("tiny", config, tensors, tokenizer, template).unwrap()
}

/// Turns from `(role, content)` pairs.
pub(crate) fn chat(turns: &[(&str, &str)]) -> Chat {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect::<Vec<_>>().into()
}

/// What goes wrong in a [`Toy`].
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// The device is lost in this step.
    pub lost_at: Option<u64>,
    /// Gradients of these steps are not finite.
    pub not_finite: Vec<u64>,
    /// The update of this step leaves a value that is not finite.
    pub broken_at: Option<u64>,
    /// Somebody presses Ctrl-C in this step.
    pub stop_at: Option<u64>,
    pub stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// An engine without a model: its gradient pulls every value of the adapter towards a number that
/// the batch's labels give, so that a wrong batch, order, rate or moment shows in the adapter's
/// bytes.
pub(crate) struct Toy {
    adapter: Adapter,
    state: OptimizerState,
    gradient: Vec<f32>,
    loss: f32,
    tokens: usize,
    metrics: Vec<StepMetrics>,
    faults: Faults,
}

impl Toy {
    pub(crate) fn new(adapter: Adapter, faults: Faults) -> Self {
        let len = adapter.pairs.iter().map(|pair| pair.parameters()).sum();
        let zeros = vec![0.0; len];
        let state = OptimizerState {
            step: 0,
            passes: 0,
            control: vec![1.0],
            first_moment: zeros.clone(),
            second_moment: zeros.clone(),
        };
        Self { adapter, state, gradient: zeros, loss: 0.0, tokens: 0, metrics: Vec::new(), faults }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut f32> {
        self.adapter.pairs.iter_mut().flat_map(|p| p.a.iter_mut().chain(&mut p.b))
    }

    /// −log p, from the adapter and the label alone.
    fn nll(&self, label: u32) -> f32 {
        let value = self.adapter.pairs[0].a[0];
        0.1 + (value - (label % 7) as f32 * 0.1).abs()
    }
}

impl LogProbs for Toy {
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        Ok(batch.labels.iter().map(|label| -self.nll(*label)).collect())
    }
}

impl Engine for Toy {
    type Tuning = Self;

    fn tuning(&mut self) -> &mut Self {
        self
    }

    async fn accumulate(&mut self, batch: &Batch, totals: StepTotals, _: &LossConfig) -> Result<(), EngineError> {
        if self.faults.lost_at == Some(self.state.step + 1) {
            return Err("device lost".into());
        }
        for (t, label) in batch.trained.iter().zip(&batch.labels) {
            let target = (label % 7) as f32 * 0.1 + *t as f32 * 0.001;
            let share = 1.0 / totals.tokens as f32;
            let mut gradient = std::mem::take(&mut self.gradient);
            gradient.iter_mut().zip(self.values()).for_each(|(g, v)| *g += (*v - target) * share);
            self.gradient = gradient;
            self.loss += self.nll(*label) * share;
        }
        self.tokens = totals.tokens;
        Ok(())
    }
}

impl Tuning for Toy {
    fn apply(&mut self, lr: f64, optimizer: &AdamW) -> Result<(), EngineError> {
        let step = self.state.step + 1;
        let skipped = self.faults.not_finite.contains(&step);
        if !skipped {
            let mut state = self.state.clone();
            let moments = state.first_moment.iter_mut().zip(&mut state.second_moment);
            let gradient = self.gradient.clone();
            let (beta1, beta2) = (optimizer.beta1 as f32, optimizer.beta2 as f32);
            for ((value, g), (m, v)) in self.values().zip(gradient).zip(moments) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *value -= lr as f32 * *m / (v.sqrt() + 1e-3);
            }
            self.state = state;
        }
        self.state.step = step;
        if self.faults.broken_at == Some(step) {
            self.adapter.pairs[0].b[1] = f32::INFINITY;
        }
        let nll = if skipped { f64::NAN } else { self.loss.into() };
        self.metrics.push(StepMetrics {
            loss: nll,
            nll,
            grad_norm: self.gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt(),
            tokens: self.tokens,
            skipped,
            bad_tensor: skipped.then(|| "model.layers.0.mlp.up_proj.lora_A".into()),
        });
        self.gradient.fill(0.0);
        self.loss = 0.0;
        if self.faults.stop_at == Some(step) {
            self.faults.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    async fn drain_metrics(&mut self) -> Result<Vec<StepMetrics>, EngineError> {
        Ok(std::mem::take(&mut self.metrics))
    }

    async fn adapter(&mut self) -> Result<Adapter, EngineError> {
        Ok(self.adapter.clone())
    }

    async fn optimizer_state(&mut self) -> Result<OptimizerState, EngineError> {
        Ok(self.state.clone())
    }

    fn set_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }
}
