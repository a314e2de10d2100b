//! Reading an adapter and checking it against the model it is meant for.

use std::collections::BTreeMap;
#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use regex::Regex;

use super::config::Targets;
use super::{Adapter, AdapterConfig, CONFIG_FILE, GENERATION_FILE, LoraPair, MAGNITUDE, PREFIX, WEIGHTS_FILE, config};
use crate::folder::Folder;
use crate::{FormatError, ModelConfig, Result, Source, Tensor, module_names, safetensors};

impl Adapter {
    /// Reads an adapter folder and checks it against the model it is meant for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(dir: &Path, model: &ModelConfig) -> Result<Self> {
        if !dir.is_dir() {
            let found = std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "no such folder; an adapter is a folder with adapter_config.json and adapter_model.safetensors",
            );
            return Err(FormatError::io("open", dir, found));
        }
        load(&Folder::on_disk(dir), model)
    }

    /// SHA-256 of what is in an adapter's folder: its weights, and the configuration that scales
    /// them.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn sha256(dir: &Path) -> Result<String> {
        let [config, weights] = [CONFIG_FILE, WEIGHTS_FILE].map(|name| crate::sha256_file(&dir.join(name)));
        Ok(crate::sha256_bytes(format!("{} {}", config?, weights?).as_bytes()))
    }

    /// What a folder's adapter records as its base, for a person or a program to open: a path, or a
    /// name on the hub with `@` and its commit; `None` where it records nothing.
    ///
    /// # Errors
    /// Where the folder holds no adapter that can be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn recorded_base(dir: &Path) -> Result<Option<String>> {
        let folder = Folder::on_disk(dir);
        let json = folder.require(CONFIG_FILE, NO_CONFIG)?;
        let (config, _) = config::read(&folder.file(CONFIG_FILE), &json)?;
        let revision = config.base_revision.map_or_else(String::new, |revision| format!("@{revision}"));
        Ok(config.base_model.map(|base| base + &revision))
    }

    /// Reads an adapter from the contents of its files, by file name.
    pub fn from_folder<S: Into<Source>>(name: &str, files: BTreeMap<String, S>, model: &ModelConfig) -> Result<Self> {
        load(&Folder::in_memory(name, files), model)
    }
}

const NO_CONFIG: &str = "give the folder that PEFT or `bft train` wrote";

fn load(folder: &Folder, model: &ModelConfig) -> Result<Adapter> {
    let json = folder.require(CONFIG_FILE, NO_CONFIG)?;
    let config_file = folder.file(CONFIG_FILE);
    let (mut config, targets) = config::read(&config_file, &json)?;
    config.sees = model.sees;
    if let Some(json) = folder.get(GENERATION_FILE)? {
        config.end_token_ids = crate::config::end_tokens(&folder.file(GENERATION_FILE), &json)?;
    }
    let source = weights(folder)?;
    let file = folder.file(WEIGHTS_FILE);
    let mut halves = collect_halves(&file, &safetensors::read(&file, &source, |_| true, false)?)?;

    // A name that this model has no place for is told before what is missing instead of it.
    let has = |module: &String| {
        let short = module.rsplit('.').next().unwrap_or_default();
        model.linear_modules().iter().any(|linear| linear.name == short)
            && (0..model.layers.len()).any(|layer| ModelConfig::linear_name(layer, short) == *module)
    };
    if let Some(module) = halves.keys().find(|module| !has(module)) {
        return Err(not_in_model(&file, module, model));
    }
    let ranks = Patterns::new(&config_file, "rank_pattern", &config.rank_pattern)?;
    let alphas = Patterns::new(&config_file, "alpha_pattern", &config.alpha_pattern)?;
    // The configuration's names and patterns are of the model that the adapter was made for.
    let theirs = halves.values().next().and_then(|half| half.name.split_once(LAYERS)).unwrap_or_default().0.to_owned();
    let their_name = |module: &str| module.replacen("model.", &theirs, 1);
    let (mut rank_pattern, mut alpha_pattern, mut renamed) = (BTreeMap::new(), BTreeMap::new(), false);
    let mut pairs = Vec::new();
    for layer in 0..model.layers.len() {
        for linear in model.linear_modules() {
            let (short, module) = (linear.name, ModelConfig::linear_name(layer, linear.name));
            let half = halves.remove(&module);
            let name = half.as_ref().map_or_else(|| their_name(&module), |half| half.name.clone());
            match (half, matches_targets(&targets, &name)) {
                (Some(half), Some(true) | None) => {
                    let (rank, alpha) = (ranks.get(&name), alphas.get(&name));
                    let ours = config.peft_name(&module);
                    renamed |= name != ours;
                    rank_pattern.extend(rank.map(|rank| (ours.clone(), rank)));
                    alpha_pattern.extend(alpha.map(|alpha| (ours, alpha)));
                    let rank = rank.unwrap_or(config.rank);
                    let scaling = config.scaling(rank, alpha.unwrap_or(config.alpha));
                    pairs.push(half.into_pair(&file, model, &config, module, short, (rank, scaling))?);
                }
                (Some(_), Some(false)) => {
                    return Err(FormatError::malformed(
                        &file,
                        format!(
                            "holds tensors for {name}, which target_modules in {CONFIG_FILE} does not name; \
                             the two files belong to different adapters"
                        ),
                    ));
                }
                (None, Some(true)) if must_be_everywhere(&targets) => {
                    return Err(FormatError::missing(
                        &file,
                        format!("the pair of {name}"),
                        "the file is incomplete, or belongs to a model with fewer layers",
                    ));
                }
                (None, _) => {}
            }
        }
    }
    if pairs.is_empty() {
        return Err(FormatError::missing(&file, "any LoRA tensor", "the adapter is empty"));
    }
    config.target_modules = target_modules(&pairs, model);
    if renamed {
        // Saved again, the adapter has this model's names, and the patterns' keys must find them.
        (config.rank_pattern, config.alpha_pattern) = (rank_pattern, alpha_pattern);
    }
    let adapter = Adapter { config, pairs };
    match adapter.not_finite() {
        Some(what) => {
            Err(FormatError::malformed(&file, format!("{what}: the file is damaged, or its training diverged")))
        }
        None => Ok(adapter),
    }
}

/// The file of the factors.
fn weights(folder: &Folder) -> Result<Source> {
    if let Some(source) = folder.source(WEIGHTS_FILE)? {
        return Ok(source);
    }
    let advice = if folder.source("adapter_model.bin")?.is_some() {
        "adapter_model.bin is a Python pickle; load it in PEFT and save it with safe_serialization=True"
    } else {
        "the adapter is incomplete"
    };
    Err(FormatError::missing(folder.shown(), WEIGHTS_FILE, advice))
}

/// The tensors of one module, as far as they have been found.
#[derive(Default)]
struct Halves {
    /// The module's name in the model that the adapter was made for.
    name: String,
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
}

impl Halves {
    fn into_pair(
        self,
        file: &str,
        model: &ModelConfig,
        config: &AdapterConfig,
        module: String,
        short: &str,
        (rank, scaling): (usize, f32),
    ) -> Result<LoraPair> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            return Err(FormatError::missing(
                file,
                format!("one of lora_A and lora_B of {module}"),
                "the file is incomplete",
            ));
        };
        let Some([out_features, in_features]) = model.linear_shape(short) else {
            return Err(not_in_model(file, &module, model));
        };
        // The rank first: where it alone is off, the configuration is wrong rather than the model.
        if a.shape.first() != Some(&rank) || b.shape.get(1) != Some(&rank) {
            return Err(FormatError::Mismatch {
                file: file.to_string(),
                what: format!("rank of {module}"),
                found: format!("lora_A {:?} and lora_B {:?}", a.shape, b.shape),
                expected: format!("rank {rank}"),
                advice: format!("r or rank_pattern in {CONFIG_FILE} belongs to another adapter"),
            });
        }
        match (&self.magnitude, config.use_dora) {
            (None, true) => {
                let advice = format!("{CONFIG_FILE} has use_dora true: the file is incomplete, or of another adapter");
                return Err(FormatError::missing(file, format!("{MAGNITUDE} of {module}"), advice));
            }
            (Some(_), false) => {
                return Err(FormatError::Mismatch {
                    file: file.to_string(),
                    what: format!("{MAGNITUDE} of {module}"),
                    found: format!("use_dora false in {CONFIG_FILE}"),
                    expected: "use_dora true".to_string(),
                    advice: "the two files belong to different adapters".to_string(),
                });
            }
            _ => {}
        }
        let factors = [("lora_A", &a, vec![rank, in_features]), ("lora_B", &b, vec![out_features, rank])];
        let magnitude = self.magnitude.iter().map(|tensor| (MAGNITUDE, tensor, vec![out_features]));
        for (name, tensor, shape) in factors.into_iter().chain(magnitude) {
            if tensor.shape != shape {
                return Err(FormatError::Mismatch {
                    file: file.to_string(),
                    what: format!("shape of {name} of {module}"),
                    found: format!("{:?}", tensor.shape),
                    expected: format!("{shape:?}"),
                    advice: "the adapter was trained for another model".to_string(),
                });
            }
        }
        let magnitude = self.magnitude.as_ref().map(Tensor::to_f32).transpose()?;
        Ok(LoraPair { module, rank, scaling, in_features, out_features, a: a.to_f32()?, b: b.to_f32()?, magnitude })
    }
}

/// Sorts tensors by module; every name must be that of a pair's tensor.
fn collect_halves(file: &str, tensors: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Halves>> {
    let mut halves: BTreeMap<String, Halves> = BTreeMap::new();
    for (name, tensor) in tensors {
        let plain = without_prefix(name);
        let strip = |part: &'static str| {
            // PEFT leaves the adapter's name out; a training loop's own state dictionary has it.
            // Magnitudes have had `weight` in their name and have it not.
            let bare = plain.strip_suffix(".weight");
            let own = bare.or((part == MAGNITUDE).then_some(plain))?;
            let own = own.strip_suffix(".default").unwrap_or(own);
            Some((part, own.strip_suffix(part)?.strip_suffix('.')?))
        };
        let Some((part, theirs)) = ["lora_A", "lora_B", MAGNITUDE].into_iter().find_map(strip) else {
            return Err(FormatError::unsupported(
                file,
                format!("tensor {name}"),
                "only lora_A.weight, lora_B.weight and lora_magnitude_vector of linear modules are",
            ));
        };
        let module = module_name(theirs);
        let entry = halves.entry(module.clone()).or_default();
        entry.name = theirs.to_owned();
        let slot = match part {
            "lora_A" => &mut entry.a,
            "lora_B" => &mut entry.b,
            _ => &mut entry.magnitude,
        };
        if slot.replace(tensor.clone()).is_some() {
            let problem = format!("holds two tensors for {part} of {module}");
            return Err(FormatError::malformed(file, problem));
        }
    }
    Ok(halves)
}

/// What compiling puts before the names of a model's modules.
const COMPILED: &str = "_orig_mod.";

/// A tensor's name without PEFT's prefix and without what stands before it where the tuned model
/// itself was compiled or spread over devices.
fn without_prefix(name: &str) -> &str {
    let inner = ["module.", COMPILED].iter().fold(name, |name, outer| name.strip_prefix(outer).unwrap_or(name));
    inner.strip_prefix(PREFIX).unwrap_or(inner)
}

/// What stands before a layer's number.
const LAYERS: &str = "layers.";

/// A module's name in a language model, whatever that model was part of when the adapter was made:
/// nothing, a backbone without `model.`, or one that also sees.
fn module_name(name: &str) -> String {
    const AROUND: [&str; 6] = [
        "",
        "model.model.",
        "language_model.",
        "model.language_model.",
        "language_model.model.",
        "model.language_model.model.",
    ];
    let name = name.strip_prefix(COMPILED).unwrap_or(name);
    let layers = name.find(LAYERS).filter(|at| AROUND.contains(&&name[..*at]));
    layers.map_or_else(|| name.to_owned(), |at| format!("model.{}", &name[at..]))
}

/// Whether a list of target modules names this one; `None` where only the tensors tell.
fn matches_targets(targets: &Targets, module: &str) -> Option<bool> {
    match targets {
        Targets::FromTensors => None,
        Targets::Names { names, .. } => {
            let ends =
                |name: &String| module.strip_suffix(name.as_str()).is_some_and(|r| r.is_empty() || r.ends_with('.'));
            Some(names.iter().any(ends))
        }
    }
}

fn must_be_everywhere(targets: &Targets) -> bool {
    matches!(targets, Targets::Names { every_layer: true, .. })
}

fn not_in_model(file: &str, module: &str, model: &ModelConfig) -> FormatError {
    let short = module.rsplit('.').next().unwrap_or_default();
    if module_names().all(|name| name != short) {
        let advice = format!("only {} are", model.module_list());
        return FormatError::unsupported(file, format!("an adapter on {module}"), advice);
    }
    FormatError::Mismatch {
        file: file.to_string(),
        what: "the modules adapted".to_string(),
        found: module.to_string(),
        expected: format!(
            "modules of a {} model with {} layers, such as {}",
            model.architecture,
            model.layers.len(),
            ModelConfig::linear_name(0, model.module_like(short)),
        ),
        advice: "the adapter was trained for another model".to_string(),
    }
}

/// Short names of the modules adapted in every layer, full names of the others.
fn target_modules(pairs: &[LoraPair], model: &ModelConfig) -> Vec<String> {
    let mut names = Vec::new();
    for linear in model.linear_modules() {
        let suffix = format!(".{}", linear.name);
        let of_kind: Vec<&LoraPair> = pairs.iter().filter(|p| p.module.ends_with(&suffix)).collect();
        if of_kind.len() == model.layers.len() {
            names.push(linear.name.to_string());
        } else {
            names.extend(of_kind.iter().map(|p| p.module.clone()));
        }
    }
    names
}

/// `rank_pattern` or `alpha_pattern`: the value of the first key that matches a module's name.
struct Patterns<T> {
    patterns: Vec<(Regex, T)>,
}

impl<T: Copy> Patterns<T> {
    fn new(file: &str, key: &str, patterns: &BTreeMap<String, T>) -> Result<Self> {
        let compile = |(pattern, value): (&String, &T)| {
            // PEFT's own wrapping: the key may be the end of the name, from a dot on.
            match Regex::new(&format!(r"^(?:(?:.*\.)?(?:{pattern}))$")) {
                Ok(regex) => Ok((regex, *value)),
                Err(_) => Err(FormatError::malformed(
                    file,
                    format!("{key} has the key {pattern:?}, which is no regular expression that can be used"),
                )),
            }
        };
        Ok(Self { patterns: patterns.iter().map(compile).collect::<Result<_>>()? })
    }

    fn get(&self, module: &str) -> Option<T> {
        self.patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
    }
}

impl AdapterConfig {
    /// Rank and scaling of a module by its full name, with the patterns applied.
    pub fn rank_and_scaling(&self, module: &str) -> Result<(usize, f32)> {
        let module = self.peft_name(module);
        let rank = Patterns::new(CONFIG_FILE, "rank_pattern", &self.rank_pattern)?.get(&module);
        let alpha = Patterns::new(CONFIG_FILE, "alpha_pattern", &self.alpha_pattern)?.get(&module);
        let rank = rank.unwrap_or(self.rank);
        Ok((rank, self.scaling(rank, alpha.unwrap_or(self.alpha))))
    }
}
