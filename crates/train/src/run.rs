//! A run in progress: steps, metrics, evaluations, checkpoints, and how it ends.

use std::collections::VecDeque;
use std::path::PathBuf;

use bft_formats::Adapter;

use crate::batches::{Cursor, Loader};
use crate::checkpoint_files::bad_moment;
use crate::control::Control;
use crate::description::{Facts, describe};
use crate::engine::{Engine, EngineError, Tuning};
use crate::error::TrainError;
use crate::evaluate::Tally;
use crate::event::{EvalRow, Event, Finished, MetricsRow, Note, SkippedRow, Started, StepRow};
use crate::plan::Plan;
use crate::state::{Best, RunState, Store};

/// Steps in a row whose gradient is not finite before a run gives up.
pub const MAX_SKIPPED: u64 = 20;
/// Most seconds between two looks at the metrics, which cost a wait for the device.
const REPORT_EVERY: f64 = 1.0;

/// A step that the device has, or may still be working on.
struct Pending {
    step: u64,
    lr: f64,
    /// All tokens, masked ones too.
    tokens: usize,
}

#[derive(Default)]
struct Totals {
    skipped: u64,
    trained_tokens: u64,
    nll: Option<f64>,
    eval: Option<EvalRow>,
}

/// Steps in a row without a finite gradient.
struct Skipping {
    first: u64,
    count: u64,
    tensor: String,
}

/// Where a run begins.
#[derive(Default)]
pub(crate) struct Start {
    /// Steps done.
    pub step: u64,
    pub cursor: Cursor,
    /// Step of the last evaluation before it.
    pub evaluated: Option<u64>,
    /// The best evaluation before it.
    pub best: Option<Best>,
    /// The adapter of that, where it is kept.
    pub best_adapter: Option<Adapter>,
    /// The checkpoint that it goes on from.
    pub checkpoint: Option<PathBuf>,
}

/// A run in progress.
pub(crate) struct Run<'r, E, S, C> {
    plan: &'r Plan,
    facts: Facts<'r>,
    store: S,
    engine: E,
    loader: Loader<'r>,
    /// Steps done.
    step: u64,
    /// Steps done before this run.
    first: u64,
    /// The last checkpoint and its step.
    saved: Option<(u64, PathBuf)>,
    pending: VecDeque<Pending>,
    /// Seconds since 1970.
    started: f64,
    reported: f64,
    skipping: Option<Skipping>,
    /// Step of the last evaluation.
    evaluated: Option<u64>,
    best: Option<Best>,
    /// The adapter of the best evaluation, where that is what the run is to leave.
    best_adapter: Option<Adapter>,
    totals: Totals,
    control: &'r C,
    on_event: &'r mut dyn FnMut(Event),
}

impl<'r, E: Engine, S: Store, C: Control> Run<'r, E, S, C> {
    pub fn new(
        plan: &'r Plan,
        facts: Facts<'r>,
        store: S,
        engine: E,
        start: Start,
        control: &'r C,
        on_event: &'r mut dyn FnMut(Event),
    ) -> Self {
        let now = store.seconds();
        Self {
            plan,
            facts,
            store,
            engine,
            loader: Loader::new(&plan.train.samples, plan.batches(), start.cursor),
            step: start.step,
            first: start.step,
            saved: start.checkpoint.map(|path| (start.step, path)),
            pending: VecDeque::new(),
            started: now,
            reported: now,
            skipping: None,
            evaluated: start.evaluated,
            best: start.best,
            best_adapter: start.best_adapter,
            totals: Totals::default(),
            control,
            on_event,
        }
    }

    /// Runs to the last step, or to where it is stopped.
    pub async fn go(mut self, notes: Vec<Note>) -> Result<Finished, TrainError> {
        self.announce(notes).await?;
        let result = self.steps().await;
        // A run that breaks off still says what is left of it.
        result.map_err(|error| error.with_checkpoint(self.saved.map(|(_, path)| path)))
    }

    async fn announce(&mut self, notes: Vec<Note>) -> Result<(), TrainError> {
        let run = self.describe(None);
        self.store.write_run(&run).await?;
        let samples = self.plan.train.samples.len();
        (self.on_event)(Event::Started(Box::new(Started {
            model: self.facts.model.name.clone(),
            device: self.facts.device.description.clone(),
            data: self.plan.train.report.clone(),
            eval: self.plan.eval.as_ref().map(|e| e.report.clone()),
            steps: self.plan.steps,
            resumed_from: self.first,
            steps_per_epoch: self.plan.batches().steps_per_epoch(samples),
            parameters: self.facts.parameters,
            memory_bytes: self.facts.device.memory_bytes,
        })));
        for note in notes {
            (self.on_event)(Event::Note(note));
        }
        Ok(())
    }

    async fn steps(&mut self) -> Result<Finished, TrainError> {
        let config = &self.plan.config;
        // A run that was stopped left out what was due then.
        if self.evaluation_is_due() && self.evaluated != Some(self.step) {
            self.evaluate().await?;
        }
        self.reported = self.store.seconds();
        while self.step < self.plan.steps && !self.stopping() && !self.out_of_patience() {
            self.optimizer_step().await?;
            let last = self.step == self.plan.steps || self.stopping();
            let eval = self.evaluation_is_due();
            let save = last || self.step.is_multiple_of(config.save_every);
            if eval || save || self.store.seconds() - self.reported >= REPORT_EVERY {
                self.report().await?;
            }
            if eval {
                self.evaluate().await?;
            }
            // While gradients are not finite the last update may be to blame: its weights do not
            // push out older ones.
            if save && (last || self.skipping.is_none()) {
                self.save().await?;
            }
            self.control.turn().await;
            if self.control.pausing() {
                self.report().await?;
                self.save().await?;
                self.control.hold().await;
                self.reported = self.store.seconds();
            }
        }
        // Whoever stops a run may do so between any two lines above.
        if !self.pending.is_empty() {
            self.report().await?;
        }
        self.save().await?;
        self.finish().await
    }

    fn stopping(&self) -> bool {
        self.control.stopping()
    }

    fn evaluation_is_due(&self) -> bool {
        let every = self.plan.config.eval_every;
        self.step == 0 || self.step == self.plan.steps || every.is_some_and(|every| self.step.is_multiple_of(every))
    }

    /// Whether evaluations have not got better for as long as the run is to wait for that.
    fn out_of_patience(&self) -> bool {
        self.best.is_some_and(|best| best.is_final(self.plan.config.patience))
    }

    /// Forward and backward of every micro-batch, then the update.
    async fn optimizer_step(&mut self) -> Result<(), TrainError> {
        let step = self.step + 1;
        let (loss, optimizer) = (self.plan.losses.at(step), self.plan.config.optimizer());
        let lr = self.plan.rate(step);
        let work = self.loader.next_step();
        let engine = &mut self.engine;
        let failed = |source| TrainError::Step { step, source, checkpoint: None };
        for batch in &work.batches {
            let done = engine.accumulate(batch, work.totals, &loss).await;
            done.map_err(failed)?;
        }
        engine.complete_step().await.map_err(failed)?;
        let weights = engine.sample_weights();
        if !weights.is_empty() {
            (self.on_event)(Event::SampleWeights { step, weights });
        }
        engine.tuning().apply(lr, &optimizer).map_err(failed)?;
        self.pending.push_back(Pending { step, lr, tokens: work.tokens });
        self.step = step;
        Ok(())
    }

    fn device_error(&self, source: EngineError) -> TrainError {
        TrainError::Step { step: self.step, source, checkpoint: None }
    }

    /// Reads the metrics of the steps since the last look, writes and reports them.
    async fn report(&mut self) -> Result<(), TrainError> {
        let metrics = self.engine.tuning().drain_metrics().await.map_err(|e| self.device_error(e))?;
        let tokens: usize = self.pending.iter().map(|p| p.tokens).sum();
        let seconds = (self.store.seconds() - self.reported).max(1e-9);
        let tokens_per_second = (tokens as f64 / seconds * 10.0).round() / 10.0;
        for m in metrics {
            let Some(Pending { step, lr, .. }) = self.pending.pop_front() else {
                break;
            };
            self.totals.trained_tokens += m.tokens as u64;
            if m.skipped {
                self.skipped(step, lr, m.tokens, m.bad_tensor.unwrap_or_else(|| "the loss".into()))?;
                continue;
            }
            self.skipping = None;
            self.totals.nll = Some(m.nll);
            let (loss, nll, grad_norm, tokens) = (m.loss, m.nll, m.grad_norm, m.tokens);
            let losses = &self.plan.losses;
            let loss_kind = losses.change().then(|| losses.at(step).kind);
            let row = StepRow { step, loss, loss_kind, nll, lr, grad_norm, tokens, tokens_per_second };
            self.store.write_row(&MetricsRow::Step(&row))?;
            (self.on_event)(Event::Step(row));
        }
        self.reported = self.store.seconds();
        Ok(())
    }

    fn skipped(&mut self, step: u64, lr: f64, tokens: usize, tensor: String) -> Result<(), TrainError> {
        self.totals.skipped += 1;
        let row = SkippedRow { step, skipped: true, tensor: &tensor, lr, tokens };
        self.store.write_row(&MetricsRow::Skipped(row))?;
        (self.on_event)(Event::Skipped { step, tensor: tensor.clone() });
        let run = self.skipping.get_or_insert(Skipping { first: step, count: 0, tensor });
        run.count += 1;
        // A run that ends in such steps, and had no more others, has learnt nothing that anybody
        // has seen to work.
        let nothing = step == self.plan.steps && 2 * run.count >= step - self.first;
        if run.count < MAX_SKIPPED && !nothing {
            return Ok(());
        }
        let (count, first, tensor) = (run.count, run.first, run.tensor.clone());
        Err(TrainError::NotFinite { count, first, last: step, tensor, checkpoint: None })
    }

    /// Evaluates the held-out rows, where there are any and nobody waits for the run to stop.
    async fn evaluate(&mut self) -> Result<(), TrainError> {
        let loss = self.plan.config.loss();
        let mut tally = Tally::new(loss);
        for group in self.plan.eval_groups() {
            if self.stopping() {
                return Ok(());
            }
            tally.add(&mut self.engine, group).await.map_err(|e| self.device_error(e))?;
        }
        if tally.samples() > 0 {
            let report = tally.report();
            let eval_loss = report.loss.of(loss.kind);
            // By the NLL, whatever the loss: balanced losses weigh a token by the model's own
            // probability of it, so they also fall where it grows less sure of everything.
            let best = self.best.is_none_or(|best| report.nll < best.eval_nll);
            let row = EvalRow { step: self.step, eval_nll: report.nll, eval_loss, best };
            self.totals.eval = Some(row);
            self.evaluated = Some(self.step);
            if best {
                self.best = Some(Best::new(&row));
                if self.plan.config.save_best {
                    self.best_adapter = Some(self.adapter().await?);
                }
            } else if let Some(best) = &mut self.best {
                best.since += 1;
            }
            self.store.write_row(&MetricsRow::Eval(row))?;
            (self.on_event)(Event::Eval(row));
        }
        self.reported = self.store.seconds();
        Ok(())
    }

    async fn save(&mut self) -> Result<(), TrainError> {
        if self.saved.as_ref().is_some_and(|(step, _)| *step == self.step) {
            return Ok(());
        }
        let adapter = self.adapter().await?;
        let optimizer = self.engine.tuning().optimizer_state().await.map_err(|e| self.device_error(e))?;
        if let Some(what) = adapter.not_finite().or_else(|| bad_moment(&optimizer)) {
            return Err(TrainError::Diverged { step: self.step, what, checkpoint: None });
        }
        let state = RunState {
            layout: RunState::LAYOUT,
            step: self.step,
            steps: self.plan.steps,
            cursor: self.loader.cursor(),
            device: self.facts.device.description.clone(),
            model_sha256: self.facts.model_sha256.into(),
            model_settings_sha256: self.facts.model.settings_sha256()?,
            data_sha256: self.plan.data_sha256.clone(),
            evaluated: self.evaluated,
            best: self.best,
            settings: self.plan.config.with_absolute_paths(),
        };
        let path = self.store.save(&state, &adapter, self.best_adapter.as_ref(), &optimizer).await?;
        self.saved = Some((self.step, path.clone()));
        (self.on_event)(Event::Checkpoint { step: self.step, path });
        self.reported = self.store.seconds();
        Ok(())
    }

    /// The adapter as it is now.
    async fn adapter(&mut self) -> Result<Adapter, TrainError> {
        let adapter = self.engine.tuning().adapter().await.map_err(|e| self.device_error(e))?;
        self.engine.check_adapter(&adapter).map_err(|e| self.device_error(e))?;
        Ok(adapter)
    }

    fn describe(&self, finished: Option<&Finished>) -> String {
        let now = self.store.seconds() as u64;
        describe(self.plan, &self.facts, now, self.first, finished)
    }

    async fn finish(&mut self) -> Result<Finished, TrainError> {
        let best = self.best.map(|best| best.row());
        let kept = self.best_adapter.take().zip(best);
        let (adapter, adapter_step) = match kept {
            Some((adapter, row)) => (adapter, row.step),
            None => (self.adapter().await?, self.step),
        };
        self.store.write_adapter(&adapter).await?;
        let early = self.step < self.plan.steps;
        let finished = Finished {
            steps: self.step,
            stopped: early && !self.out_of_patience(),
            out_of_patience: early && self.out_of_patience(),
            best,
            adapter_step,
            skipped_steps: self.totals.skipped,
            tokens: self.totals.trained_tokens,
            seconds: self.store.seconds() - self.started,
            nll: self.totals.nll,
            eval: self.totals.eval,
            adapter: self.plan.config.output.clone(),
            checkpoint: self.saved.as_ref().map(|(_, path)| path.clone()),
        };
        let run = self.describe(Some(&finished));
        self.store.write_run(&run).await?;
        (self.on_event)(Event::Finished(finished.clone()));
        Ok(finished)
    }
}
