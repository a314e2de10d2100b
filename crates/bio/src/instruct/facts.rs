//! What is known, one fact at a time.

use std::collections::HashSet;

use super::options::{Kind, Options, hash};
use crate::data::genome::{Aspect, GeneId, Genome};
use crate::data::ontology::Ontology;
use crate::error::Result;

/// A subject and what is true of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// Its kind.
    pub kind: Kind,
    /// The gene's symbol, the alias, or the term.
    pub subject: String,
    /// The answer.
    pub answer: String,
    /// Entrez id of the gene; empty for terms.
    pub entrez: String,
    /// GO id; empty where there is none.
    pub go: String,
    /// Evidence codes.
    pub evidence: String,
}

impl Fact {
    /// The gene's symbol, or the term, that the fact is split by.
    pub fn about(&self) -> &str {
        if self.kind == Kind::Alias { &self.answer } else { &self.subject }
    }

    /// The answer as a sentence.
    pub fn sentence(&self) -> String {
        let Self { subject, answer, .. } = self;
        match self.kind {
            Kind::Name => format!("The full name of {subject} is {answer}."),
            Kind::Alias => format!("The official symbol of {subject} is {answer}."),
            Kind::Process => format!("The biological process of {subject} is {answer}."),
            Kind::Function => format!("The molecular function of {subject} is {answer}."),
            Kind::Definition => answer.clone(),
        }
    }

    /// What a sentence of this kind begins with, up to the answer.
    pub fn opening(&self) -> String {
        let sentence = self.sentence();
        sentence.find(&self.answer).map_or_else(String::new, |place| sentence[..place].to_owned())
    }

    pub(super) fn line(&self) -> String {
        let cells = [self.kind.word(), &self.subject, &self.answer, &self.entrez, &self.go, &self.evidence];
        cells.map(|cell| cell.replace(['\t', '\n'], " ")).join("\t")
    }
}

/// Every fact that the options ask for, sorted.
pub fn collect(genome: &Genome, ontology: &Ontology, options: &Options) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    let wanted: HashSet<GeneId> = if options.genes.is_empty() {
        (0..genome.genes.len()).filter(|gene| genome.genes[*gene].protein_coding).collect()
    } else {
        options.genes.iter().copied().collect()
    };
    let of_gene = |kind, gene: GeneId, subject: &str, answer: &str| Fact {
        kind,
        subject: subject.to_owned(),
        answer: answer.to_owned(),
        entrez: genome.genes[gene].entrez.clone(),
        go: String::new(),
        evidence: String::new(),
    };
    for gene in &wanted {
        let found = &genome.genes[*gene];
        // A symbol that several genes have makes no clear question; a name that holds the symbol
        // answers itself.
        if options.kinds.contains(&Kind::Name)
            && genome.symbols[&found.symbol].len() == 1
            && !found.name.contains(&found.symbol)
        {
            facts.push(of_gene(Kind::Name, *gene, &found.symbol, &found.name));
        }
    }
    if options.kinds.contains(&Kind::Alias) {
        for (alias, genes) in &genome.aliases {
            // An alias of two genes, or one that is itself a symbol, is no fact to learn.
            if let [gene] = genes.as_slice()
                && wanted.contains(gene)
                && !genome.symbols.contains_key(alias)
            {
                facts.push(of_gene(Kind::Alias, *gene, alias, &genome.genes[*gene].symbol));
            }
        }
    }
    let evidence: Vec<&str> = options.evidence.iter().map(String::as_str).collect();
    for (kind, aspect) in [(Kind::Process, Aspect::Process), (Kind::Function, Aspect::Function)] {
        if !options.kinds.contains(&kind) {
            continue;
        }
        for annotation in genome.annotations(aspect, &evidence)? {
            let root = ["GO:0008150", "GO:0003674", "GO:0005515"].contains(&annotation.go.as_str());
            let Some(term) = ontology.term(&annotation.go).filter(|_| !root && wanted.contains(&annotation.gene))
            else {
                continue;
            };
            let mut fact = of_gene(kind, annotation.gene, &genome.genes[annotation.gene].symbol, &term.name);
            (fact.go, fact.evidence) = (annotation.go, annotation.evidence);
            facts.push(fact);
        }
    }
    if options.kinds.contains(&Kind::Definition) && options.genes.is_empty() {
        let defined = ontology.terms.iter().filter(|term| term.ontology != "CC" && !term.definition.is_empty());
        facts.extend(defined.map(|term| Fact {
            kind: Kind::Definition,
            subject: term.name.clone(),
            answer: term.definition.clone(),
            entrez: String::new(),
            go: term.go.clone(),
            evidence: String::new(),
        }));
    }
    facts.sort();
    merge_evidence(&mut facts);
    Ok(limited(facts, options))
}

/// One fact with several evidence codes is one fact.
fn merge_evidence(facts: &mut Vec<Fact>) {
    facts.dedup_by(|next, kept| {
        let same = next.kind == kept.kind && next.subject == kept.subject && next.answer == kept.answer;
        if same && !kept.evidence.split(',').any(|code| code == next.evidence) {
            kept.evidence = format!("{},{}", kept.evidence, next.evidence);
        }
        same
    });
}

/// At most so many facts of a kind about a gene, drawn by hash. Aliases count by their gene.
fn limited(facts: Vec<Fact>, options: &Options) -> Vec<Fact> {
    use std::collections::BTreeMap;
    let mut groups: BTreeMap<(Kind, String), Vec<Fact>> = BTreeMap::new();
    for fact in facts {
        groups.entry((fact.kind, fact.about().to_owned())).or_default().push(fact);
    }
    let mut kept: Vec<Fact> = groups
        .into_values()
        .flat_map(|mut group| {
            group.sort_by_key(|fact| hash(options.seed, &["limit", &fact.subject, &fact.answer]));
            group.truncate(options.per_gene);
            group
        })
        .collect();
    kept.sort();
    kept
}
