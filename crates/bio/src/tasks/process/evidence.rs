//! Over-representation of Gene Ontology's processes in a set, and of the term that a name comes
//! nearest to.

use std::collections::{BTreeMap, HashSet};

use crate::data::genome::{Aspect, GeneId, Genome, JUDGED};
use crate::data::gmt::GeneSet;
use crate::data::ontology::Ontology;
use crate::error::Result;
use crate::stats::enrichment::{benjamini_hochberg, upper_tail};
use crate::stats::tfidf::words;

/// A term and how a set overlaps with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Support {
    /// GO id.
    pub go: String,
    /// The term.
    pub name: String,
    /// Genes of the set that have it.
    pub shared: usize,
    /// Genes of the set that have any process.
    pub drawn: usize,
    /// Genes that have the term.
    pub marked: usize,
    /// Hypergeometric p-value.
    pub p: f64,
    /// Adjusted over all terms tested (Benjamini and Hochberg); `None` for a term that was not
    /// searched for.
    pub q: Option<f64>,
}

impl Support {
    /// `12/40 (term: 85)`.
    pub fn overlap(&self) -> String {
        format!("{}/{} (term: {})", self.shared, self.drawn, self.marked)
    }
}

/// All processes with their genes.
#[derive(Debug)]
pub struct Enrichment<'o> {
    ontology: &'o Ontology,
    terms: BTreeMap<String, HashSet<GeneId>>,
    background: HashSet<GeneId>,
    names: Vec<String>,
}

impl<'o> Enrichment<'o> {
    /// Processes with those of their descendants, from evidence that a person judged.
    pub fn new(genome: &Genome, ontology: &'o Ontology) -> Result<Self> {
        let mut terms: BTreeMap<String, HashSet<GeneId>> = BTreeMap::new();
        for annotation in genome.annotations_inherited(Aspect::Process, &JUDGED)? {
            terms.entry(annotation.go).or_default().insert(annotation.gene);
        }
        terms.remove(crate::data::ontology::BIOLOGICAL_PROCESS);
        let background: HashSet<GeneId> = terms.values().flatten().copied().collect();
        let names: Vec<String> = terms.keys().filter(|go| ontology.term(go).is_some()).cloned().collect();
        Ok(Self { ontology, terms, background, names })
    }

    /// A set's own term, with its ancestors and descendants if they are asked for too.
    pub fn family(&self, term: Option<&str>, relatives: bool) -> HashSet<&str> {
        match term.and_then(|go| self.ontology.term(go)) {
            Some(term) if relatives => self.ontology.family(&term.go),
            Some(term) => HashSet::from([term.go.as_str()]),
            None => HashSet::new(),
        }
    }

    /// Names of the processes that a set may be named after: those of 10 to 100 genes.
    pub fn pool(&self) -> Vec<&str> {
        let sized = self.terms.iter().filter(|(_, genes)| (10..=100).contains(&genes.len()));
        sized.filter_map(|(go, _)| Some(self.ontology.term(go)?.name.as_str())).collect()
    }

    /// Genes of each process.
    pub fn terms(&self) -> &BTreeMap<String, HashSet<GeneId>> {
        &self.terms
    }

    fn support(&self, go: &str, set: &GeneSet) -> Option<Support> {
        let marked = self.terms.get(go)?;
        let drawn = set.genes.iter().filter(|gene| self.background.contains(gene)).count();
        let shared = set.genes.iter().filter(|gene| marked.contains(gene)).count();
        Some(Support {
            go: go.to_owned(),
            name: self.ontology.term(go)?.name.clone(),
            shared,
            drawn,
            marked: marked.len(),
            p: upper_tail(shared, self.background.len(), marked.len(), drawn)?,
            q: None,
        })
    }

    /// The term with the smallest p-value among those with 5 to 500 genes, without those that are
    /// left out.
    pub fn first(&self, set: &GeneSet, left_out: &HashSet<&str>) -> Option<Support> {
        let sized =
            self.terms.iter().filter(|(go, genes)| (5..=500).contains(&genes.len()) && !left_out.contains(go.as_str()));
        let tested: Vec<Support> = sized
            .filter(|(_, genes)| set.genes.iter().any(|gene| genes.contains(gene)))
            .filter_map(|(go, _)| self.support(go, set))
            .collect();
        let adjusted = benjamini_hochberg(&tested.iter().map(|term| term.p).collect::<Vec<_>>());
        let best = (0..tested.len())
            .min_by(|a, b| tested[*a].p.total_cmp(&tested[*b].p).then(tested[*a].marked.cmp(&tested[*b].marked)))?;
        Some(Support { q: Some(adjusted[best]), ..tested[best].clone() })
    }

    /// The term whose name is most like a text, and whether the set bears it out; `None` where no
    /// word is shared.
    pub fn of_name(&self, name: &str, set: &GeneSet) -> Option<Support> {
        let asked: HashSet<String> = words(name).into_iter().collect();
        let texts = self.names.iter().map(|go| self.ontology.term(go).map_or("", |term| term.name.as_str()));
        // Words shared over words in either.
        let best = texts
            .enumerate()
            .map(|(index, text)| {
                let own: HashSet<String> = words(text).into_iter().collect();
                let shared = own.intersection(&asked).count();
                (shared as f64 / (own.len() + asked.len() - shared).max(1) as f64, index)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        if best.0 > 0.0 { self.support(&self.names[best.1], set) } else { None }
    }
}
