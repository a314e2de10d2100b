//! What would cost hours is said before the work.
#![cfg(unix)]

mod common;

use common::{fixture, run, tiny_training, write};

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
