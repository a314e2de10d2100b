//! `tokenizer.json` and the settings beside it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::{PostProcessorWrapper, Tokenizer as Inner};

use super::{EndRule, Ends, SPECIAL_TOKENS, Tokenizer};
use crate::folder::Folder;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

/// The tokenizer itself, and what its post-processor puts around a text.
pub(super) fn parse(file: &str, json: &[u8]) -> Result<(Inner, Ends)> {
    let map = parse_object(file, json)?;
    let ends = post_processor(file, map.get("post_processor").unwrap_or(&Value::Null))?;
    let mut inner = Inner::from_bytes(json)
        .map_err(|e| FormatError::malformed(file, format!("is no tokenizer.json that can be read: {e}")))?;
    check_added(file, &inner, map.get("added_tokens"))?;
    // Left over from whoever saved the file; lengths are the caller's business.
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|e| FormatError::malformed(file, format!("cannot switch off truncation: {e}")))?;
    // Done here: the library's own trusts that its tokens are there.
    inner.with_post_processor(None::<PostProcessorWrapper>);
    Ok((inner, ends))
}

/// Checks that added tokens have the ids that the file says: the library gives them the next free ones, whatever it says.
fn check_added(file: &str, inner: &Inner, added: Option<&Value>) -> Result<()> {
    for token in added.and_then(Value::as_array).into_iter().flatten() {
        let (content, id) = (token["content"].as_str(), token["id"].as_u64());
        // The library passes over empty ones.
        let Some(content) = content.filter(|content| !content.is_empty()) else {
            continue;
        };
        let found = inner.token_to_id(content);
        if found.map(u64::from) != id {
            return Err(FormatError::Mismatch {
                file: file.to_string(),
                what: format!("id of the added token {content:?}"),
                found: id.map_or("none".to_string(), |id| id.to_string()),
                expected: found.map_or("none".to_string(), |id| id.to_string()),
                advice: "ids leave no gaps and none is there twice; use the tokenizer.json that came with the model"
                    .to_string(),
            });
        }
    }
    Ok(())
}

/// Ids before and after a single text, as the file's post-processor puts them.
fn post_processor(file: &str, value: &Value) -> Result<Ends> {
    let malformed = || {
        let problem = format!("post_processor is {}, which does not make sense", kind(value));
        FormatError::malformed(file, problem)
    };
    if value.is_null() {
        return Ok(Ends::default());
    }
    let id = |pair: &str| {
        let id = value.get(pair)?.get(1)?.as_u64()?;
        u32::try_from(id).ok()
    };
    match value.get("type").and_then(Value::as_str) {
        // Moves offsets, which nothing here uses.
        Some("ByteLevel") => Ok(Ends::default()),
        Some("TemplateProcessing") => template(value).ok_or_else(malformed),
        Some("BertProcessing" | "RobertaProcessing") => {
            let (first, last) = (id("cls").ok_or_else(malformed)?, id("sep").ok_or_else(malformed)?);
            Ok(Ends { first: vec![first], last: vec![last] })
        }
        Some("Sequence") => {
            let steps = value.get("processors").and_then(Value::as_array).ok_or_else(malformed)?;
            let mut ends = Ends::default();
            for step in steps {
                let outer = post_processor(file, step)?;
                ends.first.splice(0..0, outer.first);
                ends.last.extend(outer.last);
            }
            Ok(ends)
        }
        Some(other) => Err(FormatError::unsupported(
            file,
            format!("post-processor {other:?}"),
            "supported ones are TemplateProcessing, ByteLevel, BertProcessing and RobertaProcessing",
        )),
        None => Err(malformed()),
    }
}

/// `TemplateProcessing`'s template for one text: special tokens around the sequence A.
fn template(value: &Value) -> Option<Ends> {
    let mut ends = Ends::default();
    let mut after = false;
    for piece in value.get("single")?.as_array()? {
        if let Some(sequence) = piece.get("Sequence") {
            if after || sequence.get("id")?.as_str()? != "A" {
                return None;
            }
            after = true;
            continue;
        }
        let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
        for id in value.get("special_tokens")?.get(name)?.get("ids")?.as_array()? {
            let id = u32::try_from(id.as_u64()?).ok()?;
            if after { ends.last.push(id) } else { ends.first.push(id) }
        }
    }
    after.then_some(ends)
}

impl Tokenizer {
    /// The tokenizer of a model's folder, `None` where there is no `tokenizer.json`.
    pub(crate) fn from_folder(folder: &Folder) -> Result<Option<Self>> {
        let Some(json) = folder.get("tokenizer.json")? else {
            return Ok(None);
        };
        let (inner, ends) = parse(&folder.file("tokenizer.json"), &json)?;
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
        let token =
            |key: &str| -> Result<Option<&str>> { Ok(special_token(&config, key)?.or(special_token(&older, key)?)) };
        let mut named = BTreeMap::new();
        for name in SPECIAL_TOKENS {
            named.extend(token(name)?.map(|token| (name.to_owned(), token.to_owned())));
        }
        let (add_bos, add_eos) = (config.bool("add_bos_token")?, config.bool("add_eos_token")?);
        // As in transformers: either setting replaces the file's own post-processor.
        let rule = match (add_bos, add_eos) {
            (None, None) => EndRule::Ids(ends),
            (bos, eos) => EndRule::Tokens { bos: bos.unwrap_or(false), eos: eos.unwrap_or(false) },
        };
        Ok(Some(Self::new(inner, named, rule)))
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
            format!("{key} is {}, expected a string or an object with its content", kind(value)),
        )),
    }
}
