//! A training run as the user sees it: what starts, how it goes, how it ended. All of it on
//! standard error.

use bft_train::{DataReport, Event, Finished, Started};

use crate::ui::{self, BOLD, DIM, GREEN, Progress, YELLOW, bytes, thousands};

/// Turns events into lines and a progress bar.
#[derive(Default)]
pub struct TrainReport {
    progress: Option<Progress>,
    /// The last step's figures, kept beside the bar while evaluations run.
    message: String,
    step: u64,
}

impl TrainReport {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows one event.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.started(&started),
            Event::Note(note) => self.say(&format!("{YELLOW}note:{YELLOW:#} {note}")),
            Event::Step(row) => {
                self.message =
                    format!("loss {:.4}  nll {:.4}  {:.0} tokens/s", row.loss, row.nll, row.tokens_per_second);
                self.step = row.step;
                self.progress_to();
            }
            // For charts; a line has no room for them.
            Event::SampleWeights { .. } => {}
            Event::Skipped { step, tensor } => {
                self.say(&format!("step {step} left out: the gradient of {tensor} is not finite"));
                self.step = step;
                self.progress_to();
            }
            Event::Eval(row) => self.say(&format!(
                "{DIM}step {:>5}{DIM:#}  held-out nll {BOLD}{:.4}{BOLD:#}  perplexity {:.2}  loss {:.4}{}",
                row.step,
                row.eval_nll,
                row.eval_nll.exp(),
                row.eval_loss,
                if row.best && row.step > 0 { ", the lowest nll so far" } else { "" }
            )),
            Event::Checkpoint { step, path } => {
                self.say(&format!("{DIM}step {step:>5}  saved {}{DIM:#}", path.display()));
            }
            Event::Finished(finished) => self.finished(&finished),
        }
    }

    /// Takes the bar away, whatever happened.
    pub fn close(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    fn started(&mut self, started: &Started) {
        ui::note(&format!("{DIM}model: {}{DIM:#}", started.model));
        ui::note(&format!("{DIM}data: {}{DIM:#}", data_line(&started.data)));
        if let Some(eval) = &started.eval {
            ui::note(&format!("{DIM}held out: {}{DIM:#}", data_line(eval)));
        }
        let begun = match started.resumed_from {
            0 => String::new(),
            step => format!(", going on after step {step}"),
        };
        ui::note(&format!(
            "{DIM}run: {} steps ({} a pass over the data){begun}, {} trained values, about {} of memory{DIM:#}",
            thousands(started.steps),
            thousands(started.steps_per_epoch),
            thousands(started.parameters as u64),
            bytes(started.memory_bytes)
        ));
        self.step = started.resumed_from;
        self.progress = Some(Progress::new("training", "steps", started.steps, started.resumed_from));
    }

    fn finished(&mut self, finished: &Finished) {
        self.close();
        if finished.skipped_steps > 0 {
            ui::warn(&format!(
                "{} steps were left out because their gradient was not finite; metrics.jsonl names them",
                finished.skipped_steps
            ));
        }
        if let (true, Some(best)) = (finished.out_of_patience, finished.best) {
            ui::note(&format!(
                "ended at step {}: no evaluation since step {} was better than its nll of {:.4}",
                finished.steps, best.step, best.eval_nll
            ));
        }
        let of = match finished.adapter_step {
            step if step == finished.steps => String::new(),
            0 => "; it is as it was before the first step, for no evaluation was better".to_owned(),
            step => format!("; it is of step {step}, whose held-out nll is the lowest"),
        };
        let folder = finished.adapter.display();
        if !finished.stopped {
            let (steps, seconds) = (finished.steps, finished.seconds);
            ui::note(&format!("{GREEN}done{GREEN:#}  {steps} steps in {seconds:.0} s; the adapter is in {folder}{of}"));
        } else if !of.is_empty() {
            ui::note(&format!("the adapter is in {folder}{of}"));
        }
    }

    fn say(&self, text: &str) {
        match &self.progress {
            Some(progress) => progress.note(text),
            None => ui::note(text),
        }
    }

    fn progress_to(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.at(self.step, &self.message);
        }
    }
}

fn data_line(report: &DataReport) -> String {
    format!(
        "{}, {} samples of {} rows ({}), {} tokens, {} of them trained",
        report.file,
        thousands(report.samples as u64),
        thousands(report.rows as u64),
        report.format,
        thousands(report.tokens as u64),
        thousands(report.trained_tokens as u64)
    )
}
