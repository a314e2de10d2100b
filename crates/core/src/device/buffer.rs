//! Buffers, views into them, and frozen weights.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bft_formats::{Bytes, DType, Tensor};

/// What a buffer's elements are. Both are 4 bytes wide on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elem {
    /// 32-bit floats (64-bit ones on the CPU device that checks gradients).
    F32,
    /// Token ids, positions, starts of segments.
    U32,
}

/// Contents of a buffer of the CPU device.
#[derive(Debug)]
pub(crate) enum CpuData {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U32(Vec<u32>),
}

#[derive(Debug)]
pub(crate) enum Storage {
    /// Of a planning device.
    Planned,
    Cpu(RwLock<CpuData>),
    Gpu {
        buffer: wgpu::Buffer,
        /// Where the buffer's id goes when it is dropped, so that bind groups holding it are
        /// dropped too.
        graveyard: Arc<Mutex<Vec<u64>>>,
    },
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub id: u64,
    pub label: String,
    pub len: usize,
    pub storage: Storage,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Storage::Gpu { buffer, graveyard } = &self.storage else {
            return;
        };
        lock(graveyard).push(self.id);
        // A browser frees it only when it happens to collect its garbage. What uses it was
        // submitted before.
        if cfg!(target_arch = "wasm32") {
            buffer.destroy();
        }
    }
}

/// Device memory holding `len` elements. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Buffer(pub(crate) Arc<Inner>);

/// A poisoned lock only says that another thread panicked while it held it; the data are caches and
/// stay usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Buffer {
    /// A buffer of `len` elements, at least one.
    pub(crate) fn new(label: &str, len: usize, storage: Storage) -> Self {
        Self(Arc::new(Inner { id: next_id(), label: label.to_owned(), len: len.max(1), storage }))
    }

    /// The whole buffer.
    #[must_use]
    pub fn view(&self) -> View {
        View { buffer: self.clone(), offset: 0, len: self.0.len }
    }
}

/// A range of a buffer's elements. Its offset is a multiple of [`View::ALIGN`].
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) buffer: Buffer,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl View {
    /// Elements that a view's offset is a multiple of: WebGPU's 256 bytes.
    pub const ALIGN: usize = 64;

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The name given to the buffer when it was allocated.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.buffer.0.label
    }

    /// Elements `range` of this view.
    ///
    /// # Panics
    /// Where the range leaves the view or its start is not aligned: a mistake of the calling code.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> View {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} leaves {} of {} elements",
            self.label(),
            self.len
        );
        assert!(
            range.start.is_multiple_of(Self::ALIGN),
            "a view of {} starts unaligned at {}",
            self.label(),
            range.start
        );
        View { buffer: self.buffer.clone(), offset: self.offset + range.start, len: range.len() }
    }

    /// The first `len` elements.
    #[must_use]
    pub fn first(&self, len: usize) -> View {
        self.slice(0..len)
    }
}

#[derive(Debug)]
pub(crate) enum WeightStorage {
    /// Of a planning device.
    Planned,
    /// The file's own bytes.
    Cpu(Bytes),
    /// Regrouped so that loads are aligned (see `bft_formats::DType::regroup`): values or quants,
    /// and scales.
    Gpu { quants: Buffer, scales: Buffer },
}

/// A frozen matrix `[rows, cols]` (out, in) in its file's format.
#[derive(Debug, Clone)]
pub struct Weight {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) storage: Arc<WeightStorage>,
}

impl Weight {
    /// Rows that a range of rows must start at a multiple of, so that a GPU can bind it.
    pub const ROW_ALIGN: usize = 256;

    pub(crate) fn new(tensor: &Tensor, storage: WeightStorage) -> Self {
        Self { dtype: tensor.dtype, rows: tensor.rows(), cols: tensor.cols(), storage: storage.into() }
    }

    /// Outputs of the product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs of the product.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Format in the file and on the device.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes on the device.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows * self.dtype.row_bytes(self.cols)
    }
}

/// A matrix operand of a product: a frozen weight's rows, or a dense f32 matrix such as LoRA's A
/// and B.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// Rows `start .. start + rows` of a frozen weight.
    Frozen {
        /// The weight.
        weight: Weight,
        /// First row, a multiple of [`Weight::ROW_ALIGN`].
        start: usize,
        /// Number of rows.
        rows: usize,
    },
    /// `[rows, cols]` f32.
    Dense {
        /// The elements.
        view: View,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
}

impl Matrix {
    /// All rows of a frozen weight.
    #[must_use]
    pub fn frozen(weight: &Weight) -> Self {
        Self::Frozen { weight: weight.clone(), start: 0, rows: weight.rows }
    }

    /// Rows `start .. start + rows` of a frozen weight.
    ///
    /// # Panics
    /// Where the range leaves the weight or is not aligned: a mistake of the calling code.
    #[must_use]
    pub fn rows_of(weight: &Weight, start: usize, rows: usize) -> Self {
        assert!(
            start + rows <= weight.rows && start.is_multiple_of(Weight::ROW_ALIGN),
            "rows {start}+{rows} of {}",
            weight.rows
        );
        Self::Frozen { weight: weight.clone(), start, rows }
    }

    /// A dense matrix.
    ///
    /// # Panics
    /// Where the view's length is not `rows * cols`: a mistake of the calling code.
    #[must_use]
    pub fn dense(view: &View, rows: usize, cols: usize) -> Self {
        assert_eq!(view.len(), rows * cols, "{} as a matrix", view.label());
        Self::Dense { view: view.clone(), rows, cols }
    }

    /// `[rows, cols]`.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Frozen { weight, rows, .. } => (*rows, weight.cols),
            Self::Dense { rows, cols, .. } => (*rows, *cols),
        }
    }

    /// Format of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Frozen { weight, .. } => weight.dtype,
            Self::Dense { .. } => DType::F32,
        }
    }
}
