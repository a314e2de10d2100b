//! The CPU device: runs a recording with each kernel's CPU twin.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Mutex, RwLockReadGuard, RwLockWriteGuard};

use bft_formats::Tensor;
use bytemuck::Zeroable;
use web_time::Instant;

use super::backend::{Backend, Later};
use super::buffer::{Buffer, CpuData, Elem, Matrix, Storage, View, Weight, WeightStorage};
use super::error::DeviceError;
use super::kernel::{Access, Call, CpuArg, CpuMatrix, Kernel};
use super::recording::{Arg, Command, Dispatch, Recording};
use crate::real::Real;

/// A lock on a buffer's contents for one kernel call.
enum Guard<'a> {
    Shared(RwLockReadGuard<'a, CpuData>),
    Exclusive(RwLockWriteGuard<'a, CpuData>),
    None,
}

/// A number type that a CPU device can hold and its kernels can run on.
pub(super) trait Number: Real + Zeroable {
    fn hold(values: Vec<Self>) -> CpuData;
    fn slice(data: &CpuData) -> Option<&[Self]>;
    fn slice_mut(data: &mut CpuData) -> Option<&mut [Self]>;
    fn twin(kernel: &Kernel) -> fn(Call<'_, Self>);
}

macro_rules! number {
    ($t:ident, $variant:ident, $twin:ident) => {
        impl Number for $t {
            fn hold(values: Vec<Self>) -> CpuData {
                CpuData::$variant(values)
            }
            fn slice(data: &CpuData) -> Option<&[Self]> {
                if let CpuData::$variant(values) = data { Some(values) } else { None }
            }
            fn slice_mut(data: &mut CpuData) -> Option<&mut [Self]> {
                if let CpuData::$variant(values) = data { Some(values) } else { None }
            }
            fn twin(kernel: &Kernel) -> fn(Call<'_, Self>) {
                kernel.$twin
            }
        }
    };
}

number!(f32, F32, cpu_f32);
number!(f64, F64, cpu_f64);

/// Shader and entry point.
type KernelName = (&'static str, &'static str);

/// Runs kernels on the machine's processor: in f32, or in f64, which is slow and for gradient
/// checks.
#[derive(Debug, Default)]
pub(super) struct Cpu<T> {
    /// Calls and seconds of each kernel.
    times: Mutex<BTreeMap<KernelName, (u64, f64)>>,
    number: PhantomData<T>,
}

impl<T: Number> Cpu<T> {
    fn run_here(&self, recording: &Recording) -> Result<(), DeviceError> {
        // Weights are computed with as they lie in their files.
        #[cfg(not(target_arch = "wasm32"))]
        bft_formats::check_maps()?;
        for command in &recording.commands {
            match command {
                Command::Dispatch(dispatch) => {
                    let start = Instant::now();
                    run_dispatch::<T>(dispatch)?;
                    let kernel = (dispatch.kernel().shader, dispatch.kernel().entry);
                    if let Ok(mut times) = self.times.lock() {
                        let time = times.entry(kernel).or_default();
                        *time = (time.0 + 1, time.1 + start.elapsed().as_secs_f64());
                    }
                }
                Command::Clear(view) => match &mut *write_lock(view)? {
                    CpuData::U32(ids) => ids[range(view)].fill(0),
                    data => floats_mut::<T>(view, data)?.fill(T::ZERO),
                },
                Command::Copy { from, to } => match (&*read_lock(from)?, &mut *write_lock(to)?) {
                    (CpuData::U32(from_ids), CpuData::U32(to_ids)) => {
                        to_ids[range(to)].copy_from_slice(&from_ids[range(from)]);
                    }
                    (source, target) => floats_mut(to, target)?.copy_from_slice(floats::<T>(from, source)?),
                },
            }
        }
        Ok(())
    }

    fn write<S: Copy>(&self, view: &View, values: &[S], convert: impl Fn(S) -> T) -> Result<(), DeviceError> {
        assert_eq!(view.len(), values.len(), "write to {}", view.label());
        let mut data = write_lock(view)?;
        let slots = floats_mut(view, &mut data)?.iter_mut();
        slots.zip(values).for_each(|(slot, value)| *slot = convert(*value));
        Ok(())
    }

    fn read<S: 'static>(&self, view: &View, convert: impl Fn(T) -> S) -> Later<'static, Vec<S>> {
        let values = || Ok(floats::<T>(view, &*read_lock(view)?)?.iter().map(|value| convert(*value)).collect());
        Box::pin(std::future::ready(values()))
    }
}

impl<T: Number> Backend for Cpu<T> {
    fn alloc(&self, label: &str, elem: Elem, len: usize) -> Result<Buffer, DeviceError> {
        // Zeroed by the system, page by page as they are first touched: planned room that no step
        // needs costs nothing.
        fn zeros<T: Zeroable>(label: &str, len: usize) -> Result<Vec<T>, DeviceError> {
            bytemuck::allocation::try_zeroed_slice_box(len).map(Vec::from).map_err(|()| DeviceError::OutOfMemory {
                what: label.to_owned(),
                bytes: len as u64 * size_of::<T>() as u64,
            })
        }
        let data = match elem {
            Elem::U32 => CpuData::U32(zeros(label, len.max(1))?),
            Elem::F32 => T::hold(zeros(label, len.max(1))?),
        };
        Ok(Buffer::new(label, len, Storage::Cpu(data.into())))
    }

    fn upload_weight(&self, tensor: &Tensor) -> Result<Weight, DeviceError> {
        Ok(Weight::new(tensor, WeightStorage::Cpu(tensor.bytes()?)))
    }

    fn write_f32(&self, view: &View, values: &[f32]) -> Result<(), DeviceError> {
        self.write(view, values, T::from_f32)
    }

    fn write_f64(&self, view: &View, values: &[f64]) -> Result<(), DeviceError> {
        self.write(view, values, T::from_f64)
    }

    fn write_u32(&self, view: &View, values: &[u32]) -> Result<(), DeviceError> {
        assert_eq!(view.len(), values.len(), "write to {}", view.label());
        match &mut *write_lock(view)? {
            CpuData::U32(data) => data[range(view)].copy_from_slice(values),
            _ => return Err(misuse(view, "written with ids, it holds floats")),
        }
        Ok(())
    }

    /// Runs on a thread of the pool, whose threads then stay awake from kernel to kernel: a token
    /// of generation has hundreds. A page has one thread.
    fn run(&self, recording: &Recording) -> Result<(), DeviceError> {
        #[cfg(target_arch = "wasm32")]
        return self.run_here(recording);
        #[cfg(not(target_arch = "wasm32"))]
        rayon::scope(|_| self.run_here(recording))
    }

    fn read_f32<'a>(&'a self, view: &'a View) -> Later<'a, Vec<f32>> {
        self.read(view, T::to_f32)
    }

    fn read_f64<'a>(&'a self, view: &'a View) -> Later<'a, Vec<f64>> {
        self.read(view, T::to_f64)
    }

    fn kernel_times(&self) -> Vec<(&'static str, &'static str, u64, f64)> {
        let list =
            |((shader, entry), (calls, seconds)): (&KernelName, &(u64, f64))| (*shader, *entry, *calls, *seconds);
        self.times.lock().map_or_else(|_| Vec::new(), |times| times.iter().map(list).collect())
    }
}

/// The numbers of a view whose buffer is locked.
fn floats<'a, T: Number>(view: &View, data: &'a CpuData) -> Result<&'a [T], DeviceError> {
    T::slice(data).map(|data| &data[range(view)]).ok_or_else(|| misuse(view, "used for numbers of another kind"))
}

/// As [`floats`].
fn floats_mut<'a, T: Number>(view: &View, data: &'a mut CpuData) -> Result<&'a mut [T], DeviceError> {
    T::slice_mut(data)
        .map(|data| &mut data[range(view)])
        .ok_or_else(|| misuse(view, "used for numbers of another kind"))
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

fn run_dispatch<T: Number>(dispatch: &Dispatch) -> Result<(), DeviceError> {
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
        args.push(match (guard, arg) {
            (Guard::Exclusive(data), Arg::View(view)) => CpuArg::Write(floats_mut(view, data)?),
            (Guard::Shared(data), Arg::View(view)) => match (&**data, access) {
                (CpuData::U32(ids), Access::Ids) => CpuArg::Ids(&ids[range(view)]),
                (data, _) => CpuArg::Read(floats(view, data)?),
            },
            (Guard::Shared(data), Arg::Matrix(Matrix::Dense { view, rows, cols })) => {
                CpuArg::Matrix(CpuMatrix::Dense { rows: *rows, cols: *cols, data: floats(view, data)? })
            }
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
            _ => {
                return Err(DeviceError::Misuse(format!(
                    "{}: binding {name} is of another kind",
                    dispatch.kernel().name()
                )));
            }
        });
    }
    T::twin(dispatch.kernel())(Call { params: &dispatch.params, args });
    Ok(())
}
