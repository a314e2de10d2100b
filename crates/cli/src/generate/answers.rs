//! The file of answers: a line a row, in the order of the rows, so that how many lines there are
//! says where a run goes on. Beside it a manifest says which run it is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bft_core::device::Precision;
use bft_train::PromptRow;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::CliError;

/// The key of a row's answer.
pub const ANSWER: &str = "generated";

/// What must be equal for two starts to be of one run: all that answers depend on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this program.
    pub bft: String,
    /// SHA-256 of the rows.
    pub data_sha256: String,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// Of its configuration, tokenizer and chat template.
    pub model_settings_sha256: String,
    /// `--quantize`.
    pub quantize: Value,
    /// SHA-256 of the adapters, as [`crate::open::adapter_sha256`] has it.
    pub adapter_sha256: Option<String>,
    /// `--system`.
    pub system: Option<String>,
    /// Whether texts are turns of the chat template.
    pub chat_template: bool,
    /// `--template-vars`.
    pub template_vars: Map<String, Value>,
    /// How tokens are chosen.
    pub sampling: Map<String, Value>,
    /// How exact a GPU is.
    pub precision: Precision,
}

/// Answers that are there, and room for more.
pub struct Answers {
    path: PathBuf,
    file: File,
    /// Rows whose answers an earlier start has written.
    pub kept: usize,
}

impl Answers {
    /// Takes the output for this run, unless it is another's.
    pub fn open(output: &Path, manifest: &Manifest, rows: &[PromptRow]) -> Result<Self, CliError> {
        let beside = output.with_extension("run.json");
        let there = output.metadata().ok();
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(CliError::failed(format!(
                "--output {}: is no file, and what is written must be read when a run goes on; name a file",
                output.display()
            )));
        }
        let is_new = !beside.exists();
        if is_new && there.is_some_and(|there| there.len() > 0) {
            return Err(CliError::failed(format!(
                "{} is there, but no {} says of which run it is: remove it, or choose another --output",
                output.display(),
                beside.display()
            )));
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(output);
        let mut answers =
            Self { path: output.to_owned(), file: file.map_err(|error| unusable(output, error))?, kept: 0 };
        answers.lock()?;
        if is_new {
            let write = |out: &mut dyn Write| Ok(serde_json::to_writer_pretty(out, manifest)?);
            bft_formats::write_atomic(&beside, write).map_err(CliError::failed)?;
        } else {
            let text = std::fs::read(&beside).map_err(|error| unusable(&beside, error))?;
            if !serde_json::from_slice::<Manifest>(&text).is_ok_and(|found| found == *manifest) {
                return Err(CliError::failed(format!(
                    "{} is of a run with other rows, another model, other flags or another version of bft: remove it and {}, \
                     or choose another --output",
                    beside.display(),
                    output.display()
                )));
            }
            answers.keep(rows)?;
        }
        Ok(answers)
    }

    /// Two runs would write into each other's lines.
    fn lock(&self) -> Result<(), CliError> {
        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(CliError::failed(format!(
                "{}: another run writes to it: wait for its end, or choose another --output",
                self.path.display()
            ))),
            // Some file systems know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        }
    }

    /// Counts the whole lines, checks that each answers its row, and cuts off one that was not
    /// written to its end.
    fn keep(&mut self, rows: &[PromptRow]) -> Result<(), CliError> {
        let failed = |error| unusable(&self.path, error);
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut whole) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 && line.ends_with(b"\n") {
            let row = rows.get(self.kept).filter(|row| answers(&line, row));
            if row.is_none() {
                return Err(CliError::failed(format!(
                    "{}:{}: does not answer the row in its place: remove it and all after it, or choose another --output",
                    self.path.display(),
                    self.kept + 1
                )));
            }
            whole += line.len() as u64;
            self.kept += 1;
            line.clear();
        }
        self.file.set_len(whole).map_err(failed)?;
        self.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(())
    }

    /// Adds the answer to the next row. It is whole or, where the process ends right then, cut off
    /// at the next start.
    pub fn add(&mut self, row: &PromptRow, answer: Value) -> Result<(), CliError> {
        let mut line = row.row.clone();
        line.insert(ANSWER.to_owned(), answer);
        let text = format!("{}\n", Value::Object(line));
        self.file.write_all(text.as_bytes()).map_err(|error| unusable(&self.path, error))
    }
}

/// Whether a line of the output is this row with an answer.
fn answers(line: &[u8], row: &PromptRow) -> bool {
    let Ok(mut found) = serde_json::from_slice::<Map<String, Value>>(line) else { return false };
    found.shift_remove(ANSWER).is_some() && found == row.row
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("--output {}: cannot be used: {error}", path.display()))
}
