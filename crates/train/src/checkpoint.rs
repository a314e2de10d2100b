//! Checkpoints: a folder a step, complete or not there.
//!
//! ```text
//! checkpoints/step-000100/
//!   adapter_config.json, adapter_model.safetensors   the adapter, in PEFT's layout: usable as it is
//!   optimizer.safetensors                            AdamW's moments and counters, as core keeps them
//!   state.json                                       step, data cursor, settings, hashes
//! ```
//! A folder is written under another name, flushed to disk and renamed, so whatever kills the process leaves the ones
//! before it whole. Order of the samples and dropout are functions of seed and step, so there is no generator to save.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bft_core::OptimizerState;
use bft_formats::{Adapter, FormatError, ModelConfig, write_atomic};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::TrainError;
use crate::state::{Checkpoint, RunState};

/// Complete checkpoints that are kept.
const KEPT: usize = 2;
const PREFIX: &str = "step-";
const INCOMPLETE: &str = ".incomplete-";
const STATE_FILE: &str = "state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The folder that holds a run's checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints of the run that writes to `output`. Touches nothing.
    pub fn of(output: &Path) -> Self {
        Self {
            folder: output.join("checkpoints"),
        }
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
            let step = name
                .to_str()
                .and_then(|n| n.strip_prefix(PREFIX))
                .and_then(|n| n.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Makes the folder and removes what a killed run left half written.
    pub fn prepare(&self) -> Result<(), TrainError> {
        fs::create_dir_all(&self.folder)
            .map_err(|e| write_error("make folder", &self.folder, e))?;
        self.clean()
            .map_err(|e| write_error("clean", &self.folder, e))
    }

    fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.starts_with(INCOMPLETE))
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a checkpoint; then drops all but the last two. Returns its folder.
    pub fn save(
        &self,
        state: &RunState,
        adapter: &Adapter,
        optimizer: &OptimizerState,
    ) -> Result<PathBuf, TrainError> {
        let name = format!("{PREFIX}{:06}", state.step);
        let temporary = self.folder.join(format!("{INCOMPLETE}{name}"));
        let path = self.folder.join(name);
        let written = write_parts(&temporary, state, adapter, optimizer).and_then(|()| {
            fs::rename(&temporary, &path).map_err(|e| write_error("rename to", &path, e))?;
            sync_folder(&self.folder).map_err(|e| write_error("write", &self.folder, e))
        });
        if let Err(error) = written {
            // The half-written one only takes space that may be what is lacking; the error above is what matters.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.prune()
            .map_err(|e| write_error("clean", &self.folder, e))?;
        Ok(path)
    }

    fn prune(&self) -> io::Result<()> {
        let mut complete = self.list()?;
        complete.truncate(complete.len().saturating_sub(KEPT));
        for (_, old) in complete {
            // Renamed first, so that a half-deleted one is never taken for a checkpoint.
            let name = old
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let doomed = self.folder.join(format!("{INCOMPLETE}{name}"));
            fs::rename(&old, &doomed)?;
            fs::remove_dir_all(&doomed)?;
        }
        Ok(())
    }

    /// Reads what the last checkpoint says about its run, without its tensors.
    pub fn last(&self) -> Result<Option<(PathBuf, RunState)>, TrainError> {
        let list = self
            .list()
            .map_err(|e| bad(&self.folder, format!("cannot be listed: {e}")))?;
        list.into_iter()
            .next_back()
            .map(|(_, path)| read_state(&path).map(|state| (path, state)))
            .transpose()
    }
}

/// Reads the tensors of a checkpoint whose state is known.
pub(crate) fn load_checkpoint(
    path: PathBuf,
    state: RunState,
    model: &ModelConfig,
) -> Result<Checkpoint, TrainError> {
    let adapter = Adapter::load(&path, model).map_err(|e| bad(&path, e.to_string()))?;
    let optimizer = read_optimizer(&path)?;
    Ok(Checkpoint {
        path,
        state,
        adapter,
        optimizer,
    })
}

fn write_parts(
    folder: &Path,
    state: &RunState,
    adapter: &Adapter,
    optimizer: &OptimizerState,
) -> Result<(), TrainError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| write_error("replace", folder, e))?;
    }
    fs::create_dir_all(folder).map_err(|e| write_error("make folder", folder, e))?;
    adapter.save(folder).map_err(format_error)?;
    let path = folder.join(OPTIMIZER_FILE);
    write_optimizer(&path, optimizer).map_err(|e| write_error("write", &path, e))?;
    write_atomic(&folder.join(STATE_FILE), |out| {
        Ok(serde_json::to_writer_pretty(out, state)?)
    })
    .map_err(format_error)?;
    sync_folder(folder).map_err(|e| write_error("write", folder, e))
}

fn write_optimizer(path: &Path, state: &OptimizerState) -> io::Result<()> {
    // Safetensors are little-endian, as every machine this runs on.
    fn view(values: &[f32]) -> io::Result<TensorView<'_>> {
        TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))
            .map_err(io::Error::other)
    }
    // As a tensor, not as metadata, whose order in the file changes from run to run.
    let counters: Vec<u8> = [state.step, u64::from(state.passes)]
        .iter()
        .flat_map(|c| c.to_le_bytes())
        .collect();
    let counters = TensorView::new(Dtype::U64, vec![2], &counters).map_err(io::Error::other)?;
    let tensors = [
        ("counters", counters),
        ("control", view(&state.control)?),
        ("first_moment", view(&state.first_moment)?),
        ("second_moment", view(&state.second_moment)?),
    ];
    safetensors::serialize_to_file(tensors, None, path).map_err(|e| match e {
        safetensors::SafeTensorError::IoError(e) => e,
        other => io::Error::other(other),
    })?;
    File::options().write(true).open(path)?.sync_all()
}

fn read_optimizer(folder: &Path) -> Result<OptimizerState, TrainError> {
    let path = folder.join(OPTIMIZER_FILE);
    let problem = |what: String| bad(folder, format!("{OPTIMIZER_FILE}: {what}"));
    let bytes = fs::read(&path).map_err(|e| problem(e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| problem(e.to_string()))?;
    let data = |name: &str, dtype: Dtype| {
        let tensor = tensors.tensor(name).map_err(|e| problem(e.to_string()))?;
        if tensor.dtype() != dtype {
            return Err(problem(format!(
                "{name} is {:?}, expected {dtype:?}",
                tensor.dtype()
            )));
        }
        Ok(tensor.data())
    };
    let values = |name: &str| -> Result<Vec<f32>, TrainError> {
        let (words, _) = data(name, Dtype::F32)?.as_chunks::<4>();
        Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
    };
    let (counters, _) = data("counters", Dtype::U64)?.as_chunks::<8>();
    let [step, passes] = *counters else {
        return Err(problem(format!(
            "counters holds {} numbers, expected 2",
            counters.len()
        )));
    };
    let passes = u64::from_le_bytes(passes);
    Ok(OptimizerState {
        step: u64::from_le_bytes(step),
        passes: u32::try_from(passes)
            .map_err(|_| problem(format!("passes is {passes}, too many")))?,
        control: values("control")?,
        first_moment: values("first_moment")?,
        second_moment: values("second_moment")?,
    })
}

fn read_state(folder: &Path) -> Result<RunState, TrainError> {
    let problem = |what: String| bad(folder, format!("{STATE_FILE}: {what}"));
    let bytes = fs::read(folder.join(STATE_FILE)).map_err(|e| problem(e.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| problem(e.to_string()))?;
    let layout = value.get("layout").and_then(serde_json::Value::as_u64);
    if layout != Some(u64::from(RunState::LAYOUT)) {
        let found = layout.map_or("none".into(), |l| l.to_string());
        return Err(problem(format!(
            "layout is {found}, expected {}: another version of bft made it",
            RunState::LAYOUT
        )));
    }
    serde_json::from_value(value).map_err(|e| problem(e.to_string()))
}

fn bad(path: &Path, problem: String) -> TrainError {
    TrainError::BadCheckpoint {
        path: path.to_owned(),
        problem,
    }
}

pub(crate) fn write_error(action: &'static str, path: &Path, source: io::Error) -> TrainError {
    TrainError::Write {
        action,
        path: path.to_owned(),
        source,
        checkpoint: None,
    }
}

/// An I/O error of bft-formats becomes one of ours, which knows about checkpoints.
pub(crate) fn format_error(error: FormatError) -> TrainError {
    match error {
        FormatError::Io {
            action,
            path,
            source,
        } => TrainError::Write {
            action,
            path,
            source,
            checkpoint: None,
        },
        other => other.into(),
    }
}

/// Flushes a folder's entries, so that a rename survives a power cut. Only Unix can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
