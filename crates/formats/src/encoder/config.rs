//! What an encoder is: sizes, and what each of its blocks computes.
//!
//! This file has what all families have; a family's own file reads its `config.json`.

use super::family::EncoderFamily;
use crate::json::{Object, parse_object};
use crate::{FormatError, Gate, MAX_HEAD_DIM, Result, Rope};

/// Largest dimension accepted: element indices within a row or column fit 31 bits.
const MAX_SIZE: usize = i32::MAX as usize;
/// Far above any encoder there is.
const MAX_LAYERS: usize = 10_000;

/// The function between the two layers of a feed-forward block without a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), Φ by the error function.
    Gelu,
    /// The same with Φ by the hyperbolic tangent (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0)
    Relu,
}

/// What the feed-forward branch of a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// down(f(up))
    Plain(Activation),
    /// down(f(gate)·up)
    Gated(Gate),
}

/// What one block computes. Families set it block by block; nothing else tells blocks apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLayer {
    /// Keys that a query sees at most to each side, its own among them; all of its text where it is
    /// `None`.
    pub window: Option<usize>,
    /// Table of [`EncoderConfig::ropes`] by which q and k rotate; they do not where it is `None`.
    pub rope: Option<usize>,
    /// The feed-forward branch.
    pub feed_forward: FeedForward,
}

/// Where the norms stand, of which there is one for each branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// The residual stream itself is normalised where a branch has joined it.
    Stream,
    /// What the next branch reads of the residual stream, or after the last branch whoever reads
    /// the hidden states, is normalised; the stream is a plain sum. The first branch reads the
    /// embedding, whose norm is the only one before it.
    Reader,
}

/// Learnt embeddings of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// Rows of the table.
    pub rows: usize,
    /// The token whose places do not count: it takes the row of its own id, and the others the rows
    /// behind that. Without it the first token takes row 0.
    pub padding: Option<u32>,
}

/// Hyperparameters of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The family.
    pub family: EncoderFamily,
    /// Width of a hidden state, H.
    pub hidden_size: usize,
    /// Width between the two layers of a feed-forward block, F.
    pub intermediate_size: usize,
    /// Attention heads, of hidden_size / num_attention_heads numbers each.
    pub num_attention_heads: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Embeddings of places, where the model has learnt some.
    pub positions: Option<Positions>,
    /// Rows of the token type embedding, where there is one; a text's tokens are all of type 0.
    pub type_vocab_size: Option<usize>,
    /// Added to variances.
    pub layer_norm_eps: f32,
    /// Tables of rotary frequencies that blocks name.
    pub ropes: Vec<Rope>,
    /// Each block.
    pub layers: Vec<EncoderLayer>,
    /// Where the norms stand.
    pub norms: NormPlace,
    /// Whether linear layers have biases; only where no block rotates q and k.
    pub linear_bias: bool,
    /// Whether norms have biases.
    pub norm_bias: bool,
}

/// A tensor that an encoder computes with, and where its files keep it.
pub(super) struct Part {
    /// What it is, the name in [`EncoderModel::tensors`](super::EncoderModel::tensors).
    pub key: String,
    /// The stored tensor.
    pub stored: String,
    /// Which of so many equal runs of the stored tensor's rows.
    pub piece: (usize, usize),
    pub shape: Vec<usize>,
}

impl EncoderConfig {
    /// Reads `config.json`; `file` names it in messages.
    ///
    /// Absent keys take the value that transformers gives them. Whatever would make the model
    /// compute something else than what is implemented is refused by name.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = parse_object(file, json)?;
        let o = Object::new(file, &map);
        let family = EncoderFamily::of(&o)?;
        for key in ["is_decoder", "add_cross_attention"] {
            if o.bool(key)? == Some(true) {
                let advice = "an encoder that reads both ways is expected";
                return Err(FormatError::unsupported(file, format!("{key} true"), advice));
            }
        }
        if o.get("quantization_config").is_some() {
            let advice = "use the model's f32, f16 or bf16 weights";
            return Err(FormatError::unsupported(file, "quantization_config", advice));
        }
        let config = (family.spec().json)(&o, family)?;
        config.validate(file)?;
        Ok(config)
    }

    /// What all families have, read under the family's own names for hidden size, width of the
    /// feed-forward block, layers and heads; the rest is as in most of them.
    pub(super) fn read(o: &Object, family: EncoderFamily, keys: [&str; 4], layer: EncoderLayer) -> Result<Self> {
        let count = |key: &str| o.usize(key).and_then(|v| o.required(key, v));
        let [hidden, intermediate, layers, heads] = keys;
        let blocks = count(layers)?;
        if !(1..=MAX_LAYERS).contains(&blocks) {
            return Err(FormatError::malformed(o.file, format!("{layers} is {blocks}, expected 1 to {MAX_LAYERS}")));
        }
        Ok(Self {
            family,
            hidden_size: count(hidden)?,
            intermediate_size: count(intermediate)?,
            num_attention_heads: count(heads)?,
            vocab_size: count("vocab_size")?,
            max_position_embeddings: 0,
            positions: None,
            type_vocab_size: None,
            layer_norm_eps: 0.0,
            ropes: Vec::new(),
            layers: vec![layer; blocks],
            norms: NormPlace::Stream,
            linear_bias: false,
            norm_bias: true,
        })
    }

    /// Numbers of one head, D.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Everything the encoder computes with, in the order in which it is used.
    pub(super) fn parts(&self) -> Vec<Part> {
        let names = &self.family.spec().names;
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let mut all = Vec::new();
        let whole = |key: String, stored: String, shape: Vec<usize>| Part { key, stored, piece: (0, 1), shape };
        let table = |key: &str, name: &str, rows: usize| {
            whole(key.into(), format!("embeddings.{name}_embeddings.weight"), vec![rows, h])
        };
        all.push(whole("words".into(), format!("{}.weight", names.words), vec![self.vocab_size, h]));
        all.extend(self.positions.map(|positions| table("positions", "position", positions.rows)));
        all.extend(self.type_vocab_size.map(|rows| table("types", "token_type", rows)));
        let norm = |all: &mut Vec<Part>, key: &str, name: &str| {
            all.push(whole(format!("{key}.weight"), format!("{name}.weight"), vec![h]));
            all.extend(self.norm_bias.then(|| whole(format!("{key}.bias"), format!("{name}.bias"), vec![h])));
        };
        norm(&mut all, "norm", names.embedding_norm);
        for (index, layer) in self.layers.iter().enumerate() {
            let block = format!("{}{index}", names.block);
            let gate = match layer.feed_forward {
                FeedForward::Plain(_) => None,
                FeedForward::Gated(_) => Some(("gate", names.gate, [f, h])),
            };
            for (key, (name, piece, of), [rows, cols]) in [
                ("query", names.query, [h, h]),
                ("key", names.key, [h, h]),
                ("value", names.value, [h, h]),
                ("output", names.output, [h, h]),
            ]
            .into_iter()
            .chain(gate)
            .chain([("up", names.up, [f, h]), ("down", names.down, [h, f])])
            {
                let part = |end: &str, shape: Vec<usize>| Part {
                    key: format!("layers.{index}.{key}.{end}"),
                    stored: format!("{block}.{name}.{end}"),
                    piece: (piece, of),
                    shape,
                };
                all.push(part("weight", vec![rows, cols]));
                all.extend(self.linear_bias.then(|| part("bias", vec![rows])));
            }
            let [attention, feed_forward] = (names.norms)(index, self.layers.len());
            norm(&mut all, &format!("layers.{index}.attention_norm"), &attention);
            norm(&mut all, &format!("layers.{index}.norm"), &feed_forward);
        }
        all
    }

    /// Name and shape of every tensor that the files must have.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let first = self.parts().into_iter().filter(|part| part.piece.0 == 0);
        let shapes = first.map(|mut part| {
            part.shape[0] *= part.piece.1;
            (part.stored, part.shape)
        });
        shapes.collect()
    }

    /// Checks that the sizes make sense together and fit what the products need; `file` names the
    /// configuration in messages.
    pub fn validate(&self, file: &str) -> Result<()> {
        let fail = |problem: String| Err(FormatError::malformed(file, problem));
        for (name, size) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size.unwrap_or(1)),
        ] {
            // The largest tensor is made of three of these.
            if size == 0 || size > MAX_SIZE / 3 {
                return fail(format!("{name} is {size}, expected 1 to {}", MAX_SIZE / 3));
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
        if let Some(rope) = self.ropes.iter().find(|rope| !(rope.theta > 1.0 && rope.theta.is_finite())) {
            return fail(format!("rope_theta is {}, expected a number above 1", rope.theta));
        }
        Ok(())
    }
}
