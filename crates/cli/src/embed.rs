//! `bft embed`: text embeddings, from a language model's hidden states after the final norm or from
//! a sentence encoder.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bft_core::Pooling;
use bft_formats::{Adapter, EmbeddingModel, Sha256};
use bft_train::{
    Columns, EmbedEngine, EmbedError, EmbedInput, EmbedOptions, EmbedReport, EmbedRow, Ranks, TrainConfig, check_rows,
    embed_rows, path_to_json,
};
use clap::Args;
use serde_json::json;

use crate::embed_output::{Embeddings, OutputKind, RowId};
use crate::embed_shards::{Files, Run, Shards};
use crate::error::CliError;
use crate::flags::{Flags, KernelFlags, Quantize, RunFlags, at_least, takes, word_parser};
use crate::open;
use crate::ranks::{self, Job};
use crate::suggest::did_you_mean;
use crate::ui::{self, Progress, thousands};

/// Turn texts into vectors
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft embed --model SmolLM2-135M-Instruct.Q4_1.gguf --input genes.txt --output genes.npy
  bft embed --model ./Qwen3-0.6B --adapter tuned --input rows.jsonl --output rows.parquet --normalize
  bft embed --model ./all-MiniLM-L6-v2 --input genes.txt --output genes.parquet
  bft embed --model m.gguf --input abstracts.jsonl --output vectors.npy --shard-rows 10000

Input: lines of text, or rows with text or input_ids, and an id if you like; --columns text=abstract,id=pmid
reads other columns for them.
The output's ending chooses its format: .jsonl, .npy, .safetensors or .parquet.

A sentence encoder (BERT, RoBERTa, XLM-RoBERTa, ModernBERT, Nomic BERT) and a language model that was tuned to embed
pool, scale, cut and prompt as modules.json and what lies beside it say, or a GGUF's pooling_type; flags win.")]
pub struct EmbedFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, a .gguf file, or OWNER/NAME on
    /// the hub; or a sentence encoder's folder, or its name there
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout), or FOLDER@SCALE; more than once for several together
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Vec<PathBuf>,
    /// Lines of text, or rows of JSONL, CSV, TSV or Parquet; as they are or as .gz or .zst
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub input: PathBuf,
    #[command(flatten)]
    pub named: Flags<Named>,
    /// File to write; its ending chooses the format
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub output: PathBuf,
    /// How a text's hidden states become one vector [default: what the model's files say, else
    /// mean]
    #[arg(long, value_name = "POOLING", value_parser = word_parser::<Pooling>(), help_heading = "Text and vectors")]
    pub pooling: Option<Pooling>,
    /// Scale vectors to length 1, or with --normalize=false do not [default: what the model's files
    /// say, else false]
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Text and vectors")]
    pub normalize: Option<bool>,
    /// Put this before every text; '' puts nothing [default: the prompt that the model's files name
    /// as their default]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Text and vectors")]
    pub prompt: Option<String>,
    /// Put the prompt of this name in the model's files before every text, such as query
    #[arg(long, value_name = "NAME", conflicts_with = "prompt", help_heading = "Text and vectors")]
    pub prompt_name: Option<String>,
    /// Longest text in tokens [default: what the model's files say, else 2048 or the model's
    /// context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Text and vectors")]
    pub max_length: Option<usize>,
    /// Cut longer texts instead of stopping; encoders always do
    #[arg(long, help_heading = "Text and vectors")]
    pub truncate: bool,
    /// Texts computed together, at most [default: 16, or what an encoder's memory takes]
    #[arg(long, value_name = "TEXTS", value_parser = at_least(1), help_heading = "Run")]
    pub batch_size: Option<usize>,
    /// Write files of this many texts, OUTPUT-00000 and so on; started again, go on with those that
    /// are missing [default: one file, or 4096 where mpirun starts several processes]
    #[arg(long, value_name = "TEXTS", value_parser = at_least(1), help_heading = "Run")]
    pub shard_rows: Option<usize>,
    /// Print a JSON summary
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub load: Flags<Quantize>,
    #[command(flatten)]
    pub kernels: KernelFlags,
    #[command(flatten)]
    pub run: RunFlags,
}

takes!(
    /// Which columns stand for texts and their names.
    Named: TrainConfig = columns
);

/// What the model's folder says, and the flags on top.
fn options(flags: &EmbedFlags, model: &EmbeddingModel) -> Result<EmbedOptions, CliError> {
    let steps = match model.sentence() {
        Ok(steps) => steps,
        Err(problem) if flags.pooling.is_some() => {
            ui::warn(&format!("{problem}: --pooling is given, so nothing there is followed"));
            None
        }
        Err(problem) => return Err(CliError::failed(problem)),
    };
    let options = if steps.is_some() { EmbedOptions::of } else { EmbedOptions::whatever_files_say };
    let mut options = options(model, flags.max_length).map_err(CliError::failed)?;
    if let Some(pooling) = flags.pooling {
        if matches!((pooling, model), (Pooling::Cls, EmbeddingModel::Decoder(_))) {
            return Err(CliError::failed(
                "--pooling cls: the first token of a language model has seen no other; use mean or last",
            ));
        }
        options.pooling = pooling;
    }
    options.truncate |= flags.truncate;
    options.normalize = flags.normalize.unwrap_or(options.normalize);
    if let Some(name) = &flags.prompt_name {
        let prompts = steps.map(|steps| &steps.prompts);
        options.prompt =
            prompts.and_then(|prompts| prompts.get(name)).cloned().ok_or_else(|| no_prompt(name, prompts))?;
    }
    if let Some(prompt) = &flags.prompt {
        options.prompt.clone_from(prompt);
    }
    if let Some(steps) = steps.filter(|_| matches!(model, EmbeddingModel::Decoder(_)) || !options.prompt.is_empty()) {
        ui::note(&format!("follows {}: {}", steps.source, in_words(&options)));
    }
    if let Some(texts) = flags.batch_size {
        options.batch_rows = texts;
    }
    Ok(options)
}

/// How vectors are made, for people.
fn in_words(options: &EmbedOptions) -> String {
    let pooling = match options.pooling {
        Pooling::Mean => "mean over all tokens",
        Pooling::Cls => "first token",
        Pooling::Last => "last token",
    };
    let length = if options.normalize { "scaled to length 1" } else { "not scaled" };
    let prompt = match options.prompt.as_str() {
        "" => "no prompt".to_owned(),
        prompt => format!("prompt {prompt:?}"),
    };
    format!("{pooling}, {length}, {prompt}")
}

fn no_prompt(name: &str, prompts: Option<&BTreeMap<String, String>>) -> CliError {
    let known: Vec<&str> = prompts.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let (guess, known) = match known.len() {
        0 => (String::new(), "the model's files name none; give the text itself with --prompt".to_owned()),
        _ => (did_you_mean(name, known.iter().copied(), str::to_owned), format!("known: {}", known.join(", "))),
    };
    CliError::failed(format!("--prompt-name {name}: there is no such prompt{guess} ({known})"))
}

/// Runs `bft embed`.
pub fn run(flags: &EmbedFlags) -> Result<(), CliError> {
    match ranks::job()? {
        None => embed(flags, None),
        Some(job) => job.run(|job| embed(flags, Some(job))),
    }
}

/// The whole input, or a rank's part of it.
fn embed(flags: &EmbedFlags, job: Option<&Job>) -> Result<(), CliError> {
    // Whatever can be wrong with the flags is said before anything is computed.
    let kind = OutputKind::of(&flags.output)?;
    flags.named.validate().map_err(CliError::setting)?;
    let file = input(flags, job)?;
    open::adapters_exist(&flags.adapter)?;
    let model = open::embedding_model(&flags.model, flags.load.quantize)?;
    let adapter = adapter(flags, &model)?;
    let options = options(flags, &model)?;
    let shard_rows = flags.shard_rows.or(job.map(|_| SHARD_ROWS));
    let (mut file, sha256) = if shard_rows.is_some() { hashed(file, flags)? } else { (file, String::new()) };
    // Ranks share the rows as they share the shards.
    let (rank, count) = job.map_or((0, 1), |job| (job.rank(), job.count()));
    let mine = |row| row / shard_rows.unwrap_or(SHARD_ROWS) % count == rank;
    check_rows_of(&mut file, flags, &model, &options, mine)?;
    let open_shards = |shard_rows| {
        let run = Run {
            output: &flags.output,
            kind,
            shard_rows,
            options: &options,
            input_sha256: &sha256,
            columns: &flags.named.columns,
            model: &model,
            adapter_sha256: open::adapter_sha256(&flags.adapter)?,
            precision: flags.kernels.precision(),
        };
        Shards::open(run, job)
    };
    let shards = shard_rows.map(open_shards).transpose()?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let request = job.map_or(*flags.run.device(), |job| job.device(flags.run.device()));
    let device = open::device(&request)?;
    flags.kernels.apply(&device, job.is_none());

    let mut engine = EmbedEngine::new(&device, &model, adapter.as_ref(), &options).map_err(CliError::failed)?;
    pollster::block_on(engine.prepare()).map_err(CliError::failed)?;
    let started = Instant::now();
    let mut progress = Progress::new("embedding", "bytes", size, 0);
    let (read, seen) = (Cell::new(0), RefCell::new(Sha256::default()));
    let reader = BufReader::new(Counted { file, read: &read, seen: &seen });
    let rows = rows(flags, reader)?;
    let mut with_ids = false;
    let mut texts = 0;
    let mut heard = |row: &EmbedRow| {
        texts += 1;
        with_ids |= row.id.is_some();
        progress.at(read.get(), &format!("{texts} texts"));
    };
    let width = model.hidden_size();
    let mut vectors = |rows: &mut dyn Iterator<Item = Result<EmbedRow, EmbedError>>| {
        let mut embeddings = Embeddings { width, ..Embeddings::default() };
        let keep = |row: &EmbedRow, vector: &[f32]| {
            embeddings.rows.push(RowId { id: row.id.clone(), line: row.origin.number() });
            embeddings.values.extend_from_slice(vector);
            heard(row);
            Ok(())
        };
        let report = embed_rows(&model, &mut engine, rows, &options, keep);
        let report = pollster::block_on(report).map_err(CliError::failed)?;
        Ok((embeddings, report))
    };
    let (report, files) = match shards {
        None => {
            let (embeddings, report) = vectors(&mut { rows })?;
            embeddings.write(&flags.output, kind)?;
            (report, None)
        }
        Some(shards) => {
            let (report, files) = shards.write(rows, || seen.borrow().clone().finish(), &mut vectors)?;
            (report, Some(files))
        }
    };
    progress.finish();

    say_what_is_lost(&report, &options, kind == OutputKind::Npy && with_ids);
    summary(flags, &report, width, started.elapsed().as_secs_f64(), files)
}

/// The input, opened once the output is known to be writable.
fn input(flags: &EmbedFlags, job: Option<&Job>) -> Result<File, CliError> {
    let input = open::existing("--input", &flags.input)?;
    let file = File::open(input)
        .map_err(|error| CliError::failed(format!("--input {}: cannot be opened: {error}", input.display())))?;
    open::writable("--output", &flags.output)?;
    open::not_over(&flags.output, "--input", input)?;
    open::not_over(&flags.output, "--model", &flags.model)?;
    if job.is_some() {
        open::for_every_rank("--input", input)?;
    }
    Ok(file)
}

/// Reads an input that can be read twice to its end, so that a row that cannot be embedded is found
/// before those ahead of it are.
fn check_rows_of(
    file: &mut File,
    flags: &EmbedFlags,
    model: &EmbeddingModel,
    options: &EmbedOptions,
    mine: impl Fn(usize) -> bool,
) -> Result<(), CliError> {
    if !file.metadata().is_ok_and(|it| it.is_file()) {
        return Ok(());
    }
    let rows = rows(flags, BufReader::new(&*file))?.enumerate().filter(|(row, read)| read.is_err() || mine(*row));
    let rows = rows.map(|(_, row)| row);
    check_rows(model, rows, options).map_err(CliError::failed)?;
    file.rewind().map_err(|error| unreadable(flags, &error))
}

fn rows<'r>(flags: &EmbedFlags, reader: impl io::BufRead + 'r) -> Result<EmbedInput<'r>, CliError> {
    let columns = Columns::new(&flags.named.columns);
    EmbedInput::open(&flags.input.display().to_string(), reader, columns).map_err(CliError::failed)
}

fn unreadable(flags: &EmbedFlags, error: &io::Error) -> CliError {
    CliError::failed(format!("--input {}: cannot be read: {error}", flags.input.display()))
}

/// The adapter of `--adapter`, which an encoder cannot have.
fn adapter(flags: &EmbedFlags, model: &EmbeddingModel) -> Result<Option<Adapter>, CliError> {
    match (model, &*flags.adapter) {
        (EmbeddingModel::Decoder(model), adapters) => open::adapter(adapters, model),
        (EmbeddingModel::Encoder(_), []) => Ok(None),
        (EmbeddingModel::Encoder(model), _) => Err(CliError::failed(format!(
            "--adapter: {} is a sentence encoder, and adapters are for language models; leave it out",
            model.name
        ))),
    }
}

/// What of the input is not in the output.
fn say_what_is_lost(report: &EmbedReport, options: &EmbedOptions, ids: bool) {
    if report.truncated > 0 {
        ui::warn(&format!("{} of {} texts were cut to {} tokens", report.truncated, report.rows, options.max_length));
    }
    if ids {
        ui::note("ids are not kept in .npy; its rows are in the order of the input");
    }
}

/// What was made, and how fast.
fn summary(
    flags: &EmbedFlags,
    report: &EmbedReport,
    width: usize,
    seconds: f64,
    files: Option<Files>,
) -> Result<(), CliError> {
    if flags.json {
        return ui::json(&json!({
            "rows": report.rows,
            "tokens": report.tokens,
            "truncated": report.truncated,
            "width": width,
            "seconds": seconds,
            "output": path_to_json(&flags.output),
            "shards": files,
        }));
    }
    let place = match &files {
        None => flags.output.display().to_string(),
        Some(files) => format!("{} files, of which {} were there", files.all, files.kept),
    };
    ui::note(&format!(
        "{} vectors of {width} numbers in {place} ({:.0} tokens/s)",
        thousands(report.rows as u64),
        report.tokens as f64 / seconds.max(1e-9)
    ));
    Ok(())
}

/// Texts in a shard where several processes write them.
const SHARD_ROWS: usize = 4096;

/// An input at its start, with the SHA-256 of what will be read. A pipe, which can be read but
/// once, is kept in a file without a name beside the output.
fn hashed(mut input: File, flags: &EmbedFlags) -> Result<(File, String), CliError> {
    let failed = |error: io::Error| unreadable(flags, &error);
    let mut kept = None;
    if !input.metadata().map_err(failed)?.is_file() {
        let folder = flags.output.parent().filter(|folder| !folder.as_os_str().is_empty());
        kept = Some(tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map_err(failed)?);
    }
    let mut hasher = Sha256::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        if let Some(kept) = &mut kept {
            kept.write_all(&buffer[..count]).map_err(failed)?;
        }
    }
    let mut file = kept.unwrap_or(input);
    file.rewind().map_err(failed)?;
    Ok((file, hasher.finish()))
}

/// Counts the bytes read, for the progress bar, and hashes them.
struct Counted<'c> {
    file: File,
    read: &'c Cell<u64>,
    seen: &'c RefCell<Sha256>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        self.seen.borrow_mut().update(&buffer[..count]);
        Ok(count)
    }
}
