//! What would cost hours is said before the work, and what happens to files under a run is said by
//! name.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{Done, bft, finish, fixture, last_checkpoint, run, tiny_training, wait_until, write};

/// A training run whose model is a copy that can be harmed.
fn training(folder: &Path, steps: usize) -> (std::path::PathBuf, Vec<String>) {
    let model = folder.join("model");
    std::fs::create_dir(&model).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{}/{name}", fixture("llama")), model.join(name)).expect("a copy");
    }
    let mut flags = tiny_training(&folder.join("tuned"), steps);
    let at = flags.iter().position(|flag| flag == "--model").expect("a flag");
    flags[at + 1] = model.display().to_string();
    (model.join("model.safetensors"), flags)
}

/// Starts it, harms its model's file after the first checkpoint, and waits for the end.
fn harmed(folder: &Path, harm: impl FnOnce(&Path)) -> Done {
    let (file, mut flags) = training(folder, 1_000_000);
    flags.extend(["--save-every", "2"].map(str::to_owned));
    let child = bft(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts");
    let output = folder.join("tuned");
    wait_until("a checkpoint", || last_checkpoint(&output).is_some());
    harm(&file);
    finish(child)
}

#[test]
fn a_model_that_is_cut_or_changed_under_a_run_is_named() {
    for (what, harm) in [
        ("cut to nothing", (|file| std::fs::File::create(file).map(drop).expect("cut")) as fn(&Path)),
        ("cut by a byte", |file| {
            let file = std::fs::File::options().write(true).open(file).expect("a file");
            let length = file.metadata().expect("a length").len();
            file.set_len(length - 1).expect("cut");
        }),
        ("written anew", |file| {
            let bytes = std::fs::read(file).expect("a file");
            use std::io::Write;
            let mut file = std::fs::File::options().write(true).open(file).expect("a file");
            file.write_all(&bytes).expect("written");
        }),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let done = harmed(folder.path(), harm);
        assert!([Some(1), Some(74)].contains(&done.code), "{what}: {done:?}");
        assert!(done.error().contains("model.safetensors: "), "{what}: {done:?}");
        assert!(done.error().contains("while it was in use"), "{what}: {done:?}");
        // What was saved before is whole.
        let mut flags = tiny_training(&folder.path().join("tuned"), 1);
        let at = flags.iter().position(|flag| flag == "--model").expect("a flag");
        flags[at + 1] = folder.path().join("model").display().to_string();
        std::fs::copy(format!("{}/model.safetensors", fixture("llama")), folder.path().join("model/model.safetensors"))
            .expect("whole again");
        let step = last_checkpoint(&folder.path().join("tuned")).expect("a checkpoint");
        let again = ["train", "--output", &folder.path().join("tuned").display().to_string(), "--resume"]
            .map(str::to_owned)
            .into_iter()
            .chain(["--steps".to_owned(), (step + 1).to_string()]);
        run(again).ok();
    }
}

#[test]
fn a_file_that_is_replaced_by_another_is_no_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, mut flags) = training(folder.path(), 400);
    flags.extend(["--save-every", "2"].map(str::to_owned));
    let child = bft(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts");
    wait_until("a checkpoint", || last_checkpoint(&folder.path().join("tuned")).is_some());
    std::fs::write(folder.path().join("new"), b"another").expect("written");
    std::fs::rename(folder.path().join("new"), file).expect("replaced");
    finish(child).ok();
}

/// Where no file can be made, whoever asks.
const NO_PLACE: &str = "/proc/bft";

#[test]
fn an_output_that_cannot_be_written_is_said_first() {
    let llama = fixture("llama");
    let rows = format!("{llama}/rows.jsonl");
    let adapter = format!("{llama}/adapter");
    // The model is not there: whoever looks for it first has not looked at the output.
    let file = format!("{NO_PLACE}/a.jsonl");
    for (flags, flag) in [
        (vec!["train", "--model", "none", "--data", &rows, "--output", NO_PLACE], "--output"),
        (vec!["embed", "--model", "none", "--input", &rows, "--output", &file], "--output"),
        (vec!["generate", "--model", "none", "--data", &rows, "--output", &file], "--output"),
        (vec!["export", "--model", "none", "--adapter", &adapter, "--merge", NO_PLACE], "--merge"),
        (vec!["export", "--model", "none", "--adapter", &adapter, "--gguf-adapter", &file], "--gguf-adapter"),
        (vec!["bio", "study", "--model", "none", "--output", NO_PLACE], "--output"),
        (vec!["bio", "instruct", "--output", NO_PLACE], "--output"),
        (vec!["bio", "embed-genes", "none", "--output", &file], "--output"),
        (vec!["bio", "interaction", "none", "--output", &file], "--output"),
        (vec!["bio", "perturbation", "none", "--output", &file], "--output"),
        (vec!["bio", "celltype", "none", "--output", &file], "--output"),
        (vec!["bio", "process", "none", "--output", &file], "--output"),
        (vec!["bio", "mcq", "--model", "none", "--data", &rows, "--output", &file], "--output"),
    ] {
        let done = run(&flags);
        assert_eq!(done.code, Some(1), "{flags:?}: {done:?}");
        assert!(done.error().starts_with(&format!("{flag} {NO_PLACE}")), "{flags:?}: {done:?}");
        assert!(done.error().contains("cannot be written"), "{flags:?}: {done:?}");
    }
}

#[test]
fn a_row_at_the_end_that_cannot_be_embedded_is_said_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut rows = "{\"input_ids\": [1, 2, 3]}\n".repeat(2000);
    rows.push_str("{\"input_ids\": [1, 99999]}\n");
    let rows = write(folder.path(), "rows.jsonl", &rows).display().to_string();
    let output = folder.path().join("v.npy").display().to_string();
    let done = run(["embed", "--device", "cpu", "--model", &fixture("llama"), "--input", &rows, "--output", &output]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("rows.jsonl:2001"), "{done:?}");
    // The device is opened after the input is known to be good.
    assert!(!done.stderr.contains("device:"), "{done:?}");
}

#[test]
fn what_killed_runs_left_is_removed_and_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = write(folder.path(), "rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n").display().to_string();
    let output = folder.path().join("v.npy").display().to_string();
    let left = write(folder.path(), ".bft-Ab12cD", "half");
    let held = write(folder.path(), ".bft-Ef34gH", "half");
    let lock = std::fs::File::open(&held).expect("a file");
    lock.try_lock().expect("a lock");
    let done = run(["embed", "--device", "cpu", "--model", &fixture("llama"), "--input", &rows, "--output", &output]);
    let said = format!("removed what a killed run had left half written in {}: .bft-Ab12cD\n", folder.path().display());
    assert!(done.ok().stderr.contains(&said), "{done:?}");
    assert!(!left.exists() && held.exists());
    // A run's own folder, too.
    let tuned = folder.path().join("tuned");
    std::fs::create_dir(&tuned).expect("a folder");
    let left = write(&tuned, ".bft-Ij56kL", "half");
    assert!(run(tiny_training(&tuned, 1)).ok().stderr.contains("tuned: .bft-Ij56kL\n"));
    assert!(!left.exists());
}

#[test]
fn a_user_s_own_vectors_are_read_before_any_are_made() {
    if std::env::var_os("BFT_TEST_NO_GENES").is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pairs = write(folder.path(), "pairs.tsv", "TP53\tMDM2\nBRCA1\tBARD1\nRPS5\tRPS6\n").display().to_string();
    let vectors = write(folder.path(), "mine.tsv", "TP53\t1\t2\nMDM2\t1\tnone\n").display().to_string();
    let flags = ["bio", "interaction", &pairs, "--device", "cpu", "--model", &fixture("qwen2"), "--vectors", &vectors];
    let done = run(flags);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("mine.tsv"), "{done:?}");
    assert!(!done.stderr.contains("device:"), "{done:?}");
}
