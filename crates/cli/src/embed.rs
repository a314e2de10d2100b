//! `bft embed`: text embeddings from the hidden state after the final norm.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use bft_core::Pooling;
use bft_train::{BatchBounds, EmbedInput, EmbedOptions, embed_rows, path_to_json};
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

Input: lines of text, or JSONL rows with text or input_ids, and an id if you like.
The output's ending chooses its format: .jsonl, .npy, .safetensors or .parquet.")]
pub struct EmbedFlags {
    /// A folder with config.json, *.safetensors and tokenizer.json, or a .gguf file
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
    /// How a text's hidden states become one vector
    #[arg(long, value_enum, default_value_t = PoolingFlag::Mean, help_heading = "Text and vectors")]
    pub pooling: PoolingFlag,
    /// Scale vectors to length 1
    #[arg(long, help_heading = "Text and vectors")]
    pub normalize: bool,
    /// Longest text in tokens [default: 2048, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least(2), help_heading = "Text and vectors")]
    pub max_length: Option<usize>,
    /// Cut longer texts instead of stopping
    #[arg(long, help_heading = "Text and vectors")]
    pub truncate: bool,
    /// Texts computed together, at most
    #[arg(long, value_name = "TEXTS", default_value_t = 16, value_parser = at_least(1), help_heading = "Run")]
    pub batch_size: usize,
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
    /// the last token's
    Last,
}

/// Runs `bft embed`.
pub fn run(flags: &EmbedFlags) -> Result<(), CliError> {
    // Whatever can be wrong with the flags is said before anything is computed.
    let kind = OutputKind::of(&flags.output)?;
    let model = open::model(&flags.model)?;
    let adapter = open::adapter(flags.adapter.as_deref(), &model)?;
    let max_length = open::max_length(flags.max_length, &model)?;
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

    let options = EmbedOptions {
        batch_tokens: max_length.max(BATCH_TOKENS),
        batch_rows: flags.batch_size,
        max_length,
        truncate: flags.truncate,
        normalize: flags.normalize,
        pooling: match flags.pooling {
            PoolingFlag::Mean => Pooling::Mean,
            PoolingFlag::Last => Pooling::Last,
        },
    };
    let tokens = options
        .batch_tokens
        .min(flags.batch_size.saturating_mul(max_length));
    let bounds = BatchBounds {
        tokens,
        trained: 0,
        samples: flags.batch_size.min(tokens),
    };
    let mut runner = open::scorer(&device, &model, adapter.as_ref(), bounds)?;
    let started = Instant::now();
    let mut embeddings = Embeddings {
        width: model.config.hidden_size,
        ..Embeddings::default()
    };
    let mut progress = Progress::new("embedding", "bytes", size, 0);
    let read = Cell::new(0);
    let reader = BufReader::new(Counted { file, read: &read });
    let rows = EmbedInput::new(&input.display().to_string(), reader);
    let report = pollster::block_on(embed_rows(
        &model,
        &mut runner,
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
            "{} of {} texts were cut to {max_length} tokens",
            report.truncated, report.rows
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

/// Large enough that products are efficient, small enough that memory stays modest.
const BATCH_TOKENS: usize = 2048;

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
