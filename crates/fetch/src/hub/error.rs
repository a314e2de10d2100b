//! Why a model could not be had from the hub, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be had from the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not the name of a model.
    #[error(
        "'{found}' names no model on the hub: {problem}; expected hf:owner/name, with @revision behind it and then \
         /file.gguf or :Q4_K_M where they are meant"
    )]
    Name {
        /// What was given.
        found: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No place for the cache.
    #[error("no home folder is known: set HF_HOME to a folder for models")]
    NoHome,
    /// The address of the hub is none.
    #[error("HF_ENDPOINT is '{found}', expected an address such as https://hub.example")]
    Endpoint {
        /// What was found.
        found: String,
    },
    /// A file or folder of the cache cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the cache is not what it was.
    #[error(
        "{} is damaged: its checksum is {found}, expected {expected}; remove it and run again, which fetches it anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// That of the hub.
        expected: String,
    },
    /// Nothing may be fetched and not all is there.
    #[error("{missing} is not in the cache {}, and {why} keeps bft off the network; run once without it", cache.display())]
    NotCached {
        /// What is not there.
        missing: String,
        /// The cache.
        cache: PathBuf,
        /// What says that nothing may be fetched.
        why: &'static str,
    },
    /// No answer.
    #[error(
        "{endpoint} cannot be reached: {problem}; look at the network, at HTTPS_PROXY and at HF_ENDPOINT, or give a \
         folder or a .gguf file on this machine"
    )]
    Unreachable {
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        problem: String,
    },
    /// An answer that is none of those the hub is known to give.
    #[error("{url} answered {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// No such model, or one that is hidden.
    #[error(
        "{endpoint} has no model {id}{}; look at the name, or, if the model is private, log in: `hf auth login`, or \
         set HF_TOKEN",
        if *with_token { " that your token may see" } else { " that is open to all" }
    )]
    NoModel {
        /// The hub's address.
        endpoint: String,
        /// The model.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The model's owner decides who may have it.
    #[error(
        "{id} is gated: ask for access on {endpoint}/{id}{}",
        if *with_token {
            "; the token that was sent is not of an account that has it"
        } else {
            ", then log in (`hf auth login`, or set HF_TOKEN) and try again"
        }
    )]
    Gated {
        /// The hub's address.
        endpoint: String,
        /// The model.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// A token that is none.
    #[error("{endpoint} does not know the token of {place}: log in again with `hf auth login`, or set HF_TOKEN anew")]
    Token {
        /// The hub's address.
        endpoint: String,
        /// Where the token was found.
        place: String,
    },
    /// No such branch, tag or commit.
    #[error(
        "{id} has no revision '{revision}'; its page lists branches and tags, and main is taken where none is named"
    )]
    NoRevision {
        /// The model.
        id: String,
        /// The revision.
        revision: String,
    },
    /// No such file.
    #[error("{id} has no file {file}; its GGUF files: {known}")]
    NoFile {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// Those that there are.
        known: String,
    },
    /// Several files would do.
    #[error("{id} has several GGUF files{word}: name one as hf:{id}/FILE; there are {known}")]
    Several {
        /// The model.
        id: String,
        /// ` with 'Q4' in their names`, where that was asked for.
        word: String,
        /// Those that there are.
        known: String,
    },
    /// Weights of another kind, or none.
    #[error("{id} has neither *.safetensors with a config.json nor a GGUF file{found}; name a repository that has")]
    NoWeights {
        /// The model.
        id: String,
        /// `, but …`, where weights of another kind are there.
        found: String,
    },
    /// The connection broke.
    #[error("{file} of {id} broke off after {have} of {size} bytes: {problem}; run again, and it goes on from there")]
    Broken {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// Bytes that came and are kept.
        have: u64,
        /// Bytes of the whole file.
        size: u64,
        /// What broke it.
        problem: String,
    },
    /// Other bytes than the hub said.
    #[error(
        "{file} of {id} came damaged: its checksum is {found}, expected {expected}; it was thrown away, run again to \
         fetch it anew"
    )]
    Checksum {
        /// The model.
        id: String,
        /// The file.
        file: String,
        /// What came.
        found: String,
        /// What the hub said.
        expected: String,
    },
    /// The user wants no more.
    #[error("stopped; what was fetched is kept, and the same command goes on from there")]
    Stopped,
}

impl HubError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
