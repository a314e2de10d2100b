use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bft_formats::sha256_file;
use serde_json::Value;

use super::*;
use crate::MAX_SKIPPED;
use crate::TrainConfig;
use crate::checkpoint::Checkpoints;
use crate::event::StepRow;
use crate::folder::RunFolder;
use crate::schedule::Schedule;
use crate::testing::{Faults, Toy, model};

/// A folder with rows, held-out rows and room for runs.
struct Place {
    folder: tempfile::TempDir,
    model: Model,
}

/// How a run went.
struct Outcome {
    events: Vec<Event>,
    result: Result<Finished, TrainError>,
}

impl Outcome {
    fn message(&self) -> String {
        let message = self.result.as_ref().expect_err("the run must fail").to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    fn steps(&self) -> Vec<StepRow> {
        let step = |e: &Event| {
            if let Event::Step(row) = e { Some(row.clone()) } else { None }
        };
        self.events.iter().filter_map(step).collect()
    }

    fn notes(&self) -> String {
        let note = |e: &Event| {
            if let Event::Note(note) = e { Some(note.to_string()) } else { None }
        };
        self.events.iter().filter_map(note).collect::<Vec<_>>().join("\n")
    }
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), model: model_on_disk() };
        let rows = |range: std::ops::Range<u32>| -> String {
            range.map(|i| format!("{{\"input_ids\": [{i}, 7, {0}], \"labels\": [-100, 7, {0}]}}\n", i + 1)).collect()
        };
        fs::write(place.path("rows.jsonl"), rows(10..17)).unwrap();
        fs::write(place.path("held.jsonl"), rows(30..33)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Seven rows, three a step: three steps an epoch, the last of one row.
    fn config(&self, output: &str, steps: u64) -> TrainConfig {
        TrainConfig {
            model: self.model.path.clone(),
            data: self.path("rows.jsonl").into(),
            output: self.path(output),
            rank: 2,
            lr: 0.05,
            batch_size: 2,
            grad_accum: 2,
            steps: Some(steps),
            warmup_steps: Some(2),
            seed: 3,
            save_every: 2,
            ..TrainConfig::default()
        }
    }

    fn run(&self, config: TrainConfig, faults: Faults) -> Outcome {
        let mut events = Vec::new();
        let device = DeviceSummary { description: "toy".into(), memory_bytes: 1 };
        let stop = faults.stop.clone();
        let result = Trainer::open(config, &self.model).and_then(|trainer| {
            let engine = |adapter, _: &Plan| Ok(Toy::new(adapter, faults));
            pollster::block_on(trainer.run(&device, engine, &*stop, &mut |e| events.push(e)))
        });
        Outcome { events, result }
    }

    fn metrics(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output).join("metrics.jsonl")).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Everything that must be equal after N + N and after 2N steps.
    fn traces(&self, output: &str) -> (String, String, Vec<Value>) {
        let output = self.path(output);
        let (_, last) = Checkpoints::of(&output).list().unwrap().pop().unwrap();
        let mut metrics = self.metrics(output.file_name().unwrap().to_str().unwrap());
        metrics.iter_mut().for_each(|row| {
            row.as_object_mut().unwrap().remove("tokens_per_second");
        });
        let read = |path: PathBuf| sha256_file(&path).unwrap();
        (read(output.join("adapter_model.safetensors")), read(last.join("optimizer.safetensors")), metrics)
    }
}

fn model_on_disk() -> Model {
    model(None, None)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_leaves_an_adapter_metrics_settings_and_two_checkpoints() {
    let place = Place::new();
    let mut config = place.config("out", 7);
    (config.eval_data, config.eval_every) = (Some(place.path("held.jsonl").into()), Some(3));
    let outcome = place.run(config.clone(), Faults::default());
    let finished = outcome.result.as_ref().unwrap();
    assert_eq!((finished.steps, finished.stopped, finished.skipped_steps), (7, false, 0));

    let output = place.path("out");
    assert_eq!(
        names(&output),
        ["adapter_config.json", "adapter_model.safetensors", "checkpoints", "metrics.jsonl", "run.json"]
    );
    assert_eq!(names(&output.join("checkpoints")), ["step-000006", "step-000007"]);
    let adapter = Adapter::load(&output, &place.model.config).unwrap();
    assert!(adapter.pairs[0].b.iter().any(|b| *b != 0.0), "something was learnt");
    assert_eq!(
        adapter.pairs,
        Adapter::load(&output.join("checkpoints/step-000007"), &place.model.config).unwrap().pairs
    );

    let metrics = place.metrics("out");
    let steps: Vec<u64> =
        metrics.iter().filter(|r| r.get("loss").is_some()).map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
    for key in ["loss", "nll", "lr", "grad_norm", "tokens", "tokens_per_second"] {
        assert!(metrics[1][key].is_number(), "{key}: {}", metrics[1]);
    }
    let evals: Vec<u64> =
        metrics.iter().filter(|r| r.get("eval_nll").is_some()).map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(evals, [0, 3, 6, 7]);

    let run: Value = serde_json::from_slice(&fs::read(output.join("run.json")).unwrap()).unwrap();
    assert_eq!(serde_json::from_value::<TrainConfig>(run["settings"].clone()).unwrap(), config);
    assert_eq!((&run["finished"]["steps"], &run["device"], &run["seed"]), (&7.into(), &"toy".into(), &3.into()));
    assert_eq!(run["data"]["sha256"].as_str().unwrap().len(), 64);

    assert!(matches!(outcome.events[0], Event::Started(_)));
    assert!(matches!(outcome.events.last(), Some(Event::Finished(_))));
    assert_eq!(outcome.steps().len(), 7);
    assert!(outcome.notes().contains("the window is the whole answer for 7 of 7 samples"), "{}", outcome.notes());
}

#[test]
fn rates_and_token_counts_are_those_of_each_step() {
    let place = Place::new();
    let outcome = place.run(place.config("out", 6), Faults::default());
    let rows = outcome.steps();
    let expected = place.config("out", 6).rates(6).unwrap();
    let rates: Vec<f64> = (1..=6).map(|k| expected.at(k)).collect();
    assert_eq!(rows.iter().map(|r| r.lr).collect::<Vec<_>>(), rates);
    // Two trained tokens a row; steps of four rows, then the three that the epoch has left.
    assert_eq!(rows.iter().map(|r| r.tokens).collect::<Vec<_>>(), [8, 6, 8, 6, 8, 6]);
}

#[test]
fn a_stopped_run_that_goes_on_equals_one_that_was_never_stopped() {
    let place = Place::new();
    assert!(place.run(place.config("whole", 10), Faults::default()).result.is_ok());
    let stopping = Faults { stop_at: Some(5), ..Faults::default() };
    let first = place.run(place.config("parts", 10), stopping).result.unwrap();
    assert_eq!((first.steps, first.stopped), (5, true));
    assert_eq!(first.checkpoint, Some(place.path("parts/checkpoints/step-000005")));
    let resumed = TrainConfig { resume: true, ..place.config("parts", 10) };
    let second = place.run(resumed, Faults::default());
    assert_eq!(second.result.unwrap().steps, 10);
    assert_eq!(place.traces("whole"), place.traces("parts"));
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let place = Place::new();
    let config = |output, steps| TrainConfig { schedule: Schedule::Constant, ..place.config(output, steps) };
    assert!(place.run(config("whole", 8), Faults::default()).result.is_ok());
    assert!(place.run(config("parts", 4), Faults::default()).result.is_ok());
    let longer = TrainConfig { resume: true, ..config("parts", 8) };
    assert!(place.run(longer, Faults::default()).result.is_ok());
    assert_eq!(place.traces("whole"), place.traces("parts"));

    let cosine = place.run(place.config("cosine", 4), Faults::default());
    assert!(cosine.result.is_ok());
    let stretched = place.run(TrainConfig { resume: true, ..place.config("cosine", 8) }, Faults::default());
    assert!(stretched.notes().contains("the schedule now runs to step 8 instead of 4"), "{}", stretched.notes());
}

#[test]
fn a_run_killed_anywhere_goes_on_from_its_last_whole_checkpoint() {
    let place = Place::new();
    assert!(place.run(place.config("whole", 9), Faults::default()).result.is_ok());
    // Killed in step 6, while a checkpoint was being written and a line of metrics, too.
    let lost = Faults { lost_at: Some(6), ..Faults::default() };
    assert!(place.run(place.config("parts", 9), lost).result.is_err());
    let output = place.path("parts");
    let half = output.join("checkpoints/.incomplete-step-000006");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("state.json"), "{\"layout\": 1, \"st").unwrap();
    let mut metrics = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    metrics.push_str("{\"step\":5,\"loss\":1.0}\n{\"step\":6,\"lo");
    fs::write(output.join("metrics.jsonl"), metrics).unwrap();

    let resumed = place.run(TrainConfig { resume: true, ..place.config("parts", 9) }, Faults::default());
    assert_eq!(resumed.steps()[0].step, 5, "the last whole checkpoint is step 4");
    assert_eq!(place.traces("whole"), place.traces("parts"));
    assert_eq!(names(&output.join("checkpoints")), ["step-000008", "step-000009"]);
}

#[test]
fn a_lost_device_names_the_step_and_the_checkpoint_that_is_left() {
    let place = Place::new();
    let lost = |at| Faults { lost_at: Some(at), ..Faults::default() };
    let early = place.run(place.config("early", 9), lost(1));
    assert_eq!(early.message(), "step 1 failed: device lost; no checkpoint was made yet");
    let late = place.run(place.config("late", 9), lost(8));
    let checkpoint = place.path("late/checkpoints/step-000006");
    let expected = format!(
        "step 8 failed: device lost; the last checkpoint is {}: go on from it with --resume",
        checkpoint.display()
    );
    assert_eq!(late.message(), expected);
    assert!(!place.path("late/adapter_model.safetensors").exists());
}

#[test]
fn steps_that_are_not_finite_are_counted_and_too_many_in_a_row_stop_the_run() {
    let place = Place::new();
    let some = Faults { not_finite: (3..6).collect(), ..Faults::default() };
    let outcome = place.run(place.config("some", 8), some);
    assert_eq!(outcome.result.as_ref().unwrap().skipped_steps, 3);
    let skipped: Vec<u64> = outcome
        .events
        .iter()
        .filter_map(|e| if let Event::Skipped { step, .. } = e { Some(*step) } else { None })
        .collect();
    assert_eq!(skipped, [3, 4, 5]);
    let row = &place.metrics("some")[2];
    assert_eq!((&row["step"], &row["skipped"]), (&3.into(), &true.into()));

    // More than the limit in all, but one good step in between.
    let parted = Faults { not_finite: (2..16).chain(17..31).collect(), ..Faults::default() };
    let outcome = place.run(place.config("parted", 32), parted);
    assert_eq!(outcome.result.as_ref().unwrap().skipped_steps, 28);

    let all = Faults { not_finite: (1..100).collect(), ..Faults::default() };
    let message = place.run(place.config("all", 3), all).message();
    assert!(message.starts_with("3 steps in a row, 1 to 3, had a gradient that is not finite"), "{message}");
    assert!(!place.path("all/adapter_model.safetensors").exists());

    let many = Faults { not_finite: (3..100).collect(), ..Faults::default() };
    let message = place.run(place.config("many", 60), many).message();
    let expected = format!(
        "{MAX_SKIPPED} steps in a row, 3 to 22, had a gradient that is not finite, at first in \
         model.layers.0.mlp.up_proj.lora_A: lower --lr"
    );
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("go on from it with --resume"), "{message}");
}

#[test]
fn a_folder_with_a_run_or_an_adapter_is_not_overwritten() {
    let place = Place::new();
    assert!(place.run(place.config("out", 2), Faults::default()).result.is_ok());
    let before = fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    let message = place.run(place.config("out", 2), Faults::default()).message();
    assert!(message.contains("already holds a run with a checkpoint at step 2"), "{message}");
    assert!(message.contains("--resume, or choose another --output"), "{message}");
    assert_eq!(before, fs::read(place.path("out/adapter_model.safetensors")).unwrap());

    fs::create_dir(place.path("adapter")).unwrap();
    fs::write(place.path("adapter/adapter_model.safetensors"), "x").unwrap();
    let message = place.run(place.config("adapter", 2), Faults::default()).message();
    assert!(message.contains("already holds an adapter"), "{message}");
}

#[test]
fn two_runs_cannot_share_a_folder() {
    let place = Place::new();
    let held = RunFolder::open(&place.config("out", 2), 0).unwrap();
    let message = place.run(place.config("out", 2), Faults::default()).message();
    assert!(message.starts_with("another run is writing to "), "{message}");
    drop(held);
    assert!(place.run(place.config("out", 2), Faults::default()).result.is_ok());
}

#[test]
fn resuming_needs_a_checkpoint_of_the_same_run() {
    let place = Place::new();
    let resume = |config: TrainConfig| place.run(TrainConfig { resume: true, ..config }, Faults::default());
    // Where no run was, one begins.
    let first = resume(place.config("out", 4));
    assert!(first.notes().contains("no complete checkpoint yet: it begins at step 0"), "{}", first.notes());
    assert_eq!(first.result.unwrap().steps, 4);

    let other = TrainConfig { lr: 0.1, no_shuffle: true, ..place.config("out", 8) };
    let message = resume(other).message();
    assert!(message.contains("lr is 0.1, was 0.05; no-shuffle is true, was false"), "{message}");
    let message = resume(place.config("out", 3)).message();
    assert!(message.contains("it holds step 4, but the run is to have 3"), "{message}");

    let mut other = model_on_disk();
    let norm = other.tensors.get_mut("model.norm.weight").unwrap();
    norm.data = vec![0; norm.byte_len()].into();
    let again = TrainConfig { resume: true, ..place.config("out", 8) };
    let message = Trainer::open(again, &other).unwrap_err().to_string();
    assert!(message.contains("the model ") && message.contains(" has sha256 "), "{message}");

    let done = resume(place.config("out", 4));
    assert!(done.notes().contains("all 4 steps are done"), "{}", done.notes());
    assert_eq!(done.result.unwrap().steps, 4);

    fs::write(place.path("rows.jsonl"), "{\"input_ids\": [1, 2], \"labels\": [1, 2]}").unwrap();
    let message = resume(place.config("out", 8)).message();
    assert!(message.contains("the data ") && message.contains("rows.jsonl has sha256 "), "{message}");
}

/// Makes a checkpoint's checksums those of its files, as whoever changes one on purpose would.
fn sum_again(checkpoint: &Path) {
    let names = names(checkpoint).into_iter().filter(|name| name != "SHA256SUMS");
    let line = |name: String| format!("{}  {name}\n", sha256_file(&checkpoint.join(&name)).unwrap());
    fs::write(checkpoint.join("SHA256SUMS"), names.map(line).collect::<String>()).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_whole_one_before_it_offered() {
    let place = Place::new();
    assert!(place.run(place.config("out", 4), Faults::default()).result.is_ok());
    let [older, last] = ["step-000002", "step-000004"].map(|name| place.path("out/checkpoints").join(name));
    let resume = || place.run(TrainConfig { resume: true, ..place.config("out", 8) }, Faults::default());
    let offer = format!("; {} is whole: remove {} to go on from it with --resume", older.display(), last.display());
    assert_eq!(
        names(&last),
        ["SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors", "state.json"]
    );
    for name in names(&last) {
        let file = last.join(&name);
        let whole = fs::read(&file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 2] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, flipped).unwrap();
            let message = resume().message();
            assert!(message.starts_with(&format!("checkpoint {}: ", last.display())), "{message}");
            assert!(message.contains(&name) && message.ends_with(&offer), "bit {at} of {name}: {message}");
        }
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert!(resume().message().ends_with(&offer));
        fs::remove_file(&file).unwrap();
        assert!(resume().message().contains(&format!("{name} is missing; ")));
        fs::write(&file, whole).unwrap();
    }

    // What has its own checksum is still judged: numbers that nobody can go on with, and other
    // layouts.
    let change = |name: &str, old: &[u8], new: &[u8]| {
        let whole = fs::read(last.join(name)).unwrap();
        let at = whole.windows(old.len()).position(|window| window == old).unwrap();
        fs::write(last.join(name), [&whole[..at], new, &whole[at + old.len()..]].concat()).unwrap();
        sum_again(&last);
        let message = resume().message();
        fs::write(last.join(name), whole).unwrap();
        sum_again(&last);
        assert!(message.ends_with(&offer), "{message}");
        message
    };
    let optimizer = fs::read(last.join("optimizer.safetensors")).unwrap();
    let (value, nan) = (&optimizer[optimizer.len() - 4..], f32::NAN.to_le_bytes());
    assert!(change("optimizer.safetensors", value, &nan).contains("second_moment holds NaN at element "));
    let adapter = fs::read(last.join("adapter_model.safetensors")).unwrap();
    let message = change("adapter_model.safetensors", &adapter[adapter.len() - 4..], &nan);
    assert!(message.contains("lora_") && message.contains(" holds NaN at element "), "{message}");
    let message = change("state.json", b"\"layout\": 3", b"\"layout\": 9");
    assert!(message.contains("layout is 9, expected 3: another version of bft made it"), "{message}");

    // A checkpoint of the first layout has no checksums.
    fs::remove_file(last.join("SHA256SUMS")).unwrap();
    let state = fs::read_to_string(last.join("state.json")).unwrap();
    fs::write(last.join("state.json"), state.replace("\"layout\": 3", "\"layout\": 1")).unwrap();
    assert!(resume().message().contains("layout is 1, expected 3: another version of bft made it; finish the run"));

    // With no whole one left there is nothing to offer.
    fs::write(older.join("state.json"), "").unwrap();
    assert!(resume().message().ends_with("; no older checkpoint is whole"));
    fs::remove_dir_all(place.path("out")).unwrap();

    // Taking the damaged one away leaves the one before it.
    assert!(place.run(place.config("out", 4), Faults::default()).result.is_ok());
    fs::write(last.join("optimizer.safetensors"), "").unwrap();
    assert!(resume().result.is_err());
    fs::remove_dir_all(&last).unwrap();
    assert_eq!(resume().steps()[0].step, 3);
}

#[test]
fn a_run_whose_adapter_is_not_finite_fails_and_keeps_the_last_good_one() {
    let place = Place::new();
    let broken = |at| Faults { broken_at: Some(at), not_finite: (at + 1..100).collect(), ..Faults::default() };
    let message = place.run(place.config("early", 2), Faults { broken_at: Some(2), ..Faults::default() }).message();
    assert!(message.starts_with("after step 2 the adapter is of no use: lora_B of model.layers.0."), "{message}");
    assert!(message.contains(" holds inf at element 1: start again with a lower --lr"), "{message}");
    assert!(message.ends_with("no checkpoint was made yet"), "{message}");
    assert!(!place.path("early/adapter_model.safetensors").exists());
    assert_eq!(names(&place.path("early/checkpoints")), [""; 0]);

    // As it happens: the update breaks the weights, and no later gradient is finite.
    let message = place.run(place.config("late", 9), broken(5)).message();
    let last = place.path("late/checkpoints/step-000004");
    assert!(message.contains(&last.display().to_string()), "{message}");
    assert_eq!(names(&place.path("late/checkpoints")), ["step-000002", "step-000004"]);
    assert!(Adapter::load(&last, &place.model.config).is_ok());

    // Checkpoints in such a stretch would push out those from before it.
    let stretch = Faults { not_finite: (5..20).collect(), lost_at: Some(9), ..Faults::default() };
    let message = place.run(place.config("stretch", 30), stretch).message();
    assert!(message.contains("step-000004"), "{message}");
    assert_eq!(names(&place.path("stretch/checkpoints")), ["step-000002", "step-000004"]);

    // A finished adapter survives a longer run that breaks.
    let config = |steps| TrainConfig { schedule: Schedule::Constant, ..place.config("longer", steps) };
    assert!(place.run(config(4), Faults::default()).result.is_ok());
    let before = fs::read(place.path("longer/adapter_model.safetensors")).unwrap();
    let resumed = TrainConfig { resume: true, ..config(6) };
    let message = place.run(resumed, Faults { broken_at: Some(6), ..Faults::default() }).message();
    assert!(message.contains("after step 6 the adapter is of no use"), "{message}");
    assert_eq!(fs::read(place.path("longer/adapter_model.safetensors")).unwrap(), before);

    // Steps left out at the end, as many as were taken: weights that nobody has seen to work.
    let message = place.run(place.config("half", 4), Faults { not_finite: vec![3, 4], ..Faults::default() }).message();
    assert!(message.starts_with("2 steps in a row, 3 to 4, had a gradient that is not finite"), "{message}");
    assert!(message.contains("step-000002"), "{message}");
    let one = place.run(place.config("one", 4), Faults { not_finite: vec![4], ..Faults::default() });
    assert_eq!(one.result.unwrap().skipped_steps, 1, "one bad batch at the end is no reason to lose the others");
}

#[test]
fn an_adapter_names_a_base_that_peft_finds() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/llama");
    let model = Model::open(&fixture).unwrap();
    let place = Place::new();
    let base = |init: Option<&str>, name: &str| {
        let plan = Plan::read(place.config(name, 2), &model).unwrap();
        let init = init.map(|recorded| {
            let mut adapter = Trainer::open(place.config("init", 2), &model).unwrap().adapter().clone();
            adapter.config.base_model = Some(recorded.to_owned());
            adapter
        });
        Trainer::fresh(&model, plan, init).unwrap().adapter().config.base_model.clone().unwrap()
    };
    let here = std::path::absolute(&fixture).unwrap().display().to_string();
    assert!(Path::new(&here).is_absolute());
    assert_eq!(base(None, "new"), here);
    // The hub's ids are kept; what an older version wrote, and folders of another machine, are not.
    for id in ["owner/Model-1.5B", "gpt2"] {
        assert_eq!(base(Some(id), "tuned-on"), id);
    }
    for recorded in ["llama", "/elsewhere/llama", "./llama", "../llama", "C:\\llama", "m.Q4_1.gguf", "a/b/c", ""] {
        assert_eq!(base(Some(recorded), "tuned-on"), here, "{recorded}");
    }
    // A model that lies nowhere has a name alone.
    let plan = Plan::read(place.config("memory", 2), &place.model).unwrap();
    let trainer = Trainer::fresh(&place.model, plan, None).unwrap();
    assert_eq!(trainer.adapter().config.base_model.as_deref(), Some(place.model.name.as_str()));
}

#[cfg(unix)]
#[test]
fn data_is_read_once_so_a_pipe_will_do() {
    let place = Place::new();
    let fifo = place.path("rows.fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let rows = fs::read(place.path("rows.jsonl")).unwrap();
    let written = {
        let (fifo, rows) = (fifo.clone(), rows.clone());
        std::thread::spawn(move || fs::write(fifo, rows))
    };
    let config = TrainConfig { data: fifo.into(), ..place.config("out", 2) };
    assert!(place.run(config, Faults::default()).result.is_ok());
    written.join().unwrap().unwrap();
    let run: Value = serde_json::from_slice(&fs::read(place.path("out/run.json")).unwrap()).unwrap();
    assert_eq!(run["data"]["sha256"], sha256_file(&place.path("rows.jsonl")).unwrap().as_str());
    // The rows themselves are data of the same run.
    let resumed = place.run(TrainConfig { resume: true, ..place.config("out", 4) }, Faults::default());
    assert_eq!(resumed.result.unwrap().steps, 4);
}

#[test]
fn a_disk_that_fails_leaves_the_last_checkpoint() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    let message = place.run(place.config("file/out", 2), Faults::default()).message();
    assert!(message.starts_with("cannot ") && message.contains("file/out"), "{message}");

    // A file where the fourth step's checkpoint is to be written.
    fs::create_dir_all(place.path("out/checkpoints")).unwrap();
    let blocked = place.path("out/checkpoints/.incomplete-step-000004");
    let mut events = Vec::new();
    let stop = AtomicBool::new(false);
    let device = DeviceSummary { description: "toy".into(), memory_bytes: 1 };
    let trainer = Trainer::open(place.config("out", 6), &place.model).unwrap();
    let engine = |adapter, _: &Plan| Ok(Toy::new(adapter, Faults::default()));
    let result = pollster::block_on(trainer.run(&device, engine, &stop, &mut |event| {
        if matches!(event, Event::Checkpoint { step: 2, .. }) {
            fs::write(&blocked, "").unwrap();
        }
        events.push(event);
    }));
    let message = result.unwrap_err().to_string();
    assert!(message.contains(".incomplete-step-000004: "), "{message}");
    assert!(message.contains("the last checkpoint is ") && message.contains("step-000002"), "{message}");
    fs::remove_file(&blocked).unwrap();
    let resumed = place.run(TrainConfig { resume: true, ..place.config("out", 6) }, Faults::default());
    assert_eq!(resumed.steps()[0].step, 3);
    assert!(!stop.load(Ordering::Relaxed));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("out/metrics.jsonl")).unwrap();
    let message = place.run(place.config("out", 4), Faults::default()).message();
    assert!(message.contains("metrics.jsonl: No space left on device"), "{message}");
}

#[test]
fn settings_and_data_are_checked_before_anything_is_written() {
    let place = Place::new();
    let message = place.run(TrainConfig { rank: 0, ..place.config("out", 2) }, Faults::default()).message();
    assert_eq!(message, "rank is 0, expected a whole number from 1");
    let missing = TrainConfig { data: place.path("none.jsonl").into(), ..place.config("out", 2) };
    assert!(place.run(missing, Faults::default()).message().starts_with("cannot read data file "));
    let trainer = Trainer::open(place.config("out", 2), &place.model).unwrap();
    let device = DeviceSummary { description: "toy".into(), memory_bytes: 1 };
    let engine = |_, _: &Plan| Err::<Toy, EngineError>("out of memory: 3 GiB asked, 1 GiB free".into());
    let stop = AtomicBool::new(false);
    let result = pollster::block_on(trainer.run(&device, engine, &stop, &mut |_| {}));
    assert_eq!(result.unwrap_err().to_string(), "out of memory: 3 GiB asked, 1 GiB free");
    assert!(!place.path("out").exists());
}

#[test]
fn an_adapter_to_start_from_keeps_its_shape() {
    let place = Place::new();
    assert!(place.run(place.config("first", 2), Faults::default()).result.is_ok());
    let second = TrainConfig {
        init_adapter: Some(place.path("first")),
        rank: 16,
        lora_dropout: 0.25,
        ..place.config("second", 2)
    };
    let outcome = place.run(second, Faults::default());
    assert!(outcome.notes().contains("the given adapter's shape holds: rank 2, alpha 4"), "{}", outcome.notes());
    assert!(outcome.result.is_ok());
    let tuned = Adapter::load(&place.path("second"), &place.model.config).unwrap();
    assert_eq!(tuned.pairs[0].rank, 2);
    assert_eq!(tuned.config.dropout, 0.25, "dropout is the run's own");
    let run: Value = serde_json::from_slice(&fs::read(place.path("second/run.json")).unwrap()).unwrap();
    assert_eq!((&run["settings"]["rank"], &run["settings"]["alpha"]), (&2.into(), &4.0.into()), "as they were used");
}

#[test]
fn one_seed_gives_the_same_bytes() {
    let place = Place::new();
    for output in ["a", "b"] {
        assert!(place.run(place.config(output, 5), Faults::default()).result.is_ok());
    }
    assert_eq!(place.traces("a"), place.traces("b"));
    let other = TrainConfig { seed: 4, ..place.config("c", 5) };
    assert!(place.run(other, Faults::default()).result.is_ok());
    assert_ne!(place.traces("a").0, place.traces("c").0);
}

/// Rows that pull the toy's value up from below 0, past what the held-out rows ask for.
fn overfitting(place: &Place, output: &str, steps: u64) -> TrainConfig {
    let rows = |label: u32| format!("{{\"input_ids\": [1, {label}], \"labels\": [-100, {label}]}}\n");
    fs::write(place.path("pull.jsonl"), rows(20).repeat(6)).unwrap();
    fs::write(place.path("want.jsonl"), rows(21)).unwrap();
    TrainConfig {
        data: place.path("pull.jsonl").into(),
        eval_data: Some(place.path("want.jsonl").into()),
        eval_every: Some(1),
        schedule: Schedule::Constant,
        warmup_steps: None,
        lr: 0.01,
        seed: (0..)
            .find(|seed| {
                let config = TrainConfig { seed: *seed, rank: 2, ..TrainConfig::default() };
                let adapter = new_adapter(&place.model.config, "toy", &config).unwrap();
                (-0.25..-0.15).contains(&adapter.pairs[0].a[0])
            })
            .unwrap(),
        ..place.config(output, steps)
    }
}

fn adapter_sha256(place: &Place, output: &str) -> String {
    sha256_file(&place.path(output).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn the_best_adapter_is_left_whenever_the_run_is_stopped_and_gone_on_with() {
    let place = Place::new();
    let best = |output: &str, steps| TrainConfig { save_best: true, ..overfitting(&place, output, steps) };
    let whole = place.run(best("whole", 12), Faults::default()).result.unwrap();
    let row = whole.best.unwrap();
    assert!(0 < row.step && row.step < 10, "{row:?}");
    assert_eq!((whole.steps, whole.adapter_step, whole.stopped), (12, row.step, false));
    let metrics = place.metrics("whole");
    let evals: Vec<&Value> = metrics.iter().filter(|row| row.get("eval_loss").is_some()).collect();
    let lowest = evals.iter().min_by(|a, b| a["eval_nll"].as_f64().partial_cmp(&b["eval_nll"].as_f64()).unwrap());
    assert_eq!(lowest.unwrap()["step"], row.step);
    for eval in &evals {
        assert_eq!(eval["best"], eval["step"].as_u64().unwrap() <= row.step, "{eval}");
    }

    // It is that of a run that ends there, and without the setting the last step's is left.
    assert!(place.run(overfitting(&place, "until", row.step), Faults::default()).result.is_ok());
    assert_eq!(adapter_sha256(&place, "whole"), adapter_sha256(&place, "until"));
    let last = place.run(overfitting(&place, "last", 12), Faults::default()).result.unwrap();
    assert_eq!((last.adapter_step, last.best), (12, Some(row)));
    assert_ne!(adapter_sha256(&place, "whole"), adapter_sha256(&place, "last"));

    // Stopped before and after the best step, or killed: what is left at the end is the same.
    for stop in [row.step - 1, row.step + 2] {
        let name = format!("parts-{stop}");
        let stopping = Faults { stop_at: Some(stop), ..Faults::default() };
        let first = place.run(best(&name, 12), stopping).result.unwrap();
        // Whoever stops a run does not wait for the evaluation that is due.
        assert_eq!((first.steps, first.adapter_step), (stop, row.step.min(stop - 1)));
        let resumed = TrainConfig { resume: true, ..best(&name, 12) };
        let second = place.run(resumed, Faults::default()).result.unwrap();
        assert_eq!((second.adapter_step, second.best), (row.step, Some(row)));
        assert_eq!(place.traces("whole"), place.traces(&name));
    }
    let lost = Faults { lost_at: Some(11), ..Faults::default() };
    assert!(place.run(best("killed", 12), lost).result.is_err());
    assert!(place.run(TrainConfig { resume: true, ..best("killed", 12) }, Faults::default()).result.is_ok());
    assert_eq!(place.traces("whole"), place.traces("killed"));

    // A damaged copy of the best is found like any other damage.
    let (_, newest) = Checkpoints::of(&place.path("killed")).list().unwrap().pop().unwrap();
    fs::write(newest.join("best.safetensors"), "x").unwrap();
    let message = place.run(TrainConfig { resume: true, ..best("killed", 14) }, Faults::default()).message();
    assert!(message.contains("best.safetensors: SHA-256 is "), "{message}");
}

#[test]
fn a_run_ends_when_evaluations_get_no_better() {
    let place = Place::new();
    let config = |patience| TrainConfig { patience: Some(patience), ..overfitting(&place, "out", 30) };
    let outcome = place.run(config(3), Faults::default());
    let finished = outcome.result.as_ref().unwrap();
    let best = finished.best.unwrap().step;
    assert_eq!((finished.steps, finished.stopped, finished.out_of_patience), (best + 3, false, true));
    assert_eq!(finished.adapter_step, best + 3, "the best is kept where that is asked for");
    assert_eq!(finished.checkpoint, Some(place.path(&format!("out/checkpoints/step-{:06}", best + 3))));

    let resume = |patience| place.run(TrainConfig { resume: true, ..config(patience) }, Faults::default());
    let again = resume(3);
    assert!(again.notes().contains(&format!("3 evaluations since step {best} were no better")), "{}", again.notes());
    let again = again.result.unwrap();
    assert_eq!((again.steps, again.out_of_patience), (best + 3, true));
    let longer = resume(5);
    assert_eq!(longer.notes(), outcome.notes());
    assert_eq!(longer.result.unwrap().steps, best + 5);
    let through = resume(1000).result.unwrap();
    assert_eq!((through.steps, through.out_of_patience, through.stopped), (30, false, false));
}

#[test]
fn a_run_that_ended_before_its_first_checkpoint_begins_again() {
    let place = Place::new();
    assert!(place.run(place.config("whole", 4), Faults::default()).result.is_ok());
    let lost = Faults { lost_at: Some(2), ..Faults::default() };
    assert!(place.run(place.config("parts", 4), lost).result.is_err());
    assert_eq!(names(&place.path("parts/checkpoints")), [""; 0]);
    let resume = || place.run(TrainConfig { resume: true, ..place.config("parts", 4) }, Faults::default());
    let outcome = resume();
    assert!(outcome.notes().contains("no complete checkpoint yet: it begins at step 0"), "{}", outcome.notes());
    assert_eq!(place.traces("whole"), place.traces("parts"));
    assert!(!resume().notes().contains("begins at step 0"));

    // An adapter without its checkpoints is not written over.
    fs::remove_dir_all(place.path("parts/checkpoints")).unwrap();
    let before = adapter_sha256(&place, "parts");
    let message = resume().message();
    assert!(message.contains("holds an adapter, but no checkpoint to resume from"), "{message}");
    assert_eq!(adapter_sha256(&place, "parts"), before);
}

#[test]
fn a_run_is_no_other_for_saying_its_defaults() {
    let place = Place::new();
    let config = |steps| TrainConfig { warmup_steps: None, ..place.config("out", steps) };
    assert!(place.run(config(2), Faults::default()).result.is_ok());
    let said = |steps| TrainConfig {
        alpha: Some(4.0),
        max_length: Some(64),
        target_modules: bft_formats::LINEAR_MODULES.map(String::from).to_vec(),
        warmup_steps: Some(0),
        min_lr: Some(0.0),
        resume: true,
        ..config(steps)
    };
    assert!(place.run(said(4), Faults::default()).result.is_ok());
    let other = TrainConfig { alpha: Some(8.0), max_length: Some(32), ..said(6) };
    let message = place.run(other, Faults::default()).message();
    assert!(message.contains("max-length is 32, was 64; alpha is 8, was 4; give what"), "{message}");
}

#[test]
fn paths_of_a_run_mean_the_same_from_every_folder() {
    let place = Place::new();
    // Cargo runs tests in the package's folder, which the temporary folder is no part of.
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = |path: PathBuf| up.join(path.strip_prefix("/").unwrap());
    let config = TrainConfig { data: relative(place.path("rows.jsonl")).into(), ..place.config("out", 2) };
    assert!(config.data[0].is_relative());
    assert!(place.run(config, Faults::default()).result.is_ok());
    let run: Value = serde_json::from_slice(&fs::read(place.path("out/run.json")).unwrap()).unwrap();
    let recorded = Path::new(run["settings"]["data"].as_str().unwrap());
    assert!(recorded.is_absolute() && recorded.exists(), "{}", recorded.display());
}

#[test]
fn event_files_hold_what_the_metrics_hold() {
    let place = Place::new();
    let config = |steps| TrainConfig {
        logs: Some(crate::Logs::Tensorboard),
        schedule: Schedule::Constant,
        eval_data: Some(place.path("held.jsonl").into()),
        ..place.config("out", steps)
    };
    assert!(place.run(config(3), Faults::default()).result.is_ok());
    assert!(place.run(TrainConfig { resume: true, ..config(5) }, Faults::default()).result.is_ok());
    let folder = place.path("out/tensorboard");
    let files = names(&folder);
    assert_eq!(files.len(), 2, "{files:?}");
    let count = |file: &String, tag: &str| {
        let bytes = fs::read(folder.join(file)).unwrap();
        bytes.windows(tag.len()).filter(|window| *window == tag.as_bytes()).count()
    };
    for (file, steps, evals) in [(&files[0], 3, 2), (&files[1], 2, 1)] {
        for tag in ["train/loss", "train/nll", "train/lr", "train/grad_norm", "train/tokens_per_second"] {
            assert_eq!(count(file, tag), steps, "{tag}");
        }
        assert_eq!((count(file, "eval/loss"), count(file, "eval/nll")), (evals, evals));
    }
    assert!(!place.path("plain").exists());
    assert!(place.run(place.config("plain", 2), Faults::default()).result.is_ok());
    assert!(!place.path("plain/tensorboard").exists());
}
