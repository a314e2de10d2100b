//! Checkpoints: a folder a step, complete or not there.
//!
//! ```text
//! checkpoints/step-000100/
//!   adapter_config.json, adapter_model.safetensors   the adapter, in PEFT's layout: usable as it is
//!   best.safetensors                                 with --save-best: the weights of the best adapter so far
//!   optimizer.safetensors                            AdamW's moments and counters, as core keeps them
//!   state.json                                       step, data cursor, settings, hashes
//!   SHA256SUMS                                       checksums of all of them, as `sha256sum -c` reads them
//! ```
//! A folder is written under another name, flushed to disk and renamed, so whatever kills the
//! process leaves the ones before it whole. Order of the samples and dropout are functions of seed
//! and step, so there is no generator to save.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bft_formats::{Bytes, FormatError, ModelConfig, write_atomic};

use crate::checkpoint_files::{NamedFile, check_files};
use crate::error::TrainError;
use crate::state::{Checkpoint, RunState};

/// Complete checkpoints that are kept.
const KEPT: usize = 2;
const PREFIX: &str = "step-";
const INCOMPLETE: &str = ".incomplete-";

/// The folder that holds a run's checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints of the run that writes to `output`. Touches nothing.
    pub fn of(output: &Path) -> Self {
        Self { folder: output.join("checkpoints") }
    }

    /// Complete checkpoints, oldest first, with their steps. None where the folder is not there.
    pub fn list(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Makes the folder and removes what a killed run left half written.
    pub fn prepare(&self) -> Result<(), TrainError> {
        fs::create_dir_all(&self.folder).map_err(|e| write_error("make folder", &self.folder, e))?;
        self.clean().map_err(|e| write_error("clean", &self.folder, e))
    }

    fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|n| n.starts_with(INCOMPLETE)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a checkpoint's files; then drops all but the last two. Returns its folder.
    pub(crate) fn save(
        &self,
        state: &RunState,
        files: impl Iterator<Item = Result<NamedFile, TrainError>>,
    ) -> Result<PathBuf, TrainError> {
        let name = format!("{PREFIX}{:06}", state.step);
        let temporary = self.folder.join(format!("{INCOMPLETE}{name}"));
        let path = self.folder.join(name);
        let written = write_parts(&temporary, files).and_then(|()| {
            fs::rename(&temporary, &path).map_err(|e| write_error("rename to", &path, e))?;
            sync_folder(&self.folder).map_err(|e| write_error("write", &self.folder, e))
        });
        if let Err(error) = written {
            // The half-written one only takes space that may be what is lacking; the error above is
            // what matters.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.prune().map_err(|e| write_error("clean", &self.folder, e))?;
        Ok(path)
    }

    fn prune(&self) -> io::Result<()> {
        let mut complete = self.list()?;
        complete.truncate(complete.len().saturating_sub(KEPT));
        for (_, old) in complete {
            // Renamed first, so that a half-deleted one is never taken for a checkpoint.
            let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let doomed = self.folder.join(format!("{INCOMPLETE}{name}"));
            fs::rename(&old, &doomed)?;
            fs::remove_dir_all(&doomed)?;
        }
        Ok(())
    }

    /// Opens the newest checkpoint, where it is whole.
    ///
    /// # Errors
    /// [`TrainError::Damaged`], which names the newest one before it that is whole.
    pub(crate) fn newest(&self) -> Result<Option<CheckpointFiles>, TrainError> {
        let list = self.list().map_err(|e| bad(&self.folder, format!("cannot be listed: {e}")))?;
        let newest = list.last().map(|(_, path)| CheckpointFiles::open(path.clone()));
        newest.transpose().map_err(|error| self.damaged(error))
    }

    /// Adds to an error of the newest checkpoint which older one is whole.
    pub(crate) fn damaged(&self, error: TrainError) -> TrainError {
        let mut older = self.list().unwrap_or_default();
        let newest = older.pop().map(|(_, path)| path).unwrap_or_default();
        let whole = older.into_iter().rev().map(|(_, path)| path);
        let whole = whole.into_iter().find(|path| CheckpointFiles::open(path.clone()).is_ok());
        TrainError::Damaged { source: Box::new(error), newest, whole }
    }
}

/// A checkpoint whose files are what their checksums say; its tensors are not read yet.
#[derive(Debug)]
pub(crate) struct CheckpointFiles {
    pub path: PathBuf,
    pub state: RunState,
    files: BTreeMap<String, Bytes>,
}

impl CheckpointFiles {
    fn open(path: PathBuf) -> Result<Self, TrainError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&path).map_err(|e| bad(&path, e.to_string()))? {
            let file = entry.map_err(|e| bad(&path, e.to_string()))?.path();
            if let (true, Some(name)) = (file.is_file(), file.file_name().and_then(|name| name.to_str())) {
                let bytes = Bytes::map(&file).map_err(|e| bad(&path, e.to_string()))?;
                files.insert(name.to_owned(), bytes);
            }
        }
        let state = check_files(&files).map_err(|problem| bad(&path, problem))?;
        Ok(Self { path, state, files })
    }

    /// Reads the tensors.
    pub fn load(self, model: &ModelConfig) -> Result<Checkpoint, TrainError> {
        Checkpoint::from_files(self.path, self.files, model)
    }
}

fn write_parts(folder: &Path, files: impl Iterator<Item = Result<NamedFile, TrainError>>) -> Result<(), TrainError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| write_error("replace", folder, e))?;
    }
    fs::create_dir_all(folder).map_err(|e| write_error("make folder", folder, e))?;
    for file in files {
        let (name, contents) = file?;
        write_atomic(&folder.join(name), |out| out.write_all(&contents)).map_err(format_error)?;
    }
    sync_folder(folder).map_err(|e| write_error("write", folder, e))
}

fn bad(path: &Path, problem: String) -> TrainError {
    TrainError::BadCheckpoint { path: path.to_owned(), problem }
}

pub(crate) fn write_error(action: &'static str, path: &Path, source: io::Error) -> TrainError {
    TrainError::Write { action, path: path.to_owned(), source, checkpoint: None }
}

/// An I/O error of bft-formats becomes one of ours, which knows about checkpoints.
pub(crate) fn format_error(error: FormatError) -> TrainError {
    match error {
        FormatError::Io { action, path, source } => TrainError::Write { action, path, source, checkpoint: None },
        other => other.into(),
    }
}

/// Flushes a folder's entries, so that a rename survives a power cut. Only Unix can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
