//! What is the process that a set of genes shares? A model's name beside the evidence of enrichment.

mod evidence;
mod sets;

use crate::data::genome::Genome;
use crate::data::gmt::GeneSet;
use crate::data::ontology::Ontology;
use crate::error::Result;
use crate::report::{Cell, Report};
use crate::stats::bootstrap::mean;
use crate::stats::rouge::{Rouge, rouge};
use crate::stats::tfidf::tfidf;

pub use evidence::{Enrichment, Support};
pub use sets::{NamedSet, of_gmt, of_ontology};

/// How the task is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seed of the split, of which sets are taken, and of intervals.
    pub seed: u64,
    /// Redraws for an interval.
    pub redraws: usize,
}

/// What was found for one set.
#[derive(Debug, Clone)]
pub struct Named {
    /// The set.
    pub set: NamedSet,
    /// The model's name for it.
    pub name: String,
    /// Genes that the model's text names and the set has not.
    pub invented: Vec<String>,
    /// The term most like the model's name, and whether the set's genes bear it out.
    pub support: Option<Support>,
    /// The term that enrichment puts first, the set's own left out.
    pub enriched: Option<Support>,
}

/// The question: three steps, then a name.
pub fn question(genome: &Genome, set: &GeneSet) -> String {
    let symbols: Vec<&str> = set
        .genes
        .iter()
        .map(|gene| genome.genes[*gene].symbol.as_str())
        .collect();
    format!(
        "These human genes work together: {}.\nStep 1: recall what each gene does. Step 2: find what most of them share. \
         Step 3: name the one biological process that describes them best.\nAnswer with \"Process: <name>\".",
        symbols.join(", ")
    )
}

/// What every answer begins with.
pub const OPENING: &str = "Process:";

/// The name in an answer: its first line, without quotes and full stop.
pub fn name_of(answer: &str) -> String {
    let line = answer
        .trim()
        .trim_start_matches(OPENING)
        .trim()
        .lines()
        .next()
        .unwrap_or("");
    line.trim_matches(|c: char| {
        c == '"' || c == '*' || c == '.' || c == '<' || c == '>' || c.is_whitespace()
    })
    .to_owned()
}

/// Puts the evidence beside a model's answer.
pub fn judge(genome: &Genome, enrichment: &Enrichment<'_>, set: NamedSet, answer: &str) -> Named {
    let name = name_of(answer);
    let members: Vec<&str> = set
        .genes
        .genes
        .iter()
        .map(|gene| genome.genes[*gene].symbol.as_str())
        .collect();
    let invented = answer
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        // Two letters or fewer, and words that are a symbol by chance, would be noise: upper case with a digit alone counts.
        .filter(|word| {
            word.len() >= 3
                && word.bytes().any(|b| b.is_ascii_digit())
                && !word.bytes().any(|b| b.is_ascii_lowercase())
        })
        .filter(|word| genome.symbols.contains_key(*word) && !members.contains(word))
        .map(str::to_owned)
        .collect();
    Named {
        support: enrichment.of_name(&name, &set.genes),
        enriched: enrichment.first(&set.genes, set.term.as_deref()),
        name,
        invented,
        set,
    }
}

/// One row a set: the name with its evidence; then what the names are worth on the whole.
pub fn report(
    named: &[Named],
    ontology: &Ontology,
    model: &str,
    options: Options,
) -> Result<(Report, Report)> {
    let mut rows = Report::new(
        "Process naming, set by set",
        &[
            "set",
            "genes",
            "name by the model",
            "ROUGE-L",
            "nearest term",
            "its overlap",
            "its p",
            "genes not in the set",
            "enrichment's first",
            "its id",
            "overlap",
            "p",
            "q",
        ],
    );
    for it in named {
        let score = rouge(&it.set.genes.name, &it.name);
        let mut row = vec![
            Cell::from(it.set.genes.name.as_str()),
            Cell::Count(it.set.genes.genes.len()),
            Cell::from(it.name.as_str()),
            if it.name.is_empty() {
                Cell::None
            } else {
                Cell::Number(score.l)
            },
        ];
        match &it.support {
            Some(term) => row.extend([
                Cell::from(format!("{} {}", term.go, term.name)),
                Cell::from(term.overlap()),
                Cell::Number(term.p),
            ]),
            None => row.extend([Cell::None, Cell::None, Cell::None]),
        }
        row.push(if it.invented.is_empty() {
            Cell::None
        } else {
            Cell::from(it.invented.join(", "))
        });
        match &it.enriched {
            Some(term) => row.extend([
                Cell::from(term.name.as_str()),
                Cell::from(term.go.as_str()),
                Cell::from(term.overlap()),
                Cell::Number(term.p),
                Cell::from(term.q),
            ]),
            None => row.extend((0..5).map(|_| Cell::None)),
        }
        rows.rows.push(row);
    }
    let mut whole = Report::new(
        "Process naming",
        &[
            "names by",
            "kind",
            "sets",
            "ROUGE-1",
            "ROUGE-2",
            "ROUGE-L",
            "cosine (TF-IDF)",
            "percentile of the true name",
        ],
    );
    let by_model: Vec<&str> = named.iter().map(|it| it.name.as_str()).collect();
    let by_enrichment: Vec<&str> = named
        .iter()
        .map(|it| it.enriched.as_ref().map_or("", |term| term.name.as_str()))
        .collect();
    let truth: Vec<&str> = named.iter().map(|it| it.set.genes.name.as_str()).collect();
    whole.rows.push(summary(
        "enrichment, first term",
        "baseline",
        &truth,
        &by_enrichment,
        ontology,
        options,
    ));
    if by_model.iter().any(|name| !name.is_empty()) {
        whole.rows.push(summary(
            model, "judged", &truth, &by_model, ontology, options,
        ));
    }
    whole.say("scores", "ROUGE F, stemmed; cosine of TF-IDF vectors; percentile: share of all process names less like the given name than the true one is");
    whole.say(
        "enrichment",
        "a set's own term is left out, its parents and children are not: for terms of Gene Ontology that makes this a strong baseline",
    );
    whole.say(
        "intervals",
        format!("95 %, sets redrawn {} times", options.redraws),
    );
    whole.say("seed", options.seed.to_string());
    Ok((rows, whole))
}

fn summary(
    by: &str,
    kind: &str,
    truth: &[&str],
    names: &[&str],
    ontology: &Ontology,
    options: Options,
) -> Vec<Cell> {
    let scores: Vec<Rouge> = truth
        .iter()
        .zip(names)
        .map(|(truth, name)| rouge(truth, name))
        .collect();
    let pool: Vec<&str> = ontology
        .terms
        .iter()
        .filter(|term| term.ontology == "BP")
        .map(|term| term.name.as_str())
        .collect();
    let texts: Vec<String> = truth
        .iter()
        .chain(names)
        .chain(&pool)
        .map(|text| (*text).to_owned())
        .collect();
    let vectors = tfidf(&texts);
    let count = truth.len();
    let (mut cosines, mut ranks) = (Vec::new(), Vec::new());
    for set in 0..count {
        let cosine = vectors.inner(set, count + set);
        let below = (2 * count..texts.len())
            .filter(|other| vectors.inner(count + set, *other) < cosine)
            .count();
        cosines.push(cosine);
        ranks.push(below as f64 / pool.len().max(1) as f64);
    }
    let average = |values: Vec<f64>| Cell::from(mean(&values, options.redraws, options.seed));
    vec![
        Cell::from(by),
        Cell::from(kind),
        Cell::Count(count),
        average(scores.iter().map(|s| s.one).collect()),
        average(scores.iter().map(|s| s.two).collect()),
        average(scores.iter().map(|s| s.l).collect()),
        average(cosines),
        average(ranks),
    ]
}
