//! Which kernel a GPU takes where several can do a call: measured, remembered, and never at the cost of a buffer.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, KernelPreference, Matrix, MeasuredChoice, Recording, View};
use bft_core::ops::linear;
use bft_tests::random::Random;
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
    let (x, w, y) = (
        floats("x", TOKENS * COLS),
        floats("w", ROWS * COLS),
        floats("y", TOKENS * ROWS),
    );
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
    let [choice] = &measured[..] else {
        panic!("one call, {} choices", measured.len())
    };
    assert_eq!(choice.family, "linear_nt f32");
    assert_eq!(choice.class, [6, ROWS as u32, COLS as u32]);
    let kernels: Vec<_> = choice.nanoseconds.keys().map(String::as_str).collect();
    assert_eq!(kernels, ["linear_nt", "linear_nt_tile"]);
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
    let first = result(&gpu, |gpu| gpu.prefer_kernels(KernelPreference::First));
    let last = result(&gpu, |gpu| gpu.prefer_kernels(KernelPreference::Last));
    assert_ne!(
        first, last,
        "two kernels that round alike tell nothing apart"
    );
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
    assert_eq!(result(&gpu, remember("linear_nt")), first);
    assert_eq!(result(&gpu, remember("linear_nt_tile")), last);
    let default = if gpu.is_software() { &first } else { &last };
    assert_eq!(&result(&gpu, remember("linear_nt_of_last_year")), default);
}
