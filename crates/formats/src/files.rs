//! Writing files so that they are complete or absent, and hashing them; not for WebAssembly.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{FormatError, Result, Sha256};

/// Writes a file through a temporary one beside it: written, flushed to disk, renamed.
///
/// Readers see the old file or the whole new one, never a part, whatever happens meanwhile.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    // What was wrong with what was to be written comes out as it is.
    let fail = |e: io::Error| e.downcast().unwrap_or_else(|e| FormatError::io("write", path, e));
    // A device or pipe (/dev/stdout) is written to: a rename would put a file in its place.
    if std::fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
        let mut device = std::fs::File::options().write(true).open(path).map_err(fail)?;
        let mut buffered = io::BufWriter::new(&mut device);
        return write(&mut buffered).and_then(|()| buffered.flush()).map_err(fail);
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = temporary_file(folder).map_err(fail)?;
    {
        let mut buffered = io::BufWriter::new(temporary.as_file_mut());
        write(&mut buffered).map_err(fail)?;
        buffered.flush().map_err(fail)?;
    }
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist(path).map_err(|e| fail(e.error))?;
    sync_folder(folder).map_err(fail)
}

/// Makes a folder whose files `write` writes: it appears complete or not at all. An empty one may be
/// in its place.
pub(crate) fn new_folder(dir: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fail = |e| FormatError::io("write", dir, e);
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(fail)?;
    let temporary = TemporaryFolder::new(parent).map_err(fail)?;
    let inside = temporary.path();
    write(inside)?;
    std::fs::rename(inside, dir).map_err(fail)?;
    // Renamed away: there is nothing left to delete.
    let _ = temporary.folder.keep();
    sync_folder(parent).map_err(fail)
}

/// Temporary files and folders begin so, and go on with [`RANDOM`] letters and digits.
const PREFIX: &str = ".bft-";
const RANDOM: usize = 6;

/// Temporary files and folders are private by default; the finished ones are ordinary, with `mode`
/// less the process's mask.
fn temporary_settings(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// A file that is locked for as long as it is open, which tells [`remove_leftovers`] that somebody
/// still writes to it.
fn temporary_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    for _ in 0..TRIES {
        let file = temporary_settings(0o666).tempfile_in(folder)?;
        if is_locked(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
    Err(io::Error::other(TAKEN))
}

/// A folder that is removed with this value, and is locked like a temporary file where a system has
/// locks for folders.
pub struct TemporaryFolder {
    folder: tempfile::TempDir,
    _lock: Option<File>,
}

impl TemporaryFolder {
    /// Makes one in `parent`, with a name that [`remove_leftovers`] knows.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(parent: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let folder = temporary_settings(0o777).tempdir_in(parent)?;
            // Windows opens no folders; there leftovers are told by their age.
            let lock = if cfg!(unix) { Some(File::open(folder.path())?) } else { None };
            if lock.as_ref().is_none_or(|lock| is_locked(lock, folder.path())) {
                return Ok(Self { folder, _lock: lock });
            }
        }
        Err(io::Error::other(TAKEN))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// How often something temporary is made anew that another process took away at once.
const TRIES: usize = 100;
const TAKEN: &str = "temporary files vanish as soon as they are made: another program clears this folder";

/// Locks what was just made. Not so where somebody took it for a leftover before it was locked.
fn is_locked(file: &File, path: &Path) -> bool {
    // Some file systems know no locks; there leftovers are told by their age.
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && path.exists()
}

/// Without locks, what is older than this was left behind.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes temporary files and folders that killed processes have left in a folder, and tells which.
/// What a living process holds stays.
///
/// # Errors
/// Where the folder cannot be listed or something of it cannot be removed; none where there is no
/// such folder.
pub fn remove_leftovers(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e: io::Error| FormatError::io("clean", folder, e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(fail)?);
        if !(kind.is_file() || kind.is_dir()) || !is_temporary(&entry.file_name()) {
            continue;
        }
        // The lock is kept until it is gone.
        let lock = File::open(&path);
        let is_left = match lock.as_ref().map(File::try_lock) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(&entry),
        };
        if is_left {
            let gone = if kind.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match gone {
                // Another process cleans here, too.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                gone => {
                    gone.map_err(|e| FormatError::io("remove", &path, e))?;
                    removed.push(path);
                }
            }
        }
    }
    removed.sort();
    Ok(removed)
}

fn is_temporary(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|it| it.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > OLD)
}

/// Flushes a folder's own entries to disk, so that a rename survives a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix can open a folder for this.
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Lower-case hexadecimal SHA-256 of a file.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| FormatError::io("open", path, e))?;
    let mut hasher = Sha256::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = io::Read::read(&mut file, &mut buffer).map_err(|e| FormatError::io("read", path, e))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hasher.finish())
}
