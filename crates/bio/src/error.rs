//! What can go wrong with a biologist's files, each with its place and what to do.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use bft_formats::FormatError;

/// Why a biology task cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BioError {
    /// Something is wrong with a file; `problem` says where in it, what was found and what to do.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// In words.
        problem: String,
    },
    /// The data cannot answer what was asked.
    #[error("{0}")]
    Data(String),
    /// A signal stopped the work, and what was done is kept.
    #[error("stopped; give the same command again to go on")]
    Stopped,
    /// A model file or an output file.
    #[error(transparent)]
    Format(Box<FormatError>),
    /// A model's own failure, or a run's.
    #[error("{0}")]
    Model(String),
}

impl From<FormatError> for BioError {
    fn from(error: FormatError) -> Self {
        Self::Format(Box::new(error))
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, BioError>;

impl BioError {
    /// Something is wrong with `path`.
    pub fn file(path: &Path, problem: impl Display) -> Self {
        Self::File { path: path.to_path_buf(), problem: problem.to_string() }
    }

    /// The data cannot answer what was asked.
    pub fn data(problem: impl Display) -> Self {
        Self::Data(problem.to_string())
    }

    /// A model or a run failed.
    pub fn model(problem: impl Display) -> Self {
        Self::Model(problem.to_string())
    }
}

/// Reads a whole text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| cannot_read(path, &error))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        let line = 1 + bytes[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        BioError::file(path, format!("line {line} is not UTF-8 text; save it as UTF-8"))
    })
}

pub(crate) fn cannot_read(path: &Path, error: &io::Error) -> BioError {
    BioError::file(path, format!("cannot be read: {error}"))
}
