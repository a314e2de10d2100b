//! Under which conditions the arms are compared, and the one comparison of each that was chosen
//! before anything ran.

use super::measure::{self, Measure};
use super::presets::Preset;

/// What is learnt in a regime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Material {
    /// Facts about genes, drawn by hash.
    Facts,
    /// As many facts of each bin of the untuned model's p.
    Binned,
    /// Facts, half of which the model knows from a warm start; a share of all has another's answer.
    Swapped,
    /// Definitions of terms, a share of whose words are random ones.
    Definitions,
    /// Several definitions in one answer, 300 tokens at least: those that are easiest for the untuned
    /// model and those that are hardest.
    Long,
}

/// The comparison that a regime is for.
#[derive(Debug, Clone, Copy)]
pub struct Primary {
    /// The arm that is claimed to be better.
    pub arm: &'static str,
    /// What it is compared with.
    pub against: &'static str,
    /// By what.
    pub measure: &'static Measure,
    /// On which units alone, where not on all.
    pub group: Option<&'static str>,
    /// At which share of noise.
    pub share: f64,
}

/// A regime.
#[derive(Debug)]
pub struct Regime {
    /// As flags and folders name it.
    pub word: &'static str,
    /// What is asked, in a sentence.
    pub question: &'static str,
    /// What is learnt.
    pub material: Material,
    /// Shares of noise.
    pub shares: &'static [f64],
    /// Whether the arms are followed over learning rate and steps, instead of at their own tuned
    /// rate.
    pub curve: bool,
    /// Whether all arms of the preset take part, or its few alone.
    pub wide: bool,
    /// What it is for.
    pub primary: Primary,
}

/// How much the NLL of English may rise, in nats at a fitted temperature, for what was learnt to
/// count in `forgetting`.
pub const BUDGET: f64 = 0.1;

/// Every regime.
pub const REGIMES: &[Regime] = &[
    Regime {
        word: "facts",
        question: "New facts: does BFT learn more of their answers than SFT?",
        material: Material::Facts,
        shares: &[0.0],
        curve: false,
        wide: true,
        primary: Primary { arm: "bft", against: "sft", measure: &measure::TOP, group: None, share: 0.0 },
    },
    Regime {
        word: "bins",
        question: "Facts by the untuned model's p: does BFT learn more than SFT of those that the model finds unlikely (p below 0.001)?",
        material: Material::Binned,
        shares: &[0.0],
        curve: false,
        wide: true,
        primary: Primary { arm: "bft", against: "sft", measure: &measure::TOP, group: Some(BIN_WORDS[0]), share: 0.0 },
    },
    Regime {
        word: "swapped",
        question: "Known facts retrained with 40 % of answers swapped: does BFT keep more of the truth than SFT where the answer was swapped?",
        material: Material::Swapped,
        shares: &[0.0, 0.2, 0.4, 0.6],
        curve: false,
        wide: false,
        primary: Primary {
            arm: "bft",
            against: "sft",
            measure: &measure::EXACT,
            group: Some("known, swapped"),
            share: 0.4,
        },
    },
    Regime {
        word: "definitions",
        question: "Definitions with 30 % random words: does BFT learn more of the clean text than SFT?",
        material: Material::Definitions,
        shares: &[0.0, 0.3, 0.6],
        curve: false,
        wide: false,
        primary: Primary { arm: "bft", against: "sft", measure: &measure::TOP, group: None, share: 0.3 },
    },
    Regime {
        word: "long",
        question: "Easy and hard answers of 300 tokens and more, mixed: does BFT's sample weight, at g = 256, teach more of the hard ones than DFT, which has none?",
        material: Material::Long,
        shares: &[0.0],
        curve: false,
        wide: false,
        primary: Primary { arm: "bft", against: "dft", measure: &measure::TOP, group: Some("hard"), share: 0.0 },
    },
    Regime {
        word: "forgetting",
        question: "Learning rate and steps varied: does BFT learn more than SFT where English may become 0.1 nats less likely, at a fitted temperature?",
        material: Material::Facts,
        shares: &[0.0],
        curve: true,
        wide: false,
        primary: Primary { arm: "bft", against: "sft", measure: &measure::TOP, group: None, share: 0.0 },
    },
];

/// Borders of the geometric mean of p of an answer's tokens that `bins` goes by.
pub(super) const BIN_BORDERS: [f64; 3] = [1e-3, 1e-2, 1e-1];
/// The bins between them.
pub(super) const BIN_WORDS: [&str; 4] = ["p < 0.001", "p < 0.01", "p < 0.1", "p >= 0.1"];

/// One condition of a regime.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// As tables and folders name it.
    pub word: String,
    /// Share of noise.
    pub share: f64,
    /// Learning rate and passes, where the regime is a curve.
    pub pace: Option<(f64, u64)>,
}

impl Regime {
    /// The regime of that word.
    pub fn named(word: &str) -> Option<&'static Self> {
        REGIMES.iter().find(|regime| regime.word == word)
    }

    /// Its conditions.
    pub fn levels(&self, preset: &Preset) -> Vec<Level> {
        if self.curve {
            let pairs = preset.curve_rates.iter().flat_map(|lr| preset.curve_passes.iter().map(move |n| (*lr, *n)));
            return pairs
                .map(|(lr, passes)| Level {
                    word: format!("lr {lr}, {passes} passes"),
                    share: 0.0,
                    pace: Some((lr, passes)),
                })
                .collect();
        }
        let level = |share: &f64| Level { word: format!("{:.0} %", share * 100.0), share: *share, pace: None };
        self.shares.iter().map(level).collect()
    }

    /// The arms that a preset has in it.
    pub fn arms(&self, preset: &Preset) -> &'static [&'static str] {
        if self.wide { preset.arms } else { preset.few }
    }

    /// The comparison in words, as it is written down before the first run.
    pub fn comparison(&self) -> String {
        let Primary { arm, against, measure, group, share } = self.primary;
        let group = group.map_or_else(String::new, |group| format!(", of units {group:?} alone"));
        let at = match self.curve {
            true => format!(
                "; of each arm and seed the learning rate and passes with the highest {} among those where {} is at most {BUDGET} above the untuned model's, the untuned model itself where there are none",
                measure.name,
                measure::GENERAL_FITTED.name
            ),
            false if self.shares.len() > 1 => format!("; at {:.0} % noise", share * 100.0),
            false => String::new(),
        };
        format!("{}: {}: {arm} less {against} in {}{group}{at}", self.word, self.question, measure.name)
    }
}
