//! llama.cpp's tensor names and their Hugging Face counterparts.

use crate::ModelConfig;

/// What to do with a tensor of a GGUF file.
pub(super) enum Role {
    /// A weight of the model, by its Hugging Face name.
    Weight(String),
    /// Read elsewhere or derivable; not a weight.
    Ignored,
    /// Nothing the supported architectures have.
    Unknown,
}

pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";
pub(super) const SHORT_AND_LONG_DIVISORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The role of a tensor in a model of this configuration.
pub(super) fn role(name: &str, config: &ModelConfig) -> Role {
    let weight = |name: &str| Role::Weight(name.to_string());
    match name {
        "token_embd.weight" => return weight("model.embed_tokens.weight"),
        "output_norm.weight" => return weight("model.norm.weight"),
        "output.weight" => return weight("lm_head.weight"),
        ROPE_DIVISORS => return Role::Ignored,
        name if SHORT_AND_LONG_DIVISORS.contains(&name) => return Role::Ignored,
        _ => {}
    }
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|r| r.split_once('.')) else {
        return Role::Unknown;
    };
    // Canonical digits only, so that two names cannot mean one tensor.
    if let Ok(index) = layer.parse::<usize>()
        && index.to_string() == layer
    {
        // Written by early converters; a function of the configuration.
        if rest == "attn_rot_embd.weight" {
            return Role::Ignored;
        }
        if let Some((module, kind)) = rest.rsplit_once('.')
            && let Some(part) = block_part(module, config, index)
            && (kind == "weight" || kind == "bias" && part.starts_with("self_attn."))
        {
            return Role::Weight(format!("model.layers.{layer}.{part}.{kind}"));
        }
    }
    Role::Unknown
}

/// llama.cpp's modules of a block.
const MODULES: [&str; 14] = [
    "attn_norm",
    "post_attention_norm",
    "ffn_norm",
    "post_ffw_norm",
    "attn_qkv",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_q_norm",
    "attn_k_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// llama.cpp's name of a tensor that [`role`] gives this Hugging Face name; `None` where there is
/// none.
pub(crate) fn gguf_name(name: &str, config: &ModelConfig) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_string()),
        "model.norm.weight" => return Some("output_norm.weight".to_string()),
        "lm_head.weight" => return Some("output.weight".to_string()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let index = layer.parse().ok()?;
    let module = MODULES.into_iter().find(|module| block_part(module, config, index) == Some(part))?;
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Rows of a head of a tensor of this Hugging Face name, where llama.cpp has its rows in an order of
/// its own (see [`crate::tensor::Interleaved`]).
pub(crate) fn interleaved_head(name: &str, config: &ModelConfig) -> Option<usize> {
    let is_rotated = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
    (config.architecture.family().interleaved && is_rotated).then_some(config.head_dim)
}

fn block_part(module: &str, config: &ModelConfig, layer: usize) -> Option<&'static str> {
    // A layer too many is told by what it lacks.
    let layer = config.layers.get(layer).copied().unwrap_or_default();
    let fused = config.fused_projections;
    Some(match module {
        "attn_norm" => layer.attention_norms.before?,
        "post_attention_norm" => layer.attention_norms.after?,
        "ffn_norm" => layer.mlp_norms.before?,
        "post_ffw_norm" => layer.mlp_norms.after?,
        "attn_qkv" if fused => "self_attn.qkv_proj",
        "ffn_up" if fused => "mlp.gate_up_proj",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    })
}
