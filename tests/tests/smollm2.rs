//! The real SmolLM2-135M-Instruct, from its GGUF file, against PyTorch on the dequantised weights.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::{Device, KernelPreference, Tier};
use bft_core::{Batch, Capacity, Checkpoint, LossConfig, Runner, RunnerOptions, StepTotals, Tuner, TunerOptions};
use bft_formats::{Adapter, Model};
use bft_tests::fixture::{folder, read_tensors, relative_norm};
use pollster::block_on;
use serde_json::Value;

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("smollm2.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// One sample with every token but the first trained.
fn whole(tokens: Vec<u32>) -> Batch {
    let last = tokens.len() as u32 - 1;
    Batch {
        segments: vec![0, last + 1],
        trained: (0..last).collect(),
        labels: tokens[1..].to_vec(),
        trained_segments: vec![0, last],
        tokens,
    }
}

fn capacity(batch: &Batch) -> Capacity {
    Capacity { tokens: batch.tokens.len(), trained: batch.trained.len(), samples: 1 }
}

fn devices() -> impl Iterator<Item = Device> {
    [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten()
}

#[test]
fn greedy_continuation() {
    let (model, expected) = (Model::open(&bft_tests::smollm2()).unwrap(), expected());
    let generation = &expected["generation"];
    let tokenizer = model.tokenizer.as_ref().unwrap();
    let prompt = tokenizer.encode(generation["prompt"].as_str().unwrap(), false).unwrap();
    assert_eq!(prompt, ids(&generation["prompt_tokens"]));
    for device in devices() {
        let capacity = Capacity { tokens: 8, trained: 1, samples: 1 };
        let runner = Runner::new(&device, &model, None, RunnerOptions { capacity, max_length: 64 }).unwrap();
        let mut text = runner.generation().unwrap();
        let (mut next, mut found) = (prompt.clone(), Vec::new());
        for _ in 0..24 {
            let logits = block_on(text.next(&next)).unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            found.push(best as u32);
            next = vec![best as u32];
        }
        assert_eq!(found, ids(&generation["tokens"]), "on {}", device.info().name);
        assert_eq!(tokenizer.decode(&found, true).unwrap(), generation["text"].as_str().unwrap());
    }
}

#[test]
fn likelihood_of_a_paragraph() {
    let (model, expected) = (Model::open(&bft_tests::smollm2()).unwrap(), expected());
    let paragraph = &expected["paragraph"];
    let tokens = model.tokenizer.as_ref().unwrap().encode(paragraph["text"].as_str().unwrap(), false).unwrap();
    assert_eq!(tokens, ids(&paragraph["tokens"]));
    let batch = whole(tokens);
    let expected = paragraph["nll"].as_f64().unwrap();
    for device in devices() {
        let portable = (KernelPreference::Measured, 1e-3);
        let tiers = device.tiers().iter().filter(|tier| **tier != Tier::Portable);
        let tiers = tiers.map(|tier| {
            let tolerance = if tier.is_exact() { 1e-3 } else { 1e-2 };
            (KernelPreference::Tier(*tier), tolerance)
        });
        if device.is_gpu() {
            bft_tests::tell_tiers(&device);
        }
        for (kernels, tolerance) in std::iter::once(portable).chain(tiers) {
            device.prefer_kernels(kernels);
            let nll = nll(&device, &model, &batch);
            println!("{}, {kernels:?}: NLL {nll:.6}, PyTorch's {expected:.6}", device.info().name);
            assert!(
                (nll - expected).abs() < tolerance,
                "{}, {kernels:?}: NLL {nll}, expected {expected}",
                device.info().name
            );
        }
    }
}

/// Mean over the tokens of one sample.
fn nll(device: &Device, model: &Model, batch: &Batch) -> f64 {
    // Planned for more than comes, as training is: the head's chunks differ from a plan made to
    // measure.
    let planned = Capacity { tokens: batch.tokens.len() + 57, trained: batch.trained.len() + 31, samples: 1 };
    let options = RunnerOptions { capacity: planned, max_length: batch.tokens.len() };
    let mut runner = Runner::new(device, model, None, options).unwrap();
    let found = block_on(runner.log_probs(batch)).unwrap();
    -found.iter().map(|log_p| f64::from(*log_p)).sum::<f64>() / found.len() as f64
}

#[test]
fn gradient_through_the_quantised_model() {
    let (model, expected) = (Model::open(&bft_tests::smollm2()).unwrap(), expected());
    let adapter = Adapter::load(&folder().join("smollm2_adapter"), &model.config).unwrap();
    let settings = &expected["adapter"]["gradient"];
    let loss = LossConfig {
        kind: serde_json::from_value(settings["loss"].clone()).unwrap(),
        group_size: serde_json::from_value(settings["group_size"].clone()).unwrap(),
        gamma: settings["gamma"].as_f64().unwrap() as f32,
        ..LossConfig::default()
    };
    let batch = whole(ids(&expected["paragraph"]["tokens"]));
    let tensors = read_tensors(&folder().join("smollm2_gradient.safetensors"));
    for device in devices() {
        let options = TunerOptions {
            capacity: capacity(&batch),
            max_length: batch.tokens.len(),
            checkpoint: Checkpoint::Auto,
            seed: 0,
            frozen_half: false,
            anchored: false,
        };
        let mut tuner = Tuner::new(&device, &model, &adapter, options).unwrap();
        tuner.accumulate(&batch, StepTotals { samples: 1, tokens: batch.trained.len() }, &loss).unwrap();
        let found = block_on(tuner.gradients()).unwrap();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in &found.pairs {
            for (name, _, values) in pair.tensors() {
                ours.extend(values);
                theirs.extend(&tensors[&format!("base_model.model.{}.{name}", pair.module)]);
            }
        }
        let error = relative_norm(&ours, &theirs);
        assert!(error < 1e-4, "{}: relative error {error:.2e}", device.info().name);
    }
}
