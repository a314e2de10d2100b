//! The losses side by side: the same facts, settings and seeds, then the same questions and tasks
//! for each.
//!
//! Every run keeps its results in its own folder, so that a study that was stopped goes on with the
//! runs that are left.

mod measure;
mod page;
mod setup;
mod summary;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::{GroupSize, LossKind};
use bft_formats::Adapter;
use bft_train::{Event, TrainConfig, Trainer};
use serde_json::json;

use crate::error::{BioError, Result};
use crate::genes::partial::key;
use crate::instruct::{self, Kind, Options as Facts};

pub use measure::{MEASURES, Measured};
pub use setup::{FULL, Preset, SMALL, Setting, Study, TINY};
pub use summary::Summary;

/// What a study has to say while it works.
#[derive(Debug)]
pub enum Progress<'p> {
    /// A run begins: its number from 1, of how many, its name.
    Run(usize, usize, String),
    /// It was done before.
    Kept,
    /// A training step: done, of how many.
    Step(u64, u64),
    /// It is done.
    Done(&'p Measured),
}

/// Ends the study where `stop` is set.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(BioError::Stopped) } else { Ok(()) }
}

/// Plain English that has nothing to do with genes: what tuning makes a model forget. Written for
/// bft.
const GENERAL: &str = include_str!("study/general.txt");

impl Study<'_> {
    /// Runs what is left, and gives every run's numbers in order. `stop` ends after the step, or the
    /// question, at hand.
    ///
    /// # Errors
    /// [`BioError::Stopped`] where `stop` was set; finished runs and the last checkpoint are kept.
    pub fn run(&self, stop: &AtomicBool, mut hear: impl FnMut(Progress<'_>)) -> Result<Vec<(Setting, Measured)>> {
        let data = self.folder.join("data");
        let facts = Facts {
            seed: 0,
            kinds: vec![Kind::Name, Kind::Process, Kind::Function],
            per_gene: 1,
            phrasings: self.preset.phrasings,
            evidence: crate::data::genome::JUDGED.map(str::to_owned).to_vec(),
            genes: Vec::new(),
            most: [self.preset.facts, self.preset.rows, self.preset.rows],
        };
        instruct::write(&data, self.genome, self.ontology, &facts)?;
        let general: String = GENERAL.lines().map(|line| json!({ "text": line }).to_string() + "\n").collect();
        bft_formats::write_atomic(&data.join("general.jsonl"), |out| out.write_all(general.as_bytes()))?;
        let tests = measure::Tests::read(self, &data)?;
        let settings = self.preset.settings();
        let model_hash = self.model.sha256()?;
        let key = key(&[&model_hash, &format!("{:?}", self.preset), env!("CARGO_PKG_VERSION")]);
        let mut found = Vec::new();
        for (number, setting) in settings.iter().enumerate() {
            hear(Progress::Run(number + 1, settings.len(), setting.folder()));
            let folder = self.folder.join("runs").join(setting.folder());
            let result = folder.join("result.json");
            if let Some(kept) = Measured::read(&result, &key) {
                hear(Progress::Kept);
                found.push((setting.clone(), kept));
                continue;
            }
            std::fs::create_dir_all(&folder).map_err(|error| BioError::file(&folder, error))?;
            let adapter = match setting.loss {
                None => None,
                Some(loss) => Some(self.tune(setting, loss, &data, &folder.join("adapter"), stop, &mut hear)?),
            };
            let measured = tests.measure(self, adapter.as_ref(), stop)?;
            measured.write(&result, &key)?;
            hear(Progress::Done(&measured));
            found.push((setting.clone(), measured));
        }
        Ok(found)
    }

    fn tune(
        &self,
        setting: &Setting,
        loss: LossKind,
        data: &Path,
        output: &Path,
        stop: &AtomicBool,
        hear: &mut impl FnMut(Progress<'_>),
    ) -> Result<Adapter> {
        let config = |resume| TrainConfig {
            model: self.model_path.clone(),
            data: data.join("train.jsonl").into(),
            output: output.to_path_buf(),
            loss,
            group_size: setting.group.map_or(TrainConfig::default().group_size, GroupSize::Tokens),
            lr: self.preset.lr,
            epochs: Some(self.preset.epochs),
            batch_size: self.preset.batch,
            seed: setting.seed,
            save_every: 50,
            resume,
            ..TrainConfig::default()
        };
        // A run that was stopped goes on from its checkpoint; one that was stopped before its first
        // begins anew.
        let resumed = if output.exists() { Trainer::open(config(true), self.model).ok() } else { None };
        let trainer = match resumed {
            Some(trainer) => trainer,
            None => {
                if output.exists() {
                    std::fs::remove_dir_all(output).map_err(|error| BioError::file(output, error))?;
                }
                Trainer::open(config(false), self.model).map_err(BioError::model)?
            }
        };
        let mut steps = 0;
        let finished = pollster::block_on(trainer.tune(self.device, stop, &mut |event| match event {
            Event::Started(started) => steps = started.steps,
            Event::Step(step) => hear(Progress::Step(step.step, steps)),
            _ => {}
        }))
        .map_err(BioError::model)?;
        if finished.stopped {
            return Err(BioError::Stopped);
        }
        Ok(Adapter::load(&finished.adapter, &self.model.config)?)
    }

    /// Writes report.html and report.tsv; gives the summary.
    pub fn report(&self, found: &[(Setting, Measured)], command: &str, machine: &str) -> Result<Summary> {
        let summary = Summary::new(found);
        let tsv = summary.tsv();
        bft_formats::write_atomic(&self.folder.join("report.tsv"), |out| out.write_all(tsv.as_bytes()))?;
        let size = &self.preset;
        let about = [
            ("command", command.to_owned()),
            ("machine", machine.to_owned()),
            (
                "model",
                format!("{}, sha256 {}", self.model.name, self.model.sha256()?),
            ),
            (
                "data",
                "org.Hs.eg.db 3.16.0-1, GO.db 3.16.0-1; DepMap fitness (bulk, not single cells) and CORUM of pythonflex 0.4"
                    .to_owned(),
            ),
            (
                "preset",
                format!(
                    "{}: {} facts in {} phrasings, {} passes, {} seeds; {} questions, {} rows of each test text, {} genes of each embedding task",
                    size.name, size.facts, size.phrasings, size.epochs, size.seeds, size.answers, size.rows, size.genes
                ),
            ),
            (
                "training",
                format!(
                    "LoRA rank 16 on all linear layers, learning rate {}, {} samples a step",
                    size.lr, size.batch
                ),
            ),
        ];
        let page = page::page(&summary, &about)?;
        bft_formats::write_atomic(&self.folder.join("report.html"), |out| out.write_all(page.as_bytes()))?;
        Ok(summary)
    }
}
