//! `bft bio interaction`: do vectors tell which genes interact?

use std::path::PathBuf;

use bft_bio::data::pairs::Pairs;
use bft_bio::genes::resolver::Resolver;
use bft_bio::tasks::interaction::{self, Options};
use bft_fetch::sources::Dataset;
use clap::Args;

use super::knowledge::{Knowledge, VectorFlags};
use crate::error::CliError;
use crate::open;

/// Measure how well gene vectors tell interacting pairs from others
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio interaction corum                     # pairs within CORUM's complexes of 2 to 15 genes
  bft bio interaction corum --vectors genes.parquet --vectors genept.csv -o table.tsv
  bft bio interaction pairs.tsv --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter tuned

A pairs file has two genes a line and, if you like, a label 1 or 0; without 0s, negatives are drawn by exchanging partners,
which keeps every gene's degree. No gene is on both sides of the split. Not for clinical use.")]
pub struct InteractionFlags {
    /// A file of pairs (TSV or CSV); or corum or ligands, the fetched data
    #[arg(value_name = "PAIRS")]
    pub pairs: PathBuf,
    #[command(flatten)]
    pub vectors: VectorFlags,
}

/// Runs `bft bio interaction`.
pub fn run(flags: &InteractionFlags) -> Result<(), CliError> {
    flags.vectors.check()?;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.vectors.keep_na);
    let pairs = match flags.pairs.to_str() {
        Some("corum") if !flags.pairs.exists() => Pairs::of_complexes(&knowledge.complexes(&resolver)?, 2, 15),
        Some("ligands") if !flags.pairs.exists() => {
            let path = knowledge.path(Dataset::Ligands)?;
            Pairs::read_ligands(&path, &resolver).map_err(CliError::failed)?
        }
        _ => {
            let path = open::existing("PAIRS", &flags.pairs)?;
            Pairs::read(path, &resolver).map_err(CliError::failed)?
        }
    };
    let sets = flags.vectors.sets(&knowledge, &resolver, &pairs.genes())?;
    let options = Options {
        seed: flags.vectors.seed,
        redraws: flags.vectors.redraws,
        shuffle_labels: flags.vectors.shuffle_labels,
        ..Options::default()
    };
    let symbol = |gene: usize| knowledge.genome.genes[gene].symbol.clone();
    let report = interaction::run(&pairs, &sets, symbol, options).map_err(CliError::failed)?;
    flags.vectors.show(&report)
}
