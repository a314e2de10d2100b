//! The one error type of the crate: every message names the thing, what was found, what was
//! expected and what to do, on one line.

use std::path::PathBuf;

/// Short for `std::result::Result<T, FormatError>`.
pub type Result<T> = std::result::Result<T, FormatError>;

/// Whatever can be wrong with a model, adapter, tokenizer or template file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to read or write.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "open", "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file is truncated, or says something about itself that cannot be true.
    #[error("{file}: {problem}")]
    Malformed {
        /// The file, as the user named it.
        file: String,
        /// What was found, what was expected, what to do.
        problem: String,
    },
    /// What stands beside a model about its vectors cannot be followed; the words of another error.
    #[error("{0}")]
    Sentence(String),
    /// A well-formed file asks for something that is not implemented.
    #[error("{file}: {what} is not supported; {advice}")]
    Unsupported {
        /// The file, as the user named it.
        file: String,
        /// The thing, by the name the file gives it.
        what: String,
        /// What is supported, or what to do instead.
        advice: String,
    },
    /// A folder or file lacks something it needs.
    #[error("{file}: {what} is missing; {advice}")]
    Missing {
        /// The file or folder, as the user named it.
        file: String,
        /// What is not there.
        what: String,
        /// What to do.
        advice: String,
    },
    /// Two files that belong together contradict each other.
    #[error("{file}: {what}: found {found}, expected {expected}; {advice}")]
    Mismatch {
        /// The file, as the user named it.
        file: String,
        /// The tensor, key or vocabulary that disagrees.
        what: String,
        /// What the file holds.
        found: String,
        /// What it should hold.
        expected: String,
        /// What to do.
        advice: String,
    },
    /// Text could not be turned into tokens, or tokens into text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A chat template could not be read or rendered.
    #[error("chat template: {0}")]
    ChatTemplate(String),
}

impl FormatError {
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn malformed(file: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { file: file.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(file: impl Into<String>, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unsupported { file: file.into(), what: what.into(), advice: advice.into() }
    }

    pub(crate) fn missing(file: impl Into<String>, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Missing { file: file.into(), what: what.into(), advice: advice.into() }
    }
}

/// `a, b and c`
pub(crate) fn listed(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
