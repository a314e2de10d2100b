//! The test harness of bft: what tests of several crates share.

// A harness speaks to developers: where something is wrong it stops the test with the reason.
#![allow(clippy::unwrap_used)]

// A browser has no files.
#[cfg(not(target_arch = "wasm32"))]
pub mod fixture;
pub mod half;
pub mod matrices;
pub mod ops;
pub mod templates;

use std::io::Write;
use std::path::PathBuf;

use bft_core::device::{Device, DeviceRequest, Tier};

/// The GPU adapter that tests run on, a software one included.
///
/// No adapter is a failure, not a skip, unless `BFT_TEST_NO_GPU=1` says that this machine has none:
/// then `None`.
///
/// # Panics
/// Where there is no adapter.
#[must_use]
pub fn gpu() -> Option<Device> {
    if std::env::var_os("BFT_TEST_NO_GPU").is_some_and(|value| value == "1") {
        eprintln!("BFT_TEST_NO_GPU=1: GPU tests are left out");
        return None;
    }
    match pollster::block_on(Device::open(&DeviceRequest::Gpu(None))) {
        Ok(device) => Some(device),
        Err(error) => panic!("{error} (set BFT_TEST_NO_GPU=1 to leave the GPU tests out)"),
    }
}

/// Says which tiers of kernels a test is about to run and which it cannot, past the test runner,
/// which hides what passing tests print. `BFT_TEST_TIERS` (names between commas) demands tiers.
///
/// # Panics
/// Where a demanded tier is not there.
pub fn tell_tiers(gpu: &Device) {
    let (here, absent): (Vec<Tier>, Vec<Tier>) =
        Tier::ALL.into_iter().filter(|tier| *tier != Tier::Portable).partition(|tier| gpu.tiers().contains(tier));
    let names = |tiers: &[Tier]| match tiers {
        [] => "none".to_owned(),
        _ => tiers.iter().map(|tier| tier.name()).collect::<Vec<_>>().join(", "),
    };
    let said = format!(
        "{}: tiers beside the portable one that are tested: {}; NOT tested, as this adapter has them not: {}",
        gpu.info().name,
        names(&here),
        names(&absent)
    );
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{said}");
    let demanded = std::env::var("BFT_TEST_TIERS").unwrap_or_default();
    for name in demanded.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let found = here.iter().any(|tier| tier.name() == name);
        assert!(found, "BFT_TEST_TIERS demands {name}: {said}");
    }
}

/// The real SmolLM2-135M-Instruct GGUF file: `$BFT_SMOLLM2_GGUF`, or where `cargo xtask test` puts
/// it.
///
/// # Panics
/// Where it is not there: a test of the real model that tests nothing would lie.
#[must_use]
pub fn smollm2() -> PathBuf {
    cached("BFT_SMOLLM2_GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The folder of the real MiniLM: `$BFT_MINILM`, or where `cargo xtask test` puts it.
///
/// # Panics
/// Where it is not there.
#[must_use]
pub fn minilm() -> PathBuf {
    cached("BFT_MINILM", "bio/all-MiniLM-L6-v2")
}

fn cached(variable: &str, name: &str) -> PathBuf {
    let cache = || {
        let cache = std::env::var_os("BFT_CACHE").map(PathBuf::from);
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/bft"))
    };
    let path = std::env::var_os(variable).map_or_else(|| cache().join(name), PathBuf::from);
    assert!(path.exists(), "{} is not there: cargo xtask test fetches it, or set {variable}", path.display());
    path
}
