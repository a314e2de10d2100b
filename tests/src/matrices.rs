//! Stands in for a driver with cooperative matrices: rewrites a shader's matrices to plain
//! arithmetic, of which each lane of a subgroup does its share.
//!
//! So the kernels' tiles, borders and sums are run on every machine, in each size. What a driver
//! makes of real matrices is tested by `gpu_matches_cpu` where an adapter has them.

use bft_core::device::{Device, Tier};

/// The tiers with matrices.
pub const TIERS: [Tier; 3] = [Tier::Matrices, Tier::HalfMatrices8, Tier::HalfMatrices16];

/// Lets a device run the kernels of [`TIERS`] by the stand-in. In f32 throughout: what they compute
/// is to be that of the portable kernels.
pub fn emulate(device: &mut Device) {
    for tier in TIERS {
        device.rewrite_shaders(tier, rewrite);
    }
}

/// The text of a shader without matrices.
#[must_use]
pub fn rewrite(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("enable ") {
            continue;
        }
        let calls = [
            ("coopLoadT<Left>(&left[", "rows_of_left("),
            ("coopLoadT<Right>(&right[", "rows_of_right("),
            ("coopLoad<Right>(&right[", "columns_of_right("),
            ("coopStoreT(", "store_rows("),
            ("coopMultiplyAdd(", "multiply_add("),
        ];
        let mut line = line.to_owned();
        if calls.iter().any(|(call, _)| line.contains(call)) {
            for (call, stand_in) in calls {
                line = line.replace(call, stand_in);
            }
            line = line.replace("&sums[", "").replace("], ", ", ");
        }
        for (role, stand_in) in [("A>", "Factor"), ("B>", "Factor"), ("C>", "array<f32, SHARE>")] {
            if line.contains("coop_mat") && line.contains(role) {
                let alias = line.split(" = ").next().unwrap_or_default();
                line = format!("{alias} = {stand_in};");
            }
        }
        line = line.replace("let block = block(lane)", "own = lane % GROUP; let block = block(lane)");
        out.push_str(&line.replace("alias Real = f16", "alias Real = f32"));
        out.push('\n');
    }
    out + STAND_INS
}

const STAND_INS: &str = "
// Where a factor lies in workgroup memory: its first element and the distances of rows and columns.
struct Factor { at: u32, row: u32, column: u32 }

const GROUP: u32 = LANES / 4u;
const SHARE: u32 = SIDE * SIDE / GROUP;

var<private> own: u32;

fn rows_of_left(at: u32, pitch: u32) -> Factor {
    return Factor(at, pitch, 1u);
}

fn rows_of_right(at: u32, pitch: u32) -> Factor {
    return Factor(at, pitch, 1u);
}

fn columns_of_right(at: u32, pitch: u32) -> Factor {
    return Factor(at, 1u, pitch);
}

fn multiply_add(a: Factor, b: Factor, sum: array<f32, SHARE>) -> array<f32, SHARE> {
    var c = sum;
    for (var n = 0u; n < SHARE; n++) {
        let row = a.at + (own + n * GROUP) / SIDE * a.row;
        let column = b.at + (own + n * GROUP) % SIDE * b.column;
        for (var k = 0u; k < SIDE; k++) {
            c[n] += left[row + k * a.column] * right[column + k * b.row];
        }
    }
    return c;
}

fn store_rows(sum: array<f32, SHARE>, at: u32, pitch: u32) {
    var c = sum;
    for (var n = 0u; n < SHARE; n++) {
        let element = own + n * GROUP;
        sums[at + element / SIDE * pitch + element % SIDE] = c[n];
    }
}
";
