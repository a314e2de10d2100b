//! What sentence-transformers writes beside a model: how hidden states become one vector, and how
//! long a text may be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Pooling;
use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

/// The steps from a text to its vector, as a model's authors took them and as far as they are not
/// the model's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SentenceSteps {
    /// How hidden states become one vector.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Longest text in tokens, special tokens included; longer ones are cut.
    pub max_length: Option<usize>,
    /// Texts that are put before a text, by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt that is taken where nobody names one.
    pub default_prompt: Option<String>,
    /// The file that says so.
    pub source: String,
    /// Longest text that the tokenizer's own configuration names, where nothing else names one.
    pub(crate) tokenizer_max_length: Option<usize>,
    /// Folder of the transformer below the model's, `""` for that itself.
    pub(crate) transformer: String,
    /// Texts become lower case before the tokenizer sees them.
    pub(crate) lower_case: bool,
}

/// Reads `modules.json` and what it names; `None` where there is none.
pub(super) fn read(folder: &Folder) -> Result<Option<SentenceSteps>> {
    let Some(json) = folder.get("modules.json")? else {
        return Ok(None);
    };
    let file = folder.file("modules.json");
    let mut steps = SentenceSteps { source: "modules.json".to_owned(), ..SentenceSteps::default() };
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
    read_prompts(folder, &mut steps)?;
    Ok(Some(steps))
}

/// Longest text of a tokenizer's configuration, where it says one that means something.
fn model_max_length(folder: &Folder) -> Result<Option<usize>> {
    let Some(json) = folder.get("tokenizer_config.json")? else {
        return Ok(None);
    };
    let file = folder.file("tokenizer_config.json");
    let map = parse_object(&file, &json)?;
    // transformers writes 1e30 where there is no limit.
    Ok(Object::new(&file, &map).f64("model_max_length")?.filter(|n| (1.0..1e9).contains(n)).map(|n| n as usize))
}

/// Reads what stands beside the transformer: longest text and lower case. sentence-transformers
/// writes `max_seq_length` in its older versions alone; since then the tokenizer's own limit is the
/// one.
pub(super) fn read_limits(folder: &Folder, steps: &mut SentenceSteps) -> Result<()> {
    let sub = folder.below(&steps.transformer);
    if let Some(json) = sub.get("sentence_bert_config.json")? {
        let file = sub.file("sentence_bert_config.json");
        let map = parse_object(&file, &json)?;
        let object = Object::new(&file, &map);
        steps.max_length = object.usize("max_seq_length")?;
        steps.lower_case = object.bool("do_lower_case")?.unwrap_or(false);
    }
    steps.tokenizer_max_length = model_max_length(&sub)?;
    Ok(())
}

/// The steps of a language model that was tuned to embed: in its folder itself.
pub(super) fn of_decoder(folder: &Folder) -> Result<Option<SentenceSteps>> {
    let Some(mut steps) = read(folder)? else {
        return Ok(None);
    };
    read_limits(folder, &mut steps)?;
    steps.max_length = steps.max_length.or(steps.tokenizer_max_length);
    let refuse = |what: &str, advice: &str| Err(FormatError::unsupported(folder.file("modules.json"), what, advice));
    if !steps.transformer.is_empty() {
        return refuse("a language model in a folder below", "give the folder that holds its config.json");
    }
    if steps.pooling == Pooling::Cls {
        return refuse(
            "pooling by the first token of a language model",
            "it has seen no other; name another --pooling",
        );
    }
    if steps.lower_case {
        return refuse("do_lower_case", "write the texts in lower case, and set it to false in a copy of the folder");
    }
    Ok(Some(steps))
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
    if object.bool("include_prompt")? == Some(false) {
        let advice = "vectors that leave a prompt's tokens out are not implemented";
        return Err(FormatError::unsupported(&file, "include_prompt false", advice));
    }
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

/// Reads the prompts that texts are given.
fn read_prompts(folder: &Folder, steps: &mut SentenceSteps) -> Result<()> {
    let Some(json) = folder.get("config_sentence_transformers.json")? else {
        return Ok(());
    };
    let file = folder.file("config_sentence_transformers.json");
    let map = parse_object(&file, &json)?;
    let object = Object::new(&file, &map);
    let refuse = |what: String, advice: &str| Err(FormatError::unsupported(&file, what, advice));
    if let Some(width) = object.usize("truncate_dim")? {
        return refuse(
            format!("truncate_dim {width}"),
            "set it to null in a copy of the folder, and cut the vectors yourself",
        );
    }
    if let Some(kind) = object.str("model_type")?.filter(|kind| *kind != "SentenceTransformer") {
        return refuse(format!("model_type {kind:?}"), "a SentenceTransformer is");
    }
    for (name, prompt) in object.object("prompts")?.iter().flat_map(|prompts| prompts.map) {
        let Some(prompt) = prompt.as_str() else {
            let problem = format!("has the prompt {name:?} {}, expected a string", kind(prompt));
            return Err(FormatError::malformed(&file, problem));
        };
        steps.prompts.insert(name.clone(), prompt.to_owned());
    }
    steps.default_prompt = object.str("default_prompt_name")?.map(str::to_owned);
    if let Some(name) = steps.default_prompt.as_ref().filter(|name| !steps.prompts.contains_key(*name)) {
        return Err(FormatError::malformed(&file, format!("has no prompt {name:?}, which default_prompt_name names")));
    }
    Ok(())
}
