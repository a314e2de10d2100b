//! Chats from outside: what the template is told, what is trained of them, and where a tuned model
//! stops.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, fixture, run, write};
use serde_json::{Value, json};

/// The tiny Qwen2 of the fixtures with files of its own in place of some, by name.
fn model_with(folder: &Path, files: &[(&str, String)]) -> String {
    let (from, to) = (PathBuf::from(fixture("qwen2")), folder.join("model"));
    std::fs::create_dir(&to).expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
    for (name, text) in files {
        std::fs::write(to.join(name), text).expect("a file");
    }
    to.display().to_string()
}

/// A JSON file of that model with some keys set.
fn changed(name: &str, changes: Value) -> (&str, String) {
    let path = PathBuf::from(fixture("qwen2")).join(name);
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        file[key] = value.clone();
    }
    (name, file.to_string())
}

const ROW: &str =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"ab?\"}, {\"role\": \"assistant\", \"content\": \"c\"}]}\n";

fn train(model: &str, data: &Path, output: &Path, more: &[&str]) -> Done {
    let (data, output) = (data.display().to_string(), output.display().to_string());
    let flags = ["train", "--device", "cpu", "--model", model, "--data", &data, "--output", &output, "--loss", "sft"];
    run(flags.iter().chain(more))
}

/// Token texts of each sample with their masks, as `bft inspect` prints them.
fn inspected(model: &str, data: &Path, more: &[&str]) -> Vec<Vec<(String, bool)>> {
    let data = data.display().to_string();
    let done = run(["inspect", "--device", "cpu", "--model", model, "--data", &data, "--json"].iter().chain(more));
    let token = |t: &Value| (t["text"].as_str().expect("text").to_owned(), t["trained"].as_bool().expect("a mask"));
    let sample = |line: &str| {
        let sample: Value = serde_json::from_str(line).expect("JSON");
        sample["tokens"].as_array().expect("tokens").iter().map(token).collect()
    };
    done.ok().stdout.lines().map(sample).collect()
}

fn trained_text(tokens: &[(String, bool)]) -> String {
    tokens.iter().filter(|(_, trained)| *trained).map(|(text, _)| text.as_str()).collect()
}

#[test]
fn a_tuned_model_stops_at_the_end_of_turn_it_was_trained_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A base model: it ends a text with <|pad|>, token 3, its template ends a turn with <|im_end|>,
    // which is token 2.
    let model = model_with(
        folder.path(),
        &[
            changed("config.json", json!({"eos_token_id": 3})),
            changed("tokenizer_config.json", json!({"eos_token": "<|pad|>"})),
        ],
    );
    let data = write(folder.path(), "rows.jsonl", ROW);
    let (output, again) = (folder.path().join("tuned"), folder.path().join("again"));
    let done = train(&model, &data, &output, &["--steps", "60", "--lr", "0.05", "--schedule", "constant"]);
    done.ok();
    assert!(done.stderr.contains("trained answers end with <|im_end|>"), "{done:?}");
    let ends = |folder: &Path| -> Value {
        let bytes = std::fs::read(folder.join("generation_config.json")).expect("generation settings");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!(ends(&output)["eos_token_id"], json!([3, 2]));
    let checkpoint = output.join("checkpoints/step-000060");
    assert_eq!(ends(&checkpoint)["eos_token_id"], json!([3, 2]));

    let adapter = output.display().to_string();
    let answer = |more: &[&str]| {
        let flags =
            ["generate", "--device", "cpu", "--model", &model, "--prompt", "ab?", "--max-new-tokens", "8", "--json"];
        run(flags.iter().chain(more)).json()
    };
    let tuned = answer(&["--adapter", &adapter]);
    assert_eq!((&tuned["text"], &tuned["finish_reason"]), (&json!("c"), &json!("stop")));
    let chat =
        run(["chat", "--device", "cpu", "--model", &model, "--adapter", &adapter, "--max-new-tokens", "8", "--json"]);
    chat.ok();
    // An adapter that is tuned on keeps what it ends with, though these rows end otherwise.
    let texts = write(folder.path(), "texts.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    train(&model, &texts, &again, &["--steps", "1", "--init-adapter", &adapter]).ok();
    assert_eq!(ends(&again)["eos_token_id"], json!([3, 2]));
}

#[test]
fn a_model_that_names_its_end_of_turn_writes_no_settings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = write(folder.path(), "rows.jsonl", ROW);
    let output = folder.path().join("tuned");
    let done = train(&fixture("qwen2"), &data, &output, &["--steps", "1"]);
    done.ok();
    assert!(!done.stderr.contains("end with"), "{done:?}");
    assert!(!output.join("generation_config.json").exists());
}

#[test]
fn template_variables_reach_every_verb_and_a_resumed_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let template = "{{ note }}{{ 'T' if thinking else 'F' }}{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
    let model = model_with(folder.path(), &[("chat_template.jinja", template.into())]);
    let data = write(folder.path(), "rows.jsonl", ROW);
    let text =
        |more: &[&str]| inspected(&model, &data, more)[0].iter().map(|(text, _)| text.as_str()).collect::<String>();
    assert!(text(&[]).starts_with("F<|im_start|>"), "{}", text(&[]));
    assert!(text(&["--template-vars", "thinking=true"]).starts_with("T<|im_start|>"));
    assert!(text(&["--template-vars", "thinking=1", "--template-vars", "note=a b"]).starts_with("a bT<|im_start|>"));
    assert!(text(&["--template-vars", "{\"thinking\": false, \"note\": \"=\"}"]).starts_with("=F<|im_start|>"));
    let config = write(folder.path(), "run.toml", "template-vars = { thinking = true, note = \"n\" }\n");
    assert!(text(&["--config", &config.display().to_string()]).starts_with("nT<|im_start|>"));

    let output = folder.path().join("tuned");
    train(&model, &data, &output, &["--steps", "1", "--template-vars", "thinking=true"]).ok();
    let settings = || -> Value {
        let bytes = std::fs::read(output.join("run.json")).expect("run.json");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")["settings"]["template-vars"].clone()
    };
    assert_eq!(settings(), json!({"thinking": true}));
    run(["train", "--output", &output.display().to_string(), "--resume", "--steps", "2"]).ok();
    assert_eq!(settings(), json!({"thinking": true}));

    for (flags, expected) in [
        (vec!["--template-vars", "thinking"], "NAME=VALUE"),
        (vec!["--template-vars", "messages=1"], "has from the conversation"),
        (vec!["--template-vars", "x=1", "--no-chat-template"], "--no-chat-template"),
    ] {
        let done = run(["generate", "--device", "cpu", "--model", &model, "--prompt", "a"].iter().chain(&flags));
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.error().contains(expected), "{done:?}");
    }
    // Rows that meet no template cannot be told anything.
    let texts = write(folder.path(), "texts.jsonl", "{\"text\": \"a\"}\n");
    let done = train(&model, &texts, &folder.path().join("t"), &["--steps", "1", "--template-vars", "x=1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.error().contains("go through no chat template"), "{done:?}");
}

#[test]
fn what_was_made_of_the_answers_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let forgetful = "{% for m in messages %}<|im_start|>{{ m.role }}:{% if loop.last and m.role == 'assistant' %}!{% endif %}\
                     {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}";
    let model = model_with(folder.path(), &[("chat_template.jinja", forgetful.into())]);
    let turns = "{\"id\": 1, \"source\": \"s\", \"tools\": [{}], \"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, \
                 {\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\"}]}\n";
    let data = write(folder.path(), "rows.jsonl", turns);
    let output = folder.path().join("tuned");
    let done = train(&model, &data, &output, &["--steps", "1"]);
    done.ok();
    assert!(done.stderr.contains("1 answers became samples of their own"), "{done:?}");
    assert!(done.stderr.contains("2 trained answers end without an end-of-turn token"), "{done:?}");
    assert_eq!(done.stderr.matches("ignored keys: id, source\n").count(), 1, "{done:?}");
    assert_eq!(done.stderr.matches("the chat template names no tools").count(), 1, "{done:?}");
    let run: Value = serde_json::from_slice(&std::fs::read(output.join("run.json")).expect("run.json")).expect("JSON");
    assert_eq!(
        (&run["data"]["ignored_keys"], &run["data"]["unread_keys"]),
        (&json!(["id", "source"]), &json!(["tools"]))
    );
    assert_eq!(
        (&run["data"]["rows"], &run["data"]["samples"], &run["data"]["alone"]),
        (&json!(1), &json!(2), &json!(1))
    );
    let trained: Vec<String> = inspected(&model, &data, &[]).iter().map(|sample| trained_text(sample)).collect();
    assert_eq!(trained, ["!d", "!b"]);
}

#[test]
fn a_run_goes_on_only_with_the_model_it_began_with_whatever_its_weights_say() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model_with(folder.path(), &[]);
    let data = write(folder.path(), "rows.jsonl", ROW);
    let output = folder.path().join("tuned");
    train(&model, &data, &output, &["--steps", "1", "--template-vars", "x=1"]).ok();
    let resume = |steps: &str, more: &[&str]| {
        let shown = output.display().to_string();
        run(["train", "--output", &shown, "--resume", "--steps", steps].iter().chain(more))
    };
    let done = resume("2", &["--template-vars", "{}"]);
    assert!(done.error().contains("template-vars is not given, was {\"x\":1}"), "{done:?}");
    let config = Path::new(&model).join("config.json");
    let whole = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, whole.replace("1e-06", "1e-05")).expect("a file");
    let done = resume("2", &[]);
    assert!(done.error().contains("the configuration, tokenizer or chat template of model is another"), "{done:?}");
    std::fs::write(&config, whole).expect("a file");
    resume("2", &[]).ok();
}

#[test]
fn what_has_no_effect_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings =
        json!({"eos_token_id": 2, "repetition_penalty": 1.1, "do_sample": true, "num_beams": 1, "top_k": 50});
    let model = model_with(folder.path(), &[("generation_config.json", settings.to_string())]);
    let generate = |model: &str, more: &[&str]| {
        let flags = ["generate", "--device", "cpu", "--model", model, "--prompt", "ab?", "--max-new-tokens", "1"];
        run(flags.iter().chain(more))
    };
    let done = generate(&model, &["--top-p", "0.9", "--seed", "3", "--precision", "f16"]);
    let said = &done.ok().stderr;
    assert!(said.contains("asks for repetition_penalty 1.1, do_sample true, which is not followed"), "{said}");
    assert!(said.contains("--top-p, --seed: of no effect at --temperature 0"), "{said}");
    assert!(said.contains("--precision and --measure-kernels are for GPUs"), "{said}");
    let done = generate(&fixture("qwen2"), &["--top-p", "0.9", "--temperature", "1"]);
    assert!(!done.ok().stderr.contains("of no effect") && !done.stderr.contains("generation_config"), "{done:?}");
    // A folder that holds an adapter, too, is the base alone.
    std::fs::write(Path::new(&model).join("adapter_config.json"), "{}").expect("a file");
    assert!(generate(&model, &[]).ok().stderr.contains("also holds an adapter"));
}

#[test]
fn vectors_are_not_written_over_what_they_are_made_of() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = write(folder.path(), "texts.jsonl", "{\"text\": \"a\"}\n").display().to_string();
    let model = fixture("qwen2");
    let done = run(["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &input]);
    assert!(done.error().contains("is what --input names"), "{done:?}");
    assert_eq!(std::fs::read_to_string(&input).expect("the texts"), "{\"text\": \"a\"}\n");
}
