//! Which loss each step of a run has.

use bft_core::{LossConfig, LossKind};

use crate::config::ConfigError;
use crate::setting::{word, words};

/// One word of `loss-schedule`: a loss, and the share of the run's steps that it has; none for the
/// loss that has the rest.
fn phase(text: &str) -> Result<(LossKind, Option<f64>), String> {
    let (name, share) = text.split_once(':').map_or((text, None), |(name, share)| (name, Some(share)));
    let expected = "expected LOSS:SHARE with a share of the steps above 0 and below 1, such as sft:0.3";
    let known = || format!("no such loss (known: {}); {expected}", words::<LossKind>().join(", "));
    let kind = word::<LossKind>(name).ok_or_else(known)?;
    let Some(share) = share else {
        return Ok((kind, None));
    };
    let share = share.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.map(|share| (kind, Some(share))).ok_or_else(|| expected.to_owned())
}

/// Checks one word of `loss-schedule`.
pub(crate) fn check_phase(text: &str) -> Result<(), String> {
    phase(text).map(|_| ())
}

/// The losses that a run begins with, each with the share of all steps that lies behind it when it
/// ends; `last` is the loss that the run ends with, which the words may name once more at their end.
pub(crate) fn phases(schedule: &[String], last: LossKind) -> Result<Vec<(LossKind, f64)>, ConfigError> {
    let refused = |what: String| Err(ConfigError::LossSchedule(what));
    let (mut phases, mut done, mut before) = (Vec::new(), 0.0, None);
    for (at, text) in schedule.iter().enumerate() {
        let (kind, share) = phase(text).map_err(|what| ConfigError::LossSchedule(format!("\"{text}\": {what}")))?;
        if before == Some(kind) {
            return refused(format!("{kind} follows {kind}, which changes nothing"));
        }
        before = Some(kind);
        match share {
            Some(share) => {
                done += share;
                phases.push((kind, done));
            }
            None if at + 1 < schedule.len() => {
                return refused(format!("{kind} is given no share and is not the last: write {kind}:0.3, say"));
            }
            None if kind != last => {
                return refused(format!("it ends with {kind}, and loss is {last}: give --loss {kind}, too"));
            }
            None => {}
        }
    }
    match phases.last() {
        None if schedule.is_empty() => Ok(phases),
        None => refused(format!("it names {last} alone: begin with another loss, such as sft:0.3")),
        Some((kind, _)) if *kind == last => refused(format!("{kind} follows {kind}, which changes nothing")),
        Some((_, all)) if *all >= 1.0 => {
            refused(format!("its shares add up to {all}, expected less than 1: {last} has the rest"))
        }
        Some(_) => Ok(phases),
    }
}

/// The losses of a run, in the order of its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Each loss that the run begins with, with its last step.
    first: Vec<(u64, LossKind)>,
    /// The loss of all steps behind these.
    last: LossConfig,
}

impl Losses {
    /// The losses of a run of `steps`.
    ///
    /// # Errors
    /// [`ConfigError::LossSchedule`] where a word makes no sense, or a loss would have no step.
    pub fn new(schedule: &[String], last: LossConfig, steps: u64) -> Result<Self, ConfigError> {
        let mut first: Vec<(u64, LossKind)> = Vec::new();
        let mut done = 0;
        for (kind, share) in phases(schedule, last.kind)? {
            let end = (steps as f64 * share).round() as u64;
            check_steps(kind, done, end, steps)?;
            first.push((end, kind));
            done = end;
        }
        check_steps(last.kind, done, steps, steps)?;
        Ok(Self { first, last })
    }

    /// The loss of `step`, from 1.
    pub fn at(&self, step: u64) -> LossConfig {
        let phase = self.first.iter().find(|(end, _)| step <= *end);
        LossConfig { kind: phase.map_or(self.last.kind, |(_, kind)| *kind), ..self.last }
    }

    /// Whether not all steps have the same.
    pub fn change(&self) -> bool {
        !self.first.is_empty()
    }

    /// Every loss that some step has.
    pub fn kinds(&self) -> impl Iterator<Item = LossKind> {
        self.first.iter().map(|(_, kind)| *kind).chain([self.last.kind])
    }
}

/// Refuses a loss that would have no step.
fn check_steps(kind: LossKind, done: u64, end: u64, steps: u64) -> Result<(), ConfigError> {
    if end > done {
        return Ok(());
    }
    Err(ConfigError::LossSchedule(format!("{kind} is left no step of the {steps} that the run has")))
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (end, kind) in &self.first {
            write!(f, "{kind} to step {end}, then ")?;
        }
        write!(f, "{}", self.last.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(schedule: &str, last: LossKind, steps: u64) -> Result<Losses, String> {
        let words: Vec<String> = schedule.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let last = LossConfig { kind: last, q: 0.25, ..LossConfig::default() };
        Losses::new(&words, last, steps).map_err(|error| error.to_string())
    }

    #[test]
    fn every_step_has_the_loss_of_its_share() {
        let two = losses("sft:0.3,bft", LossKind::Bft, 10).unwrap();
        assert_eq!(two, losses("sft:0.3", LossKind::Bft, 10).unwrap());
        let kinds = |losses: &Losses, steps| (1..=steps).map(|step| losses.at(step).kind.name()).collect::<Vec<_>>();
        assert_eq!(kinds(&two, 10), [["sft"; 3].as_slice(), &["bft"; 7]].concat());
        assert_eq!((two.to_string().as_str(), two.change()), ("sft to step 3, then bft", true));
        let three = losses("sft:0.25,gce:0.5,bft-v3", LossKind::BftV3, 7).unwrap();
        assert_eq!(kinds(&three, 7), ["sft", "sft", "gce", "gce", "gce", "bft-v3", "bft-v3"]);
        assert_eq!(three.at(1).q, 0.25);
        assert_eq!(three.kinds().collect::<Vec<_>>(), [LossKind::Sft, LossKind::Gce, LossKind::BftV3]);
        let one = losses("", LossKind::Dft, 1).unwrap();
        assert_eq!((one.at(1).kind, one.at(9).kind, one.change()), (LossKind::Dft, LossKind::Dft, false));
        // A share that binary fractions only come near to takes no step more.
        assert_eq!(kinds(&losses("sft:0.07", LossKind::Bft, 100).unwrap(), 8)[6..], ["sft", "bft"]);
    }

    #[test]
    fn what_makes_no_schedule_is_refused() {
        let refused = |schedule: &str, steps| losses(schedule, LossKind::Bft, steps).unwrap_err();
        let expected = "expected LOSS:SHARE with a share of the steps above 0 and below 1, such as sft:0.3";
        for share in ["0", "1", "-0.5", "1.5", "nan", "inf", "", "x"] {
            let text = format!("sft:{share}");
            assert_eq!(refused(&text, 10), format!("loss-schedule: \"{text}\": {expected}"));
        }
        assert!(refused("stf:0.3", 10).starts_with("loss-schedule: \"stf:0.3\": no such loss (known: sft, dft, bft"));
        assert!(refused("sft,bft", 10).contains("sft is given no share and is not the last: write sft:0.3"));
        assert!(refused("sft:0.3,dft", 10).contains("it ends with dft, and loss is bft: give --loss dft, too"));
        assert!(refused("bft", 10).contains("it names bft alone"));
        for twice in ["sft:0.2,sft:0.2", "bft:0.3", "bft:0.3,bft", "sft:0.1,bft:0.3,bft"] {
            assert!(refused(twice, 10).contains(" follows "), "{twice}");
        }
        assert!(refused("sft:0.5,dft:0.5", 10).contains("its shares add up to 1, expected less than 1: bft has"));
        assert!(refused("sft:0.3", 1).contains("sft is left no step of the 1 that the run has"));
        assert!(refused("sft:0.9", 3).contains("bft is left no step of the 3 that the run has"));
        assert!(refused("sft:0.3,dft:0.01", 10).contains("dft is left no step of the 10"));
    }
}
