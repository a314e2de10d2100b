//! `bft export`: a tuned model in the files of other programs.

mod change;

use std::path::{Path, PathBuf};

use bft_formats::export::{check_free, files_beside, gguf_adapter, gguf_model, merged_files, modelfile, save_files};
use bft_formats::{Adapter, DType, Model, write_atomic};
use bft_train::path_to_json;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::flags::RunFlags;
use crate::open;
use crate::ui::{self, DIM};
use change::{Change, Ruler};

/// Take a tuned model to other programs
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft export --adapter tuned --merge merged
  bft export --model ./Qwen3-0.6B --adapter tuned@0.5 --merge merged --dtype bf16
  bft export --model m.gguf --adapter tuned --gguf-adapter tuned.gguf --modelfile Modelfile
  bft export --model m.gguf --adapter tuned --gguf whole.gguf --type q8_0

--merge writes a folder that transformers loads: the base with the adapter worked in, its config.json, tokenizer and
chat template. --gguf-adapter writes what llama.cpp takes as --lora over a GGUF file of the base.
--gguf writes base and adapter as one GGUF file: the adapted matrices in --type, all else as the base's file has it.
--modelfile writes what Ollama makes a model by, of the files that are written beside it.")]
pub struct ExportFlags {
    /// A folder with config.json and *.safetensors, a .gguf file, or OWNER/NAME on the hub [default:
    /// what the adapter records as its base]
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", required = true, help_heading = "Model")]
    pub adapter: Vec<PathBuf>,
    /// Write base and adapter as one model to this new folder
    #[arg(long, value_name = "FOLDER", required_unless_present_any = ["gguf_adapter", "gguf"], help_heading = "Output")]
    pub merge: Option<PathBuf>,
    /// Format of --merge's numbers [default: that of the base; f16 for a quantised one, bf16 for
    /// FP8]
    #[arg(long, value_name = "TYPE", value_parser = dtypes(), requires = "merge", help_heading = "Output")]
    pub dtype: Option<DType>,
    /// A text on which is measured what --merge and --gguf change [default: one about p53]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub text: Option<PathBuf>,
    /// Write base and adapter as one GGUF file, for a base in a GGUF file
    #[arg(long, value_name = "FILE", requires = "type", help_heading = "Output")]
    pub gguf: Option<PathBuf>,
    /// Format of the adapted matrices in --gguf
    #[arg(long = "type", id = "type", value_name = "TYPE", value_parser = types(), requires = "gguf", help_heading = "Output")]
    pub dtype_of_gguf: Option<DType>,
    /// Write a Modelfile for Ollama
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub modelfile: Option<PathBuf>,
    /// Write the adapter alone to this file, as llama.cpp loads it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub gguf_adapter: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

fn dtypes() -> impl TypedValueParser<Value = DType> {
    of(DType::plain_ones().collect())
}

fn types() -> impl TypedValueParser<Value = DType> {
    of(DType::plain_ones().chain(DType::quantizers()).collect())
}

/// One of these formats, by its name in small letters.
fn of(dtypes: Vec<DType>) -> impl TypedValueParser<Value = DType> {
    let name = |dtype: &DType| dtype.name().to_lowercase();
    PossibleValuesParser::new(dtypes.iter().map(name))
        .try_map(move |given| dtypes.iter().copied().find(|dtype| name(dtype) == given).ok_or("no such format"))
}

/// Runs `bft export`.
pub fn run(flags: &ExportFlags) -> Result<(), CliError> {
    open::adapters_exist(&flags.adapter)?;
    if let Some(folder) = &flags.merge {
        check_free(folder).map_err(|error| CliError::failed(format!("--merge {error}")))?;
        open::writable_folder("--merge", folder)?;
    }
    let files = [("--gguf-adapter", &flags.gguf_adapter), ("--gguf", &flags.gguf), ("--modelfile", &flags.modelfile)];
    let given = files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_deref()?)));
    given.clone().try_for_each(|(flag, file)| open::writable(flag, file))?;
    let text = flags.text.as_deref().map(read_text).transpose()?;
    let model = open::model(&base(flags)?, None)?;
    given.clone().try_for_each(|(flag, file)| not_the_base(flag, file, &model))?;
    let adapter = open::adapter(&flags.adapter, &model)?
        .ok_or_else(|| CliError::usage("--adapter <DIR> is missing: name what was tuned"))?;
    let measures = flags.merge.is_some() || flags.gguf.is_some();
    let ruler = measures.then(|| Ruler::open(flags.run.device(), &model, text.as_deref())).transpose()?.flatten();
    let mut answer = Map::new();
    if let Some(file) = &flags.gguf_adapter {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let made = gguf_adapter(&model, &adapter, &name).map_err(CliError::failed)?;
        write_atomic(file, |out| made.write(out)).map_err(CliError::failed)?;
        answer.insert("gguf_adapter".to_owned(), path_to_json(file));
        wrote(flags, file, "an adapter for llama.cpp")?;
    }
    if let (Some(file), Some(dtype)) = (&flags.gguf, flags.dtype_of_gguf) {
        whole_gguf(flags, (file, dtype), (&model, &adapter), ruler.as_ref(), &mut answer)?;
    }
    if let Some(folder) = &flags.merge {
        merge(flags, folder, (&model, &adapter), ruler.as_ref(), &mut answer)?;
    }
    if let Some(file) = &flags.modelfile {
        ollama(flags, file, (&model, &adapter))?;
        answer.insert("modelfile".to_owned(), path_to_json(file));
    }
    if flags.json { ui::json(&Value::Object(answer)) } else { Ok(()) }
}

/// Checks that a file does not take the place of the model that it is made of.
fn not_the_base(flag: &str, file: &Path, model: &Model) -> Result<(), CliError> {
    let is_same = file.canonicalize().is_ok_and(|to| model.path.canonicalize().is_ok_and(|from| from == to));
    if !is_same {
        return Ok(());
    }
    let file = file.display();
    Err(CliError::failed(format!("{flag} {file}: is the base, which is read as it is written; name another file")))
}

/// Base and adapter as one GGUF file, written and measured.
fn whole_gguf(
    flags: &ExportFlags,
    (file, dtype): (&Path, DType),
    (model, adapter): (&Model, &Adapter),
    ruler: Option<&Ruler>,
    answer: &mut Map<String, Value>,
) -> Result<(), CliError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let made = gguf_model(model, adapter, dtype, &name).map_err(CliError::failed)?;
    write_atomic(file, |out| made.write(out)).map_err(CliError::failed)?;
    let exported = Model::open(file).map_err(CliError::failed)?;
    wrote(flags, file, &format!("the whole model, what is adapted in {dtype}"))?;
    answer.insert("gguf".to_owned(), path_to_json(file));
    tell(flags, "gguf_logits", ruler.map(|ruler| ruler.measure((model, adapter), &exported)).transpose()?, answer)
}

/// Says what has become of the logits.
fn tell(
    flags: &ExportFlags,
    key: &str,
    change: Option<Change>,
    answer: &mut Map<String, Value>,
) -> Result<(), CliError> {
    answer.insert(key.to_owned(), change.as_ref().map_or(Value::Null, Change::json));
    match change {
        Some(change) if !flags.json => ui::result(&change.to_string()),
        _ => Ok(()),
    }
}

/// The Modelfile: of the whole model where one is written, else of the base and an adapter beside it.
fn ollama(flags: &ExportFlags, file: &Path, (model, adapter): (&Model, &Adapter)) -> Result<(), CliError> {
    let from = flags.gguf.as_deref().or(flags.merge.as_deref());
    let beside = flags.gguf_adapter.as_deref().filter(|_| from.is_none());
    let from = seen_from(file, from.unwrap_or(&model.path));
    let made = modelfile(model, adapter, &from, beside.map(|path| seen_from(file, path)).as_deref());
    write_atomic(file, |out| out.write_all(made.text.as_bytes())).map_err(CliError::failed)?;
    made.left_out.iter().for_each(|what| ui::warn(&format!("the Modelfile leaves out {what}")));
    wrote(flags, file, "for `ollama create NAME -f`")
}

/// How a Modelfile names a path: from its own folder where it lies there, else in full.
fn seen_from(file: &Path, path: &Path) -> String {
    let full = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = full(path);
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.strip_prefix(full(folder)) {
        Ok(inner) => format!("./{}", inner.display()),
        Err(_) => path.display().to_string(),
    }
}

fn wrote(flags: &ExportFlags, path: &Path, what: &str) -> Result<(), CliError> {
    if flags.json { Ok(()) } else { ui::result(&format!("wrote {} ({what})", path.display())) }
}

/// The base: that of `--model`, else the one that the first adapter records.
fn base(flags: &ExportFlags) -> Result<PathBuf, CliError> {
    if let Some(model) = &flags.model {
        return Ok(model.clone());
    }
    let missing = || CliError::usage("--model <PATH> is missing: the adapter records no base");
    let (folder, _) = open::scaled(flags.adapter.first().ok_or_else(missing)?)?;
    let recorded = Adapter::recorded_base(&folder).map_err(CliError::failed)?.ok_or_else(missing)?;
    ui::note(&format!("{DIM}base, as the adapter records it: {recorded}{DIM:#}"));
    Ok(recorded.into())
}

fn read_text(path: &Path) -> Result<String, CliError> {
    let path = open::existing("--text", path)?;
    std::fs::read_to_string(path)
        .map_err(|error| CliError::failed(format!("--text {}: cannot be read: {error}", path.display())))
}

fn merge(
    flags: &ExportFlags,
    folder: &Path,
    (model, adapter): (&Model, &Adapter),
    ruler: Option<&Ruler>,
    answer: &mut Map<String, Value>,
) -> Result<(), CliError> {
    let beside = files_beside(model).map_err(CliError::failed)?;
    let files = merged_files(model, Some(adapter), flags.dtype, &beside).map_err(CliError::failed)?;
    save_files(folder, &files).map_err(CliError::failed)?;
    let merged = Model::open(folder).map_err(CliError::failed)?;
    let formats: Vec<&str> = merged.formats().keys().map(|dtype| dtype.name()).collect();
    wrote(flags, folder, &format!("the whole model, in {}", formats.join(" and ")))?;
    answer.insert("merge".to_owned(), path_to_json(folder));
    answer.insert("formats".to_owned(), json!(formats));
    tell(flags, "logits", ruler.map(|ruler| ruler.measure((model, adapter), &merged)).transpose()?, answer)
}
