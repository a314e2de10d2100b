//! What a kernel is: an entry point of a shader, its CPU twin, and the bindings and parameters that
//! they share.

use bft_formats::DType;
use bytemuck::Pod;

/// How a kernel uses one of its bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// f32 read.
    Read,
    /// f32 written, never read: what was there does not matter.
    Write,
    /// f32 read and written.
    ReadWrite,
    /// u32 read.
    Ids,
    /// f32 read by the CPU twin alone: no binding on a GPU.
    CpuRead,
    /// f32 written by the CPU twin alone: no binding on a GPU.
    CpuWrite,
    /// A matrix in any format: two bindings on a GPU, quants (or values) and scales.
    Matrix,
}

impl Access {
    /// Whether a GPU binds it.
    pub(crate) fn on_gpu(self) -> bool {
        !matches!(self, Self::CpuRead | Self::CpuWrite)
    }
}

/// A field of a parameter struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, here and in the shader.
    pub name: &'static str,
    /// Its type as Rust writes it.
    pub kind: &'static str,
    /// Bytes before it.
    pub offset: usize,
}

/// A parameter struct that knows its fields: `params!` makes one.
pub trait Params: Pod {
    /// In order.
    const FIELDS: &'static [Field];
}

/// Declares a kernel's parameter struct together with the table of its fields, which a test
/// compares with the shader's `Params`.
macro_rules! params {
    ($(#[$attribute:meta])* struct $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$attribute])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        struct $name { $($(#[$doc])* $field: $kind),* }

        impl $crate::device::Params for $name {
            const FIELDS: &'static [$crate::device::Field] = &[$($crate::device::Field {
                name: stringify!($field),
                kind: stringify!($kind),
                offset: std::mem::offset_of!($name, $field),
            }),*];
        }
    };
}
pub(crate) use params;

/// One entry point of a shader and its CPU twin, with the bindings they share: `kernels!` makes
/// one.
#[derive(Debug)]
pub struct Kernel {
    /// File `shaders/{shader}.wgsl`.
    pub shader: &'static str,
    /// Entry point in it.
    pub entry: &'static str,
    /// Storage bindings from binding 1 on, in order; binding 0 holds the parameters.
    pub bindings: &'static [(&'static str, Access)],
    /// Fields of the parameter struct.
    pub params: &'static [Field],
    /// Bytes of the parameter struct.
    pub params_size: usize,
    /// The twin.
    pub cpu_f32: fn(Call<'_, f32>),
    /// The same function in f64, for gradient checks.
    pub cpu_f64: fn(Call<'_, f64>),
}

impl Kernel {
    /// Shader and entry point; the shader alone where it has but one, `product`.
    pub(crate) fn name(&self) -> String {
        if self.entry == "product" { self.shader.to_owned() } else { format!("{}::{}", self.shader, self.entry) }
    }
}

/// Declares kernels, and the list of them: `NAME = "shader"::entry(binding: Access, …) => twin;`,
/// where the twin is generic over f32 and f64.
macro_rules! kernels {
    ($list:ident of $params:ty: $(
        $(#[$doc:meta])*
        $name:ident = $shader:literal::$entry:ident($($binding:ident: $access:ident),* $(,)?) => $twin:ident;
    )+) => {
        $($(#[$doc])*
        static $name: $crate::device::Kernel = $crate::device::Kernel {
            shader: $shader,
            entry: stringify!($entry),
            bindings: &[$((stringify!($binding), $crate::device::Access::$access)),*],
            params: <$params as $crate::device::Params>::FIELDS,
            params_size: size_of::<$params>(),
            cpu_f32: $twin,
            cpu_f64: $twin,
        };)+

        static $list: &[&$crate::device::Kernel] = &[$(&$name),+];
    };
}
pub(crate) use kernels;

/// Text substitutions that make one variant of a shader (see `bft_shaders::source`).
pub type Defines = &'static [(&'static str, &'static str)];

/// A matrix operand on the CPU.
#[derive(Debug, Clone, Copy)]
pub enum CpuMatrix<'a, T> {
    /// `[rows, cols]` in a file's format, row-major blocks.
    Frozen {
        /// Format.
        dtype: DType,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// `rows * dtype.row_bytes(cols)` bytes.
        data: &'a [u8],
    },
    /// `[rows, cols]`, row-major.
    Dense {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// The elements.
        data: &'a [T],
    },
}

/// One argument of a CPU twin.
#[derive(Debug)]
pub enum CpuArg<'a, T> {
    /// For [`Access::Read`] and [`Access::CpuRead`].
    Read(&'a [T]),
    /// For [`Access::Write`], [`Access::ReadWrite`] and [`Access::CpuWrite`].
    Write(&'a mut [T]),
    /// For [`Access::Ids`].
    Ids(&'a [u32]),
    /// For [`Access::Matrix`].
    Matrix(CpuMatrix<'a, T>),
}

impl<'a, T> CpuArg<'a, T> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Read(_) => "Read",
            Self::Write(_) => "Write",
            Self::Ids(_) => "Ids",
            Self::Matrix(_) => "Matrix",
        }
    }

    /// The elements of an [`Access::Read`] binding.
    #[must_use]
    pub fn read(self) -> &'a [T] {
        match self {
            Self::Read(slice) => slice,
            other => unreachable!("binding is {}, not Read", other.kind()),
        }
    }

    /// The elements of an [`Access::Write`] or [`Access::ReadWrite`] binding.
    #[must_use]
    pub fn write(self) -> &'a mut [T] {
        match self {
            Self::Write(slice) => slice,
            other => unreachable!("binding is {}, not Write", other.kind()),
        }
    }

    /// The elements of an [`Access::Ids`] binding.
    #[must_use]
    pub fn ids(self) -> &'a [u32] {
        match self {
            Self::Ids(slice) => slice,
            other => unreachable!("binding is {}, not Ids", other.kind()),
        }
    }

    /// The operand of an [`Access::Matrix`] binding.
    #[must_use]
    pub fn matrix(self) -> CpuMatrix<'a, T> {
        match self {
            Self::Matrix(matrix) => matrix,
            other => unreachable!("binding is {}, not Matrix", other.kind()),
        }
    }
}

/// A kernel call as its CPU twin sees it.
#[derive(Debug)]
pub struct Call<'a, T> {
    pub(crate) params: &'a [u8],
    pub(crate) args: Vec<CpuArg<'a, T>>,
}

impl<'a, T> Call<'a, T> {
    /// The parameter struct.
    #[must_use]
    pub fn params<P: Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.params[..size_of::<P>()])
    }

    /// The arguments, in the order of the kernel's bindings.
    ///
    /// # Panics
    /// Where the kernel has another number of bindings: a mistake of the op.
    #[must_use]
    pub fn args<const N: usize>(self) -> [CpuArg<'a, T>; N] {
        let count = self.args.len();
        self.args.try_into().unwrap_or_else(|_| panic!("{count} bindings, {N} expected"))
    }
}
