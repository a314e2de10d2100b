//! What happens when a device refuses, is lost, or runs out of room: an error that says so, never a
//! panic.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, DeviceError, DeviceRequest, Elem, Matrix, Recording};
use bft_core::ops::linear;
use bft_core::{AdamW, Capacity, Checkpoint, GroupSize, LossConfig, ModelError, StepTotals, Tuner, TunerOptions};
use bft_tests::fixture::{Fixture, pack};
use pollster::block_on;

#[test]
fn a_lost_gpu_is_an_error_everywhere() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let fixture = Fixture::load("llama");
    let batch = pack(&fixture.rows);
    let totals = StepTotals { samples: fixture.rows.len(), tokens: batch.trained.len() };
    let capacity = Capacity { tokens: batch.tokens.len(), trained: batch.trained.len(), samples: fixture.rows.len() };
    let options = TunerOptions {
        capacity,
        max_length: 64,
        checkpoint: Checkpoint::Off,
        seed: 0,
        frozen_half: false,
        anchored: false,
    };
    let loss = LossConfig { group_size: GroupSize::Tokens(4), ..LossConfig::default() };
    let mut tuner = Tuner::new(&gpu, &fixture.model, &fixture.adapter, options).unwrap();
    tuner.accumulate(&batch, totals, &loss).unwrap();
    gpu.destroy();
    let lost = |result: Result<(), ModelError>| {
        let error = result.expect_err("the device is gone");
        assert!(matches!(error, ModelError::Device(DeviceError::Lost(_))), "{error:?}");
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
    let totals = StepTotals { samples: 2 * fixture.rows.len(), tokens: 2 * batch.trained.len() };
    let options = TunerOptions {
        capacity: Capacity { tokens: batch.tokens.len(), trained: batch.trained.len(), samples: fixture.rows.len() },
        max_length: 64,
        checkpoint: Checkpoint::Off,
        seed: 0,
        frozen_half: false,
        anchored: false,
    };
    let loss = LossConfig { group_size: GroupSize::Tokens(4), ..LossConfig::default() };
    let mut tuner = Tuner::new(&gpu, &fixture.model, &fixture.adapter, options).unwrap();
    let mut step = || {
        let before = gpu.counters();
        for _ in 0..2 {
            tuner.accumulate(&batch, totals, &loss).unwrap();
        }
        tuner.apply(1e-3, &AdamW::default()).unwrap();
        let after = gpu.counters();
        assert_eq!(after.readbacks, before.readbacks);
        (after.submits - before.submits, after.dispatches - before.dispatches)
    };
    let (submits, dispatches) = step();
    // One for each recording, and one more where it is long.
    assert!(submits <= 3 + dispatches / 100, "{submits} submits for {dispatches} dispatches");
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
    let error = gpu.alloc("logits", Elem::F32, usize::MAX / 16).expect_err("no device binds that");
    assert!(matches!(&error, DeviceError::TooLarge { what, .. } if what == "logits"), "{error:?}");
    // The device goes on working.
    assert!(gpu.alloc("small", Elem::F32, 4).is_ok());
}

#[test]
fn the_cpu_reports_memory_it_cannot_have() {
    let error = Device::cpu().alloc("activations", Elem::F32, usize::MAX / 8).expect_err("nobody has that");
    assert!(matches!(&error, DeviceError::OutOfMemory { what, .. } if what == "activations"), "{error:?}");
}

#[test]
fn an_adapter_number_beyond_the_list_is_refused() {
    if bft_tests::gpu().is_none() {
        return;
    }
    let error = block_on(Device::open(&DeviceRequest::Gpu(Some(99)))).expect_err("there are not so many");
    assert!(matches!(error, DeviceError::NoSuchAdapter { index: 99, .. }), "{error:?}");
}

#[test]
fn auto_never_takes_a_software_driver() {
    let device = block_on(Device::open(&DeviceRequest::Auto)).unwrap();
    assert!(!device.is_software(), "{:?}", device.info());
    assert!(device.info().reason.starts_with("auto"), "{:?}", device.info());
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
    let capacity = Capacity { tokens: good.tokens.len(), trained: good.trained.len(), samples: fixture.rows.len() };
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
            // Nothing follows a sample's last token.
            let last = batch.trained_segments[1] as usize - 1;
            batch.trained[last] = batch.segments[1] - 1;
        },
        "or is its last",
    );
    refused(
        &|batch| *batch = bft_core::Batch { segments: vec![0], trained_segments: vec![0], ..Default::default() },
        "no tokens",
    );
    let small = Capacity { tokens: 10, ..capacity };
    assert!(good.check(small, vocab).unwrap_err().to_string().contains("planned for 10"));
}

#[test]
fn timed_kernels_are_all_of_a_recording_s_and_count_its_products() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let (tokens, rows, cols) = (70, 36, 64);
    let x = gpu.upload_f32("x", &vec![0.5; tokens * cols]).unwrap();
    let w = gpu.upload_f32("w", &vec![0.25; rows * cols]).unwrap();
    let y = gpu.alloc("y", Elem::F32, tokens * rows).unwrap();
    let mut recording = Recording::new();
    let matrix = Matrix::dense(&w.view(), rows, cols);
    // More calls than a submit holds.
    for _ in 0..150 {
        linear::forward(&mut recording, &x.view(), &matrix, &y.view(), 1.0, false);
    }
    assert!(gpu.timed_kernels().is_empty());
    if !gpu.time_kernels(true) {
        eprintln!("this adapter has no timestamps");
        return;
    }
    gpu.run(&recording).unwrap();
    let times = gpu.timed_kernels();
    assert_eq!(times.len(), 1, "{times:?}");
    assert_eq!(times[0].calls, 150);
    assert_eq!(times[0].flops, 150.0 * 2.0 * (tokens * rows * cols) as f64);
    let bytes = (tokens * cols + rows * cols + 2 * tokens * rows) * 4;
    assert_eq!(times[0].bytes, 150.0 * bytes as f64);
    assert!(times[0].seconds > 0.0 && times[0].seconds < 60.0, "{times:?}");
    gpu.time_kernels(false);
    gpu.run(&recording).unwrap();
    assert!(gpu.timed_kernels().is_empty());
    let values = block_on(gpu.read_f32(&y.view())).unwrap();
    assert!(values.iter().all(|value| *value == 8.0));
}

#[test]
fn compiled_shaders_are_taken_over_and_damaged_ones_are_not() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let result = |device: &Device| {
        let x = device.upload_f32("x", &[1.0; 64]).unwrap();
        let w = device.upload_f32("w", &[2.0; 256]).unwrap();
        let y = device.alloc("y", Elem::F32, 4).unwrap();
        let mut recording = Recording::new();
        let matrix = Matrix::dense(&w.view(), 4, 64);
        linear::forward(&mut recording, &x.view(), &matrix, &y.view(), 1.0, false);
        device.run(&recording).unwrap();
        block_on(device.read_f32(&y.view())).unwrap()
    };
    let expected = result(&gpu);
    let Some(compiled) = gpu.compiled() else {
        eprintln!("this backend keeps its compiled shaders to itself");
        return;
    };
    let mut damaged = compiled.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for kept in [compiled, damaged, Vec::new(), b"bftpipe1".to_vec(), vec![7; 500]] {
        let asked = std::cell::RefCell::new(String::new());
        let find = |identity: &str| {
            identity.clone_into(&mut asked.borrow_mut());
            Some(kept.clone())
        };
        let again = block_on(Device::open_warm(&DeviceRequest::Gpu(None), &find)).unwrap();
        assert_eq!(result(&again), expected);
        let identity = asked.into_inner();
        assert_eq!(again.identity(), Some(identity.as_str()));
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        assert!(!identity.is_empty() && identity.chars().all(plain), "{identity}");
    }
}
