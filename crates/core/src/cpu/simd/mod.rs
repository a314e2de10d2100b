//! The instruction sets, behind one trait, and the one place that chooses among them.
//!
//! A kernel is written once over [`Simd`]; [`dispatch`] compiles it for each instruction set
//! (everything it calls must be `#[inline(always)]`) and runs the best one this processor has. The
//! environment variable `BFT_SIMD` (`avx512`, `avx2`, `portable`) asks for a lesser one, to find
//! out whether a kernel or an instruction set is at fault.

#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), path = "no_amx.rs")]
mod amx;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(in crate::cpu) mod panel;
mod portable;
pub(in crate::cpu) mod vector;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(in crate::cpu) use amx::{MatrixUnit, Tiles};
pub(in crate::cpu) use vector::{Kernel, Simd};

/// Instruction sets of this architecture, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 and a matrix unit.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

fn level() -> Level {
    static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        let asked = std::env::var("BFT_SIMD").unwrap_or_default();
        detect(&asked)
    })
}

#[cfg(target_arch = "x86_64")]
fn detect(asked: &str) -> Level {
    if asked == "portable" || !x86::has_avx2() {
        Level::Portable
    } else if asked == "avx2" || !x86::has_avx512() {
        Level::Avx2
    } else {
        #[cfg(target_os = "linux")]
        if asked != "avx512" && amx::has_amx() {
            return Level::Amx;
        }
        Level::Avx512
    }
}

#[cfg(target_arch = "aarch64")]
fn detect(asked: &str) -> Level {
    if asked == "portable" { Level::Portable } else { Level::Neon }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect(asked: &str) -> Level {
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    if asked != "portable" {
        return Level::Simd128;
    }
    let _ = asked;
    Level::Portable
}

/// What the kernels run on: the processor's best instructions that they know, or what `BFT_SIMD`
/// asks for.
pub fn instructions() -> &'static str {
    match level() {
        Level::Portable => "portable",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => "AVX-512",
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Level::Amx => "AVX-512 and AMX",
        #[cfg(target_arch = "aarch64")]
        Level::Neon => "NEON",
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Level::Simd128 => "SIMD of WebAssembly",
    }
}

/// Runs a kernel with the best instruction set there is.
#[inline]
pub(in crate::cpu) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        Level::Portable => kernel.run(portable::Portable::new()),
        // SAFETY: `detect` gives this level only where `has_avx2`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: `detect` gives this level only where `has_avx512`.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: `detect` gives this level only where `has_avx512`, as well as `has_amx`.
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Level::Amx => unsafe { x86::run_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run(neon::Neon::new()),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Level::Simd128 => kernel.run(wasm::Simd128::new()),
    }
}

/// The matrix unit, if this processor has one.
pub(in crate::cpu) fn matrix_unit() -> Option<MatrixUnit> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if level() == Level::Amx {
        // SAFETY: `detect` gives this level only where `has_amx`.
        return Some(unsafe { MatrixUnit::new() });
    }
    None
}
