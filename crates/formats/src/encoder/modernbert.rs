//! ModernBERT (arXiv 2412.13663): rope, windows in most blocks, gated feed-forward branches, norms
//! of what branches read, no biases.

use serde_json::Value;

use super::config::{EncoderConfig, EncoderLayer, FeedForward, NormPlace};
use super::family::{EncoderFamily, Family, Names};
use crate::json::{Object, kind};
use crate::{FormatError, Gate, Result, Rope, RopeScaling};

pub(super) const FAMILY: Family = Family {
    model_types: &["modernbert"],
    prefixes: &["model."],
    json,
    names: Names {
        words: "embeddings.tok_embeddings",
        embedding_norm: "embeddings.norm",
        block: "layers.",
        query: ("attn.Wqkv", 0, 3),
        key: ("attn.Wqkv", 1, 3),
        value: ("attn.Wqkv", 2, 3),
        output: ("attn.Wo", 0, 1),
        gate: ("mlp.Wi", 0, 2),
        up: ("mlp.Wi", 1, 2),
        down: ("mlp.Wo", 0, 1),
        norms: |block, blocks| {
            let next = block + 1;
            let last = next == blocks;
            let reader = if last { "final_norm".to_owned() } else { format!("layers.{next}.attn_norm") };
            [format!("layers.{block}.mlp_norm"), reader]
        },
    },
};

/// Tables of [`EncoderConfig::ropes`]: of blocks that see the whole text, and of those with a
/// window.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn json(o: &Object, family: EncoderFamily) -> Result<EncoderConfig> {
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(o.file, what, advice));
    for key in ["attention_bias", "mlp_bias", "norm_bias"] {
        if o.bool(key)? == Some(true) {
            return unsupported(format!("{key} true"), "a ModernBERT without biases is expected");
        }
    }
    let gate = match o.str("hidden_activation")?.unwrap_or("gelu") {
        "gelu" => Gate::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Gate::GeluTanh,
        "silu" | "swish" => Gate::Silu,
        other => {
            return unsupported(
                format!("hidden_activation {other:?}"),
                "gelu, gelu_new, gelu_pytorch_tanh and silu are implemented",
            );
        }
    };
    let layer = EncoderLayer { window: None, rope: Some(GLOBAL), feed_forward: FeedForward::Gated(gate) };
    let keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let mut config = EncoderConfig {
        max_position_embeddings: o.usize("max_position_embeddings")?.unwrap_or(8192),
        layer_norm_eps: o.f64("norm_eps")?.unwrap_or(1e-5) as f32,
        norms: NormPlace::Reader,
        norm_bias: false,
        ..EncoderConfig::read(o, family, keys, layer)?
    };
    // So many keys to each side; as transformers counts a window, the query's own is one of them.
    let window = o.usize("local_attention")?.unwrap_or(128) / 2 + 1;
    for (slides, layer) in slides(o, config.layers.len())?.into_iter().zip(&mut config.layers) {
        if slides {
            layer.window = Some(window).filter(|&window| window < config.max_position_embeddings);
            layer.rope = Some(LOCAL);
        }
    }
    let dim = config.hidden_size / config.num_attention_heads.max(1);
    let rope = |kind, key, default| Ok(Rope { theta: theta(o, kind, key, default)?, dim, scaling: RopeScaling::None });
    config.ropes = vec![
        rope("full_attention", "global_rope_theta", 160_000.0)?,
        rope("sliding_attention", "local_rope_theta", 10_000.0)?,
    ];
    Ok(config)
}

/// Which blocks have a window.
fn slides(o: &Object, blocks: usize) -> Result<Vec<bool>> {
    let malformed = |problem: String| Err(FormatError::malformed(o.file, problem));
    let Some(types) = o.get("layer_types") else {
        let every = o.usize("global_attn_every_n_layers")?.unwrap_or(3);
        if every == 0 {
            return malformed("global_attn_every_n_layers is 0, expected a number of layers".to_owned());
        }
        return Ok((0..blocks).map(|block| !block.is_multiple_of(every)).collect());
    };
    let Some(types) = types.as_array().filter(|types| types.len() == blocks) else {
        return malformed(format!("layer_types is {}, expected a list of {blocks}, one for each layer", kind(types)));
    };
    let slides = types.iter().map(|layer| match layer.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(FormatError::unsupported(
            o.file,
            format!("layer type {}", kind(layer)),
            "full_attention and sliding_attention are implemented",
        )),
    });
    slides.collect()
}

/// The base of the rope of one kind of layer: in `rope_parameters`, or in older files under a key of
/// its own.
fn theta(o: &Object, kind: &str, key: &str, default: f64) -> Result<f64> {
    if o.get("rope_scaling").is_some() || o.map.get(key).is_some_and(Value::is_null) {
        let what = if o.get("rope_scaling").is_some() { "rope_scaling".to_owned() } else { format!("{key} null") };
        let advice = "write rope_parameters with a rope_theta and a rope_type for each kind of layer";
        return Err(FormatError::unsupported(o.file, what, advice));
    }
    let own = o.f64(key)?.unwrap_or(default);
    let Some(parameters) = o.object("rope_parameters")?.map(|all| all.object(kind)).transpose()?.flatten() else {
        return Ok(own);
    };
    super::refuse_stretched(o, &parameters)?;
    Ok(parameters.f64("rope_theta")?.unwrap_or(own))
}
