//! A training run on disk: steps, metrics, evaluations, checkpoints, and how it ends.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bft_formats::{Adapter, Model, sha256_file};

use crate::adapter::new_adapter;
use crate::batches::{Cursor, Loader};
use crate::checkpoint::{Checkpoint, RunState};
use crate::config::TrainConfig;
use crate::engine::{Engine, EngineError};
use crate::error::TrainError;
use crate::evaluate::Tally;
use crate::event::{EvalRow, Event, Finished, Note, SkippedRow, Started, StepRow};
use crate::folder::{RunFolder, check_free, find_checkpoint};
use crate::plan::Plan;
use crate::resume::check_settings;

/// Steps in a row whose gradient is not finite before a run gives up.
pub const MAX_SKIPPED: u64 = 20;
/// Longest time between two looks at the metrics, which cost a wait for the device.
const REPORT_EVERY: Duration = Duration::from_secs(1);

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
        let step = self.resumed.as_ref().map_or(0, |c| c.state.step);
        let folder = RunFolder::open(&self.plan.config.output, step)?;
        let parameters = self
            .adapter
            .pairs
            .iter()
            .map(|p| p.a.len() + p.b.len())
            .sum();
        let mut engine = engine(self.adapter, &self.plan).map_err(TrainError::Engine)?;
        let (mut cursor, mut saved, mut notes) = (Cursor::default(), None, self.notes);
        if let Some(checkpoint) = &self.resumed {
            engine
                .set_optimizer_state(&checkpoint.optimizer)
                .map_err(TrainError::Engine)?;
            cursor = checkpoint.state.cursor;
            saved = Some((checkpoint.state.step, checkpoint.path.clone()));
            if checkpoint.state.device != device.description {
                let (from, to) = (checkpoint.state.device.clone(), device.description.clone());
                notes.push(Note::DeviceChanged { from, to });
            }
        }
        let plan = &self.plan;
        let now = Instant::now();
        let mut run = Run {
            plan,
            model: self.model,
            device,
            hashes: (&self.model_sha256, &self.data_sha256),
            parameters,
            folder,
            engine,
            loader: Loader::new(&plan.train.samples, plan.batches(), cursor),
            step,
            first: step,
            saved,
            pending: VecDeque::new(),
            started: now,
            reported: now,
            skipping: None,
            totals: Totals::default(),
            stop,
            on_event,
        };
        run.announce(notes)?;
        let result = run.steps().await;
        // A run that breaks off still says what is left of it.
        result.map_err(|error| error.with_checkpoint(run.saved.map(|(_, path)| path)))
    }
}

/// A step that the device has, or may still be working on.
struct Pending {
    step: u64,
    lr: f32,
    /// All tokens, masked ones too.
    tokens: usize,
}

#[derive(Default)]
struct Totals {
    skipped: u64,
    trained_tokens: u64,
    nll: Option<f32>,
    eval: Option<EvalRow>,
}

/// Steps in a row without a finite gradient.
struct Skipping {
    first: u64,
    count: u64,
    tensor: String,
}

struct Run<'r, E> {
    plan: &'r Plan,
    model: &'r Model,
    device: &'r DeviceSummary,
    /// SHA-256 of model and data.
    hashes: (&'r str, &'r str),
    parameters: usize,
    folder: RunFolder,
    engine: E,
    loader: Loader<'r>,
    /// Steps done.
    step: u64,
    /// Steps done before this run.
    first: u64,
    /// The last checkpoint.
    saved: Option<(u64, PathBuf)>,
    pending: VecDeque<Pending>,
    started: Instant,
    reported: Instant,
    skipping: Option<Skipping>,
    totals: Totals,
    stop: &'r AtomicBool,
    on_event: &'r mut dyn FnMut(Event),
}

impl<E: Engine> Run<'_, E> {
    fn announce(&mut self, notes: Vec<Note>) -> Result<(), TrainError> {
        self.folder.write_run(&self.description(None))?;
        let samples = self.plan.train.samples.len();
        (self.on_event)(Event::Started(Box::new(Started {
            model: self.model.name.clone(),
            device: self.device.description.clone(),
            data: self.plan.train.report.clone(),
            eval: self.plan.eval.as_ref().map(|e| e.report.clone()),
            steps: self.plan.steps,
            resumed_from: self.first,
            steps_per_epoch: self.plan.batches().steps_per_epoch(samples),
            parameters: self.parameters,
            memory_bytes: self.device.memory_bytes,
        })));
        for note in notes {
            (self.on_event)(Event::Note(note));
        }
        Ok(())
    }

    async fn steps(&mut self) -> Result<Finished, TrainError> {
        let config = &self.plan.config;
        if self.step == 0 {
            self.evaluate().await?;
        }
        self.reported = Instant::now();
        while self.step < self.plan.steps && !self.stopping() {
            self.optimizer_step()?;
            let last = self.step == self.plan.steps || self.stopping();
            let every = |n: u64| self.step.is_multiple_of(n);
            let eval = self.step == self.plan.steps || config.eval_every.is_some_and(every);
            let save = last || every(config.save_every);
            if eval || save || self.reported.elapsed() >= REPORT_EVERY {
                self.report().await?;
            }
            if eval {
                self.evaluate().await?;
            }
            if save {
                self.save().await?;
            }
        }
        self.finish().await
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Forward and backward of every micro-batch, then the update.
    fn optimizer_step(&mut self) -> Result<(), TrainError> {
        let step = self.step + 1;
        let (loss, optimizer) = (self.plan.config.loss(), self.plan.config.optimizer());
        let lr = self.plan.rate(step);
        let work = self.loader.next_step();
        let engine = &mut self.engine;
        work.batches
            .iter()
            .try_for_each(|batch| engine.accumulate(batch, work.totals, &loss))
            .and_then(|()| engine.apply(lr, &optimizer))
            .map_err(|source| TrainError::Step {
                step,
                source,
                checkpoint: None,
            })?;
        self.pending.push_back(Pending {
            step,
            lr,
            tokens: work.tokens,
        });
        self.step = step;
        Ok(())
    }

    fn device_error(&self, source: EngineError) -> TrainError {
        TrainError::Step {
            step: self.step,
            source,
            checkpoint: None,
        }
    }

    /// Reads the metrics of the steps since the last look, writes and reports them.
    async fn report(&mut self) -> Result<(), TrainError> {
        let metrics = self
            .engine
            .drain_metrics()
            .await
            .map_err(|e| self.device_error(e))?;
        let tokens: usize = self.pending.iter().map(|p| p.tokens).sum();
        let seconds = self.reported.elapsed().as_secs_f64().max(1e-9);
        let tokens_per_second = (tokens as f64 / seconds * 10.0).round() / 10.0;
        for m in metrics {
            let Some(Pending { step, lr, .. }) = self.pending.pop_front() else {
                break;
            };
            self.totals.trained_tokens += m.tokens as u64;
            if m.skipped {
                self.skipped(
                    step,
                    lr,
                    m.tokens,
                    m.bad_tensor.unwrap_or_else(|| "the loss".into()),
                )?;
                continue;
            }
            self.skipping = None;
            self.totals.nll = Some(m.nll);
            let (loss, nll, grad_norm, tokens) = (m.loss, m.nll, m.grad_norm, m.tokens);
            let row = StepRow {
                step,
                loss,
                nll,
                lr,
                grad_norm,
                tokens,
                tokens_per_second,
            };
            self.folder.write_row(&row)?;
            (self.on_event)(Event::Step(row));
        }
        self.reported = Instant::now();
        Ok(())
    }

    fn skipped(
        &mut self,
        step: u64,
        lr: f32,
        tokens: usize,
        tensor: String,
    ) -> Result<(), TrainError> {
        self.totals.skipped += 1;
        self.folder.write_row(&SkippedRow {
            step,
            skipped: true,
            tensor: &tensor,
            lr,
            tokens,
        })?;
        (self.on_event)(Event::Skipped {
            step,
            tensor: tensor.clone(),
        });
        let run = self.skipping.get_or_insert(Skipping {
            first: step,
            count: 0,
            tensor,
        });
        run.count += 1;
        if run.count < MAX_SKIPPED {
            return Ok(());
        }
        let (count, first, tensor) = (run.count, run.first, run.tensor.clone());
        Err(TrainError::NotFinite {
            count,
            first,
            last: step,
            tensor,
            checkpoint: None,
        })
    }

    /// Evaluates the held-out rows, where there are any and nobody waits for the run to stop.
    async fn evaluate(&mut self) -> Result<(), TrainError> {
        let loss = self.plan.config.loss();
        let mut tally = Tally::new(loss.group_size, loss.gamma);
        for group in self.plan.eval_groups() {
            if self.stopping() {
                return Ok(());
            }
            tally
                .add(&mut self.engine, group)
                .await
                .map_err(|e| self.device_error(e))?;
        }
        if tally.samples() > 0 {
            let report = tally.report();
            let row = EvalRow {
                step: self.step,
                eval_nll: report.nll,
                eval_loss: report.loss.of(loss.kind),
            };
            self.totals.eval = Some(row);
            self.folder.write_row(&row)?;
            (self.on_event)(Event::Eval(row));
        }
        self.reported = Instant::now();
        Ok(())
    }

    async fn save(&mut self) -> Result<(), TrainError> {
        if self
            .saved
            .as_ref()
            .is_some_and(|(step, _)| *step == self.step)
        {
            return Ok(());
        }
        let adapter = self
            .engine
            .adapter()
            .await
            .map_err(|e| self.device_error(e))?;
        let optimizer = self
            .engine
            .optimizer_state()
            .await
            .map_err(|e| self.device_error(e))?;
        let state = RunState {
            layout: RunState::LAYOUT,
            step: self.step,
            steps: self.plan.steps,
            cursor: self.loader.cursor(),
            device: self.device.description.clone(),
            model_sha256: self.hashes.0.into(),
            data_sha256: self.hashes.1.into(),
            settings: self.plan.config.clone(),
        };
        self.folder.sync_metrics()?;
        let path = self
            .folder
            .checkpoints()
            .save(&state, &adapter, &optimizer)?;
        self.saved = Some((self.step, path.clone()));
        (self.on_event)(Event::Checkpoint {
            step: self.step,
            path,
        });
        self.reported = Instant::now();
        Ok(())
    }

    async fn finish(&mut self) -> Result<Finished, TrainError> {
        let adapter = self
            .engine
            .adapter()
            .await
            .map_err(|e| self.device_error(e))?;
        self.folder.write_adapter(&adapter)?;
        let finished = Finished {
            steps: self.step,
            stopped: self.step < self.plan.steps,
            skipped_steps: self.totals.skipped,
            tokens: self.totals.trained_tokens,
            seconds: self.started.elapsed().as_secs_f64(),
            nll: self.totals.nll,
            eval: self.totals.eval,
            adapter: self.plan.config.output.clone(),
            checkpoint: self.saved.as_ref().map(|(_, path)| path.clone()),
        };
        self.folder.write_run(&self.description(Some(&finished)))?;
        (self.on_event)(Event::Finished(finished.clone()));
        Ok(finished)
    }

    /// `run.json`: what was run, on what, and how it ended.
    fn description(&self, finished: Option<&Finished>) -> serde_json::Value {
        let Plan {
            config,
            train,
            eval,
            steps,
            ..
        } = self.plan;
        let seconds_since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let data = |report: &crate::samples::DataReport| {
            serde_json::json!({
                "file": report.file, "format": report.format, "rows": report.rows, "samples": report.samples,
                "skipped": report.skipped.len(), "untrained": report.untrained.len(),
                "truncated": report.truncated, "tokens": report.tokens, "trained_tokens": report.trained_tokens,
            })
        };
        let mut training = data(&train.report);
        training["sha256"] = self.hashes.1.into();
        serde_json::json!({
            "bft": env!("CARGO_PKG_VERSION"),
            "written_at_unix": seconds_since_1970,
            "model": {
                "name": self.model.name, "path": self.model.path, "sha256": self.hashes.0,
                "architecture": self.model.config.architecture.to_string(),
            },
            "data": training,
            "eval_data": eval.as_ref().map(|e| data(&e.report)),
            "device": self.device.description,
            "seed": config.seed,
            "parameters": self.parameters,
            "steps": steps,
            "resumed_from": self.first,
            "settings": config,
            "finished": finished,
        })
    }
}
