//! `bft embed`: text embeddings, from a language model's hidden states after the final norm or from a sentence encoder.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use bft_core::Pooling;
use bft_formats::EmbeddingModel;
use bft_train::{EmbedEngine, EmbedInput, EmbedOptions, embed_rows, path_to_json};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::embed_output::{Embeddings, OutputKind, RowId};
use crate::error::CliError;
use crate::flags::{RunFlags, at_least};
use crate::open;
use crate::ui::{self, Progress, thousands};

/// Turn texts into vectors
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft embed --model SmolLM2-135M-Instruct.Q4_1.gguf --input genes.txt --output genes.npy
  bft embed --model ./Qwen3-0.6B --adapter tuned --input rows.jsonl --output rows.parquet --normalize
  bft embed --model ./all-MiniLM-L6-v2 --input genes.txt --output genes.parquet

Input: lines of text, or JSONL rows with text or input_ids, and an id if you like.
The output's ending chooses its format: .jsonl, .npy, .safetensors or .parquet.

A BERT sentence encoder (MiniLM, BGE, PubMedBERT) pools, scales and cuts as its folder says.")]
pub struct EmbedFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file; or a sentence encoder's folder
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub model: PathBuf,
    /// LoRA adapter folder (PEFT layout)
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Lines of text, or JSONL rows
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub input: PathBuf,
    /// File to write; its ending chooses the format
    #[arg(long, value_name = "FILE", help_heading = "Text and vectors")]
    pub output: PathBuf,
    /// How a text's hidden states become one vector [default: mean, or what the encoder's folder says]
    #[arg(long, value_enum, help_heading = "Text and vectors")]
    pub pooling: Option<PoolingFlag>,
    /// Scale vectors to length 1
    #[arg(long, help_heading = "Text and vectors")]
    pub normalize: bool,
    /// Longest text in tokens [default: 2048, or the model's context if that is shorter, or what the encoder's folder says]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Text and vectors")]
    pub max_length: Option<usize>,
    /// Cut longer texts instead of stopping; encoders always do
    #[arg(long, help_heading = "Text and vectors")]
    pub truncate: bool,
    /// Texts computed together, at most [default: 16, or what an encoder's memory takes]
    #[arg(long, value_name = "TEXTS", value_parser = at_least(1), help_heading = "Run")]
    pub batch_size: Option<usize>,
    /// Print a JSON summary
    #[arg(long, help_heading = "Run")]
    pub json: bool,
    #[command(flatten)]
    pub run: RunFlags,
}

/// `--pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingFlag {
    /// the mean over all tokens
    Mean,
    /// the first token's, for encoders
    Cls,
    /// the last token's
    Last,
}

impl From<PoolingFlag> for Pooling {
    fn from(flag: PoolingFlag) -> Self {
        match flag {
            PoolingFlag::Mean => Self::Mean,
            PoolingFlag::Cls => Self::Cls,
            PoolingFlag::Last => Self::Last,
        }
    }
}

/// What the model's folder says, and the flags on top.
fn options(flags: &EmbedFlags, model: &EmbeddingModel) -> Result<EmbedOptions, CliError> {
    let mut options = EmbedOptions::of(model, flags.max_length).map_err(CliError::failed)?;
    if let Some(pooling) = flags.pooling {
        if matches!(
            (pooling, model),
            (PoolingFlag::Cls, EmbeddingModel::Decoder(_))
        ) {
            return Err(CliError::failed(
                "--pooling cls: the first token of a language model has seen no other; use mean or last",
            ));
        }
        options.pooling = pooling.into();
    }
    options.truncate |= flags.truncate;
    options.normalize |= flags.normalize;
    if let Some(texts) = flags.batch_size {
        options.batch_rows = texts;
    }
    Ok(options)
}

/// Runs `bft embed`.
pub fn run(flags: &EmbedFlags) -> Result<(), CliError> {
    // Whatever can be wrong with the flags is said before anything is computed.
    let kind = OutputKind::of(&flags.output)?;
    let model = open::embedding_model(&flags.model)?;
    let adapter = match (&model, &flags.adapter) {
        (EmbeddingModel::Decoder(model), adapter) => open::adapter(adapter.as_deref(), model)?,
        (EmbeddingModel::Encoder(_), None) => None,
        (EmbeddingModel::Encoder(model), Some(_)) => {
            return Err(CliError::failed(format!(
                "--adapter: {} is a sentence encoder, and adapters are for language models; leave it out",
                model.name
            )));
        }
    };
    let options = options(flags, &model)?;
    let input = open::existing("--input", &flags.input)?;
    let file = File::open(input).map_err(|error| {
        CliError::failed(format!(
            "--input {}: cannot be opened: {error}",
            input.display()
        ))
    })?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    open::writable("--output", &flags.output)?;
    let device = open::device(&flags.run.device)?;

    let mut engine =
        EmbedEngine::new(&device, &model, adapter.as_ref(), &options).map_err(CliError::failed)?;
    let started = Instant::now();
    let mut embeddings = Embeddings {
        width: model.hidden_size(),
        ..Embeddings::default()
    };
    let mut progress = Progress::new("embedding", "bytes", size, 0);
    let read = Cell::new(0);
    let reader = BufReader::new(Counted { file, read: &read });
    let rows = EmbedInput::new(&input.display().to_string(), reader);
    let report = pollster::block_on(embed_rows(
        &model,
        &mut engine,
        rows,
        &options,
        |row, vector| {
            embeddings.rows.push(RowId {
                id: row.id.clone(),
                line: row.origin.line,
            });
            embeddings.values.extend_from_slice(vector);
            progress.at(read.get(), &format!("{} texts", embeddings.rows.len()));
            Ok(())
        },
    ))
    .map_err(CliError::failed)?;
    progress.finish();
    embeddings.write(&flags.output, kind)?;

    let seconds = started.elapsed().as_secs_f64();
    if report.truncated > 0 {
        ui::warn(&format!(
            "{} of {} texts were cut to {} tokens",
            report.truncated, report.rows, options.max_length
        ));
    }
    if kind == OutputKind::Npy && embeddings.rows.iter().any(|row| row.id.is_some()) {
        ui::note("ids are not kept in .npy; its rows are in the order of the input");
    }
    if flags.json {
        return ui::json(&json!({
            "rows": report.rows,
            "tokens": report.tokens,
            "truncated": report.truncated,
            "width": embeddings.width,
            "seconds": seconds,
            "output": path_to_json(&flags.output),
        }));
    }
    ui::note(&format!(
        "{} vectors of {} numbers in {} ({:.0} tokens/s)",
        thousands(report.rows as u64),
        embeddings.width,
        flags.output.display(),
        report.tokens as f64 / seconds.max(1e-9)
    ));
    Ok(())
}

/// Counts the bytes read, for the progress bar.
struct Counted<'c> {
    file: File,
    read: &'c Cell<u64>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}
