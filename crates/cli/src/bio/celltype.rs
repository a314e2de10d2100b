//! `bft bio celltype`: do vectors tell cell types?

use std::path::PathBuf;

use bft_bio::tasks::celltype::Cells;
use bft_fetch::sources::Dataset;
use clap::Args;

use super::knowledge::{VectorFlags, is_word};
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
    /// Column of obs that holds the labels [default: the first of cell_type, celltype, bulk_labels,
    /// louvain, leiden]
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
    flags.vectors.judge(flags.folds, |knowledge, resolver| {
        let path = if is_word(&flags.file, "pbmc") {
            knowledge.path(Dataset::Cells)?
        } else {
            open::existing("FILE", &flags.file)?.to_path_buf()
        };
        Cells::read(&path, resolver, flags.label.as_deref()).map_err(CliError::failed)
    })
}
