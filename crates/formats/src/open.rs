//! Opening a model: from a folder as transformers saves it, or from a GGUF file.

use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use crate::folder::{Folder, load_weights};
use crate::fp8::Fp8;
use crate::gguf::{self, Gguf, Value};
use crate::model::{check_tensors, check_vocabulary, split_modules};
use crate::{ChatTemplate, FormatError, Model, ModelConfig, Result, Source, Tensor, Tokenizer};

impl Model {
    /// Opens a folder (`config.json`, safetensors, `tokenizer.json`) or a `.gguf` file; any part of a
    /// split one stands for all, which lie beside it.
    ///
    /// Files are mapped, not read: weights cost memory when they are used.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|e| FormatError::io("open", path, e))?;
        let shown = path.display().to_string();
        let name = display_name(path);
        let mut model = if metadata.is_dir() {
            load_folder(&name, &Folder::on_disk(path))?
        } else {
            let bytes = crate::Bytes::map(path)?;
            if !gguf::Header::is_gguf(&bytes) {
                return Err(FormatError::unsupported(
                    shown,
                    "a model in a single file that is not GGUF",
                    "give a .gguf file, or the folder that holds config.json and *.safetensors",
                ));
            }
            let file_name = path.file_name().map_or_else(|| shown.clone().into(), |name| name.to_string_lossy());
            let folder = Folder::on_disk(path.parent().unwrap_or(Path::new("")));
            load_gguf(&name, &Gguf::open(&shown, &file_name, bytes.into(), |part| folder.source(part))?)?
        };
        model.path = path.to_path_buf();
        Ok(model)
    }

    /// Makes a model from a GGUF file wherever it is; `name` names it in messages. Reads the header
    /// alone.
    pub fn from_gguf(name: &str, file: impl Into<Source>) -> Result<Self> {
        load_gguf(name, &Gguf::open(name, name, file.into(), |_| Ok(None))?)
    }

    /// As [`Self::from_gguf`], of all parts of a split file by their names.
    ///
    /// # Errors
    /// Also where there is none, or one that is no part of the model.
    pub fn from_gguf_parts<S: Into<Source>>(name: &str, parts: BTreeMap<String, S>) -> Result<Self> {
        let parts: BTreeMap<String, Source> = parts.into_iter().map(|(name, part)| (name, part.into())).collect();
        let Some((first, source)) = parts.first_key_value() else {
            return Err(FormatError::missing(name, "a .gguf file", "give all parts of the model"));
        };
        let gguf = Gguf::open(first, first, source.clone(), |part| Ok(parts.get(part).cloned()))?;
        let used = gguf.sources();
        if let Some(other) = parts.keys().find(|part| !used.iter().any(|(name, _)| name == *part)) {
            let advice = "give the parts of one model alone";
            return Err(FormatError::unsupported(other, format!("a file beside the model of {first}"), advice));
        }
        load_gguf(name, &gguf)
    }

    /// Makes a model from the files of a folder, by file name. Weights stay where they are.
    pub fn from_folder<S: Into<Source>>(name: &str, files: BTreeMap<String, S>) -> Result<Self> {
        load_folder(name, &Folder::in_memory(name, files))
    }
}

/// The last part of a path; of what it stands for where it ends in dots. A folder in the hub's
/// cache, whose own name is a commit, has the name of its model there.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn display_name(path: &Path) -> String {
    if path.is_dir()
        && let Some(place) = crate::HubPlace::of(path)
    {
        return place.name().to_owned();
    }
    let whole = path.canonicalize().ok();
    let name = path.file_name().or(whole.as_ref().and_then(|p| p.file_name()));
    name.map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// Loads a model from `config.json`, safetensors and, where they are there, tokenizer and template.
fn load_folder(name: &str, folder: &Folder) -> Result<Model> {
    let json = folder.require("config.json", &no_config_advice(folder))?;
    let mut config = ModelConfig::from_json(&folder.file("config.json"), &json)?;
    if let Some(json) = folder.get("generation_config.json")? {
        config.add_generation_config(&folder.file("generation_config.json"), &json)?;
    }
    let fp8 = Fp8::from_json(&folder.file("config.json"), &json)?;
    let (mut tensors, weight_files) = load_weights(folder, |_| true, fp8.is_some())?;
    let notes = fp8.map(|fp8| fp8.scale(&folder.shown(), &mut tensors)).transpose()?;
    let (mut tensors, left_out) =
        if config.sees { language_part(tensors) } else { (with_prefix(tensors), BTreeMap::new()) };
    tensors.retain(|name, _| !name.ends_with(".self_attn.rotary_emb.inv_freq"));
    let headless = settle_head(&mut config, &mut tensors)?;
    split_modules(&folder.shown(), &config, &mut tensors)?;
    check_tensors(&folder.shown(), &config, &tensors)?;

    let tokenizer = Tokenizer::from_folder(folder)?;
    if let Some(tokenizer) = &tokenizer {
        check_vocabulary(&folder.file("tokenizer.json"), tokenizer, config.vocab_size)?;
        // The tokenizer's own end token is the one that texts were trained to end with.
        if let Some(eos) = tokenizer.eos_token_id() {
            config.eos_token_ids.retain(|&id| id != eos);
            config.eos_token_ids.insert(0, eos);
        }
    }
    config.validate(&folder.file("config.json"))?;
    let chat_template = ChatTemplate::from_folder(folder, tokenizer.as_ref())?;
    let mut model = Model::assemble(name, config, tensors, tokenizer, chat_template, weight_files);
    model.left_out = left_out;
    model.notes = notes.unwrap_or_default();
    Ok(model.with_sentence(crate::encoder::sentence_of_decoder(folder), headless))
}

/// The tensors of the language part of a model that also sees, by the names of a language model;
/// and of what is left, how many tensors and bytes each part has.
fn language_part(tensors: BTreeMap<String, Tensor>) -> (BTreeMap<String, Tensor>, BTreeMap<String, (usize, usize)>) {
    let (mut language, mut left_out) = (BTreeMap::new(), BTreeMap::<_, (usize, usize)>::new());
    for (name, mut tensor) in tensors {
        match language_name(&name) {
            Some(inner) => tensor.name = inner,
            None => {
                let name = name.strip_prefix("model.").unwrap_or(&name);
                let part = name.split('.').next().unwrap_or_default().to_string();
                let (count, bytes) = left_out.entry(part).or_default();
                (*count, *bytes) = (*count + 1, *bytes + tensor.byte_len());
                continue;
            }
        }
        language.insert(tensor.name.clone(), tensor);
    }
    (language, left_out)
}

/// What a language model of its own calls a tensor of a model that also sees; `None` where it is of
/// another part.
pub(crate) fn language_name(name: &str) -> Option<String> {
    // As transformers 5 names the parts, and as it did before.
    let name = name.strip_prefix("model.").unwrap_or(name);
    let inner = name.strip_prefix("language_model.").or(name.strip_prefix("lm_head.").map(|_| name))?;
    let is_head = inner.starts_with("lm_head.");
    Some(if is_head { inner.to_string() } else { format!("model.{}", inner.strip_prefix("model.").unwrap_or(inner)) })
}

/// Names as a language model's, where a backbone's stand without `model.`.
fn with_prefix(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    if !tensors.contains_key("embed_tokens.weight") {
        return tensors;
    }
    let renamed = tensors.into_iter().map(|(name, mut tensor)| {
        if name != "lm_head.weight" {
            tensor.name = format!("model.{name}");
        }
        (tensor.name.clone(), tensor)
    });
    renamed.collect()
}

/// Finds the head. A configuration may tie it to the embedding where the file has one of its own:
/// as in transformers, that one counts if it differs. A backbone has none: the embedding takes its
/// place, and whoever needs a head is told.
fn settle_head(config: &mut ModelConfig, tensors: &mut BTreeMap<String, Tensor>) -> Result<bool> {
    const HEAD: &str = "lm_head.weight";
    match (tensors.get(HEAD), tensors.get("model.embed_tokens.weight")) {
        (Some(head), Some(embedding)) if config.tie_word_embeddings => {
            if same_values(head, embedding)? {
                tensors.remove(HEAD);
            } else {
                config.tie_word_embeddings = false;
            }
            Ok(false)
        }
        (None, _) if !config.tie_word_embeddings => {
            config.tie_word_embeddings = true;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether two tensors hold the same bytes; they are read in pieces, for each may be a gigabyte.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    const ROWS: usize = 1024;
    if a.dtype != b.dtype || a.shape != b.shape {
        return Ok(false);
    }
    for start in (0..a.rows()).step_by(ROWS) {
        let rows = start..(start + ROWS).min(a.rows());
        if *a.read_rows(rows.clone())? != *b.read_rows(rows)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn no_config_advice(folder: &Folder) -> String {
    match folder.names().iter().find(|n| n.ends_with(".gguf")) {
        Some(file) => format!("to use {file} give its own path"),
        None => "give a folder with config.json, *.safetensors and tokenizer.json, or a .gguf file".to_string(),
    }
}

/// Loads a model from a GGUF file, or from its parts.
fn load_gguf(name: &str, gguf: &Gguf) -> Result<Model> {
    let (file, header) = (gguf.file(), gguf.header());
    let config = crate::config::model_config(gguf)?;
    let tensors = gguf::load_tensors(gguf, &config)?;
    let tokenizer = Tokenizer::from_gguf(file, header)?;
    if let Some(tokenizer) = &tokenizer {
        check_vocabulary(file, tokenizer, config.vocab_size)?;
    }
    let chat_template = match header.get("tokenizer.chat_template").and_then(Value::as_str) {
        None => None,
        Some(source) => {
            let none = BTreeMap::new();
            let special = tokenizer.as_ref().map_or(&none, Tokenizer::special_tokens);
            Some(ChatTemplate::new(source, special)?)
        }
    };
    let sentence = gguf::sentence(file, header);
    let model = Model::assemble(name, config, tensors, tokenizer, chat_template, gguf.sources());
    Ok(model.with_sentence(sentence, false))
}
