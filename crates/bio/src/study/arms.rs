//! What is compared: each arm is what it changes in the settings of a training run.

use std::path::Path;

use bft_core::GroupSize::{PartOf, Tokens};
use bft_core::LossKind;
use bft_train::TrainConfig;

/// What an arm may need of the run that it is an arm of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'g> {
    /// Rows about genes and terms that are neither trained nor measured.
    pub validation: &'g Path,
    /// Optimizer steps of a pass over the training rows.
    pub pass: u64,
}

/// An arm.
#[derive(Debug)]
pub struct Arm {
    /// As tables and folders name it.
    pub name: &'static str,
    pub(super) set: fn(&mut TrainConfig, Given<'_>),
}

/// Every arm.
pub const ARMS: &[Arm] = &[
    Arm { name: "sft", set: |run, _| run.loss = LossKind::Sft },
    Arm { name: "dft", set: |run, _| run.loss = LossKind::Dft },
    Arm { name: "bft", set: |run, _| run.loss = LossKind::Bft },
    Arm { name: "bft-v3 g=1", set: |run, _| (run.loss, run.group_size) = (LossKind::BftV3, Tokens(1)) },
    Arm { name: "bft-v3 g=2", set: |run, _| (run.loss, run.group_size) = (LossKind::BftV3, Tokens(2)) },
    Arm { name: "bft-v3 g=4", set: |run, _| (run.loss, run.group_size) = (LossKind::BftV3, Tokens(4)) },
    Arm { name: "bft-v3 g=8", set: |run, _| (run.loss, run.group_size) = (LossKind::BftV3, Tokens(8)) },
    Arm { name: "bft-v3 g=n/4", set: |run, _| (run.loss, run.group_size) = (LossKind::BftV3, PartOf(4)) },
    Arm {
        name: "sft 30 %, then bft",
        set: |run, _| (run.loss, run.loss_schedule) = (LossKind::Bft, vec!["sft:0.3".to_owned()]),
    },
    Arm { name: "bft, floor 0.1", set: |run, _| (run.loss, run.weight_floor) = (LossKind::Bft, 0.1) },
    Arm { name: "sft, kl 0.1", set: |run, _| (run.loss, run.kl_weight) = (LossKind::Sft, 0.1) },
    Arm { name: "gce q=0.5", set: |run, _| (run.loss, run.gce_q) = (LossKind::Gce, Some(0.5)) },
    Arm {
        name: "sft, early stop",
        set: |run, given| {
            run.loss = LossKind::Sft;
            run.eval_data = Some(given.validation.to_path_buf().into());
            (run.eval_every, run.patience, run.save_best) = (Some(given.pass), Some(2), true);
        },
    },
];

impl Arm {
    /// The arm of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ARMS.iter().find(|arm| arm.name == name)
    }

    /// Its name as part of a path.
    pub(super) fn folder(&self) -> String {
        self.name.replace([',', '%'], "").replace([' ', '/', '='], "-")
    }
}
