//! `tokenizer.json` and the settings beside it.

use serde_json::{Map, Value};
use tokenizers::Tokenizer as Inner;

use super::{Ends, Tokenizer};
use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

pub(super) fn parse(file: &str, json: &[u8]) -> Result<Inner> {
    let mut inner = Inner::from_bytes(json).map_err(|e| {
        FormatError::malformed(file, format!("is no tokenizer.json that can be read: {e}"))
    })?;
    // Left over from whoever saved the file; lengths are the caller's business.
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|e| FormatError::malformed(file, format!("cannot switch off truncation: {e}")))?;
    Ok(inner)
}

impl Tokenizer {
    /// The tokenizer of a model's folder, `None` where there is no `tokenizer.json`.
    pub(crate) fn from_folder(folder: &Folder) -> Result<Option<Self>> {
        let Some(json) = folder.get("tokenizer.json")? else {
            return Ok(None);
        };
        let inner = parse(&folder.file("tokenizer.json"), &json)?;
        let file = folder.file("tokenizer_config.json");
        let map = match folder.get("tokenizer_config.json")? {
            Some(json) => parse_object(&file, &json)?,
            None => Map::new(),
        };
        let config = Object::new(&file, &map);
        let older_file = folder.file("special_tokens_map.json");
        let older_map = match folder.get("special_tokens_map.json")? {
            Some(json) => parse_object(&older_file, &json)?,
            None => Map::new(),
        };
        let older = Object::new(&older_file, &older_map);
        let token = |key: &str| -> Result<Option<&str>> {
            Ok(special_token(&config, key)?.or(special_token(&older, key)?))
        };
        let (bos, eos) = (token("bos_token")?, token("eos_token")?);
        let (add_bos, add_eos) = (config.bool("add_bos_token")?, config.bool("add_eos_token")?);
        // As in transformers: either setting replaces the file's own post-processor.
        let ends = match (add_bos, add_eos) {
            (None, None) => Ends::PostProcessor,
            (bos, eos) => Ends::Explicit {
                bos: bos.unwrap_or(false),
                eos: eos.unwrap_or(false),
            },
        };
        Ok(Some(Self::new(inner, bos, eos, ends)))
    }
}

/// A special token, written as a string or as an object with its content.
fn special_token<'a>(object: &Object<'a>, key: &str) -> Result<Option<&'a str>> {
    let Some(value) = object.get(key) else {
        return Ok(None);
    };
    let content = match value {
        Value::Object(map) => map.get("content"),
        other => Some(other),
    };
    match content.and_then(Value::as_str) {
        Some(token) => Ok(Some(token)),
        None => Err(FormatError::malformed(
            object.file,
            format!(
                "{key} is {}, expected a string or an object with its content",
                kind(value)
            ),
        )),
    }
}
