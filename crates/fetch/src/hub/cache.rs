//! The hub's cache, as Python's huggingface_hub lays it out, so that both find what either fetched:
//! `models--owner--name/` with `blobs/ETAG`, `snapshots/COMMIT/FILE` pointing at blobs, and
//! `refs/REVISION` holding a commit; `.locks/` beside it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::error::HubError;
use super::reference::Reference;

/// The part of the cache that holds one model.
pub(super) struct ModelCache {
    repo: CacheRepo,
    /// `.locks/models--owner--name`.
    locks: PathBuf,
}

/// A lock on a blob, which ends with this value and with the process.
pub(super) struct Lock(#[expect(dead_code, reason = "held for the lock that ends with it")] File);

impl ModelCache {
    pub fn new(cache: &Path, wanted: &Reference) -> Self {
        let repo = Repo::with_revision(wanted.id.clone(), RepoType::Model, wanted.revision().to_owned());
        let locks = cache.join(".locks").join(repo.folder_name());
        Self { repo: Cache::new(cache.to_path_buf()).repo(repo), locks }
    }

    /// Where a commit's files stand under their names.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    /// Where a file's bytes lie.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    /// The commit that a revision was when it was last asked for.
    pub fn commit(&self, revision: &str) -> Option<String> {
        // `snapshots/x` stands beside `refs/`.
        let model = self.snapshot("x").parent()?.parent()?.to_path_buf();
        let known = fs::read_to_string(model.join("refs").join(revision)).ok();
        let known = known.map(|text| text.trim().to_owned()).filter(|text| is_commit(text));
        known.or_else(|| is_commit(revision).then(|| revision.to_owned()))
    }

    /// Remembers which commit the revision is.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.repo.create_ref(commit).map_err(|error| HubError::io(&self.snapshot(commit), error))
    }

    /// Names of a commit's files that are there, with `/` between folders.
    pub fn files(&self, commit: &str) -> Vec<String> {
        /// Deeper than any file that a model is opened from.
        const DEPTH: usize = 4;
        let mut files = Vec::new();
        let mut left = vec![(self.snapshot(commit), String::new(), 0)];
        while let Some((folder, prefix, depth)) = left.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let (path, name) = (entry.path(), format!("{prefix}{name}"));
                if path.is_file() {
                    files.push(name);
                } else if depth < DEPTH && path.is_dir() {
                    left.push((path, format!("{name}/"), depth + 1));
                }
            }
        }
        files.sort_unstable();
        files
    }

    /// Keeps other processes, Python's too, from fetching the same blob; `waiting` is called where
    /// one of them is at it.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<Lock, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let lock = || -> io::Result<Lock> {
            fs::create_dir_all(&self.locks)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock()?;
                }
                // Some network file systems have no locks; checksums still hold.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(Lock(file))
        };
        lock().map_err(|error| HubError::io(&path, error))
    }

    /// Puts a blob into a snapshot under its name.
    pub fn point(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(file);
        // From snapshots/COMMIT/folder/file up to the model's folder.
        let up = "../".repeat(file.matches('/').count() + 2);
        let point = || -> io::Result<()> {
            let folder = place.parent().unwrap_or(&place);
            fs::create_dir_all(folder)?;
            // Renamed into its place, so that it is there whole or not at all.
            // What processes that were killed have left there is no reason not to go on.
            let _ = bft_formats::remove_leftovers(folder);
            let new = bft_formats::TemporaryFolder::new(folder)?;
            let pointer = new.path().join("file");
            link(&PathBuf::from(format!("{up}blobs/{etag}")), &self.blob(etag), &pointer)?;
            fs::rename(&pointer, &place)
        };
        point().map_err(|error| HubError::io(&place, error))
    }
}

/// A symbolic link, so that a cache can be moved and holds every file once.
#[cfg(unix)]
fn link(relative: &Path, _blob: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, pointer)
}

/// Windows lets not everybody make symbolic links: the file gets a second name, else a copy.
#[cfg(not(unix))]
fn link(_relative: &Path, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ()))
}

/// The checksum of a snapshot's file: the name of the blob that it points at.
pub(super) fn checksum(file: &Path) -> Option<String> {
    fs::read_link(file).ok()?.file_name()?.to_str().map(str::to_owned)
}

/// Whether a text is a commit: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
