//! A pass as data: kernels, buffers, parameters and grids in order. A device runs it.

use bytemuck::Pod;

use super::buffer::{Matrix, View};
use super::cpu::Call;

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
    /// A matrix in any format: two bindings on a GPU, quants (or values) and scales.
    Matrix,
}

/// One entry point of a shader and its CPU twin, with the bindings they share.
#[derive(Debug)]
pub struct Kernel {
    /// File `shaders/{shader}.wgsl`.
    pub shader: &'static str,
    /// Entry point in it.
    pub entry: &'static str,
    /// Storage bindings from binding 1 on, in order; binding 0 holds the parameters.
    pub bindings: &'static [(&'static str, Access)],
    /// Bytes of the parameter struct.
    pub params_size: usize,
    /// The twin.
    pub cpu_f32: fn(Call<'_, f32>),
    /// The twin in f64, for gradient checks.
    pub cpu_f64: fn(Call<'_, f64>),
}

/// Text substitutions that make one variant of a shader (see `bft_shaders::source`).
pub type Defines = &'static [(&'static str, &'static str)];

/// One argument of a kernel call.
#[derive(Debug, Clone)]
pub enum Arg {
    /// A range of a buffer.
    View(View),
    /// A matrix in any format.
    Matrix(Matrix),
}

impl From<&View> for Arg {
    fn from(view: &View) -> Self {
        Self::View(view.clone())
    }
}

impl From<&Matrix> for Arg {
    fn from(matrix: &Matrix) -> Self {
        Self::Matrix(matrix.clone())
    }
}

/// Largest parameter struct, in bytes.
pub const MAX_PARAMS: usize = 64;

/// One kernel call.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pub(crate) kernel: &'static Kernel,
    pub(crate) defines: Defines,
    pub(crate) args: Vec<Arg>,
    pub(crate) params: [u8; MAX_PARAMS],
    pub(crate) grid: [u32; 3],
}

/// One step of a recording.
#[derive(Debug, Clone)]
pub enum Command {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// Sets a range to zero.
    Clear(View),
    /// Copies elements; both views have the same length and kind.
    Copy {
        /// Source.
        from: View,
        /// Destination, in another buffer.
        to: View,
    },
}

/// Commands in the order in which they take effect.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    pub(crate) commands: Vec<Command>,
}

impl Recording {
    /// An empty recording.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of commands.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The kernels of its calls, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &'static Kernel> + '_ {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch.kernel),
            Command::Clear(_) | Command::Copy { .. } => None,
        })
    }

    /// Appends a kernel call. `grid` is the number of workgroups; an empty grid appends nothing.
    ///
    /// # Panics
    /// Where arguments and bindings do not agree: a mistake of the calling op.
    pub fn dispatch<P: Pod>(
        &mut self,
        kernel: &'static Kernel,
        defines: Defines,
        params: &P,
        args: Vec<Arg>,
        grid: [u32; 3],
    ) {
        assert_eq!(
            args.len(),
            kernel.bindings.len(),
            "arguments of {}::{}",
            kernel.shader,
            kernel.entry
        );
        assert_eq!(
            size_of::<P>(),
            kernel.params_size,
            "parameters of {}::{}",
            kernel.shader,
            kernel.entry
        );
        for (arg, (name, access)) in args.iter().zip(kernel.bindings) {
            let fits = matches!(arg, Arg::Matrix(_)) == (*access == Access::Matrix);
            assert!(
                fits,
                "{}::{}: binding {name} takes {access:?}",
                kernel.shader, kernel.entry
            );
        }
        if grid.contains(&0) {
            return;
        }
        let mut bytes = [0; MAX_PARAMS];
        bytes[..size_of::<P>()].copy_from_slice(bytemuck::bytes_of(params));
        self.commands.push(Command::Dispatch(Dispatch {
            kernel,
            defines,
            args,
            params: bytes,
            grid,
        }));
    }

    /// Appends a fill with zeros.
    pub fn clear(&mut self, view: &View) {
        if !view.is_empty() {
            self.commands.push(Command::Clear(view.clone()));
        }
    }

    /// Appends a copy of `from` to `to`.
    ///
    /// # Panics
    /// Where the lengths differ or both views are of one buffer: a mistake of the calling code.
    pub fn copy(&mut self, from: &View, to: &View) {
        assert_eq!(
            from.len(),
            to.len(),
            "copy of {} to {}",
            from.label(),
            to.label()
        );
        assert_ne!(
            from.buffer.0.id,
            to.buffer.0.id,
            "copy within {}",
            from.label()
        );
        if !from.is_empty() {
            self.commands.push(Command::Copy {
                from: from.clone(),
                to: to.clone(),
            });
        }
    }
}

/// Grid of at least `groups` workgroups in one logical dimension, folded so that none exceeds WebGPU's 65,535.
/// Shaders unfold it with `flat_group` of `shared/grid.wgsl`.
#[must_use]
pub fn grid_1d(groups: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    if groups <= MAX {
        return [groups as u32, 1, 1];
    }
    let y = groups.div_ceil(MAX);
    [groups.div_ceil(y) as u32, y as u32, 1]
}
