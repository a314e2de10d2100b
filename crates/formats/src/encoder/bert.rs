//! BERT (arXiv 1810.04805), and RoBERTa (arXiv 1907.11692) with XLM-RoBERTa (arXiv 1911.02116),
//! which counts places from behind the id of its padding token.

use super::config::{Activation, EncoderConfig, EncoderLayer, FeedForward, Positions};
use super::family::{EncoderFamily, Family, Names};
use crate::json::Object;
use crate::{FormatError, Result};

pub(super) const BERT: Family = Family { model_types: &["bert"], prefixes: &["bert."], json: bert, names: NAMES };

pub(super) const ROBERTA: Family =
    Family { model_types: &["roberta", "xlm-roberta"], prefixes: &["roberta."], json: roberta, names: NAMES };

const NAMES: Names = Names {
    words: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    block: "encoder.layer.",
    query: ("attention.self.query", 0, 1),
    key: ("attention.self.key", 0, 1),
    value: ("attention.self.value", 0, 1),
    output: ("attention.output.dense", 0, 1),
    gate: ("", 0, 1),
    up: ("intermediate.dense", 0, 1),
    down: ("output.dense", 0, 1),
    norms: |block, _| ["attention.output", "output"].map(|branch| format!("encoder.layer.{block}.{branch}.LayerNorm")),
};

fn bert(o: &Object, family: EncoderFamily) -> Result<EncoderConfig> {
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(o.file, what, advice));
    let places = o.str("position_embedding_type")?.unwrap_or("absolute");
    if places != "absolute" {
        return unsupported(format!("position_embedding_type {places:?}"), "only absolute is implemented");
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
    let layer = EncoderLayer { window: None, rope: None, feed_forward: FeedForward::Plain(activation) };
    let keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let rows = o.usize("max_position_embeddings")?.unwrap_or(512);
    Ok(EncoderConfig {
        max_position_embeddings: rows,
        positions: Some(Positions { rows, padding: None }),
        type_vocab_size: Some(o.usize("type_vocab_size")?.unwrap_or(2)),
        layer_norm_eps: o.f64("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        linear_bias: true,
        ..EncoderConfig::read(o, family, keys, layer)?
    })
}

fn roberta(o: &Object, family: EncoderFamily) -> Result<EncoderConfig> {
    let mut config = bert(o, family)?;
    let padding = o.usize("pad_token_id")?.unwrap_or(1);
    let rows = config.max_position_embeddings;
    let longest = rows.checked_sub(padding.saturating_add(1)).filter(|&longest| longest > 0);
    let (Some(longest), Ok(id)) = (longest, u32::try_from(padding)) else {
        let problem = format!("max_position_embeddings is {rows}, expected more than pad_token_id {padding} + 1");
        return Err(FormatError::malformed(o.file, problem));
    };
    config.max_position_embeddings = longest;
    config.positions = Some(Positions { rows, padding: Some(id) });
    Ok(config)
}
