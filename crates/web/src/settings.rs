//! The page's settings: those of the command line that it has, with underscores.

use bft_train::{Settings, TrainConfig};
use serde_json::{Map, Value};

use crate::failure::{Answer, Failure};

/// The settings of a run, as the page names them.
pub fn shown(config: &TrainConfig) -> Value {
    let all = config.to_map();
    let on_page = TrainConfig::TABLE.iter().filter(|setting| setting.on_page);
    let value = |name: String| all.get(&name).cloned().unwrap_or_default();
    Value::Object(on_page.map(|setting| (setting.field.to_owned(), value(setting.name()))).collect())
}

/// The page's settings as a run takes them; what is left out keeps its default.
pub fn config(settings: &Map<String, Value>) -> Answer<TrainConfig> {
    let named = settings.iter().map(|(key, value)| (key.replace('_', "-"), value.clone()));
    let config = TrainConfig::from_map(named.collect()).map_err(Failure::input)?;
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
