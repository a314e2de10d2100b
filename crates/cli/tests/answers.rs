//! What each verb answers, in JSON and in words, against what PyTorch + PEFT found for the small
//! models.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use common::{Done, bft, fixture, line, run, write};
use serde_json::{Value, json};

fn expected(model: &str) -> Value {
    let text = std::fs::read_to_string(Path::new(&fixture(model)).join("expected.json")).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn near(found: &Value, expected: f64, tolerance: f64) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{found} is no number"));
    assert!((found - expected).abs() <= tolerance * expected.abs(), "found {found}, expected {expected}");
}

fn model_flags(verb: &str, model: &str) -> Vec<String> {
    let folder = fixture(model);
    [verb, "--device", "cpu", "--model", &folder, "--adapter", &format!("{folder}/adapter")].map(str::to_owned).to_vec()
}

fn with(mut flags: Vec<String>, more: &[&str]) -> Done {
    flags.extend(more.iter().map(|&flag| flag.to_owned()));
    run(flags)
}

#[test]
fn eval_gives_the_losses_of_the_whole_file_as_one_batch() {
    let known = expected("llama");
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    let answer = with(model_flags("eval", "llama"), &["--data", &rows, "--group-size", "4", "--json"]).json();
    near(&answer["nll"], known["nll"].as_f64().expect("a number"), 1e-5);
    near(&answer["perplexity"], known["nll"].as_f64().expect("a number").exp(), 1e-5);
    assert_eq!((&answer["tokens"], &answer["samples"]), (&json!(86), &json!(8)));
    for loss in ["sft", "dft", "bft", "bft-v3"] {
        let of_size = |it: &&Value| it["loss"] == loss && it["group_size"] == 4 && it["gamma"] == 1.0;
        let list = known["losses"].as_array().expect("a list");
        let value = list.iter().find(of_size).expect("the loss is there")["value"].as_f64();
        near(&answer["loss"][loss], value.expect("a number"), 1e-5);
    }
    let more = ["--data", &rows, "--group-size", "4", "--weight-floor", "0.1", "--gce-q", "0.05", "--json"];
    let answer = with(model_flags("eval", "llama"), &more).json();
    let known = expected("losses");
    for (loss, case) in [("dft", "dft-floor"), ("bft", "bft-floor"), ("gce", "gce-low")] {
        let value = known["losses"].as_array().expect("a list").iter().find(|it| it["name"] == case);
        near(&answer["loss"][loss], value.expect("the case is there")["value"].as_f64().expect("a number"), 1e-5);
    }
    let done = with(model_flags("eval", "llama"), &["--data", &rows, "--group-size", "4"]);
    assert!(done.ok().stdout.contains("perplexity   6.95"), "{done:?}");
    assert!(done.stderr.contains("device: cpu"), "every run says its device: {done:?}");
}

#[test]
fn generate_prints_the_new_text_alone_and_says_why_it_ended() {
    let flags = |more: &[&str]| with(model_flags("generate", "qwen2"), more);
    let answer = flags(&["--prompt", "The gene", "--no-chat-template", "--max-new-tokens", "6", "--json"]).json();
    assert_eq!(answer["tokens"], 6);
    assert_eq!(answer["finish_reason"], "length");
    let text = answer["text"].as_str().expect("text");
    assert!(!text.starts_with("The gene"));
    // Streamed, the same text comes on standard output and nothing else does.
    let done = flags(&["--prompt", "The gene", "--no-chat-template", "--max-new-tokens", "6"]);
    assert_eq!(done.ok().stdout, format!("{text}\n"));
    assert!(done.stderr.contains("6 tokens"), "{done:?}");
    // In the chat template the prompt is another one.
    let chat = flags(&["--prompt", "The gene", "--max-new-tokens", "6", "--json"]).json();
    assert_ne!(chat["text"], answer["text"]);
}

#[test]
fn sampling_follows_its_seed() {
    let draw = |seed: &str| {
        let more = ["--prompt", "The gene", "--temperature", "1.5", "--seed", seed, "--max-new-tokens", "12", "--json"];
        with(model_flags("generate", "qwen2"), &more).json()["text"].clone()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn generation_stops_at_the_end_of_the_context() {
    let done = with(
        model_flags("generate", "qwen2"),
        &["--prompt", "The", "--no-chat-template", "--max-new-tokens", "100000", "--json"],
    );
    let answer = done.json();
    let tokens = answer["tokens"].as_u64().expect("a number");
    assert!(tokens < 1000, "{answer}");
    let long = "a b ".repeat(500);
    let done = with(model_flags("generate", "qwen2"), &["--prompt", &long, "--no-chat-template"]);
    assert_eq!(done.code, Some(1));
    assert!(done.error().contains("the model's context"), "{done:?}");
}

#[test]
fn a_prompt_comes_from_standard_input_too() {
    let mut flags = model_flags("generate", "qwen2");
    flags.extend(["--prompt", "-", "--no-chat-template", "--max-new-tokens", "6", "--json"].map(str::to_owned));
    let mut child =
        bft(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts");
    child.stdin.take().expect("a pipe").write_all(b"The gene\n").expect("written");
    let piped = common::finish(child).json();
    let given = with(
        model_flags("generate", "qwen2"),
        &["--prompt", "The gene", "--no-chat-template", "--max-new-tokens", "6", "--json"],
    );
    assert_eq!(piped, given.json());
}

#[test]
fn chat_answers_each_line_and_remembers() {
    let talk = |input: &str| -> Vec<Value> {
        let mut flags = model_flags("chat", "qwen2");
        flags.extend(["--max-new-tokens", "5", "--json"].map(str::to_owned));
        let mut child =
            bft(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bft starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
        let done = common::finish(child);
        let lines = done.ok().stdout.lines();
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let two = talk("one\ntwo\n");
    assert_eq!(two.len(), 2);
    let fresh = talk("one\n/reset\ntwo\n/quit\nthree\n");
    assert_eq!(fresh.len(), 2);
    assert_eq!(two[0], fresh[0]);
    assert_eq!(talk("two\n")[0], fresh[1]);
    assert_ne!(two[1], fresh[1], "the second answer depends on the first turn");
}

#[test]
fn embeddings_are_pytorch_s_in_every_format() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    let bytes = std::fs::read(format!("{}/expected.safetensors", fixture("llama"))).expect("a file");
    let known = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    for pooling in ["mean", "last"] {
        let known = floats(known.tensor(&format!("embedding.{pooling}")).expect("a tensor").data());
        for ending in ["jsonl", "npy", "safetensors"] {
            let out = folder.path().join(format!("{pooling}.{ending}"));
            let shown = out.display().to_string();
            let more = ["--input", &rows, "--output", &shown, "--pooling", pooling, "--json"];
            let answer = with(model_flags("embed", "llama"), &more).json();
            assert_eq!((&answer["rows"], &answer["width"], &answer["tokens"]), (&json!(8), &json!(64), &json!(144)));
            let bytes = std::fs::read(&out).expect("a file");
            let found: Vec<f32> = match ending {
                "npy" => floats(&bytes[128..]),
                "safetensors" => {
                    let file = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
                    floats(file.tensor("embeddings").expect("a tensor").data())
                }
                _ => String::from_utf8(bytes)
                    .expect("text")
                    .lines()
                    .flat_map(|line| {
                        let row: Value = serde_json::from_str(line).expect("JSON");
                        serde_json::from_value::<Vec<f32>>(row["embedding"].clone()).expect("numbers")
                    })
                    .collect(),
            };
            assert_eq!(found.len(), known.len(), "{pooling} {ending}");
            for (found, known) in found.iter().zip(&known) {
                assert!((found - known).abs() < 1e-4, "{pooling} {ending}: {found} is not {known}");
            }
        }
    }
}

#[test]
fn normalised_embeddings_have_length_1_and_keep_ids() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = write(
        folder.path(),
        "in.jsonl",
        "{\"id\": \"TP53\", \"input_ids\": [5, 6, 7]}\n{\"id\": 2, \"input_ids\": [9]}\n",
    );
    let out = folder.path().join("out.jsonl");
    let more = ["--input", &input.display().to_string(), "--output", &out.display().to_string(), "--normalize"];
    with(model_flags("embed", "llama"), &more).ok();
    let text = std::fs::read_to_string(out).expect("a file");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&json!("TP53"), &json!(2)));
    let vector: Vec<f64> = serde_json::from_value(rows[0]["embedding"].clone()).expect("numbers");
    let length: f64 = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
}

#[test]
fn inspect_tells_what_is_in_a_model_and_an_adapter() {
    let folder = fixture("llama");
    let model = run(["inspect", "--model", &folder, "--json"]).json();
    assert_eq!((&model["kind"], &model["architecture"]), (&json!("model"), &json!("llama")));
    assert_eq!(model["hidden_size"], 64);
    let parameters: u64 = model["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|tensor| {
            let shape = tensor["shape"].as_array().expect("a shape");
            shape.iter().map(|size| size.as_u64().expect("a size")).product::<u64>()
        })
        .sum();
    assert_eq!(model["parameters"], parameters);
    let done = run(["inspect", "--model", &folder]);
    assert!(done.ok().stdout.contains("model.layers.*.mlp.up_proj.weight"), "{done:?}");
    let all = run(["inspect", "--model", &folder, "--all-tensors"]);
    assert!(all.ok().stdout.contains("model.layers.1.mlp.up_proj.weight"), "{all:?}");

    let adapter = format!("{folder}/adapter");
    let alone = run(["inspect", "--adapter", &adapter, "--json"]).json();
    assert_eq!((&alone["kind"], &alone["config"]["r"], &alone["fits"]), (&json!("adapter"), &json!(4), &Value::Null));
    assert_eq!(alone["parameters"], 7424);
    let checked = run(["inspect", "--adapter", &adapter, "--model", &folder, "--json"]).json();
    assert_eq!(checked["fits"], "llama");
}

#[test]
fn inspect_shows_each_token_with_its_mask_and_weights() {
    let known = expected("llama");
    let rows = format!("{}/rows.jsonl", fixture("llama"));
    let more = ["--data", &rows, "--rows", "2", "--first-row", "3", "--group-size", "4", "--json"];
    let done = with(model_flags("inspect", "llama"), &more);
    let shown: Vec<Value> = done.ok().stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown.len(), 2);
    let row = &shown[0];
    assert!(row["origin"].as_str().expect("text").ends_with("rows.jsonl:3"), "{row}");
    let tokens = row["tokens"].as_array().expect("a list");
    let trained: Vec<bool> = tokens.iter().map(|token| token["trained"] == true).collect();
    assert_eq!(trained, [false, false, false, true, true, true, true]);
    near(&row["sample_weight"]["bft"], known["sample_weights"]["bft"][2].as_f64().expect("a number"), 1e-4);
    near(&row["sample_weight"]["bft-v3"], known["sample_weights"]["bft-v3"][2].as_f64().expect("a number"), 1e-4);
    let nll: f64 = known["rows"][2]["nll_sum"].as_f64().expect("a number") / 4.0;
    near(&row["nll"], nll, 1e-4);
    // Not on a terminal: a table, without escape codes.
    let done = with(model_flags("inspect", "llama"), &["--data", &rows, "--rows", "1"]);
    assert!(done.ok().stdout.contains("bft-v3") && !done.stdout.contains('\u{1b}'), "{done:?}");
}

#[test]
fn estimate_devices_and_bench_answer_in_json() {
    let model = fixture("llama");
    let small = run(["estimate", "--model", &model, "--batch-size", "1", "--max-length", "16", "--json"]).json();
    let large = run(["estimate", "--model", &model, "--batch-size", "8", "--max-length", "64", "--json"]).json();
    assert!(small["total_bytes"].as_u64() < large["total_bytes"].as_u64());
    assert!(large["total_bytes_checkpoint_on"].as_u64() < large["total_bytes_checkpoint_off"].as_u64());
    assert!(run(["estimate", "--model", &model]).ok().stdout.contains("in all"));

    let devices = line("devices --device cpu --json").json();
    assert!(devices["adapters"].is_array());
    assert_eq!(devices["takes"]["kind"], "cpu");
    assert!(devices["cpu"]["instructions"].is_string());

    for task in ["train", "embed", "generate"] {
        let flags =
            ["bench", "--device", "cpu", "--model", &model, "--task", task, "--length", "16", "--steps", "2", "--json"];
        let answer = run(flags).json();
        assert!(answer["tokens_per_second"].as_f64() > Some(0.0), "{answer}");
        assert!(answer["gflops"].as_f64() > Some(0.0), "{answer}");
        assert_eq!(answer["readbacks"], 0, "{answer}");
    }
}

#[test]
fn bench_serves_one_step_a_line() {
    let model = fixture("llama");
    let mut child = bft([
        "bench",
        "--device",
        "cpu",
        "--serve",
        "--model",
        &model,
        "--lengths",
        "16,8",
        "--trained-share",
        "0.5",
        "--loss",
        "sft",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("bft starts");
    child.stdin.take().expect("a pipe").write_all(b"step\nstep\n").expect("written");
    let done = common::finish(child);
    let lines: Vec<Value> = done.ok().stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3, "{done:?}");
    assert_eq!(lines[0]["ready"], true);
    assert_eq!((&lines[1]["tokens"], &lines[1]["trained_tokens"]), (&json!(24), &json!(12)));
    assert!(lines[2]["loss"].as_f64() < lines[1]["loss"].as_f64(), "it learns: {done:?}");
}

#[test]
fn bench_weighs_a_steps_products_by_their_calls() {
    let model = fixture("llama");
    let flags = [
        "bench",
        "--device",
        "cpu",
        "--task",
        "products",
        "--model",
        &model,
        "--length",
        "8",
        "--weights",
        "f32",
        "--steps",
        "1",
        "--json",
    ];
    let answer = run(flags).json();
    let products = answer["products"].as_array().expect("products").clone();
    let config: Value =
        serde_json::from_slice(&std::fs::read(format!("{model}/config.json")).expect("a configuration")).expect("JSON");
    let layers = config["num_hidden_layers"].as_u64().expect("layers");
    let calls: u64 = products.iter().filter_map(|product| product["calls"].as_u64()).sum();
    assert_eq!(calls, 2 * (7 * layers + 1), "forward and back: {answer}");
    let seconds: f64 =
        products.iter().filter_map(|product| Some(product["seconds"].as_f64()? * product["calls"].as_f64()?)).sum();
    near(&answer["seconds"], seconds, 1e-9);
    assert!(products.iter().all(|product| product["dtype"] == "F32"), "{answer}");
}

#[test]
fn bench_times_frozen_products_and_those_of_an_adapter() {
    let bench = |rank: &str| {
        let model = fixture("llama");
        let flags = ["bench", "--device", "cpu", "--task", "kernels", "--model", &model, "--rank", rank];
        with(flags.map(str::to_owned).to_vec(), &["--batch-size", "1", "--length", "8", "--steps", "1", "--json"])
    };
    let answer = bench("3").json();
    let kernels = answer["kernels"].as_array().expect("kernels");
    let count =
        |kernel: &str, dtype: &str| kernels.iter().filter(|it| it["kernel"] == kernel && it["dtype"] == dtype).count();
    // Three layers, and the two factors of an adapter on each.
    assert_eq!((count("product", "F32"), count("input gradient", "BF16")), (3, 3), "{answer}");
    assert_eq!((count("product", "LoRA"), count("weight gradient", "LoRA")), (6, 6), "{answer}");
    assert!(kernels.iter().all(|it| it["gflops"].as_f64() > Some(0.0) && it["tokens"] == 8), "{answer}");
    assert!(bench("4294967295").error().contains("--rank 4294967295"), "no product of that size is tried");
}

#[test]
fn eval_agrees_on_every_architecture() {
    for model in ["llama3_rope", "linear_rope", "mistral", "qwen2", "qwen3"] {
        let rows = format!("{}/rows.jsonl", fixture(model));
        let answer = with(model_flags("eval", model), &["--data", &rows, "--json"]).json();
        near(&answer["nll"], expected(model)["nll"].as_f64().expect("a number"), 1e-4);
    }
}

#[test]
fn eval_measures_the_model_s_own_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let long = ["--max-new-tokens", "9"];
    let written = |prompt: &str| -> String {
        let flags = ["--prompt", prompt, "--no-chat-template", "--json", long[0], long[1]];
        with(model_flags("generate", "qwen2"), &flags).json()["text"].as_str().expect("text").to_owned()
    };
    let row = |prompt: &str, completion: &str| json!({ "prompt": prompt, "completion": completion }).to_string() + "\n";
    // The model's own answer in other case and spacing, and one that shares no word with it.
    let same = format!("  {} ", written("The gene").to_uppercase());
    let rows = row("The gene", &same) + &row("DNA of", "qqq zzz");
    let rows = write(folder.path(), "rows.jsonl", &rows).display().to_string();
    let eval = |rows: &str, more: &[&str]| with(model_flags("eval", "qwen2"), &[&["--data", rows], more].concat());
    let flags = ["--metric", "rouge,exact", "--metric", "f1", "--redraws", "200", long[0], long[1]];
    let found = eval(&rows, &[&flags[..], &["--json"]].concat()).json();
    for metric in ["exact", "f1"] {
        assert_eq!(found["answers"][metric]["value"], 0.5, "{found}");
        assert_eq!(found["answers"][metric]["range"], json!([0.0, 1.0]), "{found}");
    }
    assert!(found["answers"]["rouge_l"]["value"].as_f64() <= Some(0.5), "{found}");
    assert_eq!(found["answers"]["rows"], 2);
    // The losses are those without it.
    let alone = eval(&rows, &["--json"]).json();
    assert_eq!((&alone["nll"], &alone["answers"]), (&found["nll"], &Value::Null));
    let done = eval(&rows, &[&flags[..2], &flags[4..]].concat());
    assert!(done.ok().stdout.contains("exact match  0.5000 [0.0000, 1.0000]"), "{done:?}");
    assert!(done.stdout.contains("ROUGE-L") && !done.stdout.contains("token F1"), "{done:?}");
    // The last answer of a chat is the one that is compared; texts have none.
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    let chat = write(folder.path(), "chat.jsonl", &(chat.replace('\n', "") + "\n")).display().to_string();
    assert_eq!(eval(&chat, &["--metric", "exact", "--max-new-tokens", "3", "--json"]).json()["answers"]["rows"], 1);
    let text = write(folder.path(), "text.jsonl", "{\"text\": \"a b\"}\n").display().to_string();
    let done = eval(&text, &["--metric", "exact"]);
    assert!(done.error().contains("text.jsonl has text rows, in which no answer stands apart"), "{done:?}");
    let tool = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}"#;
    let tool = write(folder.path(), "tool.jsonl", &format!("{tool}\n")).display().to_string();
    let done = eval(&tool, &["--metric", "exact"]);
    assert!(done.error().contains("tool.jsonl:1: messages[1] has no text to compare"), "{done:?}");
}
