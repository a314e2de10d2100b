//! What is learnt: facts and definitions drawn by hash, with answers swapped, words replaced, or
//! chosen by what the untuned model makes of them.

use bft_formats::Random;

use super::regimes::{BIN_BORDERS, BIN_WORDS, Material};
use super::{Study, measure};
use crate::error::{BioError, Result};
use crate::instruct::{Fact, Kind, Options, Phrasing, Side, collect, hash, side};

/// A unit: what is true, and what training says.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What is true, and measured.
    pub fact: Fact,
    /// The answer that is trained.
    pub told: String,
    /// What it is compared by within its regime; empty where units are alike.
    pub group: String,
    /// The genes, or the terms, that it is about.
    pub about: Vec<String>,
}

impl Item {
    fn new(fact: Fact) -> Self {
        Self { told: fact.answer.clone(), group: String::new(), about: vec![fact.about().to_owned()], fact }
    }

    /// The fact as training tells it.
    pub(super) fn trained(&self) -> Fact {
        Fact { answer: self.told.clone(), ..self.fact.clone() }
    }

    /// Questions that are trained, in the order that a hash gives.
    fn questions(&self) -> Vec<String> {
        let mut questions = Phrasing::of(self.fact.kind).train.to_vec();
        questions.sort_by_key(|text| self.order(text));
        questions.into_iter().map(|text| text.replace("{}", &self.fact.subject)).collect()
    }

    /// The question that is asked in tests alone.
    pub(super) fn test_question(&self) -> String {
        let phrasing = Phrasing::of(self.fact.kind).test.iter().min_by_key(|text| self.order(text));
        phrasing.copied().unwrap_or_default().replace("{}", &self.fact.subject)
    }

    fn order(&self, text: &str) -> u64 {
        hash(0, &["study", self.fact.kind.word(), &self.fact.subject, text])
    }

    /// Rows of training: question and answer.
    pub(super) fn rows(&self, phrasings: usize) -> Vec<(String, String)> {
        let answer = self.trained().sentence();
        self.questions().into_iter().take(phrasings).map(|question| (question, answer.clone())).collect()
    }
}

/// All that can be drawn from.
#[derive(Debug)]
pub(super) struct Pool {
    facts: Vec<Fact>,
    definitions: Vec<Fact>,
}

/// Words of a definition that is learnt alone.
const WORDS: std::ops::RangeInclusive<usize> = 12..=60;
/// Tokens of a long answer, at least.
const LONG: usize = 300;

impl Pool {
    pub(super) fn read(study: &Study<'_>) -> Result<Self> {
        let options = |kinds: &[Kind]| Options {
            seed: 0,
            kinds: kinds.to_vec(),
            per_gene: 1,
            phrasings: 1,
            evidence: crate::data::genome::JUDGED.map(str::to_owned).to_vec(),
            genes: Vec::new(),
            most: [0; 3],
        };
        let read = |kinds: &[Kind]| -> Result<Vec<Fact>> {
            let mut facts = collect(study.genome, study.ontology, &options(kinds))?;
            facts.sort_by_key(|fact| hash(0, &["study", fact.kind.word(), &fact.subject]));
            Ok(facts)
        };
        Ok(Self { facts: read(&[Kind::Name, Kind::Process, Kind::Function])?, definitions: read(&[Kind::Definition])? })
    }

    /// Items of one side of the split, the `skip` first of which are passed over. Of the units that
    /// are noisy in `material`, `share` are.
    pub(super) fn items(
        &self,
        study: &Study<'_>,
        material: Material,
        of: Side,
        share: f64,
        skip: usize,
    ) -> Result<Vec<Item>> {
        let preset = &study.preset;
        let drawn = |facts: &[Fact], most: usize| -> Vec<Item> {
            let facts = facts.iter().filter(|fact| side(0, fact.about()) == of);
            facts.skip(skip).take(most).cloned().map(Item::new).collect()
        };
        let items = match material {
            Material::Facts => drawn(&self.facts, preset.facts),
            Material::Binned => binned(study, drawn(&self.facts, preset.facts * preset.candidates))?,
            Material::Swapped => swapped(drawn(&self.facts, preset.facts), share),
            Material::Definitions => {
                let short = |fact: &&Fact| WORDS.contains(&fact.answer.split_whitespace().count());
                let short: Vec<Fact> = self.definitions.iter().filter(short).cloned().collect();
                noisy(drawn(&short, preset.terms), share)
            }
            Material::Long => long(study, &drawn(&self.definitions, usize::MAX))?,
        };
        if items.is_empty() {
            return Err(BioError::data(format!("no facts are left for {material:?} on the {} side", of.word())));
        }
        Ok(items)
    }

    /// Nine other answers of the same kind as an item's, by hash.
    pub(super) fn others(&self, item: &Item) -> Vec<String> {
        let list = if item.fact.kind == Kind::Definition { &self.definitions } else { &self.facts };
        let start = item.order("others") as usize % list.len().max(1);
        let mut found: Vec<String> = Vec::new();
        for fact in list.iter().cycle().skip(start).take(list.len()) {
            let fits = fact.kind == item.fact.kind && fact.answer != item.fact.answer && fact.answer != item.told;
            if fits && !found.contains(&fact.answer) {
                found.push(fact.answer.clone());
            }
            if found.len() == 9 {
                break;
            }
        }
        found
    }
}

/// As many of each bin of p, where there are as many; each item's group is its bin.
fn binned(study: &Study<'_>, candidates: Vec<Item>) -> Result<Vec<Item>> {
    let log_p = measure::answers_log_p(study, &candidates)?;
    let each = study.preset.facts.div_ceil(BIN_WORDS.len());
    let mut taken = [0; BIN_WORDS.len()];
    let mut items = Vec::new();
    for (mut item, log_p) in candidates.into_iter().zip(log_p) {
        let bin = BIN_BORDERS.iter().filter(|border| log_p.exp() >= **border).count();
        if taken[bin] < each {
            taken[bin] += 1;
            item.group = BIN_WORDS[bin].to_owned();
            items.push(item);
        }
    }
    Ok(items)
}

/// The first half is known from a warm start, the second is new; of each half a share is told with
/// the answer of the next fact of its kind.
fn swapped(mut items: Vec<Item>, share: f64) -> Vec<Item> {
    let answers: Vec<(Kind, String)> = items.iter().map(|item| (item.fact.kind, item.fact.answer.clone())).collect();
    let half = items.len().div_ceil(2);
    for (first, name) in [(0, "known"), (half, "new")] {
        let last = (first + half).min(answers.len());
        let most = (share * (last - first) as f64).round() as usize;
        let mut order: Vec<usize> = (first..last).collect();
        order.sort_by_key(|place| items[*place].order("swap"));
        for (rank, place) in order.into_iter().enumerate() {
            let item = &mut items[place];
            name.clone_into(&mut item.group);
            let mut others = answers.iter().cycle().skip(place + 1).take(answers.len());
            let other = others.find(|(kind, answer)| *kind == item.fact.kind && *answer != item.fact.answer);
            if let Some((_, answer)) = other.filter(|_| rank < most) {
                answer.clone_into(&mut item.told);
                item.group.push_str(", swapped");
            }
        }
    }
    items
}

/// Replaces words by words of these definitions. A word that is replaced at one share is at every
/// larger one, by the same word.
fn noisy(mut items: Vec<Item>, share: f64) -> Vec<Item> {
    let all: Vec<String> =
        items.iter().flat_map(|item| item.fact.answer.split_whitespace().map(str::to_owned)).collect();
    for item in &mut items {
        let mut random = Random::new(item.order("noise"));
        let words = item.fact.answer.split_whitespace().map(|word| {
            let (chance, other) = (random.uniform(), random.below(all.len()));
            if chance < share { all[other].as_str() } else { word }
        });
        item.told = words.collect::<Vec<_>>().join(" ");
    }
    items
}

/// Answers of several definitions. Neighbours by name are worded alike, and easy; those drawn by
/// hash are not. Of all these the easiest and the hardest for the untuned model are taken.
fn long(study: &Study<'_>, terms: &[Item]) -> Result<Vec<Item>> {
    let (count, tokenizer) = (study.preset.long.div_ceil(2), measure::tokenizer(study)?);
    let mut by_name: Vec<&Item> = terms.iter().collect();
    by_name.sort_by(|a, b| a.fact.subject.cmp(&b.fact.subject));
    let mut candidates = Vec::new();
    for list in [terms.iter().collect::<Vec<_>>(), by_name] {
        let wanted = count * study.preset.candidates;
        for number in 0..wanted {
            let start = number * (list.len() / wanted.max(1));
            let mut parts: Vec<&Item> = Vec::new();
            let mut tokens = 0;
            for item in &list[start.min(list.len())..] {
                if tokens >= LONG {
                    break;
                }
                tokens += tokenizer.encode(&told(item), false)?.len();
                parts.push(item);
            }
            if tokens >= LONG {
                candidates.push(joined(&parts));
            }
        }
    }
    let log_p = measure::answers_log_p(study, &candidates)?;
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| log_p[*b].total_cmp(&log_p[*a]));
    let hardest = order.len().saturating_sub(count);
    let chosen = order[..count.min(hardest)].iter().map(|place| (*place, "easy"));
    let chosen = chosen.chain(order[hardest..].iter().map(|place| (*place, "hard")));
    let items = chosen.map(|(place, group)| Item { group: group.to_owned(), ..candidates[place].clone() });
    Ok(items.collect())
}

fn told(item: &Item) -> String {
    format!("{}: {}", item.fact.subject, item.fact.answer)
}

fn joined(parts: &[&Item]) -> Item {
    let names: Vec<String> = parts.iter().map(|item| item.fact.subject.clone()).collect();
    let answer = parts.iter().map(|item| told(item)).collect::<Vec<_>>().join(" ");
    let fact = Fact { subject: names.join("\", \""), answer: answer.clone(), ..parts[0].fact.clone() };
    Item { fact, told: answer, group: String::new(), about: names }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::study) fn fact(kind: Kind, subject: &str, answer: &str) -> Fact {
        let [entrez, go, evidence] = [""; 3].map(str::to_owned);
        Fact { kind, subject: subject.to_owned(), answer: answer.to_owned(), entrez, go, evidence }
    }

    fn names(count: usize) -> Vec<Item> {
        (0..count).map(|n| Item::new(fact(Kind::Name, &format!("G{n}"), &format!("gene number {n}")))).collect()
    }

    #[test]
    fn a_share_of_either_half_is_told_with_anothers_answer_and_more_noise_keeps_what_less_has() {
        let all = [0.0, 0.2, 0.4, 0.6].map(|share| swapped(names(20), share));
        for (items, count) in all.iter().zip([0, 2, 4, 6]) {
            for (half, name) in items.chunks(10).zip(["known", "new"]) {
                let wrong: Vec<&Item> = half.iter().filter(|item| item.told != item.fact.answer).collect();
                assert_eq!(wrong.len(), count);
                assert!(wrong.iter().all(|item| item.group == format!("{name}, swapped")));
                assert!(half.iter().all(|item| item.group.starts_with(name)));
                assert!(wrong.iter().all(|item| items.iter().any(|other| other.fact.answer == item.told)));
            }
        }
        for (less, more) in all[1].iter().zip(&all[2]) {
            assert!(less.told == less.fact.answer || less.told == more.told);
        }
    }

    #[test]
    fn random_words_are_as_many_as_asked_for_and_the_truth_stays() {
        let text = (0..200).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        let make = |share| noisy(vec![Item::new(fact(Kind::Definition, "t", &text))], share);
        assert_eq!(make(0.0)[0].told, text);
        let changed = |share: f64| -> Vec<bool> {
            let item = &make(share)[0];
            assert_eq!(item.fact.answer, text);
            item.told.split(' ').zip(text.split(' ')).map(|(told, word)| told != word).collect()
        };
        let (some, more) = (changed(0.3), changed(0.6));
        let count = |list: &[bool]| list.iter().filter(|it| **it).count();
        assert!((45..=75).contains(&count(&some)) && (100..=140).contains(&count(&more)), "{}", count(&some));
        assert!(some.iter().zip(&more).all(|(some, more)| !some || *more));
    }

    #[test]
    fn the_question_of_a_test_is_never_trained() {
        let item = &names(1)[0];
        assert!(item.questions().iter().all(|question| *question != item.test_question()));
        assert_eq!(item.rows(2).len(), 2);
        assert!(item.rows(1)[0].1.contains("gene number 0"));
    }
}
