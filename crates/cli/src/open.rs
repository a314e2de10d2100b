//! Opening what the flags name: models, adapters, devices; and saying what was opened.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use bft_core::device::{Device, DeviceRequest};
use bft_core::{Base, Capacity, Runner, RunnerOptions};
use bft_formats::{Adapter, EmbeddingModel, FormatError, Model, Quantization};
use bft_train::{BatchBounds, Files, Rows, SampleOptions, Samples, TrainConfig, read_rows};

use crate::cache;
use crate::error::CliError;
use crate::hub;
use crate::suggest::nearest_path;
use crate::ui::{self, DIM};

/// Checks that a flag's file or folder is there; if not, names the nearest that is.
pub fn existing<'p>(flag: &str, path: &'p Path) -> Result<&'p Path, CliError> {
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => {
            let near =
                nearest_path(path).map_or_else(String::new, |near| format!("; did you mean {}?", near.display()));
            let hub = path.to_str().and_then(|text| download(flag, text)).unwrap_or_default();
            Err(CliError::failed(format!("{flag} {}: no such file or folder{near}{hub}", path.display())))
        }
        Err(error) => {
            not_below_a_file(flag, path)?;
            Err(CliError::failed(format!("{flag} {}: cannot be looked at: {error}", path.display())))
        }
    }
}

/// Checks that no part of a path but its last is a file.
pub fn not_below_a_file(flag: &str, path: &Path) -> Result<(), CliError> {
    let file = path.ancestors().skip(1).find(|above| above.is_file());
    file.map_or(Ok(()), |file| {
        Err(CliError::failed(format!(
            "{flag} {}: {} is a file, and nothing is below it",
            path.display(),
            file.display()
        )))
    })
}

/// A text that reads as the name of a repository on a hub.
pub struct HubName<'t> {
    owner: &'t str,
    name: &'t str,
    /// What stands behind it: a page, a revision, which of several quantised files is meant.
    rest: &'t str,
    /// Whether it is `owner/name` alone, without `hf:` or the address of a hub before it.
    pub is_bare: bool,
}

/// Reads `Qwen/Qwen3-0.6B`, `hf:` before it, or the address of its page; `None` for paths.
pub fn hub_name(text: &str) -> Option<HubName<'_>> {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    // Whatever hub an address is of, its name stands behind the host.
    let page = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let address = page.and_then(|page| page.split_once('/')).map(|(_, name)| name).or(text.strip_prefix("hf:"));
    let address = address.map(|rest| rest.trim_start_matches('/').trim_start_matches("datasets/"));
    let (owner, name) = address.unwrap_or(text).trim_end_matches('/').split_once('/')?;
    let (name, rest) = name.split_at(name.find(['/', '@', ':']).unwrap_or(name.len()));
    let is_path = rest.starts_with('/') || owner.starts_with('.') || Path::new(owner).exists() || is_file_name(name);
    let is_bare = address.is_none();
    (word(owner) && word(name) && !(is_bare && is_path)).then_some(HubName { owner, name, rest, is_bare })
}

/// What to do with a name on a hub where a file or folder of this machine is expected.
fn download(flag: &str, text: &str) -> Option<String> {
    let is_model = matches!(flag, "--model" | "--encoder");
    let (what, repository, file) = match flag {
        "--model" | "--encoder" | "--adapter" | "--init-adapter" => ("an adapter", "", ""),
        "--data" | "--eval-data" | "--input" | "--shots-from" => ("a dataset", " --repo-type dataset", "/FILE"),
        _ => return None,
    };
    if let Some(named) = shadowed(text).filter(|_| is_model) {
        return Some(format!("; its first folder is here, so that this is a path: {named} is the model on the hub"));
    }
    let Some(HubName { owner, name, rest, is_bare }) = hub_name(text) else {
        // Some programs know models by one word, without their owner.
        let named = is_model && !text.contains('/') && !text.ends_with(".gguf");
        return named.then(|| "; a model is a folder, a .gguf file, or OWNER/NAME on the hub".to_owned());
    };
    if is_model {
        return (!is_bare).then(|| format!("; to fetch a model from the hub, give its name: {flag} hf:{owner}/{name}"));
    }
    let some = match rest.split_at_checked(1) {
        Some((":", which)) => format!(" --include '*{which}*'"),
        Some(("@", revision)) => format!(" --revision {revision}"),
        _ => String::new(),
    };
    Some(format!(
        "; if this is the name of {what} on a hub, download it first: bft fetches models alone by name \
         (`hf download {owner}/{name}{repository}{some} --local-dir {name}`, then {flag} {name}{file})"
    ))
}

/// How the model of a hub is named that goes by this path, too, where its owner's name is a folder
/// here.
pub fn shadowed(text: &str) -> Option<String> {
    let (owner, _) = text.split_once('/')?;
    let told = format!("hf:{text}");
    let HubName { name, rest, .. } = hub_name(&told)?;
    let is_name = !owner.is_empty() && !owner.starts_with(['.', '~']) && !rest.starts_with('/') && !is_file_name(name);
    (is_name && Path::new(owner).is_dir()).then_some(told)
}

/// Whether a name ends as files do: `.jsonl`, but not the `.5-7B` of a model's version and size.
fn is_file_name(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| !end.is_empty() && end.chars().all(|c| c.is_ascii_alphabetic()))
}

/// Checks that each rank of a job can read a flag's file: a pipe gives every byte to one reader
/// alone.
pub fn for_every_rank(flag: &str, path: &Path) -> Result<(), CliError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(CliError::failed(format!(
            "{flag} {}: several processes cannot each read a pipe: save it to a file first",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Checks that no two of these files, each with its flag, are one pipe, where the first reader
/// would leave nothing to the second.
pub fn not_one_pipe<'p>(files: impl Iterator<Item = (&'static str, &'p Path)>) -> Result<(), CliError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mut pipes = std::collections::HashMap::new();
        for (flag, path) in files {
            let Ok(metadata) = std::fs::metadata(path) else { continue };
            if metadata.is_file() {
                continue;
            }
            if let Some(first) = pipes.insert((metadata.dev(), metadata.ino()), flag) {
                return Err(CliError::failed(format!(
                    "{first} and {flag} are the same pipe, {}, which can be read only once: save it to a file first",
                    path.display()
                )));
            }
        }
    }
    #[cfg(not(unix))]
    drop(files);
    Ok(())
}

/// Files that a flag may name at most: a pattern that matches more is surely a slip.
const MOST_FILES: usize = 10_000;

/// The files of a flag that may name several. A pattern that the shell has left stands for the
/// files that it matches, in the order of their names.
pub fn files(flag: &str, given: &[PathBuf]) -> Result<Files, CliError> {
    let mut all = Vec::new();
    for path in given {
        let text = path.to_str().unwrap_or_default();
        if text.contains(['*', '?', '[']) && !path.exists() {
            all.extend(matched(flag, text)?);
        } else if existing(flag, path)?.is_dir() {
            let path = path.display();
            return Err(CliError::failed(format!(
                "{flag} {path}: is a folder: name its files, for example with {flag} '{path}/*.jsonl'"
            )));
        } else {
            all.push(path.clone());
        }
        if all.len() > MOST_FILES {
            return Err(CliError::failed(format!(
                "{flag} names more than {MOST_FILES} files: put the rows into fewer"
            )));
        }
    }
    let mut seen = std::collections::HashSet::new();
    let twice = all.iter().find(|path| path.is_file() && !seen.insert(path.canonicalize().ok()));
    if let Some(path) = twice {
        return Err(CliError::usage(format!("{flag} names {} twice: name it once", path.display())));
    }
    all.iter().try_for_each(|path| readable(flag, path))?;
    Ok(Files(all))
}

/// Opens a flag's file before any work that needs it. A pipe is left alone: who opens it takes it.
pub fn readable(flag: &str, path: &Path) -> Result<(), CliError> {
    if !existing(flag, path)?.is_file() {
        return Ok(());
    }
    let opened = std::fs::File::open(path);
    opened
        .map(|_| ())
        .map_err(|error| CliError::failed(format!("{flag} {}: cannot be opened: {error}", path.display())))
}

/// The files that a pattern matches.
fn matched(flag: &str, pattern: &str) -> Result<Vec<PathBuf>, CliError> {
    let failed = |problem: &dyn std::fmt::Display| CliError::failed(format!("{flag} {pattern}: {problem}"));
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let found = glob::glob_with(pattern, options).map_err(|problem| {
        let (what, place) = (problem.msg, problem.pos);
        CliError::usage(format!("{flag} {pattern}: is no pattern of file names: {what}, at character {place}"))
    })?;
    let mut paths = Vec::new();
    for path in found {
        let path = path.map_err(|problem| failed(&format!("cannot look into {problem}")))?;
        if !path.is_dir() {
            paths.push(path);
        }
        if paths.len() > MOST_FILES {
            return Err(failed(&format!("matches more than {MOST_FILES} files: put the rows into fewer")));
        }
    }
    if paths.is_empty() {
        return Err(failed(&"no file matches this pattern"));
    }
    paths.sort();
    Ok(paths)
}

/// Opens the model of `--model`, quantised as `--quantize` says.
pub fn model(path: &Path, to: Option<Quantization>) -> Result<Model, CliError> {
    let mut model = Model::open(&hub::model_path("--model", path)?).map_err(|error| unopened(path, &error))?;
    note_adapter(&model.path);
    note_left_out(&model);
    model.require_head().map_err(CliError::failed)?;
    to.map_or(Ok(()), |to| model.quantize(to)).map_err(CliError::failed)?;
    note_weights(&model);
    Ok(model)
}

/// As [`model`], for a verb that can do without one.
pub fn model_if_given(path: Option<&Path>, to: Option<Quantization>) -> Result<Option<Model>, CliError> {
    match (path, to) {
        (Some(path), to) => model(path, to).map(Some),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(CliError::usage("--model <PATH> is missing: --quantize is for a model's weights")),
    }
}

/// What is wrong with a model's files, and which model was taken where two go by its name.
fn unopened(named: &Path, error: &FormatError) -> CliError {
    let other = named.to_str().and_then(shadowed);
    let other = other.map(|other| format!("; this is the folder here, and {other} is the model on the hub"));
    CliError::failed(format!("{error}{}", other.unwrap_or_default()))
}

fn note_left_out(model: &Model) {
    if let Some(parts) = left_out(model) {
        ui::note(&format!("texts alone are read: {parts} are left out"));
    }
}

/// The parts of a model's files that are not read, with their sizes, where there are any.
pub fn left_out(model: &Model) -> Option<String> {
    let parts: Vec<String> = model
        .left_out
        .iter()
        .map(|(part, (tensors, size))| format!("{part} ({tensors} tensors, {})", ui::bytes(*size as u64)))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// Says what of the model's files is read otherwise than it stands.
fn note_weights(model: &Model) {
    for note in &model.notes {
        ui::note(&format!("{DIM}weights: {note}{DIM:#}"));
    }
}

/// Says what a model's own generation settings ask for beside end tokens: other programs follow
/// them unasked.
pub fn note_generation(path: &Path) {
    let Ok(bytes) = std::fs::read(path.join("generation_config.json")) else { return };
    let Ok(settings) = serde_json::from_slice::<serde_json::Map<_, _>>(&bytes) else { return };
    // The values at which each changes nothing.
    let neutral = |key: &str, value: &serde_json::Value| match key {
        "repetition_penalty" | "encoder_repetition_penalty" | "diversity_penalty" | "length_penalty" => {
            value.as_f64() == Some(1.0)
        }
        "no_repeat_ngram_size" | "encoder_no_repeat_ngram_size" | "min_length" | "min_new_tokens" => {
            value.as_f64() == Some(0.0)
        }
        "num_beams" => value.as_f64() == Some(1.0),
        "do_sample" => value.as_bool() == Some(false),
        "suppress_tokens"
        | "begin_suppress_tokens"
        | "bad_words_ids"
        | "sequence_bias"
        | "forced_bos_token_id"
        | "forced_eos_token_id"
        | "stop_strings" => value.as_array().is_some_and(Vec::is_empty),
        _ => true,
    };
    let asked = settings.iter().filter(|(key, value)| !value.is_null() && !neutral(key, value));
    let asked: Vec<String> = asked.map(|(key, value)| format!("{key} {value}").chars().take(60).collect()).collect();
    if !asked.is_empty() {
        ui::note(&format!(
            "the model's generation_config.json asks for {}, which is not followed: flags alone say how tokens are chosen",
            asked.join(", ")
        ));
    }
}

/// Refuses to write over what is read.
pub fn not_over(output: &Path, flag: &str, input: &Path) -> Result<(), CliError> {
    match (output.canonicalize(), input.canonicalize()) {
        (Ok(to), Ok(from)) if to == from => {
            let path = output.display();
            Err(CliError::failed(format!("--output {path}: is what {flag} names; name another file")))
        }
        _ => Ok(()),
    }
}

/// Says where a model's folder holds an adapter, too, which other programs would load with it.
fn note_adapter(path: &Path) {
    if path.join("adapter_config.json").exists() {
        let path = path.display();
        ui::warn(&format!("{path} also holds an adapter, which is loaded only where it is given: --adapter {path}"));
    }
}

/// Opens the model of `--model` where an encoder will do as well as a language model.
pub fn embedding_model(path: &Path, to: Option<Quantization>) -> Result<EmbeddingModel, CliError> {
    let named = path;
    let path = hub::model_path("--model", named)?;
    let mut model = EmbeddingModel::open(&path).map_err(|error| unopened(named, &error))?;
    note_adapter(&path);
    to.map_or(Ok(()), |to| model.quantize(to)).map_err(CliError::failed)?;
    if let EmbeddingModel::Decoder(model) = &model {
        note_left_out(model);
        note_weights(model);
    }
    Ok(model)
}

/// Folder and scale of an adapter as `--adapter` names it: FOLDER, or FOLDER@SCALE.
pub fn scaled(named: &Path) -> Result<(PathBuf, f32), CliError> {
    let whole = (named.to_owned(), 1.0);
    let Some((folder, scale)) = named.to_str().and_then(|text| text.rsplit_once('@')) else { return Ok(whole) };
    // A folder may have an @ in its name, and so may a name on a hub.
    if named.exists() || !Path::new(folder).exists() {
        return Ok(whole);
    }
    match scale.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok((folder.into(), number)),
        _ => Err(CliError::usage(format!(
            "--adapter {}: after the @ stands \"{scale}\", expected a scale such as 0.5",
            named.display()
        ))),
    }
}

/// Opens the adapters of `--adapter` as one, if there are any, and checks them against the model.
pub fn adapter(named: &[PathBuf], model: &Model) -> Result<Option<Adapter>, CliError> {
    let open = |named: &PathBuf| {
        let (folder, scale) = scaled(named)?;
        let adapter = Adapter::load(existing("--adapter", &folder)?, &model.config).map_err(CliError::failed)?;
        Ok((adapter, scale))
    };
    let sum = Adapter::sum(named.iter().map(open).collect::<Result<_, CliError>>()?);
    let sum = sum.map_err(|error| CliError::failed(format!("--adapter: {error}")))?;
    match sum.as_ref().and_then(Adapter::not_finite) {
        Some(what) => Err(CliError::failed(format!("--adapter: together with their scales, {what}"))),
        None => Ok(sum),
    }
}

/// Checks that the adapters of `--adapter` are there before a model is fetched for them.
pub fn adapters_exist(named: &[PathBuf]) -> Result<(), CliError> {
    named.iter().try_for_each(|named| existing("--adapter", &scaled(named)?.0).map(|_| ()))
}

/// SHA-256 of the adapters of `--adapter` and their scales; none of none.
pub fn adapter_sha256(named: &[PathBuf]) -> Result<Option<String>, CliError> {
    let one = |named: &PathBuf| {
        let (folder, scale) = scaled(named)?;
        Ok((Adapter::sha256(&folder).map_err(CliError::failed)?, scale))
    };
    let all = named.iter().map(one).collect::<Result<Vec<_>, CliError>>()?;
    Ok(match &*all {
        [] => None,
        [(sha256, 1.0)] => Some(sha256.clone()),
        all => Some(bft_formats::sha256_bytes(format!("{all:?}").as_bytes())),
    })
}

/// Reads the rows of `--data`.
pub fn rows(paths: &[PathBuf], settings: &TrainConfig) -> Result<Rows, CliError> {
    let paths = files("--data", paths)?;
    not_one_pipe(paths.iter().map(|path| ("--data", path.as_path())))?;
    settings.check().map_err(CliError::setting)?;
    read_rows(&paths, &settings.rows()).map_err(CliError::failed)
}

/// Makes samples of rows; says what was left out.
pub fn make_samples(model: &Model, rows: Rows, options: &SampleOptions) -> Result<Samples, CliError> {
    let samples = bft_train::make_samples(model, rows, options).map_err(CliError::failed)?;
    for note in samples.report.notes() {
        ui::warn(&note.to_string());
    }
    Ok(samples)
}

/// Checks that a file can be written where a flag wants it, before hours of work.
pub fn writable(flag: &str, path: &Path) -> Result<(), CliError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    not_below_a_file(flag, path)?;
    let problem = if path.is_dir() {
        "it is a folder; name a file".to_owned()
    } else if !folder.is_dir() {
        format!("there is no folder {}; make it first", folder.display())
    } else if path.exists() && !path.is_file() {
        // A pipe or a device.
        return Ok(());
    } else {
        // It is written beside its place first, and this file has no name.
        match tempfile::tempfile_in(folder) {
            Ok(_) => {
                sweep(folder);
                return Ok(());
            }
            Err(error) => format!("no file can be made in {}: {error}", folder.display()),
        }
    };
    Err(CliError::failed(format!("{flag} {}: cannot be written: {problem}", path.display())))
}

/// Checks that a folder of a flag is there with room for files, or can be made, before hours of
/// work.
pub fn writable_folder(flag: &str, path: &Path) -> Result<(), CliError> {
    not_below_a_file(flag, path)?;
    let problem = |what: String| CliError::failed(format!("{flag} {}: cannot be written: {what}", path.display()));
    if path.is_file() {
        return Err(problem("it is a file; name a folder".to_owned()));
    }
    let nearest = path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("."));
    if let Err(error) = tempfile::tempfile_in(nearest) {
        return Err(problem(format!("no file can be made in {}: {error}", nearest.display())));
    }
    // A folder that is to appear whole is made beside its place.
    path.parent().into_iter().chain([path]).for_each(sweep);
    Ok(())
}

/// Removes what runs that were killed have left half written in a folder, and says so. What cannot
/// be removed is no reason not to work.
pub fn sweep(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match bft_formats::remove_leftovers(folder) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => {
            let names: Vec<_> =
                removed.iter().filter_map(|path| path.file_name()).map(|it| it.to_string_lossy()).collect();
            let (folder, names) = (folder.display(), names.join(", "));
            ui::note(&format!("removed what a killed run had left half written in {folder}: {names}"));
        }
        Err(error) => ui::warn(&error.to_string()),
    }
}

/// A model that scores packed batches within `bounds`, with kernels measured where the device is
/// to.
pub fn scorer<'d>(
    device: &'d Device,
    model: &Model,
    adapter: Option<&Adapter>,
    bounds: BatchBounds,
) -> Result<Runner<'d>, CliError> {
    scorer_on(device, &Base::load(device, model).map_err(CliError::failed)?, adapter, bounds)
}

/// As [`scorer`], with a model that is on the device already.
pub fn scorer_on<'d>(
    device: &'d Device,
    base: &Base,
    adapter: Option<&Adapter>,
    bounds: BatchBounds,
) -> Result<Runner<'d>, CliError> {
    let options = RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
    let mut runner = Runner::on(device, base, adapter, options).map_err(CliError::failed)?;
    pollster::block_on(runner.prepare_scores()).map_err(CliError::failed)?;
    Ok(runner)
}

/// What a model that generates is planned for: so many texts at once, of up to `max_length` tokens
/// each, with prompts of up to `prompt`, which are read in pieces.
pub fn generation(prompt: usize, max_length: usize, texts: usize) -> RunnerOptions {
    /// More tokens at once cost memory and win no speed.
    const MOST: usize = 512;
    let capacity = Capacity { tokens: prompt.clamp(1, MOST).max(texts), trained: texts, samples: 1 };
    RunnerOptions { capacity, max_length }
}

/// A device with the compiled shaders and measured kernels of earlier runs, which keeps its own for
/// later ones.
pub struct OpenDevice(Device);

impl Deref for OpenDevice {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        cache::keep(&self.0);
    }
}

/// Opens the device of `--device` and says which it is and why.
pub fn device(request: &DeviceRequest) -> Result<OpenDevice, CliError> {
    let device = pollster::block_on(Device::open_warm(request, &cache::compiled)).map_err(CliError::failed)?;
    cache::remember_kernels(&device);
    ui::note(&format!("{DIM}device: {}{DIM:#}", describe(&device)));
    Ok(OpenDevice(device))
}

/// The device in words: kind, name, backend and why it was taken.
pub fn describe(device: &Device) -> String {
    let info = device.info();
    if device.is_gpu() {
        format!("gpu, {} ({}): {}", info.name, info.backend, info.reason)
    } else {
        format!("cpu, {}: {}", info.backend, info.reason)
    }
}
