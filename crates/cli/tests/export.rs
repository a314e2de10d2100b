//! `bft export`: what it writes, what it says, and what it refuses.

mod common;

use std::path::Path;

use common::{fixture, run, tiny_training, write};
use serde_json::Value;

/// `bft export` with these arguments.
fn export(arguments: &[&str]) -> common::Done {
    run(["export", "--device", "cpu"].iter().chain(arguments))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn a_tuned_model_is_merged_over_the_base_that_its_adapter_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    run(tiny_training(&folder.path().join("tuned"), 2)).ok();
    let done = export(&["--adapter", &path("tuned"), "--merge", &path("merged")]);
    assert!(done.ok().stderr.contains("base, as the adapter records it: /"), "{done:?}");
    assert!(done.stderr.contains("has no tokenizer: what becomes of its logits is not measured"), "{done:?}");
    assert_eq!(done.stdout, format!("wrote {} (the whole model, in F32)\n", path("merged")));
    assert_eq!(names(&folder.path().join("merged")), ["config.json", "model.safetensors"]);
    assert_eq!(names(folder.path()), ["merged", "tuned"]);

    // The merged model measures what base and adapter measure.
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    let eval = |model: &str, more: &[&str]| {
        let flags = ["eval", "--device", "cpu", "--json", "--model", model, "--data", &rows];
        run(flags.iter().chain(more)).json()["nll"].as_f64().expect("a number")
    };
    let (merged, both) = (eval(&path("merged"), &[]), eval(&fixture("llama"), &["--adapter", &path("tuned")]));
    assert!((merged - both).abs() < 1e-6 && (both - eval(&fixture("llama"), &[])).abs() > 1e-3, "{merged}, {both}");

    let again = export(&["--adapter", &path("tuned"), "--merge", &path("merged")]);
    assert!(again.error().contains("--merge"), "{again:?}");
    assert!(again.error().contains("is there already and no empty folder; name a new one"), "{again:?}");
}

#[test]
fn what_a_narrower_format_changes_is_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = fixture("qwen2");
    let adapter = format!("{model}/adapter");
    let text = write(folder.path(), "text.txt", "the cell divides").display().to_string();
    let change = |dtype: &str, adapter: &str| {
        let to = folder.path().join(dtype).display().to_string();
        let flags =
            ["--model", &model, "--adapter", adapter, "--merge", &to, "--dtype", dtype, "--text", &text, "--json"];
        let answer = export(&flags).json();
        assert_eq!(answer["formats"], Value::from(vec![dtype.to_uppercase()]));
        ["largest", "mean"].map(|key| answer["logits"][key].as_f64().expect("a number"))
    };
    let (exact, narrow) = (change("f32", &adapter), change("bf16", &adapter));
    assert!(exact[0] < 1e-5 && exact[1] <= exact[0], "{exact:?}");
    assert!(narrow[0] > 1e-4 && narrow[1] < narrow[0], "{narrow:?}");
    let empty = write(folder.path(), "empty.txt", "").display().to_string();
    let to = folder.path().join("empty").display().to_string();
    let refused = export(&["--model", &model, "--adapter", &adapter, "--merge", &to, "--text", &empty]);
    assert!(refused.error().contains("--text: holds no token"), "{refused:?}");
}

#[test]
fn an_adapter_for_llama_cpp_is_one_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("tuned.gguf").display().to_string();
    for name in ["llama", "phi3"] {
        let model = fixture(name);
        let adapter = format!("{model}/adapter");
        let done = export(&["--model", &model, "--adapter", &adapter, "--gguf-adapter", &file]);
        assert_eq!(done.ok().stdout, format!("wrote {file} (an adapter for llama.cpp)\n"));
        assert!(std::fs::read(&file).expect("the file").starts_with(b"GGUF\x03"));
    }
    let dora = fixture("llama_dora");
    let refused = export(&["--model", &dora, "--adapter", &format!("{dora}/adapter"), "--gguf-adapter", &file]);
    assert!(refused.error().contains("DoRA (use_dora true) in a GGUF adapter is not supported"), "{refused:?}");
    let nowhere = export(&["--model", &dora, "--adapter", &dora, "--gguf-adapter", "no/such/folder/a.gguf"]);
    assert!(nowhere.error().contains("there is no folder no/such/folder"), "{nowhere:?}");
}

#[test]
fn flags_that_do_not_go_together_are_told() {
    let nothing = export(&["--adapter", "a"]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.error().contains("--merge <FOLDER>"), "{nothing:?}");
    let alone = export(&["--adapter", "a", "--gguf-adapter", "b.gguf", "--dtype", "f16"]);
    assert_eq!(alone.code, Some(2));
    let typo = export(&["--adapter", "a", "--merge", "m", "--dtype", "fp16"]);
    assert!(typo.error().contains("did you mean f16?"), "{typo:?}");
}

#[test]
fn a_gguf_file_is_written_from_a_gguf_file_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let model = fixture("llama");
    let adapter = format!("{model}/adapter");
    let refused = export(&["--model", &model, "--adapter", &adapter, "--gguf", &path("t.gguf"), "--type", "q8_0"]);
    assert!(refused.error().contains("a GGUF file of a base that is none is not supported"), "{refused:?}");
    let untyped = export(&["--model", &model, "--adapter", &adapter, "--gguf", &path("t.gguf")]);
    assert_eq!(untyped.code, Some(2));
    assert!(untyped.error().contains("--type <TYPE>"), "{untyped:?}");
}

#[test]
fn a_modelfile_names_the_files_that_lie_beside_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let model = fixture("llama");
    let adapter = format!("{model}/adapter");
    let flags =
        ["--model", &model, "--adapter", &adapter, "--gguf-adapter", &path("a.gguf"), "--modelfile", &path("M")];
    let done = export(&flags);
    assert!(
        done.ok().stderr.contains("the Modelfile leaves out TEMPLATE, for the model has no chat template"),
        "{done:?}"
    );
    let text = std::fs::read_to_string(path("M")).expect("the Modelfile");
    assert_eq!(text, format!("FROM {model}\nADAPTER ./a.gguf\n"));
    export(&["--model", &model, "--adapter", &adapter, "--merge", &path("m"), "--modelfile", &path("M")]).ok();
    assert_eq!(std::fs::read_to_string(path("M")).expect("the Modelfile"), "FROM ./m\n");
}
