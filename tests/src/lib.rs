//! The test harness of bft: what tests of several crates share.

// A harness speaks to developers: where something is wrong it stops the test with the reason.
#![allow(clippy::unwrap_used)]

pub mod fixture;
pub mod ops;
pub mod random;

use bft_core::device::{Device, DeviceRequest};

/// The GPU adapter that tests run on, a software one included.
///
/// No adapter is a failure, not a skip, unless `BFT_TEST_NO_GPU=1` says that this machine has none: then `None`.
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
