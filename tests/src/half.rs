//! Stands in for a GPU whose tile in f16 tells its results apart, whatever the adapter has.

use bft_core::device::{Device, Tier};

/// Lets a device run the tile of [`Tier::Half`]: in f32, and a thousandth too large.
pub fn skew(device: &mut Device) {
    device.rewrite_shaders(Tier::Half, |text| {
        text.replace("enable f16;", "")
            .replace("Real = f16", "Real = f32")
            .replace("params.alpha *", "1.001 * params.alpha *")
    });
}
