//! The losses side by side: the same facts, settings and seeds, then the same questions and tasks for each.
//!
//! Every run keeps its results in its own folder, so that a study that was stopped goes on with the runs that are left.

mod measure;
mod page;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bft_core::LossKind;
use bft_core::device::Device;
use bft_formats::{Adapter, Model};
use bft_train::{Event, TrainConfig, Trainer};
use serde_json::json;

use crate::data::genome::Genome;
use crate::data::gmt::GeneSets;
use crate::data::ontology::Ontology;
use crate::data::response::Response;
use crate::error::{BioError, Result};
use crate::genes::partial::key;
use crate::instruct::{self, Kind, Options as Facts};

pub use measure::{MEASURES, Measured};
pub use summary::Summary;

/// The size of a study.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Facts that are trained.
    pub facts: usize,
    /// Training phrasings of a fact.
    pub phrasings: usize,
    /// Seeds of every setting.
    pub seeds: u64,
    /// Group sizes of bft and bft-v3.
    pub groups: &'static [usize],
    /// Passes over the training rows.
    pub epochs: u64,
    /// Rows of a step.
    pub batch: usize,
    /// Learning rate of every run.
    pub lr: f64,
    /// Rows of each test file that NLL is measured on.
    pub rows: usize,
    /// Questions that are answered for exact match and token F1.
    pub answers: usize,
    /// Genes of each embedding task.
    pub genes: usize,
}

/// Ends in minutes: shows that everything runs, and measures nothing worth quoting.
pub const TINY: Preset = Preset {
    name: "tiny",
    facts: 12,
    phrasings: 1,
    seeds: 2,
    groups: &[16],
    epochs: 1,
    batch: 4,
    lr: 2e-3,
    rows: 12,
    answers: 3,
    genes: 100,
};
/// Under 40 minutes on 2 quiet cores with SmolLM2-135M: few facts, each seen six times, so that they can be learnt.
pub const SMALL: Preset = Preset {
    name: "small",
    facts: 20,
    phrasings: 2,
    seeds: 3,
    groups: &[16, 32, 64, 256],
    epochs: 3,
    batch: 4,
    lr: 2e-3,
    rows: 20,
    answers: 20,
    genes: 300,
};
/// For a GPU, or a night.
pub const FULL: Preset = Preset {
    name: "full",
    facts: 10_000,
    phrasings: 2,
    seeds: 3,
    groups: &[16, 32, 64, 256],
    epochs: 2,
    batch: 16,
    lr: 1e-3,
    rows: 1000,
    answers: 500,
    genes: 500,
};

/// One run's setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The loss; `None` for the untuned model.
    pub loss: Option<LossKind>,
    /// Group size, where the loss has one.
    pub group: Option<usize>,
    /// Seed of LoRA's start and of the order of rows.
    pub seed: u64,
}

impl Setting {
    /// Loss and group, without the seed.
    pub fn name(&self) -> String {
        match (self.loss, self.group) {
            (None, _) => "untuned".to_owned(),
            (Some(loss), None) => loss.to_string(),
            (Some(loss), Some(group)) => format!("{loss} g={group}"),
        }
    }

    fn folder(&self) -> String {
        format!("{}-s{}", self.name().replace(" g=", "-g"), self.seed)
    }
}

impl Preset {
    /// Every run, seed by seed, so that a study that is stopped early has all settings.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = vec![Setting { loss: None, group: None, seed: 0 }];
        for seed in 0..self.seeds {
            for loss in [LossKind::Sft, LossKind::Dft] {
                settings.push(Setting { loss: Some(loss), group: None, seed });
            }
            for loss in [LossKind::Bft, LossKind::BftV3] {
                settings.extend(self.groups.iter().map(|group| Setting {
                    loss: Some(loss),
                    group: Some(*group),
                    seed,
                }));
            }
        }
        settings
    }
}

/// What a study works on.
pub struct Study<'s> {
    /// The model's file or folder.
    pub model_path: PathBuf,
    /// The model.
    pub model: &'s Model,
    /// The device.
    pub device: &'s Device,
    /// Genes.
    pub genome: &'s Genome,
    /// Terms.
    pub ontology: &'s Ontology,
    /// Knock-out fitness, for an embedding task.
    pub response: &'s Response,
    /// Protein complexes, for the other.
    pub complexes: &'s GeneSets,
    /// Folder of data, runs and report.
    pub folder: PathBuf,
    /// Its size.
    pub preset: Preset,
}

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

/// Plain English that has nothing to do with genes: what tuning makes a model forget. Written for bft.
const GENERAL: &str = include_str!("study/general.txt");

impl Study<'_> {
    /// Runs what is left, and gives every run's numbers in order. `stop` ends after the step at hand.
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
            let measured = tests.measure(self, adapter.as_ref())?;
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
            data: data.join("train.jsonl"),
            output: output.to_path_buf(),
            loss,
            group_size: setting.group.unwrap_or(TrainConfig::default().group_size),
            lr: self.preset.lr,
            epochs: Some(self.preset.epochs),
            batch_size: self.preset.batch,
            seed: setting.seed,
            save_every: 50,
            resume,
            ..TrainConfig::default()
        };
        // A run that was stopped goes on from its checkpoint; one that was stopped before its first begins anew.
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
            return Err(BioError::data("stopped; give the same command again to go on"));
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
