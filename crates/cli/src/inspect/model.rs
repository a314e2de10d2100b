//! What is in a model file: architecture, sizes, tensors and their formats.

use std::collections::BTreeMap;

use bft_formats::{DType, Model, ModelConfig};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::open;
use crate::ui::{self, BOLD, bytes, table, thousands};

/// Prints the model: one line a kind of tensor, or every tensor with `all`.
pub fn show(model: &Model, all: bool, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return ui::json(&as_value(model));
    }
    let config = &model.config;
    let elements: usize = model.tensors.values().map(|tensor| tensor.elements()).sum();
    let size: usize = model.tensors.values().map(|tensor| tensor.byte_len()).sum();
    let heads = format!(
        "{} query, {} key and value, of {}",
        config.num_attention_heads, config.num_key_value_heads, config.head_dim
    );
    let facts = [
        ("architecture", config.architecture.to_string()),
        ("parameters", thousands(elements as u64)),
        ("size", bytes(size as u64)),
        ("layers", config.layers.len().to_string()),
        ("hidden size", config.hidden_size.to_string()),
        ("feed-forward size", config.intermediate_size.to_string()),
        ("heads", heads),
        ("vocabulary", thousands(config.vocab_size as u64)),
        ("context", format!("{} tokens", thousands(config.max_position_embeddings as u64))),
        ("rope", rope(config)),
        ("windows", windows(config)),
        ("soft caps", soft_caps(config)),
        ("head", if config.tie_word_embeddings { "tied to the embedding".to_owned() } else { "its own".to_owned() }),
        ("biases", biases(model)),
        ("q and k norms", yes(config.layers.iter().any(|layer| layer.qk_norm.is_some())).to_owned()),
        ("linear modules", config.module_list()),
        ("tokenizer", tokenizer(model)),
        ("chat template", yes(model.chat_template.is_some()).to_owned()),
    ];
    ui::result(&format!("{BOLD}{}{BOLD:#}", model.name))?;
    let left_out = open::left_out(model).map(|parts| ("left out", parts));
    for (name, value) in facts.into_iter().chain(left_out) {
        ui::result(&format!("  {name:<18} {value}"))?;
    }
    ui::result("")?;
    ui::result(&table(&if all { every_tensor(model) } else { kinds(model) }))
}

fn yes(truth: bool) -> &'static str {
    if truth { "yes" } else { "no" }
}

/// Each table of frequencies, with how many layers rotate by it where not all do.
fn rope(config: &ModelConfig) -> String {
    let all = config.layers.len();
    let of_layers = |table: Option<usize>| {
        let count = config.layers.iter().filter(|layer| layer.rope == table).count();
        (count > 0).then(|| if count == all { String::new() } else { format!(" ({count} of {all} layers)") })
    };
    let tables = config.ropes.iter().enumerate().filter_map(|(table, rope)| {
        let part = match rope.dim {
            dim if dim == config.head_dim => String::new(),
            dim => format!(", {dim} of a head's {} numbers", config.head_dim),
        };
        Some(format!("theta {}{part}{}{}", rope.theta, rope.scaling, of_layers(Some(table))?))
    });
    let none = of_layers(None).map(|layers| format!("none{layers}"));
    tables.chain(none).collect::<Vec<_>>().join("; ")
}

fn windows(config: &ModelConfig) -> String {
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    config.layers.iter().filter_map(|layer| layer.window).for_each(|width| *widths.entry(width).or_default() += 1);
    let all = config.layers.len();
    let of =
        |(width, count): (&usize, &usize)| format!("{} tokens in {count} of {all} layers", thousands(*width as u64));
    if widths.is_empty() { "none".to_owned() } else { widths.iter().map(of).collect::<Vec<_>>().join("; ") }
}

fn soft_caps(config: &ModelConfig) -> String {
    let scores = config.layers.iter().find_map(|layer| layer.score_cap).map(|cap| format!("scores at {cap}"));
    let logits = config.logits_cap.map(|cap| format!("logits at {cap}"));
    let caps: Vec<String> = scores.into_iter().chain(logits).collect();
    if caps.is_empty() { "none".to_owned() } else { caps.join(", ") }
}

fn biases(model: &Model) -> String {
    match (model.config.attention_bias, model.config.attention_output_bias) {
        (false, false) => "none".to_owned(),
        (true, false) => "q, k, v".to_owned(),
        (false, true) => "o".to_owned(),
        (true, true) => "q, k, v, o".to_owned(),
    }
}

fn tokenizer(model: &Model) -> String {
    match &model.tokenizer {
        Some(tokenizer) => format!("{} tokens", thousands(tokenizer.vocab_size() as u64)),
        None => "none".to_owned(),
    }
}

/// `576×576`.
fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    sizes.join("×")
}

fn head_row(count: &str) -> Vec<String> {
    ["tensor", "shape", "format", count, "bytes"].map(str::to_owned).to_vec()
}

fn every_tensor(model: &Model) -> Vec<Vec<String>> {
    let mut rows = vec![head_row("parameters")];
    rows.extend(model.tensors.values().map(|tensor| {
        vec![
            tensor.name.clone(),
            shape_text(&tensor.shape),
            tensor.dtype.to_string(),
            thousands(tensor.elements() as u64),
            thousands(tensor.byte_len() as u64),
        ]
    }));
    rows
}

/// Tensors of all layers that are alike, as one row.
fn kinds(model: &Model) -> Vec<Vec<String>> {
    let mut kinds: BTreeMap<(String, Vec<usize>, DType), (usize, usize)> = BTreeMap::new();
    for tensor in model.tensors.values() {
        let key = (without_layer(&tensor.name), tensor.shape.clone(), tensor.dtype);
        let entry = kinds.entry(key).or_default();
        entry.0 += 1;
        entry.1 += tensor.byte_len();
    }
    let mut rows = vec![head_row("tensors")];
    rows.extend(kinds.into_iter().map(|((name, shape, dtype), (count, size))| {
        vec![name, shape_text(&shape), dtype.to_string(), count.to_string(), thousands(size as u64)]
    }));
    rows
}

/// `model.layers.12.mlp.up_proj.weight` as `model.layers.*.mlp.up_proj.weight`.
pub(super) fn without_layer(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part }).collect();
    parts.join(".")
}

fn as_value(model: &Model) -> Value {
    let config = &model.config;
    let tensors: Vec<Value> = model
        .tensors
        .values()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "shape": tensor.shape,
                "dtype": tensor.dtype.name(),
                "bytes": tensor.byte_len(),
            })
        })
        .collect();
    json!({
        "kind": "model",
        "name": model.name,
        "architecture": config.architecture.name(),
        "parameters": model.tensors.values().map(|tensor| tensor.elements()).sum::<usize>(),
        "bytes": model.tensors.values().map(|tensor| tensor.byte_len()).sum::<usize>(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers.len(),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope": rope(config),
        "windows": config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(),
        "score_cap": config.layers.iter().find_map(|layer| layer.score_cap),
        "logits_cap": config.logits_cap,
        "linear_modules": config.linear_modules().iter().map(|module| module.name).collect::<Vec<_>>(),
        "left_out": model.left_out.keys().collect::<Vec<_>>(),
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_ids": config.eos_token_ids,
        "tokenizer": model.tokenizer.is_some(),
        "chat_template": model.chat_template.is_some(),
        "notes": model.notes,
        "tensors": tensors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_layers_have_is_told() {
        let fixture = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
            Model::open(&folder).unwrap()
        };
        let told = |name: &str| {
            let config = fixture(name).config;
            [rope(&config), windows(&config), soft_caps(&config)]
        };
        let all = ["theta 10000", "none", "none"];
        assert_eq!(told("llama"), all);
        assert_eq!(told("smollm3")[0], "theta 50000 (2 of 3 layers); none (1 of 3 layers)");
        assert_eq!(
            told("phi3_longrope")[0],
            "theta 10000, 12 of a head's 16 numbers, longrope scaling with other divisors beyond 31 tokens"
        );
        assert_eq!(told("gemma2"), ["theta 10000", "8 tokens in 1 of 2 layers", "scores at 2, logits at 9"]);
        let sees = "theta 1000000, linear scaling by 2 (1 of 2 layers); theta 10000 (1 of 2 layers)";
        assert_eq!(told("gemma3_sees"), [sees, "7 tokens in 1 of 2 layers", "none"]);
        let left_out = open::left_out(&fixture("gemma3_sees")).unwrap();
        assert!(left_out.starts_with("multi_modal_projector (2 tensors, "), "{left_out}");
        assert!(left_out.contains(" and vision_tower ("), "{left_out}");
        assert_eq!(open::left_out(&fixture("gemma3")), None);
    }

    #[test]
    fn layers_fold_into_one_kind() {
        assert_eq!(without_layer("model.layers.12.mlp.up_proj.weight"), "model.layers.*.mlp.up_proj.weight");
        assert_eq!(without_layer("model.norm.weight"), "model.norm.weight");
        assert_eq!(shape_text(&[49152, 576]), "49152×576");
    }
}
