//! A model, whatever files it comes in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::{
    ChatTemplate, DType, FormatError, LINEAR_MODULES, ModelConfig, Result, SentenceSteps, Source, Tensor, Tokenizer,
    sha256_bytes,
};

/// An opened model: every tensor its configuration asks for is there with the right shape.
#[derive(Clone, Debug)]
pub struct Model {
    /// Hyperparameters.
    pub config: ModelConfig,
    /// Tensors by Hugging Face name, in their file's storage format.
    pub tensors: BTreeMap<String, Tensor>,
    /// The model's own tokenizer, where it came with one.
    pub tokenizer: Option<Tokenizer>,
    /// The model's own chat template, where it came with one.
    pub chat_template: Option<ChatTemplate>,
    /// Short name for people: the folder's or file's.
    pub name: String,
    /// Where it was opened; the name for a model that came from memory.
    pub path: PathBuf,
    /// Whether it is a backbone without `lm_head.weight`: it embeds, and predicts no token.
    pub headless: bool,
    /// Parts of its files that are not read, such as what sees: tensors and bytes of each.
    pub left_out: BTreeMap<String, (usize, usize)>,
    /// What its files hold that is read otherwise than it stands, in a sentence each.
    pub notes: Vec<String>,
    /// What its matrices become as they are read, where that was asked for.
    pub(crate) quantized: Option<DType>,
    /// How its vectors are made; what is wrong with that matters only to who embeds.
    sentence: std::result::Result<Option<SentenceSteps>, String>,
    weight_files: Vec<(String, Source)>,
    sha256: Arc<OnceLock<String>>,
}

impl Model {
    /// Makes a model from parts, checking that every tensor the configuration asks for is there.
    pub fn from_parts(
        name: impl Into<String>,
        config: ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Option<Tokenizer>,
        chat_template: Option<ChatTemplate>,
    ) -> Result<Self> {
        let name = name.into();
        config.validate(&name)?;
        check_tensors(&name, &config, &tensors)?;
        if let Some(tokenizer) = &tokenizer {
            check_vocabulary(&name, tokenizer, config.vocab_size)?;
        }
        Ok(Self::assemble(&name, config, tensors, tokenizer, chat_template, Vec::new()))
    }

    /// As `from_parts`, for parts whose tensors are checked already.
    pub(crate) fn assemble(
        name: &str,
        config: ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Option<Tokenizer>,
        chat_template: Option<ChatTemplate>,
        weight_files: Vec<(String, Source)>,
    ) -> Self {
        let (name, path) = (name.to_string(), PathBuf::from(name));
        let sha256 = Arc::default();
        Self {
            config,
            tensors,
            tokenizer,
            chat_template,
            name,
            path,
            headless: false,
            left_out: BTreeMap::new(),
            notes: Vec::new(),
            quantized: None,
            sentence: Ok(None),
            weight_files,
            sha256,
        }
    }

    /// The same model, with what its files say about vectors, and whether it is without a head.
    pub(crate) fn with_sentence(mut self, sentence: Result<Option<SentenceSteps>>, headless: bool) -> Self {
        self.sentence = sentence.map_err(|e| e.to_string());
        self.headless = headless;
        self
    }

    /// The files of its weights by their names; none for a model made from parts.
    pub(crate) fn weight_files(&self) -> &[(String, Source)] {
        &self.weight_files
    }

    /// How the model's authors made vectors of its hidden states; `None` where nothing says that it
    /// was made for it.
    ///
    /// # Errors
    /// Where its files name a step that is not implemented.
    pub fn sentence(&self) -> Result<Option<&SentenceSteps>> {
        match &self.sentence {
            Ok(steps) => Ok(steps.as_ref()),
            Err(problem) => Err(FormatError::Sentence(problem.clone())),
        }
    }

    /// Checks that the model has a head, which all but embedding needs.
    ///
    /// # Errors
    /// [`FormatError::Missing`] for a backbone.
    pub fn require_head(&self) -> Result<()> {
        if !self.headless {
            return Ok(());
        }
        Err(FormatError::missing(
            self.path.display().to_string(),
            "tensor lm_head.weight",
            "this is the backbone of an embedding model, which `bft embed` takes; to tune or generate, use a language model",
        ))
    }

    /// A tensor by its Hugging Face name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensors.values().map(Tensor::elements).sum()
    }

    /// How many tensors and bytes there are in each storage format.
    pub fn formats(&self) -> BTreeMap<DType, (usize, usize)> {
        let mut formats = BTreeMap::new();
        for tensor in self.tensors.values() {
            let (count, bytes) = formats.entry(tensor.dtype).or_insert((0, 0));
            *count += 1;
            *bytes += tensor.byte_len();
        }
        formats
    }

    /// The tokenizer, or an error that says where one would come from.
    pub fn require_tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            FormatError::missing(
                self.path.display().to_string(),
                "a tokenizer",
                "put the model's tokenizer.json into its folder (AutoTokenizer.from_pretrained(…).save_pretrained(…) \
                 in Python writes it), or use pre-tokenised rows (input_ids)",
            )
        })
    }

    /// The chat template, or an error that says where one would come from.
    pub fn require_chat_template(&self) -> Result<&ChatTemplate> {
        self.chat_template.as_ref().ok_or_else(|| {
            FormatError::missing(
                self.path.display().to_string(),
                "a chat template",
                "this is a base model without one: use prompt/completion or text rows, or put the template into \
                 chat_template.jinja in the model's folder",
            )
        })
    }

    /// Lower-case hexadecimal SHA-256 of the weights, computed once: of the file itself, or, for
    /// several weight files, of the lines `sha256sum` prints for them in name order; for a model
    /// made from parts, of the tensors' data in name order.
    pub fn sha256(&self) -> Result<String> {
        let compute = || match &self.weight_files[..] {
            [] => {
                let data = self.tensors.values().map(|t| (&t.name, &t.data));
                sha256_of_lines(data)
            }
            files => sha256_of_files(files),
        };
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let digest = compute()?;
        Ok(self.sha256.get_or_init(|| digest).clone())
    }

    /// Lower-case hexadecimal SHA-256 of what stands beside the weights and decides what they
    /// compute: the configuration, the tokenizer, the chat template, and what they are quantised
    /// to.
    pub fn settings_sha256(&self) -> Result<String> {
        let tokenizer = self.tokenizer.as_ref().map(Tokenizer::sha256).transpose()?;
        let template = self.chat_template.as_ref().map(ChatTemplate::sha256);
        let quantized = self.quantized.map_or_else(String::new, |dtype| format!(" {dtype}"));
        Ok(sha256_bytes(format!("{:?} {tokenizer:?} {template:?}{quantized}", self.config).as_bytes()))
    }

    /// Tells the SHA-256 of the weights where it is known already, so that they need not be read
    /// for it.
    pub fn set_sha256(&self, digest: String) {
        self.sha256.get_or_init(|| digest);
    }
}

/// SHA-256 of the lines that `sha256sum` prints.
fn sha256_of_lines<'s>(files: impl Iterator<Item = (&'s String, &'s Source)>) -> Result<String> {
    let mut lines = String::new();
    for (name, source) in files {
        lines.push_str(&format!("{}  {name}\n", source.sha256(name)?));
    }
    Ok(sha256_bytes(lines.as_bytes()))
}

/// Of one file's contents, or of the lines `sha256sum` prints for several.
pub(crate) fn sha256_of_files(files: &[(String, Source)]) -> Result<String> {
    match files {
        [(name, source)] => source.sha256(name),
        files => sha256_of_lines(files.iter().map(|(name, source)| (name, source))),
    }
}

/// Checks that the tensors are exactly those the configuration asks for, in shape too.
pub(crate) fn check_tensors(file: &str, config: &ModelConfig, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    check_shapes(file, config.architecture.name(), config.tensor_shapes(), tensors)
}

/// As [`check_tensors`], of any architecture whose tensors have these names and shapes.
pub(crate) fn check_shapes(
    file: &str,
    architecture: &str,
    shapes: Vec<(String, Vec<usize>)>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<()> {
    for (name, shape) in &shapes {
        check_shape(file, name, tensors.get(name), shape)?;
    }
    if tensors.len() > shapes.len() {
        let known: std::collections::BTreeSet<String> = shapes.into_iter().map(|(name, _)| name).collect();
        if let Some(extra) = tensors.keys().find(|name| !known.contains(*name)) {
            return Err(FormatError::unsupported(
                file,
                format!("tensor {extra}"),
                format!("a {architecture} model of this configuration has no place for it"),
            ));
        }
    }
    Ok(())
}

/// A tensor that must be there with this shape.
fn check_shape<'t>(file: &str, name: &str, tensor: Option<&'t Tensor>, shape: &[usize]) -> Result<&'t Tensor> {
    match tensor {
        Some(tensor) if tensor.shape == shape => Ok(tensor),
        Some(tensor) => Err(FormatError::Mismatch {
            file: file.to_string(),
            what: format!("shape of tensor {name}"),
            found: format!("{:?}", tensor.shape),
            expected: format!("{shape:?}"),
            advice: "the weights belong to another configuration".to_string(),
        }),
        None => Err(FormatError::missing(
            file,
            format!("tensor {name} {shape:?}"),
            "the weights are incomplete, or belong to another configuration",
        )),
    }
}

/// Cuts the modules that a family has in one piece into their maps, whose rows lie one after
/// another.
pub(crate) fn split_modules(file: &str, config: &ModelConfig, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    for layer in 0..config.layers.len() {
        for module in config.linear_modules().iter().filter(|module| module.maps.len() > 1) {
            let name = format!("{}.weight", ModelConfig::linear_name(layer, module.name));
            let shape = config.linear_shape(module.name).unwrap_or_default();
            let whole = check_shape(file, &name, tensors.get(&name), &shape)?.clone();
            tensors.remove(&name);
            let mut start = 0;
            for map in &LINEAR_MODULES[module.maps.clone()] {
                let end = start + config.linear_shape(map).unwrap_or_default()[0];
                let part = whole.part(start..end).ok_or_else(|| {
                    let advice = "take the model in another format, such as a GGUF file";
                    FormatError::unsupported(file, format!("FP8 in tensor {name}, which holds several maps"), advice)
                })?;
                let name = format!("{}.weight", ModelConfig::linear_name(layer, map));
                tensors.insert(name.clone(), Tensor { name, ..part });
                start = end;
            }
        }
    }
    Ok(())
}

/// Checks that every token has a row in the embedding.
pub(crate) fn check_vocabulary(file: &str, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
    if tokenizer.vocab_size() <= rows {
        return Ok(());
    }
    let last = (tokenizer.vocab_size() - 1) as u32;
    Err(FormatError::Mismatch {
        file: file.to_string(),
        what: "the tokenizer's largest token id".to_string(),
        found: format!("{last} ({:?})", tokenizer.piece(last)),
        expected: format!("below the embedding's {rows} rows"),
        advice: "the tokenizer belongs to another model; use the one that came with the weights".to_string(),
    })
}
