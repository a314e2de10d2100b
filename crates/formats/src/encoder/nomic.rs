//! Nomic BERT (arXiv 2402.01613): BERT with rope in place of learnt positions, gated feed-forward
//! branches and no biases. Its `config.json` speaks GPT-2's words where the model's own code wrote
//! it, and BERT's where transformers did; its tensors have the same names in both.

use super::config::{EncoderConfig, EncoderLayer, FeedForward};
use super::family::{EncoderFamily, Family, Names};
use crate::json::{Object, kind};
use crate::{FormatError, Gate, Result, Rope, RopeScaling};

pub(super) const FAMILY: Family = Family {
    model_types: &["nomic_bert"],
    prefixes: &["nomic_bert.", "bert."],
    json,
    names: Names {
        words: "embeddings.word_embeddings",
        embedding_norm: "emb_ln",
        block: "encoder.layers.",
        query: ("attn.Wqkv", 0, 3),
        key: ("attn.Wqkv", 1, 3),
        value: ("attn.Wqkv", 2, 3),
        output: ("attn.out_proj", 0, 1),
        gate: ("mlp.fc12", 0, 1),
        up: ("mlp.fc11", 0, 1),
        down: ("mlp.fc2", 0, 1),
        norms: |block, _| ["norm1", "norm2"].map(|norm| format!("encoder.layers.{block}.{norm}")),
    },
};

fn json(o: &Object, family: EncoderFamily) -> Result<EncoderConfig> {
    for key in ["num_experts", "moe_every_n_layers"] {
        if let Some(count) = o.usize(key)?.filter(|&n| n > 0) {
            let advice = "mixtures of experts are not implemented";
            return Err(FormatError::unsupported(o.file, format!("{key} {count}"), advice));
        }
    }
    let (mut config, theta) = if o.get("n_embd").is_some() { own(o, family)? } else { transformers(o, family)? };
    config.type_vocab_size = Some(o.usize("type_vocab_size")?.unwrap_or(2)).filter(|&types| types > 0);
    let dim = config.hidden_size / config.num_attention_heads.max(1);
    if let Some(found) = o.usize("head_dim")?.filter(|&found| found != dim) {
        let advice = "heads of hidden_size / num_attention_heads numbers are implemented";
        return Err(FormatError::unsupported(o.file, format!("head_dim {found}"), advice));
    }
    config.ropes = vec![Rope { theta, dim, scaling: RopeScaling::None }];
    Ok(config)
}

fn layer(gate: Gate) -> EncoderLayer {
    EncoderLayer { window: None, rope: Some(0), feed_forward: FeedForward::Gated(gate) }
}

/// As transformers writes it; the base of the rope too.
fn transformers(o: &Object, family: EncoderFamily) -> Result<(EncoderConfig, f64)> {
    let gate = match o.str("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Gate::Silu,
        "gelu" => Gate::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Gate::GeluTanh,
        other => {
            let advice = "silu, gelu, gelu_new and gelu_pytorch_tanh are implemented";
            return Err(FormatError::unsupported(o.file, format!("hidden_act {other:?}"), advice));
        }
    };
    let mut theta = o.f64("rope_theta")?.unwrap_or(1000.0);
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(parameters) = o.object(key)? {
            super::refuse_stretched(o, &parameters)?;
            theta = parameters.f64("rope_theta")?.unwrap_or(theta);
        }
    }
    let keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"];
    let config = EncoderConfig {
        max_position_embeddings: o.usize("max_position_embeddings")?.unwrap_or(2048),
        layer_norm_eps: o.f64("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        ..EncoderConfig::read(o, family, keys, layer(gate))?
    };
    Ok((config, theta))
}

/// As the model's own code writes it; the base of the rope too.
fn own(o: &Object, family: EncoderFamily) -> Result<(EncoderConfig, f64)> {
    let gate = match o.str("activation_function")?.unwrap_or("gelu_new") {
        "swiglu" => Gate::Silu,
        "geglu" => Gate::Gelu,
        other => {
            let advice = "swiglu and geglu are implemented";
            return Err(FormatError::unsupported(o.file, format!("activation_function {other:?}"), advice));
        }
    };
    // Switches, what they are where they are absent, and what they must be.
    for (key, default, expected) in [
        ("prenorm", false, false),
        ("parallel_block", false, false),
        ("use_rms_norm", false, false),
        ("causal", false, false),
        ("rotary_emb_interleaved", false, false),
        ("qkv_proj_bias", true, false),
        ("mlp_fc1_bias", true, false),
        ("mlp_fc2_bias", true, false),
    ] {
        let found = o.bool(key)?.unwrap_or(default);
        if found != expected {
            let advice = format!("a Nomic BERT with {key} {expected} is implemented");
            return Err(FormatError::unsupported(o.file, format!("{key} {found}"), advice));
        }
    }
    let fraction = o.f64("rotary_emb_fraction")?.unwrap_or(0.0);
    if fraction != 1.0 {
        let advice = "only heads that rotate in full are implemented";
        return Err(FormatError::unsupported(o.file, format!("rotary_emb_fraction {fraction}"), advice));
    }
    for key in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        if let Some(value) = o.get(key) {
            let advice = "a Nomic BERT whose rope is not stretched is implemented, such as nomic-embed-text-v1.5";
            return Err(FormatError::unsupported(o.file, format!("{key} {}", kind(value)), advice));
        }
    }
    let mut config = EncoderConfig {
        max_position_embeddings: o.usize("n_positions")?.unwrap_or(1024),
        layer_norm_eps: o.f64("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        ..EncoderConfig::read(o, family, ["n_embd", "n_inner", "n_layer", "n_head"], layer(gate))?
    };
    // The embedding is padded with rows that no token has.
    let multiple = o.usize("pad_vocab_size_multiple")?.unwrap_or(1).max(1);
    config.vocab_size = config.vocab_size.checked_next_multiple_of(multiple).unwrap_or(config.vocab_size);
    Ok((config, o.f64("rotary_emb_base")?.unwrap_or(10_000.0)))
}
