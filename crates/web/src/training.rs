//! Tuning in a tab: the same trainer, with a store that the worker keeps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bft_core::loss::sample_weight;
use bft_core::{Batch, LossConfig, OptimizerState, StepTotals, Tuner};
use bft_formats::Adapter;
use bft_train::{
    Checkpoint, Clock, Control, DeviceSummary, Engine, EngineError, Event, LogProbs, MetricsRow, Plan, RunState,
    Started, Store, TrainError, Trainer, checkpoint_files,
};
use js_sys::Array;
use wasm_bindgen::prelude::*;

use crate::contract::{EngineEvent, Finished};
use crate::failure::{Answer, Failure};
use crate::host::{Host, Turns, from_js, to_js};
use crate::session::{NamedAdapter, Ready, Session, memory_files};

#[wasm_bindgen]
impl Session {
    /// Trains a new adapter on the rows that were read.
    pub async fn train(&self, settings: JsValue) -> Result<JsValue, JsValue> {
        let ready = self.ready()?;
        let plan = self.plan(&from_js(&settings)?)?;
        let model = Rc::clone(&ready.model);
        let trainer = Trainer::fresh(&model, plan, None).map_err(Failure::from)?;
        Ok(to_js(&Finished::from(self.tune(&ready, trainer, "").await?)))
    }

    /// Goes on from a checkpoint's files, `[[name, bytes], …]`, with the settings and rows of its
    /// run.
    pub async fn go_on(&self, settings: JsValue, files: Array) -> Result<JsValue, JsValue> {
        let ready = self.ready()?;
        let plan = self.plan(&from_js(&settings)?)?;
        let files = memory_files(&files);
        let metrics = files.get("metrics.jsonl");
        let metrics = metrics.map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned());
        let model = Rc::clone(&ready.model);
        let name = PathBuf::from("the stored checkpoint");
        let checkpoint = Checkpoint::from_files(name, files, &model.config).map_err(Failure::from)?;
        if checkpoint.state.model_sha256 != model.sha256().map_err(Failure::from)? {
            return Err(Failure::input("the run belongs to another model: open that one first").into());
        }
        if checkpoint.state.data_sha256 != plan.data_sha256 {
            return Err(Failure::input("the run belongs to other rows: its own are damaged").into());
        }
        let trainer = Trainer::resume(&model, plan, checkpoint).map_err(Failure::from)?;
        Ok(to_js(&Finished::from(self.tune(&ready, trainer, &metrics).await?)))
    }
}

impl Session {
    async fn tune(&self, ready: &Ready, trainer: Trainer<'_>, metrics: &str) -> Answer<bft_train::Finished> {
        let memory = trainer.plan().memory(&ready.model, trainer.adapter()).map_err(Failure::from)?;
        let summary = DeviceSummary::new(ready.device.info(), memory.total_bytes);
        let options = trainer.plan().tuner_options();
        Tuner::compile(&ready.device, &ready.model, trainer.adapter(), options).await.map_err(Failure::from)?;
        let turns = Turns { host: &self.host, device: Rc::clone(&ready.device) };
        let made = Made { metrics: metrics.to_owned(), ..Made::default() };
        let made = RefCell::new(made);
        let engine = |adapter, plan: &Plan| {
            let tuner = Tuner::on(&ready.device, &ready.base, &adapter, plan.tuner_options())?;
            Ok(Paced { tuner, turns: &turns, weights: Vec::new() })
        };
        let store = |_: &Plan, _| Ok(PageStore::new(&self.host, &made));
        let mut weights = BTreeMap::new();
        let mut hear = |event: Event| self.tell(event, &mut weights);
        let result = trainer.run_in(&summary, engine, store, &turns, &mut hear).await;
        let Made { metrics, run, adapter } = made.into_inner();
        let mut state = self.state.borrow_mut();
        state.metrics = metrics;
        state.run = run;
        if let Some(adapter) = adapter {
            let name = "tuned here".to_owned();
            state.adapter = Some(Rc::new(NamedAdapter { name, adapter }));
        }
        Ok(result?)
    }

    /// Tells the page what a run says. Weights wait here for the step that they belong to.
    fn tell(&self, event: Event, weights: &mut BTreeMap<u64, Vec<f64>>) {
        let event = match event {
            Event::Started(started) => {
                let Started { steps, resumed_from, parameters, memory_bytes, device, .. } = *started;
                EngineEvent::Started { steps, resumed_from, parameters, memory_bytes, device }
            }
            Event::Note(note) => EngineEvent::Note { text: note.to_string() },
            Event::SampleWeights { step, weights: new } => {
                weights.insert(step, new);
                return;
            }
            Event::Step(row) => {
                EngineEvent::Step { sample_weights: weights.remove(&row.step).unwrap_or_default(), row }
            }
            Event::Skipped { step, tensor } => {
                weights.remove(&step);
                EngineEvent::Skipped { step, tensor }
            }
            Event::Eval(row) => EngineEvent::Eval { row },
            Event::Checkpoint { step, .. } => EngineEvent::Checkpoint { step },
            Event::Finished(_) => return,
        };
        self.host.tell(&event);
    }
}

/// What a run leaves in memory.
#[derive(Default)]
struct Made {
    metrics: String,
    run: String,
    adapter: Option<Adapter>,
}

/// A run's store: checkpoints go to the worker, with the metrics up to them.
struct PageStore<'r> {
    host: &'r Host,
    made: &'r RefCell<Made>,
    clock: Clock,
}

impl<'r> PageStore<'r> {
    fn new(host: &'r Host, made: &'r RefCell<Made>) -> Self {
        Self { host, made, clock: Clock::default() }
    }
}

impl Store for PageStore<'_> {
    fn seconds(&self) -> f64 {
        self.clock.seconds()
    }

    fn write_row(&mut self, row: &MetricsRow<'_>) -> Result<(), TrainError> {
        let mut made = self.made.borrow_mut();
        made.metrics.push_str(&row.line());
        made.metrics.push('\n');
        Ok(())
    }

    async fn write_run(&mut self, run: &str) -> Result<(), TrainError> {
        self.made.borrow_mut().run = run.to_owned();
        Ok(())
    }

    async fn save(
        &mut self,
        state: &RunState,
        adapter: &Adapter,
        best: Option<&Adapter>,
        optimizer: &OptimizerState,
    ) -> Result<PathBuf, TrainError> {
        let step = state.step;
        let path = PathBuf::from(format!("step {step}"));
        let failed = |problem: String| TrainError::Write {
            action: "keep",
            path: path.clone(),
            source: std::io::Error::other(problem),
            checkpoint: None,
        };
        let (metrics, run) = {
            let made = self.made.borrow();
            (made.metrics.clone(), made.run.clone())
        };
        let told = [("metrics.jsonl", metrics), ("run.json", run)];
        let told = told.map(|(name, text)| (name, text.into_bytes()));
        for file in checkpoint_files(state, adapter, best, optimizer, told.into()) {
            self.host.keep(step, file?).await.map_err(failed)?;
        }
        self.host.kept().await.map_err(failed)?;
        Ok(path)
    }

    async fn write_adapter(&mut self, adapter: &Adapter) -> Result<(), TrainError> {
        self.made.borrow_mut().adapter = Some(adapter.clone());
        Ok(())
    }
}

/// A tuner that gives the page its turn between batches, and tells what the loss makes of samples.
struct Paced<'r, 'd> {
    tuner: Tuner<'d>,
    turns: &'r Turns<'r>,
    /// Of the samples of the step at hand.
    weights: Vec<f64>,
}

impl LogProbs for Paced<'_, '_> {
    async fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        self.turns.turn().await;
        self.turns.hold().await;
        LogProbs::log_probs(&mut self.tuner, batch).await
    }
}

impl<'d> Engine for Paced<'_, 'd> {
    type Tuning = Tuner<'d>;

    fn tuning(&mut self) -> &mut Tuner<'d> {
        &mut self.tuner
    }

    async fn accumulate(&mut self, batch: &Batch, totals: StepTotals, loss: &LossConfig) -> Result<(), EngineError> {
        Engine::accumulate(&mut self.tuner, batch, totals, loss).await?;
        let samples = self.tuner.last_log_probs().await?;
        let weights = samples.iter().map(|s| sample_weight(s, loss));
        self.weights.extend(weights);
        Ok(())
    }

    fn sample_weights(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.weights)
    }
}
