//! `config.json` of a BERT encoder as transformers writes it.

use crate::json::{Object, parse_object};
use crate::{FormatError, MAX_HEAD_DIM, Result};

/// Largest dimension accepted: element indices within a row or column fit 31 bits.
const MAX_SIZE: usize = i32::MAX as usize;
/// Far above any encoder there is.
const MAX_LAYERS: usize = 10_000;

/// The function between the two layers of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), Φ by the error function.
    Gelu,
    /// The same with Φ by the hyperbolic tangent (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0)
    Relu,
}

/// Hyperparameters of a BERT encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Width of a hidden state, H.
    pub hidden_size: usize,
    /// Width between the two layers of a feed-forward block, F.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads, of hidden_size / num_attention_heads numbers each.
    pub num_attention_heads: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding: the longest text.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding; a text's tokens are all of type 0.
    pub type_vocab_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// Of the feed-forward blocks.
    pub activation: Activation,
}

impl EncoderConfig {
    /// Reads `config.json`; `file` names it in messages.
    ///
    /// Absent keys take the value that transformers gives them. Whatever would make the model
    /// compute something else than what is implemented is refused by name.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = parse_object(file, json)?;
        let config = read(&Object::new(file, &map))?;
        config.validate(file)?;
        Ok(config)
    }

    /// Numbers of one head, D.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Name and shape of every tensor the encoder must have, in the order in which it is used.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let mut all = Vec::new();
        for (name, rows) in [
            ("word", self.vocab_size),
            ("position", self.max_position_embeddings),
            ("token_type", self.type_vocab_size),
        ] {
            all.push((format!("embeddings.{name}_embeddings.weight"), vec![rows, h]));
        }
        let mut pair = |name: String, shape: Vec<usize>| {
            all.push((format!("{name}.bias"), vec![shape[0]]));
            all.push((format!("{name}.weight"), shape));
        };
        pair("embeddings.LayerNorm".into(), vec![h]);
        for layer in 0..self.num_hidden_layers {
            let block = format!("encoder.layer.{layer}");
            for (name, shape) in [
                ("attention.self.query", vec![h, h]),
                ("attention.self.key", vec![h, h]),
                ("attention.self.value", vec![h, h]),
                ("attention.output.dense", vec![h, h]),
                ("attention.output.LayerNorm", vec![h]),
                ("intermediate.dense", vec![f, h]),
                ("output.dense", vec![h, f]),
                ("output.LayerNorm", vec![h]),
            ] {
                pair(format!("{block}.{name}"), shape);
            }
        }
        all
    }

    /// Checks that the sizes make sense together and fit what the products need; `file` names the
    /// configuration in messages.
    pub fn validate(&self, file: &str) -> Result<()> {
        let fail = |problem: String| Err(FormatError::malformed(file, problem));
        for (name, size, limit) in [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_SIZE),
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZE),
            ("type_vocab_size", self.type_vocab_size, MAX_SIZE),
        ] {
            if size == 0 || size > limit {
                return fail(format!("{name} is {size}, expected 1 to {limit}"));
            }
        }
        let (h, heads) = (self.hidden_size, self.num_attention_heads);
        if !h.is_multiple_of(heads) {
            return fail(format!("hidden_size {h} is not a multiple of num_attention_heads {heads}"));
        }
        let d = self.head_dim();
        if !d.is_multiple_of(4) || d > MAX_HEAD_DIM {
            return Err(FormatError::unsupported(
                file,
                format!("a head of {d} numbers (hidden_size / num_attention_heads)"),
                format!("attention takes multiples of 4 up to {MAX_HEAD_DIM}"),
            ));
        }
        if !self.intermediate_size.is_multiple_of(4) {
            return Err(FormatError::unsupported(
                file,
                format!("intermediate_size {}", self.intermediate_size),
                "products take four weights at a time: a multiple of 4 is needed",
            ));
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps < 1.0) {
            return fail(format!("layer_norm_eps is {}, expected 0 to 1", self.layer_norm_eps));
        }
        Ok(())
    }
}

fn read(o: &Object) -> Result<EncoderConfig> {
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(o.file, what, advice));
    let model_type = o.required("model_type", o.str("model_type")?)?;
    if model_type != "bert" {
        return unsupported(
            format!("model type {model_type:?}"),
            "the sentence encoder that is implemented is bert (MiniLM, BGE, PubMedBERT and their like); \
             decoders are llama, mistral, qwen2 and qwen3",
        );
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if o.bool(key)? == Some(true) {
            return unsupported(format!("{key} true"), "a BERT that reads both ways is expected");
        }
    }
    if o.get("quantization_config").is_some() {
        return unsupported("quantization_config".to_string(), "use the model's f32, f16 or bf16 weights");
    }
    let positions = o.str("position_embedding_type")?.unwrap_or("absolute");
    if positions != "absolute" {
        return unsupported(format!("position_embedding_type {positions:?}"), "only absolute is implemented");
    }
    let activation = match o.str("hidden_act")?.unwrap_or("gelu") {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => {
            return unsupported(
                format!("hidden_act {other:?}"),
                "gelu, gelu_new, gelu_pytorch_tanh and relu are implemented",
            );
        }
    };
    let count = |key: &str| o.usize(key).and_then(|v| o.required(key, v));
    Ok(EncoderConfig {
        hidden_size: count("hidden_size")?,
        intermediate_size: count("intermediate_size")?,
        num_hidden_layers: count("num_hidden_layers")?,
        num_attention_heads: count("num_attention_heads")?,
        vocab_size: count("vocab_size")?,
        max_position_embeddings: o.usize("max_position_embeddings")?.unwrap_or(512),
        type_vocab_size: o.usize("type_vocab_size")?.unwrap_or(2),
        layer_norm_eps: o.f64("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        activation,
    })
}
