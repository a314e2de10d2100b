//! `bft bio celltype`: do vectors tell cell types?

use std::path::{Path, PathBuf};

use bft_bio::genes::resolver::Resolver;
use bft_bio::tasks::celltype::{self, Cells, Options};
use bft_fetch::sources::Dataset;
use clap::Args;

use super::knowledge::{Knowledge, VectorFlags};
use crate::error::CliError;
use crate::flags::at_least;
use crate::open;

/// Measure how well gene vectors, weighted by expression, tell cell types
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio celltype pbmc                         # 700 labelled blood cells, fetched
  bft bio celltype cells.h5ad --label cell_type --vectors genes.parquet -o table.tsv

Expression is taken from raw/X where there is one, else from X; it must not be scaled. Not for clinical use.")]
pub struct CellTypeFlags {
    /// An AnnData file with labels in obs; or pbmc, the fetched cells
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Column of obs that holds the labels [default: the first of cell_type, celltype, bulk_labels, louvain, leiden]
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub label: Option<String>,
    /// Parts that the cells are split into
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = at_least(2), help_heading = "Data")]
    pub folds: usize,
    #[command(flatten)]
    pub vectors: VectorFlags,
}

/// Runs `bft bio celltype`.
pub fn run(flags: &CellTypeFlags) -> Result<(), CliError> {
    flags.vectors.check()?;
    let knowledge = Knowledge::open()?;
    let resolver = Resolver::new(&knowledge.genome).keeping_na(flags.vectors.keep_na);
    let path = if flags.file == Path::new("pbmc") && !flags.file.exists() {
        knowledge.path(Dataset::Cells)?
    } else {
        open::existing("FILE", &flags.file)?.to_path_buf()
    };
    let cells = Cells::read(&path, &resolver, flags.label.as_deref()).map_err(CliError::failed)?;
    let mut genes: Vec<usize> = cells.genes.iter().flatten().copied().collect();
    genes.sort_unstable();
    genes.dedup();
    let sets = flags.vectors.sets(&knowledge, &resolver, &genes)?;
    let options = Options {
        seed: flags.vectors.seed,
        folds: flags.folds,
        redraws: flags.vectors.redraws,
        shuffle_labels: flags.vectors.shuffle_labels,
    };
    let report = celltype::run(&cells, &sets, options).map_err(CliError::failed)?;
    flags.vectors.show(&report)
}
