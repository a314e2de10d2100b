//! Preparing a training run on disk: files read and checked, a fresh start or a checkpoint to go on from.

use std::sync::atomic::AtomicBool;

use bft_formats::{Adapter, Model, sha256_file};

use crate::adapter::new_adapter;
use crate::checkpoint::Checkpoint;
use crate::config::TrainConfig;
use crate::engine::{Engine, EngineError};
use crate::error::TrainError;
use crate::event::{Event, Finished, Note};
use crate::folder::{RunFolder, check_free, find_checkpoint};
use crate::plan::Plan;
use crate::resume::check_settings;
use crate::run::{Facts, Run, Start};

/// A run that is ready to start: files read and checked, nothing written yet.
#[derive(Debug)]
pub struct Trainer<'m> {
    model: &'m Model,
    plan: Plan,
    adapter: Adapter,
    resumed: Option<Checkpoint>,
    notes: Vec<Note>,
    model_sha256: String,
    data_sha256: String,
}

/// The device that a run takes place on, as far as a run cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSummary {
    /// Name, kind and reason in words.
    pub description: String,
    /// Memory the run will need, in bytes.
    pub memory_bytes: u64,
}

impl<'m> Trainer<'m> {
    /// Reads and checks everything that `config` names. Writes nothing.
    pub fn new(config: TrainConfig, model: &'m Model) -> Result<Self, TrainError> {
        config.validate()?;
        let last = if config.resume {
            Some(find_checkpoint(&config.output)?)
        } else {
            check_free(&config.output)?;
            None
        };
        let plan = Plan::read(config, model)?;
        let config = &plan.config;
        let (model_sha256, data_sha256) = (model.sha256()?, sha256_file(&config.data)?);
        let mut notes = plan.notes();
        let resumed = match last {
            None => None,
            Some((path, state)) => {
                check_settings(&path, &state, config, &model_sha256, &data_sha256)?;
                if state.step > plan.steps {
                    let (done, steps) = (state.step, plan.steps);
                    return Err(TrainError::AlreadyPast { path, done, steps });
                }
                if state.steps != plan.steps && config.schedule.depends_on_steps() {
                    notes.push(Note::ScheduleStretched {
                        from: state.steps,
                        to: plan.steps,
                    });
                }
                if state.step == plan.steps {
                    notes.push(Note::AlreadyDone { steps: plan.steps });
                }
                Some(Checkpoint::load(path, state, &model.config)?)
            }
        };
        let adapter = match (&resumed, &config.init_adapter) {
            (Some(checkpoint), _) => checkpoint.adapter.clone(),
            (None, None) => new_adapter(&model.config, &model.name, config)?,
            (None, Some(folder)) => {
                let mut adapter = Adapter::load(folder, &model.config)?;
                adapter.config.dropout = config.lora_dropout;
                notes.push(Note::InitAdapter {
                    rank: adapter.config.rank,
                    alpha: adapter.config.alpha,
                    modules: adapter.config.target_modules.clone(),
                });
                adapter
            }
        };
        Ok(Self {
            model,
            plan,
            adapter,
            resumed,
            notes,
            model_sha256,
            data_sha256,
        })
    }

    /// What will be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The adapter that the run starts or goes on from.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Trains. `engine` starts from the given adapter; `stop` ends the run after the step at hand, with a checkpoint.
    ///
    /// # Errors
    /// Whatever the device or the disk reports, with the checkpoint that is left.
    pub async fn run_with<E: Engine>(
        self,
        device: &DeviceSummary,
        engine: impl FnOnce(Adapter, &Plan) -> Result<E, EngineError>,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Finished, TrainError> {
        let parameters = self
            .adapter
            .pairs
            .iter()
            .map(|p| p.a.len() + p.b.len())
            .sum();
        let mut engine = engine(self.adapter, &self.plan).map_err(TrainError::Engine)?;
        let mut notes = self.notes;
        let start = match self.resumed {
            None => Start::default(),
            Some(checkpoint) => {
                engine
                    .set_optimizer_state(&checkpoint.optimizer)
                    .map_err(TrainError::Engine)?;
                let Checkpoint { path, state, .. } = checkpoint;
                if state.device != device.description {
                    let (from, to) = (state.device, device.description.clone());
                    notes.push(Note::DeviceChanged { from, to });
                }
                Start {
                    step: state.step,
                    cursor: state.cursor,
                    checkpoint: Some(path),
                }
            }
        };
        // The folder is touched last: whatever fails above leaves it as it was.
        let folder = RunFolder::open(&self.plan.config.output, start.step)?;
        let facts = Facts {
            model: self.model,
            device,
            model_sha256: &self.model_sha256,
            data_sha256: &self.data_sha256,
            parameters,
        };
        Run::new(&self.plan, facts, folder, engine, start, stop, on_event)
            .go(notes)
            .await
    }
}

#[cfg(test)]
#[path = "trainer/tests.rs"]
mod tests;
