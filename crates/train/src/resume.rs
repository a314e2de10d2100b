//! Whether a checkpoint belongs to the run that is to go on.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint_files::short;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::plan::Plan;
use crate::setting::Settings;
use crate::state::RunState;

/// Names every setting in which `now` differs from what the checkpoint was made with.
pub(crate) fn check_settings(path: &Path, then: &RunState, plan: &Plan, model_sha256: &str) -> Result<(), TrainError> {
    let now = &plan.config;
    let mut differences = Vec::new();
    for (what, file, was, is) in [
        ("the model", now.model.display().to_string(), then.model_sha256.as_str(), model_sha256),
        ("the data", plan.train.report.file.clone(), then.data_sha256.as_str(), plan.data_sha256.as_str()),
    ] {
        if was != is {
            differences.push(format!("{what} {file} has sha256 {}…, was {}…", short(is), short(was)));
        }
    }
    let (was, is) = (then.settings.to_map(), now.to_map());
    for setting in TrainConfig::TABLE.iter().filter(|setting| !setting.may_change) {
        let name = setting.name();
        let [before, value] = [&was, &is].map(|settings| settings.get(&name).unwrap_or(&Value::Null));
        if before != value {
            differences.push(format!("{name} is {}, was {}", show(value), show(before)));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(TrainError::Differs { path: path.to_owned(), differences: differences.join("; ") })
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "not given".into(),
        Value::Array(entries) => entries.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(|| n.to_string(), |x| x.to_string()),
        other => other.to_string(),
    }
}
