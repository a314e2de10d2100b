//! AMX, the matrix unit of Intel's servers since Sapphire Rapids: it multiplies tiles of bf16 and
//! adds them up in f32.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;

use super::panel::{FETCHED, STEP, SUMS, Sums, TILE};

/// Asks the kernel, too, which keeps 8 KiB of tiles for a thread only if the process was promised
/// them.
pub(super) fn has_amx() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    let instructions = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES;
    // SAFETY: the system call takes two numbers and touches no memory of this process.
    instructions && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// A value exists only where there are tiles: `matrix_unit` alone makes one.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct MatrixUnit(());

impl MatrixUnit {
    /// # Safety
    /// [`has_amx`].
    pub(super) unsafe fn new() -> Self {
        MatrixUnit(())
    }

    /// Gives this thread eight tiles of 16 rows of 64 bytes, until dropped.
    /// # Safety
    /// No others live on this thread, nor does it do another task meanwhile that might take some.
    pub(in crate::cpu) unsafe fn tiles(self) -> Tiles {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // The palette, of which there is one.
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // Bytes of a row.
            config.0[48 + tile] = 16; // Rows.
        }
        // SAFETY: `self` exists only where there is AMX; the instruction reads the 64 bytes of
        // `config`.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Tiles(PhantomData)
    }
}

/// Tiles of this thread.
pub(in crate::cpu) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `self` exists only where `ldtilecfg` ran on this thread; what the tiles hold is
        // not read again.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Two tiles of A (4 and 5) or of B (6 and 7), the part that begins at an offset within the step.
macro_rules! load {
    ("a", $at:literal) => {
        concat!("tileloadd tmm4, [{a} + {row} + ", $at, "]\n", "tileloadd tmm5, [{a} + {row} + 1024 + ", $at, "]")
    };
    ("b", $at:literal) => {
        concat!("tileloadd tmm6, [{b} + {row} + ", $at, "]\n", "tileloadd tmm7, [{b} + {row} + 1024 + ", $at, "]")
    };
}

/// One product of tiles, while eight lines of the next step are on their way to the first cache.
macro_rules! product {
    ($product:literal, $of:literal, $at:literal, $more:literal) => {
        concat!(
            "tdpbf16ps ",
            $product,
            "\n",
            ".irp line, 0, 64, 128, 192, 256, 320, 384, 448\n",
            "prefetcht0 [{",
            $of,
            "} + 6144 + ",
            $at,
            " + ",
            $more,
            " + \\line]\n",
            ".endr"
        )
    };
}

/// Both tiles of A times both of B, while the part of the next step that lies at an offset is
/// fetched.
macro_rules! multiply {
    ($of:literal, $at:literal) => {
        concat!(
            product!("tmm0, tmm4, tmm6", $of, $at, "0"),
            "\n",
            product!("tmm1, tmm4, tmm7", $of, $at, "512"),
            "\n",
            product!("tmm2, tmm5, tmm6", $of, $at, "1024"),
            "\n",
            product!("tmm3, tmm5, tmm7", $of, $at, "1536")
        )
    };
}

impl Tiles {
    /// The sums of one panel of A times one of B over all their steps, as four tiles that follow
    /// each other: rows 0 to 15 with columns 0 to 15, with columns 16 to 31, then rows 16 to 31.
    /// Each step asks for [`FETCHED`] words from `ahead` on for the second cache.
    ///
    /// The parts of a factor are 2⁻⁸ of each other. Of their nine products the six that f32 can
    /// hold are added, in an order that loads two new tiles for each but the first.
    /// # Safety
    /// `steps > 0` steps, as [`crate::cpu::split`] packs them, readable at `a` and at `b`.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn multiply(
        &self,
        a: *const f32,
        b: *const f32,
        ahead: *const f32,
        steps: usize,
        sums: &mut Sums,
    ) {
        const { assert!(SUMS == 4 * TILE && TILE == 256 && STEP == 6 * TILE && FETCHED == 256) };
        // SAFETY: tiles are configured as long as `self` lives; a step reads 4 · STEP = 6 KiB of
        // each operand, of which `steps` are readable; the four tiles that are stored fill the 4
        // KiB of `sums`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                load!("a", "0"),
                load!("b", "4096"),
                multiply!("a", "0"),
                load!("b", "2048"),
                multiply!("b", "4096"),
                load!("a", "2048"),
                multiply!("b", "2048"),
                load!("b", "0"),
                multiply!("a", "2048"),
                load!("a", "0"),
                multiply!("b", "0"),
                load!("a", "4096"),
                multiply!("a", "4096"),
                ".irp line, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960",
                "prefetcht1 [{ahead} + \\line]",
                ".endr",
                // A store after more than about a hundred products costs a thousand cycles
                // (measured): here is one in time.
                "tilestored [{sums} + {row}], tmm5",
                "add {ahead}, 1024",
                "add {a}, 6144",
                "add {b}, 6144",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                ahead = inout(reg) ahead => _,
                steps = inout(reg) steps => _,
                row = in(reg) 64usize,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
