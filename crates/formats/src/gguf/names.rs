//! llama.cpp's tensor names and their Hugging Face counterparts.

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

pub(super) fn role(name: &str) -> Role {
    let weight = |name: &str| Role::Weight(name.to_string());
    match name {
        "token_embd.weight" => return weight("model.embed_tokens.weight"),
        "output_norm.weight" => return weight("model.norm.weight"),
        "output.weight" => return weight("lm_head.weight"),
        ROPE_DIVISORS => return Role::Ignored,
        _ => {}
    }
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|r| r.split_once('.')) else {
        return Role::Unknown;
    };
    // Canonical digits only, so that two names cannot mean one tensor.
    if layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer) {
        // Written by early converters; a function of the configuration.
        if rest == "attn_rot_embd.weight" {
            return Role::Ignored;
        }
        if let Some((module, kind)) = rest.rsplit_once('.')
            && let Some(part) = block_part(module)
            && (kind == "weight" || kind == "bias" && part.starts_with("self_attn."))
        {
            return Role::Weight(format!("model.layers.{layer}.{part}.{kind}"));
        }
    }
    Role::Unknown
}

fn block_part(module: &str) -> Option<&'static str> {
    Some(match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
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
