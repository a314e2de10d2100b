//! A vector for each of some genes, whatever made it.

use std::collections::HashMap;

use crate::data::genome::{GeneId, Genome};
use crate::stats::features::Features;
use crate::stats::tfidf::tfidf;
use bft_formats::Random;

/// Vectors of length 1, one a gene.
#[derive(Debug, Clone)]
pub struct GeneVectors {
    /// What the row of a table is called.
    pub label: String,
    /// A baseline, or what is being judged.
    pub baseline: bool,
    /// The vectors.
    pub features: Features,
    rows: HashMap<GeneId, usize>,
}

impl GeneVectors {
    /// Vectors of these genes, in this order; scaled to length 1.
    pub fn new(label: impl Into<String>, baseline: bool, genes: &[GeneId], features: Features) -> Self {
        Self {
            label: label.into(),
            baseline,
            features: features.normalized(),
            rows: genes.iter().enumerate().map(|(row, gene)| (*gene, row)).collect(),
        }
    }

    /// The row of a gene.
    pub fn row(&self, gene: GeneId) -> Option<usize> {
        self.rows.get(&gene).copied()
    }

    /// Genes that have a vector.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// These genes' vectors in this order; every one must have one.
    pub fn select(&self, genes: &[GeneId]) -> Features {
        let rows: Vec<usize> = genes.iter().filter_map(|gene| self.row(*gene)).collect();
        self.features.select(&rows)
    }
}

/// Numbers that know nothing of the gene: normal, 384 of them as MiniLM has.
pub fn random(genes: &[GeneId], genome: &Genome, seed: u64) -> GeneVectors {
    const WIDTH: usize = 384;
    let mut values = Vec::with_capacity(genes.len() * WIDTH);
    for gene in genes {
        // By gene, so that a vector does not depend on which other genes are asked for.
        let mut random = Random::stream(seed, &genome.genes[*gene].entrez);
        values.extend((0..WIDTH).map(|_| random.normal() as f32));
    }
    let features = Features::Dense { width: WIDTH, values };
    GeneVectors::new("random vectors", true, genes, features)
}

/// TF-IDF of a text a gene.
pub fn of_texts(label: &str, genes: &[GeneId], texts: &[String]) -> GeneVectors {
    GeneVectors::new(label, true, genes, tfidf(texts))
}

/// ln(1 + publications) as a vector of one number, not scaled: how much a gene is written about.
pub fn popularity(genes: &[GeneId], publications: &[u32]) -> GeneVectors {
    let values = genes.iter().map(|gene| f64::from(publications[*gene]).ln_1p() as f32);
    GeneVectors {
        label: "popularity (PubMed)".to_owned(),
        baseline: true,
        features: Features::Dense { width: 1, values: values.collect() },
        rows: genes.iter().enumerate().map(|(row, gene)| (*gene, row)).collect(),
    }
}
