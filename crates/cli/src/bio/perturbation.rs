//! `bft bio perturbation`: do vectors tell what perturbing an unseen gene does?

use std::path::PathBuf;

use bft_bio::data::response::Response;
use clap::Args;

use super::knowledge::{VectorFlags, is_word};
use crate::error::CliError;
use crate::flags::at_least;
use crate::open;

/// Measure how well gene vectors predict the response to unseen perturbations
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio perturbation fitness                  # DepMap knock-out fitness, 500 genes × 124 cell lines (bulk)
  bft bio perturbation norman.h5ad --vectors genes.parquet -o table.tsv
  bft bio perturbation replogle.h5ad --cell-type K562 --folds 10

A .h5ad in GEARS form has obs.condition (FEV+ctrl, CBL+CNN1, ctrl), X (dense, CSR or CSC) and var.gene_name; counts should
be normalised and logarithmised. Not for clinical use.")]
pub struct PerturbationFlags {
    /// An AnnData file in GEARS form; or fitness, the fetched table
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Cells of this obs.cell_type alone [default: the commonest]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub cell_type: Option<String>,
    /// Parts that the perturbed genes are split into
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = at_least(2), help_heading = "Data")]
    pub folds: usize,
    #[command(flatten)]
    pub vectors: VectorFlags,
}

/// Runs `bft bio perturbation`.
pub fn run(flags: &PerturbationFlags) -> Result<(), CliError> {
    flags.vectors.judge(flags.folds, |knowledge, resolver| {
        if is_word(&flags.file, "fitness") {
            return knowledge.fitness(resolver);
        }
        let path = open::existing("FILE", &flags.file)?;
        Response::read_h5ad(path, resolver, flags.cell_type.as_deref()).map_err(CliError::failed)
    })
}
