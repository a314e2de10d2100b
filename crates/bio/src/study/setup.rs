//! What a study works on, how large it is, and the settings of its runs.

use std::path::PathBuf;

use bft_core::LossKind;
use bft_core::device::Device;
use bft_formats::Model;

use crate::data::genome::Genome;
use crate::data::gmt::GeneSets;
use crate::data::ontology::Ontology;
use crate::data::response::Response;

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
    pub groups: &'static [u32],
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
/// Under 40 minutes on 2 quiet cores with SmolLM2-135M: few facts, each seen six times, so that
/// they can be learnt.
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
    pub group: Option<u32>,
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

    /// Name of its folder among the runs.
    pub(super) fn folder(&self) -> String {
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
