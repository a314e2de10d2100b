//! Runs the cases of the op registry: GPU against CPU, and CPU gradients against central
//! differences in f64.

use std::collections::BTreeMap;

use bft_core::device::{Device, Elem, KernelPreference, Recording, Tier};
use bft_core::ops::Op;
use bft_core::ops::case::{Bound, Case, Fill, Record, Spec, Tensors};
use bft_formats::{DType, Random, Tensor};
use pollster::block_on;

/// Contents of a case's tensors, the same for every device.
#[derive(Debug, Clone)]
pub enum Data {
    /// Floats.
    F32(Vec<f32>),
    /// Ids.
    U32(Vec<u32>),
    /// A weight.
    Weight(Tensor),
}

/// Fills the tensors of a case from its label.
#[must_use]
pub fn data(op: &str, case: &Case) -> BTreeMap<&'static str, Data> {
    let fill = |spec: &Spec| {
        let mut random = Random::from_text(&format!("{op} {} {}", case.label, spec.name));
        let len: usize = spec.shape.iter().product();
        match &spec.fill {
            Fill::Random(scale) => Data::F32(random.floats(len, -scale, *scale)),
            Fill::Between(low, high) => Data::F32(random.floats(len, *low, *high)),
            Fill::Values(values) => Data::F32(values.clone()),
            Fill::Ids(below) => Data::U32((0..len).map(|_| random.below(*below as usize) as u32).collect()),
            Fill::ExactIds(ids) => Data::U32(ids.clone()),
            Fill::Weight(dtype) => Data::Weight(random_weight(&mut random, *dtype, &spec.shape)),
            Fill::Poison => Data::F32(vec![f32::NAN; len]),
        }
    };
    case.tensors.iter().map(|spec| (spec.name, fill(spec))).collect()
}

/// A weight with random blocks whose values lie in about −1..1.
#[must_use]
pub fn random_weight(random: &mut Random, dtype: DType, shape: &[usize]) -> Tensor {
    let bytes = dtype.random(shape.iter().product(), &mut || random.bits());
    Tensor::new("weight", dtype, shape.to_vec(), bytes).unwrap()
}

/// Puts the data on a device.
#[must_use]
pub fn bind(device: &Device, data: &BTreeMap<&'static str, Data>) -> Tensors {
    let bound = data.iter().map(|(name, data)| {
        let bound = match data {
            Data::F32(values) => Bound::View(device.upload_f32(name, values).unwrap().view()),
            Data::U32(ids) => {
                let view = device.alloc(name, Elem::U32, ids.len()).unwrap().view();
                device.write_u32(&view.first(ids.len()), ids).unwrap();
                Bound::View(view)
            }
            Data::Weight(tensor) => Bound::Weight(device.upload_weight(tensor).unwrap()),
        };
        (*name, bound)
    });
    Tensors(bound.collect())
}

fn run(device: &Device, record: &Record, tensors: &Tensors) {
    let mut recording = Recording::new();
    record(&mut recording, tensors);
    device.run(&recording).unwrap();
}

async fn read(device: &Device, tensors: &Tensors, name: &str) -> Vec<f64> {
    device.read_f64(tensors.view(name)).await.unwrap()
}

/// Runs forward and backward and reads every output and gradient.
pub async fn results(
    device: &Device,
    case: &Case,
    data: &BTreeMap<&'static str, Data>,
) -> Vec<(&'static str, Vec<f64>)> {
    let tensors = bind(device, data);
    run(device, &case.forward, &tensors);
    let mut results = Vec::new();
    for name in &case.outputs {
        results.push((*name, read(device, &tensors, name).await));
    }
    if let Some(backward) = &case.backward {
        run(device, backward, &tensors);
        for (_, name) in &case.gradients {
            results.push((*name, read(device, &tensors, name).await));
        }
    }
    results
}

/// What a case records, forward and backward.
#[must_use]
pub fn recorded(op: &str, case: &Case) -> Recording {
    let tensors = bind(&Device::cpu(), &data(op, case));
    let mut recording = Recording::new();
    (case.forward)(&mut recording, &tensors);
    if let Some(backward) = &case.backward {
        backward(&mut recording, &tensors);
    }
    recording
}

/// Runs every case of an op on `gpu`, with the kernels for software drivers, those for real cards,
/// and those of each tier that the device has, and compares with the CPU. Gives the number of
/// comparisons.
///
/// # Errors
/// The first difference above a case's tolerance, in words.
pub async fn gpu_difference(op: &Op, gpu: &Device) -> Result<usize, String> {
    let portable = [KernelPreference::Software, KernelPreference::Card];
    let tiers = gpu.tiers().iter().filter(|tier| **tier != Tier::Portable);
    let tiers = tiers.map(|tier| KernelPreference::Tier(*tier));
    difference_of_kernels(op, gpu, &portable.into_iter().chain(tiers).collect::<Vec<_>>()).await
}

/// As [`gpu_difference`], with these kernels; those of a tier where a case has some.
///
/// # Errors
/// The first difference above a case's tolerance, in words.
pub async fn difference_of_kernels(op: &Op, gpu: &Device, kernels: &[KernelPreference]) -> Result<usize, String> {
    let cpu = Device::cpu();
    let mut compared = 0;
    for case in (op.cases)() {
        let data = data(op.name, &case);
        let expected = results(&cpu, &case, &data).await;
        let recording = recorded(op.name, &case);
        for preference in kernels {
            let mut tolerance = f64::from(case.tolerance);
            if let KernelPreference::Tier(tier) = preference {
                if !recording.choices().any(|(choices, _)| choices.preferred(*preference).is_some()) {
                    continue;
                }
                tolerance = tolerance_of(*tier, tolerance);
            }
            gpu.prefer_kernels(*preference);
            let what = format!("{} with {}, {preference:?} kernels", op.name, case.label);
            let before = gpu.counters().dispatches;
            let found = results(gpu, &case, &data).await;
            if gpu.counters().dispatches == before {
                return Err(format!("{what}: nothing ran on the GPU"));
            }
            if let Some(difference) = difference(&found, &expected, tolerance) {
                return Err(format!("{what}: {difference}"));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

/// Largest error of a tier's kernels, relative to the largest element, for a case that is given
/// `exact`.
///
/// In f16 a rounding errs by 2⁻¹¹ of the number at most, by 0.4 · 2⁻¹¹ in root mean square, now up,
/// now down. Two factors make that 0.6 · 2⁻¹¹ of a result's root mean square. Where a run of eight
/// products is summed in f16, its product i and sum i add 0.4 · 2⁻¹¹ of √1 and of √i products: all
/// together 1.1 · 2⁻¹¹. The largest of some thousand errors is four times their root mean square,
/// the largest result twice its own: 6e-4 and 1.1e-3, and nearly twice that is allowed.
fn tolerance_of(tier: Tier, exact: f64) -> f64 {
    match tier {
        Tier::Portable | Tier::Subgroups | Tier::Matrices => exact,
        Tier::HalfMatrices8 | Tier::HalfMatrices16 => 1e-3,
        Tier::Half => 2e-3,
    }
}

/// Where two results differ by more than the tolerance, relative to the largest element: what and
/// where.
#[must_use]
pub fn difference(
    found: &[(&'static str, Vec<f64>)],
    expected: &[(&'static str, Vec<f64>)],
    tolerance: f64,
) -> Option<String> {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let largest =
            expected.iter().filter(|value| value.is_finite()).fold(1e-6, |max: f64, value| max.max(value.abs()));
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs() / largest;
            let same = found == expected || error <= tolerance;
            if !same {
                return Some(format!(
                    "{name}[{i}] is {found}, expected {expected} (relative {error:.1e}, tolerance {tolerance:.1e})"
                ));
            }
        }
    }
    None
}

/// Compares the gradients of a case on the f64 CPU device with central differences of Σ upstream ·
/// output.
///
/// At most `probes` elements of each input are moved. Returns the worst mismatch above `tolerance`.
#[must_use]
pub fn gradient_mismatch(op: &str, case: &Case, probes: usize, tolerance: f64) -> Option<String> {
    let backward = case.backward.as_ref()?;
    let device = Device::cpu_f64();
    let data = data(op, case);
    let tensors = bind(&device, &data);
    run(&device, &case.forward, &tensors);
    run(&device, backward, &tensors);
    let mut random = Random::from_text(&case.label);
    for (input, gradient) in &case.gradients {
        let analytic = block_on(read(&device, &tensors, gradient));
        let Data::F32(base) = &data[input] else { panic!("{input} is no float tensor") };
        // Below 1e-4 the rounding of the central difference itself would be judged.
        let largest = analytic.iter().fold(1e-4, |max: f64, value| max.max(value.abs()));
        for probe in 0..probes.min(base.len()) {
            let at = if probes >= base.len() { probe } else { random.below(base.len()) };
            let step = 1e-5;
            let loss = |shift: f64| -> f64 {
                let tensors = bind(&device, &data);
                let mut moved: Vec<f64> = base.iter().map(|value| f64::from(*value)).collect();
                moved[at] += shift;
                device.write_f64(tensors.view(input), &moved).unwrap();
                run(&device, &case.forward, &tensors);
                let weighted = case.upstream.iter().map(|(output, upstream)| {
                    let output = block_on(read(&device, &tensors, output));
                    let upstream = block_on(read(&device, &tensors, upstream));
                    output.iter().zip(upstream).map(|(a, b)| a * b).sum::<f64>()
                });
                weighted.sum()
            };
            let numeric = (loss(step) - loss(-step)) / (2.0 * step);
            let error = (numeric - analytic[at]).abs() / largest;
            let within = error <= tolerance;
            if !within {
                return Some(format!(
                    "d {input}[{at}] is {}, central difference {numeric} (relative {error:.1e})",
                    analytic[at]
                ));
            }
        }
    }
    None
}
