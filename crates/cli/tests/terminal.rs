//! What files hold does not steer the terminal: names, paths, keys and template errors are shown
//! with their control characters written out.

mod common;

use common::{Done, bft, fixture, run};
use serde_json::Value;

/// Sets a terminal's title, clears its screen and turns the direction of what follows.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";
/// The same, written out.
const SHOWN: &str = "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}31m\\u{202e}";

fn steers(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}'
}

#[track_caller]
fn is_shown(done: &Done) {
    let text = format!("{}{}", done.stdout, done.stderr);
    assert!(text.contains(SHOWN), "{done:?}");
    assert!(!text.contains(steers), "{text:?}");
    assert!(!text.contains("panicked"), "{text}");
}

/// A copy of the tiny Qwen2.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(format!("{}/{name}", fixture("qwen2")), folder.path().join(name)).expect("a copy");
    }
    folder
}

/// Changes a JSON file of a model.
fn change(folder: &tempfile::TempDir, name: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join(name);
    let mut value = serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    change(&mut value);
    std::fs::write(path, value.to_string()).expect("written");
}

#[test]
fn paths_words_and_values() {
    is_shown(&run(["inspect", "--model", EVIL]));
    is_shown(&run([EVIL]));
    is_shown(&run(["train", &format!("--{EVIL}")]));
    is_shown(&run(["eval", "--model", &fixture("llama"), "--data", &format!("{EVIL}*.jsonl")]));
}

#[test]
fn names_of_tensors() {
    let folder = model();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).expect("a file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let data = &bytes[8 + length..];
    let at = [data.len(), data.len() + 4];
    header[EVIL] = serde_json::json!({ "dtype": "F32", "shape": [1], "data_offsets": at });
    let header = header.to_string();
    let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data, &[0; 4]].concat();
    std::fs::write(&path, whole).expect("written");
    is_shown(&run(["inspect", "--all-tensors", "--model", &folder.path().display().to_string()]));
}

#[test]
fn values_of_an_adapter_as_results() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(format!("{}/adapter", fixture("llama"))).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    change(&folder, "adapter_config.json", |config| config["base_model_name_or_path"] = EVIL.into());
    let done = run(["inspect", "--adapter", &folder.path().display().to_string()]);
    done.ok();
    is_shown(&done);
    let done = run(["inspect", "--json", "--adapter", &folder.path().display().to_string()]);
    assert_eq!(done.json()["config"]["base_model_name_or_path"], EVIL, "{done:?}");
    assert!(!done.stdout.trim_end().contains(steers), "JSON has its own escapes: {done:?}");
}

#[test]
fn keys_of_rows_and_errors_of_templates() {
    let folder = model();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rows = folder.path().join("rows.jsonl");
    let row = serde_json::json!({ "text": "a b c d", EVIL: 1 });
    std::fs::write(&rows, format!("{row}\n")).expect("written");
    let eval = |model: &str| {
        let flags = ["eval", "--device", "cpu", "--model", model, "--data", &rows.display().to_string()];
        Done::of(bft(flags).output().expect("bft starts"))
    };
    is_shown(&eval(&path("")));
    let row = serde_json::json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] });
    std::fs::write(&rows, format!("{row}\n")).expect("written");
    let raises = format!("{{{{ raise_exception('{EVIL}') }}}}");
    change(&folder, "tokenizer_config.json", |config| config["chat_template"] = raises.into());
    let done = eval(&path(""));
    assert_eq!(done.code, Some(1));
    is_shown(&done);
}
