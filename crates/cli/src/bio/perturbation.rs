//! `bft bio perturbation`: do vectors tell what perturbing an unseen gene does?

use std::path::{Path, PathBuf};

use bft_bio::data::response::Response;
use bft_bio::genes::resolver::Resolver;
use bft_bio::tasks::perturbation::{self, Options};
use clap::Args;

use super::knowledge::{Knowledge, VectorFlags};
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
    flags.vectors.check()?;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.vectors.keep_na);
    let fitness = flags.file == Path::new("fitness") && !flags.file.exists();
    let response = if fitness {
        knowledge.fitness(&resolver)?
    } else {
        let path = open::existing("FILE", &flags.file)?;
        Response::read_h5ad(path, &resolver, flags.cell_type.as_deref()).map_err(CliError::failed)?
    };
    let sets = flags.vectors.sets(&knowledge, &resolver, &response.genes())?;
    let options = Options {
        seed: flags.vectors.seed,
        folds: flags.folds,
        redraws: flags.vectors.redraws,
        shuffle_labels: flags.vectors.shuffle_labels,
    };
    let report = perturbation::run(&response, &sets, options).map_err(CliError::failed)?;
    flags.vectors.show(&report)
}
