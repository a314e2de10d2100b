//! What one training step asks of a GPU, counted: time differs from machine to machine, these
//! numbers do not.
//!
//! A change that makes one of them larger has to say why. One that makes it smaller writes the
//! smaller number here.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::GpuCounters;
use bft_core::{AdamW, Capacity, Checkpoint, GroupSize, LossConfig, StepTotals, Tuner, TunerOptions};
use bft_tests::fixture::{Fixture, pack};
use pollster::block_on;

fn since(before: GpuCounters, now: GpuCounters) -> GpuCounters {
    GpuCounters {
        dispatches: now.dispatches - before.dispatches,
        submits: now.submits - before.submits,
        readbacks: now.readbacks - before.readbacks,
        bytes_uploaded: now.bytes_uploaded - before.bytes_uploaded,
        bytes_allocated: now.bytes_allocated - before.bytes_allocated,
    }
}

#[test]
fn a_step_asks_no_more_of_a_gpu_than_it_did() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let fixture = Fixture::load("llama");
    let batch = pack(&fixture.rows);
    let samples = batch.segments.len() - 1;
    let totals = StepTotals { samples: 2 * samples, tokens: 2 * batch.trained.len() };
    let loss = LossConfig { group_size: GroupSize::Tokens(4), ..LossConfig::default() };
    let found = [Checkpoint::Off, Checkpoint::On].map(|checkpoint| {
        let options = TunerOptions {
            capacity: Capacity { tokens: batch.tokens.len(), trained: batch.trained.len(), samples },
            max_length: 64,
            checkpoint,
            seed: 0,
            frozen_half: false,
            anchored: false,
        };
        let opened = gpu.counters();
        block_on(Tuner::compile(&gpu, &fixture.model, &fixture.adapter, options)).unwrap();
        assert_eq!(gpu.counters(), opened, "building shaders asks for no memory");
        let mut tuner = Tuner::new(&gpu, &fixture.model, &fixture.adapter, options).unwrap();
        let start = since(opened, gpu.counters());
        let mut step = || {
            let before = gpu.counters();
            for _ in 0..2 {
                tuner.accumulate(&batch, totals, &loss).unwrap();
            }
            tuner.apply(1e-3, &AdamW::default()).unwrap();
            since(before, gpu.counters())
        };
        let (first, second) = (step(), step());
        assert_eq!(step(), second, "{checkpoint:?}: steps are alike");
        let before = gpu.counters();
        assert_eq!(block_on(tuner.drain_metrics()).unwrap().len(), 3);
        Counts {
            start,
            first_step_allocates: first.bytes_allocated,
            step: second,
            metrics: since(before, gpu.counters()),
        }
    });
    assert_eq!(found, [EVERYTHING_KEPT, INPUTS_KEPT]);
}

#[derive(Debug, PartialEq)]
struct Counts {
    /// Model, adapter and plan.
    start: GpuCounters,
    /// The metrics' buffer.
    first_step_allocates: u64,
    /// Two micro-batches and an update.
    step: GpuCounters,
    /// A look at the metrics of three steps.
    metrics: GpuCounters,
}

const NONE: GpuCounters =
    GpuCounters { dispatches: 0, submits: 0, readbacks: 0, bytes_uploaded: 0, bytes_allocated: 0 };

const METRICS: GpuCounters = GpuCounters { submits: 1, readbacks: 1, ..NONE };

const EVERYTHING_KEPT: Counts = Counts {
    start: GpuCounters { bytes_uploaded: 321_792, bytes_allocated: 1_616_776, ..NONE },
    first_step_allocates: 16_384,
    step: GpuCounters { dispatches: 319, submits: 5, bytes_uploaded: 87_792, ..NONE },
    metrics: METRICS,
};

/// Blocks are run again: more calls, fewer bytes.
const INPUTS_KEPT: Counts = Counts {
    start: GpuCounters { bytes_uploaded: 321_792, bytes_allocated: 1_340_296, ..NONE },
    first_step_allocates: 16_384,
    step: GpuCounters { dispatches: 435, submits: 5, bytes_uploaded: 117_488, ..NONE },
    metrics: METRICS,
};
