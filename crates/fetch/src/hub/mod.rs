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

use crate::verified::Verified;
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
    /// A file that was there is read whole, which takes a while: its name and size in bytes.
    Checking(&'e str, u64),
    /// A file is there.
    Placed(&'e str),
}

/// The hub and its cache.
pub struct Hub {
    environment: Environment,
    /// What forbids the network.
    offline: Option<&'static str>,
    /// Where it is remembered which files were found whole.
    record: Option<PathBuf>,
}

/// What hears of events; it may end the work.
type Hear<'h> = &'h mut dyn FnMut(HubEvent<'_>) -> ControlFlow<()>;

impl Hub {
    /// The hub that the environment names. `offline` is what forbids the network, for messages.
    ///
    /// # Errors
    /// Where no place for a cache is known.
    pub fn new(offline: Option<&'static str>) -> Result<Self, HubError> {
        Ok(Self { environment: Environment::read()?, offline, record: crate::cache().ok() })
    }

    /// Path of a model's folder or GGUF file in the cache; what is missing of it is fetched. What
    /// was there is read whole and checked where it is not as it was when that was last done.
    ///
    /// # Errors
    /// Each case has its sentence in [`HubError`].
    pub fn model(&self, wanted: &Reference, hear: Hear<'_>) -> Result<PathBuf, HubError> {
        let cache = ModelCache::new(&self.environment.cache, wanted);
        let mut verified = Verified::of(self.record.as_deref());
        let (commit, choice) = self.find(&cache, wanted, &mut verified, hear)?;
        let checked = check(&cache, &commit, &choice, &mut verified, hear);
        // What was read until a damaged file came need not be read again.
        verified.save();
        checked.map(|()| place(&cache, &commit, &choice))
    }

    /// Finds a model, in the cache or on the hub.
    fn find(
        &self,
        cache: &ModelCache,
        wanted: &Reference,
        verified: &mut Verified,
        hear: Hear<'_>,
    ) -> Result<Found, HubError> {
        if let Some(why) = self.offline {
            return self.cached(cache, wanted, why);
        }
        let Environment { cache: folder, endpoint, token, .. } = &self.environment;
        let client = Client::new(folder, endpoint.as_deref(), token.clone())?;
        match client.list(wanted) {
            Ok(listing) => {
                let choice = choose(wanted, &listing.files)?;
                Fetch { client: &client, cache, wanted, listing: &listing }.all(&choice, verified, hear)?;
                Ok((listing.commit, choice))
            }
            Err(error @ HubError::Unreachable { .. }) => match self.cached(cache, wanted, "this") {
                Ok(found) => {
                    let _ = hear(HubEvent::Unreachable(&error));
                    Ok(found)
                }
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// What the cache holds of a model, if it is enough.
    fn cached(&self, cache: &ModelCache, wanted: &Reference, why: &'static str) -> Result<Found, HubError> {
        let missing = |what: String| HubError::NotCached { missing: what, cache: self.environment.cache.clone(), why };
        let commit = cache.commit(wanted.revision()).ok_or_else(|| missing(wanted.to_string()))?;
        let files = cache.files(&commit);
        let choice = choose(wanted, &files).map_err(|error| match error {
            HubError::Several { .. } => error,
            _ => missing(format!("enough of {wanted}")),
        })?;
        match needed(cache, &commit, &choice)?.iter().find(|file| !files.contains(file)) {
            Some(file) => Err(missing(format!("{file} of {wanted}"))),
            None => Ok((commit, choice)),
        }
    }
}

/// A commit of a model, and what is opened of it.
type Found = (String, Choice);

/// The files that a model is opened from.
fn needed(cache: &ModelCache, commit: &str, choice: &Choice) -> Result<Vec<String>, HubError> {
    match choice {
        Choice::Gguf(parts) => Ok(parts.clone()),
        Choice::Folder { beside, weights: Some(file) } => Ok(beside.iter().chain([file]).cloned().collect()),
        Choice::Folder { beside, weights: None } => Ok([beside.clone(), shards(cache, commit)?].concat()),
    }
}

/// Compares a model's files with the checksums that the cache names them by.
fn check(
    cache: &ModelCache,
    commit: &str,
    choice: &Choice,
    verified: &mut Verified,
    hear: Hear<'_>,
) -> Result<(), HubError> {
    for file in needed(cache, commit, choice)? {
        let path = cache.snapshot(commit).join(&file);
        // Without links, as on Windows, nothing says which checksum a file has.
        let Some(sum) = cache::checksum(&path).filter(|sum| !verified.knows(&path, sum)) else { continue };
        let size = fs::metadata(&path).map_or(0, |it| it.len());
        if hear(HubEvent::Checking(&file, size)).is_break() {
            return Err(HubError::Stopped);
        }
        if let Some(found) = download::other_sum(&path, &sum).map_err(|error| HubError::io(&path, error))? {
            let path = path.canonicalize().unwrap_or(path);
            return Err(HubError::Damaged { path, found, expected: sum });
        }
        verified.add(&path, &sum);
    }
    Ok(())
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
    fn all(&self, choice: &Choice, verified: &mut Verified, hear: Hear<'_>) -> Result<(), HubError> {
        // The index, which names the weights, is beside them.
        if let Choice::Folder { beside, .. } = choice {
            beside.iter().try_for_each(|file| self.file(file, verified, hear))?;
        }
        let files = needed(self.cache, &self.listing.commit, choice)?;
        files.iter().try_for_each(|file| self.file(file, verified, hear))?;
        self.cache.remember(self.wanted.revision(), &self.listing.commit)
    }
}

#[cfg(test)]
mod tests;
