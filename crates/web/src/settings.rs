//! The page's settings: those of the command line, in snake case.

use bft_train::TrainConfig;
use serde_json::{Map, Value};

use crate::failure::{Answer, Failure};

/// What a page has no use for: paths, and what it decides itself.
const HIDDEN: [&str; 10] = [
    "model",
    "data",
    "output",
    "device",
    "init-adapter",
    "target-modules",
    "eval-data",
    "skip-bad-rows",
    "template-vars",
    "resume",
];

/// The settings of a run, as the page names them.
pub fn shown(config: &TrainConfig) -> Value {
    let Ok(Value::Object(all)) = serde_json::to_value(config) else {
        return Value::Null;
    };
    let shown = all
        .into_iter()
        .filter(|(key, _)| !HIDDEN.contains(&key.as_str()))
        .map(|(key, value)| (key.replace('-', "_"), short(value)));
    Value::Object(shown.collect())
}

/// Settings in f32 as they were typed, not with the digits that f64 adds.
fn short(value: Value) -> Value {
    let typed = value
        .as_f64()
        .filter(|_| value.is_f64())
        .and_then(|x| (x as f32).to_string().parse::<f64>().ok())
        .filter(|typed| (*typed as f32) == value.as_f64().unwrap_or_default() as f32);
    match typed {
        Some(typed) => typed.into(),
        None => value,
    }
}

/// The page's settings as a run takes them; what is left out keeps its default.
pub fn config(settings: &Map<String, Value>) -> Answer<TrainConfig> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(TrainConfig::default()) else {
        return Err(Failure::other("the default settings are no object"));
    };
    for (key, value) in settings {
        all.insert(key.replace('_', "-"), value.clone());
    }
    let config: TrainConfig = serde_json::from_value(Value::Object(all)).map_err(Failure::input)?;
    config.validate().map_err(Failure::input)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_the_page() {
        let defaults = TrainConfig::default();
        let Value::Object(settings) = shown(&defaults) else {
            panic!("no object");
        };
        assert_eq!(settings["lr"], 2e-4);
        assert_eq!(settings["group_size"], 256);
        assert!(!settings.contains_key("output"));
        assert_eq!(config(&settings).unwrap(), defaults);
    }

    #[test]
    fn unknown_and_senseless_settings_are_refused() {
        let with = |key: &str, value: Value| {
            let mut settings = Map::new();
            settings.insert(key.into(), value);
            config(&settings).is_err()
        };
        assert!(with("rank", 0.into()));
        assert!(with("no_such_setting", 1.into()));
        assert!(!with("rank", 8.into()));
    }
}
