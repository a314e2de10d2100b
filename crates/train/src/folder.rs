//! The output folder of a run: who may write to it, its metrics, its checkpoints, its adapter.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bft_formats::{Adapter, write_atomic};

use crate::checkpoint::{CheckpointFiles, Checkpoints, format_error, write_error};
use crate::checkpoint_files::checkpoint_files;
use crate::config::{Logs, TrainConfig};
use crate::error::TrainError;
use crate::event::MetricsRow;
use crate::state::{Clock, RunState, Store};
use crate::tensorboard::{self, EventFile};
use bft_core::OptimizerState;

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
    /// With `--logs tensorboard`.
    events: Option<EventFile>,
    clock: Clock,
}

/// The store of a process that keeps nothing, because another one of its run does.
#[derive(Debug)]
pub(crate) struct Nowhere {
    clock: Clock,
    checkpoints: PathBuf,
}

impl Nowhere {
    /// `output` is where the other process writes.
    pub fn new(output: &Path) -> Self {
        Self { clock: Clock::default(), checkpoints: output.join("checkpoints") }
    }
}

impl Store for Nowhere {
    fn seconds(&self) -> f64 {
        self.clock.seconds()
    }

    fn write_row(&mut self, _: &MetricsRow<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    async fn write_run(&mut self, _: &str) -> Result<(), TrainError> {
        Ok(())
    }

    async fn save(
        &mut self,
        _: &RunState,
        _: &Adapter,
        _: Option<&Adapter>,
        _: &OptimizerState,
    ) -> Result<PathBuf, TrainError> {
        Ok(self.checkpoints.clone())
    }

    async fn write_adapter(&mut self, _: &Adapter) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Looks for what a new run would overwrite, before anything is read or made.
pub(crate) fn check_free(output: &Path) -> Result<(), TrainError> {
    let occupied = |what: String| Err(TrainError::Occupied { output: output.to_owned(), what });
    let checkpoints = Checkpoints::of(output);
    match checkpoints.list() {
        Ok(list) => {
            if let Some((step, _)) = list.last() {
                return occupied(format!("a run with a checkpoint at step {step}"));
            }
        }
        Err(e) => return Err(write_error("use", output, e)),
    }
    if output.join(ADAPTER_FILE).exists() { occupied("an adapter".into()) } else { Ok(()) }
}

/// The checkpoint to go on from, found and checked before anything is read or made; `None` where no
/// run came as far as its first one.
pub(crate) fn find_checkpoint(output: &Path) -> Result<Option<CheckpointFiles>, TrainError> {
    let newest = Checkpoints::of(output).newest()?;
    match newest {
        None if output.join(ADAPTER_FILE).exists() => Err(TrainError::CheckpointsGone { output: output.to_owned() }),
        newest => Ok(newest),
    }
}

impl RunFolder {
    /// Makes the folder if need be, takes it for this process, and cuts the metrics after `step`.
    pub fn open(config: &TrainConfig, step: u64) -> Result<Self, TrainError> {
        let output = &*config.output;
        fs::create_dir_all(output).map_err(|e| write_error("make folder", output, e))?;
        let path = output.join(METRICS_FILE);
        let fail = |e| write_error("write", &path, e);
        let mut metrics =
            File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(fail)?;
        // A file system without locks is no reason not to train.
        if let Err(TryLockError::WouldBlock) = metrics.try_lock() {
            return Err(TrainError::Busy { output: output.to_owned() });
        }
        let checkpoints = Checkpoints::of(output);
        checkpoints.prepare()?;
        cut_after(&mut metrics, step).map_err(fail)?;
        let clock = Clock::default();
        let events = match config.logs {
            Some(Logs::Tensorboard) => {
                let begun = EventFile::create(&output.join(tensorboard::FOLDER), clock.seconds(), step);
                Some(begun.map_err(|(path, e)| write_error("write", &path, e))?)
            }
            None => None,
        };
        Ok(Self { output: output.to_owned(), checkpoints, metrics, events, clock })
    }

    /// Flushes the metrics to disk; a checkpoint vouches for all rows up to its step.
    fn sync_metrics(&self) -> Result<(), TrainError> {
        match self.metrics.sync_data() {
            // A device file in its place cannot be flushed and need not be.
            Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
                Err(write_error("write", &self.output.join(METRICS_FILE), e))
            }
            _ => Ok(()),
        }
    }
}

impl Store for RunFolder {
    fn seconds(&self) -> f64 {
        self.clock.seconds()
    }

    fn write_row(&mut self, row: &MetricsRow<'_>) -> Result<(), TrainError> {
        // One call a line: what is there after a crash is whole lines, and at most one half.
        let written = self.metrics.write_all(format!("{}\n", row.line()).as_bytes());
        written.map_err(|e| write_error("write", &self.output.join(METRICS_FILE), e))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let (step, scalars) = row.scalars();
        let written = events.scalars(self.clock.seconds(), step, &scalars);
        written.map_err(|(path, e)| write_error("write", &path, e))
    }

    async fn write_run(&mut self, run: &str) -> Result<(), TrainError> {
        write_atomic(&self.output.join(RUN_FILE), |out| writeln!(out, "{run}")).map_err(format_error)
    }

    async fn save(
        &mut self,
        state: &RunState,
        adapter: &Adapter,
        best: Option<&Adapter>,
        optimizer: &OptimizerState,
    ) -> Result<PathBuf, TrainError> {
        self.sync_metrics()?;
        self.checkpoints.save(state, checkpoint_files(state, adapter, best, optimizer, Vec::new()))
    }

    async fn write_adapter(&mut self, adapter: &Adapter) -> Result<(), TrainError> {
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
