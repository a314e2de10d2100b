//! Which kernel of a family a GPU takes: by kind of adapter, or by measuring.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::gpu::lock;
use super::recording::{Access, Arg, Choice, Command, Dispatch, Recording};
use super::tier::{Precision, Tier};
use super::{Device, DeviceError, Elem, View};

/// Which kernels a GPU takes where several can do a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelPreference {
    /// What was measured, else the first portable one on software drivers and the last on real cards.
    #[default]
    Measured,
    /// The first, made for software drivers.
    First,
    /// The last portable one, made for real cards.
    Last,
    /// Those of a tier where the device has it, less accurate or not; else as measured.
    Tier(Tier),
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
    /// Nanoseconds that a call of each kernel took, by kernel; [`WRONG`] for one that failed its check.
    pub nanoseconds: BTreeMap<String, u64>,
}

/// Stands for the time of a kernel whose result was not that of the portable one: it is never taken.
pub const WRONG: u64 = u64::MAX;

type Key = (String, [u32; 3]);

/// A GPU's table.
#[derive(Debug)]
pub(crate) struct Choices {
    software: bool,
    /// What the device has.
    tiers: Vec<Tier>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    preference: KernelPreference,
    precision: Precision,
    /// Whether what is not known is measured when something prepares itself.
    measures: bool,
    measured: BTreeMap<Key, MeasuredChoice>,
}

/// Shader and variant. Where f16 is allowed there is more to choose from: that makes another family.
fn family(dispatch: &Dispatch, precision: Precision) -> String {
    let mut name = dispatch.kernel().shader.to_owned();
    if dispatch.kernel().entry != "product" {
        name.push_str("::");
        name.push_str(dispatch.kernel().entry);
    }
    for (_, value) in dispatch.defines {
        name.push(' ');
        name.push_str(value);
    }
    if precision == Precision::F16 {
        name.push_str(", f16 allowed");
    }
    name
}

impl Choices {
    pub fn new(software: bool, tiers: Vec<Tier>) -> Self {
        Self { software, tiers, table: Mutex::default() }
    }

    pub fn add_tier(&mut self, tier: Tier) {
        if !self.tiers.contains(&tier) {
            self.tiers.push(tier);
        }
    }

    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    pub fn set_precision(&self, precision: Precision) {
        lock(&self.table).precision = precision;
    }

    fn precision(&self) -> Precision {
        lock(&self.table).precision
    }

    /// The kernels of a call that this device can run and that are exact enough.
    fn offered(&self, dispatch: &Dispatch) -> Vec<Choice> {
        let precision = self.precision();
        let fits = |choice: &&Choice| {
            let exact = choice.needs.is_exact() || precision == Precision::F16;
            exact && self.tiers.contains(&choice.needs)
        };
        dispatch.choices.iter().filter(fits).copied().collect()
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
            table.measured.insert((choice.family.clone(), choice.class), choice.clone());
        }
    }

    pub fn measured(&self) -> Vec<MeasuredChoice> {
        lock(&self.table).measured.values().cloned().collect()
    }

    fn knows(&self, dispatch: &Dispatch, offered: &[Choice]) -> bool {
        let table = lock(&self.table);
        let key = (family(dispatch, table.precision), dispatch.class);
        table.measured.get(&key).is_some_and(|measured| {
            let mut names = offered.iter().map(Choice::name);
            names.all(|name| measured.nanoseconds.contains_key(&name))
        })
    }

    /// The choice of a call. One that needs more than WebGPU's core was measured to be the fastest, or is asked for.
    pub fn pick(&self, dispatch: &Dispatch) -> Choice {
        let choices = &dispatch.choices;
        if choices.len() == 1 {
            return choices[0];
        }
        let portable = |choice: &&Choice| choice.needs == Tier::Portable;
        let first = choices[0];
        let last = choices.iter().rfind(portable).copied().unwrap_or(first);
        let default = if self.software { first } else { last };
        let table = lock(&self.table);
        match table.preference {
            KernelPreference::First => return first,
            KernelPreference::Last => return last,
            KernelPreference::Tier(tier) if self.tiers.contains(&tier) => {
                if let Some(choice) = choices.iter().rfind(|choice| choice.needs == tier) {
                    return *choice;
                }
            }
            KernelPreference::Tier(_) | KernelPreference::Measured => {}
        }
        if table.measured.is_empty() {
            return default;
        }
        let precision = table.precision;
        let best = table.measured.get(&(family(dispatch, precision), dispatch.class)).map(|best| best.kernel.clone());
        drop(table);
        let mut offered = self.offered(dispatch).into_iter();
        best.and_then(|best| offered.find(|choice| choice.name() == best)).unwrap_or(default)
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
        let offered = gpu.choices.offered(dispatch);
        if offered.len() == 1 || gpu.choices.knows(dispatch, &offered) {
            continue;
        }
        let right = agreeing(device, dispatch, &offered).await?;
        let args = scratch_args(device, dispatch, false)?;
        let calls: Vec<Command> = right.iter().map(|choice| alone(dispatch, *choice, &args)).collect();
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
        let mut named: BTreeMap<String, u64> = right.iter().map(Choice::name).zip(nanoseconds).collect();
        let fastest = named.iter().min_by_key(|(_, time)| **time);
        let fastest = fastest.map(|(kernel, _)| kernel.clone());
        for choice in &offered {
            named.entry(choice.name()).or_insert(WRONG);
        }
        if let Some(kernel) = fastest {
            gpu.choices.remember(&[MeasuredChoice {
                family: family(dispatch, gpu.choices.precision()),
                class: dispatch.class,
                kernel,
                nanoseconds: named,
            }]);
        }
    }
    Ok(())
}

/// Largest difference from the portable kernel's result, relative to its largest element. That of sound kernels in f16 is a
/// fifth of what is allowed.
fn tolerance(tier: Tier) -> f32 {
    if tier.is_exact() { 1e-4 } else { 1e-2 }
}

/// The kernels whose results on random numbers are those of the first. What a driver is new to it may get wrong.
async fn agreeing(device: &Device, dispatch: &Dispatch, offered: &[Choice]) -> Result<Vec<Choice>, DeviceError> {
    if offered.iter().all(|choice| choice.needs == Tier::Portable) {
        return Ok(offered.to_vec());
    }
    let args = scratch_args(device, dispatch, true)?;
    let outputs: Vec<View> = args
        .iter()
        .zip(dispatch.kernel().bindings)
        .filter_map(|(arg, (_, access))| match arg {
            Arg::View(view) if written(*access) => Some(view.clone()),
            Arg::View(_) | Arg::Matrix(_) => None,
        })
        .collect();
    let mut expected = Vec::new();
    let mut agreeing = Vec::new();
    for choice in offered {
        let mut commands: Vec<_> = outputs.iter().cloned().map(Command::Clear).collect();
        commands.push(alone(dispatch, *choice, &args));
        device.run(&Recording { commands })?;
        let mut found = Vec::new();
        for view in &outputs {
            found.extend(device.read_f32(view).await?);
        }
        if expected.is_empty() {
            expected = found;
            agreeing.push(*choice);
            continue;
        }
        let largest = expected.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
        let allowed = tolerance(choice.needs) * largest;
        let mut pairs = found.iter().zip(&expected);
        if pairs.all(|(found, expected)| (found - expected).abs() <= allowed) {
            agreeing.push(*choice);
        }
    }
    Ok(agreeing)
}

fn written(access: Access) -> bool {
    matches!(access, Access::Write | Access::ReadWrite)
}

/// The call with one choice alone.
fn alone(dispatch: &Dispatch, choice: Choice, args: &[Arg]) -> Command {
    Command::Dispatch(Dispatch { choices: vec![choice], args: args.to_vec(), ..dispatch.clone() })
}

/// A call's operands with scratch for what it writes and, where `random`, random numbers for the floats that it reads.
fn scratch_args(device: &Device, dispatch: &Dispatch, random: bool) -> Result<Vec<Arg>, DeviceError> {
    let mut args = dispatch.args.clone();
    for (arg, (_, access)) in args.iter_mut().zip(dispatch.kernel().bindings) {
        let Arg::View(view) = &*arg else { continue };
        let label = "scratch of measuring";
        let scratch = if written(*access) {
            device.alloc(label, Elem::F32, view.len())?
        } else if random && *access == Access::Read {
            // A multiplicative hash of the place, in -1..1.
            let value = |i: u32| (i.wrapping_mul(0x9e37_79b1) >> 8) as f32 / 8_388_608.0 - 1.0;
            let values: Vec<f32> = (0..view.len() as u32).map(value).collect();
            device.upload_f32(label, &values)?
        } else {
            continue;
        };
        *arg = Arg::View(scratch.view().first(view.len()));
    }
    Ok(args)
}

/// Seconds that so many calls take.
async fn timed(device: &Device, call: &Command, count: usize) -> Result<f64, DeviceError> {
    let run = Recording { commands: vec![call.clone(); count] };
    device.wait().await?;
    let start = web_time::Instant::now();
    device.run(&run)?;
    device.wait().await?;
    Ok(start.elapsed().as_secs_f64())
}
