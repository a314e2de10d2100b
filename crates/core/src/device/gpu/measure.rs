//! Measures the kernels that a call can choose from.

use std::collections::BTreeMap;

use super::choices::Table;
use crate::device::backend::{Backend, WRONG};
use crate::device::buffer::{Elem, View};
use crate::device::error::DeviceError;
use crate::device::kernel::Access;
use crate::device::recording::{Arg, Choice, Choices, Command, Dispatch, Recording};
use crate::device::tier::Tier;

/// Calls in one timed run, unless one call takes [`LONG`] by itself: enough that submitting does
/// not count.
const CALLS: usize = 8;

/// Seconds of a call that is timed alone.
const LONG: f64 = 0.005;

/// Timed runs of each kernel, in turns, so that a passing disturbance hits all; the best counts.
const ROUNDS: usize = 3;

/// See [`Backend::measure_choices`].
pub(super) async fn measure(gpu: &dyn Backend, table: &Table, recording: &Recording) -> Result<(), DeviceError> {
    // A browser's clock is too coarse, and its main thread must not wait.
    if cfg!(target_arch = "wasm32") {
        return Ok(());
    }
    for dispatch in recording.dispatches() {
        let offered = table.offered(dispatch);
        if offered.len() == 1 || table.knows(dispatch, &offered) {
            continue;
        }
        let right = agreeing(gpu, dispatch, &offered).await?;
        let args = scratch_args(gpu, dispatch, false)?;
        let calls: Vec<Command> = right.iter().map(|choice| alone(dispatch, *choice, &args)).collect();
        // The first run of each builds its pipeline, the second says how many calls a timed run is
        // to have.
        let mut counts = Vec::new();
        for call in &calls {
            timed(gpu, call, 1).await?;
            let once = timed(gpu, call, 1).await?;
            counts.push(if once > LONG { 1 } else { CALLS });
        }
        let mut nanoseconds: BTreeMap<String, u64> = offered.iter().map(|choice| (choice.name(), WRONG)).collect();
        for _ in 0..ROUNDS {
            for ((call, count), choice) in calls.iter().zip(&counts).zip(&right) {
                let seconds = timed(gpu, call, *count).await? / *count as f64;
                let best = nanoseconds.entry(choice.name()).or_insert(WRONG);
                *best = (*best).min((seconds * 1e9) as u64);
            }
        }
        table.learn(dispatch, nanoseconds);
    }
    Ok(())
}

/// Largest difference from the portable kernel's result, relative to its largest element. That of
/// sound kernels in f16 is a fifth of what is allowed.
fn tolerance(tier: Tier) -> f32 {
    if tier.is_exact() { 1e-4 } else { 1e-2 }
}

/// The kernels whose results on random numbers are those of the first. What a driver is new to it
/// may get wrong.
async fn agreeing(gpu: &dyn Backend, dispatch: &Dispatch, offered: &[Choice]) -> Result<Vec<Choice>, DeviceError> {
    if offered.iter().all(|choice| choice.needs == Tier::Portable) {
        return Ok(offered.to_vec());
    }
    let args = scratch_args(gpu, dispatch, true)?;
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
        gpu.run(&Recording { commands })?;
        let mut found = Vec::new();
        for view in &outputs {
            found.extend(gpu.read_f32(view).await?);
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
    Command::Dispatch(Dispatch { choices: Choices::only(choice), args: args.to_vec(), ..dispatch.clone() })
}

/// A call's operands with scratch for what it writes and, where `random`, random numbers for the
/// floats that it reads.
fn scratch_args(gpu: &dyn Backend, dispatch: &Dispatch, random: bool) -> Result<Vec<Arg>, DeviceError> {
    let mut args = dispatch.args.clone();
    for (arg, (_, access)) in args.iter_mut().zip(dispatch.kernel().bindings) {
        let Arg::View(view) = &*arg else { continue };
        let label = "scratch of measuring";
        let scratch = if written(*access) {
            gpu.alloc(label, Elem::F32, view.len())?
        } else if random && *access == Access::Read {
            // A multiplicative hash of the place, in -1..1.
            let value = |i: u32| (i.wrapping_mul(0x9e37_79b1) >> 8) as f32 / 8_388_608.0 - 1.0;
            let values: Vec<f32> = (0..view.len() as u32).map(value).collect();
            gpu.upload_f32(label, &values)?
        } else {
            continue;
        };
        *arg = Arg::View(scratch.view().first(view.len()));
    }
    Ok(args)
}

/// Seconds that so many calls take.
async fn timed(gpu: &dyn Backend, call: &Command, count: usize) -> Result<f64, DeviceError> {
    let run = Recording { commands: vec![call.clone(); count] };
    gpu.wait().await?;
    let start = web_time::Instant::now();
    gpu.run(&run)?;
    gpu.wait().await?;
    Ok(start.elapsed().as_secs_f64())
}
