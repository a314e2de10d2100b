//! What sentence-transformers writes beside a model: how hidden states become one vector, and how long a text may be.

use serde_json::Value;

use super::Pooling;
use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

/// The steps from a text to its vector, as far as they are not the encoder's own.
#[derive(Debug, PartialEq)]
pub(super) struct Steps {
    /// Folder of the transformer below the model's, `""` for that itself.
    pub transformer: String,
    pub pooling: Pooling,
    pub normalize: bool,
    /// `max_seq_length`, special tokens included.
    pub max_length: Option<usize>,
    /// Texts become lower case before the tokenizer sees them.
    pub lower_case: bool,
}

/// Reads `modules.json` and what it names. Without it a model is pooled as sentence-transformers does it then: by the mean.
pub(super) fn read(folder: &Folder) -> Result<Steps> {
    let mut steps = Steps {
        transformer: String::new(),
        pooling: Pooling::Mean,
        normalize: false,
        max_length: None,
        lower_case: false,
    };
    if let Some(json) = folder.get("modules.json")? {
        let file = folder.file("modules.json");
        for (step, module) in modules(&file, &json)?.into_iter().enumerate() {
            match (step, module.kind.as_str()) {
                (0, "Transformer") => steps.transformer = module.path,
                (1, "Pooling") => steps.pooling = pooling(folder, &module.path)?,
                (2.., "Normalize") => steps.normalize = true,
                (_, other) => {
                    return Err(FormatError::unsupported(
                        file,
                        format!("module {other:?} in place {step}"),
                        "a Transformer, a Pooling and perhaps a Normalize are implemented",
                    ));
                }
            }
        }
        refuse_prompts(folder)?;
    }
    let sub = folder.below(&steps.transformer);
    if let Some(json) = sub.get("sentence_bert_config.json")? {
        let file = sub.file("sentence_bert_config.json");
        let map = parse_object(&file, &json)?;
        let object = Object::new(&file, &map);
        steps.max_length = object.usize("max_seq_length")?;
        steps.lower_case = object.bool("do_lower_case")?.unwrap_or(false);
    }
    Ok(steps)
}

struct Module {
    /// Last part of the Python class's name.
    kind: String,
    path: String,
}

fn modules(file: &str, json: &[u8]) -> Result<Vec<Module>> {
    let list: Value =
        serde_json::from_slice(json).map_err(|e| FormatError::malformed(file, format!("is not valid JSON: {e}")))?;
    let Value::Array(list) = &list else {
        let problem = format!("holds {}, expected a list of modules", kind(&list));
        return Err(FormatError::malformed(file, problem));
    };
    let modules = list.iter().map(|module| {
        let text = |key: &str| module.get(key).and_then(Value::as_str);
        let (Some(class), Some(path)) = (text("type"), text("path")) else {
            let problem = format!("has a module {}, expected an object with type and path", kind(module));
            return Err(FormatError::malformed(file, problem));
        };
        let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if !plain {
            return Err(FormatError::malformed(
                file,
                format!("has a module in {path:?}, expected the name of a folder beside it"),
            ));
        }
        Ok(Module { kind: class.rsplit('.').next().unwrap_or(class).to_string(), path: path.to_string() })
    });
    modules.collect()
}

fn pooling(folder: &Folder, path: &str) -> Result<Pooling> {
    let folder = folder.below(path);
    let file = folder.file("config.json");
    let json = folder.require("config.json", "modules.json names it; get the model again")?;
    let map = parse_object(&file, &json)?;
    let object = Object::new(&file, &map);
    let advice = "mean, cls and lasttoken are implemented, one at a time";
    let named = |name: &str| match name {
        "mean" | "mean_tokens" => Ok(Pooling::Mean),
        "cls" | "cls_token" => Ok(Pooling::Cls),
        "lasttoken" => Ok(Pooling::Last),
        other => Err(FormatError::unsupported(&file, format!("pooling by {other}"), advice)),
    };
    // The newer spelling is one word, the older a switch for each way.
    if let Some(name) = object.str("pooling_mode")? {
        return named(name);
    }
    let mut chosen = Vec::new();
    for key in map.keys() {
        if let Some(name) = key.strip_prefix("pooling_mode_")
            && object.bool(key)? == Some(true)
        {
            chosen.push(name);
        }
    }
    match chosen[..] {
        [name] => named(name),
        [] => Err(FormatError::missing(&file, "a pooling mode", advice)),
        _ => Err(FormatError::unsupported(&file, format!("pooling by {} together", chosen.join(" and ")), advice)),
    }
}

/// A prompt that is put before every text would have to be there to get the same vectors.
fn refuse_prompts(folder: &Folder) -> Result<()> {
    let Some(json) = folder.get("config_sentence_transformers.json")? else {
        return Ok(());
    };
    let file = folder.file("config_sentence_transformers.json");
    let map = parse_object(&file, &json)?;
    match Object::new(&file, &map).str("default_prompt_name")? {
        None => Ok(()),
        Some(name) => Err(FormatError::unsupported(
            &file,
            format!("default_prompt_name {name:?}"),
            "write the prompt into the texts, and set it to null in a copy of the folder",
        )),
    }
}
