//! How large a study is.

/// Sizes of a study. An arm, regime and seed is trained once a level.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What the report says above all else, where its numbers are not to be quoted.
    pub warning: Option<&'static str>,
    /// Arms of the wide regimes.
    pub arms: &'static [&'static str],
    /// Arms of the others.
    pub few: &'static [&'static str],
    /// Seeds of LoRA's start and of the order of rows.
    pub seeds: u64,
    /// Facts that are learnt; for `swapped`, known and new ones together.
    pub facts: usize,
    /// Definitions that are learnt.
    pub terms: usize,
    /// Long answers that are learnt.
    pub long: usize,
    /// Times as many candidates, of which `bins` and `long` choose by the untuned model's p.
    pub candidates: usize,
    /// Training phrasings of a fact.
    pub phrasings: usize,
    /// Passes over the training rows.
    pub passes: u64,
    /// Rows of a step.
    pub batch: usize,
    /// Learning rates that every arm is tried with on validation facts.
    pub rates: &'static [f64],
    /// Learning rates of `forgetting`.
    pub curve_rates: &'static [f64],
    /// Passes of `forgetting`.
    pub curve_passes: &'static [u64],
    /// Passes of the warm start, which is SFT at 1e-3.
    pub warm_passes: u64,
    /// Tokens of English that forgetting is measured on.
    pub english: usize,
    /// Units whose answer is chosen among ten.
    pub choices: usize,
    /// Redraws of an interval.
    pub redraws: usize,
}

const NO_RESULT: &str = "not a result: too few facts and seeds to tell arms apart; it shows that everything runs";

const FEW: &[&str] = &["sft", "dft", "bft", "bft-v3 g=2"];
const ALL: &[&str] = &[
    "sft",
    "dft",
    "bft",
    "bft-v3 g=1",
    "bft-v3 g=2",
    "bft-v3 g=4",
    "bft-v3 g=8",
    "bft-v3 g=n/4",
    "sft 30 %, then bft",
    "bft, floor 0.1",
    "sft, kl 0.1",
    "gce q=0.5",
    "sft, early stop",
];

/// For tests: ends in minutes with a model of a few thousand weights.
pub const TINY: Preset = Preset {
    name: "tiny",
    warning: Some(NO_RESULT),
    arms: &["sft", "dft", "bft", "sft, kl 0.1", "gce q=0.5", "sft, early stop"],
    few: &["sft", "dft", "bft"],
    seeds: 2,
    facts: 8,
    terms: 4,
    long: 2,
    candidates: 3,
    phrasings: 1,
    passes: 1,
    batch: 4,
    rates: &[1e-3, 2e-3],
    curve_rates: &[1e-3],
    curve_passes: &[1, 2],
    warm_passes: 1,
    english: 600,
    choices: 2,
    redraws: 200,
};

/// Sized for an hour of 2 cores with SmolLM2-135M; not timed yet.
pub const SMALL: Preset = Preset {
    name: "small",
    warning: Some(NO_RESULT),
    arms: FEW,
    few: &["sft", "dft", "bft"],
    seeds: 2,
    facts: 12,
    terms: 6,
    long: 4,
    candidates: 6,
    phrasings: 2,
    passes: 5,
    batch: 4,
    rates: &[5e-4, 2e-3],
    curve_rates: &[5e-4, 2e-3],
    curve_passes: &[2, 6],
    warm_passes: 8,
    english: 2000,
    choices: 8,
    redraws: 2000,
};

/// Sized for ten hours of 2 cores with SmolLM2-135M, not timed yet; in parts by `--only`.
pub const NIGHT: Preset = Preset {
    name: "night",
    warning: None,
    arms: ALL,
    few: FEW,
    seeds: 5,
    facts: 40,
    terms: 20,
    long: 8,
    candidates: 8,
    phrasings: 2,
    passes: 6,
    batch: 8,
    rates: &[5e-4, 1e-3, 2e-3],
    curve_rates: &[5e-4, 1e-3, 2e-3],
    curve_passes: &[3, 12],
    warm_passes: 12,
    english: 20_000,
    choices: 20,
    redraws: 20_000,
};

/// For a GPU.
pub const GPU: Preset = Preset {
    name: "gpu",
    warning: None,
    arms: ALL,
    few: FEW,
    seeds: 5,
    facts: 1000,
    terms: 500,
    long: 200,
    candidates: 3,
    phrasings: 2,
    passes: 8,
    batch: 16,
    rates: &[2e-4, 5e-4, 1e-3, 2e-3],
    curve_rates: &[2e-4, 5e-4, 1e-3, 2e-3],
    curve_passes: &[2, 8, 32],
    warm_passes: 12,
    english: 50_000,
    choices: 500,
    redraws: 20_000,
};
