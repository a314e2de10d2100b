//! Which files of the caches were found to be what their checksums say, so that each is read whole
//! once and then known by its size and time of change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// What was seen of a file when it was last read whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    bytes: u64,
    /// Nanoseconds since 1970.
    changed: u64,
    /// The checksum that it has.
    sum: String,
}

impl Seen {
    /// What a file is like now, if its checksum is `sum`. `None` where the system tells no time.
    fn now(path: &Path, sum: &str) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self { bytes: metadata.len(), changed: u64::try_from(changed.as_nanos()).ok()?, sum: sum.to_owned() })
    }
}

/// The record, `verified.json` in bft's cache. It only saves work: where it cannot be read or
/// written, files are read whole again.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    place: Option<PathBuf>,
    files: BTreeMap<String, Seen>,
    /// Whether it says more than what was read.
    is_new: bool,
}

impl Verified {
    /// The record of a cache; of none where no cache is known.
    pub fn of(cache: Option<&Path>) -> Self {
        let place = cache.map(|cache| cache.join("verified.json"));
        let text = place.as_deref().and_then(|place| fs::read(place).ok());
        let files = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { place, files, is_new: false }
    }

    /// Whether a file was found to have the checksum `sum` and is still as it was then.
    pub fn knows(&self, path: &Path, sum: &str) -> bool {
        let seen = key(path).and_then(|key| self.files.get(&key));
        seen.is_some() && seen == Seen::now(path, sum).as_ref()
    }

    /// Remembers that a file has the checksum `sum`.
    pub fn add(&mut self, path: &Path, sum: &str) {
        if let (Some(key), Some(seen)) = (key(path), Seen::now(path, sum)) {
            self.files.insert(key, seen);
            self.is_new = true;
        }
    }

    /// Writes the record where it has become another, without files that are gone.
    pub fn save(mut self) {
        let Some(place) = self.place.as_ref().filter(|_| self.is_new) else { return };
        self.files.retain(|path, _| Path::new(path).exists());
        if let Ok(text) = serde_json::to_vec_pretty(&self.files) {
            let _ = bft_formats::write_atomic(place, |out| out.write_all(&text));
        }
    }
}

/// A file by its whole path, past links.
fn key(path: &Path) -> Option<String> {
    path.canonicalize().ok()?.into_os_string().into_string().ok()
}
