//! The CPU device: runs a recording with each kernel's CPU twin.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLockReadGuard, RwLockWriteGuard};
use web_time::Instant;

use bft_formats::DType;
use bytemuck::{Pod, Zeroable};

use super::buffer::{Buffer, CpuData, Matrix, Storage, View, WeightStorage};
use super::recording::{Access, Arg, Command, Dispatch, Recording};
use super::{DeviceError, Elem};
use crate::real::Real;

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
    params: &'a [u8],
    args: Vec<CpuArg<'a, T>>,
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

/// A lock on a buffer's contents for one kernel call.
enum Guard<'a> {
    Shared(RwLockReadGuard<'a, CpuData>),
    Exclusive(RwLockWriteGuard<'a, CpuData>),
    None,
}

/// A number type that a CPU device can hold and its kernels can run on.
trait Lane: Real {
    fn slice(data: &CpuData) -> Option<&[Self]>;
    fn slice_mut(data: &mut CpuData) -> Option<&mut [Self]>;
    fn call(dispatch: &Dispatch, args: Vec<CpuArg<'_, Self>>);
}

macro_rules! lane {
    ($t:ident, $variant:ident, $function:ident) => {
        impl Lane for $t {
            fn slice(data: &CpuData) -> Option<&[Self]> {
                if let CpuData::$variant(values) = data { Some(values) } else { None }
            }
            fn slice_mut(data: &mut CpuData) -> Option<&mut [Self]> {
                if let CpuData::$variant(values) = data { Some(values) } else { None }
            }
            fn call(dispatch: &Dispatch, args: Vec<CpuArg<'_, Self>>) {
                (dispatch.kernel().$function)(Call { params: &dispatch.params, args });
            }
        }
    };
}

lane!(f32, F32, cpu_f32);
lane!(f64, F64, cpu_f64);

/// Shader and entry point.
type KernelName = (&'static str, &'static str);

/// Runs kernels on the machine's processor.
#[derive(Debug)]
pub(crate) struct Cpu {
    /// f64 instead of f32: slow, for gradient checks.
    pub wide: bool,
    /// Calls and seconds of each kernel.
    pub times: Mutex<BTreeMap<KernelName, (u64, f64)>>,
}

impl Cpu {
    pub fn alloc(&self, label: &str, elem: Elem, len: usize) -> Result<Buffer, DeviceError> {
        // Zeroed by the system, page by page as they are first touched: planned room that no step needs costs nothing.
        fn zeros<T: Zeroable>(label: &str, len: usize) -> Result<Vec<T>, DeviceError> {
            bytemuck::allocation::try_zeroed_slice_box(len).map(Vec::from).map_err(|()| DeviceError::OutOfMemory {
                what: label.to_owned(),
                bytes: len as u64 * size_of::<T>() as u64,
            })
        }
        let data = match (elem, self.wide) {
            (Elem::U32, _) => CpuData::U32(zeros(label, len)?),
            (Elem::F32, false) => CpuData::F32(zeros(label, len)?),
            (Elem::F32, true) => CpuData::F64(zeros(label, len)?),
        };
        Ok(Buffer::new(label, len, Storage::Cpu(data.into())))
    }

    /// Runs a recording on a thread of the pool, whose threads then stay awake from kernel to kernel: a token of
    /// generation has hundreds.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        rayon::scope(|_| self.run_here(recording))
    }

    /// Runs a recording on the page's one thread.
    #[cfg(target_arch = "wasm32")]
    pub fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        self.run_here(recording)
    }

    fn run_here(&self, recording: &Recording) -> Result<(), DeviceError> {
        for command in &recording.commands {
            match command {
                Command::Dispatch(dispatch) => {
                    let start = Instant::now();
                    if self.wide {
                        run_dispatch::<f64>(dispatch)?;
                    } else {
                        run_dispatch::<f32>(dispatch)?;
                    }
                    let kernel = (dispatch.kernel().shader, dispatch.kernel().entry);
                    if let Ok(mut times) = self.times.lock() {
                        let time = times.entry(kernel).or_default();
                        *time = (time.0 + 1, time.1 + start.elapsed().as_secs_f64());
                    }
                }
                Command::Clear(view) => match &mut *write_lock(view)? {
                    CpuData::F32(values) => values[range(view)].fill(0.0),
                    CpuData::F64(values) => values[range(view)].fill(0.0),
                    CpuData::U32(values) => values[range(view)].fill(0),
                },
                Command::Copy { from, to } => {
                    let (source, mut target) = (read_lock(from)?, write_lock(to)?);
                    match (&*source, &mut *target) {
                        (CpuData::F32(a), CpuData::F32(b)) => b[range(to)].copy_from_slice(&a[range(from)]),
                        (CpuData::F64(a), CpuData::F64(b)) => b[range(to)].copy_from_slice(&a[range(from)]),
                        (CpuData::U32(a), CpuData::U32(b)) => b[range(to)].copy_from_slice(&a[range(from)]),
                        _ => return Err(misuse(from, "copied to a buffer of another kind")),
                    }
                }
            }
        }
        Ok(())
    }

    pub fn write_f64(&self, view: &View, values: &mut dyn ExactSizeIterator<Item = f64>) -> Result<(), DeviceError> {
        match &mut *write_lock(view)? {
            CpuData::F32(data) => {
                data[range(view)].iter_mut().zip(values).for_each(|(slot, value)| *slot = value as f32)
            }
            CpuData::F64(data) => data[range(view)].iter_mut().zip(values).for_each(|(slot, value)| *slot = value),
            CpuData::U32(_) => return Err(misuse(view, "written with floats, it holds ids")),
        }
        Ok(())
    }

    pub fn write_f32(&self, view: &View, values: &[f32]) -> Result<(), DeviceError> {
        match &mut *write_lock(view)? {
            CpuData::F32(data) => data[range(view)].copy_from_slice(values),
            CpuData::F64(data) => {
                data[range(view)].iter_mut().zip(values).for_each(|(slot, value)| *slot = f64::from(*value))
            }
            CpuData::U32(_) => return Err(misuse(view, "written with floats, it holds ids")),
        }
        Ok(())
    }

    pub fn write_u32(&self, view: &View, values: &[u32]) -> Result<(), DeviceError> {
        match &mut *write_lock(view)? {
            CpuData::U32(data) => data[range(view)].copy_from_slice(values),
            _ => return Err(misuse(view, "written with ids, it holds floats")),
        }
        Ok(())
    }

    pub fn read_f32(&self, view: &View) -> Result<Vec<f32>, DeviceError> {
        match &*read_lock(view)? {
            CpuData::F32(data) => Ok(data[range(view)].to_vec()),
            CpuData::F64(data) => Ok(data[range(view)].iter().map(|value| *value as f32).collect()),
            CpuData::U32(_) => Err(misuse(view, "read as floats, it holds ids")),
        }
    }

    pub fn read_f64(&self, view: &View) -> Result<Vec<f64>, DeviceError> {
        match &*read_lock(view)? {
            CpuData::F32(data) => Ok(data[range(view)].iter().map(|value| f64::from(*value)).collect()),
            CpuData::F64(data) => Ok(data[range(view)].to_vec()),
            CpuData::U32(_) => Err(misuse(view, "read as floats, it holds ids")),
        }
    }
}

fn range(view: &View) -> std::ops::Range<usize> {
    view.offset..view.offset + view.len
}

fn misuse(view: &View, what: &str) -> DeviceError {
    DeviceError::Misuse(format!("buffer {} is {what}", view.label()))
}

fn storage(view: &View) -> Result<&std::sync::RwLock<CpuData>, DeviceError> {
    match &view.buffer.0.storage {
        Storage::Cpu(data) => Ok(data),
        Storage::Gpu { .. } | Storage::Planned => Err(misuse(view, "of another device, used by the CPU device")),
    }
}

fn read_lock(view: &View) -> Result<RwLockReadGuard<'_, CpuData>, DeviceError> {
    storage(view)?.try_read().map_err(|_| misuse(view, "read while the same call writes it"))
}

fn write_lock(view: &View) -> Result<RwLockWriteGuard<'_, CpuData>, DeviceError> {
    storage(view)?.try_write().map_err(|_| misuse(view, "written while the same call uses it otherwise"))
}

fn run_dispatch<T: Lane>(dispatch: &Dispatch) -> Result<(), DeviceError> {
    let bindings = dispatch.kernel().bindings;
    let mut guards = Vec::with_capacity(bindings.len());
    for (arg, (_, access)) in dispatch.args.iter().zip(bindings) {
        guards.push(match (arg, access) {
            (
                Arg::View(view) | Arg::Matrix(Matrix::Dense { view, .. }),
                Access::Read | Access::CpuRead | Access::Ids | Access::Matrix,
            ) => Guard::Shared(read_lock(view)?),
            (Arg::View(view), _) => Guard::Exclusive(write_lock(view)?),
            (Arg::Matrix(_), _) => Guard::None,
        });
    }
    let mut args = Vec::with_capacity(bindings.len());
    for ((arg, guard), (name, access)) in dispatch.args.iter().zip(&mut guards).zip(bindings) {
        let kind = || {
            DeviceError::Misuse(format!("{}: binding {name} holds another kind of number", dispatch.kernel().shader))
        };
        args.push(match (guard, arg) {
            (Guard::Exclusive(data), Arg::View(view)) => {
                CpuArg::Write(&mut T::slice_mut(data).ok_or_else(kind)?[range(view)])
            }
            (Guard::Shared(data), arg) => match (&**data, arg) {
                (CpuData::U32(ids), Arg::View(view)) if *access == Access::Ids => CpuArg::Ids(&ids[range(view)]),
                (data, Arg::View(view)) => CpuArg::Read(&T::slice(data).ok_or_else(kind)?[range(view)]),
                (data, Arg::Matrix(Matrix::Dense { view, rows, cols })) => {
                    let data = &T::slice(data).ok_or_else(kind)?[range(view)];
                    CpuArg::Matrix(CpuMatrix::Dense { rows: *rows, cols: *cols, data })
                }
                (_, Arg::Matrix(Matrix::Frozen { .. })) => return Err(kind()),
            },
            (Guard::None, Arg::Matrix(Matrix::Frozen { weight, start, rows })) => match &*weight.storage {
                WeightStorage::Cpu(bytes) => {
                    let row = weight.dtype.row_bytes(weight.cols);
                    let data = &bytes[start * row..(start + rows) * row];
                    CpuArg::Matrix(CpuMatrix::Frozen { dtype: weight.dtype, rows: *rows, cols: weight.cols, data })
                }
                WeightStorage::Gpu { .. } | WeightStorage::Planned => {
                    return Err(DeviceError::Misuse("a weight of another device is used by the CPU".into()));
                }
            },
            (Guard::Exclusive(_) | Guard::None, _) => return Err(kind()),
        });
    }
    T::call(dispatch, args);
    Ok(())
}
