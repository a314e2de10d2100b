//! The engine against PyTorch and PEFT, on every architecture, on the CPU and on a GPU.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use bft_core::device::Device;
use bft_core::ops::loss_weights::software_can;
use bft_core::{
    AdamW, Batch, Capacity, Checkpoint, GroupSize, LossConfig, LossKind, Pooling, Runner, RunnerOptions, StepTotals,
    Tuner, TunerOptions,
};
use bft_formats::Adapter;
use bft_tests::fixture::{Fixture, pack, read_tensors, relative_norm};
use pollster::block_on;
use serde_json::Value;

/// Runs a check on every device and fixture.
fn everywhere(check: impl Fn(&Device, &Fixture)) {
    let devices: Vec<Device> = [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten().collect();
    for fixture in Fixture::all() {
        for device in &devices {
            check(device, &fixture);
        }
    }
}

fn capacity(batch: &Batch) -> Capacity {
    Capacity { tokens: batch.tokens.len(), trained: batch.trained.len(), samples: batch.segments.len() - 1 }
}

fn totals(batch: &Batch) -> StepTotals {
    StepTotals { samples: batch.segments.len() - 1, tokens: batch.trained.len() }
}

fn options(batch: &Batch) -> TunerOptions {
    TunerOptions {
        capacity: capacity(batch),
        max_length: 128,
        checkpoint: Checkpoint::Off,
        seed: 0,
        frozen_half: false,
        anchored: false,
    }
}

fn options_for(batch: &Batch, loss: &LossConfig) -> TunerOptions {
    TunerOptions { anchored: loss.kl_weight > 0.0, ..options(batch) }
}

fn loss(name: &str, fixture: &Fixture) -> LossConfig {
    LossConfig {
        kind: serde_json::from_value(name.into()).unwrap(),
        group_size: serde_json::from_value(fixture.expected["group_size"].clone()).unwrap(),
        gamma: fixture.expected["gamma"].as_f64().unwrap() as f32,
        ..LossConfig::default()
    }
}

fn runner<'a>(device: &'a Device, fixture: &Fixture, batch: &Batch, adapted: bool) -> Runner<'a> {
    let options = RunnerOptions { capacity: capacity(batch), max_length: 128 };
    Runner::new(device, &fixture.model, adapted.then_some(&fixture.adapter), options).unwrap()
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_norm(found, expected);
    assert!(error <= tolerance, "{what}: relative error {error:.2e}, tolerance {tolerance:.0e}");
}

#[test]
fn logits_token_by_token() {
    everywhere(|device, fixture| {
        let vocab = fixture.model.config.vocab_size;
        for (name, row, adapted) in [("logits.7", 7, true), ("logits.0", 0, true), ("base_logits.0", 0, false)] {
            let row = &fixture.rows[row];
            let runner = runner(device, fixture, &pack(std::slice::from_ref(row)), adapted);
            let mut text = runner.generation().unwrap();
            // The first three at once, the others one by one through the cache.
            let mut taken = 0;
            for piece in [3].into_iter().chain(std::iter::repeat_n(1, row.input_ids.len() - 3)) {
                let logits = block_on(text.next(&row.input_ids[taken..taken + piece])).unwrap();
                taken += piece;
                let expected = &fixture.tensor(name)[(taken - 1) * vocab..taken * vocab];
                assert_close(&format!("{} {name}, token {taken}", fixture.name), &logits, expected, 1e-5);
            }
        }
    });
}

#[test]
fn several_adapters_at_a_time() {
    let folder = bft_tests::fixture::folder().join("several");
    let expected = read_tensors(&folder.join("expected.safetensors"));
    let mut fixture = Fixture::load("llama");
    let first = fixture.adapter.clone();
    let second = Adapter::load(&folder.join("second"), &fixture.model.config).unwrap();
    for (name, scales) in [("together", [1.0, 1.0]), ("weighed", [0.5, 2.0])] {
        let both = [first.clone(), second.clone()].into_iter().zip(scales).collect();
        fixture.adapter = Adapter::sum(both).unwrap().unwrap();
        let row = &fixture.rows[3];
        for device in [Some(Device::cpu()), bft_tests::gpu()].iter().flatten() {
            let runner = runner(device, &fixture, &pack(std::slice::from_ref(row)), true);
            let mut text = runner.generation().unwrap();
            for (token, expected) in row.input_ids.iter().zip(expected[name].chunks(fixture.model.config.vocab_size)) {
                let logits = block_on(text.next(&[*token])).unwrap();
                assert_close(&format!("{name} on {}", device.info().name), &logits, expected, 1e-5);
            }
        }
    }
}

#[test]
fn log_probabilities_and_embeddings() {
    everywhere(|device, fixture| {
        let batch = pack(&fixture.rows);
        let mut runner = runner(device, fixture, &batch, true);
        let found = block_on(runner.log_probs(&batch)).unwrap();
        assert_close(&format!("{} log p", fixture.name), &found, fixture.tensor("log_prob"), 1e-5);
        for (pooling, name) in [(Pooling::Mean, "embedding.mean"), (Pooling::Last, "embedding.last")] {
            let found = block_on(runner.embed(&batch, pooling)).unwrap();
            assert_close(&format!("{} {name}", fixture.name), &found, fixture.tensor(name), 1e-5);
        }
    });
}

#[test]
fn greedy_continuation() {
    everywhere(|device, fixture| {
        let generation = &fixture.expected["generation"];
        let ids = |key: &str| -> Vec<u32> {
            generation[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (prompt, expected) = (ids("prompt"), ids("tokens"));
        let batch = Batch::untrained(prompt.clone(), vec![0, prompt.len() as u32]);
        let runner = runner(device, fixture, &batch, true);
        let mut text = runner.generation().unwrap();
        let (mut next, mut found) = (prompt, Vec::new());
        for _ in 0..expected.len() {
            let logits = block_on(text.next(&next)).unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            found.push(best as u32);
            next = vec![best as u32];
        }
        assert_eq!(found, expected, "{} on {}", fixture.name, device.info().name);
    });
}

/// The loss of a case of a fixture, which may leave out what is usual.
fn loss_of(case: &Value) -> LossConfig {
    let usual = LossConfig::default();
    let number = |key: &str, usual: f32| case[key].as_f64().map_or(usual, |number| number as f32);
    LossConfig {
        kind: serde_json::from_value(case["loss"].clone()).unwrap(),
        group_size: serde_json::from_value(case["group_size"].clone()).unwrap(),
        gamma: number("gamma", usual.gamma),
        weight_floor: number("weight_floor", usual.weight_floor),
        q: number("q", usual.q),
        kl_weight: number("kl_weight", usual.kl_weight),
    }
}

/// One case's value, and its gradient where there is one whose tensors' names begin so.
fn check_loss(device: &Device, fixture: &Fixture, case: &Value, gradient: Option<&str>) {
    let (batch, config) = (pack(&fixture.rows), loss_of(case));
    let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options_for(&batch, &config)).unwrap();
    tuner.accumulate(&batch, totals(&batch), &config).unwrap();
    let found = block_on(tuner.totals()).unwrap();
    let what = format!("{} {config:?} on {}", fixture.name, device.info().name);
    let value = case["value"].as_f64().unwrap();
    assert!((found[0] / value - 1.0).abs() < 1e-5, "{what}: loss {} expected {value}", found[0]);
    let nll = fixture.expected["nll"].as_f64().unwrap();
    assert!((found[1] / found[2] / nll - 1.0).abs() < 1e-5, "{what}: NLL {}", found[1] / found[2]);
    if let Some(prefix) = gradient {
        let gradients = block_on(tuner.gradients()).unwrap();
        for (name, found, expected) in fixture.compare_factors(prefix, &gradients) {
            assert!(found.iter().any(|value| *value != 0.0), "{what}: {name} is all zero");
            assert_close(&format!("{what} {name}"), found, expected, 1e-4);
        }
    }
}

/// The steps of one run, and the adapter that they leave among tensors whose names begin so.
fn check_training(device: &Device, fixture: &Fixture, training: &Value, trained: &str) {
    let number = |key: &str| training[key].as_f64().unwrap();
    let count = |key: &str| training[key].as_u64().unwrap() as usize;
    let settings =
        AdamW { weight_decay: number("weight_decay"), max_grad_norm: number("max_grad_norm"), ..AdamW::default() };
    let config = loss_of(training);
    let whole = pack(&fixture.rows);
    let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options_for(&whole, &config)).unwrap();
    let (batch_size, accum) = (count("batch_size"), count("grad_accum"));
    let steps = training["steps_done"].as_array().unwrap();
    for (step, done) in steps.iter().enumerate() {
        let per_step = batch_size * accum;
        let rows: Vec<_> =
            (0..per_step).map(|i| fixture.rows[(step * per_step + i) % fixture.rows.len()].clone()).collect();
        let step_totals = totals(&pack(&rows));
        for rows in rows.chunks(batch_size) {
            tuner.accumulate(&pack(rows), step_totals, &config).unwrap();
        }
        tuner.apply(done["lr"].as_f64().unwrap(), &settings).unwrap();
    }
    let what = format!("{} {trained} on {}", fixture.name, device.info().name);
    for (metrics, done) in block_on(tuner.drain_metrics()).unwrap().iter().zip(steps) {
        for (name, found) in [("loss", metrics.loss), ("nll", metrics.nll), ("grad_norm", metrics.grad_norm)] {
            let expected = done[name].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 1e-3, "{what}: {name} {found}, expected {expected}");
        }
        assert!(!metrics.skipped);
    }
    let adapter = block_on(tuner.adapter()).unwrap();
    for (name, found, expected) in fixture.compare_factors(trained, &adapter) {
        assert_close(&format!("{what} {name}"), found, expected, 1e-3);
    }
}

#[test]
fn losses_and_gradients() {
    everywhere(|device, fixture| {
        for case in fixture.expected["losses"].as_array().unwrap() {
            let config = loss_of(case);
            let prefix = format!("gradient.{}.", config.kind);
            let has = fixture.tensors.keys().any(|name| name.starts_with(&prefix));
            let has = has && config == loss(config.kind.name(), fixture);
            check_loss(device, fixture, case, has.then_some(&prefix));
        }
    });
}

#[test]
fn five_optimizer_steps() {
    everywhere(|device, fixture| {
        for training in fixture.expected["training"].as_array().unwrap() {
            let trained = format!("trained.{}.", training["schedule"].as_str().unwrap());
            check_training(device, fixture, training, &trained);
        }
    });
}

/// Floors under weights, windows of a part of a sample, generalised cross-entropy, and an anchor to
/// the base.
#[test]
fn losses_with_more_settings() {
    let folder = bft_tests::fixture::folder().join("losses");
    let fixture = Fixture { tensors: read_tensors(&folder.join("expected.safetensors")), ..Fixture::load("llama") };
    let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let name = |case: &Value| case["name"].as_str().unwrap().to_owned();
    for device in [Some(Device::cpu()), bft_tests::gpu()].iter().flatten() {
        for case in expected["losses"].as_array().unwrap() {
            check_loss(device, &fixture, case, Some(&format!("gradient.{}.", name(case))));
        }
        for training in expected["training"].as_array().unwrap() {
            check_training(device, &fixture, training, &format!("trained.{}.", name(training)));
        }
    }
}

fn gradient_of(device: &Device, fixture: &Fixture, micro_batches: &[Batch], checkpoint: Checkpoint) -> Vec<f64> {
    let whole = pack(&fixture.rows);
    let options = TunerOptions { checkpoint, ..options(&whole) };
    let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options).unwrap();
    for batch in micro_batches {
        tuner.accumulate(batch, totals(&whole), &loss("bft", fixture)).unwrap();
    }
    block_on(tuner.flat_gradients()).unwrap()
}

fn assert_equal_within(tolerance: f64, what: &str, found: &[f64], expected: &[f64]) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let relative = difference / norm(&mut expected.iter().copied());
    assert!(relative <= tolerance, "{what}: relative difference {relative:.1e}");
}

fn check_invariances(device: &Device, fixture: &Fixture, tolerance: f64) {
    let whole = gradient_of(device, fixture, &[pack(&fixture.rows)], Checkpoint::Off);
    for size in [1, 2, 4] {
        let micro_batches: Vec<_> = fixture.rows.chunks(size).map(pack).collect();
        let found = gradient_of(device, fixture, &micro_batches, Checkpoint::Off);
        assert_equal_within(tolerance, &format!("{} {size} at a time", fixture.name), &found, &whole);
    }
    let again = gradient_of(device, fixture, &[pack(&fixture.rows)], Checkpoint::On);
    assert_eq!(again, whole, "{}: checkpointing computes the same numbers", fixture.name);
}

/// 8×1 = 4×2 = 2×4 = 1×8, which is also a packed batch against its samples one by one.
#[test]
fn accumulation_and_checkpointing_change_nothing() {
    for fixture in Fixture::all() {
        check_invariances(&Device::cpu_f64(), &fixture, 1e-12);
    }
    // In f32 the orders of summing differ by rounding: PyTorch's own f32 gradients are up to 7e-6
    // from its f64 ones.
    everywhere(|device, fixture| check_invariances(device, fixture, 2e-5));
}

/// Dropout is drawn by a counter, so that it is the same on every device, and again where a block
/// is run again.
#[test]
fn dropout_draws_the_same_everywhere() {
    let f64s = Device::cpu_f64();
    everywhere(|device, fixture| {
        let mut dropped = Fixture::load(&fixture.name);
        dropped.adapter.config.dropout = 0.3;
        let whole = [pack(&fixture.rows)];
        let what = format!("{} on {}", fixture.name, device.info().name);
        let found = gradient_of(device, &dropped, &whole, Checkpoint::Off);
        let expected = gradient_of(&f64s, &dropped, &whole, Checkpoint::Off);
        assert_equal_within(2e-5, &what, &found, &expected);
        let again = gradient_of(device, &dropped, &whole, Checkpoint::On);
        assert_eq!(again, found, "{what}: blocks are run again");
        let without = gradient_of(device, fixture, &whole, Checkpoint::Off);
        assert_ne!(found, without, "{what}: something is dropped");
        // The next micro-batch draws anew.
        let twice = [whole[0].clone(), whole[0].clone()];
        let twice = gradient_of(device, &dropped, &twice, Checkpoint::Off);
        let doubled: Vec<f64> = found.iter().map(|value| value * 2.0).collect();
        assert_ne!(twice, doubled, "{what}: every pass draws anew");
    });
}

/// PEFT with these masks: with DoRA what is dropped passes the frozen map, too, and with PiSSA what
/// is taken from the frozen map does not.
#[test]
fn dropout_is_where_peft_has_it() {
    let folder = |name: &str| bft_tests::fixture::folder().join("dropout").join(format!("{name}.safetensors"));
    let plain = ["llama", "llama_dora", "phi3_dora"].map(|name| {
        let fixture = Fixture::load(name);
        (Fixture { tensors: read_tensors(&folder(name)), ..fixture }, false)
    });
    for (mut fixture, frozen_half) in plain.into_iter().chain(PISSA.map(|name| (after_pissa(name), true))) {
        fixture.adapter.config.dropout = 0.3;
        let batch = pack(&fixture.rows);
        let options = TunerOptions { frozen_half, ..options(&batch) };
        let sft = LossConfig { kind: LossKind::Sft, ..LossConfig::default() };
        for device in [Some(Device::cpu()), bft_tests::gpu()].iter().flatten() {
            let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options).unwrap();
            tuner.accumulate(&batch, totals(&batch), &sft).unwrap();
            let what = format!("{}, PiSSA {frozen_half}, on {}", fixture.name, device.info().name);
            let log_p = block_on(tuner.last_log_probs()).unwrap().concat();
            let log_p: Vec<f32> = log_p.into_iter().map(|p| p as f32).collect();
            assert_close(&format!("{what}, log p"), &log_p, fixture.tensor("log_prob"), 1e-5);
            let gradients = block_on(tuner.gradients()).unwrap();
            for (name, found, expected) in fixture.compare_factors("gradient.", &gradients) {
                assert_close(&format!("{what} {name}"), found, expected, 1e-4);
            }
        }
    }
}

/// Models with what PEFT converts an adapter to that began as PiSSA has it.
const PISSA: [&str; 2] = ["llama", "phi3"];

fn after_pissa(name: &str) -> Fixture {
    let fixture = Fixture::load(name);
    let folder = bft_tests::fixture::folder().join("pissa").join(name);
    let adapter = Adapter::load(&folder, &fixture.model.config).unwrap();
    Fixture { adapter, tensors: read_tensors(&folder.join("expected.safetensors")), ..fixture }
}

/// Of an adapter with a frozen half the other half has the gradient that it has where both are
/// trained, and a step moves that half alone.
#[test]
fn a_frozen_half_stays_as_it_is_and_the_other_is_trained_as_ever() {
    let devices = [(Some(Device::cpu_f64()), 1e-12), (Some(Device::cpu()), 2e-5), (bft_tests::gpu(), 2e-5)];
    for (device, tolerance) in devices.iter().filter_map(|(device, tolerance)| Some((device.as_ref()?, *tolerance))) {
        for fixture in PISSA.map(after_pissa) {
            let batch = pack(&fixture.rows);
            let tuner = |frozen_half, checkpoint| {
                let options = TunerOptions { frozen_half, checkpoint, ..options(&batch) };
                let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options).unwrap();
                tuner.accumulate(&batch, totals(&batch), &loss("bft", &fixture)).unwrap();
                tuner
            };
            let (both, mut half) = (tuner(false, Checkpoint::Off), tuner(true, Checkpoint::Off));
            let [both, found] = [&both, &half].map(|tuner| block_on(tuner.gradients()).unwrap());
            for (both, found) in both.pairs.iter().zip(&found.pairs) {
                let what = format!("{} {} on {}", fixture.name, found.module, device.info().name);
                let [expected, _] = both.halves().unwrap();
                assert_close(&what, &found.a, &expected.a, tolerance);
                assert_close(&what, &found.b, &expected.b, tolerance);
            }
            let again = block_on(tuner(true, Checkpoint::On).flat_gradients()).unwrap();
            assert_eq!(again, block_on(half.flat_gradients()).unwrap(), "checkpointing computes the same numbers");

            half.apply(1e-3, &AdamW::default()).unwrap();
            let after = block_on(half.adapter()).unwrap();
            assert_eq!(after.config, fixture.adapter.config);
            for (before, after) in fixture.adapter.pairs.iter().zip(&after.pairs) {
                let ([before, start], [after, same]) = (before.halves().unwrap(), after.halves().unwrap());
                assert_eq!(start, same);
                let moved =
                    |before: &[f32], after: &[f32]| before.iter().zip(after).all(|(before, after)| before != after);
                assert!(moved(&before.a, &after.a) && moved(&before.b, &after.b), "{}", before.module);
            }
        }
    }
}

#[test]
fn a_rank_without_two_halves_is_refused() {
    let mut fixture = Fixture::load("llama");
    let pair = &mut fixture.adapter.pairs[3];
    (pair.rank, pair.a, pair.b) = (3, vec![0.0; 3 * pair.in_features], vec![0.0; 3 * pair.out_features]);
    let batch = pack(&fixture.rows);
    let options = TunerOptions { frozen_half: true, ..options(&batch) };
    let message = Tuner::new(&Device::cpu(), &fixture.model, &fixture.adapter, options).unwrap_err().to_string();
    assert!(message.contains("model.layers.0.self_attn.o_proj has no two halves: rank 3"), "{message}");
}

#[test]
fn same_run_same_bytes() {
    everywhere(|device, fixture| {
        let first = gradient_of(device, fixture, &[pack(&fixture.rows)], Checkpoint::Off);
        let second = gradient_of(device, fixture, &[pack(&fixture.rows)], Checkpoint::Off);
        assert_eq!(first, second, "{} on {}", fixture.name, device.info().name);
    });
}

/// The whole model in f64: every architecture's gradient against central differences of the loss.
///
/// The weights of most losses are constants to the gradient, so SFT, which has none, and GCE, whose
/// weights are its own slope, are the losses that differences can check.
#[test]
fn whole_model_gradient_matches_central_differences() {
    for fixture in Fixture::all() {
        check_differences(&fixture, &LossConfig { kind: LossKind::Sft, ..LossConfig::default() });
    }
    for q in [0.05, 0.5, 1.0] {
        check_differences(&Fixture::load("llama"), &LossConfig { kind: LossKind::Gce, q, ..LossConfig::default() });
    }
}

/// Mesa's software driver leaves a shader's loops after so many rounds: what would be wrong there is
/// refused.
#[test]
fn windows_too_wide_for_a_software_driver_are_refused() {
    let fixture = Fixture::load("llama");
    let tokens: Vec<u32> = (0..5001).map(|at| 4 + at % 90).collect();
    let batch = Batch {
        segments: vec![0, 5001],
        trained: (0..5000).collect(),
        labels: tokens[1..].to_vec(),
        trained_segments: vec![0, 5000],
        tokens,
    };
    let options = TunerOptions { max_length: 5001, ..options(&batch) };
    let quarter = LossConfig { kind: LossKind::BftV3, group_size: GroupSize::PartOf(4), ..LossConfig::default() };
    let narrow = LossConfig { group_size: GroupSize::Tokens(256), ..quarter };
    let of_bft = LossConfig { kind: LossKind::Bft, ..quarter };
    assert!(!software_can(&quarter, 5000) && software_can(&quarter, 3500));
    assert!(software_can(&narrow, 5000) && software_can(&of_bft, 50_000));
    for device in bft_tests::gpu().iter().filter(|device| device.is_software()) {
        let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options).unwrap();
        let message = tuner.accumulate(&batch, totals(&batch), &quarter).unwrap_err().to_string();
        let expected = "a sample of 5000 trained tokens with windows of n/4 takes more rounds of a loop than";
        assert!(message.contains(expected), "{message}");
    }
}

/// An anchor adds to the loss how far the model is from the one without the adapter, and its slope.
#[test]
fn an_anchor_pulls_towards_the_base() {
    let sft = LossConfig { kind: LossKind::Sft, ..LossConfig::default() };
    let anchored = LossConfig { kl_weight: 2.0, ..sft };
    for name in ["llama", "qwen3", "granite", "phi3", "llama_dora"] {
        check_differences(&Fixture::load(name), &anchored);
    }
    for device in [Some(Device::cpu_f64()), Some(Device::cpu()), bft_tests::gpu()].iter().flatten() {
        let mut fixture = Fixture::load("llama");
        let batch = pack(&fixture.rows);
        let with = |adapter: &Adapter, loss: &LossConfig| {
            let mut tuner = Tuner::new(device, &fixture.model, adapter, options_for(&batch, loss)).unwrap();
            tuner.accumulate(&batch, totals(&batch), loss).unwrap();
            (block_on(tuner.totals()).unwrap()[0], block_on(tuner.flat_gradients()).unwrap())
        };
        assert!(with(&fixture.adapter, &anchored).0 > with(&fixture.adapter, &sft).0 + 0.1);
        // Where both models are one, neither value nor gradient is another.
        let mut none = fixture.adapter.clone();
        none.pairs.iter_mut().for_each(|pair| pair.b.fill(0.0));
        assert_eq!(with(&none, &anchored), with(&none, &sft), "{}", device.info().name);

        // The base's pass draws no dropout and leaves nothing behind that the tuned one reads.
        fixture.adapter.config.dropout = 0.3;
        for checkpoint in [Checkpoint::Off, Checkpoint::On] {
            let gradient = |loss: &LossConfig| {
                let options = TunerOptions { anchored: true, checkpoint, ..options(&batch) };
                let mut tuner = Tuner::new(device, &fixture.model, &fixture.adapter, options).unwrap();
                tuner.accumulate(&batch, totals(&batch), loss).unwrap();
                block_on(tuner.flat_gradients()).unwrap()
            };
            let small = gradient(&LossConfig { kl_weight: 1e-30, ..sft });
            assert_equal_within(1e-6, "an anchor without weight", &small, &gradient(&sft));
        }
    }
    let fixture = Fixture::load("llama");
    let batch = pack(&fixture.rows);
    let device = Device::cpu();
    let mut tuner = Tuner::new(&device, &fixture.model, &fixture.adapter, options(&batch)).unwrap();
    let message = tuner.accumulate(&batch, totals(&batch), &anchored).unwrap_err().to_string();
    assert!(message.contains("anchored to the base, which was not planned for"), "{message}");
    let capped = Fixture::load("gemma2");
    let options = TunerOptions { anchored: true, ..options(&batch) };
    let message = Tuner::new(&device, &capped.model, &capped.adapter, options).unwrap_err().to_string();
    assert!(message.starts_with("kl-weight: the head of this model caps its logits"), "{message}");
}

fn check_differences(fixture: &Fixture, loss: &LossConfig) {
    let device = Device::cpu_f64();
    let batch = pack(&fixture.rows[..3]);
    let options = options_for(&batch, loss);
    let mut tuner = Tuner::new(&device, &fixture.model, &fixture.adapter, options).unwrap();
    tuner.accumulate(&batch, totals(&batch), loss).unwrap();
    let gradient = block_on(tuner.flat_gradients()).unwrap();
    let parameters = block_on(tuner.flat_parameters()).unwrap();
    let largest = gradient.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
    for at in (0..parameters.len()).step_by(parameters.len() / 40) {
        let loss_at = |shift: f64| {
            let mut tuner = Tuner::new(&device, &fixture.model, &fixture.adapter, options).unwrap();
            let mut moved = parameters.clone();
            moved[at] += shift;
            tuner.set_flat_parameters(&moved).unwrap();
            tuner.accumulate(&batch, totals(&batch), loss).unwrap();
            block_on(tuner.totals()).unwrap()[0]
        };
        // Padded ranks are no parameters of the adapter: moving them would move the loss.
        if parameters[at] == 0.0 {
            continue;
        }
        let numeric = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5;
        let error = (numeric - gradient[at]).abs() / largest;
        assert!(error < 1e-6, "{} {} parameter {at}: {} against {numeric}", fixture.name, loss.kind, gradient[at]);
    }
}

/// A vocabulary that is no multiple of four, such as one with a few tokens added: the same model
/// with rows cut off its head gives on every device what the host's softmax over the remaining
/// logits gives.
#[test]
fn vocabulary_of_any_size() {
    let fixture = Fixture::load("llama");
    let mut model = fixture.model.clone();
    let vocab = model.config.vocab_size - 3;
    model.config.vocab_size = vocab;
    let tensor = &model.tensors["model.embed_tokens.weight"];
    let cut = tensor.to_f32().unwrap()[..vocab * tensor.cols()].to_vec();
    let cut = bft_formats::Tensor::from_f32("model.embed_tokens.weight", vec![vocab, tensor.cols()], &cut).unwrap();
    model.tensors.insert(cut.name.clone(), cut);
    let tokens: Vec<u32> = vec![3, 77, vocab as u32 - 1, 12, 9];
    let batch = Batch {
        segments: vec![0, 5],
        trained: vec![0, 1, 2, 3],
        labels: tokens[1..].to_vec(),
        trained_segments: vec![0, 4],
        tokens,
    };
    for device in [Some(Device::cpu()), bft_tests::gpu()].into_iter().flatten() {
        let options = RunnerOptions { capacity: capacity(&batch), max_length: 8 };
        let mut runner = Runner::new(&device, &model, None, options).unwrap();
        let found = block_on(runner.log_probs(&batch)).unwrap();
        let mut text = runner.generation().unwrap();
        for (at, log_p) in found.iter().enumerate() {
            let logits = block_on(text.next(&batch.tokens[at..=at])).unwrap();
            assert_eq!(logits.len(), vocab);
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let expected = f64::from(logits[batch.labels[at] as usize]) - sum.ln();
            assert!((f64::from(*log_p) - expected).abs() < 1e-5, "{log_p} against {expected}");
        }
    }
}
