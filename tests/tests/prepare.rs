//! Runners measure kernels before their work, for every size of call that the work can make.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, MeasuredChoice, Precision};
use bft_core::model::encoder::EncoderRunner;
use bft_core::{Batch, Capacity, Runner, RunnerOptions};
use bft_formats::{EmbeddingModel, Pooling};
use bft_tests::fixture::{Fixture, folder, relative_norm};
use pollster::block_on;

/// Tokens that a runner is planned for. A call with up to eight has no kernel in f16.
const PLANNED: usize = 40;
const FEW: usize = 8;

const CAPACITY: Capacity = Capacity { tokens: PLANNED, trained: PLANNED, samples: 1 };

fn open() -> Option<Device> {
    let mut gpu = bft_tests::gpu()?;
    bft_tests::half::skew(&mut gpu);
    gpu.set_precision(Precision::F16);
    Some(gpu)
}

/// One text of so many tokens, all trained.
fn text(tokens: usize) -> Batch {
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % 31).collect();
    Batch {
        segments: vec![0, tokens as u32],
        trained: (0..tokens as u32 - 1).collect(),
        labels: ids[1..].to_vec(),
        trained_segments: vec![0, tokens as u32 - 1],
        tokens: ids,
    }
}

/// As if the kernels in f16 had been the fastest of all that were measured.
fn take_half(gpu: &Device) {
    let mut choices = gpu.measured_choices();
    choices.retain_mut(|choice: &mut MeasuredChoice| {
        choice.kernel = "linear_nt_tile f16".into();
        choice.nanoseconds.contains_key(&choice.kernel)
    });
    gpu.remember_choices(&choices);
}

/// `work` takes numbers of tokens after `prepare`, which measures nothing unless the device is to.
/// Then the kernels that it measured are those which the work looks up, in every size.
fn check<R>(runner: &mut R, gpu: &Device, prepare: impl Fn(&mut R), work: impl Fn(&mut R, usize) -> Vec<f32>) {
    prepare(runner);
    assert!(gpu.measured_choices().is_empty(), "measured unasked");
    let exact: Vec<Vec<f32>> = (FEW + 1..=PLANNED).map(|tokens| work(runner, tokens)).collect();
    gpu.measure_when_preparing(true);
    prepare(runner);
    take_half(gpu);
    for (tokens, exact) in (FEW + 1..=PLANNED).zip(exact) {
        let error = relative_norm(&work(runner, tokens), &exact);
        assert!(error > 1e-5, "{tokens} tokens: the prepared kernels are not taken");
        assert!(error < 0.1, "{tokens} tokens: {error}");
    }
}

fn runner<'a>(gpu: &'a Device, fixture: &Fixture) -> Runner<'a> {
    let options = RunnerOptions { capacity: CAPACITY, max_length: PLANNED };
    Runner::new(gpu, &fixture.model, None, options).unwrap()
}

#[test]
fn scores() {
    let Some(gpu) = open() else { return };
    let fixture = Fixture::load("llama");
    check(
        &mut runner(&gpu, &fixture),
        &gpu,
        |runner| block_on(runner.prepare_scores()).unwrap(),
        |runner, tokens| block_on(runner.log_probs(&text(tokens))).unwrap(),
    );
}

#[test]
fn vectors() {
    let Some(gpu) = open() else { return };
    let fixture = Fixture::load("llama");
    check(
        &mut runner(&gpu, &fixture),
        &gpu,
        |runner| block_on(runner.prepare_vectors()).unwrap(),
        |runner, tokens| {
            let text = Batch::untrained(text(tokens).tokens, vec![0, tokens as u32]);
            block_on(runner.embed(&text, Pooling::Mean)).unwrap()
        },
    );
}

#[test]
fn generation() {
    let Some(gpu) = open() else { return };
    let fixture = Fixture::load("llama");
    check(
        &mut runner(&gpu, &fixture),
        &gpu,
        |runner| block_on(runner.generation().unwrap().prepare()).unwrap(),
        |runner, tokens| {
            let mut generation = runner.generation().unwrap();
            block_on(generation.next(&text(tokens).tokens)).unwrap()
        },
    );
}

#[test]
fn encoder() {
    let Some(gpu) = open() else { return };
    let folder = folder().join("encoders/bge");
    let EmbeddingModel::Encoder(model) = EmbeddingModel::open(&folder).unwrap() else { panic!("a decoder") };
    check(
        &mut EncoderRunner::new(&gpu, &model, CAPACITY).unwrap(),
        &gpu,
        |runner| block_on(runner.prepare()).unwrap(),
        |runner, tokens| {
            let text = Batch::untrained(text(tokens).tokens, vec![0, tokens as u32]);
            block_on(runner.embed(&text, Pooling::Mean)).unwrap()
        },
    );
}
