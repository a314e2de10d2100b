//! Encoders that turn a text into a vector: BERT, RoBERTa, ModernBERT, Nomic BERT and their like.

mod bert;
mod config;
mod family;
mod modernbert;
mod nomic;
mod sentence;

use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;
use std::path::PathBuf;

pub use config::{Activation, EncoderConfig, EncoderLayer, FeedForward, NormPlace, Positions};
pub use family::EncoderFamily;
pub use sentence::SentenceSteps;
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, load_weights};
use crate::json::Object;
use crate::model::{check_shapes, check_vocabulary, sha256_of_files};
use crate::{FormatError, Model, Quantization, Result, Source, Tensor, Tokenizer};

/// How a text's hidden states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Mean over its tokens.
    #[default]
    Mean,
    /// Its first token's, which BERT calls `[CLS]`.
    Cls,
    /// Its last token's.
    Last,
}

/// An opened encoder: every tensor its configuration asks for is there with the right shape.
#[derive(Clone, Debug)]
pub struct EncoderModel {
    /// Hyperparameters.
    pub config: EncoderConfig,
    /// Tensors by what they are, in their file's storage format: `words`, `positions`, `types` and
    /// `norm` of the embedding, and of block 0 `layers.0.query`, `key`, `value`, `output`,
    /// `attention_norm`, `gate`, `up`, `down` and `norm`, with `.weight` and `.bias` behind all but
    /// the first three. A norm is that behind the branch, whichever block it is stored with.
    pub tensors: BTreeMap<String, Tensor>,
    /// The model's own tokenizer, where it came with one.
    pub tokenizer: Option<Tokenizer>,
    /// How the model's authors made vectors of hidden states.
    pub sentence: SentenceSteps,
    /// Longest text in tokens, `[CLS]` and `[SEP]` included; longer ones are cut.
    pub max_length: usize,
    /// Short name for people: the folder's.
    pub name: String,
    /// Where it was opened; the name for a model that came from memory.
    pub path: PathBuf,
    weight_files: Vec<(String, Source)>,
}

impl EncoderModel {
    /// Opens a folder as transformers (`config.json`, safetensors, `tokenizer.json` or `vocab.txt`)
    /// or sentence-transformers (with `modules.json`) saves it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::metadata(path).map_err(|e| FormatError::io("open", path, e))?;
        let name = crate::open::display_name(path);
        let mut model = load(&name, &Folder::on_disk(path))?;
        model.path = path.to_path_buf();
        Ok(model)
    }

    /// Makes an encoder from the contents of the files of a folder, by path below it.
    pub fn from_folder<S: Into<Source>>(name: &str, files: BTreeMap<String, S>) -> Result<Self> {
        load(name, &Folder::in_memory(name, files))
    }

    /// Lower-case hexadecimal SHA-256 of the weights, as [`Model::sha256`].
    pub fn sha256(&self) -> Result<String> {
        sha256_of_files(&self.weight_files)
    }
}

/// A model of either kind, for what needs vectors alone.
#[derive(Clone, Debug)]
pub enum EmbeddingModel {
    /// A language model, whose hidden states are pooled.
    Decoder(Box<Model>),
    /// A sentence encoder.
    Encoder(Box<EncoderModel>),
}

impl EmbeddingModel {
    /// Opens whatever lies at a path: what says that it is an encoder as one, all else as a
    /// language model.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() && is_encoder(&Folder::on_disk(path))? {
            return Ok(Self::Encoder(EncoderModel::open(path)?.into()));
        }
        Ok(Self::Decoder(Model::open(path)?.into()))
    }

    /// How the model's authors made vectors; `None` where a language model was not made for it.
    ///
    /// # Errors
    /// Where its files name a step that is not implemented.
    pub fn sentence(&self) -> Result<Option<&SentenceSteps>> {
        match self {
            Self::Decoder(model) => model.sentence(),
            Self::Encoder(model) => Ok(Some(&model.sentence)),
        }
    }

    /// As [`Model::quantize`], which an encoder is not.
    ///
    /// # Errors
    /// For an encoder, and as there.
    pub fn quantize(&mut self, to: Quantization) -> Result<()> {
        match self {
            Self::Decoder(model) => model.quantize(to),
            Self::Encoder(model) => Err(FormatError::unsupported(
                model.path.display().to_string(),
                "quantising a sentence encoder",
                "encoders are small, and take their weights as they are",
            )),
        }
    }

    /// Short name for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Decoder(model) => &model.name,
            Self::Encoder(model) => &model.name,
        }
    }

    /// Numbers in a vector, H.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Decoder(model) => model.config.hidden_size,
            Self::Encoder(model) => model.config.hidden_size,
        }
    }

    /// Lower-case hexadecimal SHA-256 of what stands beside the weights and decides what they
    /// compute.
    pub fn settings_sha256(&self) -> Result<String> {
        match self {
            Self::Decoder(model) => model.settings_sha256(),
            Self::Encoder(model) => {
                let tokenizer = model.tokenizer.as_ref().map(Tokenizer::sha256).transpose()?;
                Ok(crate::sha256_bytes(format!("{:?} {tokenizer:?}", model.config).as_bytes()))
            }
        }
    }

    /// Lower-case hexadecimal SHA-256 of the weights.
    pub fn sha256(&self) -> Result<String> {
        match self {
            Self::Decoder(model) => model.sha256(),
            Self::Encoder(model) => model.sha256(),
        }
    }
}

/// Model types that are encoders, implemented or not: what is not is to be refused as one.
#[cfg(not(target_arch = "wasm32"))]
const ENCODERS: [&str; 4] = ["bert", "mpnet", "electra", "xlm"];

#[cfg(not(target_arch = "wasm32"))]
fn is_encoder(folder: &Folder) -> Result<bool> {
    let Some(json) = folder.get("config.json")? else {
        return Ok(folder.get("modules.json")?.is_some());
    };
    let map = crate::json::parse_object(&folder.file("config.json"), &json)?;
    let model_type = map.get("model_type").and_then(|value| value.as_str());
    Ok(model_type.is_some_and(|name| ENCODERS.iter().any(|encoder| name.contains(encoder))))
}

/// Tensors that no hidden state depends on.
fn is_needed(name: &str) -> bool {
    let mut prefixes = EncoderFamily::ALL.iter().flat_map(|family| family.spec().prefixes);
    let name = prefixes.find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    !["pooler.", "cls.", "embeddings.position_ids"].iter().any(|unneeded| name.starts_with(unneeded))
}

/// Refuses a rope that is not as it was trained.
fn refuse_stretched(o: &Object, parameters: &Object) -> Result<()> {
    match parameters.str("rope_type")?.or(parameters.str("type")?) {
        None | Some("default") => Ok(()),
        Some(other) => {
            let advice = "encoders are implemented with the rope type default";
            Err(FormatError::unsupported(o.file, format!("rope type {other:?}"), advice))
        }
    }
}

/// The steps that a language model's folder names.
pub(crate) fn sentence_of_decoder(folder: &Folder) -> Result<Option<SentenceSteps>> {
    sentence::of_decoder(folder)
}

fn load(name: &str, folder: &Folder) -> Result<EncoderModel> {
    // Without modules.json a model is pooled as sentence-transformers does it then: by the mean.
    let mut steps = sentence::read(folder)?.unwrap_or_default();
    sentence::read_limits(folder, &mut steps)?;
    let folder = &folder.below(&steps.transformer);
    let json = folder
        .require("config.json", "give a folder with config.json, *.safetensors and tokenizer.json or vocab.txt")?;
    let config_file = folder.file("config.json");
    let config = EncoderConfig::from_json(&config_file, &json)?;
    let (stored, weight_files) = load_weights(folder, is_needed, false)?;
    let stored = rename(stored, config.family.spec().prefixes);
    check_shapes(&folder.shown(), config.family.name(), config.tensor_shapes(), &stored)?;
    let parts = config.parts().into_iter();
    let taken = parts.filter_map(|part| Some((part.key, stored.get(&part.stored)?.rows_of(part.piece)?)));
    let tensors = taken.collect();
    let tokenizer = match Tokenizer::from_folder(folder)? {
        Some(tokenizer) => Some(tokenizer),
        None => Tokenizer::from_vocabulary(folder)?,
    };
    if let Some(tokenizer) = &tokenizer {
        check_vocabulary(&folder.shown(), tokenizer, config.vocab_size)?;
        if steps.lower_case && tokenizer.encode("BRCA", false)? != tokenizer.encode("brca", false)? {
            return Err(FormatError::unsupported(
                folder.file("sentence_bert_config.json"),
                "do_lower_case with a tokenizer that tells cases apart",
                "set it to false in a copy of the folder and write the texts in lower case",
            ));
        }
    }
    let max_length = longest_text(folder, &config, &steps)?;
    Ok(EncoderModel {
        config,
        tensors,
        tokenizer,
        sentence: steps,
        max_length,
        name: name.to_string(),
        path: PathBuf::from(name),
        weight_files,
    })
}

/// The longest text in tokens, as the folder says.
fn longest_text(folder: &Folder, config: &EncoderConfig, steps: &SentenceSteps) -> Result<usize> {
    let longest = config.max_position_embeddings;
    let Some(found) = steps.max_length else {
        return Ok(steps.tokenizer_max_length.map_or(longest, |n| n.clamp(3.min(longest), longest)));
    };
    // Where the first rows of the table have no place in a text, some folders count them too.
    let most = config.positions.map_or(longest, |positions| positions.rows);
    if !(3..=most).contains(&found) {
        let problem = format!("max_seq_length is {found}, expected 3 to the model's {longest} positions");
        return Err(FormatError::malformed(folder.file("sentence_bert_config.json"), problem));
    }
    Ok(found.min(longest))
}

/// Names without the family's prefix, and with the norms' names of today. Where there is a prefix,
/// what stands beside it is the head of some task.
fn rename(tensors: BTreeMap<String, Tensor>, prefixes: &[&str]) -> BTreeMap<String, Tensor> {
    let prefix = prefixes.iter().find(|prefix| tensors.keys().any(|name| name.starts_with(**prefix)));
    let renamed = tensors.into_iter().filter_map(|(name, mut tensor)| {
        let name = prefix.map_or(Some(&*name), |prefix| name.strip_prefix(prefix))?;
        let name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
        tensor.name.clone_from(&name);
        Some((name, tensor))
    });
    renamed.collect()
}
