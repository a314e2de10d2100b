//! What the runs come to: the primary comparisons, a table a regime, the secondary comparisons, and
//! what is learnt by bin of the untuned model's p.

use super::measure::{self, GENERAL_FITTED, MEASURES, Measure, Measured, SECONDARY, Unit};
use super::presets::Preset;
use super::regimes::{BUDGET, Level, Primary, REGIMES, Regime};
use crate::report::{Cell, Report};
use crate::stats::bootstrap::Estimate;
use crate::stats::calibration::Calibration;
use crate::stats::paired::{self, Difference};

/// A finished run.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its regime.
    pub regime: &'static Regime,
    /// Its condition.
    pub level: Level,
    /// Its arm; `None` for the untuned model.
    pub arm: Option<&'static str>,
    /// Its seed.
    pub seed: u64,
    /// Its numbers.
    pub measured: Measured,
}

/// Bins of the untuned model's p of a token, by their upper borders.
pub(super) const P_BINS: [(f64, &str); 6] = [
    (1e-5, "p < 1e-5"),
    (1e-4, "< 1e-4"),
    (1e-3, "< 0.001"),
    (1e-2, "< 0.01"),
    (1e-1, "< 0.1"),
    (f64::INFINITY, ">= 0.1"),
];

/// An arm's line in the picture of what is learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The arm.
    pub name: String,
    /// Share of tokens that are the likeliest, by bin.
    pub shares: Vec<Option<Estimate>>,
}

/// A point of the picture of learning against forgetting.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The arm.
    pub name: &'static str,
    /// How much less likely English became, in nats at a fitted temperature, the mean over seeds.
    pub forgotten: f64,
    /// Top-1 of the answers, over all seeds.
    pub learnt: f64,
}

/// All that a report shows.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What each regime is for, in the words written before.
    pub comparisons: Vec<String>,
    /// The primary comparisons.
    pub primary: Report,
    /// A table a regime that has runs.
    pub regimes: Vec<Report>,
    /// The others, Holm-corrected.
    pub secondary: Report,
    /// Shares by bin.
    pub learnt: Report,
    /// The same as lines.
    pub lines: Vec<Line>,
    /// Learning against forgetting.
    pub curve: Vec<Point>,
}

/// The runs of one regime.
struct Runs<'f> {
    regime: &'static Regime,
    found: Vec<&'f Found>,
    preset: &'f Preset,
}

impl<'f> Runs<'f> {
    /// Seeds with an arm's runs at a level, in order.
    fn of(&self, level: &Level, arm: &str) -> Vec<(u64, &'f Measured)> {
        let mut runs: Vec<_> = self
            .found
            .iter()
            .filter(|found| found.level == *level && found.arm == Some(arm))
            .map(|found| (found.seed, &found.measured))
            .collect();
        runs.sort_by_key(|(seed, _)| *seed);
        runs
    }

    fn untuned(&self) -> Option<&'f Measured> {
        self.found.iter().find(|found| found.arm.is_none()).map(|found| &found.measured)
    }

    fn levels(&self) -> Vec<Level> {
        self.regime.levels(self.preset)
    }

    fn primary_level(&self) -> Option<Level> {
        self.levels().into_iter().find(|level| level.share == self.regime.primary.share)
    }

    /// Of each seed, what an arm learnt at most without forgetting more than the budget.
    fn within_budget(&self, arm: &str, measure: &Measure) -> Vec<(u64, &'f Measured)> {
        let Some(untuned) = self.untuned() else { return Vec::new() };
        let most = untuned.value(&GENERAL_FITTED).map(|nll| nll + BUDGET);
        let all: Vec<Vec<(u64, &Measured)>> = self.levels().iter().map(|level| self.of(level, arm)).collect();
        // A seed counts once every level of it is done: fewer levels would be a smaller choice.
        let seeds = all.first().into_iter().flatten().map(|(seed, _)| *seed);
        seeds
            .filter_map(|seed| {
                let runs: Option<Vec<&Measured>> =
                    all.iter().map(|runs| Some(runs.iter().find(|run| run.0 == seed)?.1)).collect();
                let fit = runs?.into_iter().filter(|run| run.value(&GENERAL_FITTED) <= most);
                let best =
                    fit.max_by(|a, b| a.value(measure).unwrap_or(0.0).total_cmp(&b.value(measure).unwrap_or(0.0)));
                Some((seed, best.unwrap_or(untuned)))
            })
            .collect()
    }

    /// An arm less another, on the seeds that both have; and how many those are.
    fn difference(
        &self,
        one: &[(u64, &Measured)],
        other: &[(u64, &Measured)],
        measure: &Measure,
        group: Option<&str>,
    ) -> (usize, Option<Difference>) {
        let pairs = one.iter().filter_map(|(seed, run)| {
            let (_, other) = other.iter().find(|(of, _)| of == seed)?;
            Some((run.ratios(measure, group), other.ratios(measure, group)))
        });
        let (one, other): (Vec<_>, Vec<_>) = pairs.unzip();
        (one.len(), paired::difference(&one, &other, self.preset.redraws))
    }

    fn primary(&self) -> (usize, Option<Difference>) {
        let Primary { arm, against, measure, group, .. } = self.regime.primary;
        if self.regime.curve {
            let of = |arm| self.within_budget(arm, measure);
            return self.difference(&of(arm), &of(against), measure, group);
        }
        let Some(level) = self.primary_level() else { return (0, None) };
        self.difference(&self.of(&level, arm), &self.of(&level, against), measure, group)
    }

    fn estimate(&self, runs: &[&Measured], measure: &Measure, group: Option<&str>) -> Cell {
        let ratios: Vec<_> = runs.iter().map(|run| run.ratios(measure, group)).collect();
        paired::interval(&ratios, self.preset.redraws).into()
    }

    /// A row an arm and level, with every measure and those of groups.
    fn table(&self) -> Report {
        let mut groups: Vec<&str> = Vec::new();
        for unit in self.found.iter().flat_map(|found| &found.measured.units) {
            if !unit.group.is_empty() && !groups.contains(&unit.group.as_str()) {
                groups.push(&unit.group);
            }
        }
        groups.sort_unstable();
        let by_group = groups.iter().flat_map(|group| [(&measure::TOP, *group), (&measure::EXACT, *group)]);
        let by_group: Vec<(&Measure, &str)> = by_group.collect();
        let mut columns = vec!["arm".to_owned(), "at".to_owned(), "seeds".to_owned(), "lr".to_owned()];
        columns.extend(MEASURES.iter().map(|measure| measure.name.to_owned()));
        columns.push("calibration error, answer".to_owned());
        columns.extend(by_group.iter().map(|(measure, group)| format!("{}: {group}", measure.name)));
        let mut report =
            Report { title: format!("{}: {}", self.regime.word, self.regime.question), columns, ..Report::default() };
        let mut add = |name: &str, level: &str, runs: &[&Measured]| {
            let Some(first) = runs.first() else { return };
            let lr = if first.lr > 0.0 { Cell::Number(first.lr) } else { Cell::None };
            let mut row = vec![Cell::from(name), Cell::from(level), Cell::Count(runs.len()), lr];
            row.extend(MEASURES.iter().map(|measure| self.estimate(runs, measure, None)));
            let mut calibration = Calibration::default();
            runs.iter().for_each(|run| calibration.merge(&run.calibration));
            row.push(calibration.error().into());
            row.extend(by_group.iter().map(|(measure, group)| self.estimate(runs, measure, Some(group))));
            report.rows.push(row);
        };
        if let Some(untuned) = self.untuned() {
            add("untuned", "-", &[untuned]);
        }
        for level in self.levels() {
            for arm in self.regime.arms(self.preset) {
                let runs: Vec<&Measured> = self.of(&level, arm).into_iter().map(|(_, run)| run).collect();
                add(arm, &level.word, &runs);
            }
        }
        self.say_weights(&mut report);
        report
    }

    /// How far apart BFT's sample weights are before training: within a narrow range they do nothing.
    fn say_weights(&self, report: &mut Report) {
        let Some(untuned) = self.untuned() else { return };
        let mut weights: Vec<f64> = untuned.units.iter().map(|unit| unit.weight).collect();
        weights.sort_by(f64::total_cmp);
        let at = |share| crate::stats::bootstrap::quantile(&weights, share).unwrap_or(f64::NAN);
        report.say(
            "sample weights of bft at g = 256 before training",
            format!("{:.3} to {:.3}, median {:.3}, of {} units", at(0.0), at(1.0), at(0.5), weights.len()),
        );
    }
}

/// Answer tokens of a unit by bin of the untuned model's p: how many are the likeliest, of how many.
fn binned(unit: &Unit, untuned: &Unit, bin: usize) -> (f64, f64) {
    let place = |log_p: f32| P_BINS.iter().position(|(border, _)| f64::from(log_p).exp() < *border);
    let tokens = unit.trace.iter().zip(&untuned.trace).filter(|(_, (log_p, _))| place(*log_p) == Some(bin));
    tokens.fold((0.0, 0.0), |(right, all), ((_, top), _)| (right + f64::from(*top), all + 1.0))
}

fn differences(columns: &[&str], title: &str) -> Report {
    Report::new(title, columns)
}

fn cells(difference: Option<&Difference>, corrected: Option<f64>) -> [Cell; 3] {
    let estimate = difference.map(|difference| difference.estimate);
    [estimate.into(), difference.map(|difference| difference.p).into(), corrected.into()]
}

impl Summary {
    /// Of these runs; `about` and `checks` stand above every table.
    pub fn new(found: &[Found], preset: &Preset, about: &[(String, String)], checks: &[(String, String)]) -> Self {
        let all: Vec<Runs<'_>> = REGIMES
            .iter()
            .map(|regime| {
                let found = found.iter().filter(|found| found.regime.word == regime.word).collect();
                Runs { regime, found, preset }
            })
            .collect();
        let mut summary = Self { comparisons: REGIMES.iter().map(Regime::comparison).collect(), ..Self::default() };
        summary.primary = primary(&all);
        summary.primary.about.splice(0..0, about.iter().cloned());
        let with_runs = || all.iter().filter(|runs| !runs.found.is_empty());
        for runs in with_runs() {
            let mut table = runs.table();
            let of_it = checks.iter().filter(|(word, _)| word == runs.regime.word);
            of_it.for_each(|(_, line)| table.say("check", line.as_str()));
            summary.regimes.push(table);
        }
        summary.secondary = secondary(&all);
        (summary.learnt, summary.lines) =
            all.iter().find(|runs| runs.regime.word == "bins").map(learnt).unwrap_or_default();
        summary.curve = all.iter().find(|runs| runs.regime.curve).map(curve).unwrap_or_default();
        summary
    }

    /// Every table that has rows, in the order in which they are read.
    pub fn tables(&self) -> impl Iterator<Item = &Report> {
        let rest = self.regimes.iter().chain([&self.learnt, &self.secondary]);
        std::iter::once(&self.primary).chain(rest).filter(|table| !table.rows.is_empty())
    }
}

fn primary(all: &[Runs<'_>]) -> Report {
    let columns = ["regime", "measure", "difference", "seeds", "of", "estimate", "p", "p, Holm"];
    let mut report = differences(&columns, "Primary comparisons, one a regime, chosen before the first run");
    let results: Vec<_> = all.iter().map(|runs| (runs, runs.primary())).collect();
    // A regime that has not been run counts among those that are corrected for, so that running in
    // parts makes nothing look surer than it will be.
    let p: Vec<f64> =
        results.iter().map(|(_, (_, difference))| difference.as_ref().map_or(1.0, |found| found.p)).collect();
    for ((runs, (seeds, difference)), corrected) in results.into_iter().zip(paired::holm(&p)) {
        let Primary { arm, against, measure, group, .. } = runs.regime.primary;
        let what = group.map_or_else(|| measure.name.to_owned(), |group| format!("{}: {group}", measure.name));
        let holm = difference.as_ref().map(|_| corrected);
        let mut row = vec![
            Cell::from(runs.regime.word),
            Cell::from(what),
            Cell::from(format!("{arm} - {against}")),
            Cell::Count(seeds),
            Cell::Count(runs.preset.seeds as usize),
        ];
        row.extend(cells(difference.as_ref(), holm));
        report.rows.push(row);
    }
    report
}

/// Every arm against the one that the regime's primary comparison is with, at its level.
fn secondary(all: &[Runs<'_>]) -> Report {
    let columns = ["regime", "measure", "difference", "seeds", "estimate", "p", "p, Holm"];
    let mut report = differences(&columns, "Secondary comparisons, Holm-corrected together");
    let mut results = Vec::new();
    for runs in all.iter().filter(|runs| !runs.regime.curve) {
        let Some(level) = runs.primary_level() else { continue };
        let against = runs.regime.primary.against;
        let other = runs.of(&level, against);
        for arm in runs.regime.arms(runs.preset).iter().filter(|arm| **arm != against) {
            let one = runs.of(&level, arm);
            for measure in SECONDARY {
                let is_primary = *arm == runs.regime.primary.arm
                    && measure.name == runs.regime.primary.measure.name
                    && runs.regime.primary.group.is_none();
                if let (seeds, Some(difference)) = runs.difference(&one, &other, measure, None)
                    && !is_primary
                {
                    results.push((runs.regime.word, measure.name, format!("{arm} - {against}"), seeds, difference));
                }
            }
        }
    }
    let corrected = paired::holm(&results.iter().map(|result| result.4.p).collect::<Vec<_>>());
    for ((word, measure, what, seeds, difference), holm) in results.into_iter().zip(corrected) {
        let mut row = vec![Cell::from(word), Cell::from(measure), Cell::from(what), Cell::Count(seeds)];
        row.extend(cells(Some(&difference), Some(holm)));
        report.rows.push(row);
    }
    report
}

fn learnt(runs: &Runs<'_>) -> (Report, Vec<Line>) {
    let mut report =
        Report::new("Share of answer tokens that are the likeliest, by the untuned model's p of them", &["arm"]);
    report.columns.extend(P_BINS.iter().map(|(_, word)| (*word).to_owned()));
    let (Some(untuned), Some(level)) = (runs.untuned(), runs.primary_level()) else {
        return (report, Vec::new());
    };
    let arms = runs.regime.arms(runs.preset).iter();
    let arms = arms.map(|arm| (*arm, runs.of(&level, arm).into_iter().map(|(_, run)| run).collect::<Vec<_>>()));
    let mut lines = Vec::new();
    for (name, runs_of) in std::iter::once(("untuned", vec![untuned])).chain(arms).filter(|(_, runs)| !runs.is_empty())
    {
        let share = |bin| {
            let of_run = |run: &&Measured| {
                run.units.iter().zip(&untuned.units).map(|(unit, base)| binned(unit, base, bin)).collect()
            };
            paired::interval(&runs_of.iter().map(of_run).collect::<Vec<Vec<_>>>(), runs.preset.redraws)
        };
        let shares: Vec<Option<Estimate>> = (0..P_BINS.len()).map(share).collect();
        report
            .rows
            .push(std::iter::once(Cell::from(name)).chain(shares.iter().map(|share| Cell::from(*share))).collect());
        lines.push(Line { name: name.to_owned(), shares });
    }
    let counts = (0..P_BINS.len()).map(|bin| untuned.units.iter().map(|unit| binned(unit, unit, bin).1).sum::<f64>());
    report.say("tokens a bin", counts.map(|count| format!("{count:.0}")).collect::<Vec<_>>().join(", "));
    (report, lines)
}

fn curve(runs: &Runs<'_>) -> Vec<Point> {
    let before = runs.untuned().and_then(|untuned| untuned.value(&GENERAL_FITTED));
    let point = |arm: &&'static str, level: &Level| {
        let of_it = runs.of(level, arm);
        let top: Vec<_> = of_it.iter().map(|(_, run)| run.ratios(&measure::TOP, None)).collect();
        let english: Vec<_> = of_it.iter().map(|(_, run)| run.ratios(&GENERAL_FITTED, None)).collect();
        let (forgotten, learnt) = (measure::value(&english)? - before?, measure::value(&top)?);
        Some(Point { name: arm, forgotten, learnt })
    };
    let levels = runs.levels();
    runs.regime
        .arms(runs.preset)
        .iter()
        .flat_map(|arm| levels.iter().filter_map(move |level| point(arm, level)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::TINY;
    use super::super::measure::Part;
    use super::*;
    use bft_train::{TEMPERATURES, UNTEMPERED};

    fn part(right: usize, tokens: usize, nll: f64) -> Part {
        let mut part = Part { tokens, top: right, nll: [9.0; TEMPERATURES.len()] };
        part.nll[UNTEMPERED] = nll;
        part
    }

    /// A run whose units have so many right answer tokens of four, and whose English has this NLL.
    fn found(word: &str, level: usize, arm: Option<&'static str>, seed: u64, right: &[usize], english: f64) -> Found {
        let regime = REGIMES.iter().find(|regime| regime.word == word).expect("a regime");
        let unit = |right: &usize| Unit {
            answer: part(*right, 4, 1.0),
            trace: (0..4).map(|token| (-(token as f32) * 4.0, token < *right)).collect(),
            ..Unit::default()
        };
        let measured = Measured {
            units: right.iter().map(unit).collect(),
            english: vec![part(0, 1, english), part(0, 1, english)],
            ..Measured::default()
        };
        Found { regime, level: regime.levels(&TINY)[level].clone(), arm, seed, measured }
    }

    fn summary(found: &[Found]) -> Summary {
        Summary::new(found, &TINY, &[], &[("facts".to_owned(), "none is held out: checked".to_owned())])
    }

    #[test]
    fn the_primary_comparison_is_paired_over_the_seeds_that_both_arms_have() {
        let summary = summary(&[
            found("facts", 0, Some("sft"), 0, &[4, 3, 4, 4], 1.0),
            found("facts", 0, Some("sft"), 1, &[4, 3, 3, 4], 1.0),
            found("facts", 0, Some("bft"), 0, &[2, 1, 2, 2], 1.0),
            found("facts", 0, Some("bft"), 1, &[2, 1, 1, 2], 1.0),
            // Its partner is not done yet.
            found("facts", 0, Some("bft"), 2, &[4, 4, 4, 4], 1.0),
        ]);
        let row = summary.primary.rows.iter().find(|row| row[0] == Cell::from("facts")).expect("a row");
        assert_eq!(row[3], Cell::Count(2));
        let Cell::Estimate(estimate) = row[5] else { panic!("{row:?}") };
        // Two of four tokens fewer in every unit and seed: pairing leaves no spread.
        assert_eq!((estimate.value, estimate.range), (-0.5, Some((-0.5, -0.5))));
        let text = summary.primary.tsv();
        assert!(!text.contains("every seed"), "{text}");
        assert_eq!(summary.regimes.len(), 1);
        assert!(summary.regimes[0].tsv().contains("# check: none is held out: checked"));
    }

    #[test]
    fn what_was_forgotten_beyond_the_budget_does_not_count_as_learnt() {
        let mut all = vec![found("forgetting", 0, None, 0, &[0, 0], 1.0)];
        for (arm, nll) in [("sft", 1.0 + 2.0 * BUDGET), ("bft", 1.0 + 0.5 * BUDGET)] {
            all.push(found("forgetting", 0, Some(arm), 0, &[1, 1], 1.0));
            all.push(found("forgetting", 1, Some(arm), 0, &[4, 4], nll));
        }
        let summary = summary(&all);
        let row = summary.primary.rows.iter().find(|row| row[0] == Cell::from("forgetting")).expect("a row");
        let Cell::Estimate(estimate) = row[5] else { panic!("{row:?}") };
        assert_eq!(estimate.value, 0.75, "sft learnt 4 of 4, but forgot too much: its other pace counts");
        assert_eq!(summary.curve.len(), 4);
    }

    #[test]
    fn tokens_are_learnt_by_the_untuned_models_p_of_them() {
        let summary =
            summary(&[found("bins", 0, None, 0, &[1, 1], 1.0), found("bins", 0, Some("sft"), 0, &[4, 2], 1.0)]);
        let sft = summary.lines.iter().find(|line| line.name == "sft").expect("a line");
        let shares: Vec<Option<f64>> = sft.shares.iter().map(|share| share.map(|share| share.value)).collect();
        // p is 1, e^-4, e^-8 and e^-12 of the four tokens.
        assert_eq!(shares, [Some(0.5), None, Some(0.5), None, Some(1.0), Some(1.0)]);
    }

    #[test]
    fn every_regime_has_its_comparison_in_its_preset_and_words() {
        for preset in [&TINY, &super::super::SMALL, &super::super::NIGHT, &super::super::GPU] {
            for regime in REGIMES {
                let Primary { arm, against, share, .. } = regime.primary;
                let arms = regime.arms(preset);
                assert!(arms.contains(&arm) && arms.contains(&against), "{} in {}", regime.word, preset.name);
                assert!(arms.iter().all(|name| super::super::Arm::named(name).is_some()), "{}", preset.name);
                assert!(regime.levels(preset).iter().any(|level| level.share == share));
                assert!(regime.comparison().starts_with(regime.word));
            }
            assert!(preset.seeds >= 5 || preset.warning.is_some());
        }
    }
}
