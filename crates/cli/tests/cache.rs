//! What runs on a GPU keep for later ones: measured kernels and compiled shaders, by adapter and
//! driver.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::{Done, bft, fixture, tiny_training, write};
use serde_json::Value;

/// Whether this machine has no GPU, not even a software one, and says so.
fn no_gpu() -> bool {
    std::env::var_os("BFT_TEST_NO_GPU").is_some_and(|value| value == "1")
}

struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Cache(tempfile::tempdir().expect("a temporary folder"))
    }

    fn run(&self, arguments: &[String]) -> Done {
        let output = bft(arguments).env("BFT_CACHE", self.0.path()).output();
        Done::of(output.expect("bft starts"))
    }

    fn line(&self, arguments: &str) -> Done {
        let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        self.run(&words)
    }

    /// The file of that kind.
    fn file(&self, ending: &str) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.0.path().join("gpu")).ok()?;
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        paths.find(|path| path.display().to_string().ends_with(ending))
    }

    fn train(&self, name: &str, more: &[&str]) -> (Done, Vec<u8>) {
        let output = self.0.path().join(name);
        let mut flags = tiny_training(&output, 2);
        flags[2] = "gpu".to_owned();
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let done = self.run(&flags);
        done.ok();
        let bytes = std::fs::read(output.join("adapter_model.safetensors"));
        (done, bytes.expect("an adapter"))
    }

    fn choices(&self) -> Vec<Value> {
        let answer = self.line("devices --kernels --device gpu --json").json();
        answer["choices"].as_array().expect("a list").clone()
    }
}

/// Sets every choice in a file to the kernel that was not the fastest, so that whoever takes them
/// shows it.
fn turn(path: &Path) {
    let text = std::fs::read_to_string(path).expect("a file");
    let mut file: Value = serde_json::from_str(&text).expect("JSON");
    for choice in file["choices"].as_array_mut().expect("a list") {
        let kernels = choice["nanoseconds"].as_object().expect("times").clone();
        let other = kernels.keys().find(|kernel| choice["kernel"] != **kernel);
        choice["kernel"] = other.expect("two kernels").as_str().into();
    }
    std::fs::write(path, file.to_string()).expect("written");
}

#[test]
fn measured_kernels_are_kept_shown_and_taken_and_a_bad_file_is_made_anew() {
    if no_gpu() {
        return;
    }
    let cache = Cache::new();
    assert!(cache.choices().is_empty());
    let (_, first) = cache.train("first", &["--measure-kernels"]);
    let path = cache.file(".kernels.json").expect("choices are kept");
    let measured = cache.choices();
    assert!(measured.len() > 10, "{measured:?}");
    let shown = cache.line("devices --kernels --device gpu");
    shown.ok();
    assert!(shown.stdout.contains("linear_nt") && shown.stdout.contains("fastest"), "{shown:?}");

    // Nothing is measured a second time, and the same kernels give the same bytes.
    let kept = std::fs::read(&path).expect("a file");
    let (_, second) = cache.train("second", &["--measure-kernels"]);
    assert_eq!(std::fs::read(&path).expect("a file"), kept);
    assert_eq!(first, second);

    // Another kernel rounds in another way: what the file says is what is taken.
    turn(&path);
    let (_, turned) = cache.train("turned", &[]);
    assert_ne!(first, turned);

    // A kernel that is no longer there, a file of another version, half a file, no JSON: as if
    // nothing were known.
    let default = Cache::new().train("default", &[]).1;
    let text = String::from_utf8(kept.clone()).expect("text");
    let bad = [
        text.replace("\"kernel\": \"", "\"kernel\": \"of_last_year_"),
        text.replace("\"bft\": \"", "\"bft\": \"0.0.0-"),
        text[..text.len() / 2].to_owned(),
        "[1, 2".to_owned(),
    ];
    for (index, bad) in bad.iter().enumerate() {
        std::fs::write(&path, bad).expect("written");
        let (_, found) = cache.train(&format!("bad-{index}"), &[]);
        assert_eq!(found, default, "bad file {index}");
    }
    cache.train("again", &["--measure-kernels"]);
    assert_eq!(cache.choices().len(), measured.len());
}

#[test]
fn compiled_shaders_are_kept_and_a_damaged_file_is_made_anew() {
    if no_gpu() {
        return;
    }
    let cache = Cache::new();
    let (_, first) = cache.train("first", &[]);
    let Some(path) = cache.file(".pipelines") else {
        eprintln!("this backend keeps its compiled shaders to itself");
        return;
    };
    let kept = std::fs::read(&path).expect("a file");
    let mut flipped = kept.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    for (index, bad) in [flipped, kept[..kept.len() - 1].to_vec(), Vec::new()].iter().enumerate() {
        std::fs::write(&path, bad).expect("written");
        assert_eq!(cache.train(&format!("bad-{index}"), &[]).1, first);
        let now = std::fs::read(&path).expect("a file");
        assert_ne!(&now, bad, "bad file {index} is replaced");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    if no_gpu() {
        return;
    }
    let cache = Cache::new();
    let blocked = write(cache.0.path(), "gpu", "a file where the folder should be");
    cache.train("tuned", &["--measure-kernels"]);
    assert!(blocked.is_file());
    let model = fixture("llama");
    let eval = format!("eval --device gpu --model {model} --data {model}/rows.jsonl --json");
    cache.line(&eval).json();
}

/// Every verb that computes measures what it will call, where it is to, and nothing else does.
#[test]
fn verbs_measure_before_they_begin() {
    if no_gpu() {
        return;
    }
    // The fixture has no tokenizer; any will do.
    let texts = tempfile::tempdir().expect("a temporary folder");
    for file in ["llama/config.json", "llama/model.safetensors", "encoders/bge/tokenizer.json"] {
        let from = fixture(file);
        let name = Path::new(file).file_name().expect("a name");
        std::fs::copy(from, texts.path().join(name)).expect("copied");
    }
    let model = texts.path().display();
    let rows = fixture("llama/rows.jsonl");
    let input = write(texts.path(), "texts.txt", "ACGT\n");
    let output = texts.path().join("vectors.npy");
    let verbs = [
        format!("eval --model {model} --data {rows}"),
        format!("generate --model {model} --no-chat-template --prompt TP53,TP53,TP53,TP53 --max-new-tokens 1"),
        format!("embed --model {model} --input {} --output {}", input.display(), output.display()),
    ];
    for verb in verbs {
        let cache = Cache::new();
        cache.line(&format!("{verb} --device gpu")).ok();
        // Only a real card is measured unasked.
        let unasked = cache.choices().len();
        cache.line(&format!("{verb} --device gpu --measure-kernels")).ok();
        let asked = cache.choices();
        let of = |family: &str| {
            let family = serde_json::Value::from(family);
            asked.iter().any(|choice| choice["family"] == family)
        };
        assert!(of("linear_nt f32"), "{verb}: {asked:?}");
        assert!(unasked == 0 || unasked == asked.len(), "{verb}: {unasked}");
        // None of them has a backward pass.
        assert!(!of("linear_nn f32"), "{verb}: {asked:?}");
    }
}
