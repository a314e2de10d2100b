//! Which kernel of a family a GPU takes: by kind of adapter, or by measuring.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::gpu::lock;
use super::recording::{Access, Arg, Choice, Command, Dispatch, Recording};
use super::{Device, DeviceError, Elem};

/// Which kernels a GPU takes where several can do a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelPreference {
    /// What was measured, else the first on software drivers and the last on real cards.
    #[default]
    Measured,
    /// The first, made for software drivers.
    First,
    /// The last, made for real cards.
    Last,
}

/// The fastest kernel for one class of calls on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredChoice {
    /// First kernel of the family, and its variant.
    pub family: String,
    /// Shape class of the calls.
    pub class: [u32; 3],
    /// The fastest kernel.
    pub kernel: String,
    /// Nanoseconds that a call of each kernel took, by kernel.
    pub nanoseconds: BTreeMap<String, u64>,
}

type Key = (String, [u32; 3]);

/// A GPU's table.
#[derive(Debug)]
pub(crate) struct Choices {
    software: bool,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    preference: KernelPreference,
    /// Whether what is not known is measured before tuning.
    measures: bool,
    measured: BTreeMap<Key, MeasuredChoice>,
}

fn family(dispatch: &Dispatch) -> String {
    let mut name = dispatch.kernel().shader.to_owned();
    for (_, value) in dispatch.defines {
        name.push(' ');
        name.push_str(value);
    }
    name
}

impl Choices {
    pub fn new(software: bool) -> Self {
        Self {
            software,
            table: Mutex::default(),
        }
    }

    pub fn prefer(&self, preference: KernelPreference) {
        lock(&self.table).preference = preference;
    }

    pub fn set_measures(&self, measures: bool) {
        lock(&self.table).measures = measures;
    }

    pub fn measures(&self) -> bool {
        lock(&self.table).measures
    }

    pub fn remember(&self, choices: &[MeasuredChoice]) {
        let mut table = lock(&self.table);
        for choice in choices {
            table
                .measured
                .insert((choice.family.clone(), choice.class), choice.clone());
        }
    }

    pub fn measured(&self) -> Vec<MeasuredChoice> {
        lock(&self.table).measured.values().cloned().collect()
    }

    fn knows(&self, dispatch: &Dispatch) -> bool {
        let key = (family(dispatch), dispatch.class);
        lock(&self.table).measured.contains_key(&key)
    }

    /// The choice of a call.
    pub fn pick(&self, dispatch: &Dispatch) -> Choice {
        let choices = &dispatch.choices;
        let last = choices.len() - 1;
        if last == 0 {
            return choices[0];
        }
        let table = lock(&self.table);
        let default = choices[if self.software { 0 } else { last }];
        match table.preference {
            KernelPreference::First => choices[0],
            KernelPreference::Last => choices[last],
            KernelPreference::Measured if table.measured.is_empty() => default,
            KernelPreference::Measured => table
                .measured
                .get(&(family(dispatch), dispatch.class))
                .and_then(|best| {
                    let named = |choice: &&Choice| choice.kernel.shader == best.kernel;
                    choices.iter().find(named).copied()
                })
                .unwrap_or(default),
        }
    }
}

/// Calls in one timed run, unless one call takes [`LONG`] by itself: enough that submitting does not count.
const CALLS: usize = 8;

/// Seconds of a call that is timed alone.
const LONG: f64 = 0.005;

/// Timed runs of each kernel, in turns, so that a passing disturbance hits all; the best counts.
const ROUNDS: usize = 3;

/// See [`Device::measure_choices`].
pub(super) async fn measure(device: &Device, recording: &Recording) -> Result<(), DeviceError> {
    let super::Side::Gpu(gpu) = &device.side else {
        return Ok(());
    };
    // A browser's clock is too coarse, and its main thread must not wait.
    if cfg!(target_arch = "wasm32") {
        return Ok(());
    }
    for dispatch in recording.dispatches() {
        if dispatch.choices.len() == 1 || gpu.choices.knows(dispatch) {
            continue;
        }
        let mut args = dispatch.args.clone();
        for (arg, (_, access)) in args.iter_mut().zip(dispatch.kernel().bindings) {
            if let (Arg::View(view), Access::Write | Access::ReadWrite) = (&*arg, access) {
                let scratch = device.alloc("scratch of measuring", Elem::F32, view.len())?;
                *arg = Arg::View(scratch.view().first(view.len()));
            }
        }
        let calls: Vec<Command> = dispatch
            .choices
            .iter()
            .map(|choice| {
                Command::Dispatch(Dispatch {
                    choices: vec![*choice],
                    args: args.clone(),
                    ..dispatch.clone()
                })
            })
            .collect();
        // The first run of each builds its pipeline, the second says how many calls a timed run is to have.
        let mut counts = Vec::new();
        for call in &calls {
            timed(device, call, 1).await?;
            let once = timed(device, call, 1).await?;
            counts.push(if once > LONG { 1 } else { CALLS });
        }
        let mut nanoseconds = vec![u64::MAX; calls.len()];
        for _ in 0..ROUNDS {
            for ((call, count), best) in calls.iter().zip(&counts).zip(&mut nanoseconds) {
                let seconds = timed(device, call, *count).await? / *count as f64;
                *best = (*best).min((seconds * 1e9) as u64);
            }
        }
        let named: BTreeMap<String, u64> = dispatch
            .choices
            .iter()
            .map(|choice| choice.kernel.shader.to_owned())
            .zip(nanoseconds)
            .collect();
        let fastest = named.iter().min_by_key(|(_, time)| **time);
        if let Some((kernel, _)) = fastest {
            gpu.choices.remember(&[MeasuredChoice {
                family: family(dispatch),
                class: dispatch.class,
                kernel: kernel.clone(),
                nanoseconds: named,
            }]);
        }
    }
    Ok(())
}

/// Seconds that so many calls take.
async fn timed(device: &Device, call: &Command, count: usize) -> Result<f64, DeviceError> {
    let run = Recording {
        commands: vec![call.clone(); count],
    };
    device.wait().await?;
    let start = web_time::Instant::now();
    device.run(&run)?;
    device.wait().await?;
    Ok(start.elapsed().as_secs_f64())
}
