//! What is in a LoRA adapter folder.
//!
//! Read without its model, from the files as they are; with `--model`, the adapter is also checked
//! against it.

use std::collections::BTreeMap;
use std::path::Path;

use bft_formats::{Adapter, Model};
use bft_train::path_to_json;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::open;
use crate::ui::{self, BOLD, table, thousands};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Prints the adapter.
pub fn show(folder: &Path, model: Option<&Model>, all: bool, as_json: bool) -> Result<(), CliError> {
    open::existing("--adapter", folder)?;
    let config = read_config(folder)?;
    let tensors = read_tensors(folder)?;
    let fits = match model {
        Some(model) => {
            Adapter::load(folder, &model.config).map_err(CliError::failed)?;
            Some(&model.name)
        }
        None => None,
    };
    let parameters: usize = tensors.iter().map(|(_, info)| info.shape.iter().product::<usize>()).sum();
    if as_json {
        let list: Vec<Value> = tensors
            .iter()
            .map(|(name, info)| json!({"name": name, "shape": info.shape, "dtype": format!("{:?}", info.dtype)}))
            .collect();
        return ui::json(&json!({
            "kind": "adapter",
            "path": path_to_json(folder),
            "config": config,
            "parameters": parameters,
            "fits": fits,
            "tensors": list,
        }));
    }
    ui::result(&format!("{BOLD}{}{BOLD:#}", folder.display()))?;
    for (name, key) in [
        ("kind", "peft_type"),
        ("base model", "base_model_name_or_path"),
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
        ("rsLoRA", "use_rslora"),
        ("DoRA", "use_dora"),
        ("modules", "target_modules"),
    ] {
        if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
            ui::result(&format!("  {name:<12} {}", plain(value)))?;
        }
    }
    ui::result(&format!("  {:<12} {}", "parameters", thousands(parameters as u64)))?;
    if let Some(name) = fits {
        ui::result(&format!("  {:<12} {name}", "fits"))?;
    }
    ui::result("")?;
    ui::result(&table(&rows(&tensors, all)))
}

fn read_config(folder: &Path) -> Result<Value, CliError> {
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CliError::failed(format!(
            "{}: cannot be read: {error}; an adapter folder holds {CONFIG} and {TENSORS}",
            path.display()
        ))
    })?;
    match serde_json::from_str::<Value>(&text) {
        Ok(config @ Value::Object(_)) => Ok(config),
        Ok(_) => Err(CliError::failed(format!("{}: found no JSON object", path.display()))),
        Err(error) => Err(CliError::failed(format!("{}: not JSON: {error}", path.display()))),
    }
}

fn read_tensors(folder: &Path) -> Result<Vec<(String, TensorInfo)>, CliError> {
    let path = folder.join(TENSORS);
    let problem =
        |error: &dyn std::fmt::Display| CliError::failed(format!("{}: cannot be read: {error}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| problem(&error))?;
    // deserialize also checks that the tensors lie within the file.
    SafeTensors::deserialize(&bytes).map_err(|error| problem(&error))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| problem(&error))?;
    let mut tensors: Vec<(String, TensorInfo)> =
        header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

/// One row a tensor, or, without `all`, a row for all layers' tensors that are alike.
fn rows(tensors: &[(String, TensorInfo)], all: bool) -> Vec<Vec<String>> {
    let mut kinds: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for (name, info) in tensors {
        let sizes: Vec<String> = info.shape.iter().map(usize::to_string).collect();
        let name = if all { name.clone() } else { super::model::without_layer(name) };
        let key = (name, sizes.join("×"), format!("{:?}", info.dtype));
        *kinds.entry(key).or_default() += 1;
    }
    let mut rows = vec![["tensor", "shape", "format", "tensors"].map(str::to_owned).to_vec()];
    rows.extend(kinds.into_iter().map(|((name, shape, dtype), count)| vec![name, shape, dtype, count.to_string()]));
    rows
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
