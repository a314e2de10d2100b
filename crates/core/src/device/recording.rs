//! A pass as data: kernels, buffers, parameters and grids in order. A device runs it.

use super::buffer::{Matrix, View};
use super::kernel::{Access, Defines, Kernel, Params};
use super::tier::{KernelPreference, Tier};

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

/// The kernels that can do a call. They have the same bindings and parameters and compute the same.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The best portable one on software drivers. Its CPU twin is that of all.
    pub software: Choice,
    /// The best portable one on real cards, often the same.
    pub card: Choice,
    /// Those that need more of a device.
    pub more: Vec<Choice>,
}

impl Choices {
    /// One portable kernel.
    #[must_use]
    pub fn only(choice: Choice) -> Self {
        Self { software: choice, card: choice, more: Vec::new() }
    }

    /// All of them, each once.
    pub fn all(&self) -> impl Iterator<Item = Choice> + '_ {
        let differ = !std::ptr::eq(self.software.kernel, self.card.kernel);
        [self.software].into_iter().chain(differ.then_some(self.card)).chain(self.more.iter().copied())
    }

    /// The one that a preference names, if it names one that is there.
    #[must_use]
    pub fn preferred(&self, preference: KernelPreference) -> Option<Choice> {
        match preference {
            KernelPreference::Measured => None,
            KernelPreference::Software => Some(self.software),
            KernelPreference::Card | KernelPreference::Tier(Tier::Portable) => Some(self.card),
            KernelPreference::Tier(tier) => self.more.iter().copied().find(|choice| choice.needs == tier),
        }
    }
}

/// One kernel call.
#[derive(Debug, Clone)]
pub struct Dispatch {
    pub(crate) choices: Choices,
    /// What decides between the choices; calls of one class are measured once.
    pub(crate) class: [u32; 3],
    /// Multiplications and additions, of a product.
    pub(crate) flops: f64,
    pub(crate) defines: Defines,
    pub(crate) args: Vec<Arg>,
    pub(crate) params: [u8; MAX_PARAMS],
}

impl Dispatch {
    /// The kernel whose CPU twin and bindings are those of all choices.
    pub(crate) fn kernel(&self) -> &'static Kernel {
        self.choices.software.kernel
    }

    /// The values of the definitions that make the variant, a space before each.
    pub(crate) fn variant(&self) -> String {
        self.defines.iter().map(|(_, value)| format!(" {value}")).collect()
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

    /// Its kernel calls, in order.
    pub(crate) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.commands.iter().filter_map(|command| match command {
            Command::Dispatch(dispatch) => Some(dispatch),
            Command::Clear(_) | Command::Copy { .. } => None,
        })
    }

    /// What each of its calls can choose from, in order, and the variant of each.
    pub fn choices(&self) -> impl Iterator<Item = (&Choices, Defines)> {
        self.dispatches().map(|dispatch| (&dispatch.choices, dispatch.defines))
    }

    /// Appends a kernel call. `grid` is the number of workgroups; an empty grid appends nothing.
    ///
    /// # Panics
    /// Where arguments and bindings do not agree: a mistake of the calling op.
    pub fn dispatch<A: Into<Arg>>(
        &mut self,
        kernel: &'static Kernel,
        params: &impl Params,
        args: impl IntoIterator<Item = A>,
        grid: [u32; 3],
    ) {
        self.choose(Choices::only(Choice::portable(kernel, grid)), [0; 3], 0.0, &[], params, args);
    }

    /// Appends a kernel call that several kernels can do; the device picks. A measured choice holds
    /// for all calls of its `class`. `flops` are the call's multiplications and additions, or 0
    /// where nobody counts them.
    ///
    /// # Panics
    /// Where arguments and bindings do not agree: a mistake of the calling op.
    pub fn choose<P: Params, A: Into<Arg>>(
        &mut self,
        choices: Choices,
        class: [u32; 3],
        flops: f64,
        defines: Defines,
        params: &P,
        args: impl IntoIterator<Item = A>,
    ) {
        let args: Vec<Arg> = args.into_iter().map(Into::into).collect();
        const { assert!(size_of::<P>() <= MAX_PARAMS) };
        let first = choices.software.kernel;
        for Choice { kernel, .. } in choices.all() {
            assert_eq!(kernel.bindings, first.bindings, "bindings of {}", kernel.name());
            assert_eq!(args.len(), kernel.bindings.len(), "arguments of {}", kernel.name());
            assert_eq!(kernel.params, P::FIELDS, "parameters of {}", kernel.name());
        }
        for (arg, (name, access)) in args.iter().zip(first.bindings) {
            let fits = matches!(arg, Arg::Matrix(_)) == (*access == Access::Matrix);
            assert!(fits, "{}: binding {name} takes {access:?}", first.name());
        }
        if choices.all().any(|choice| choice.grid.contains(&0)) {
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

/// Grid of at least `groups` workgroups in one logical dimension, folded so that none exceeds
/// WebGPU's 65,535. Shaders unfold it with `flat_group` of `shared/grid.wgsl`.
#[must_use]
pub fn grid_1d(groups: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    if groups <= MAX {
        return [groups as u32, 1, 1];
    }
    let y = groups.div_ceil(MAX);
    [groups.div_ceil(y) as u32, y as u32, 1]
}
