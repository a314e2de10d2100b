//! Preparing a training run: a fresh start or a checkpoint to go on from, a device, and where to
//! keep what is made.

use bft_formats::{Adapter, Model};

use crate::adapter::{adopt_weights, new_adapter, record_base};
use crate::config::LoraInit;
use crate::control::Control;
use crate::description::{DeviceSummary, Facts};
use crate::engine::{Engine, EngineError, Tuning};
use crate::error::TrainError;
use crate::event::{Event, Finished, Note};
use crate::plan::Plan;
use crate::run::{Run, Start};
use crate::state::{Best, Checkpoint, RunState, Store};

/// A run that is ready to start: everything read and checked, nothing written yet.
#[derive(Debug)]
pub struct Trainer<'m> {
    model: &'m Model,
    plan: Plan,
    adapter: Adapter,
    resumed: Option<Checkpoint>,
    notes: Vec<Note>,
    model_sha256: String,
}

impl<'m> Trainer<'m> {
    /// A fresh start, from the given adapter or a new one.
    pub fn fresh(model: &'m Model, mut plan: Plan, init: Option<Adapter>) -> Result<Self, TrainError> {
        let mut notes = plan.notes();
        let mut adapter = match init {
            None => {
                let mut adapter = new_adapter(&model.config, &model.name, &plan.config)?;
                adopt_weights(&mut adapter, model, &plan.config)?;
                adapter
            }
            Some(mut adapter) => {
                adapter.config.dropout = plan.config.lora_dropout;
                // What the run says of itself is what it does.
                plan.config.rank = adapter.config.rank;
                plan.config.alpha = Some(adapter.config.alpha);
                plan.config.target_modules = adapter.modules();
                plan.config.use_rslora = adapter.config.use_rslora;
                plan.config.use_dora = adapter.config.use_dora;
                plan.config.lora_init = LoraInit::Default;
                notes.push(Note::InitAdapter {
                    rank: adapter.config.rank,
                    alpha: adapter.config.alpha,
                    modules: adapter.config.target_modules.clone(),
                });
                adapter
            }
        };
        adapter.config.end_token_ids = plan.end_token_ids(model, &adapter.config.end_token_ids);
        record_base(&mut adapter.config, model);
        let model_sha256 = model.sha256()?;
        Ok(Self { model, plan, adapter, resumed: None, notes, model_sha256 })
    }

    /// Goes on from a checkpoint that belongs to this model, data and settings.
    ///
    /// # Errors
    /// [`TrainError::AlreadyPast`] where the checkpoint has more steps than the plan.
    pub fn resume(model: &'m Model, plan: Plan, mut checkpoint: Checkpoint) -> Result<Self, TrainError> {
        let mut notes = plan.notes();
        // The hash of the data is of the rows; what they become is the model's tokenizer's and
        // template's.
        if checkpoint.state.model_settings_sha256 != model.settings_sha256()? {
            let differences = format!("the configuration, tokenizer or chat template of {} is another", model.name);
            return Err(TrainError::Differs { path: checkpoint.path, differences });
        }
        record_base(&mut checkpoint.adapter.config, model);
        let state = &checkpoint.state;
        if state.step > plan.steps {
            let (path, done, steps) = (checkpoint.path, state.step, plan.steps);
            return Err(TrainError::AlreadyPast { path, done, steps });
        }
        if state.steps != plan.steps && plan.rates_depend_on_steps() {
            notes.push(Note::ScheduleStretched { from: state.steps, to: plan.steps });
        }
        if state.steps != plan.steps && plan.losses.change() {
            notes.push(Note::LossesMoved { from: state.steps, to: plan.steps });
        }
        if state.step == plan.steps {
            notes.push(Note::AlreadyDone { steps: plan.steps });
        } else if let Some(Best { step, since, .. }) = state.best.filter(|best| best.is_final(plan.config.patience)) {
            notes.push(Note::PatienceOver { best: step, since });
        }
        Ok(Self {
            model,
            plan,
            adapter: checkpoint.adapter.clone(),
            model_sha256: state.model_sha256.clone(),
            resumed: Some(checkpoint),
            notes,
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

    /// Trains. `engine` starts from the given adapter; `store` is opened at the given step;
    /// `control` may hold the run up between steps, or end it after the step at hand, with a
    /// checkpoint.
    ///
    /// # Errors
    /// Whatever the device or the store reports, with the checkpoint that is left.
    pub async fn run_in<E: Engine, S: Store>(
        self,
        device: &DeviceSummary,
        engine: impl FnOnce(Adapter, &Plan) -> Result<E, EngineError>,
        store: impl FnOnce(&Plan, u64) -> Result<S, TrainError>,
        control: &impl Control,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Finished, TrainError> {
        let parameters = self.plan.config.trained_values(&self.adapter);
        let mut engine = engine(self.adapter, &self.plan).map_err(TrainError::Engine)?;
        engine.prepare().await.map_err(TrainError::Engine)?;
        let mut notes = self.notes;
        let start = match self.resumed {
            None => Start::default(),
            Some(checkpoint) => {
                engine.tuning().set_optimizer_state(&checkpoint.optimizer).map_err(TrainError::Engine)?;
                let Checkpoint { path, state, best: best_adapter, .. } = checkpoint;
                if state.device != device.description {
                    let (from, to) = (state.device, device.description.clone());
                    notes.push(Note::DeviceChanged { from, to });
                }
                let RunState { step, cursor, evaluated, best, .. } = state;
                Start { step, cursor, evaluated, best, best_adapter, checkpoint: Some(path) }
            }
        };
        // The store is touched last: whatever fails above leaves it as it was.
        let store = store(&self.plan, start.step)?;
        let facts = Facts { model: self.model, device, model_sha256: &self.model_sha256, parameters };
        Run::new(&self.plan, facts, store, engine, start, control, on_event).go(notes).await
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::sync::atomic::AtomicBool;

    use bft_core::Tuner;
    use bft_core::device::Device;
    use bft_formats::{Adapter, HubPlace, Model};

    use super::Trainer;
    use crate::checkpoint::Checkpoints;
    use crate::config::TrainConfig;
    use crate::control::Control;
    use crate::description::DeviceSummary;
    use crate::engine::{Engine, EngineError};
    use crate::error::TrainError;
    use crate::event::{Event, Finished, Note};
    use crate::folder::{Nowhere, RunFolder, check_free, find_checkpoint};
    use crate::plan::Plan;
    use crate::ranks::{Ranks, Together, check_adapter, check_same};
    use crate::resume::check_settings;

    impl<'m> Trainer<'m> {
        /// Reads and checks everything that `config` names, a checkpoint to go on from included.
        /// Writes nothing. The model is `model`; in place of what `config` says the run records its
        /// path, or the commit on the hub that it is of, which another machine has, too.
        pub fn open(config: TrainConfig, model: &'m Model) -> Result<Self, TrainError> {
            let place = HubPlace::of(&model.path).filter(|place| place.id.contains('/'));
            let place = place.map_or_else(|| model.path.clone(), |place| place.reference().into());
            let config = TrainConfig { model: place, ..config };
            config.validate()?;
            let checkpoints = Checkpoints::of(&config.output);
            let files = if config.resume { find_checkpoint(&config.output)? } else { None };
            if !config.resume {
                check_free(&config.output)?;
            }
            let plan = Plan::read(config, model)?;
            let Some(files) = files else {
                let folder = plan.config.init_adapter.as_deref();
                let init = folder.map(|folder| Adapter::load(folder, &model.config)).transpose()?;
                let mut trainer = Self::fresh(model, plan, init)?;
                if trainer.plan.config.resume {
                    trainer.notes.push(Note::FromTheStart);
                }
                return Ok(trainer);
            };
            check_settings(&files.path, &files.state, &plan, model)?;
            let checkpoint = files.load(&model.config).map_err(|error| checkpoints.damaged(error))?;
            Self::resume(model, plan, checkpoint)
        }

        /// Trains into the output folder. See [`Trainer::run_in`].
        pub async fn run<E: Engine>(
            self,
            device: &DeviceSummary,
            engine: impl FnOnce(Adapter, &Plan) -> Result<E, EngineError>,
            control: &impl Control,
            on_event: &mut dyn FnMut(Event),
        ) -> Result<Finished, TrainError> {
            let folder = |plan: &Plan, step| RunFolder::open(&plan.config, step);
            self.run_in(device, engine, folder, control, on_event).await
        }

        /// Makes the device as exact as it is to be, and says what the run will take of it.
        fn ready(&self, device: &Device) -> Result<DeviceSummary, TrainError> {
            device.set_precision(self.plan.config.precision);
            let memory = self.plan.memory(self.model, &self.adapter).map_err(TrainError::model)?;
            Ok(DeviceSummary::new(device.info(), memory.total_bytes))
        }

        /// Trains on `device` into the output folder.
        ///
        /// # Errors
        /// Whatever the device or the disk reports, with the checkpoint that is left.
        pub async fn tune(
            self,
            device: &Device,
            control: &impl Control,
            on_event: &mut dyn FnMut(Event),
        ) -> Result<Finished, TrainError> {
            let (model, summary) = (self.model, self.ready(device)?);
            let tuner = |adapter, plan: &Plan| {
                Tuner::new(device, model, &adapter, plan.tuner_options()).map_err(EngineError::from)
            };
            self.run(&summary, tuner, control, on_event).await
        }

        /// Trains on `device` together with the other ranks of a job, each of which calls this with
        /// the same settings. Rank 0 alone writes. `asked` ends the run of all ranks after the step
        /// at hand.
        ///
        /// # Errors
        /// Whatever the device or the disk reports, and where the ranks have different files. The
        /// caller ends the job, for other ranks may be waiting for this one.
        pub async fn tune_together(
            self,
            device: &Device,
            ranks: &impl Ranks,
            asked: &AtomicBool,
            on_event: &mut dyn FnMut(Event),
        ) -> Result<Finished, TrainError> {
            let (model, mut summary) = (self.model, self.ready(device)?);
            summary.description = format!("{}, {} ranks", summary.description, ranks.count());
            let stop = AtomicBool::new(false);
            let done = self.resumed.as_ref().map_or(0, |from| from.state.step);
            let files = format!("{} {} {} {done}", self.model_sha256, self.plan.data_sha256, self.plan.steps);
            let whole = self.adapter.config.dropout > 0.0;
            let together = |adapter, plan: &Plan| {
                check_same(ranks, "the model, data or checkpoint", files.as_bytes())?;
                check_adapter(ranks, &adapter)?;
                let tuner = Tuner::new(device, model, &adapter, plan.tuner_options())?;
                Ok(Together::new(tuner, ranks, plan.bounds, whole, asked, &stop))
            };
            if ranks.rank() == 0 {
                let folder = |plan: &Plan, step| RunFolder::open(&plan.config, step);
                self.run_in(&summary, together, folder, &stop, on_event).await
            } else {
                let nowhere = |plan: &Plan, _| Ok(Nowhere::new(&plan.config.output));
                self.run_in(&summary, together, nowhere, &stop, on_event).await
            }
        }
    }
}

#[cfg(test)]
#[path = "trainer/tests.rs"]
mod tests;
