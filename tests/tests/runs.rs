//! Whole runs with real, tiny models, on the CPU and on a GPU: against PyTorch + PEFT, against
//! themselves resumed, evaluated.

// A test that cannot go on stops with the reason.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::device::Device;
use bft_core::{GroupSize, LossConfig, LossKind, Runner, RunnerOptions};
use bft_formats::{Adapter, LoraPair, Model, sha256_file};
use bft_tests::fixture::relative_norm;
use bft_train::{
    BatchBounds, Checkpoints, Event, Files, Finished, LoraInit, Plan, Schedule, TrainConfig, TrainError, Trainer,
    evaluate,
};
use serde_json::Value;

fn fixture(model: &str) -> PathBuf {
    bft_tests::fixture::folder().join(model)
}

/// Runs a check on every device.
fn everywhere(check: impl Fn(&Device)) {
    let devices = [Some(Device::cpu()), bft_tests::gpu()];
    devices.iter().flatten().for_each(check);
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Trains to the end, or until `stop_after` steps are done.
fn train(device: &Device, config: TrainConfig, model: &Model, stop_after: Option<u64>) -> Result<Finished, TrainError> {
    let stop = AtomicBool::new(false);
    pollster::block_on(Trainer::open(config, model)?.tune(device, &stop, &mut |event| {
        if let (Event::Checkpoint { step, .. }, Some(last)) = (event, stop_after) {
            stop.store(step >= last, Ordering::Relaxed);
        }
    }))
}

fn rows(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn close(what: &str, found: &Value, expected: &Value, tolerance: f64) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    let error = (found - expected).abs() / expected.abs().max(1e-12);
    assert!(found == expected || error < tolerance, "{what}: found {found}, expected {expected}");
}

/// The settings of a run in `expected.json`.
fn recorded(folder: &Path, run: &Value, output: PathBuf) -> TrainConfig {
    let number = |key: &str| run[key].as_f64().unwrap();
    let count = |key: &str| run[key].as_u64().unwrap();
    TrainConfig {
        model: folder.into(),
        data: folder.join("rows.jsonl").into(),
        init_adapter: Some(folder.join("adapter")),
        output,
        loss: serde_json::from_value(run["loss"].clone()).unwrap(),
        group_size: serde_json::from_value(run["group_size"].clone()).unwrap(),
        gamma: number("gamma") as f32,
        batch_size: count("batch_size") as usize,
        grad_accum: count("grad_accum") as usize,
        steps: Some(count("steps")),
        lr: number("learning_rate"),
        weight_decay: number("weight_decay"),
        max_grad_norm: number("max_grad_norm"),
        schedule: serde_json::from_value(run["schedule"].clone()).unwrap(),
        warmup_steps: run["warmup_steps"].as_u64(),
        no_shuffle: true,
        ..TrainConfig::default()
    }
}

/// ‖found − expected‖ / ‖expected‖ over all tensors of the adapter.
fn relative_error(adapter: &Adapter, expected: &[u8], prefix: &str) -> f64 {
    let tensors = safetensors::SafeTensors::deserialize(expected).unwrap();
    let (mut difference, mut norm) = (0.0, 0.0);
    for pair in &adapter.pairs {
        for (name, _, values) in pair.tensors() {
            let name = format!("{prefix}base_model.model.{}.{name}", pair.module);
            let (words, _) = tensors.tensor(&name).unwrap().data().as_chunks::<4>();
            assert_eq!(words.len(), values.len(), "{name}");
            for (word, value) in words.iter().zip(values) {
                let word = f64::from(f32::from_le_bytes(*word));
                difference += (word - f64::from(*value)).powi(2);
                norm += word.powi(2);
            }
        }
    }
    (difference / norm).sqrt()
}

#[test]
fn five_steps_are_those_of_pytorch_and_peft() {
    let folder = fixture("llama");
    let model = Model::open(&folder).unwrap();
    let expected = json(&folder.join("expected.json"));
    let tensors = fs::read(folder.join("expected.safetensors")).unwrap();
    everywhere(|device| {
        let place = tempfile::tempdir().unwrap();
        for run in expected["training"].as_array().unwrap() {
            let schedule = run["schedule"].as_str().unwrap();
            let output = place.path().join(schedule);
            let config = recorded(&folder, run, output.clone());
            train(device, config, &model, None).unwrap();
            let found = rows(&output);
            let expected = run["steps_done"].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!((&found["step"], &found["tokens"]), (&expected["step"], &expected["tokens"]));
                let what = |key: &str| format!("{schedule}, step {}, {key}", found["step"]);
                for (key, tolerance) in [("loss", 1e-4), ("nll", 1e-5), ("lr", 1e-12), ("grad_norm", 1e-4)] {
                    close(&what(key), &found[key], &expected[key], tolerance);
                }
            }
            let adapter = Adapter::load(&output, &model.config).unwrap();
            let error = relative_error(&adapter, &tensors, &format!("trained.{schedule}."));
            assert!(error < 1e-4, "{schedule}: the adapter is off by {error}");
        }
    });
}

/// A new adapter with DoRA has the lengths of the model's own rows, in every kind of file.
#[test]
fn a_new_adapter_with_dora_changes_nothing_yet() {
    for name in ["qwen2", "phi3"] {
        let model = Model::open(&fixture(name)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let data = fixture(name).join("rows.jsonl");
        let config = TrainConfig {
            use_dora: true,
            data: data.into(),
            eval_data: None,
            eval_every: None,
            ..long_run(&place.path().join("out"), false)
        };
        let trainer = Trainer::open(config, &model).unwrap();
        let adapter = trainer.adapter();
        assert!(adapter.pairs.iter().all(|pair| pair.magnitude.is_some()));
        let options =
            RunnerOptions { capacity: bft_core::Capacity { tokens: 5, trained: 4, samples: 1 }, max_length: 5 };
        let batch = bft_core::Batch {
            tokens: vec![4, 5, 6, 7, 8],
            segments: vec![0, 5],
            trained: vec![0, 1, 2, 3],
            labels: vec![5, 6, 7, 8],
            trained_segments: vec![0, 4],
        };
        everywhere(|device| {
            let log_p = |adapter| {
                let mut runner = Runner::new(device, &model, adapter, options).unwrap();
                pollster::block_on(runner.log_probs(&batch)).unwrap()
            };
            for (with, without) in log_p(Some(adapter)).into_iter().zip(log_p(None)) {
                assert!((with - without).abs() < 1e-5, "{name} on {}: {with}, {without}", device.info().name);
            }
        });
    }
}

/// The settings of PEFT's run from PiSSA's start.
fn from_pissa(name: &str, expected: &Value, output: PathBuf) -> TrainConfig {
    let lora = &expected["lora"];
    TrainConfig {
        init_adapter: None,
        lora_init: LoraInit::Pissa,
        rank: lora["r"].as_u64().unwrap() as usize,
        alpha: Some(lora["lora_alpha"].as_f64().unwrap() as f32),
        use_rslora: lora["use_rslora"].as_bool().unwrap_or(false),
        ..recorded(&fixture(name), &expected["training"], output)
    }
}

/// s·B·A of a pair, `[out, in]`.
fn product(pair: &LoraPair) -> Vec<f32> {
    let value = |b: &[f32], at: usize| {
        let of_rank = b.iter().zip(pair.a.iter().skip(at).step_by(pair.in_features));
        pair.scaling * of_rank.map(|(b, a)| b * a).sum::<f32>()
    };
    let row = |b| (0..pair.in_features).map(move |at| value(b, at));
    pair.b.chunks_exact(pair.rank).flat_map(row).collect()
}

/// The start is that of the exact decomposition, and the adapter what PEFT converts its own to.
#[test]
fn five_steps_from_pissa_are_those_of_peft() {
    for name in ["llama", "phi3"] {
        let model = Model::open(&fixture(name)).unwrap();
        let folder = fixture("pissa").join(name);
        let expected = json(&folder.join("expected.json"));
        let converted = Adapter::load(&folder, &model.config).unwrap();
        everywhere(|device| {
            let on = format!("{name} on {}", device.info().name);
            let place = tempfile::tempdir().unwrap();
            let output = place.path().join("out");
            train(device, from_pissa(name, &expected, output.clone()), &model, None).unwrap();
            let (found, steps) = (rows(&output), expected["training"]["steps_done"].as_array().unwrap());
            assert_eq!(found.len(), steps.len());
            for (found, expected) in found.iter().zip(steps) {
                for (key, tolerance) in [("loss", 1e-4), ("nll", 1e-5), ("grad_norm", 1e-4)] {
                    close(&format!("{on}, step {}, {key}", found["step"]), &found[key], &expected[key], tolerance);
                }
            }
            let adapter = Adapter::load(&output, &model.config).unwrap();
            let shape = |adapter: &Adapter| (adapter.config.rank, adapter.config.alpha, adapter.config.use_rslora);
            assert_eq!(shape(&adapter), shape(&converted));
            for (found, expected) in adapter.pairs.iter().zip(&converted.pairs) {
                assert_eq!((&found.module, found.rank), (&expected.module, expected.rank));
                let [found, halves] = [found, expected].map(|pair| pair.halves().unwrap());
                for (what, found, half) in
                    [("what is trained", &found[0], &halves[0]), ("the start", &found[1], &halves[1])]
                {
                    let error = relative_norm(&product(found), &product(half));
                    assert!(error < 1e-4, "{on}, {}: {what} is off by {error:.1e}", expected.module);
                }
            }
        });
    }
}

/// Shuffled, ragged, accumulated, with dropout and evaluations: everything a cursor and a counter
/// must carry on.
fn long_run(output: &Path, resume: bool) -> TrainConfig {
    let folder = fixture("llama");
    TrainConfig {
        data: folder.join("rows.jsonl").into(),
        eval_data: Some(folder.join("rows.jsonl").into()),
        eval_every: Some(3),
        output: output.into(),
        resume,
        rank: 4,
        lora_dropout: 0.1,
        lr: 5e-3,
        group_size: GroupSize::Tokens(4),
        batch_size: 2,
        grad_accum: 2,
        steps: Some(8),
        warmup_steps: Some(2),
        save_every: 2,
        seed: 7,
        max_length: Some(40),
        ..TrainConfig::default()
    }
}

/// Hashes of what a run leaves, and its metrics without their speed.
fn traces(output: &Path) -> (Vec<String>, Vec<Value>) {
    let (_, last) = Checkpoints::of(output).list().unwrap().pop().unwrap();
    let files = [
        output.join("adapter_model.safetensors"),
        output.join("adapter_config.json"),
        last.join("optimizer.safetensors"),
    ];
    let mut rows = rows(output);
    rows.iter_mut().for_each(|row| {
        row.as_object_mut().unwrap().remove("tokens_per_second");
    });
    (files.iter().map(|file| sha256_file(file).unwrap()).collect(), rows)
}

#[test]
fn n_and_n_steps_are_two_n_steps_bit_for_bit() {
    let model = Model::open(&fixture("llama")).unwrap();
    everywhere(|device| {
        let run = |lora_dropout, use_dora, lora_init| {
            let place = tempfile::tempdir().unwrap();
            let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
            let config = |output: &Path, resume| {
                let rank = if lora_init == LoraInit::Pissa { 3 } else { 4 };
                TrainConfig { lora_dropout, use_dora, lora_init, rank, ..long_run(output, resume) }
            };
            train(device, config(&whole, false), &model, None).unwrap();
            let stopped = train(device, config(&parts, false), &model, Some(4)).unwrap();
            assert_eq!((stopped.steps, stopped.stopped), (4, true));
            let resumed = train(device, config(&parts, true), &model, None).unwrap();
            assert_eq!(resumed.steps, 8);
            let whole = traces(&whole);
            assert_eq!(whole, traces(&parts), "{}", device.info().name);
            whole
        };
        let plain = run(0.1, false, LoraInit::Default);
        assert_ne!(plain, run(0.0, false, LoraInit::Default), "dropout is on");
        assert_ne!(plain, run(0.1, true, LoraInit::Default), "DoRA is on");
        assert_ne!(plain, run(0.1, false, LoraInit::Pissa), "PiSSA is on");
    });
}

/// An anchored run is planned with room for what is kept of the base, and goes on bit for bit.
#[test]
fn an_anchored_run_goes_on_bit_for_bit_and_ends_nearer_to_its_base() {
    let model = Model::open(&fixture("llama")).unwrap();
    everywhere(|device| {
        let place = tempfile::tempdir().unwrap();
        let run = |name: &str, kl_weight, stop| {
            let output = place.path().join(name);
            let config = |resume| TrainConfig { loss: LossKind::Sft, kl_weight, ..long_run(&output, resume) };
            if stop {
                assert_eq!(train(device, config(false), &model, Some(4)).unwrap().steps, 4);
            }
            train(device, config(stop), &model, None).unwrap();
            traces(&output)
        };
        let anchored = run("whole", 5.0, false);
        assert_eq!(anchored, run("parts", 5.0, true), "{}", device.info().name);
        let free = run("free", 0.0, false);
        let value = |rows: &[Value], key: &str| rows.last().unwrap()[key].as_f64().unwrap();
        assert!(value(&anchored.1, "eval_nll") > value(&free.1, "eval_nll"), "it learns less");
    });
}

/// The loss changes in step 5 or 7; the run is stopped behind step 4 and goes on.
#[test]
fn losses_in_turn_go_on_across_their_border_bit_for_bit() {
    let model = Model::open(&fixture("llama")).unwrap();
    everywhere(|device| {
        let run = |schedule: &str| {
            let place = tempfile::tempdir().unwrap();
            let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
            let loss_schedule: Vec<String> = schedule.split_terminator(',').map(str::to_owned).collect();
            let config = |output: &Path, resume| {
                let loss_schedule = loss_schedule.clone();
                TrainConfig { loss_schedule, weight_floor: 0.1, ..long_run(output, resume) }
            };
            train(device, config(&whole, false), &model, None).unwrap();
            assert_eq!(train(device, config(&parts, false), &model, Some(4)).unwrap().steps, 4);
            train(device, config(&parts, true), &model, None).unwrap();
            let whole = traces(&whole);
            assert_eq!(whole, traces(&parts), "{schedule} on {}", device.info().name);
            let steps = whole.1.iter().filter(|row| row.get("loss").is_some());
            (steps.map(|row| row["loss_kind"].as_str().map(str::to_owned)).collect::<Vec<_>>(), whole)
        };
        let (none, plain) = run("");
        assert_eq!(none, vec![None::<String>; 8]);
        for (schedule, sft) in [("sft:0.5,bft", 4), ("sft:0.75", 6)] {
            let (kinds, found) = run(schedule);
            let expected = [vec!["sft"; sft], vec!["bft"; 8 - sft]].concat();
            assert_eq!(kinds.iter().flatten().collect::<Vec<_>>(), expected);
            assert_ne!(found.0, plain.0, "the losses are others");
        }
    });
}

#[test]
fn losses_in_turn_are_those_of_pytorch_and_peft() {
    let (folder, losses) = (fixture("llama"), fixture("losses"));
    let model = Model::open(&folder).unwrap();
    let run = &json(&losses.join("expected.json"))["scheduled"];
    let tensors = fs::read(losses.join("expected.safetensors")).unwrap();
    everywhere(|device| {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("out");
        let loss_schedule = vec!["sft:0.3".to_owned()];
        let config = TrainConfig { loss_schedule, ..recorded(&folder, run, output.clone()) };
        train(device, config, &model, None).unwrap();
        let (found, steps) = (rows(&output), run["steps_done"].as_array().unwrap());
        assert_eq!(found.len(), steps.len());
        for ((found, expected), kind) in found.iter().zip(steps).zip(run["losses"].as_array().unwrap()) {
            assert_eq!(&found["loss_kind"], kind);
            for (key, tolerance) in [("loss", 1e-4), ("nll", 1e-5), ("grad_norm", 1e-4)] {
                close(&format!("step {}, {key}", found["step"]), &found[key], &expected[key], tolerance);
            }
        }
        let adapter = Adapter::load(&output, &model.config).unwrap();
        let error = relative_error(&adapter, &tensors, "trained.scheduled.");
        assert!(error < 1e-4, "the adapter is off by {error}");
    });
}

#[test]
fn one_seed_gives_the_same_bytes_and_another_does_not() {
    let model = Model::open(&fixture("qwen3")).unwrap();
    everywhere(|device| {
        let place = tempfile::tempdir().unwrap();
        let run = |name: &str, seed| {
            let output = place.path().join(name);
            let data = Files::from(fixture("qwen3").join("rows.jsonl"));
            let config = TrainConfig { eval_data: Some(data.clone()), data, seed, ..long_run(&output, false) };
            train(device, config, &model, None).unwrap();
            traces(&output)
        };
        assert_eq!(run("a", 1), run("b", 1), "{}", device.info().name);
        assert_ne!(run("c", 2).0, run("d", 1).0);
    });
}

#[test]
fn a_gpu_lost_in_the_middle_leaves_a_checkpoint_to_go_on_from() {
    let Some(gpu) = bft_tests::gpu() else { return };
    let model = Model::open(&fixture("llama")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    train(&gpu, long_run(&whole, false), &model, None).unwrap();

    let trainer = Trainer::open(long_run(&parts, false), &model).unwrap();
    let stop = AtomicBool::new(false);
    let message = pollster::block_on(trainer.tune(&gpu, &stop, &mut |event| {
        if matches!(event, Event::Checkpoint { step: 4, .. }) {
            gpu.destroy();
        }
    }));
    let message = message.unwrap_err().to_string();
    // A GPU's errors arrive late: at the latest where the next checkpoint waits for it.
    let late = ["step 5 failed", "step 6 failed"].iter().any(|step| message.starts_with(step));
    assert!(late && message.contains("the GPU was lost ("), "{message}");
    assert!(message.contains("step-000004: go on from it with --resume"), "{message}");

    let again = bft_tests::gpu().unwrap();
    train(&again, long_run(&parts, true), &model, None).unwrap();
    assert_eq!(traces(&whole), traces(&parts));
}

#[test]
fn an_evaluation_in_training_is_that_of_a_runner_with_the_saved_adapter() {
    let folder = fixture("llama");
    let model = Model::open(&folder).unwrap();
    let place = tempfile::tempdir().unwrap();
    let config = TrainConfig { schedule: Schedule::Constant, ..long_run(place.path(), false) };
    let device = Device::cpu();
    let finished = train(&device, config.clone(), &model, None).unwrap();
    let trained = finished.eval.unwrap();
    assert_eq!(trained.step, 8);
    assert!(trained.eval_nll < rows(place.path())[0]["eval_nll"].as_f64().unwrap(), "something was learnt");

    let adapter = Adapter::load(place.path(), &model.config).unwrap();
    let plan = Plan::read(config, &model).unwrap();
    let bounds = BatchBounds { tokens: 60, trained: 60, samples: 2 };
    let options = RunnerOptions { capacity: bounds.into(), max_length: 40 };
    let mut runner = Runner::new(&device, &model, Some(&adapter), options).unwrap();
    let loss = LossConfig { group_size: GroupSize::Tokens(4), ..LossConfig::default() };
    let report = evaluate(&mut runner, &plan.eval.as_ref().unwrap().samples, bounds, loss, |_| {});
    let report = pollster::block_on(report).unwrap();
    assert!((report.nll / trained.eval_nll - 1.0).abs() < 1e-6, "{} {}", report.nll, trained.eval_nll);
    assert!((report.loss.bft / trained.eval_loss - 1.0).abs() < 1e-5, "{report:?} {trained:?}");
}

#[test]
fn the_estimate_knows_its_parts_and_falls_with_checkpointing() {
    let model = Model::open(&fixture("llama")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let memory = |checkpoint_activations| {
        let config = TrainConfig { checkpoint_activations, ..long_run(place.path(), false) };
        let trainer = Trainer::open(config, &model).unwrap();
        trainer.plan().memory(&model, trainer.adapter()).unwrap()
    };
    let (kept, again) = (memory(bft_core::Checkpoint::Off), memory(bft_core::Checkpoint::On));
    assert_eq!(kept.total_bytes, kept.model_bytes + kept.adapter_bytes + kept.activation_bytes);
    assert!(kept.adapter_bytes > 0 && kept.model_bytes > 0 && kept.activation_bytes > 0, "{kept:?}");
    assert!(again.activation_bytes < kept.activation_bytes, "{again:?} {kept:?}");
    assert!(again.checkpoints_activations && !kept.checkpoints_activations);
}

#[test]
fn a_model_whose_numbers_are_broken_is_given_up_after_twenty_steps() {
    let folder = fixture("llama");
    let mut model = Model::open(&folder).unwrap();
    let norm = model.tensors.get_mut("model.layers.0.input_layernorm.weight").unwrap();
    let nan: Vec<u8> = (0..norm.elements()).flat_map(|_| f32::NAN.to_le_bytes()).collect();
    norm.data = nan.into();
    everywhere(|device| {
        let place = tempfile::tempdir().unwrap();
        let config =
            TrainConfig { eval_data: None, eval_every: None, steps: Some(40), ..long_run(place.path(), false) };
        let message = train(device, config, &model, None).unwrap_err().to_string();
        assert!(
            message.starts_with("20 steps in a row, 1 to 20, had a gradient that is not finite, at first in "),
            "{message}"
        );
        assert!(!place.path().join("adapter_model.safetensors").exists());
    });
}

const KILLED_OUTPUT: &str = "BFT_TEST_KILLED_OUTPUT";

/// A run that the test below kills; nothing by itself.
#[test]
fn killed_run() {
    let Some(output) = std::env::var_os(KILLED_OUTPUT).map(PathBuf::from) else {
        return;
    };
    let model = Model::open(&fixture("llama")).unwrap();
    let resume = !Checkpoints::of(&output).list().unwrap().is_empty();
    train(&Device::cpu(), many_checkpoints(&output, resume), &model, None).unwrap();
}

fn many_checkpoints(output: &Path, resume: bool) -> TrainConfig {
    TrainConfig { steps: Some(60), save_every: 1, ..long_run(output, resume) }
}

#[test]
fn a_run_killed_again_and_again_ends_as_if_nothing_had_happened() {
    let model = Model::open(&fixture("llama")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| place.path().join(name));
    train(&Device::cpu(), many_checkpoints(&whole, false), &model, None).unwrap();
    let mut kills = 0;
    // Whatever the machine's speed, some of these moments fall inside a checkpoint.
    for milliseconds in (30..).step_by(23) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["killed_run", "--exact"])
            .env(KILLED_OUTPUT, &killed)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 2, "the run ended after {kills} kills: too few to show anything");
    assert_eq!(traces(&whole), traces(&killed));
}
