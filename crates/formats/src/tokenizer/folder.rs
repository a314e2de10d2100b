//! `tokenizer.json` and the settings beside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Inner};

use super::{EndRule, Ends, SPECIAL_TOKENS, Tokenizer, run};
use crate::folder::Folder;
use crate::guard::guarded;
use crate::json::{Object, kind, parse_object};
use crate::{FormatError, Result};

/// What the library is asked to do with tokens, which it normalises as it does texts.
const ADD: &str = "add its tokens";

/// The tokenizer itself, and what its post-processor puts around a text. `rebuilt` changes the file
/// first, where the class that loads it would.
pub(super) fn parse(
    file: &str,
    json: &[u8],
    rebuilt: impl FnOnce(&mut Map<String, Value>) -> Result<bool>,
) -> Result<(Inner, Ends)> {
    let mut map = parse_object(file, json)?;
    // Dropout of merges is for training a model's robustness; here the same text must always be the
    // same tokens.
    let dropout = map.get_mut("model").and_then(|model| model.get_mut("dropout")).filter(|value| !value.is_null());
    let changed = dropout.map(Value::take).is_some() | rebuilt(&mut map)?;
    if let Some(normalizer) = map.get("normalizer") {
        check_charsmap(file, normalizer)?;
    }
    let ends = post_processor(file, map.get("post_processor").unwrap_or(&Value::Null))?;
    let unreadable =
        |e: &dyn std::fmt::Display| FormatError::malformed(file, format!("is no tokenizer.json that can be read: {e}"));
    let json = if changed { Cow::Owned(serde_json::to_vec(&map).map_err(|e| unreadable(&e))?) } else { json.into() };
    let read = guarded(|| Inner::from_bytes(json));
    let mut inner = read
        .map_err(|panic| unreadable(&format!("its parts contradict one another ({panic})")))?
        .map_err(|e| unreadable(&e))?;
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

/// Checks that SentencePiece's table of characters is as long as it says: the library makes room for
/// what it says.
fn check_charsmap(file: &str, normalizer: &Value) -> Result<()> {
    for step in normalizer["normalizers"].as_array().into_iter().flatten() {
        check_charsmap(file, step)?;
    }
    let Some(table) = normalizer["precompiled_charsmap"].as_str() else { return Ok(()) };
    // Eight letters are whole bytes.
    let head = table.get(..8).and_then(|head| STANDARD.decode(head).ok());
    let says = match head.as_deref().and_then(<[u8]>::first_chunk) {
        Some(size) if u64::from(u32::from_le_bytes(*size)) <= table.len() as u64 => return Ok(()),
        Some(size) => format!("says to hold {} bytes", u32::from_le_bytes(*size)),
        None => "does not say how much it holds".to_owned(),
    };
    Err(FormatError::malformed(file, format!("has a precompiled_charsmap of {} letters that {says}", table.len())))
}

/// What transformers' LlamaTokenizer makes of a file: whatever it says, a mark in place of each
/// space, and one before the first word (`legacy`: before every stretch between special tokens;
/// `add_prefix_space` false: nowhere).
fn rebuild_as_llama(map: &mut Map<String, Value>, config: &Object) -> Result<bool> {
    let prefix = config.bool("add_prefix_space")?.unwrap_or(true);
    let scheme = match (prefix, config.bool("legacy")?.unwrap_or(false)) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let Some(model) = map.get_mut("model").and_then(Value::as_object_mut) else {
        return Ok(false);
    };
    if model.get("type").and_then(Value::as_str) != Some("BPE") {
        return Ok(false);
    }
    for (key, value) in [("fuse_unk", true.into()), ("byte_fallback", true.into()), ("unk_token", Value::Null)] {
        model.insert(key.to_owned(), value);
    }
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    map.insert("normalizer".to_owned(), Value::Null);
    let marks = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    map.insert("pre_tokenizer".to_owned(), marks);
    map.insert("decoder".to_owned(), json!({"type": "Sequence", "decoders": decoders}));
    Ok(true)
}

/// What transformers' BertTokenizer makes of a file: it normalises as its settings say, whatever
/// the file says.
fn rebuild_as_bert(map: &mut Map<String, Value>, config: &Object) -> Result<bool> {
    let normalizer = json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": config.bool("tokenize_chinese_chars")?.unwrap_or(true),
        "strip_accents": config.bool("strip_accents")?,
        "lowercase": config.bool("do_lower_case")?.unwrap_or(true),
    });
    let pre_tokenizer = json!({"type": "BertPreTokenizer"});
    let is_wordpiece =
        map.get("model").and_then(|model| model.get("type")).and_then(Value::as_str) == Some("WordPiece");
    if !is_wordpiece || (map.get("normalizer") == Some(&normalizer) && map.get("pre_tokenizer") == Some(&pre_tokenizer))
    {
        return Ok(false);
    }
    map.insert("normalizer".to_owned(), normalizer);
    map.insert("pre_tokenizer".to_owned(), pre_tokenizer);
    Ok(true)
}

/// What transformers' RobertaTokenizer makes of a file: bytes, with a space before a text where its
/// settings say so, nothing normalised, and its own tokens around a text.
fn rebuild_as_roberta(file: &str, map: &mut Map<String, Value>, config: &Object, named: &Named) -> Result<bool> {
    let Some(model) = model_of_type(map, "BPE") else {
        return Ok(false);
    };
    for key in ["fuse_unk", "byte_fallback", "ignore_merges"] {
        model.insert(key.to_owned(), false.into());
    }
    for key in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        model.insert(key.to_owned(), Value::Null);
    }
    let prefix = config.bool("add_prefix_space")?.unwrap_or(false);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    map.insert("normalizer".to_owned(), Value::Null);
    map.insert("pre_tokenizer".to_owned(), bytes.clone());
    map.insert("decoder".to_owned(), bytes);
    surround(file, map, [named.get("cls_token", "<s>"), named.get("sep_token", "</s>")])
}

/// What transformers' XLMRobertaTokenizer makes of a file: of all that normalises SentencePiece's
/// own table alone, words by white space with a mark before each, and its own tokens around a text.
fn rebuild_as_xlm_roberta(file: &str, map: &mut Map<String, Value>, config: &Object, named: &Named) -> Result<bool> {
    let Some(model) = model_of_type(map, "Unigram") else {
        return Ok(false);
    };
    model.insert("unk_id".to_owned(), 3.into());
    model.insert("byte_fallback".to_owned(), false.into());
    let normalizer = map.get("normalizer").cloned().unwrap_or_default();
    let steps = match normalizer.get("normalizers").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None => vec![normalizer],
    };
    let table = steps.into_iter().find(|step| step.get("type").and_then(Value::as_str) == Some("Precompiled"));
    map.insert("normalizer".to_owned(), table.unwrap_or_default());
    let scheme = if config.bool("add_prefix_space")?.unwrap_or(true) { "always" } else { "never" };
    let marks = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let words = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]});
    map.insert("pre_tokenizer".to_owned(), words);
    map.insert("decoder".to_owned(), marks);
    surround(file, map, [named.get("bos_token", "<s>"), named.get("eos_token", "</s>")])
}

fn model_of_type<'m>(map: &'m mut Map<String, Value>, kind: &str) -> Option<&'m mut Map<String, Value>> {
    let model = map.get_mut("model")?.as_object_mut()?;
    (model.get("type").and_then(Value::as_str) == Some(kind)).then_some(model)
}

/// Puts two tokens around a text, whatever the file's post-processor does.
fn surround(file: &str, map: &mut Map<String, Value>, tokens: [&str; 2]) -> Result<bool> {
    let id = |token: &str| {
        let added = map.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let added = added.filter(|added| added["content"] == token).find_map(|added| added["id"].as_u64());
        let place = |list: &Vec<Value>| list.iter().position(|piece| piece[0] == token).map(|place| place as u64);
        let listed = || match &map.get("model")?["vocab"] {
            Value::Array(list) => place(list),
            vocabulary => vocabulary.get(token)?.as_u64(),
        };
        added.or_else(listed).ok_or_else(|| {
            let advice = "it stands around every text; use the tokenizer.json that came with the model";
            FormatError::missing(file, format!("token {token}"), advice)
        })
    };
    let [first, last] = tokens;
    let around = json!({"type": "BertProcessing", "cls": [first, id(first)?], "sep": [last, id(last)?]});
    map.insert("post_processor".to_owned(), around);
    Ok(true)
}

/// Special tokens by the names that a configuration gives them.
struct Named(BTreeMap<String, String>);

impl Named {
    fn get<'n>(&'n self, name: &str, default: &'n str) -> &'n str {
        self.0.get(name).map_or(default, String::as_str)
    }
}

/// Settings that change the tokens and are not implemented, by the classes that obey them.
fn refuse_settings(config: &Object, class: &str) -> Result<()> {
    let refuse = |what: &str, advice: &str| Err(FormatError::unsupported(config.file, what, advice));
    if config.bool("split_special_tokens")? == Some(true) {
        return refuse(
            "split_special_tokens true",
            "special tokens that a text spells are taken whole; set it to false",
        );
    }
    if class == "Qwen2Tokenizer" && config.bool("add_prefix_space")? == Some(true) {
        return refuse("add_prefix_space true", "texts get no space before them; set it to false");
    }
    Ok(())
}

/// The class that loads a folder's tokenizer, without the `Fast` of old: that of its
/// configurations, else its model type's.
fn class(config: &Object, model: &Object) -> String {
    let text = |object: &Object, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let named = text(config, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
    let of_type = || match text(model, "model_type").as_deref() {
        Some("bert" | "nomic_bert") => "BertTokenizer".to_owned(),
        Some("roberta") => "RobertaTokenizer".to_owned(),
        Some("xlm-roberta") => "XLMRobertaTokenizer".to_owned(),
        Some("qwen2" | "qwen3") => "Qwen2Tokenizer".to_owned(),
        _ => String::new(),
    };
    // transformers takes a ModernBERT's file as it is, whatever class is named.
    let as_it_is = text(model, "model_type").as_deref() == Some("modernbert");
    let class = named.filter(|_| !as_it_is).unwrap_or_else(of_type);
    class.strip_suffix("Fast").unwrap_or(&class).to_owned()
}

/// Whether AutoTokenizer loads a folder by LlamaTokenizer, which does not take the pipeline of its
/// tokenizer.json: where the configurations name it, but for byte-level files and for model types
/// that have a class of their own.
fn is_llama(json: &[u8], config: &Object, model: &Object) -> bool {
    let text = |object: &Object, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let model_type = text(model, "model_type").unwrap_or_default();
    let byte_level = || json.windows(11).any(|word| word == b"\"ByteLevel\"");
    class(config, model) == "LlamaTokenizer" && !matches!(&*model_type, "mistral" | "qwen2") && !byte_level()
}

/// Checks that added tokens have the ids that the file says: the library gives them the next free
/// ones, whatever it says.
fn check_added(file: &str, inner: &Inner, added: Option<&Value>) -> Result<()> {
    for token in added.and_then(Value::as_array).into_iter().flatten() {
        let (content, id) = (token["content"].as_str(), token["id"].as_u64());
        // The library passes over empty ones.
        let Some(content) = content.filter(|content| !content.is_empty()) else {
            continue;
        };
        check_id(file, inner, content, id)?;
    }
    Ok(())
}

fn check_id(file: &str, inner: &Inner, content: &str, id: Option<u64>) -> Result<()> {
    let found = inner.token_to_id(content);
    if found.map(u64::from) == id {
        return Ok(());
    }
    Err(FormatError::Mismatch {
        file: file.to_string(),
        what: format!("id of the added token {content:?}"),
        found: id.map_or("none".to_string(), |id| id.to_string()),
        expected: found.map_or("none".to_string(), |id| id.to_string()),
        advice: "ids leave no gaps and none is there twice; use the tokenizer.json that came with the model"
            .to_string(),
    })
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
    /// The tokenizer of a model's folder, `None` where there is no `tokenizer.json`; the one that
    /// transformers loads.
    pub(crate) fn from_folder(folder: &Folder) -> Result<Option<Self>> {
        let Some(json) = folder.get("tokenizer.json")? else {
            return Ok(None);
        };
        let object = |name: &str| -> Result<(String, Map<String, Value>)> {
            let file = folder.file(name);
            let map = folder.get(name)?.map(|json| parse_object(&file, &json)).transpose()?;
            Ok((file, map.unwrap_or_default()))
        };
        let (file, map) = object("tokenizer_config.json")?;
        let config = Object::new(&file, &map);
        let (older_file, older_map) = object("special_tokens_map.json")?;
        let older = Object::new(&older_file, &older_map);
        let (model_file, model_map) = object("config.json")?;
        let model = Object::new(&model_file, &model_map);

        let class = class(&config, &model);
        refuse_settings(&config, &class)?;
        let described = config.get("added_tokens_decoder");
        let mut named = BTreeMap::new();
        for name in SPECIAL_TOKENS {
            let (first, second) = if described.is_some() { (&config, &older) } else { (&older, &config) };
            let token = special_token(first, name)?.or(special_token(second, name)?);
            named.extend(token.map(|token| (name.to_owned(), token.to_owned())));
        }
        let named = Named(named);
        let tokenizer_file = folder.file("tokenizer.json");
        let rebuilt = |map: &mut Map<String, Value>| match &*class {
            _ if is_llama(&json, &config, &model) => rebuild_as_llama(map, &config),
            "BertTokenizer" => rebuild_as_bert(map, &config),
            "RobertaTokenizer" => rebuild_as_roberta(&tokenizer_file, map, &config, &named),
            "XLMRobertaTokenizer" => rebuild_as_xlm_roberta(&tokenizer_file, map, &config, &named),
            _ => Ok(false),
        };
        // Its post-processor alone says what stands around a text: add_bos_token and add_eos_token
        // of the configuration are for tokenizers that have no such file.
        let (mut inner, ends) = parse(&tokenizer_file, &json, rebuilt)?;
        let Named(named) = named;
        add_described(&mut inner, &file, described)?;
        if described.is_none() {
            let (file, tokens) = object("added_tokens.json")?;
            add_listed(&mut inner, &file, &tokens, &named)?;
        }
        let extra =
            ["extra_special_tokens", "additional_special_tokens"].map(|key| more_special_tokens(config.get(key)));
        let special = named.values().cloned().chain(extra.into_iter().flatten());
        // What the vocabulary lacks would get an id beyond the embedding; nothing reads it.
        let special = special.filter(|token| inner.token_to_id(token).is_some());
        let special: Vec<AddedToken> = special.map(|token| AddedToken::from(token, true).normalized(false)).collect();
        let known: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
        let special: Vec<AddedToken> = special.into_iter().filter(|t| !known.contains(&t.content)).collect();
        run(ADD, || Ok(inner.add_special_tokens(&special)))?;
        Ok(Some(Self::new(inner, named, EndRule::Ids(ends))))
    }
}

/// Adds the tokens of `added_tokens_decoder`, which `tokenizer.json` need not repeat.
fn add_described(inner: &mut Inner, file: &str, described: Option<&Value>) -> Result<()> {
    let malformed = |what: &str| FormatError::malformed(file, format!("added_tokens_decoder {what}"));
    let Some(described) = described else { return Ok(()) };
    let map = described.as_object().ok_or_else(|| malformed(&format!("is {}, expected an object", kind(described))))?;
    let mut tokens = BTreeMap::new();
    for (id, token) in map {
        let id: u32 = id.parse().map_err(|_| malformed(&format!("has the key {id:?}, expected a token id")))?;
        let content = token.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| malformed(&format!("has no content for token {id}")))?;
        let flag = |key: &str| token.get(key).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let added = AddedToken::from(content.to_owned(), special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special));
        tokens.insert(id, added);
    }
    add(inner, file, tokens)
}

/// Adds the tokens of the older `added_tokens.json`: their ids by what they say.
fn add_listed(
    inner: &mut Inner,
    file: &str,
    listed: &Map<String, Value>,
    named: &BTreeMap<String, String>,
) -> Result<()> {
    let mut tokens = BTreeMap::new();
    for (content, id) in listed {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            FormatError::malformed(file, format!("gives {content:?} {}, expected a token id", kind(id)))
        })?;
        let special = named.values().any(|token| token == content);
        tokens.insert(id, AddedToken::from(content.clone(), special).normalized(!special));
    }
    add(inner, file, tokens)
}

/// Adds tokens in the order of their ids, those that are there already left as they are.
fn add(inner: &mut Inner, file: &str, tokens: BTreeMap<u32, AddedToken>) -> Result<()> {
    let known: BTreeSet<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    for (id, token) in tokens.into_iter().filter(|(_, token)| !token.content.is_empty()) {
        let content = token.content.clone();
        if !known.contains(&content) {
            run(ADD, || Ok(inner.add_tokens(&[token])))?;
        }
        check_id(file, inner, &content, Some(id.into()))?;
    }
    Ok(())
}

/// Further special tokens, written as a list or as an object, each as a string or an object with
/// its content.
fn more_special_tokens(value: Option<&Value>) -> Vec<String> {
    let tokens: Vec<&Value> = match value {
        Some(Value::Array(tokens)) => tokens.iter().collect(),
        Some(Value::Object(tokens)) => tokens.values().collect(),
        _ => Vec::new(),
    };
    let content = |token: &&Value| token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned);
    tokens.iter().filter_map(content).collect()
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
