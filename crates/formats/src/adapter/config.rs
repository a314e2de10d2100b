//! `adapter_config.json`: what is honoured, what is neutral, and what is refused by name.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::AdapterConfig;
use crate::json::{Object, kind, parse_object, shortest};
use crate::{FormatError, Result};

/// The release whose files this module reads and writes.
const PEFT_VERSION: &str = "0.21.2";

/// Keys that say how the adapter was made or loaded, not what it computes.
///
/// `layers_to_transform`, `layers_pattern` and `exclude_modules` choose modules, and the tensors in
/// the file are those modules.
const IGNORED: [&str; 15] = [
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "task_type",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "ensure_weight_tying",
];

/// Keys read into [`AdapterConfig`] or checked one by one.
const READ: [&str; 13] = [
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "init_lora_weights",
];

/// Initialisations that leave the base weights alone; the others subtract the initial adapter from
/// the base, which this program does not hold.
const PLAIN_INITIALISATIONS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What the file says about which modules it adapts.
pub(super) enum Targets {
    /// Names: a module matches when its name is one of them or ends with a dot and one of them.
    Names { names: Vec<String>, every_layer: bool },
    /// A pattern, or all linear modules: the tensors tell.
    FromTensors,
}

/// Reads the configuration; `target_modules` is left empty, to be taken from the tensors.
pub(super) fn read(file: &str, json: &[u8]) -> Result<(AdapterConfig, Targets)> {
    let map = parse_object(file, json)?;
    let o = Object::new(file, &map);
    let unsupported = |what: String, advice: &str| Err(FormatError::unsupported(file, what, advice));

    let peft_type = o.required("peft_type", o.str("peft_type")?)?;
    if peft_type != "LORA" {
        return unsupported(format!("peft_type {peft_type:?}"), "only LORA adapters are");
    }
    if let Some(bias) = o.str("bias")?.filter(|&b| b != "none") {
        return unsupported(format!("bias {bias:?}"), "train the adapter with bias \"none\"");
    }
    match o.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(s)) if PLAIN_INITIALISATIONS.contains(&s.as_str()) => {}
        Some(other) => {
            return unsupported(
                format!("init_lora_weights {}", kind(other)),
                "it changes the base weights; convert it with PEFT's path_initial_model_for_weight_conversion",
            );
        }
    }
    refuse_other_keys(&o)?;

    let rank = o.required("r", o.usize("r")?)?;
    if rank == 0 {
        return Err(FormatError::malformed(file, "r is 0, expected a rank of 1 or more"));
    }
    let dropout = o.f64("lora_dropout")?.unwrap_or(0.0) as f32;
    if !(0.0..1.0).contains(&dropout) {
        let problem = format!("lora_dropout is {dropout}, expected 0 or more and below 1");
        return Err(FormatError::malformed(file, problem));
    }
    let alpha = o.required("lora_alpha", o.f64("lora_alpha")?)? as f32;
    if !alpha.is_finite() {
        return Err(FormatError::malformed(file, "lora_alpha is too large for an f32"));
    }
    let config = AdapterConfig {
        rank,
        alpha,
        target_modules: Vec::new(),
        dropout,
        use_rslora: o.bool("use_rslora")?.unwrap_or(false),
        use_dora: o.bool("use_dora")?.unwrap_or(false),
        rank_pattern: pattern(&o, "rank_pattern", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0)
        })?,
        alpha_pattern: pattern(&o, "alpha_pattern", |v| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite()))?,
        base_model: o.str("base_model_name_or_path")?.map(str::to_string),
        base_revision: o.str("revision")?.map(str::to_string),
        sees: false,
        end_token_ids: Vec::new(),
    };
    Ok((config, targets(&o)?))
}

/// Everything unknown must be at a value that means "off".
fn refuse_other_keys(o: &Object) -> Result<()> {
    for (key, value) in o.map {
        if READ.contains(&key.as_str()) || IGNORED.contains(&key.as_str()) {
            continue;
        }
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !off {
            let advice = match key.as_str() {
                "modules_to_save" => "train the adapter without whole modules",
                _ => "only LoRA, rsLoRA and DoRA are; train the adapter without it",
            };
            return Err(FormatError::unsupported(o.file, format!("{key} {}", kind(value)), advice));
        }
    }
    Ok(())
}

fn pattern<T>(o: &Object, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<BTreeMap<String, T>> {
    let Some(object) = o.object(key)? else {
        return Ok(BTreeMap::new());
    };
    let mut patterns = BTreeMap::new();
    for (name, value) in object.map {
        let value = read(value).ok_or_else(|| {
            let problem = format!("{key} gives {name:?} the value {}, expected a positive number", kind(value));
            FormatError::malformed(o.file, problem)
        })?;
        patterns.insert(name.clone(), value);
    }
    Ok(patterns)
}

fn targets(o: &Object) -> Result<Targets> {
    match o.get("target_modules") {
        None | Some(Value::String(_)) => Ok(Targets::FromTensors),
        Some(Value::Array(items)) => {
            let names = items.iter().map(|v| v.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
            let every_layer = !["layers_to_transform", "exclude_modules"].iter().any(|k| o.get(k).is_some());
            names.map(|names| Targets::Names { names, every_layer }).ok_or_else(|| {
                FormatError::malformed(o.file, "target_modules holds something that is not a module's name")
            })
        }
        Some(other) => Err(FormatError::malformed(
            o.file,
            format!("target_modules is {}, expected a list of names or a string", kind(other)),
        )),
    }
}

/// The whole file, as PEFT writes it: every key, sorted.
pub(super) fn write(config: &AdapterConfig) -> String {
    let rank_pattern: Map<String, Value> = config.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let alpha_pattern: Map<String, Value> = config.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect();
    let file = json!({
        "alora_invocation_tokens": null,
        "alpha_pattern": alpha_pattern,
        "arrow_config": null,
        "auto_mapping": null,
        "base_model_name_or_path": config.base_model,
        "bias": "none",
        "corda_config": null,
        "ensure_weight_tying": false,
        "eva_config": null,
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "kasa_config": null,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(config.alpha),
        "lora_bias": false,
        "lora_dropout": shortest(config.dropout),
        "lora_ga_config": null,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "monteclora_config": null,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "qalora_group_size": 16,
        "r": config.rank,
        "rank_pattern": rank_pattern,
        "revision": config.base_revision,
        "target_modules": target_modules(config),
        "target_parameters": null,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": null,
        "use_bdlora": null,
        "use_dora": config.use_dora,
        "use_qalora": false,
        "use_rslora": config.use_rslora,
        "velora_config": null,
    });
    // Pretty-printing a value that is built here cannot fail; the fallback is the same data.
    serde_json::to_string_pretty(&file).unwrap_or_else(|_| file.to_string())
}

/// The names; a pattern where these also name modules of what sees, which are not adapted.
fn target_modules(config: &AdapterConfig) -> Value {
    if !config.sees {
        return json!(config.target_modules);
    }
    let name = |module: &String| match module.strip_prefix("model.") {
        Some(_) => regex::escape(&config.peft_name(module)),
        None => format!(r"model\.language_model\.layers\.\d+\.\w+\.{module}"),
    };
    json!(config.target_modules.iter().map(name).collect::<Vec<_>>().join("|"))
}

/// A whole number where it is one, as PEFT's own α usually is.
fn number(value: f32) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { shortest(value) }
}
