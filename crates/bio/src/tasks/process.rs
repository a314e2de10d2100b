//! What is the process that a set of genes shares? A model's name beside the evidence of
//! enrichment.

mod evidence;
mod sets;

use crate::data::genome::{GeneId, Genome};
use crate::data::gmt::GeneSet;
use crate::error::Result;
use crate::genes::facts::FactCheck;
use crate::report::{Cell, Report};
use crate::stats::features::Features;
use crate::stats::rouge::{Rouge, rouge};

use super::shape::Options;

pub use evidence::{Enrichment, Support};
pub use sets::{NamedSet, of_gmt, of_ontology};

/// What was found for one set.
#[derive(Debug, Clone)]
pub struct Named {
    /// The set.
    pub set: NamedSet,
    /// The model's answer, whole.
    pub answer: String,
    /// The model's name for it.
    pub name: String,
    /// Genes that the model's text names and the set has not.
    pub invented: Vec<String>,
    /// What the text says of the set's genes and their annotation contradicts.
    pub contradicted: Vec<String>,
    /// The term most like the model's name, and whether the set's genes bear it out.
    pub support: Option<Support>,
    /// The term that enrichment puts first, the set's own and its relatives left out.
    pub enriched: Option<Support>,
}

/// The question: three steps, then a name.
pub fn question(genome: &Genome, set: &GeneSet) -> String {
    let symbols: Vec<&str> = set.genes.iter().map(|gene| genome.genes[*gene].symbol.as_str()).collect();
    format!(
        "These human genes work together: {}.\nStep 1: recall what each gene does. Step 2: find what most of them share. \
         Step 3: name the one biological process that describes them best.\nBegin the answer with \"Process:\" and that name.",
        symbols.join(", ")
    )
}

/// What every answer begins with.
pub const OPENING: &str = "Process:";

/// The name in an answer: its first line, without quotes and full stop.
pub fn name_of(answer: &str) -> String {
    let line = answer.trim().trim_start_matches(OPENING).trim().lines().next().unwrap_or("");
    line.trim_matches(|c: char| c == '"' || c == '*' || c == '.' || c == '<' || c == '>' || c.is_whitespace())
        .to_owned()
}

/// Puts the evidence beside models' answers.
pub struct Judge<'j> {
    /// Genes.
    pub genome: &'j Genome,
    /// Terms and their genes.
    pub enrichment: &'j Enrichment<'j>,
    /// What is known of the genes' places.
    pub facts: FactCheck,
    /// How the task is run; it has no folds and no labels.
    pub options: Options,
    /// Leave a term's ancestors and descendants out of enrichment, not the term alone.
    pub leave_out_relatives: bool,
}

impl Judge<'_> {
    /// The evidence for one answer; an empty one where no model was asked.
    pub fn judge(&self, set: NamedSet, answer: &str) -> Named {
        let name = name_of(answer);
        let members: Vec<(GeneId, &str)> =
            set.genes.genes.iter().map(|gene| (*gene, self.genome.genes[*gene].symbol.as_str())).collect();
        let mut invented: Vec<String> = answer
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            // Two letters or fewer, and words that are a symbol by chance, would be noise: upper
            // case with a digit alone counts.
            .filter(|word| {
                word.len() >= 3
                    && word.bytes().any(|b| b.is_ascii_digit())
                    && !word.bytes().any(|b| b.is_ascii_lowercase())
            })
            .filter(|word| self.genome.symbols.contains_key(*word) && !members.iter().any(|(_, symbol)| symbol == word))
            .map(str::to_owned)
            .collect();
        invented.sort_unstable();
        invented.dedup();
        let left_out = self.enrichment.family(set.term.as_deref(), self.leave_out_relatives);
        Named {
            answer: answer.to_owned(),
            contradicted: self.facts.contradictions_of(&members, answer),
            support: self.enrichment.of_name(&name, &set.genes),
            enriched: self.enrichment.first(&set.genes, &left_out),
            name,
            invented,
            set,
        }
    }

    /// One row a set: the name with its evidence.
    pub fn sets(&self, named: &[Named]) -> Report {
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
                "contradicted by the annotation",
                "enrichment's first",
                "its id",
                "overlap",
                "p",
                "q",
                "answer",
            ],
        );
        let words = |list: &[String]| match list {
            [] => Cell::None,
            list => Cell::from(list.join("; ")),
        };
        for it in named {
            let score = rouge(&it.set.genes.name, &it.name);
            let mut row = vec![
                Cell::from(it.set.genes.name.as_str()),
                Cell::Count(it.set.genes.genes.len()),
                Cell::from(it.name.as_str()),
                Cell::from((!it.name.is_empty()).then_some(score.l)),
            ];
            match &it.support {
                Some(term) => row.extend([
                    Cell::from(format!("{} {}", term.go, term.name)),
                    Cell::from(term.overlap()),
                    Cell::Number(term.p),
                ]),
                None => row.extend([Cell::None, Cell::None, Cell::None]),
            }
            row.extend([words(&it.invented), words(&it.contradicted)]);
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
            row.push(Cell::from(it.answer.as_str()));
            rows.rows.push(row);
        }
        rows
    }

    /// What the names are worth on the whole. `vectors` turns texts into rows of length 1; `by`
    /// says whose they are.
    pub fn whole(
        &self,
        named: &[Named],
        model: &str,
        by: &str,
        vectors: impl Fn(&[String]) -> Result<Features>,
    ) -> Result<Report> {
        let cosine = format!("cosine ({by})");
        let mut whole = Report::new(
            "Process naming",
            &["names by", "kind", "sets", "ROUGE-1", "ROUGE-2", "ROUGE-L", &cosine, "percentile of the true name"],
        );
        let truth: Vec<&str> = named.iter().map(|it| it.set.genes.name.as_str()).collect();
        let enriched = |it: &'_ Named| it.enriched.as_ref().map_or("", |term| &term.name).to_owned();
        let mut rows =
            vec![("enrichment, first term", "baseline", named.iter().map(enriched).collect::<Vec<String>>())];
        if named.iter().any(|it| !it.name.is_empty()) {
            let names = named.iter().map(|it| it.name.clone()).collect();
            rows.push((model, "judged", names));
        }
        let pool = self.enrichment.pool();
        let own = |text: &&str| (*text).to_owned();
        let mut texts: Vec<String> = pool.iter().chain(&truth).map(own).collect();
        texts.extend(rows.iter().flat_map(|(_, _, names)| names.clone()));
        let vectors = vectors(&texts)?;
        for (number, (by, kind, names)) in rows.iter().enumerate() {
            let scores: Vec<Rouge> = truth.iter().zip(names).map(|(truth, name)| rouge(truth, name)).collect();
            let (mut cosines, mut ranks) = (Vec::new(), Vec::new());
            for set in 0..named.len() {
                let (truth, name) = (pool.len() + set, pool.len() + (number + 1) * named.len() + set);
                let cosine = vectors.inner(truth, name);
                let below = (0..pool.len()).filter(|other| vectors.inner(name, *other) < cosine).count();
                cosines.push(cosine);
                ranks.push(below as f64 / pool.len().max(1) as f64);
            }
            let average = |values: &[f64]| Cell::from(self.options.mean(values));
            let of = |which: fn(&Rouge) -> f64| average(&scores.iter().map(which).collect::<Vec<f64>>());
            whole.rows.push(vec![
                Cell::from(*by),
                Cell::from(*kind),
                Cell::Count(named.len()),
                of(|it| it.one),
                of(|it| it.two),
                of(|it| it.l),
                average(&cosines),
                average(&ranks),
            ]);
        }
        whole.say("scores", format!("ROUGE F, stemmed; percentile: share of the names of {} processes with 10 to 100 genes that are less like the given name than the true one is", pool.len()));
        whole.say(
            "enrichment",
            if self.leave_out_relatives {
                "a set's own term, its ancestors and its descendants are left out"
            } else {
                "a set's own term is left out, its parents and children are not, which makes this a strong baseline"
            },
        );
        self.options.describe(&mut whole, "sets", "");
        Ok(whole)
    }
}
