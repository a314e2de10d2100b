//! What an op is tested on. The harness that fills the tensors and judges the results lives in the
//! tests crate.

use std::collections::BTreeMap;
use std::fmt;

use bft_formats::DType;

use crate::device::{Matrix, Recording, View, Weight};

/// What a tensor holds before the op runs.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Uniform in −scale..scale.
    Random(f32),
    /// Uniform in low..high.
    Between(f32, f32),
    /// These numbers.
    Values(Vec<f32>),
    /// Ids uniform in 0..below.
    Ids(u32),
    /// These ids.
    ExactIds(Vec<u32>),
    /// A frozen weight `[rows, cols]` in this format with random contents.
    Weight(DType),
    /// NaN: the op must overwrite every element.
    Poison,
}

/// One tensor of a case.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in the op's signature.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its contents.
    pub fill: Fill,
}

/// A tensor on a device.
#[derive(Debug, Clone)]
pub enum Bound {
    /// f32 or u32 elements.
    View(View),
    /// A frozen weight.
    Weight(Weight),
}

/// The tensors of a case on one device, by name.
#[derive(Debug, Default)]
pub struct Tensors(pub BTreeMap<&'static str, Bound>);

impl Tensors {
    /// A tensor that is no weight.
    ///
    /// # Panics
    /// Where the case has none of that name.
    #[must_use]
    pub fn view(&self, name: &str) -> &View {
        match self.0.get(name) {
            Some(Bound::View(view)) => view,
            other => panic!("tensor {name} is {other:?}, a view is wanted"),
        }
    }

    /// A weight.
    ///
    /// # Panics
    /// Where the case has none of that name.
    #[must_use]
    pub fn weight(&self, name: &str) -> &Weight {
        match self.0.get(name) {
            Some(Bound::Weight(weight)) => weight,
            other => panic!("tensor {name} is {other:?}, a weight is wanted"),
        }
    }

    /// A `[rows, cols]` operand: a weight, or a view taken as a dense matrix.
    ///
    /// # Panics
    /// Where the case has none of that name or its size is another.
    #[must_use]
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Matrix {
        match self.0.get(name) {
            Some(Bound::Weight(weight)) => Matrix::frozen(weight),
            Some(Bound::View(view)) => Matrix::dense(view, rows, cols),
            None => panic!("there is no tensor {name}"),
        }
    }
}

/// Appends an op to a recording.
pub type Record = Box<dyn Fn(&mut Recording, &Tensors) + Send + Sync>;

/// One call of an op, with its gradient where it has one.
pub struct Case {
    /// What is special about it.
    pub label: String,
    /// Every tensor that `forward` and `backward` touch.
    pub tensors: Vec<Spec>,
    /// The op.
    pub forward: Record,
    /// Its gradient, run after `forward` on the same tensors.
    pub backward: Option<Record>,
    /// Tensors that `forward` writes and both devices must agree on.
    pub outputs: Vec<&'static str>,
    /// (output, its upstream gradient): for the gradient check, the loss is Σ upstream · output.
    pub upstream: Vec<(&'static str, &'static str)>,
    /// (input, its gradient): written by `backward`, checked against central differences in f64.
    pub gradients: Vec<(&'static str, &'static str)>,
    /// Largest difference of GPU and CPU, relative to the largest element of the tensor.
    pub tolerance: f32,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("label", &self.label).field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

impl Case {
    /// A case with tolerance 1e-5 and, so far, no tensors.
    #[must_use]
    pub fn new(label: impl Into<String>, forward: impl Fn(&mut Recording, &Tensors) + Send + Sync + 'static) -> Self {
        Self {
            label: label.into(),
            tensors: Vec::new(),
            forward: Box::new(forward),
            backward: None,
            outputs: Vec::new(),
            upstream: Vec::new(),
            gradients: Vec::new(),
            tolerance: 1e-5,
        }
    }

    /// Adds a tensor that is only read, or read and written.
    #[must_use]
    pub fn input(mut self, name: &'static str, shape: &[usize], fill: Fill) -> Self {
        self.tensors.push(Spec { name, shape: shape.to_vec(), fill });
        self
    }

    /// Adds a tensor that `forward` writes whole.
    #[must_use]
    pub fn output(mut self, name: &'static str, shape: &[usize]) -> Self {
        self.outputs.push(name);
        self.input(name, shape, Fill::Poison)
    }

    /// Declares that `forward` changes an input in place.
    #[must_use]
    pub fn updates(mut self, name: &'static str) -> Self {
        self.outputs.push(name);
        self
    }

    /// Adds the gradient: the op's backward call.
    #[must_use]
    pub fn backward(mut self, backward: impl Fn(&mut Recording, &Tensors) + Send + Sync + 'static) -> Self {
        self.backward = Some(Box::new(backward));
        self
    }

    /// Adds the upstream gradient `name` of `output`, with random contents.
    #[must_use]
    pub fn upstream(mut self, output: &'static str, name: &'static str, shape: &[usize]) -> Self {
        self.upstream.push((output, name));
        self.input(name, shape, Fill::Random(1.0))
    }

    /// Adds the gradient `name` of `input`, which `backward` writes whole.
    #[must_use]
    pub fn gradient(mut self, input: &'static str, name: &'static str, shape: &[usize]) -> Self {
        self.gradients.push((input, name));
        self.input(name, shape, Fill::Poison)
    }

    /// Declares that `backward` turns the upstream gradient `name` into the gradient of `input`, in
    /// place.
    #[must_use]
    pub fn in_place_gradient(mut self, input: &'static str, name: &'static str) -> Self {
        self.gradients.push((input, name));
        self
    }

    /// Sets the tolerance, with a reason in the caller's comment.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f32) -> Self {
        self.tolerance = tolerance;
        self
    }
}
