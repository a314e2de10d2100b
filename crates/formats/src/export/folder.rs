//! A folder that transformers loads: weights, configuration, tokenizer and template.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use serde_json::{Map, Value, json};

use super::merge::{Patch, patches};
use super::outgoing::{Outgoing, Parts};
use super::{Content, File};
use crate::gguf::Header;
use crate::json::parse_object;
use crate::open::language_name;
use crate::stored::Stored;
use crate::{Adapter, Bytes, DType, FormatError, LINEAR_MODULES, Model, Result, Source, Tensor, safetensors};

/// Files of a base's folder by their names, other than its weights.
pub type Beside = BTreeMap<String, Bytes>;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Files that are taken along as they are: the tokenizer's, templates, and what images become.
#[cfg(not(target_arch = "wasm32"))]
const TAKEN: [&str; 15] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
];
/// How the names of files begin that say under which terms the weights may be used.
#[cfg(not(target_arch = "wasm32"))]
const TERMS: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];

/// What is taken from the folder of a base beside its weights; nothing where the base is a file.
///
/// # Errors
/// Where a file cannot be read.
#[cfg(not(target_arch = "wasm32"))]
pub fn files_beside(model: &Model) -> Result<Beside> {
    if !model.path.is_dir() {
        return Ok(Beside::new());
    }
    let folder = crate::folder::Folder::on_disk(&model.path);
    let wanted = |name: &String| {
        [CONFIG, GENERATION].contains(&name.as_str())
            || TAKEN.contains(&name.as_str())
            || TERMS.iter().any(|start| name.to_uppercase().starts_with(start))
    };
    let names = folder.names().into_iter().filter(|name| wanted(name) && model.path.join(name).is_file());
    names.filter_map(|name| folder.get(&name).map(|file| Some((name, file?))).transpose()).collect()
}

/// Checks that a folder is not there yet, or empty.
///
/// # Errors
/// Where it holds something, or is a file.
#[cfg(not(target_arch = "wasm32"))]
pub fn check_free(dir: &Path) -> Result<()> {
    let is_empty = || std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if !dir.exists() || is_empty() {
        return Ok(());
    }
    let problem = "is there already and no empty folder; name a new one";
    Err(FormatError::malformed(dir.display().to_string(), problem))
}

/// Writes files to a folder that is not there yet, or empty: it appears complete or not at all.
///
/// # Errors
/// Where the folder holds something, or what [`File::write`] says.
#[cfg(not(target_arch = "wasm32"))]
pub fn save_files(dir: &Path, files: &[File]) -> Result<()> {
    check_free(dir)?;
    crate::files::new_folder(dir, |inside| {
        files.iter().try_for_each(|file| crate::write_atomic(&inside.join(&file.name), |out| file.write(out)))
    })
}

/// The files of a model with its adapter worked in: safetensors of the names, shapes and shards that
/// the base has, and what is `beside` them with what has changed.
///
/// Of a base in a GGUF file, configuration and tokenizer are made of what that file says.
///
/// Numbers are written as `dtype`, a plain format; without one as the base has them, in F16 where it
/// is quantised and BF16 where it is FP8.
///
/// # Errors
/// Where the adapter does not fit, or a GGUF base computes what no `config.json` says.
pub fn merged_files<'a>(
    model: &Model,
    adapter: Option<&'a Adapter>,
    dtype: Option<DType>,
    beside: &Beside,
) -> Result<Vec<File<'a>>> {
    let patches = patches(model, adapter)?;
    if is_gguf(model)? {
        return made_files(model, adapter, &patches, dtype);
    }
    let (mut seen, mut shards) = (BTreeSet::new(), Vec::new());
    for (name, source) in model.weight_files() {
        let mut tensors = shard(model, name, source, &patches, dtype)?;
        tensors.retain(|tensor| seen.insert(tensor.name.clone()));
        shards.push((name.clone(), tensors));
    }
    let mut files = match &*shards {
        [_] => weights(shards.into_iter().map(|(_, tensors)| tensors).collect()),
        _ => with_index(shards),
    };
    let converted = |tensor: &Tensor| tensor.is_converted();
    let named = dtype.or(model.tensors.values().any(converted).then_some(DType::BF16));
    for (name, contents) in beside.iter().filter(|(name, _)| *name != GENERATION) {
        let contents = match &**name {
            CONFIG => config(&model.path.join(CONFIG).display().to_string(), contents, named)?,
            _ => contents.to_vec(),
        };
        files.push(File { name: name.clone(), content: Content::Bytes(contents) });
    }
    files.extend(generation(model, adapter, beside)?);
    Ok(files)
}

/// Whether a model was read from a GGUF file.
pub(super) fn is_gguf(model: &Model) -> Result<bool> {
    let first = model.weight_files().first();
    first.map_or(Ok(false), |(_, source)| Ok(Header::is_gguf(&source.head(4, &model.name)?)))
}

/// The largest file of weights that is made where the base does not say how they are shared out.
const SHARD: u64 = 5_000_000_000;

/// The files of a model that came in a GGUF file.
fn made_files<'a>(
    model: &Model,
    adapter: Option<&Adapter>,
    patches: &BTreeMap<String, Patch<'a>>,
    dtype: Option<DType>,
) -> Result<Vec<File<'a>>> {
    let (mut config, shift) = model.config.to_json(&model.path.display().to_string())?;
    let widest = model.tensors.values().map(|tensor| tensor.dtype).filter(|dtype| dtype.block_len() == 1);
    let is_quantised = model.tensors.values().any(|tensor| tensor.dtype.block_len() > 1);
    let own = widest.max_by_key(|dtype| dtype.block_bytes()).filter(|_| !is_quantised);
    let dtype = dtype.or(own).unwrap_or(DType::F16);
    config.insert("torch_dtype".to_owned(), torch_name(dtype).into());
    let mut shards: Vec<Vec<Outgoing>> = Vec::new();
    let mut room = 0;
    for (name, parts) in whole(model, patches) {
        let mut tensor = Outgoing::new(name, dtype, parts);
        if tensor.shape.len() == 1 && tensor.name.ends_with("norm.weight") {
            tensor.shift = shift;
        }
        match shards.last_mut().filter(|_| tensor.byte_len() <= room) {
            Some(shard) => {
                room -= tensor.byte_len();
                shard.push(tensor);
            }
            None => {
                room = SHARD.saturating_sub(tensor.byte_len());
                shards.push(vec![tensor]);
            }
        }
    }
    let mut files = weights(shards);
    files.push(text(CONFIG, &Value::Object(config)));
    if let Some(tokenizer) = &model.tokenizer {
        let made = tokenizer.folder_files(model.chat_template.as_ref(), model.config.max_position_embeddings)?;
        files.extend(made.iter().map(|(name, value)| text(name, value)));
    }
    let mut ends = model.config.clone();
    ends.add_end_tokens(adapter.map_or(&[], |adapter| &adapter.config.end_token_ids));
    files.push(text(GENERATION, &json!({"bos_token_id": ends.bos_token_id, "eos_token_id": ends.eos_token_ids})));
    Ok(files)
}

/// Files of weights, with an index where there are several.
fn weights(shards: Vec<Vec<Outgoing>>) -> Vec<File> {
    if shards.len() == 1 {
        let files = shards.into_iter().map(|tensors| (SINGLE.to_owned(), tensors));
        return files.map(|(name, tensors)| File { name, content: Content::Safetensors(tensors) }).collect();
    }
    let count = shards.len();
    let name = |index: usize| format!("model-{:05}-of-{count:05}.safetensors", index + 1);
    let files = shards.into_iter().enumerate().map(|(index, tensors)| (name(index), tensors));
    with_index(files.collect())
}

/// Files of weights by their names, and the index that says which tensor is in which.
fn with_index(shards: Vec<(String, Vec<Outgoing>)>) -> Vec<File> {
    let tensors = || shards.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (file, tensor)));
    let total: u64 = tensors().map(|(_, tensor)| tensor.byte_len()).sum();
    let map: Map<String, Value> = tensors().map(|(file, tensor)| (tensor.name.clone(), file.as_str().into())).collect();
    let index = text(INDEX, &json!({"metadata": {"total_size": total}, "weight_map": map}));
    let files = shards.into_iter().map(|(name, tensors)| File { name, content: Content::Safetensors(tensors) });
    files.chain([index]).collect()
}

/// A model's tensors as files have them, with the modules whole that a family has in one piece.
pub(super) fn whole<'a>(model: &Model, patches: &BTreeMap<String, Patch<'a>>) -> Vec<(String, Parts<'a>)> {
    let mut all = Vec::new();
    for (name, _) in model.config.tensor_shapes() {
        let (block, map) = name.strip_suffix(".weight").and_then(|name| name.rsplit_once('.')).unwrap_or_default();
        let place = LINEAR_MODULES.iter().position(|known| *known == map);
        let holds = |place: usize| model.config.linear_modules().iter().find(|module| module.maps.contains(&place));
        let name = match place.and_then(|place| Some((place, holds(place)?))) {
            Some((place, module)) if module.maps.start != place => continue,
            Some((_, module)) => format!("{block}.{}.weight", module.name),
            None => name,
        };
        let parts = parts(model, &name, patches);
        all.push((name, parts));
    }
    all
}

fn text(name: &str, value: &Value) -> File<'static> {
    File { name: name.to_owned(), content: Content::Bytes(format!("{value:#}\n").into_bytes()) }
}

/// The tensors of one of the base's files, in the order in which they lie there.
fn shard<'a>(
    model: &Model,
    file: &str,
    source: &Source,
    patches: &BTreeMap<String, Patch<'a>>,
    dtype: Option<DType>,
) -> Result<Vec<Outgoing<'a>>> {
    let tensors = safetensors::read(file, source, |_| true, true)?;
    let mut all = Vec::new();
    for (name, tensor) in tensors {
        let inner = if model.config.sees { language_name(&name) } else { Some(with_prefix(model, &name)) };
        let parts = match inner {
            Some(inner) => parts(model, &inner, patches),
            None if matches!(tensor.stored, Some(Stored::E4M3(_))) => {
                let advice = "take the model's weights in bf16";
                return Err(FormatError::unsupported(file, format!("FP8 in tensor {name}"), advice));
            }
            None => vec![(tensor.clone(), None)],
        };
        // What is left is read into others (scales), or follows from the configuration.
        let Some((first, _)) = parts.first() else { continue };
        let own = first.dtype;
        all.push(Outgoing::new(name, dtype.unwrap_or(own), parts));
    }
    // Wider ones first, so that all lie at multiples of their size.
    all.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.block_bytes()));
    Ok(all)
}

/// A backbone's names stand without `model.`.
fn with_prefix(model: &Model, name: &str) -> String {
    let prefixed = format!("model.{name}");
    if model.tensors.contains_key(&prefixed) { prefixed } else { name.to_owned() }
}

/// The model's tensors that make up one of the base's files: itself, or the maps of a module that
/// holds several; none where it is no weight.
fn parts<'a>(model: &Model, name: &str, patches: &BTreeMap<String, Patch<'a>>) -> Parts<'a> {
    let part = |name: &str| Some((model.tensors.get(name)?.clone(), patches.get(name).copied()));
    let (block, short) = name.strip_suffix(".weight").and_then(|name| name.rsplit_once('.')).unwrap_or_default();
    match model.config.linear_modules().iter().find(|module| module.name == short) {
        Some(module) => {
            let maps = LINEAR_MODULES[module.maps.clone()].iter();
            maps.filter_map(|map| part(&format!("{block}.{map}.weight"))).collect()
        }
        None => part(name).into_iter().collect(),
    }
}

/// transformers' name of a plain format.
fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// `config.json` of weights that are all of this format, and quantised no more.
fn config(file: &str, json: &[u8], dtype: Option<DType>) -> Result<Vec<u8>> {
    let Some(dtype) = dtype else { return Ok(json.to_vec()) };
    let mut map = parse_object(file, json)?;
    map.remove("quantization_config");
    if !name_dtype(&mut map, dtype) {
        // The older name, which every release reads.
        map.insert("torch_dtype".to_owned(), torch_name(dtype).into());
    }
    for part in map.values_mut().filter_map(Value::as_object_mut) {
        name_dtype(part, dtype);
    }
    Ok(format!("{:#}\n", Value::Object(map)).into_bytes())
}

/// Names the format where a configuration does; whether it does.
fn name_dtype(map: &mut Map<String, Value>, dtype: DType) -> bool {
    let mut found = false;
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = map.get_mut(key) {
            (*value, found) = (torch_name(dtype).into(), true);
        }
    }
    found
}

/// `generation_config.json`, with the tokens that end a text of the tuned model.
fn generation(model: &Model, adapter: Option<&Adapter>, beside: &Beside) -> Result<Option<File<'static>>> {
    let given = beside.get(GENERATION);
    let more = adapter.map_or(&[][..], |adapter| &adapter.config.end_token_ids);
    if more.iter().all(|id| model.config.eos_token_ids.contains(id)) {
        let same = |json: &Bytes| File { name: GENERATION.to_owned(), content: Content::Bytes(json.to_vec()) };
        return Ok(given.map(same));
    }
    let shown = model.path.join(GENERATION).display().to_string();
    let mut map = given.map(|json| parse_object(&shown, json)).transpose()?.unwrap_or_default();
    let mut config = model.config.clone();
    config.add_end_tokens(more);
    map.insert("eos_token_id".to_owned(), json!(config.eos_token_ids));
    Ok(Some(text(GENERATION, &Value::Object(map))))
}

/// A safetensors file: the length of the header, the header, the numbers.
pub(super) fn write_safetensors(tensors: &[Outgoing], out: &mut dyn Write) -> io::Result<()> {
    let mut header = Map::new();
    // PyTorch's readers look for this entry.
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.byte_len();
        let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    // So that the numbers begin at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors.iter().try_for_each(|tensor| tensor.write(out))
}
