//! What is measured of a run: every unit's tokens by part, and English.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bft_core::loss::sample_weight;
use bft_core::{LossConfig, LossKind, Runner, RunnerOptions};
use bft_formats::{Adapter, Model, Random, Tokenizer};
use bft_train::{
    BatchBounds, LogProbs, RowOptions, Sample, SampleOptions, TEMPERATURES, TextEncoder, TokenScore, UNTEMPERED,
    groups, make_samples, pack, parse_rows, score,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::material::{Item, Pool};
use super::{Study, go_on};
use crate::error::{BioError, Result};
use crate::instruct::Fact;
use crate::stats::calibration::Calibration;
use crate::stats::paired::Ratios;

/// Tokens of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How many.
    pub tokens: usize,
    /// How many of them the model finds likelier than any other.
    pub top: usize,
    /// Σ −log p at each of bft-train's temperatures.
    pub nll: [f64; TEMPERATURES.len()],
}

impl Part {
    fn of(scores: &[TokenScore]) -> Self {
        let mut part = Self { tokens: scores.len(), ..Self::default() };
        for score in scores {
            part.top += usize::from(score.likeliest);
            part.nll.iter_mut().zip(score.log_p).for_each(|(sum, log_p)| *sum -= f64::from(log_p));
        }
        part
    }
}

/// One unit, asked in a phrasing that was not trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// As its item's.
    pub group: String,
    /// What every answer of its kind begins with.
    pub template: Part,
    /// What is true of the subject.
    pub answer: Part,
    /// Full stop and end of turn.
    pub ending: Part,
    /// Of each token of the answer, log p and whether it is the likeliest.
    pub trace: Vec<(f32, bool)>,
    /// BFT's weight of the sample at g = 256.
    pub weight: f64,
    /// Whether the truth has a higher mean log p than nine other answers of its kind.
    pub chosen: Option<bool>,
    /// Σ −log p and tokens of the wrong answer that was trained.
    pub falsehood: Option<(f64, usize)>,
}

/// One run's numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub(super) key: String,
    /// The learning rate that it was trained with; 0 for the untuned model.
    pub lr: f64,
    /// In the order of the items.
    pub units: Vec<Unit>,
    /// Paragraphs.
    pub english: Vec<Part>,
    /// Of the answers' tokens.
    pub calibration: Calibration,
}

impl Measured {
    /// Reads what a run of the same study left.
    pub(super) fn read(path: &Path, key: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str::<Self>(&text).ok().filter(|kept| kept.key == key)
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(BioError::data)?;
        Ok(bft_formats::write_atomic(path, |out| out.write_all(text.as_bytes()))?)
    }

    /// The measure of its units, or of those of one group, as numerator and denominator; units of
    /// other groups count nothing.
    pub fn ratios(&self, measure: &Measure, group: Option<&str>) -> Vec<(f64, f64)> {
        let mut ratios = (measure.of)(self);
        if let Some(group) = group
            && measure.of_units
        {
            for (ratio, _) in ratios.iter_mut().zip(&self.units).filter(|(_, unit)| unit.group != group) {
                *ratio = (0.0, 0.0);
            }
        }
        ratios
    }

    /// The measure's value.
    pub fn value(&self, measure: &Measure) -> Option<f64> {
        value(&[self.ratios(measure, None)])
    }
}

/// Σ numerators / Σ denominators.
pub(super) fn value(seeds: &Ratios) -> Option<f64> {
    let sums = seeds.iter().flatten().fold((0.0, 0.0), |sums, ratio| (sums.0 + ratio.0, sums.1 + ratio.1));
    (sums.1 > 0.0).then(|| sums.0 / sums.1)
}

/// A measure: for each unit, or paragraph, a numerator and a denominator.
#[derive(Debug)]
pub struct Measure {
    /// As tables name it.
    pub name: &'static str,
    /// Whether less is better.
    pub less: bool,
    of_units: bool,
    of: fn(&Measured) -> Vec<(f64, f64)>,
}

fn share(units: &[Unit], of: impl Fn(&Unit) -> Option<bool>) -> Vec<(f64, f64)> {
    units.iter().map(|unit| of(unit).map_or((0.0, 0.0), |is| (f64::from(is), 1.0))).collect()
}

fn top(units: &[Unit], part: fn(&Unit) -> &Part) -> Vec<(f64, f64)> {
    units.iter().map(part).map(|part| (part.top as f64, part.tokens as f64)).collect()
}

fn raw<'p>(parts: impl Iterator<Item = &'p Part>) -> Vec<(f64, f64)> {
    parts.map(|part| (part.nll[UNTEMPERED], part.tokens as f64)).collect()
}

/// NLL at a temperature: every second part is taken at the one that is best for the others.
fn fitted<'p>(parts: impl Iterator<Item = &'p Part>) -> Vec<(f64, f64)> {
    let parts: Vec<&Part> = parts.collect();
    let best = |half: usize| {
        let others: Vec<&&Part> = parts.iter().skip(1 - half).step_by(2).collect();
        let total = |at: usize| others.iter().map(|part| part.nll[at]).sum::<f64>();
        let places = 0..TEMPERATURES.len();
        if others.is_empty() {
            return UNTEMPERED;
        }
        places.min_by(|a, b| total(*a).total_cmp(&total(*b))).unwrap_or(UNTEMPERED)
    };
    let halves = [best(0), best(1)];
    parts.iter().enumerate().map(|(place, part)| (part.nll[halves[place % 2]], part.tokens as f64)).collect()
}

const fn of_units(name: &'static str, less: bool, of: fn(&Measured) -> Vec<(f64, f64)>) -> Measure {
    Measure { name, less, of_units: true, of }
}

const fn of_english(name: &'static str, of: fn(&Measured) -> Vec<(f64, f64)>) -> Measure {
    Measure { name, less: true, of_units: false, of }
}

/// Whole answers, ending included, that greedy writing gives word for word.
pub const EXACT: Measure = of_units("whole answer exact", false, |run| {
    share(&run.units, |unit| {
        Some(
            unit.answer.top == unit.answer.tokens
                && unit.ending.top == unit.ending.tokens
                && unit.template.top == unit.template.tokens,
        )
    })
});
/// The answer's tokens that are the likeliest.
pub const TOP: Measure = of_units("top-1, answer", false, |run| top(&run.units, |unit| &unit.answer));
/// Truths that are likelier than nine others.
pub const CHOICE: Measure = of_units("choice of ten", false, |run| share(&run.units, |unit| unit.chosen));
/// NLL of the answer's tokens.
pub const NLL: Measure = of_units("NLL, answer", true, |run| raw(run.units.iter().map(|unit| &unit.answer)));
/// The same at the temperature that fits the other half.
pub const NLL_FITTED: Measure =
    of_units("NLL, answer, fitted T", true, |run| fitted(run.units.iter().map(|unit| &unit.answer)));
/// The template's tokens that are the likeliest.
pub const TOP_TEMPLATE: Measure = of_units("top-1, template", false, |run| top(&run.units, |unit| &unit.template));
/// The ending's tokens that are the likeliest.
pub const TOP_ENDING: Measure = of_units("top-1, ending", false, |run| top(&run.units, |unit| &unit.ending));
/// NLL of the wrong answers that were trained.
pub const FALSEHOOD: Measure = of_units("NLL, falsehood", false, |run| {
    run.units.iter().map(|unit| unit.falsehood.map_or((0.0, 0.0), |(nll, tokens)| (nll, tokens as f64))).collect()
});
/// NLL of English.
pub const GENERAL: Measure = of_english("NLL, English", |run| raw(run.english.iter()));
/// The same at the temperature that fits the other half.
pub const GENERAL_FITTED: Measure = of_english("NLL, English, fitted T", |run| fitted(run.english.iter()));

/// Every measure.
pub const MEASURES: [&Measure; 10] =
    [&EXACT, &TOP, &CHOICE, &NLL, &NLL_FITTED, &TOP_TEMPLATE, &TOP_ENDING, &FALSEHOOD, &GENERAL, &GENERAL_FITTED];

/// What the arms are compared in beside the primary comparison.
pub const SECONDARY: [&Measure; 5] = [&EXACT, &TOP, &CHOICE, &NLL_FITTED, &GENERAL_FITTED];

/// A sample with the places among its trained tokens where the template and the answer end.
struct Asked {
    sample: Sample,
    ends: [usize; 2],
}

/// The questions that every run of a regime's level is asked.
pub(super) struct Tests {
    groups: Vec<String>,
    truths: Vec<Asked>,
    falsehoods: Vec<Option<Asked>>,
    /// The nine other answers of the first units.
    choices: Vec<Vec<Asked>>,
    english: Vec<Sample>,
}

pub(super) fn tokenizer<'m>(study: &Study<'m>) -> Result<&'m Tokenizer> {
    TextEncoder::new(study.model).tokenizer().map_err(BioError::model)
}

/// Rows as samples, one each.
fn samples(model: &Model, rows: &[String]) -> Result<Vec<Sample>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = rows.concat().into_bytes();
    let parsed = parse_rows("study.jsonl", bytes, &RowOptions::default()).map_err(BioError::model)?;
    let found = make_samples(model, parsed, &SampleOptions::default()).map_err(BioError::model)?.samples;
    if found.len() != rows.len() {
        return Err(BioError::model(format!(
            "{} makes {} samples of {} rows of the study; use a model whose chat template keeps one turn whole",
            model.name,
            found.len(),
            rows.len()
        )));
    }
    Ok(found)
}

fn asked(study: &Study<'_>, list: impl Iterator<Item = (String, Fact)>) -> Result<Vec<Asked>> {
    let list: Vec<(String, Fact)> = list.collect();
    let rows: Vec<String> =
        list.iter().map(|(question, fact)| crate::instruct::row(question, &fact.sentence())).collect();
    let tokenizer = tokenizer(study)?;
    let each = samples(study.model, &rows)?.into_iter().zip(&list);
    each.map(|(sample, (_, fact))| {
        let ends = ends(tokenizer, &sample, fact)?;
        Ok(Asked { sample, ends })
    })
    .collect()
}

/// How many trained tokens the template takes, and template and answer together: as many as spell
/// no more than them.
fn ends(tokenizer: &Tokenizer, sample: &Sample, fact: &Fact) -> Result<[usize; 2]> {
    let trained: Vec<u32> = sample.labels.iter().skip(1).filter_map(|label| u32::try_from(*label).ok()).collect();
    let (sentence, opening) = (fact.sentence(), fact.opening());
    let (first, second) = (opening.trim_end().len(), opening.len() + fact.answer.len());
    let mut ends = [0, 0];
    let mut text = String::new();
    for count in 1..=trained.len() {
        text = tokenizer.decode(&trained[..count], true)?.trim_start().to_owned();
        for (end, length) in ends.iter_mut().zip([first, second]) {
            if text.len() <= length {
                *end = count;
            }
        }
    }
    if !text.starts_with(sentence.as_str()) || ends[1] <= ends[0] {
        return Err(BioError::model(format!(
            "the answer {:?} cannot be found among the tokens that the model is trained on, which spell {text:?}",
            fact.answer
        )));
    }
    Ok(ends)
}

/// Paragraphs of the English text, in an order drawn once, up to so many tokens.
fn english(study: &Study<'_>) -> Result<Vec<Sample>> {
    const MOST: u64 = 16 << 20;
    let file = std::fs::File::open(study.english).map_err(|error| BioError::file(study.english, error))?;
    let mut text = String::new();
    let mut unpacked = flate2::read::MultiGzDecoder::new(file).take(MOST);
    unpacked.read_to_string(&mut text).map_err(|error| BioError::file(study.english, error))?;
    let mut paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| (300..1200).contains(&paragraph.len()))
        .collect();
    Random::stream(0, "english").shuffle(&mut paragraphs);
    // No token spells more than a text's characters: these are enough.
    paragraphs.truncate(study.preset.english / 20 + 1);
    let rows: Vec<String> = paragraphs.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect();
    let mut left = study.preset.english;
    let taken = samples(study.model, &rows)?.into_iter().take_while(|sample| {
        let before = left;
        left = left.saturating_sub(sample.trained());
        before > 0
    });
    Ok(taken.collect())
}

/// A model that scores samples.
struct Scorer<'d> {
    runner: Runner<'d>,
    bounds: BatchBounds,
}

impl<'d> Scorer<'d> {
    fn new(study: &Study<'d>, adapter: Option<&Adapter>, longest: BatchBounds) -> Result<Self> {
        // 256 rows of logits are 50 MB where a vocabulary has 50,000 tokens.
        let bounds = longest.union(BatchBounds { tokens: 1024, trained: 256, samples: 256 });
        let options = RunnerOptions { capacity: bounds.into(), max_length: bounds.tokens };
        let runner = Runner::new(study.device, study.model, adapter, options).map_err(BioError::model)?;
        Ok(Self { runner, bounds })
    }

    fn scores(&mut self, samples: &[Sample], stop: &AtomicBool) -> Result<Vec<Vec<TokenScore>>> {
        let mut found = Vec::with_capacity(samples.len());
        for group in groups(samples, self.bounds) {
            go_on(stop)?;
            let scores = pollster::block_on(score(&mut self.runner, group, self.bounds, |_| ()));
            found.extend(scores.map_err(BioError::model)?);
        }
        Ok(found)
    }

    /// log p of each sample's trained tokens.
    fn log_p(&mut self, samples: &[Sample], stop: &AtomicBool) -> Result<Vec<Vec<f32>>> {
        let mut found = Vec::with_capacity(samples.len());
        for group in groups(samples, self.bounds) {
            go_on(stop)?;
            let batch = pack(&group.iter().collect::<Vec<_>>());
            let log_p = pollster::block_on(LogProbs::log_probs(&mut self.runner, &batch)).map_err(BioError::model)?;
            let ranges = batch.trained_segments.windows(2);
            found.extend(ranges.map(|range| log_p[range[0] as usize..range[1] as usize].to_vec()));
        }
        Ok(found)
    }
}

fn largest<'s>(samples: impl Iterator<Item = &'s Sample>) -> BatchBounds {
    samples.map(BatchBounds::of_sample).fold(BatchBounds::default(), BatchBounds::union)
}

fn mean(log_p: &[f32], ends: [usize; 2]) -> f64 {
    let answer = &log_p[ends[0]..ends[1]];
    answer.iter().map(|log_p| f64::from(*log_p)).sum::<f64>() / answer.len().max(1) as f64
}

/// Mean log p of the answer's tokens under the untuned model.
pub(super) fn answers_log_p(study: &Study<'_>, items: &[Item]) -> Result<Vec<f64>> {
    let (samples, ends): (Vec<Sample>, Vec<[usize; 2]>) =
        asked(study, items.iter().map(|item| (item.test_question(), item.fact.clone())))?
            .into_iter()
            .map(|asked| (asked.sample, asked.ends))
            .unzip();
    let mut scorer = Scorer::new(study, None, largest(samples.iter()))?;
    let found = scorer.log_p(&samples, &AtomicBool::new(false))?;
    Ok(found.iter().zip(ends).map(|(log_p, ends)| mean(log_p, ends)).collect())
}

impl Tests {
    /// Of these items; `whole` with choices and English, which a learning rate's trial does without.
    pub(super) fn new(study: &Study<'_>, pool: &Pool, items: &[Item], whole: bool) -> Result<Self> {
        let truths = asked(study, items.iter().map(|item| (item.test_question(), item.fact.clone())))?;
        let wrong = |item: &&Item| item.group.ends_with("swapped");
        let list = items.iter().filter(wrong).map(|item| (item.test_question(), item.trained()));
        let mut found = asked(study, list)?.into_iter();
        let falsehoods = items.iter().map(|item| wrong(&item).then(|| found.next()).flatten()).collect();
        let mut choices = Vec::new();
        for item in items.iter().take(if whole { study.preset.choices } else { 0 }) {
            let others = pool.others(item).into_iter().filter(|_| item.about.len() == 1);
            let others = others.map(|answer| (item.test_question(), Fact { answer, ..item.fact.clone() }));
            choices.push(asked(study, others)?);
        }
        let groups = items.iter().map(|item| item.group.clone()).collect();
        let english = if whole { english(study)? } else { Vec::new() };
        Ok(Self { groups, truths, falsehoods, choices, english })
    }

    pub(super) fn measure(&self, study: &Study<'_>, adapter: Option<&Adapter>, stop: &AtomicBool) -> Result<Measured> {
        let asked = self.truths.iter().chain(self.falsehoods.iter().flatten()).chain(self.choices.iter().flatten());
        let all = asked.map(|asked| &asked.sample).chain(&self.english);
        let mut scorer = Scorer::new(study, adapter, largest(all))?;
        let mut measured = Measured::default();
        let truths: Vec<Sample> = self.truths.iter().map(|asked| asked.sample.clone()).collect();
        let loss = LossConfig { kind: LossKind::Bft, ..LossConfig::default() };
        for ((scores, asked), group) in scorer.scores(&truths, stop)?.iter().zip(&self.truths).zip(&self.groups) {
            let [first, second] = asked.ends;
            let answer = &scores[first..second];
            for score in answer {
                measured.calibration.add(f64::from(score.confidence), score.likeliest);
            }
            let log_p: Vec<f64> = scores.iter().map(|score| f64::from(score.log_p[UNTEMPERED])).collect();
            measured.units.push(Unit {
                group: group.clone(),
                template: Part::of(&scores[..first]),
                answer: Part::of(answer),
                ending: Part::of(&scores[second..]),
                trace: answer.iter().map(|score| (score.log_p[UNTEMPERED], score.likeliest)).collect(),
                weight: sample_weight(&log_p, &loss),
                chosen: None,
                falsehood: None,
            });
        }
        for (unit, asked) in measured.units.iter_mut().zip(&self.falsehoods) {
            if let Some(Asked { sample, ends }) = asked {
                let log_p = scorer.log_p(std::slice::from_ref(sample), stop)?;
                let tokens = ends[1] - ends[0];
                unit.falsehood = Some((-mean(&log_p[0], *ends) * tokens as f64, tokens));
            }
        }
        for (unit, others) in measured.units.iter_mut().zip(&self.choices).filter(|(_, others)| !others.is_empty()) {
            let own = unit.trace.iter().map(|(log_p, _)| f64::from(*log_p)).sum::<f64>() / unit.trace.len() as f64;
            let samples: Vec<Sample> = others.iter().map(|asked| asked.sample.clone()).collect();
            let log_p = scorer.log_p(&samples, stop)?;
            unit.chosen = Some(log_p.iter().zip(others).all(|(log_p, asked)| mean(log_p, asked.ends) < own));
        }
        measured.english = scorer.scores(&self.english, stop)?.iter().map(|scores| Part::of(scores)).collect();
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part of one token whose NLL is lowest at a place among the temperatures.
    pub(in crate::study) fn part(best: usize, top: bool) -> Part {
        let nll = std::array::from_fn(|place| 1.0 + place.abs_diff(best) as f64);
        Part { tokens: 1, top: usize::from(top), nll }
    }

    #[test]
    fn a_temperature_is_fitted_on_the_other_half() {
        let parts = [part(3, true), part(9, true), part(3, true), part(9, true)];
        // The first and third are taken at what is best for the others, six places off.
        assert_eq!(fitted(parts.iter()), [(7.0, 1.0); 4]);
        let same = [part(4, true), part(4, true)];
        assert_eq!(fitted(same.iter()), [(1.0, 1.0); 2]);
        assert_eq!(raw(same.iter()), [(1.0 + (UNTEMPERED - 4) as f64, 1.0); 2]);
        assert_eq!(fitted(same[..1].iter()), raw(same[..1].iter()), "with nothing to fit on, it is 1");
    }

    #[test]
    fn an_answer_is_exact_where_every_token_of_it_is_the_likeliest_and_groups_stand_alone() {
        let unit = |group: &str, template, answer, ending| Unit {
            group: group.to_owned(),
            template: part(7, template),
            answer: part(7, answer),
            ending: part(7, ending),
            ..Unit::default()
        };
        let units = vec![
            unit("a", true, true, true),
            unit("a", true, true, false),
            unit("b", true, false, true),
            unit("b", false, true, true),
        ];
        let run = Measured { units, english: vec![part(7, true)], ..Measured::default() };
        assert_eq!((run.value(&EXACT), run.value(&TOP)), (Some(0.25), Some(0.75)));
        assert_eq!(value(&[run.ratios(&EXACT, Some("a"))]), Some(0.5));
        assert_eq!(value(&[run.ratios(&TOP, Some("b"))]), Some(0.5));
        assert_eq!(value(&[run.ratios(&TOP, Some("c"))]), None);
        assert_eq!(run.ratios(&TOP, Some("a")).len(), 4, "units of other groups keep their place");
        assert_eq!((run.value(&CHOICE), run.value(&GENERAL)), (None, Some(1.0)));
        assert_eq!(run.ratios(&GENERAL, Some("a")), [(1.0, 1.0)], "English has no groups");
    }
}
