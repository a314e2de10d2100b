//! Packages of registries, and the files of them that are wanted.

use std::path::Path;

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// A Python wheel, fetched by `python3 -m pip download`.
    Wheel,
    /// A Debian package, fetched by `apt-get download`.
    Deb,
}

/// One version of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Where it comes from.
    pub registry: Registry,
    /// Its name there.
    pub name: &'static str,
    /// Its version there.
    pub version: &'static str,
    /// Name of the downloaded file; a `--from` folder must hold it under this name.
    pub file: &'static str,
    /// Size of that file in megabytes, to say what will be loaded.
    pub megabytes: u32,
}

/// Where the file of a package is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'o> {
    /// Its registry.
    Registry,
    /// A folder that holds it.
    Folder(&'o Path),
    /// Nowhere: this (`--offline`) keeps the program off the network.
    Nowhere(&'o str),
}

/// One file of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Path below the cache, with `/`.
    pub file: &'static str,
    /// Path inside the package.
    pub member: &'static str,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: &'static str,
}
