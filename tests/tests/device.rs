//! What happens when a device refuses, is lost, or runs out of room: an error that says so, never a panic.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, DeviceError, DeviceRequest, Elem, Recording};
use bft_core::{
    AdamW, Capacity, Checkpoint, LossConfig, LossKind, ModelError, StepTotals, Tuner, TunerOptions,
};
use bft_tests::fixture::{Fixture, pack};
use pollster::block_on;

#[test]
fn a_lost_gpu_is_an_error_everywhere() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let fixture = Fixture::load("llama");
    let batch = pack(&fixture.rows);
    let totals = StepTotals {
        samples: fixture.rows.len(),
        tokens: batch.trained.len(),
    };
    let capacity = Capacity {
        tokens: batch.tokens.len(),
        trained: batch.trained.len(),
        samples: fixture.rows.len(),
    };
    let options = TunerOptions {
        capacity,
        max_length: 64,
        checkpoint: Checkpoint::Off,
        seed: 0,
    };
    let loss = LossConfig {
        kind: LossKind::Bft,
        group_size: 4,
        gamma: 1.0,
    };
    let mut tuner = Tuner::new(&gpu, &fixture.model, &fixture.adapter, options).unwrap();
    tuner.accumulate(&batch, totals, &loss).unwrap();
    gpu.destroy();
    let lost = |result: Result<(), ModelError>| {
        let error = result.expect_err("the device is gone");
        assert!(
            matches!(error, ModelError::Device(DeviceError::Lost(_))),
            "{error:?}"
        );
        assert!(error.to_string().contains("--device cpu"), "{error}");
    };
    lost(block_on(tuner.gradients()).map(drop));
    lost(tuner.accumulate(&batch, totals, &loss));
    lost(block_on(tuner.log_probs(&batch)).map(drop));
    lost(block_on(tuner.adapter()).map(drop));
}

/// Steps follow each other without a wait; reading the metrics of many is one.
#[test]
fn nothing_is_read_back_between_two_looks_at_the_metrics() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let fixture = Fixture::load("llama");
    let batch = pack(&fixture.rows);
    let totals = StepTotals {
        samples: 2 * fixture.rows.len(),
        tokens: 2 * batch.trained.len(),
    };
    let options = TunerOptions {
        capacity: Capacity {
            tokens: batch.tokens.len(),
            trained: batch.trained.len(),
            samples: fixture.rows.len(),
        },
        max_length: 64,
        checkpoint: Checkpoint::Off,
        seed: 0,
    };
    let loss = LossConfig {
        kind: LossKind::Bft,
        group_size: 4,
        gamma: 1.0,
    };
    let mut tuner = Tuner::new(&gpu, &fixture.model, &fixture.adapter, options).unwrap();
    let mut step = || {
        let before = gpu.counters();
        for _ in 0..2 {
            tuner.accumulate(&batch, totals, &loss).unwrap();
        }
        tuner.apply(1e-3, &AdamW::default()).unwrap();
        let after = gpu.counters();
        assert_eq!(after.readbacks, before.readbacks);
        (
            after.submits - before.submits,
            after.dispatches - before.dispatches,
        )
    };
    let (submits, dispatches) = step();
    // One for each recording, and one more where it is long.
    assert!(
        submits <= 3 + dispatches / 100,
        "{submits} submits for {dispatches} dispatches"
    );
    for _ in 0..5 {
        assert_eq!(step(), (submits, dispatches), "every step is alike");
    }
    let before = gpu.counters();
    assert_eq!(block_on(tuner.drain_metrics()).unwrap().len(), 6);
    assert_eq!(gpu.counters().readbacks, before.readbacks + 1);
}

#[test]
fn a_buffer_beyond_the_limit_is_refused_by_name() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let error = gpu
        .alloc("logits", Elem::F32, usize::MAX / 16)
        .expect_err("no device binds that");
    assert!(
        matches!(&error, DeviceError::TooLarge { what, .. } if what == "logits"),
        "{error:?}"
    );
    // The device goes on working.
    assert!(gpu.alloc("small", Elem::F32, 4).is_ok());
}

#[test]
fn the_cpu_reports_memory_it_cannot_have() {
    let error = Device::cpu()
        .alloc("activations", Elem::F32, usize::MAX / 8)
        .expect_err("nobody has that");
    assert!(
        matches!(&error, DeviceError::OutOfMemory { what, .. } if what == "activations"),
        "{error:?}"
    );
}

#[test]
fn an_adapter_number_beyond_the_list_is_refused() {
    if bft_tests::gpu().is_none() {
        return;
    }
    let error =
        block_on(Device::open(&DeviceRequest::Gpu(Some(99)))).expect_err("there are not so many");
    assert!(
        matches!(error, DeviceError::NoSuchAdapter { index: 99, .. }),
        "{error:?}"
    );
}

#[test]
fn auto_never_takes_a_software_driver() {
    let device = block_on(Device::open(&DeviceRequest::Auto)).unwrap();
    assert!(!device.is_software(), "{:?}", device.info());
    assert!(
        device.info().reason.starts_with("auto"),
        "{:?}",
        device.info()
    );
}

#[test]
fn a_planning_device_counts_what_a_cpu_would_hold() {
    let device = Device::planning();
    device.alloc("a", Elem::F32, 1000).unwrap();
    device.alloc("b", Elem::U32, 24).unwrap();
    assert_eq!(device.allocated_bytes(), 4096);
    assert!(device.run(&Recording::new()).is_ok());
}

#[test]
fn a_batch_that_does_not_hang_together_is_refused() {
    let fixture = Fixture::load("llama");
    let good = pack(&fixture.rows);
    let capacity = Capacity {
        tokens: good.tokens.len(),
        trained: good.trained.len(),
        samples: fixture.rows.len(),
    };
    let vocab = fixture.model.config.vocab_size;
    good.check(capacity, vocab).unwrap();
    let refused = |change: &dyn Fn(&mut bft_core::Batch), words: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = bad.check(capacity, vocab).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    refused(&|batch| batch.tokens[3] = vocab as u32, "vocabulary");
    refused(&|batch| batch.labels.truncate(1), "disagree in length");
    refused(&|batch| batch.segments[1] = 9999, "must rise");
    refused(&|batch| batch.trained[0] = 60, "outside of its sample");
    refused(
        &|batch| {
            *batch = bft_core::Batch {
                segments: vec![0],
                trained_segments: vec![0],
                ..Default::default()
            }
        },
        "no tokens",
    );
    let small = Capacity {
        tokens: 10,
        ..capacity
    };
    assert!(
        good.check(small, vocab)
            .unwrap_err()
            .to_string()
            .contains("planned for 10")
    );
}
