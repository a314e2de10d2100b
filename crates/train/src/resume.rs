//! Whether a checkpoint belongs to the run that is to go on.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint_files::short;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::state::RunState;

/// Settings that may change: where files lie (their hashes are compared), how long the run is, what is looked at
/// and kept on the way, and where it runs.
const FREE: [&str; 11] = [
    "model",
    "data",
    "output",
    "device",
    "steps",
    "epochs",
    "eval-data",
    "eval-every",
    "save-every",
    "resume",
    "checkpoint-activations",
];

/// Names every setting in which `now` differs from what the checkpoint was made with.
pub(crate) fn check_settings(
    path: &Path,
    then: &RunState,
    now: &TrainConfig,
    model_sha256: &str,
    data_sha256: &str,
) -> Result<(), TrainError> {
    let mut differences = Vec::new();
    for (what, file, was, is) in [
        ("the model", &now.model, then.model_sha256.as_str(), model_sha256),
        ("the data", &now.data, then.data_sha256.as_str(), data_sha256),
    ] {
        if was != is {
            let file = file.display();
            differences.push(format!("{what} {file} has sha256 {}…, was {}…", short(is), short(was)));
        }
    }
    if let (Value::Object(was), Value::Object(is)) = (to_json(&then.settings), to_json(now)) {
        let gone = was.keys().filter(|key| !is.contains_key(*key));
        for key in is.keys().chain(gone) {
            let [before, value] = [&was, &is].map(|settings| settings.get(key).unwrap_or(&Value::Null));
            if !FREE.contains(&key.as_str()) && before != value {
                differences.push(format!("{key} is {}, was {}", show(value), show(before)));
            }
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(TrainError::Differs { path: path.to_owned(), differences: differences.join("; ") })
}

fn to_json(settings: &TrainConfig) -> Value {
    // A struct of numbers, words and paths, which always serialises.
    serde_json::to_value(settings).unwrap_or_default()
}

/// Numbers as they were typed: some settings are f32, all of JSON's are f64.
fn show(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(|| n.to_string(), |x| (x as f32).to_string()),
        Value::String(s) => s.clone(),
        Value::Null => "not given".into(),
        Value::Array(entries) => entries.iter().map(show).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
