//! A folder of files, as transformers saves a model, and the weights in it.

use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::{Path, PathBuf};

use crate::{Bytes, FormatError, Result, Source, Tensor, safetensors};

/// Where files come from: a folder on disk, or contents already in memory.
pub(crate) enum Folder {
    #[cfg(not(target_arch = "wasm32"))]
    Disk(PathBuf),
    Memory {
        name: String,
        files: BTreeMap<String, Source>,
    },
}

impl Folder {
    #[cfg(not(target_arch = "wasm32"))]
    pub fn on_disk(path: &Path) -> Self {
        Self::Disk(path.to_path_buf())
    }

    pub fn in_memory<S: Into<Source>>(name: &str, files: BTreeMap<String, S>) -> Self {
        let files = files.into_iter();
        Self::Memory { name: name.to_string(), files: files.map(|(name, file)| (name, file.into())).collect() }
    }

    /// A folder in this one; itself for an empty name.
    pub fn below(&self, name: &str) -> Self {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) if name.is_empty() => Self::Disk(path.clone()),
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) => Self::Disk(path.join(name)),
            Self::Memory { name: folder, files } if name.is_empty() => Self::in_memory(folder, files.clone()),
            Self::Memory { name: folder, files } => {
                let start = format!("{name}/");
                let below = files
                    .iter()
                    .filter_map(|(path, contents)| Some((path.strip_prefix(&start)?.to_string(), contents.clone())));
                Self::in_memory(&format!("{folder}/{name}"), below.collect())
            }
        }
    }

    /// How the folder is named in messages.
    pub fn shown(&self) -> String {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) => path.display().to_string(),
            Self::Memory { name, .. } => name.clone(),
        }
    }

    /// How a file of the folder is named in messages.
    pub fn file(&self, name: &str) -> String {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) => path.join(name).display().to_string(),
            Self::Memory { name: folder, .. } => format!("{folder}/{name}"),
        }
    }

    /// A file's contents, where it is there.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.source(name)?.map(|source| source.bytes(&self.file(name))).transpose()
    }

    /// Where a file's contents are, where it is there; nothing is read yet.
    pub fn source(&self, name: &str) -> Result<Option<Source>> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) => {
                let path = path.join(name);
                if path.exists() { Bytes::map(&path).map(|bytes| Some(bytes.into())) } else { Ok(None) }
            }
            Self::Memory { files, .. } => Ok(files.get(name).cloned()),
        }
    }

    /// A file's contents, or an error that says what to do about its absence.
    pub fn require(&self, name: &str, advice: &str) -> Result<Bytes> {
        self.get(name)?.ok_or_else(|| FormatError::missing(self.shown(), name, advice))
    }

    /// Names of the files in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Disk(path) => {
                let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
                let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
                names.sort_unstable();
                names
            }
            Self::Memory { files, .. } => files.keys().cloned().collect(),
        }
    }
}

type Weights = (BTreeMap<String, Tensor>, Vec<(String, Source)>);

/// The tensors that are wanted by name, and the files they came in; those in FP8, where `fp8` is
/// set, without their scales.
pub(crate) fn load_weights(folder: &Folder, wanted: fn(&str) -> bool, fp8: bool) -> Result<Weights> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    if let Some(source) = folder.source(SINGLE)? {
        let tensors = safetensors::read(&folder.file(SINGLE), &source, wanted, fp8)?;
        return Ok((tensors, vec![(SINGLE.to_string(), source)]));
    }
    let Some(json) = folder.get(INDEX)? else {
        let advice = match folder.names().iter().find(|n| n.ends_with(".bin") || n.ends_with(".pth")) {
            Some(file) => format!("{file} is a Python pickle; save the model again with safe_serialization=True"),
            None => "give a folder with model.safetensors, or shards and their index".to_string(),
        };
        return Err(FormatError::missing(folder.shown(), SINGLE, advice));
    };
    let index = folder.file(INDEX);
    let shard_of = safetensors::read_index(&index, &json)?;
    let mut weight_files: BTreeMap<String, Source> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for shard in shard_of.values() {
        if weight_files.contains_key(shard) {
            continue;
        }
        let source = folder.source(shard)?.ok_or_else(|| {
            let advice = "the index names it; download the missing file";
            FormatError::missing(folder.shown(), shard, advice)
        })?;
        for (name, tensor) in safetensors::read(&folder.file(shard), &source, wanted, fp8)? {
            if shard_of.get(&name) == Some(shard) {
                tensors.insert(name, tensor);
            }
        }
        weight_files.insert(shard.clone(), source);
    }
    if let Some((name, shard)) = shard_of.iter().find(|(name, _)| wanted(name) && !tensors.contains_key(*name)) {
        return Err(FormatError::missing(
            folder.file(shard),
            format!("tensor {name}"),
            "the index says it is there; shards and index belong to different versions, download both again",
        ));
    }
    Ok((tensors, weight_files.into_iter().collect()))
}
