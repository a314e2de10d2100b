//! The vectors that every table carries beside those that are judged.

use crate::data::genome::{Aspect, GeneId, Genome};
use crate::data::ontology::Ontology;
use crate::error::Result;

use super::profile;
use super::vectors::{GeneVectors, of_texts, popularity, random};

/// Popularity, random numbers, TF-IDF of the name, TF-IDF of name and the processes that have such
/// evidence.
pub fn baselines(
    genome: &Genome,
    ontology: &Ontology,
    genes: &[GeneId],
    evidence: &[&str],
    seed: u64,
) -> Result<Vec<GeneVectors>> {
    let names: Vec<String> = genes.iter().map(|gene| profile::name(genome, *gene)).collect();
    let processes = profile::annotations(genome, ontology, genes, &[Aspect::Process], evidence)?;
    Ok(vec![
        popularity(genes, &genome.publications()?),
        random(genes, genome, seed),
        of_texts("TF-IDF of the name", genes, &names),
        of_texts("TF-IDF of name and processes", genes, &processes),
    ])
}
