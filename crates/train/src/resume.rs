//! Whether a checkpoint belongs to the run that is to go on.

use std::path::Path;

use bft_formats::Model;
use serde_json::Value;

use crate::checkpoint_files::short;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::plan::Plan;
use crate::setting::Settings;
use crate::state::RunState;

/// Names every setting in which `now` differs from what the checkpoint was made with.
pub(crate) fn check_settings(path: &Path, then: &RunState, plan: &Plan, model: &Model) -> Result<(), TrainError> {
    let now = &plan.config;
    let mut differences = Vec::new();
    for (what, file, was, is) in [
        ("the model", now.model.display().to_string(), then.model_sha256.as_str(), &*model.sha256()?),
        ("the data", plan.train.report.file.clone(), then.data_sha256.as_str(), plan.data_sha256.as_str()),
    ] {
        if was != is {
            differences.push(format!("{what} {file} has sha256 {}…, was {}…", short(is), short(was)));
        }
    }
    let (was, is) = (spelled_out(&then.settings, model)?.to_map(), spelled_out(now, model)?.to_map());
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

/// The settings with what they leave to be found said: a run is not another for saying it.
fn spelled_out(config: &TrainConfig, model: &Model) -> Result<TrainConfig, TrainError> {
    Ok(TrainConfig {
        max_length: Some(config.samples().limit(model)?),
        alpha: Some(config.alpha()),
        target_modules: config.modules(&model.config)?.into_iter().map(str::to_owned).collect(),
        warmup_steps: config.warmup_ratio.is_none().then(|| config.warmup_steps.unwrap_or(0)),
        min_lr: Some(config.min_lr.unwrap_or(0.0)),
        ..config.with_absolute_paths()
    })
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
