//! Models from the hub: into the cache that Python's huggingface_hub keeps, each file once, checked
//! against the hub's checksum, and there whole or not at all.
//!
//! A name is asked for at the hub once a run, for which commit it is; files that are there are not
//! asked for. Without the network, or where it is forbidden, what the cache holds is taken.

mod cache;
mod choice;
mod client;
mod download;
mod environment;
mod error;
mod reference;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use choice::{Choice, INDEX, choose};
use client::{Client, Listing};
use environment::Environment;

pub use environment::offline;
pub use error::HubError;
pub use reference::{Reference, Which};

use cache::ModelCache;

/// What [`Hub::model`] has to say while it works.
#[derive(Debug, Clone, Copy)]
pub enum HubEvent<'e> {
    /// The hub does not answer; what the cache holds is taken.
    Unreachable(&'e HubError),
    /// Another process is fetching this file.
    Waiting(&'e str),
    /// A file is being fetched: its name, bytes that are there, bytes in all.
    Fetching(&'e str, u64, u64),
    /// A file is there.
    Placed(&'e str),
}

/// The hub and its cache.
pub struct Hub {
    environment: Environment,
    /// What forbids the network.
    offline: Option<&'static str>,
}

/// What hears of events; it may end the work.
type Hear<'h> = &'h mut dyn FnMut(HubEvent<'_>) -> ControlFlow<()>;

impl Hub {
    /// The hub that the environment names. `offline` is what forbids the network, for messages.
    ///
    /// # Errors
    /// Where no place for a cache is known.
    pub fn new(offline: Option<&'static str>) -> Result<Self, HubError> {
        Ok(Self { environment: Environment::read()?, offline })
    }

    /// Path of a model's folder or GGUF file in the cache; what is missing of it is fetched.
    ///
    /// # Errors
    /// Each case has its sentence in [`HubError`].
    pub fn model(&self, wanted: &Reference, hear: Hear<'_>) -> Result<PathBuf, HubError> {
        let cache = ModelCache::new(&self.environment.cache, wanted);
        if let Some(why) = self.offline {
            return self.cached(&cache, wanted, why);
        }
        let Environment { cache: folder, endpoint, token, .. } = &self.environment;
        let client = Client::new(folder, endpoint.as_deref(), token.clone())?;
        match client.list(wanted) {
            Ok(listing) => {
                let choice = choose(wanted, &listing.files)?;
                let fetch = Fetch { client: &client, cache: &cache, wanted, listing: &listing };
                fetch.all(&choice, hear)
            }
            Err(error @ HubError::Unreachable { .. }) => match self.cached(&cache, wanted, "this") {
                Ok(path) => {
                    let _ = hear(HubEvent::Unreachable(&error));
                    Ok(path)
                }
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// What the cache holds of a model, if it is enough.
    fn cached(&self, cache: &ModelCache, wanted: &Reference, why: &'static str) -> Result<PathBuf, HubError> {
        let missing = |what: String| HubError::NotCached { missing: what, cache: self.environment.cache.clone(), why };
        let commit = cache.commit(wanted.revision()).ok_or_else(|| missing(wanted.to_string()))?;
        let files = cache.files(&commit);
        let choice = choose(wanted, &files).map_err(|error| match error {
            HubError::Several { .. } => error,
            _ => missing(format!("enough of {wanted}")),
        })?;
        let needed = match &choice {
            Choice::Folder { weights: None, .. } => shards(cache, &commit)?,
            _ => Vec::new(),
        };
        match needed.iter().find(|file| !files.contains(file)) {
            Some(file) => Err(missing(format!("{file} of {wanted}"))),
            None => Ok(place(cache, &commit, &choice)),
        }
    }
}

/// What is opened: the folder, or the GGUF file's first part.
fn place(cache: &ModelCache, commit: &str, choice: &Choice) -> PathBuf {
    let snapshot = cache.snapshot(commit);
    match choice {
        Choice::Folder { .. } => snapshot,
        Choice::Gguf(parts) => snapshot.join(&parts[0]),
    }
}

/// The files of weights that the index in a snapshot names, each once.
fn shards(cache: &ModelCache, commit: &str) -> Result<Vec<String>, HubError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let path = cache.snapshot(commit).join(INDEX);
    let index = fs::read(&path).map_err(|error| HubError::io(&path, error))?;
    let wrong = |problem: String| HubError::io(&path, std::io::Error::other(problem));
    let index: Index = serde_json::from_slice(&index).map_err(|error| wrong(error.to_string()))?;
    let mut files: Vec<String> = index.weight_map.into_values().collect();
    files.sort_unstable();
    files.dedup();
    match files.iter().find(|file| !reference::is_safe_path(file)) {
        Some(file) => Err(wrong(format!("it names weights in '{}', which is no file beside it", file.escape_debug()))),
        None => Ok(files),
    }
}

/// The fetching of one commit of a model.
struct Fetch<'f> {
    client: &'f Client,
    cache: &'f ModelCache,
    wanted: &'f Reference,
    listing: &'f Listing,
}

impl Fetch<'_> {
    /// Fetches what was chosen; what is small comes first, so that a model that lacks something is
    /// told before its weights come.
    fn all(&self, choice: &Choice, hear: Hear<'_>) -> Result<PathBuf, HubError> {
        match choice {
            Choice::Folder { beside, weights } => {
                beside.iter().try_for_each(|file| self.file(file, hear))?;
                let weights = match weights {
                    Some(file) => vec![file.clone()],
                    None => shards(self.cache, &self.listing.commit)?,
                };
                weights.iter().try_for_each(|file| self.file(file, hear))?;
            }
            Choice::Gguf(parts) => parts.iter().try_for_each(|file| self.file(file, hear))?,
        }
        self.cache.remember(self.wanted.revision(), &self.listing.commit)?;
        Ok(place(self.cache, &self.listing.commit, choice))
    }
}

#[cfg(test)]
mod tests;
