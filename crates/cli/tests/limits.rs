//! Numbers that make no sense: a clear error, no panic, and no attempt to hold what cannot be held.

mod common;

use common::{Done, fixture, run};

/// Refused in one line, quickly and without a panic.
#[track_caller]
fn refused(arguments: &[&str], expected: &str) {
    let done = run(arguments);
    assert!(matches!(done.code, Some(1 | 2)), "{arguments:?}: {done:?}");
    let error = done.error();
    assert!(error.contains(expected), "{arguments:?}: {error}");
}

struct Runs {
    folder: tempfile::TempDir,
    model: String,
    rows: String,
}

impl Runs {
    fn new() -> Self {
        let model = fixture("llama");
        Self { folder: tempfile::tempdir().expect("a temporary folder"), rows: format!("{model}/rows.jsonl"), model }
    }

    fn train<'r>(&'r self, output: &'r str, more: &[&'r str]) -> Vec<&'r str> {
        let mut flags = vec!["train", "--device", "cpu", "--model", &self.model];
        flags.extend(["--data", &self.rows, "--output", output]);
        flags.extend(more);
        flags
    }
}

#[test]
fn training_flags_beyond_reason_are_refused() {
    let runs = Runs::new();
    let output = runs.folder.path().join("never").display().to_string();
    const MOST: &str = "18446744073709551615";
    for (flag, value, expected) in [
        ("--rank", "65", "rank is 65, expected 1 to 64"),
        ("--rank", "100000", "rank is 100000, expected 1 to 64"),
        ("--rank", MOST, "--rank: found '18446744073709551615'"),
        ("--alpha", "inf", "--alpha: found 'inf'"),
        ("--alpha", "nan", "--alpha: found 'nan'"),
        ("--alpha", "1e39", "--alpha: found '1e39'"),
        ("--alpha", "1e-60", "--alpha: found '1e-60': expected a number of at least 1.4e-45"),
        ("--lr", "1e39", "--lr: found '1e39'"),
        ("--gamma", "1e39", "--gamma: found '1e39'"),
        ("--lora-dropout", "0.9999999999", "--lora-dropout: found '0.9999999999': expected 0 to at most"),
        ("--warmup-ratio", "1.5", "--warmup-ratio: found '1.5'"),
        ("--min-lr", "1", "min-lr is 1, expected at most lr, which is 0.0002"),
        ("--decay-steps", "5", "decay-steps has no effect with --schedule cosine"),
        ("--weight-decay", "inf", "--weight-decay: found 'inf'"),
        ("--max-length", "4096", "max-length is 4096: expected 2 to"),
        ("--max-length", "4294967295", "max-length is 4294967295"),
        ("--max-length", MOST, "--max-length: found"),
        ("--batch-size", MOST, "--batch-size: found"),
        ("--grad-accum", MOST, "--grad-accum: found"),
        ("--group-size", MOST, "--group-size: found"),
        ("--group-size", "0.25", "--group-size: found '0.25': expected a whole number from 1 to 4294967295, or a part"),
        ("--group-size", "n/0", "--group-size: found 'n/0': expected a whole number from 1"),
        ("--weight-floor", "1.1", "--weight-floor: found '1.1': expected 0 to 1"),
        ("--gce-q", "0", "--gce-q: found '0': expected a number above 0 and at most 1"),
        ("--gce-q", "1e-60", "--gce-q: found '1e-60'"),
        ("--gce-q", "0.5", "gce-q has no effect with --loss bft: leave it out, or use --loss gce"),
        ("--steps", MOST, "--steps: found"),
        ("--steps", "18446744073709551616", "--steps: found"),
        ("--epochs", MOST, "--epochs: found"),
        ("--warmup-steps", MOST, "--warmup-steps: found"),
        ("--save-every", MOST, "--save-every: found"),
        ("--seed", "18446744073709551616", "--seed: found"),
    ] {
        refused(&runs.train(&output, &[flag, value]), expected);
        if ["--min-lr", "--decay-steps"].contains(&flag) {
            assert_eq!(run(runs.train(&output, &[flag, value])).code, Some(2), "{flag}");
        }
        assert!(!runs.folder.path().join("never").exists(), "{flag} {value}");
    }
}

#[test]
fn an_anchor_to_a_base_that_caps_its_logits_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, output) = (fixture("gemma2"), folder.path().join("never"));
    let rows = format!("{model}/rows.jsonl");
    let flags = ["train", "--device", "cpu", "--kl-weight", "0.1", "--model", &model, "--data", &rows, "--output"];
    refused(
        &[&flags[..], &[&output.display().to_string()]].concat(),
        "kl-weight: the head of this model caps its logits",
    );
    assert!(!output.exists());
}

#[test]
fn large_numbers_that_mean_something_are_taken() {
    let runs = Runs::new();
    for (name, more) in [
        ("batch", ["--batch-size", "4294967295", "--steps", "1"]),
        ("accum", ["--grad-accum", "4294967295", "--steps", "1"]),
        ("group", ["--group-size", "4294967295", "--steps", "1"]),
        ("parts", ["--group-size", "n/4294967295", "--steps", "1"]),
        ("save", ["--save-every", "4294967295", "--steps", "1"]),
        ("seed", ["--seed", "18446744073709551615", "--steps", "1"]),
        ("rank", ["--rank", "64", "--steps", "1"]),
        ("warmup", ["--warmup-steps", "4294967295", "--steps", "1"]),
    ] {
        let output = runs.folder.path().join(name).display().to_string();
        run(runs.train(&output, &more)).ok();
    }
}

#[test]
fn a_learning_rate_that_breaks_the_adapter_is_said() {
    let runs = Runs::new();
    let output = runs.folder.path().join("out").display().to_string();
    let flags = ["--lr", "1e38", "--steps", "30", "--schedule", "constant"];
    let done = run(runs.train(&output, &flags));
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.error().contains("lower --lr"), "{}", done.error());
}

#[test]
fn other_verbs_refuse_numbers_beyond_reason() {
    let runs = Runs::new();
    let (model, rows) = (runs.model.as_str(), runs.rows.as_str());
    let vectors = runs.folder.path().join("v.npy").display().to_string();
    let estimate = ["estimate", "--model", model];
    let bench = ["bench", "--device", "cpu", "--model", model, "--task"];
    let eval = ["eval", "--device", "cpu", "--model", model, "--data", rows];
    let with = |flags: &[&'static str], base: &[&str]| -> Done { run(base.iter().chain(flags).collect::<Vec<_>>()) };
    for (base, flags, expected) in [
        (&estimate[..], &["--rank", "100000"][..], "rank is 100000"),
        (&estimate, &["--batch-size", "4294967295"], "tokens in a micro-batch"),
        (&bench, &["train", "--batch-size", "4294967295"], "tokens in a step"),
        (&bench, &["embed", "--batch-size", "4294967295"], "tokens in a step"),
        (&bench, &["train", "--length", "4294967295"], "tokens in a step"),
        (&bench, &["generate", "--length", "4294967295"], "tokens in a step"),
        (&bench, &["kernels", "--length", "4294967295"], "tokens in a step"),
        (&bench, &["train", "--lengths", "16,4294967295"], "tokens in a step"),
        (&bench, &["train", "--rank", "4294967295"], "rank is 4294967295"),
        (&eval, &["--max-length", "4294967295"], "max-length is 4294967295"),
    ] {
        let done = with(flags, base);
        assert!(matches!(done.code, Some(1 | 2)), "{flags:?}: {done:?}");
        assert!(done.error().contains(expected), "{flags:?}: {}", done.error());
    }
    with(&["--group-size", "4294967295"], &eval).ok();
    let mut embed = vec!["embed", "--device", "cpu", "--model", model, "--input", rows];
    embed.extend(["--output", &vectors, "--batch-size", "4294967295"]);
    run(embed).ok();
    let inspect = ["inspect", "--device", "cpu", "--model", model, "--data", rows];
    with(&["--rows", "4294967295"], &inspect).ok();
    refused(&[&inspect[..], &["--first-row", "4294967295"]].concat(), "has 8 rows");
}
