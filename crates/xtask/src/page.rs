//! The page in `web/`: its packages, its build, its tests.

use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, heading};
use crate::system;

fn folder() -> PathBuf {
    shell::root().join("web")
}

fn npm(arguments: &[&str]) -> Result<(), String> {
    shell::run(Command::new("npm").current_dir(folder()).args(arguments).env("NO_UPDATE_NOTIFIER", "1"))
}

/// Gets the pinned packages where the lock file is newer than what was installed.
pub fn packages() -> Result<(), String> {
    system::node()?;
    let changed = |path: &str| folder().join(path).metadata().and_then(|m| m.modified());
    let installed = changed("node_modules/.package-lock.json");
    let pinned = changed("package-lock.json").map_err(|error| format!("web/package-lock.json: {error}"))?;
    if installed.is_ok_and(|installed| installed >= pinned) {
        return Ok(());
    }
    npm(&["ci", "--no-audit", "--no-fund"])
}

/// Checks the types and writes `web/dist`.
pub fn build() -> Result<(), String> {
    packages()?;
    npm(&["run", "--silent", "build"])
}

/// Serves what was built on this machine, as any static host would.
pub fn serve(port: &str) -> Result<(), String> {
    let serve = ["run", "--silent", "serve", "--", "--strictPort", "--port"];
    npm(&[&serve[..], &[port]].concat())
}

/// Drives what was built in Chromium.
pub fn drive() -> Result<(), String> {
    heading("The page, in Chromium");
    system::chromium()?;
    npm(&["run", "--silent", "test"])
}
