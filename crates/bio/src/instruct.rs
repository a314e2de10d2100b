//! Instruction data about human genes: facts of org.Hs.eg and Gene Ontology in several phrasings.
//!
//! Genes are split by a hash of their symbol, so that a gene is trained, for validation or held out
//! with all its facts, and adding a fact moves no other. Test phrasings never occur in training.

mod card;
mod facts;
mod options;
mod phrasings;

use std::path::Path;

use serde_json::json;

use crate::data::genome::Genome;
use crate::data::ontology::Ontology;
use crate::error::{BioError, Result};

pub use facts::{Fact, collect};
pub use options::{Kind, Options, Side, Written, side};
pub use phrasings::Phrasing;

pub(crate) use options::hash;

/// One row of chat data.
pub(crate) fn row(question: &str, answer: &str) -> String {
    json!({ "messages": [
        { "role": "user", "content": question },
        { "role": "assistant", "content": answer },
    ]})
    .to_string()
        + "\n"
}

/// Writes train.jsonl, validation.jsonl, test_phrasing.jsonl, test_genes.jsonl, facts.tsv and
/// README.md.
pub fn write(folder: &Path, genome: &Genome, ontology: &Ontology, options: &Options) -> Result<Written> {
    let facts = drawn(collect(genome, ontology, options)?, options);
    if facts.is_empty() {
        return Err(BioError::data("no facts are left: allow more kinds, evidence codes or genes"));
    }
    std::fs::create_dir_all(folder).map_err(|error| BioError::file(folder, format!("cannot be made: {error}")))?;
    let (mut train, mut validation, mut phrasing, mut genes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for fact in &facts {
        let words = Phrasing::of(fact.kind);
        let order = |text: &str| hash(options.seed, &[fact.kind.word(), &fact.subject, &fact.answer, text]);
        let unseen = words.test.iter().min_by_key(|text| order(text)).copied().unwrap_or_default();
        let asked = |question: &str| row(&question.replace("{}", &fact.subject), &fact.sentence());
        match side(options.seed, fact.about()) {
            Side::Train => {
                let mut questions = words.train.to_vec();
                questions.sort_by_key(|text| order(text));
                train.extend(
                    questions.iter().take(options.phrasings).map(|question| (order(question), asked(question))),
                );
                phrasing.push((order(unseen), asked(unseen)));
            }
            Side::Validation => validation.push((order(unseen), asked(unseen))),
            Side::Test => genes.push((order(unseen), asked(unseen))),
        }
    }
    let mut written = Written { facts: count(&facts, options.seed), ..Written::default() };
    for (name, rows) in [
        ("train.jsonl", &mut train),
        ("validation.jsonl", &mut validation),
        ("test_phrasing.jsonl", &mut phrasing),
        ("test_genes.jsonl", &mut genes),
    ] {
        rows.sort();
        let text: String = rows.iter().map(|(_, row)| row.as_str()).collect();
        bft_formats::write_atomic(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
        written.files.push((name, rows.len()));
    }
    let header = "split\tkind\tsubject\tanswer\tentrez\tgo\tevidence\n";
    let lines = facts.iter().map(|fact| format!("{}\t{}\n", side(options.seed, fact.about()).word(), fact.line()));
    let table: String = std::iter::once(header.to_owned()).chain(lines).collect();
    bft_formats::write_atomic(&folder.join("facts.tsv"), |out| out.write_all(table.as_bytes()))?;
    let card = card::card(&written, options);
    bft_formats::write_atomic(&folder.join("README.md"), |out| out.write_all(card.as_bytes()))?;
    Ok(written)
}

/// At most as many facts of each side as the options allow.
fn drawn(mut facts: Vec<Fact>, options: &Options) -> Vec<Fact> {
    facts.sort_by_key(|fact| hash(options.seed, &["keep", fact.kind.word(), &fact.subject, &fact.answer]));
    let mut kept = [0; 3];
    facts.retain(|fact| {
        let side = side(options.seed, fact.about()) as usize;
        kept[side] += 1;
        options.most[side] == 0 || kept[side] <= options.most[side]
    });
    facts.sort();
    facts
}

fn count(facts: &[Fact], seed: u64) -> Vec<(Kind, [usize; 3])> {
    let of = |kind: Kind, wanted: Side| {
        facts.iter().filter(|fact| fact.kind == kind && side(seed, fact.about()) == wanted).count()
    };
    let sides = [Side::Train, Side::Validation, Side::Test];
    Kind::ALL
        .iter()
        .map(|kind| (*kind, sides.map(|side| of(*kind, side))))
        .filter(|(_, counts)| counts.iter().sum::<usize>() > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_about_eight_one_one_and_never_moves() {
        let mut counts = [0; 3];
        for number in 0..10_000 {
            counts[side(1, &format!("GENE{number}")) as usize] += 1;
        }
        assert!((7_800..8_200).contains(&counts[0]) && (850..1_150).contains(&counts[1]), "{counts:?}");
        assert_eq!(side(1, "TP53"), side(1, "TP53"));
        let moved = (0..1000).filter(|n| side(1, &n.to_string()) != side(2, &n.to_string())).count();
        assert!(moved > 200);
    }

    #[test]
    fn no_test_phrasing_is_trained_and_every_phrasing_has_a_place_for_the_subject() {
        for kind in Kind::ALL {
            let words = Phrasing::of(kind);
            assert!(words.train.len() >= 3 && words.test.len() >= 2);
            assert!(words.test.iter().all(|text| !words.train.contains(text)));
            assert!(words.train.iter().chain(words.test).all(|text| text.matches("{}").count() == 1));
        }
    }
}
