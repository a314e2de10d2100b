//! What `bft` says it will need, against what it came to hold: SmolLM2 at what `cargo xtask bench`
//! measures, on the CPU.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use bft_formats::{DType, ModelConfig, Random};
use common::{bft, run, write};
use serde_json::{Value, json};

/// Runs the one step that a server runs before it answers, and checks its peak against the
/// estimate, but for bytes of weights that the step does not read.
fn bench(flags: &str, unread: u64) -> Value {
    let model = bft_tests::smollm2().display().to_string();
    let base = ["bench", "--device", "cpu", "--model", &model, "--serve"];
    let flags = base.into_iter().chain(flags.split_whitespace());
    let answer = run(flags.collect::<Vec<_>>()).json();
    close(&answer["estimated_bytes"], &answer["peak_rss_bytes"], unread);
    answer
}

/// Within a tenth of what was held.
#[track_caller]
fn close(estimated: &Value, held: &Value, unread: u64) {
    let bytes = |value: &Value| value.as_f64().expect("bytes");
    let ratio = (bytes(estimated) - unread as f64) / bytes(held);
    assert!((0.9..=1.1).contains(&ratio), "{estimated} bytes estimated, {held} held: {ratio:.3}");
}

#[test]
fn a_step_holds_what_was_estimated() {
    let whole = bench("--task train", 0);
    let model = bft_tests::smollm2().display().to_string();
    let line = "estimate --batch-size 4 --max-length 256 --json --model";
    let flags = line.split_whitespace().chain([model.as_str()]);
    let estimate = run(flags.collect::<Vec<_>>()).json();
    close(&estimate["total_bytes"], &whole["peak_rss_bytes"], 0);
    assert!(whole["peak_rss_bytes"].as_u64() <= Some(1_000_000_000), "4 × 256 tokens train within 1.0 GB: {whole}");
    bench("--task train --trained-share 0.25", 0);
    bench("--task train --lengths 512,290,100,16 --trained-share 0.34", 0);
    bench("--task train --lengths 256,128,64,32", 0);
    bench("--task train --checkpoint-activations on --lengths 128,128", 0);
    // One after the other, for all use every core.
    // Of the table of tokens, an embedding reads some rows, whose pages alone are in memory.
    bench("--task embed --batch-size 16 --length 128", tensor_bytes(&model, |name| name.contains("embed_tokens")));
    bench("--task generate --length 64", 0);
}

/// Bytes of the tensors of such names in the model's file.
fn tensor_bytes(model: &str, names: impl Fn(&str) -> bool) -> u64 {
    let shown = run(["inspect", "--json", "--model", model]).json();
    let tensors = shown["tensors"].as_array().expect("tensors").iter();
    let named = tensors.filter(|tensor| tensor["name"].as_str().is_some_and(&names));
    named.filter_map(|tensor| tensor["bytes"].as_u64()).sum()
}

/// The folder of a Llama of 40 million random weights in BF16, 81 MB, without a tokenizer.
fn random_model(folder: &Path) {
    let config = json!({
        "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 8192,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true,
        "hidden_act": "silu",
    });
    write(folder, "config.json", &config.to_string());
    let shapes = ModelConfig::from_json("config.json", config.to_string().as_bytes()).expect("a model").tensor_shapes();
    let mut header = serde_json::Map::new();
    let mut end = 0usize;
    for (name, shape) in &shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("room");
    file.write_all(header.as_bytes()).expect("room");
    let mut random = Random::new(3);
    for (_, shape) in &shapes {
        let bytes = DType::BF16.random(shape.iter().product(), &mut || random.bits());
        file.write_all(&bytes).expect("room");
    }
}

/// What a step that generates held beside all that is not weights.
fn weights_held(model: &str, more: &[&str]) -> f64 {
    let flags = ["bench", "--device", "cpu", "--task", "generate", "--length", "8", "--serve", "--model", model];
    let answer = run(flags.iter().chain(more)).json();
    let flags = ["inspect", "--json", "--model", model];
    let weights = &run(flags.iter().chain(more)).json()["bytes"];
    let bytes = |value: &Value| value.as_f64().expect("bytes");
    bytes(&answer["peak_rss_bytes"]) - bytes(&answer["estimated_bytes"]) + bytes(weights)
}

#[test]
fn weights_that_are_quantised_as_they_load_cost_their_size_and_a_tensor() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    random_model(folder.path());
    let model = folder.path().display().to_string();
    let flags = ["inspect", "--json", "--model", &model, "--quantize", "q4_k"];
    let weights = run(flags).json()["bytes"].as_f64().expect("bytes");
    let (largest, held) = ((8192 * 1024 * 2) as f64, weights_held(&model, &["--quantize", "q4_k"]));
    assert!(weights < 27e6 && held < weights + largest, "{weights} bytes of weights, {held} held");
}

/// Resident bytes of a file's map in a process.
fn mapped(process: u32, file: &Path) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).expect("the maps of a child");
    let name = file.display().to_string();
    let (mut here, mut kibibytes) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if here => kibibytes += words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            Some(word) if !word.ends_with(':') => here = line.ends_with(&name),
            _ => {}
        }
    }
    kibibytes * 1024
}

/// The file's pages, but for those of q and k, which are put in order in memory of their own.
#[test]
fn a_quantised_base_costs_little_more_than_its_file() {
    let model = bft_tests::smollm2();
    let file = std::fs::metadata(&model).expect("a file").len();
    let shown = model.display().to_string();
    let flags = ["bench", "--device", "cpu", "--task", "generate", "--length", "8", "--serve", "--model", &shown];
    let mut child = bft(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("bft");
    let mut ready = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ready).expect("a line");
    let mapped = mapped(child.id(), &model);
    drop(child.stdin.take());
    assert!(child.wait().expect("the child ends").success());
    let copied = tensor_bytes(&shown, |name| name.contains("q_proj") || name.contains("k_proj"));
    assert!(copied > 8_000_000 && mapped > file / 2, "{copied} bytes copied, {mapped} mapped");
    assert!((mapped + copied) * 20 <= file * 21, "{copied} bytes copied and {mapped} mapped of {file}");
}
