//! `bft bio interaction`: do vectors tell which genes interact?

use std::path::PathBuf;

use bft_bio::data::pairs::Pairs;
use bft_bio::tasks::Options;
use bft_fetch::sources::Dataset;
use clap::Args;

use super::knowledge::{VectorFlags, is_word};
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
    flags.vectors.judge(Options::default().folds, |knowledge, resolver| {
        if is_word(&flags.pairs, "corum") {
            return Ok(Pairs::of_complexes(&knowledge.complexes(resolver)?, 2, 15));
        }
        let pairs = if is_word(&flags.pairs, "ligands") {
            Pairs::read_ligands(&knowledge.path(Dataset::Ligands)?, resolver)
        } else {
            Pairs::read(open::existing("PAIRS", &flags.pairs)?, resolver)
        };
        pairs.map_err(CliError::failed)
    })
}
