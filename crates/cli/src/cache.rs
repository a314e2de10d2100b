//! What is kept between runs for the next one's sake: compiled shaders and measured kernels, by
//! adapter and driver.
//!
//! Nothing depends on it. What cannot be read, is damaged, or is of another version is made anew;
//! what cannot be written is not.

use std::path::PathBuf;

use bft_core::device::{Device, MeasuredChoice};
use serde::{Deserialize, Serialize};

use crate::open;

/// `$BFT_CACHE`, else the `bft` folder where this system keeps caches; `None` where there is no
/// such place.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("BFT_CACHE") {
        return Some(folder.into());
    }
    let home = || set("HOME").map(PathBuf::from);
    let place = if cfg!(windows) {
        set("LOCALAPPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        let named = set("XDG_CACHE_HOME").map(PathBuf::from);
        named.or_else(|| home().map(|home| home.join(".cache")))
    };
    place.map(|place| place.join("bft"))
}

fn file(identity: &str, kind: &str) -> Option<PathBuf> {
    Some(folder()?.join("gpu").join(format!("{identity}.{kind}")))
}

fn write(path: Option<PathBuf>, bytes: &[u8]) {
    let Some(path) = path else { return };
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return;
    }
    if let Some(folder) = path.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        open::sweep(folder);
        // Renamed into its place, so that two runs at once leave a whole file of one of them.
        let _ = bft_formats::write_atomic(&path, |out| out.write_all(bytes));
    }
}

/// Compiled shaders of an adapter, as [`Device::compiled`] gave them.
pub fn compiled(identity: &str) -> Option<Vec<u8>> {
    std::fs::read(file(identity, "pipelines")?).ok()
}

/// Keeps the shaders that a device has compiled and the kernels that were measured on it.
pub fn keep(device: &Device) {
    if let (Some(identity), Some(compiled)) = (device.identity(), device.compiled()) {
        write(file(identity, "pipelines"), &compiled);
    }
    let kernels = Kernels { bft: env!("CARGO_PKG_VERSION").to_owned(), choices: device.measured_choices() };
    if !kernels.choices.is_empty()
        && let Ok(text) = serde_json::to_vec_pretty(&kernels)
    {
        write(kernels_file(device), &text);
    }
}

/// Measured kernels of an adapter.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernels {
    /// Version of bft, whose kernels these are.
    bft: String,
    choices: Vec<MeasuredChoice>,
}

/// Where the measured kernels of a device are kept.
pub fn kernels_file(device: &Device) -> Option<PathBuf> {
    file(device.identity()?, "kernels.json")
}

/// Gives a device the kernels that were measured on it in earlier runs.
pub fn remember_kernels(device: &Device) {
    let Some(text) = kernels_file(device).and_then(|path| std::fs::read(path).ok()) else {
        return;
    };
    if let Ok(kernels) = serde_json::from_slice::<Kernels>(&text)
        && kernels.bft == env!("CARGO_PKG_VERSION")
    {
        device.remember_choices(&kernels.choices);
    }
}
