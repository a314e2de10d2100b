//! The output folder of a run: who may write to it, its metrics, its checkpoints, its adapter.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bft_formats::{Adapter, write_atomic};

use crate::checkpoint::{Checkpoints, RunState, format_error, write_error};
use crate::error::TrainError;

const METRICS_FILE: &str = "metrics.jsonl";
const RUN_FILE: &str = "run.json";
const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// The output folder, held by this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    output: PathBuf,
    checkpoints: Checkpoints,
    /// Also carries the lock, which ends with the process however it ends.
    metrics: File,
}

/// Looks for what a new run would overwrite, before anything is read or made.
pub(crate) fn check_free(output: &Path) -> Result<(), TrainError> {
    let occupied = |what: String| {
        Err(TrainError::Occupied {
            output: output.to_owned(),
            what,
        })
    };
    let checkpoints = Checkpoints::of(output);
    match checkpoints.list() {
        Ok(list) => {
            if let Some((step, _)) = list.last() {
                return occupied(format!("a run with a checkpoint at step {step}"));
            }
        }
        Err(e) => return Err(write_error("use", output, e)),
    }
    if output.join(ADAPTER_FILE).exists() {
        occupied("an adapter".into())
    } else {
        Ok(())
    }
}

/// The checkpoint to go on from, found before anything is read or made.
pub(crate) fn find_checkpoint(output: &Path) -> Result<(PathBuf, RunState), TrainError> {
    Checkpoints::of(output)
        .last()?
        .ok_or_else(|| TrainError::NothingToResume {
            output: output.to_owned(),
        })
}

impl RunFolder {
    /// Makes the folder if need be, takes it for this process, and cuts the metrics after `step`.
    pub fn open(output: &Path, step: u64) -> Result<Self, TrainError> {
        fs::create_dir_all(output).map_err(|e| write_error("make folder", output, e))?;
        let path = output.join(METRICS_FILE);
        let fail = |e| write_error("write", &path, e);
        let mut metrics = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        // A file system without locks is no reason not to train.
        if let Err(TryLockError::WouldBlock) = metrics.try_lock() {
            return Err(TrainError::Busy {
                output: output.to_owned(),
            });
        }
        let checkpoints = Checkpoints::of(output);
        checkpoints.prepare()?;
        cut_after(&mut metrics, step).map_err(fail)?;
        Ok(Self {
            output: output.to_owned(),
            checkpoints,
            metrics,
        })
    }

    /// The run's checkpoints.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Appends one line to the metrics.
    pub fn write_row(&mut self, row: &impl serde::Serialize) -> Result<(), TrainError> {
        let write = |file: &mut File| -> io::Result<()> {
            let mut line = serde_json::to_vec(row)?;
            line.push(b'\n');
            file.write_all(&line)
        };
        write(&mut self.metrics)
            .map_err(|e| write_error("write", &self.output.join(METRICS_FILE), e))
    }

    /// Flushes the metrics to disk; a checkpoint vouches for all rows up to its step.
    pub fn sync_metrics(&self) -> Result<(), TrainError> {
        match self.metrics.sync_data() {
            // A device file in its place cannot be flushed and need not be.
            Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
                Err(write_error("write", &self.output.join(METRICS_FILE), e))
            }
            _ => Ok(()),
        }
    }

    /// Writes `run.json`.
    pub fn write_run(&self, run: &serde_json::Value) -> Result<(), TrainError> {
        write_atomic(&self.output.join(RUN_FILE), |out| {
            serde_json::to_writer_pretty(&mut *out, run)?;
            out.write_all(b"\n")
        })
        .map_err(format_error)
    }

    /// Writes the run's adapter: the old one or the new one is there, never a part.
    pub fn write_adapter(&self, adapter: &Adapter) -> Result<(), TrainError> {
        adapter.save(&self.output).map_err(format_error)
    }
}

/// Keeps the rows up to `step`, in order, and drops the rest, a half-written last line included.
fn cut_after(file: &mut File, step: u64) -> io::Result<()> {
    #[derive(serde::Deserialize)]
    struct Row {
        step: u64,
    }
    let mut kept = 0;
    if step > 0 {
        let mut reader = io::BufReader::new(&mut *file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            let whole = line.ends_with(b"\n");
            let row = serde_json::from_slice::<Row>(&line);
            if !whole || !row.is_ok_and(|row| row.step <= step) {
                break;
            }
            kept += read as u64;
        }
    }
    // A device file (a pipe, /dev/null) has no length to set.
    if file.metadata()?.is_file() {
        file.set_len(kept)?;
        file.seek(SeekFrom::Start(kept))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "folder/tests.rs"]
mod tests;
