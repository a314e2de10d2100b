//! Writing files so that they are complete or absent, and hashing them; not for WebAssembly.

use std::io::{self, Write};
use std::path::Path;

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
    let mut builder = tempfile::Builder::new();
    temporary_settings(&mut builder, 0o666);
    let mut temporary = builder.tempfile_in(folder).map_err(fail)?;
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
    let mut builder = tempfile::Builder::new();
    temporary_settings(&mut builder, 0o777);
    let temporary = builder.tempdir_in(parent).map_err(fail)?;
    let inside = temporary.path();
    write(inside)?;
    std::fs::rename(inside, dir).map_err(fail)?;
    // Renamed away: there is nothing left to delete.
    let _ = temporary.keep();
    sync_folder(parent).map_err(fail)
}

/// Temporary files and folders are private by default; the finished ones are ordinary, with `mode`
/// less the process's mask.
pub(crate) fn temporary_settings(builder: &mut tempfile::Builder<'_, '_>, mode: u32) {
    builder.prefix(".bft-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
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
