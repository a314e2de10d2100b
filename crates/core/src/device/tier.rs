//! What a kernel may need of a device beyond WebGPU's core. A kernel is offered only where the
//! device has it.

use serde::{Deserialize, Serialize};

use super::kernel::Defines;

/// The needs of a kernel, and what the text of its shader is given for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// None: it runs everywhere, in a browser too.
    Portable,
    /// Sums over the lanes of a subgroup, without workgroup memory.
    Subgroups,
    /// Matrices of 8 × 8 in f32, multiplied by a subgroup together.
    Matrices,
    /// Tiles and the sums of eight products in f16, sums of these in f32. Less accurate: taken only
    /// where [`Precision::F16`] allows it.
    Half,
    /// Matrices of 8 × 8 in f16 with sums in f32. Less accurate, too.
    HalfMatrices8,
    /// The same of 16 × 16.
    HalfMatrices16,
}

/// How exact the kernels of a device are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As f32, in every tier.
    #[default]
    F32,
    /// Products of the forward pass may be computed in f16, where no more than eight are summed.
    /// Their sums and gradients stay in f32. A factor or a sum of eight beyond 65,504 becomes
    /// infinite.
    F16,
}

/// Which kernels a GPU takes where several can do a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelPreference {
    /// What was measured, else [`Self::Software`] on software drivers and [`Self::Card`] on real
    /// cards.
    #[default]
    Measured,
    /// The portable ones made for software drivers.
    Software,
    /// The portable ones made for real cards.
    Card,
    /// Those of a tier where the device has it, less accurate or not; else as measured.
    Tier(Tier),
}

/// Invocations of a workgroup whose four subgroups multiply matrices: WebGPU's largest workgroup.
const MOST_LANES: u32 = 256;

/// Lanes that add up a row's sum by shuffles: no subgroup may be smaller.
const FEWEST_LANES: u32 = 8;

impl Tier {
    /// Every tier, the portable one first.
    pub const ALL: [Self; 6] =
        [Self::Portable, Self::Subgroups, Self::Matrices, Self::Half, Self::HalfMatrices8, Self::HalfMatrices16];

    /// Its name in lists: empty for the portable one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "",
            Self::Subgroups => "subgroups",
            Self::Matrices => "matrices",
            Self::Half => "f16",
            Self::HalfMatrices8 => "f16 matrices of 8",
            Self::HalfMatrices16 => "f16 matrices of 16",
        }
    }

    /// Whether its results are as exact as those of the portable kernels.
    #[must_use]
    pub fn is_exact(self) -> bool {
        !matches!(self, Self::Half | Self::HalfMatrices8 | Self::HalfMatrices16)
    }

    /// Rows and columns of the matrices that its subgroups multiply.
    pub(crate) fn side(self) -> Option<usize> {
        match self {
            Self::Portable | Self::Subgroups | Self::Half => None,
            Self::Matrices | Self::HalfMatrices8 => Some(8),
            Self::HalfMatrices16 => Some(16),
        }
    }

    /// What its shaders' text is given, before the definitions of the variant. `lanes` is
    /// [`Tier::lanes`].
    fn defines(self) -> Defines {
        match self {
            Self::Portable => &[("REAL", "f32"), ("SUM", "lanes")],
            Self::Subgroups => &[("REAL", "f32"), ("SUM", "subgroups")],
            Self::Matrices => &[("REAL", "f32"), ("SIDE", "8")],
            Self::Half => &[("REAL", "f16")],
            Self::HalfMatrices8 => &[("REAL", "f16"), ("SIDE", "8")],
            Self::HalfMatrices16 => &[("REAL", "f16"), ("SIDE", "16")],
        }
    }

    /// The text of a shader for this tier and a variant; `lanes` are those of a workgroup that
    /// multiplies matrices.
    ///
    /// # Errors
    /// Where the shader or one of its includes does not exist.
    pub fn source(self, shader: &str, variant: Defines, lanes: u32) -> Result<String, bft_shaders::MissingFile> {
        let enable = match self {
            Self::Portable | Self::Subgroups => "",
            Self::Matrices => "enable wgpu_cooperative_matrix;\n",
            Self::Half => "enable f16;\n",
            Self::HalfMatrices8 | Self::HalfMatrices16 => "enable f16;\nenable wgpu_cooperative_matrix;\n",
        };
        let lanes = lanes.to_string();
        let mut defines = [self.defines(), variant].concat();
        defines.push(("LANES", &lanes));
        Ok(enable.to_owned() + &bft_shaders::source(shader, &defines)?)
    }

    /// The optional features of a device that it takes.
    pub(super) fn features(self) -> wgpu::Features {
        match self {
            Self::Portable => wgpu::Features::empty(),
            Self::Subgroups => wgpu::Features::SUBGROUP,
            Self::Matrices => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            Self::Half => wgpu::Features::SHADER_F16,
            Self::HalfMatrices8 | Self::HalfMatrices16 => {
                wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            }
        }
    }

    /// Whether an adapter has what it takes.
    pub(super) fn is_offered_by(self, adapter: &wgpu::Adapter) -> bool {
        // A browser's device asks for nothing: a page runs alike everywhere.
        if cfg!(target_arch = "wasm32") {
            return self == Self::Portable;
        }
        let info = adapter.get_info();
        let multiplies = |side: u32, factors: wgpu::CooperativeScalarType| {
            lanes(&info) <= MOST_LANES
                && adapter.cooperative_matrix_properties().iter().any(|found| {
                    [found.m_size, found.n_size, found.k_size] == [side; 3]
                        && found.ab_type == factors
                        && found.cr_type == wgpu::CooperativeScalarType::F32
                })
        };
        adapter.features().contains(self.features())
            && match self {
                Self::Portable | Self::Half => true,
                Self::Subgroups => info.subgroup_min_size >= FEWEST_LANES,
                Self::Matrices => multiplies(8, wgpu::CooperativeScalarType::F32),
                Self::HalfMatrices8 => multiplies(8, wgpu::CooperativeScalarType::F16),
                Self::HalfMatrices16 => multiplies(16, wgpu::CooperativeScalarType::F16),
            }
    }
}

/// Invocations of a workgroup with four subgroups, where they are of the adapter's largest size.
pub(super) fn lanes(info: &wgpu::AdapterInfo) -> u32 {
    // Metal's are of 32 on all cards; wgpu gives a range that no card has.
    let subgroup = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
    4 * subgroup
}
