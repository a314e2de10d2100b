//! A pass as data: kernels, buffers, parameters and grids in order. A device runs it.

use bytemuck::Pod;

use super::buffer::{Matrix, View};
use super::cpu::Call;
use super::tier::Tier;

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

/// One of the kernels that can do a call.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// What it needs of the device in this variant.
    pub needs: Tier,
    /// Its number of workgroups.
    pub grid: [u32; 3],
}

impl Choice {
    /// A kernel that runs everywhere.
    #[must_use]
    pub fn portable(kernel: &'static Kernel, grid: [u32; 3]) -> Self {
        Self { kernel, needs: Tier::Portable, grid }
    }

    /// The same kernel with the text for another tier.
    #[must_use]
    pub fn needing(self, needs: Tier) -> Self {
        Self { needs, ..self }
    }

    /// Shader and tier.
    #[must_use]
    pub fn name(&self) -> String {
        let (shader, tier) = (self.kernel.shader, self.needs.name());
        format!("{shader} {tier}").trim_end().to_owned()
    }
}

/// One kernel call.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// At least one, all computing the same: the portable ones, from the best on software drivers to the best on real cards,
    /// then those that need more.
    pub(crate) choices: Vec<Choice>,
    /// What decides between the choices; calls of one class are measured once.
    pub(crate) class: [u32; 3],
    /// Multiplications and additions, of a product.
    pub(crate) flops: f64,
    pub(crate) defines: Defines,
    pub(crate) args: Vec<Arg>,
    pub(crate) params: [u8; MAX_PARAMS],
}

impl Dispatch {
    /// The first choice, whose CPU twin and bindings are those of all.
    pub(crate) fn kernel(&self) -> &'static Kernel {
        self.choices[0].kernel
    }
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

    /// Its kernel calls, in order.
    pub(crate) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Clear(_) | Command::Copy { .. } => None,
        })
    }

    /// The kernels of its calls, in order, with all that a device may choose from, and the variant of each.
    pub fn choices(&self) -> impl Iterator<Item = (Choice, Defines)> + '_ {
        self.dispatches().flat_map(|dispatch| {
            let choices = dispatch.choices.iter();
            choices.map(|choice| (*choice, dispatch.defines))
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
        let only = vec![Choice::portable(kernel, grid)];
        self.choose(only, [0; 3], 0.0, defines, params, args);
    }

    /// Appends a kernel call that several kernels can do; the device picks. They have the same bindings and parameters
    /// and come in order: the portable ones, from the best on software drivers to the best on real cards, then those that
    /// need more of a device. A measured choice holds for all calls of its `class`. `flops` are the call's multiplications and additions, or 0 where nobody counts them.
    ///
    /// # Panics
    /// Where arguments and bindings do not agree: a mistake of the calling op.
    pub fn choose<P: Pod>(
        &mut self,
        choices: Vec<Choice>,
        class: [u32; 3],
        flops: f64,
        defines: Defines,
        params: &P,
        args: Vec<Arg>,
    ) {
        let first = choices[0].kernel;
        for Choice { kernel, .. } in &choices {
            let what = format!("{}::{}", kernel.shader, kernel.entry);
            assert_eq!(kernel.bindings, first.bindings, "bindings of {what}");
            assert_eq!(args.len(), kernel.bindings.len(), "arguments of {what}");
            assert_eq!(size_of::<P>(), kernel.params_size, "parameters of {what}");
        }
        for (arg, (name, access)) in args.iter().zip(first.bindings) {
            let fits = matches!(arg, Arg::Matrix(_)) == (*access == Access::Matrix);
            assert!(fits, "{}::{}: binding {name} takes {access:?}", first.shader, first.entry);
        }
        if choices.iter().any(|choice| choice.grid.contains(&0)) {
            return;
        }
        let mut bytes = [0; MAX_PARAMS];
        bytes[..size_of::<P>()].copy_from_slice(bytemuck::bytes_of(params));
        self.commands.push(Command::Dispatch(Dispatch { choices, class, flops, defines, args, params: bytes }));
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
        assert_eq!(from.len(), to.len(), "copy of {} to {}", from.label(), to.label());
        assert_ne!(from.buffer.0.id, to.buffer.0.id, "copy within {}", from.label());
        if !from.is_empty() {
            self.commands.push(Command::Copy { from: from.clone(), to: to.clone() });
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
