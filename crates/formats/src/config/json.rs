//! `config.json` and `generation_config.json` as transformers writes them.

use serde_json::Value;

use super::{Architecture, Gate, LayerSpec, ModelConfig, check_layers};
use crate::encoder::EncoderFamily;
use crate::fp8::Fp8;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

/// Keys that change what a decoder computes and are not implemented, with their neutral value.
/// (Granite, Cohere, Gemma and others write them beside otherwise Llama-like settings.)
const NEUTRAL: [(&str, f64); 7] = [
    ("attention_multiplier", 1.0),
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("logits_scaling", 1.0),
    ("logit_scale", 1.0),
    ("final_logit_softcapping", 0.0),
    ("attn_logit_softcapping", 0.0),
];

impl ModelConfig {
    /// Reads `config.json`; `file` names it in messages.
    ///
    /// Absent keys take the value that transformers gives them for the architecture. Whatever would
    /// make the model compute something else than what is implemented is refused by name.
    pub fn from_json(file: &str, json: &[u8]) -> Result<Self> {
        let map = parse_object(file, json)?;
        let outer = Object::new(file, &map);
        let architecture = architecture(&outer)?;
        // Whoever reads the weights reads it, too.
        Fp8::read(&outer)?;
        let config = if outer.str("model_type")? == architecture.family().inside {
            inside(&outer, architecture)?
        } else {
            read(&outer, architecture)?
        };
        config.validate(file)?;
        Ok(config)
    }

    /// Adds end tokens that are not there yet.
    pub fn add_end_tokens(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.eos_token_ids.contains(id) {
                self.eos_token_ids.push(*id);
            }
        }
    }

    /// Adds the end tokens that `generation_config.json` names; `file` names it in messages.
    pub fn add_generation_config(&mut self, file: &str, json: &[u8]) -> Result<()> {
        let map = parse_object(file, json)?;
        let object = Object::new(file, &map);
        self.add_end_tokens(&token_ids(&object, "eos_token_id")?);
        if self.bos_token_id.is_none() {
            self.bos_token_id = token_ids(&object, "bos_token_id")?.first().copied();
        }
        Ok(())
    }
}

/// The end tokens that a `generation_config.json` names.
pub(crate) fn end_tokens(file: &str, json: &[u8]) -> Result<Vec<u32>> {
    token_ids(&Object::new(file, &parse_object(file, json)?), "eos_token_id")
}

fn architecture(o: &Object) -> Result<Architecture> {
    let model_type = o.required("model_type", o.str("model_type")?)?;
    let supported = Architecture::supported(model_type);
    Architecture::of_model_type(model_type).ok_or_else(|| match model_type {
        encoder if EncoderFamily::of_model_type(encoder).is_some() => FormatError::unsupported(
            o.file,
            format!("model type {encoder:?} here"),
            format!("it is an encoder, which bft embed takes; {supported}"),
        ),
        other => FormatError::unsupported(o.file, format!("model type {other:?}"), supported),
    })
}

/// The language part of a model that also sees; `o` is the configuration of the whole.
fn inside(o: &Object, architecture: Architecture) -> Result<ModelConfig> {
    let text = o.required("text_config", o.object("text_config")?)?;
    let name = architecture.name();
    if let Some(other) = text.str("model_type")?.filter(|other| *other != name) {
        let what = format!("text_config of model type {other:?}");
        return Err(FormatError::unsupported(o.file, what, format!("one of {name:?} is expected there")));
    }
    if text.get("quantization_config").is_some() {
        let advice = "it is expected beside text_config, for the whole model";
        return Err(FormatError::unsupported(o.file, "quantization_config in text_config", advice));
    }
    let mut config = read(&text, architecture)?;
    config.sees = true;
    config.tie_word_embeddings = o.bool("tie_word_embeddings")?.unwrap_or(true);
    config.bos_token_id = token_ids(o, "bos_token_id")?.first().copied().or(config.bos_token_id);
    let ends = token_ids(o, "eos_token_id")?;
    if !ends.is_empty() {
        config.eos_token_ids = ends;
    }
    Ok(config)
}

fn read(o: &Object, architecture: Architecture) -> Result<ModelConfig> {
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(o.file, what, advice));
    let family = architecture.family();
    let (key, default) = family.gate;
    let gate = match o.str(key)? {
        None => default,
        Some("silu" | "swish") => Gate::Silu,
        Some("gelu_pytorch_tanh" | "gelu_new") => Gate::GeluTanh,
        Some(other) => {
            return unsupported(format!("{key} {other:?}"), "only silu and gelu_pytorch_tanh are implemented");
        }
    };
    // Embedding models that were made of language models may let each token see those behind it.
    if o.bool("is_causal")? == Some(false) {
        return unsupported("is_causal false".to_string(), "only causal decoders are implemented");
    }
    for (key, neutral) in NEUTRAL.into_iter().filter(|(key, _)| !family.obeys.contains(key)) {
        if let Some(value) = o.f64(key)?.filter(|&v| v != neutral) {
            return unsupported(format!("{key} {value}"), "it belongs to an architecture that is not implemented");
        }
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if let Some(count) = o.usize(key)?.filter(|&n| n > 0) {
            return unsupported(format!("{key} {count}"), "mixtures of experts are not implemented");
        }
    }

    let default = |key: &str| family.default_sizes.iter().find(|(name, _)| *name == key).map(|(_, size)| *size);
    let count = |key: &str| o.usize(key).and_then(|v| o.required(key, v.or(default(key))));
    let hidden_size = count("hidden_size")?;
    let layers = count("num_hidden_layers")?;
    check_layers(o.file, layers)?;
    let num_attention_heads = count("num_attention_heads")?;
    let max_position_embeddings = o.usize("max_position_embeddings")?.unwrap_or(family.default_context);
    let num_key_value_heads = match o.map.get("num_key_value_heads") {
        // Explicit null means one for each query head everywhere.
        Some(Value::Null) => num_attention_heads,
        None if family.default_kv_heads => num_attention_heads,
        _ => count("num_key_value_heads")?,
    };
    let head_dim = match o.usize("head_dim")?.or(family.default_head_dim) {
        Some(n) => n,
        None if num_attention_heads > 0 && hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
        None => {
            return Err(FormatError::malformed(
                o.file,
                format!(
                    "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}, and there is no head_dim"
                ),
            ));
        }
    };
    let mut config = ModelConfig {
        architecture,
        sees: false,
        hidden_size,
        intermediate_size: count("intermediate_size")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: count("vocab_size")?,
        max_position_embeddings,
        rms_norm_eps: o.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        ropes: Vec::new(),
        layers: vec![LayerSpec { gate, ..LayerSpec::default() }; layers],
        embedding_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        norm_offset: 0.0,
        tie_word_embeddings: o.bool("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: false,
        attention_output_bias: false,
        fused_projections: false,
        bos_token_id: token_ids(o, "bos_token_id")?.first().copied(),
        eos_token_ids: token_ids(o, "eos_token_id")?,
    };
    (family.json)(o, &mut config)?;
    Ok(config)
}

/// Gives windows of `sliding_window` tokens to the layers that `layer_types` names or, without it,
/// to those that `unlisted` names; gives which those are, whether or not the context is longer than
/// a window. An absent width means `default`, an explicit null none; `used` says whether the file
/// lets windows be used at all.
pub(super) fn windows(
    o: &Object,
    config: &mut ModelConfig,
    default: Option<usize>,
    used: bool,
    unlisted: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let layers = config.layers.len();
    let width = if o.map.contains_key("sliding_window") { o.usize("sliding_window")? } else { default };
    let listed = sliding_layers(o, layers)?;
    if listed.iter().flatten().any(|&slides| slides) && (!used || width.is_none()) {
        // transformers cannot run these, or masks them in one place and not in another.
        let reason = if used { "without a sliding_window" } else { "while use_sliding_window is not true" };
        return Err(FormatError::unsupported(
            o.file,
            format!("sliding_attention in layer_types {reason}"),
            "state both, or full_attention for every layer",
        ));
    }
    let slides = listed.unwrap_or_else(|| (0..layers).map(|layer| used && unlisted(layer)).collect());
    config.set_window(o.file, width, |layer| slides[layer])?;
    Ok(slides)
}

/// A positive number of layers after which something recurs.
pub(super) fn interval(o: &Object, key: &str, default: usize) -> Result<usize> {
    match o.usize(key)?.unwrap_or(default) {
        0 => Err(FormatError::malformed(o.file, format!("{key} is 0, expected a number of layers"))),
        interval => Ok(interval),
    }
}

/// Which of the layers `layer_types` gives a sliding window, where it is there.
fn sliding_layers(o: &Object, layers: usize) -> Result<Option<Vec<bool>>> {
    let types = match o.get("layer_types") {
        None => return Ok(None),
        Some(Value::Array(types)) => types,
        Some(other) => {
            let problem = format!("layer_types is {}, expected a list of strings", kind(other));
            return Err(FormatError::malformed(o.file, problem));
        }
    };
    let slides = types.iter().map(|layer| match layer.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(FormatError::unsupported(
            o.file,
            format!("layer type {}", kind(layer)),
            "only full_attention and sliding_attention layers are implemented",
        )),
    });
    let slides = slides.collect::<Result<Vec<bool>>>()?;
    if slides.len() != layers {
        let problem = format!("layer_types names {} layers, num_hidden_layers {layers}", slides.len());
        return Err(FormatError::malformed(o.file, problem));
    }
    Ok(Some(slides))
}

/// A token id, a list of them, or nothing.
fn token_ids(o: &Object, key: &str) -> Result<Vec<u32>> {
    let Some(value) = o.get(key) else {
        return Ok(Vec::new());
    };
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let ids = match value {
        Value::Array(items) => items.iter().map(id).collect(),
        single => id(single).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let problem = format!("{key} is {}, expected a token id or a list of them", kind(value));
        FormatError::malformed(o.file, problem)
    })
}
