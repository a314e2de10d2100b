//! Which kernel a GPU takes where several can do a call: measured, remembered, and never at the
//! cost of a buffer.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, KernelPreference, Matrix, MeasuredChoice, Precision, Recording, Tier, View, WRONG};
use bft_core::ops::linear;
use bft_formats::{DType, Random};
use bft_tests::matrices;
use bft_tests::ops::random_weight;
use pollster::block_on;

const TOKENS: usize = 65;
const ROWS: usize = 68;
const COLS: usize = 36;

/// x, w, y and a call y += x wᵀ.
fn call(device: &Device) -> (View, Recording) {
    let mut random = Random::from_text("kernel choices");
    let mut floats = |name: &str, len| {
        let values = random.floats(len, -1.0, 1.0);
        device.upload_f32(name, &values).unwrap().view()
    };
    let (x, w, y) = (floats("x", TOKENS * COLS), floats("w", ROWS * COLS), floats("y", TOKENS * ROWS));
    let mut recording = Recording::new();
    let w = Matrix::dense(&w, ROWS, COLS);
    linear::forward(&mut recording, &x, &w, &y, 1.0, true);
    (y, recording)
}

fn bits(device: &Device, view: &View) -> Vec<u32> {
    let values = block_on(device.read_f32(view)).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// What the call makes of y with the kernels that `prepare` asks for.
fn result(device: &Device, prepare: impl Fn(&Device)) -> Vec<u32> {
    let (y, recording) = call(device);
    prepare(device);
    device.run(&recording).unwrap();
    bits(device, &y)
}

#[test]
fn measuring_leaves_every_buffer_alone_and_is_remembered() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let (y, recording) = call(&gpu);
    let before = bits(&gpu, &y);
    block_on(gpu.measure_choices(&recording)).unwrap();
    assert_eq!(bits(&gpu, &y), before, "measuring wrote to y");

    let measured = gpu.measured_choices();
    let [choice] = &measured[..] else { panic!("one call, {} choices", measured.len()) };
    assert_eq!(choice.family, "linear_nt f32");
    assert_eq!(choice.class, [6, ROWS as u32, COLS as u32]);
    for kernel in ["linear_nt", "linear_nt_tile"] {
        assert!(choice.nanoseconds.contains_key(kernel), "{kernel}");
    }
    let fastest = choice.nanoseconds.iter().min_by_key(|(_, time)| **time);
    assert_eq!(&choice.kernel, fastest.unwrap().0);

    let dispatches = gpu.counters().dispatches;
    block_on(gpu.measure_choices(&recording)).unwrap();
    let again = gpu.counters().dispatches - dispatches;
    assert_eq!(again, 0, "a known class was measured again");

    let text = serde_json::to_string(&measured).unwrap();
    let read: Vec<MeasuredChoice> = serde_json::from_str(&text).unwrap();
    let fresh = bft_tests::gpu().unwrap();
    fresh.remember_choices(&read);
    assert_eq!(fresh.measured_choices(), measured);
}

#[test]
fn a_remembered_choice_is_taken_and_a_stale_one_is_not() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let software = result(&gpu, |gpu| gpu.prefer_kernels(KernelPreference::Software));
    let card = result(&gpu, |gpu| gpu.prefer_kernels(KernelPreference::Card));
    assert_ne!(software, card, "two kernels that round alike tell nothing apart");
    let remember = |kernel: &'static str| {
        move |gpu: &Device| {
            gpu.prefer_kernels(KernelPreference::Measured);
            gpu.remember_choices(&[MeasuredChoice {
                family: "linear_nt f32".into(),
                class: [6, ROWS as u32, COLS as u32],
                kernel: kernel.into(),
                nanoseconds: [].into(),
            }]);
        }
    };
    assert_eq!(result(&gpu, remember("linear_nt")), software);
    assert_eq!(result(&gpu, remember("linear_nt_tile")), card);
    let default = if gpu.is_software() { &software } else { &card };
    assert_eq!(&result(&gpu, remember("linear_nt_of_last_year")), default);
}

/// A driver that computes one kernel wrongly: it is found out on random numbers and never taken,
/// however fast.
#[test]
fn a_kernel_with_a_wrong_result_is_not_taken() {
    let Some(mut gpu) = bft_tests::gpu() else {
        return;
    };
    gpu.rewrite_shaders(Tier::Matrices, |text| {
        matrices::rewrite(text).replace("params.alpha *", "1.001 * params.alpha *")
    });
    let recording = recording_of(&gpu);
    block_on(gpu.measure_choices(&recording)).unwrap();
    let measured = gpu.measured_choices();
    let wrong = "linear_nt_matrix matrices";
    assert_eq!(measured[0].nanoseconds.get(wrong), Some(&WRONG));
    assert_ne!(measured[0].kernel, wrong);

    let dispatches = gpu.counters().dispatches;
    block_on(gpu.measure_choices(&recording)).unwrap();
    assert_eq!(gpu.counters().dispatches, dispatches, "it was tried again");

    let mut gpu = bft_tests::gpu().unwrap();
    gpu.rewrite_shaders(Tier::Matrices, matrices::rewrite);
    block_on(gpu.measure_choices(&recording_of(&gpu))).unwrap();
    let right = gpu.measured_choices()[0].nanoseconds[wrong];
    assert!(right < WRONG, "the right kernel was not timed");
}

fn recording_of(device: &Device) -> Recording {
    call(device).1
}

fn with_half() -> Option<Device> {
    let mut gpu = bft_tests::gpu()?;
    bft_tests::half::skew(&mut gpu);
    Some(gpu)
}

/// Less accurate kernels are neither measured nor taken unless f16 is asked for, though a cache
/// names them.
#[test]
fn f16_is_taken_only_where_it_is_allowed() {
    let Some(gpu) = with_half() else { return };
    let mut random = Random::from_text("f16");
    let x = random.floats(TOKENS * 64, -1.0, 1.0);
    let x = gpu.upload_f32("x", &x).unwrap().view();
    let w = random_weight(&mut random, DType::F16, &[ROWS, 64]);
    let w = Matrix::frozen(&gpu.upload_weight(&w).unwrap());
    let y = gpu.upload_f32("y", &[0.0; TOKENS * ROWS]).unwrap().view();
    let mut recording = Recording::new();
    linear::forward(&mut recording, &x, &w, &y, 1.0, false);
    let run = || {
        gpu.run(&recording).unwrap();
        bits(&gpu, &y)
    };

    let (half, exact) = ("linear_nt_tile f16", run());
    block_on(gpu.measure_choices(&recording)).unwrap();
    let measured = gpu.measured_choices();
    assert!(!measured[0].nanoseconds.contains_key(half));
    let named = |family: &str| MeasuredChoice { family: family.into(), kernel: half.into(), ..measured[0].clone() };
    gpu.remember_choices(&[named("linear_nt f16"), named("linear_nt f16, f16 allowed")]);
    assert_eq!(run(), exact, "f16 was taken unasked");
    gpu.set_precision(Precision::F16);
    assert_ne!(run(), exact, "f16 was allowed and measured, and not taken");

    let fresh = with_half().unwrap();
    fresh.set_precision(Precision::F16);
    let w = random_weight(&mut Random::from_text("f16 anew"), DType::F16, &[ROWS, 64]);
    let w = Matrix::frozen(&fresh.upload_weight(&w).unwrap());
    let x = fresh.upload_f32("x", &[0.5; TOKENS * 64]).unwrap().view();
    let y = fresh.upload_f32("y", &[0.0; TOKENS * ROWS]).unwrap().view();
    let mut recording = Recording::new();
    linear::forward(&mut recording, &x, &w, &y, 1.0, false);
    block_on(fresh.measure_choices(&recording)).unwrap();
    let measured = fresh.measured_choices();
    assert_eq!(measured[0].family, "linear_nt f16, f16 allowed");
    assert!(measured[0].nanoseconds.contains_key(half));
}
