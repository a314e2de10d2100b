//! What is said of a gene, as text: its name, its annotation.

use std::collections::HashMap;

use crate::data::genome::{Aspect, GeneId, Genome};
use crate::data::ontology::Ontology;
use crate::error::Result;

/// `TP53: tumor protein p53`.
pub fn name(genome: &Genome, gene: GeneId) -> String {
    let gene = &genome.genes[gene];
    format!("{}: {}", gene.symbol, gene.name)
}

/// Name with the processes and functions that have such evidence, in the order of their GO ids.
pub fn annotations(
    genome: &Genome,
    ontology: &Ontology,
    genes: &[GeneId],
    aspects: &[Aspect],
    evidence: &[&str],
) -> Result<Vec<String>> {
    let mut terms: HashMap<GeneId, Vec<&str>> = genes.iter().map(|gene| (*gene, Vec::new())).collect();
    for aspect in aspects {
        for annotation in genome.annotations(*aspect, evidence)? {
            let (Some(list), Some(term)) = (terms.get_mut(&annotation.gene), ontology.term(&annotation.go)) else {
                continue;
            };
            if !list.contains(&term.name.as_str()) {
                list.push(&term.name);
            }
        }
    }
    let text = |gene: &GeneId| {
        let name = name(genome, *gene);
        let list = &terms[gene];
        if list.is_empty() { name } else { format!("{name}. {}", list.join("; ")) }
    };
    Ok(genes.iter().map(text).collect())
}
